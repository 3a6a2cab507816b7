"""What is written in answer to a prompt after no context, the memory, some text and the full context, and its scores.

Called by `cmp evaluate`, `examples`, and a search at its end. Everything is greedy and runs in batches.

Shape suffixes: `B` batch, `T` new tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeGuard

import numpy as np
import torch

from cmp.model.api import Compressor
from cmp.model.backbone import Backbone
from cmp.model.batch import Batch, Stretch, TokenScores, View, joined, prompt_of, split
from cmp.model.compression import CompressionModel, lead_of
from cmp.model.generation import GREEDY, generate_after_memory, generate_after_tokens
from cmp.model.saving import CompressorError
from cmp.results.written import WAYS, Written, WrittenRow
from cmp.train.answers import answer_scores
from cmp.train.data import RowWindows, WindowSet
from cmp.train.data.progress import progress_bar
from cmp.train.evaluation import in_batches, validation_order


@dataclass(frozen=True)
class Way:
    """One way to read a context.

    Args:
        write: (B, T) token ids after the batch's prompts, at most so many.
        score: teacher-forced scores of the batch's targets.
    """

    write: Callable[[Batch, int], torch.Tensor]
    score: Callable[[Batch], TokenScores]


def score_written(
    compressor: Compressor,
    windows: WindowSet,
    *,
    control: Compressor | None = None,
    n_cmps: int | None = None,
    count: int | None = 256,
    batch_size: int | None = None,
    progress: bool = False,
) -> Written:
    """Let a compressor and its backbone answer, and score what they write.

    Args:
        compressor: whose memories are read.
        windows: rows with answers, such as a search's test split.
        control: the text control of its search, on the same backbone, to read the text at equal positions; None lets
            the backbone read it as it is.
        n_cmps: read this many vectors of each piece; None is all.
        count: how many rows, the first of validation's order; None is all.
        batch_size: rows at once; None is `val_batch_size`.
        progress: show a bar where a person is watching.

    Raises:
        CompressorError: the windows are plain texts, or the compressor only reconstructs.
    """
    if not isinstance(windows, RowWindows):
        raise CompressorError("written answers: these data are plain text; name their context_column and answer_column")
    order = validation_order(windows, count)
    batches = in_batches(order, windows, batch_size or compressor.settings.val_batch_size)
    found: list[WrittenRow] = []
    for indices in progress_bar(batches, "answering", len(batches), show=progress):
        found += write_answers(compressor, windows, indices, control, n_cmps)
    return Written(_positions(compressor, n_cmps), "control" if control else "backbone", tuple(found))


def is_answerable(windows: WindowSet, compressor: Compressor) -> TypeGuard[RowWindows]:
    """Whether the windows are rows, and the compressor was trained to go on from a memory."""
    return isinstance(windows, RowWindows) and compressor.can_continue


@torch.no_grad()
def write_answers(
    compressor: Compressor,
    windows: RowWindows,
    indices: np.ndarray,
    control: Compressor | None = None,
    n_cmps: int | None = None,
) -> list[WrittenRow]:
    """The rows of one batch, answered in all ways and scored; see `score_written`."""
    batch = windows.batch(indices).to(compressor.backbone.device)
    limits = np.minimum(windows.max_new_tokens(indices), _room(compressor, batch))
    golds = [windows.golds(int(index)) for index in indices]
    answers, right = {}, {}
    for name, way in ways(compressor, control, n_cmps).items():
        new = way.write(batch, int(limits.max()))
        answers[name] = [
            _answer_text(compressor, ids, int(limit), some)
            for ids, limit, some in zip(new.tolist(), limits, golds, strict=True)
        ]
        right[name] = _choice_is_right(way, batch, windows.choices, golds)
    prompts = _texts(compressor.tokenizer, prompt_of(batch))
    documents = windows.documents(indices)
    return [
        WrittenRow(
            window=int(index),
            document=int(documents[row]),
            prompt=prompts[row],
            golds=tuple(golds[row]),
            answers={name: some[row] for name, some in answers.items()},
            scores={name: answer_scores(some[row], golds[row], right[name][row]) for name, some in answers.items()},
        )
        for row, index in enumerate(indices)
    ]


def ways(compressor: Compressor, control: Compressor | None = None, n_cmps: int | None = None) -> dict[str, Way]:
    """The ways of `WAYS`, in their order."""
    backbone, settings, equal = compressor.backbone, compressor.settings, _positions(compressor, n_cmps)
    text = _after_text(backbone, equal)
    if control is not None:
        text = _after_memory(control.model, View(kept=equal, compresses=False))
    found = [
        _after_text(backbone, 0),
        _after_memory(compressor.model, View(kept=settings.keep_len, n_vectors=n_cmps)),
        text,
        _after_text(backbone, settings.context_len),
    ]
    return dict(zip(WAYS, found, strict=True))


def _positions(compressor: Compressor, n_cmps: int | None) -> int:
    settings = compressor.settings
    return settings.keep_len + settings.n_pieces * (n_cmps or settings.n_cmps)


def _after_text(backbone: Backbone, kept: int) -> Way:
    """The backbone, after the last `kept` tokens of the context."""

    def write(batch: Batch, count: int) -> torch.Tensor:
        parts = split(batch, View(kept=kept, compresses=False))
        text = joined([(parts.kept_ids, parts.kept_mask), prompt_of(batch)])
        return generate_after_tokens(backbone, text, max_new_tokens=count, **_settings(backbone))

    return Way(write, partial(backbone.score_last_context, kept=kept))


def _after_memory(model: CompressionModel, view: View) -> Way:
    """A compressor, or a text control."""
    token = model.fwd_token
    if token is None:
        raise CompressorError("written answers: trained with rmb_only, so it can only reconstruct")

    def write(batch: Batch, count: int) -> torch.Tensor:
        lead = lead_of(batch, split(batch, view))
        memories = model.compress(batch, view)
        settings = _settings(model.backbone)
        return generate_after_memory(model, memories, token, lead, max_new_tokens=count, **settings)

    return Way(write, partial(model.score, view=view))


def _settings(backbone: Backbone) -> dict[str, Any]:
    """Greedy, without the habits that a model's own settings give it, up to any token that ends a text."""
    return {**GREEDY, "repetition_penalty": 1.0, "eos_token_id": sorted(_ends(backbone)) or None}


