"""What can be wrong with a user's data."""

from cmp.space.errors import UserError


class DataError(UserError):
    """Data that cannot be read, or that leaves nothing to train or validate on; `.setting` says what to change."""
