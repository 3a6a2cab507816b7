"""The rows of a data set, split into train, validation and test; all rows with one context are on one side.

Called by `opening`.
"""

from dataclasses import replace

import numpy as np

from cmp.train.data.cache import TokenCache
from cmp.train.data.errors import DataError
from cmp.train.data.row_windows import RowTokens, RowWindows
from cmp.train.data.windows import Cut, Dropped, Part, Parts, WindowSet


def rows_per_context(cache: TokenCache, cut: Cut) -> dict[str, np.ndarray]:
    """(contexts,) int64: the rows with each context that are of use, by the splits that the data set brought itself."""
    rows = {name: _row_tokens(cache, name) for name in cache.rows}
    return {name: _per_group(some.groups, some.useful(_prompt_limit(cut))) for name, some in rows.items()}


def row_sets(
    cache: TokenCache, parts: Parts, cut: Cut, longest_context: int, *, may_cut: bool
) -> tuple[dict[str, WindowSet], Dropped]:
    """Rows by split, in the order of `SPLITS`, and what is not read of them.

    Args:
        cache: the tokens.
        parts: of the contexts.
        cut: what the trial reads.
        longest_context: the largest `cmp_len` of its space, by which losses are counted.
        may_cut: contexts may be cut.

    Raises:
        DataError: none is left for a split, or a context is too long and must not be cut.
    """
    rows = {name: _row_tokens(cache, name) for name in cache.rows}
    chosen = {name: _rows_of_part(rows[source], part, cut) for name, (source, part) in parts.items()}
    sources = {name: rows[source] for name, (source, _) in parts.items()}
    sets: dict[str, WindowSet] = {name: RowWindows(sources[name], some, cut) for name, some in chosen.items()}
    _require_rows(sets, rows, cut)
    whole = replace(cut, context_len=longest_context)
    lost = [RowWindows(sources[name], some, whole).dropped() for name, some in chosen.items()]
    dropped = _all_dropped(list(rows.values()), lost, cut)
    if dropped.cut_contexts and not may_cut:
        longest = max(int(some.lengths[:, 0].max(initial=0)) for some in rows.values())
        limit = f"cmp_len {longest_context}" if cut.boundary else f"seq_len {cut.target_len}"
        raise DataError(
            "cut",
            f"error, and {dropped.cut_contexts:,} contexts are above {limit} (the longest has {longest:,} tokens); "
            "raise it, or cut their start or end",
        )
    return sets, dropped


def longest_prompt(cache: TokenCache, prompt_len: int) -> int:
    """Tokens of the longest prompt that is not left out; 0 where there are none."""
    lengths = [_row_tokens(cache, name).lengths[:, 1] for name in cache.rows]
    return max((int(some[some <= prompt_len].max(initial=0)) for some in lengths), default=0)


def _row_tokens(cache: TokenCache, name: str) -> RowTokens:
    column, facts = cache.columns[name], cache.rows[name]
    return RowTokens(column.tokens, column.offsets, facts.groups, facts.golds, facts.max_new_tokens, cache.choices)


def _prompt_limit(cut: Cut) -> int:
    """The longest prompt that is read; with `rmb_only` none is, however long."""
    return cut.prompt_len if cut.boundary else np.iinfo(np.int64).max


def _per_group(groups: np.ndarray, useful: np.ndarray) -> np.ndarray:
    return np.bincount(groups, weights=useful, minlength=int(groups.max(initial=-1)) + 1).astype(np.int64)


def _rows_of_part(rows: RowTokens, part: Part, cut: Cut) -> np.ndarray:
    """The useful rows of a part of the contexts, context after context."""
    useful = rows.useful(_prompt_limit(cut))
    counts = _per_group(rows.groups, useful)
    in_order = np.argsort(rows.groups, kind="stable")
    in_order = in_order[useful[in_order]]
    starts = (np.cumsum(counts) - counts)[part.documents] + part.first
    spans = zip(starts, starts + part.counts, strict=True)
    return np.concatenate([in_order[:0], *(in_order[start:end] for start, end in spans)])


def _require_rows(sets: dict[str, WindowSet], rows: dict[str, RowTokens], cut: Cut) -> None:
    """Raise where a split has no row, with what to look at."""
    empty = next((name for name, windows in sets.items() if not len(windows)), None)
    if empty is None:
        return
    n_rows = sum(len(some.groups) for some in rows.values())
    n_useful = sum(int(some.useful(_prompt_limit(cut)).sum()) for some in rows.values())
    raise DataError(
        "dataset",
        f"no row left for {empty}: of {n_rows:,} rows {n_useful:,} have a context, an answer, and a prompt of at most "
        f"prompt_len {cut.prompt_len}, and rows with one context are on one side; use more rows, or raise prompt_len",
    )


def _all_dropped(rows: list[RowTokens], lost: list[Dropped], cut: Cut) -> Dropped:
    """What is lost of all rows: of those that are read, and the others whole."""
    useful = [some.useful(_prompt_limit(cut)) for some in rows]
    lengths = [some.lengths for some in rows]
    whole_rows = sum(int(some[~keep].sum()) for some, keep in zip(lengths, useful, strict=True))
    return Dropped(
        documents=sum(int((~keep).sum()) for keep in useful),
        tokens=whole_rows + sum(one.tokens for one in lost),
        long_prompts=sum(int((some[:, 1] > _prompt_limit(cut)).sum()) for some in lengths),
        cut_contexts=sum(one.cut_contexts for one in lost),
        cut_answers=sum(one.cut_answers for one in lost),
    )
