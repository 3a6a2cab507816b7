"""What is checked and made ready before the first trial: the model's config, the data, their fingerprints."""

from dataclasses import dataclass, field

from rich.console import Console

from cmp.space.space import Space


@dataclass(frozen=True)
class Preparation:
    """What the trials will find ready.

    Args:
        facts: fingerprints of what the settings only name; they must not change between sessions.
    """

    facts: dict[str, str] = field(default_factory=dict)


def prepare(space: Space, console: Console) -> Preparation:
    """Check the space against its model and tokenize its data, once, for all trials."""
    return Preparation()
