"""Rows of token ids by hand, for tests of windows, batches and scores."""

from collections.abc import Mapping, Sequence

import numpy as np

from cmp.train.data.row_windows import RowTokens

Parts = tuple[Sequence[int], Sequence[int], Sequence[int]]


def row_tokens(
    rows: Sequence[Parts],
    golds: Sequence[Sequence[str]] | None = None,
    groups: Sequence[int] | None = None,
    limits: Sequence[int] | None = None,
    choices: Mapping[str, Sequence[int]] | None = None,
) -> RowTokens:
    """Rows of (context, prompt, answer); each has a context of its own unless `groups` says otherwise."""
    parts = [part for row in rows for part in row]
    return RowTokens(
        tokens=np.array([token for part in parts for token in part], np.uint16),
        offsets=np.cumsum([0, *map(len, parts)]),
        groups=np.arange(len(rows)) if groups is None else np.array(groups),
        golds=[["gold"]] * len(rows) if golds is None else [list(some) for some in golds],
        max_new_tokens=np.zeros(len(rows), np.int64) if limits is None else np.array(limits),
        choices=choices or {},
    )
