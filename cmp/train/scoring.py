"""Every way of reading a context side by side, on the same windows: memories, their controls, plain text, the bounds.

Called by the search at its end (on the test split) and by `cmp evaluate`. Training itself needs means only: see
`validation`.

Shape suffixes: `B` batch, `C` context, `S` target.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from cmp.model.backbone import Backbone
from cmp.model.batch import Batch, TokenScores, View
from cmp.model.compression import CompressionModel
from cmp.results.scores import DocumentSums
from cmp.train.data.windows import WindowSet
from cmp.train.evaluation import pinned_batch, strangers, without_rows
from cmp.train.positions import PositionSums
from cmp.train.prefetch import prefetched
from cmp.train.views import curve_lengths

Way = Callable[[Batch, np.ndarray], dict[str, TokenScores]]
"""Scores of a batch, by name; the array says which document each row is from."""

KINDS = ("in the context", "not in the context", "first token", "later tokens")


@dataclass
class WaySums:
    """What one way of reading adds up to.

    Args:
        by_document: (2, D) nats and kept tokens.
        positions: by place in the target.
        kinds: (nats, tokens) by kind of target token; see `KINDS`.
    """

    by_document: np.ndarray
    positions: PositionSums = field(default_factory=PositionSums)
    kinds: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def document_sums(self) -> DocumentSums:
        """For intervals over documents."""
        return DocumentSums(*self.by_document)

    def add(self, documents: np.ndarray, scores: TokenScores, kinds: Mapping[str, torch.Tensor]) -> None:
        """Add a batch's (B, S) scores; `kinds` are (B, S) masks."""
        rows = torch.stack([scores.nll.sum(1, dtype=torch.float64), scores.kept.sum(1, dtype=torch.float64)])
        for into, values in zip(self.by_document, rows.cpu().numpy(), strict=True):
            np.add.at(into, documents, values)
        self.positions.add(scores)
        for name, mask in kinds.items():
            counted = scores.kept & mask
            nll, tokens = self.kinds.get(name, (0.0, 0))
            self.kinds[name] = (nll + float(scores.nll[counted].sum(dtype=torch.float64)), tokens + int(counted.sum()))


def score_ways(
    ways: Iterable[Way], windows: WindowSet, batches: list[np.ndarray], device: torch.device
) -> Iterator[dict[str, WaySums]]:
    """Score batches one after the other, the next one being read meanwhile.

    Yields:
        What has been added up so far, after each batch; always the same dict.
    """
    ways = list(ways)
    sums: dict[str, WaySums] = {}
    n_documents = int(windows.documents(np.arange(len(windows))).max(initial=0)) + 1
    with torch.no_grad(), prefetched(partial(pinned_batch, windows, indices, device) for indices in batches) as ready:
        for indices, on_cpu in zip(batches, ready, strict=True):
            batch, documents = on_cpu.to(device), windows.documents(indices)
            kinds = target_kinds(batch)
            for way in ways:
                for name, scores in way(batch, documents).items():
                    one = sums.setdefault(name, WaySums(np.zeros((2, n_documents))))
                    one.add(documents, scores, kinds if scores.nll.shape == batch.target_ids.shape else {})
            yield sums


def merged(parts: Sequence[Mapping[str, WaySums]]) -> dict[str, WaySums]:
    """What several sets of windows add up to; their documents are different ones."""
    found: dict[str, WaySums] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        sums = [part.get(name) or WaySums(np.zeros_like(next(iter(part.values())).by_document)) for part in parts]
        whole = WaySums(np.concatenate([one.by_document for one in sums], axis=1))
        for one in sums:
            whole.positions.take(one.positions)
            for kind, (nll, tokens) in one.kinds.items():
                before = whole.kinds.get(kind, (0.0, 0))
                whole.kinds[kind] = (before[0] + nll, before[1] + tokens)
        found[name] = whole
    return found


def losses_by_kind(sums: Mapping[str, WaySums], ways: Mapping[str, str]) -> dict[str, dict[str, float | None]]:
    """Nats per token by kind of target token, "tokens" beside them.

    Args:
        sums: of `score_ways`.
        ways: what to call each way, and its name in `sums`.
    """
    found: dict[str, dict[str, float | None]] = {}
    for kind in KINDS:
        known = {label: sums[way].kinds[kind] for label, way in ways.items()}
        found[kind] = {"tokens": next(iter(known.values()))[1]}
        found[kind] |= {label: nll / tokens if tokens else None for label, (nll, tokens) in known.items()}
    return found


def target_kinds(batch: Batch) -> dict[str, torch.Tensor]:
    """(B, S) masks: whether a target token stands in its context too, and whether it is the first."""
    same = batch.target_ids[:, :, None] == batch.context_ids[:, None, :]
    if batch.context_mask is not None:
        same &= batch.context_mask[:, None, :]
    seen = same.any(-1)
    first = torch.zeros_like(seen)
    first[:, 0] = True
    return dict(zip(KINDS, (seen, ~seen, first, ~first), strict=True))


def bounds_way(backbone: Backbone, lengths: Iterable[int]) -> Way:
    """The backbone alone: "no_context", "full_context", and "plain k" after the last k tokens."""

    def score(batch: Batch, documents: np.ndarray) -> dict[str, TokenScores]:
        found = {f"plain {kept}": backbone.score_last_context(batch, kept) for kept in {0, *lengths}}
        return {"no_context": found["plain 0"], "full_context": backbone.score_full_context(batch), **found}

    return score


def text_lengths(context_len: int, *also: int) -> list[int]:
    """Where a text curve is measured: on the usual lengths, and at those that are asked for."""
    return sorted({*curve_lengths(context_len), *(kept for kept in also if kept <= context_len)})


def control_way(control: CompressionModel, lengths: Iterable[int]) -> Way:
    """The text control: "text k" after the last k tokens."""

    def score(batch: Batch, documents: np.ndarray) -> dict[str, TokenScores]:
        return {f"text {kept}": control.score(batch, View(kept=kept, compresses=False)) for kept in lengths}

    return score


def memory_way(model: CompressionModel, prefix: str = "", *, sizes: Iterable[int] = ()) -> Way:
    """A compressor: "memory", "swapped", "mean", and "n vectors" for the smaller memories of a nested one.

    Args:
        model: the compressor.
        prefix: before every name.
        sizes: numbers of vectors of a piece, below all.
    """
    smaller = list(sizes)

    def score(batch: Batch, documents: np.ndarray) -> dict[str, TokenScores]:
        swap = strangers(documents)
        met = documents[swap] == documents
        found = model.score_variants(batch, torch.from_numpy(swap), smaller, with_mean=len(documents) > 1)
        swapped = without_rows(found.pop("swapped"), torch.from_numpy(met))
        found = {name if not name.isdigit() else f"{name} vectors": scores for name, scores in found.items()}
        return {f"{prefix}{name}": scores for name, scores in {**found, "swapped": swapped}.items()}

    return score


def reconstruction_way(model: CompressionModel) -> Way:
    """The compressed tokens themselves, read back from the memory: "reconstruction"."""

    def score(batch: Batch, documents: np.ndarray) -> dict[str, TokenScores]:
        return {"reconstruction": model.score_reconstruction(batch)}

    return score
