"""Compressors on documents that decided nothing: all of a search at its end, and one of them for `cmp evaluate`.

All of them predict the same target tokens; those that read contexts of other lengths are scored in passes of their own.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from cmp.model.api import Compressor
from cmp.model.flops import costs_of
from cmp.model.saving import card_of, opened, read_config
from cmp.results.controls import card_words
from cmp.results.scores import Candidate, DocumentSums, SplitScores, Sums, split_scores
from cmp.space.settings import Window
from cmp.train.data import TrialData, WindowSet, open_data
from cmp.train.data.progress import progress_bar
from cmp.train.evaluation import validation_batches
from cmp.train.own import load_own
from cmp.train.scoring import (
    Way,
    WaySums,
    bounds_way,
    control_way,
    losses_by_kind,
    memory_way,
    merged,
    reconstruction_way,
    score_ways,
    text_lengths,
)
from cmp.train.views import prefix_sizes

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
    first = load_own(places[0][1], device)
    backbone = first.backbone
    models = [first, *(Compressor.from_pretrained(place, backbone=backbone) for _, place in places[1:])]
    text = None if control is None else Compressor.from_pretrained(control, backbone=backbone)
    window = Window(**first.origin.window)
    longest = text.settings.context_len if text is not None else max(one.settings.context_len for one in models)
    equal = min(places[0][0].positions, longest)  # plain text at the best one's price
    lengths = [] if first.settings.rmb_only else text_lengths(longest, equal)
    sums: dict[str, WaySums] = {}
    n_windows = 0
    for context_len in sorted({longest, *(one.settings.context_len for one in models)}):
        ways: list[Way] = []
        if context_len == longest:
            ways.append(bounds_way(backbone, lengths))
            ways += [] if text is None else [control_way(text.model, lengths)]
        for index, ((candidate, _), one) in enumerate(zip(places, models, strict=True)):
            if one.settings.context_len == context_len:
                ways.append(memory_way(one.model, f"{index} ", sizes=_sizes(candidate, one)))
        windows = getattr(_data(first, context_len, window), split)
        batches = validation_batches(windows, first.settings.val_batch_size, first.settings.max_val_loops)
        n_windows = sum(map(len, batches))
        for found in score_ways(ways, windows, batches, backbone.device):
            sums |= found
    compressors = {
        candidate: _of_candidate(sums, f"{index} ", candidate, one)
        for index, ((candidate, _), one) in enumerate(zip(places, models, strict=True))
    }
    return scores_of(sums, split, n_windows, compressors, first, _main_name("0 ", places[0][0], first), runner_up)


def scored_card(place: str | Path, scores: SplitScores, candidate: Candidate) -> str:
    """The card of a compressor that was scored, as Markdown: it begins with what it is worth.

    Args:
        place: its folder or URL.
        scores: those that it is among.
        candidate: which of them it is.

    Raises:
        CompressorError: it cannot be read.
    """
    with opened(place) as folder:
        config = read_config(folder)
    tested = scores.find(candidate)
    assert tested is not None, f"{candidate} was scored"
    words = card_words(scores, tested)
    n_cmps = candidate.vectors // config.settings.n_pieces
    return card_of(config, n_cmps=n_cmps, headline=words.headline, tests=words.section)


def score_compressor(
    compressor: Compressor,
    control: Compressor | None,
    parts: Sequence[tuple[WindowSet, list[np.ndarray]]],
    *,
    split: str,
    n_cmps: int | None = None,
    also_text: Sequence[int] = (),
    show_progress: bool = False,
) -> tuple[SplitScores, dict[str, WaySums]]:
    """Score one compressor on any windows; see `score_candidates`.

    Args:
        compressor: what to score.
        control: the text control that it is measured by.
        parts: windows, and the batches of them to score; the documents of one are not those of another.
        split: what to call them.
        n_cmps: score this many vectors of each piece instead of all.
        also_text: measure plain text at these numbers of last tokens too.
        show_progress: a bar with the time left.

    Returns:
        The scores, the chosen number of vectors first, other ones that it was trained for after it; and all sums.
    """
    settings, backbone = compressor.settings, compressor.backbone
    sizes = [size for size in prefix_sizes(settings.n_cmps) if settings.nested]
    sizes += [n_cmps] if n_cmps is not None and n_cmps not in (*sizes, settings.n_cmps) else []
    chosen, epoch = n_cmps or settings.n_cmps, int(compressor.origin.metrics.get("epoch") or 0)
    order = [chosen, *(size for size in (settings.n_cmps, *reversed(sizes)) if size != chosen)]
    trial = -1 if compressor.origin.trial is None else compressor.origin.trial
    candidates = [Candidate(trial, epoch, size * settings.n_pieces, settings.keep_len) for size in order]
    lengths = [] if settings.rmb_only else text_lengths(settings.context_len, candidates[0].positions, *also_text)
    ways = [bounds_way(backbone, lengths), memory_way(compressor.model, sizes=sizes)]
    ways += [] if control is None else [control_way(control.model, lengths)]
    ways += [reconstruction_way(compressor.model)] if compressor.can_reconstruct and compressor.can_continue else []
    batches = sum(len(some) for _, some in parts)
    found = [score_ways(ways, windows, some, backbone.device) for windows, some in parts]
    steps = progress_bar((one for part in found for one in part), "scoring", batches, show=show_progress)
    last = {id(one): one for one in steps}  # each part yields its own sums again and again
    sums = merged(list(last.values()))
    n_windows = sum(len(indices) for _, some in parts for indices in some)
    compressors = {one: _of_candidate(sums, "", one, compressor) for one in candidates}
    main = _main_name("", candidates[0], compressor)
    return scores_of(sums, split, n_windows, compressors, compressor, main), sums


def scores_of(
    sums: dict[str, WaySums],
    split: str,
    n_windows: int,
    compressors: dict[Candidate, dict[str, DocumentSums]],
    first: Compressor,
    main: str,
    runner_up: Candidate | None = None,
) -> SplitScores:
    """Put the scores together: what was summed, of which compressors, and what the first one's own memory is called."""
    text, plain = _numbered(sums, "text"), _numbered(sums, "plain")
    whole = Sums(sums["no_context"].document_sums, sums["full_context"].document_sums, plain, text, compressors)
    scores = split_scores(split, n_windows, whole, runner_up)
    equal = min(next(iter(compressors)).positions, max(plain))
    read = {"no context": "no_context", "memory": main}
    if len(plain) > 1:
        read["text at equal positions"] = f"{'text' if text else 'plain'} {equal}"
    settings = replace(first.settings, n_cmps=_vectors(next(iter(compressors)), first))
    kinds = losses_by_kind(sums, {**read, "full context": "full_context"})
    return replace(scores, kinds=kinds, costs=asdict(costs_of(first.backbone, settings)))


