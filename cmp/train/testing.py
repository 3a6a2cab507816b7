"""The compressors of a search on documents that decided nothing. Called by the search at its end.

All of them predict the same target tokens; those that read contexts of other lengths are scored in passes of their own.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from cmp.model.api import Compressor
from cmp.results.scores import Candidate, SplitScores, Sums, split_scores
from cmp.space.settings import Window
from cmp.train.data import TrialData, open_data
from cmp.train.evaluation import validation_batches
from cmp.train.scoring import WaySums, bounds_way, control_way, memory_way, score_ways

Place = tuple[Candidate, str]
"""A compressor and its folder."""


def score_candidates(
    places: Sequence[Place],
    control: str | None,
    *,
    split: str = "test",
    runner_up: Candidate | None = None,
    device: torch.device | str | None = None,
) -> SplitScores:
    """Score compressors of one search, their controls and the bounds on one split of its data.

    Args:
        places: what to score; the best trial's first.
        control: folder of the text control; None reads worth off the bare backbone's curve.
        split: "test", or "validation".
        runner_up: one of the candidates, to compare the best with.
        device: None is the GPU when there is one.

    Raises:
        UserError: a compressor or the data cannot be read.
    """
    first = Compressor.from_pretrained(places[0][1], device=device)
    backbone = first.backbone
    models = [first, *(Compressor.from_pretrained(place, backbone=backbone) for _, place in places[1:])]
    text = None if control is None else Compressor.from_pretrained(control, backbone=backbone)
    window = Window(**first.origin.window)
    longest = text.settings.context_len if text is not None else max(one.settings.context_len for one in models)
    sums: dict[str, WaySums] = {}
    n_windows = 0
    for context_len in sorted({longest, *(one.settings.context_len for one in models)}):
        ways = [bounds_way(backbone, context_len)] if context_len == longest else []
        ways += [control_way(text.model, context_len)] if text is not None and context_len == longest else []
        for index, ((candidate, _), one) in enumerate(zip(places, models, strict=True)):
            if one.settings.context_len == context_len:
                ways.append(memory_way(one.model, f"{index} ", sizes=_sizes(candidate, one)))
        windows = getattr(_data(first, context_len, window), split)
        batches = validation_batches(len(windows), first.settings.val_batch_size, first.settings.max_val_loops)
        n_windows = sum(map(len, batches))
        for found in score_ways(ways, windows, batches, backbone.device):
            sums |= found
    compressors = {
        candidate: _of_candidate(sums, index, candidate, one)
        for index, ((candidate, _), one) in enumerate(zip(places, models, strict=True))
    }
    whole = Sums(
        no_context=sums["no_context"].document_sums,
        full_context=sums["full_context"].document_sums,
        plain=_numbered(sums, "plain"),
        text=_numbered(sums, "text"),
        compressors=compressors,
    )
    return split_scores(split, n_windows, whole, runner_up)


def _data(compressor: Compressor, context_len: int, window: Window) -> TrialData:
    settings = compressor.settings
    settings = settings if settings.rmb_only else replace(settings, cmp_len=context_len)
    return open_data(settings, window, tokenizer=compressor.tokenizer)


def _vectors(candidate: Candidate, compressor: Compressor) -> int:
    """Vectors of each piece that a candidate reads."""
    return candidate.vectors // compressor.settings.n_pieces


def _sizes(candidate: Candidate, compressor: Compressor) -> list[int]:
    vectors = _vectors(candidate, compressor)
    return [] if vectors == compressor.settings.n_cmps else [vectors]


def _of_candidate(sums: dict[str, WaySums], index: int, candidate: Candidate, compressor: Compressor) -> dict:
    """Its ways of reading; the controls of a smaller memory are those of the whole one, so it has none."""
    vectors = _vectors(candidate, compressor)
    if vectors != compressor.settings.n_cmps:
        return {"memory": sums[f"{index} {vectors} vectors"].document_sums}
    return {
        name: sums[f"{index} {name}"].document_sums for name in ("memory", "swapped", "mean") if _has(sums, index, name)
    }


def _has(sums: dict[str, WaySums], index: int, name: str) -> bool:
    key = f"{index} {name}"
    return key in sums and bool(sums[key].by_document[1].any())


def _numbered(sums: dict[str, WaySums], word: str) -> dict:
    prefix = f"{word} "
    return {int(name.removeprefix(prefix)): one.document_sums for name, one in sums.items() if name.startswith(prefix)}