def _ends(backbone: Backbone) -> set[int]:
    """The tokenizer's end of text, which answers end with in training, and those that the model names itself."""
    named = getattr(getattr(backbone.model, "generation_config", None), "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    return {int(end) for end in (*several, getattr(backbone.tokenizer, "eos_token_id", None)) if end is not None}


def _room(compressor: Compressor, batch: Batch) -> int:
    """New tokens that the backbone has positions for, whichever way the context is read."""
    limit, settings = compressor.backbone.max_positions, compressor.settings
    if limit is None:
        return np.iinfo(np.int64).max
    pieces = max(settings.context_len, settings.n_pieces * (settings.piece_len or 1))
    before = 1 + pieces + settings.sep_cmpr + settings.n_cmps + 1 + settings.keep_len + prompt_of(batch)[0].shape[1]
    if before >= limit:
        raise CompressorError(f"written answers: {before} positions before an answer, and the model has {limit}")
    return limit - before


def _answer_text(compressor: Compressor, ids: Sequence[int], limit: int, golds: Sequence[str]) -> str:
    """What was written, up to its end; only its first line where every right answer is one."""
    ends = _ends(compressor.backbone)
    until = next((place for place, token in enumerate(ids[:limit]) if token in ends), limit)
    text = compressor.tokenizer.decode(ids[:until], skip_special_tokens=True).strip()
    return text if any("\n" in gold.strip() for gold in golds) else text.partition("\n")[0]


def _choice_is_right(
    way: Way, batch: Batch, choices: Mapping[str, Sequence[int]], golds: Sequence[Sequence[str]]
) -> list[float] | list[None]:
    """For each row 1 where the likeliest choice is a right answer, else 0; None where answers are free."""
    if not choices:
        return [None] * len(golds)
    losses = []
    for tokens in choices.values():
        ids = torch.tensor([tokens] * len(golds), device=batch.target_ids.device)
        losses.append(way.score(replace(batch, target_ids=ids, target_mask=None)).nll.sum(1))
    words = list(choices)
    likeliest = torch.stack(losses).argmin(0).tolist()
    return [float(words[choice] in some) for choice, some in zip(likeliest, golds, strict=True)]


def _texts(tokenizer: Any, stretch: Stretch) -> list[str]:
    ids, mask = stretch
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    return [tokenizer.decode(row[keep].tolist()) for row, keep in zip(ids, mask, strict=True)]