def _data(compressor: Compressor, context_len: int, window: Window) -> TrialData:
    settings = compressor.settings
    settings = settings if settings.rmb_only else replace(settings, cmp_len=context_len)
    return open_data(settings, window, tokenizer=compressor.tokenizer)


def _vectors(candidate: Candidate, compressor: Compressor) -> int:
    """Vectors of each piece that a candidate reads."""
    return candidate.vectors // compressor.settings.n_pieces


def _main_name(prefix: str, candidate: Candidate, compressor: Compressor) -> str:
    """What a candidate's own memory is called among the sums."""
    vectors = _vectors(candidate, compressor)
    return f"{prefix}memory" if vectors == compressor.settings.n_cmps else f"{prefix}{vectors} vectors"


def _sizes(candidate: Candidate, compressor: Compressor) -> list[int]:
    vectors = _vectors(candidate, compressor)
    return [] if vectors == compressor.settings.n_cmps else [vectors]


def _of_candidate(
    sums: dict[str, WaySums], prefix: str, candidate: Candidate, compressor: Compressor
) -> dict[str, DocumentSums]:
    """Its ways of reading; the controls of a smaller memory are those of the whole one, so it has none."""
    main = _main_name(prefix, candidate, compressor)
    found = {"memory": sums[main].document_sums}
    if main == f"{prefix}memory":
        others = {name: sums.get(f"{prefix}{name}") for name in ("swapped", "mean")}
        found |= {
            name: one.document_sums for name, one in others.items() if one is not None and one.by_document[1].any()
        }
    return found


def _numbered(sums: dict[str, WaySums], word: str) -> dict[int, DocumentSums]:
    """The ways that are called by a word and a number."""
    prefix = f"{word} "
    return {int(name.removeprefix(prefix)): one.document_sums for name, one in sums.items() if name.startswith(prefix)}
