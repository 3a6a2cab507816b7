"""Text to batches: read documents, tokenize them once, cut them into windows that match across trials.

`prepare_data` is called once by the search before any trial; `open_data` by every trial (and by `cmp evaluate`).
"""

from cmp.train.data.errors import DataError
from cmp.train.data.opening import DataSummary, TrialData, open_data, prepare_data
from cmp.train.data.order import window_indices
from cmp.train.data.row_windows import RowWindows
from cmp.train.data.windows import WindowSet

__all__ = [
    "DataError",
    "DataSummary",
    "RowWindows",
    "TrialData",
    "WindowSet",
    "open_data",
    "prepare_data",
    "window_indices",
]
