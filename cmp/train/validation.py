"""What a trial is scored on after each epoch, beside its controls. Called by `trial`.

Shape suffixes: `B` batch, `S` target.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from cmp.model.batch import Batch, TokenScores, View
from cmp.model.steps import ScoreStep
from cmp.train.data.windows import WindowSet
from cmp.train.evaluation import MeanScores, mean_scores, mean_scores_of, strangers, without_rows
from cmp.train.sync import Workers
from cmp.train.views import curve_lengths, prefix_sizes

# Memories of other documents are one more decoder pass: 53 to 76 % more time on the built-in model (50 context tokens,
# 40 target tokens, memory of the last layer or of the middle). Read in one batch of so many, that is 11 to 15 %.
SWAPPED_EVERY = 5


@dataclass(frozen=True)
class Validation:
    """Scores on one slice of windows.

    Args:
        target: of the main task; of a text control, without any text.
        swapped: the same windows, each read with the memory of another document; None where there is no other. An
            estimate, of `target` and what other memories change in some of the batches; its `tokens` are those read.
        reconstruction: of the compressed tokens; None where nothing is reconstructed.
        nested: losses of smaller memories, by number of vectors.
        text_curve: losses of a text control, by number of kept tokens.
    """

    target: MeanScores
    swapped: MeanScores | None = None
    reconstruction: MeanScores | None = None
    nested: dict[str, float] = field(default_factory=dict)
    text_curve: dict[str, float] = field(default_factory=dict)


def validate_compressor(
    scores: ScoreStep,
    windows: WindowSet,
    batches: list[np.ndarray],
    workers: Workers,
    *,
    swapped_every: int = SWAPPED_EVERY,
) -> Validation:
    """Score a compressor: its own memories, those of others, and the smaller ones that it was trained for.

    Args:
        scores: of the compressor.
        windows: where batches are cut from.
        batches: the same list on every worker.
        workers: who shares the work.
        swapped_every: memories of others are read in one batch of so many.
    """
    settings = scores.model.settings
    sizes = prefix_sizes(settings.n_cmps) if settings.nested else []
    swapped_batches = {int(indices[0]) for indices in batches[::swapped_every]}

    def scorer(batch: Batch, indices: np.ndarray) -> dict[str, TokenScores]:
        if int(indices[0]) not in swapped_batches:
            return scores.variants(batch, None, sizes)
        documents = windows.documents(indices)
        swap = strangers(documents)
        met = documents[swap] == documents
        found = scores.variants(batch, None if met.all() else torch.from_numpy(swap), sizes)
        if "swapped" in found:
            strange = {"swapped": found["swapped"], "not swapped": found["memory"]}
            found |= {name: without_rows(one, torch.from_numpy(met)) for name, one in strange.items()}
        return found

    names = ["memory", "swapped", "not swapped", *map(str, sizes)]
    found = mean_scores_of(scorer, names, windows, batches, workers)
    reconstruction = found["memory"] if settings.rmb_only else None
    if settings.rmb_task and not settings.rmb_only:
        reconstruction = mean_scores(scores.reconstruction, windows, batches, workers)
    return Validation(
        target=found["memory"],
        swapped=_estimated(found) if found["swapped"].tokens else None,
        reconstruction=reconstruction,
        nested={str(size): found[str(size)].loss for size in sizes},
    )


def _estimated(found: dict[str, MeanScores]) -> MeanScores:
    """Scores of swapped memories on all windows: those of the own ones, and the difference where both were read."""
    whole, swapped, own = (found[name] for name in ("memory", "swapped", "not swapped"))
    names = ("loss", "accuracy", "top5")
    values = {name: getattr(whole, name) + getattr(swapped, name) - getattr(own, name) for name in names}
    return replace(swapped, **values)


def validate_control(
    scores: ScoreStep, windows: WindowSet, batches: list[np.ndarray], workers: Workers, *, whole_curve: bool
) -> Validation:
    """Score a text control without any text, and with every number of kept tokens where `whole_curve`."""
    lengths = curve_lengths(scores.model.settings.context_len) if whole_curve else [0]
    views = [View(kept=kept, compresses=False) for kept in lengths]

    def scorer(batch: Batch, indices: np.ndarray) -> dict[str, TokenScores]:
        return dict(zip(map(str, lengths), scores.views(batch, views), strict=True))

    found = mean_scores_of(scorer, list(map(str, lengths)), windows, batches, workers)
    curve = {name: scores.loss for name, scores in found.items()} if whole_curve else {}
    return Validation(target=found["0"], text_curve=curve)
