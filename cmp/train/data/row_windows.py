"""Windows that are rows: a context, what is asked of it, and the answer. Called by `row_sets`, used as any `WindowSet`.

Shape suffixes: `B` batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cmp.model.batch import Batch
from cmp.train.data.windows import Cut, Dropped


@dataclass(frozen=True)
class RowTokens:
    """Rows of one split: context, prompt and answer of each.

    Args:
        tokens: (tokens,) flat, uint16 or uint32, usually memory-mapped.
        offsets: (3 x rows + 1,) where each part begins in `tokens`: those of row r are parts 3r, 3r + 1 and 3r + 2.
        groups: (rows,) int64, the same for rows with the same context.
        golds: for each row all answers that are right, as texts.
        max_new_tokens: (rows,) int64, how long a written answer may be; 0 where the data do not say.
        choices: the answers of a classification, with their tokens; empty where answers are free.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    groups: np.ndarray
    golds: Sequence[Any]
    max_new_tokens: np.ndarray
    choices: Mapping[str, Sequence[int]]

    @property
    def lengths(self) -> np.ndarray:
        """(rows, 3) tokens of context, prompt and answer."""
        return np.diff(self.offsets).reshape(-1, 3)

    def useful(self, prompt_len: int) -> np.ndarray:
        """(rows,) bool: there are context and answer, and the prompt is no longer than this."""
        context, prompt, answer = self.lengths.T
        return (context > 0) & (answer > 0) & (prompt <= prompt_len)


class RowWindows:
    """Rows of context, prompt and answer, each a window; parts that are too long are cut, shorter ones padded, masked.

    A batch is as wide as its longest row.

    Args:
        rows: all of a split.
        chosen: (windows,) which of them are in this set.
        cut: how much of each a trial reads at most. With `boundary` 0 (`rmb_only`) the beginning of the context is both
            context and target, and nothing is asked.
    """

    def __init__(self, rows: RowTokens, chosen: np.ndarray, cut: Cut) -> None:
        self._rows, self._chosen, self._cut = rows, chosen, cut
        lengths, starts = rows.lengths[chosen], rows.offsets[:-1].reshape(-1, 3)[chosen]
        self._has_target = bool(cut.boundary)
        longest = cut.context_len if self._has_target else cut.target_len
        self._context_lens = np.minimum(lengths[:, 0], longest)
        keeps_end = cut.keeps_end and self._has_target
        self._context_starts = starts[:, 0] + (lengths[:, 0] - self._context_lens if keeps_end else 0)
        self._prompt_lens, self._prompt_starts = lengths[:, 1] * self._has_target, starts[:, 1]
        if self._has_target:
            self._target_lens, self._target_starts = np.minimum(lengths[:, 2], cut.target_len), starts[:, 2]
        else:
            self._target_lens, self._target_starts = self._context_lens, self._context_starts
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def costs(self) -> np.ndarray:
        """Tokens of context, prompt and target."""
        return self._context_lens + self._prompt_lens + self._target_lens

    @property
    def choices(self) -> Mapping[str, Sequence[int]]:
        """The answers of a classification, with their tokens; empty where answers are free."""
        return self._rows.choices

    def batch(self, indices: np.ndarray, passes: np.ndarray | None = None) -> Batch:
        """Contexts and prompts padded on the left, targets on the right, with their masks; padding is id 0."""
        context_ids, context_mask = self._stretch(self._context_starts[indices], self._context_lens[indices], left=True)
        prompt_ids, prompt_mask = self._stretch(self._prompt_starts[indices], self._prompt_lens[indices], left=True)
        target_ids, target_mask = self._stretch(self._target_starts[indices], self._target_lens[indices], left=False)
        prompt = (prompt_ids, prompt_mask) if prompt_ids.shape[1] else (None, None)
        return Batch(context_ids, target_ids, context_mask, target_mask, *prompt)

    def _stretch(self, starts: np.ndarray, lengths: np.ndarray, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, longest) int64 ids and bool mask of stretches of tokens, 0 on padding."""
        longest = int(lengths.max(initial=0))
        places = np.arange(longest) - (longest - lengths[:, None] if left else 0)
        mask = (places >= 0) & (places < lengths[:, None])
        ids = np.where(mask, self._rows.tokens[np.where(mask, starts[:, None] + places, 0)], 0)
        return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(mask)

    def documents(self, indices: np.ndarray) -> np.ndarray:
        """Rows with the same context are of one document."""
        return self._rows.groups[self._chosen[indices]]

    def token_count(self, indices: np.ndarray) -> int:
        """Target tokens without padding."""
        return int(self._target_lens[indices].sum())

    def context_token_count(self, indices: np.ndarray, but_last: int = 0) -> int:
        """Context tokens without padding."""
        return int(np.maximum(0, self._context_lens[indices] - but_last).sum())

    def golds(self, index: int) -> list[str]:
        """All right answers of a window, the one to train on first."""
        found = self._rows.golds[int(self._chosen[index])]
        return list(found if isinstance(found, list | tuple) else found.as_py())

    def max_new_tokens(self, indices: np.ndarray) -> np.ndarray:
        """(B,) how many tokens a written answer may have."""
        asked = self._rows.max_new_tokens[self._chosen[indices]]
        return np.where(asked > 0, asked, self._cut.target_len)

    def dropped(self) -> Dropped:
        """What of these rows is not read."""
        kept = self._context_lens + self._prompt_lens + (self._target_lens if self._has_target else 0)
        return Dropped(
            documents=0,
            tokens=int((self._lengths.sum(1) - kept).sum()),
            cut_contexts=int((self._context_lens < self._lengths[:, 0]).sum()),
            cut_answers=int((self._target_lens < self._lengths[:, 2]).sum()) if self._has_target else 0,
        )
