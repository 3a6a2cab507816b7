"""What a trial is scored on after each epoch, beside its controls. Called by `trial`.

Shape suffixes: `B` batch, `S` target.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from cmp.model.batch import Batch, TokenScores, View
from cmp.model.steps import ScoreStep
from cmp.train.data.windows import WindowSet
from cmp.train.evaluation import MeanScores, mean_scores, mean_scores_of, strangers, without_rows
from cmp.train.sync import Workers
from cmp.train.views import curve_lengths, prefix_sizes


@dataclass(frozen=True)
class Validation:
    """Scores on one slice of windows.

    Args:
        target: of the main task; of a text control, without any text.
        swapped: the same windows, each read with the memory of another document; None where there is no other.
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
    scores: ScoreStep, windows: WindowSet, batches: list[np.ndarray], workers: Workers
) -> Validation:
    """Score a compressor: its own memories, those of others, and the smaller ones that it was trained for."""
    settings = scores.model.settings
    sizes = prefix_sizes(settings.n_cmps) if settings.nested else []

    def scorer(batch: Batch, indices: np.ndarray) -> dict[str, TokenScores]:
        documents = windows.documents(indices)
        swap = strangers(documents)
        met = documents[swap] == documents
        found = scores.variants(batch, None if met.all() else torch.from_numpy(swap), sizes)
        if met.any() and "swapped" in found:
            found["swapped"] = without_rows(found["swapped"], torch.from_numpy(met))
        return found

    names = ["memory", "swapped", *map(str, sizes)]
    found = mean_scores_of(scorer, names, windows, batches, workers)
    reconstruction = found["memory"] if settings.rmb_only else None
    if settings.rmb_task and not settings.rmb_only:
        reconstruction = mean_scores(scores.reconstruction, windows, batches, workers)
    return Validation(
        target=found["memory"],
        swapped=found["swapped"] if found["swapped"].tokens else None,
        reconstruction=reconstruction,
        nested={str(size): found[str(size)].loss for size in sizes},
    )


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
