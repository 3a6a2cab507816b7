"""Validation examples of a saved compressor, typical and worst, for people to look at: `examples.json`.

The search calls `write_examples` for its best trial at the end, in a process that has the trial's device; anyone may
call it for any compressor of a search. What the file holds is defined in `cmp.results.examples`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmp.model.api import Compressor
from cmp.model.backbone import Backbone
from cmp.model.generation import GREEDY, continuation_text, generate_after_tokens
from cmp.model.pieces import Memory, padded
from cmp.model.saving import CompressorError
from cmp.results.examples import Continuations, Example, ExampleLosses, ExampleSet, pick, save_examples
from cmp.results.written import WrittenRow
from cmp.space.settings import Window
from cmp.train.data import TrialData, WindowSet, open_data
from cmp.train.evaluation import in_batches, validation_order
from cmp.train.positions import RECONSTRUCTION, ScoredBatch, scored_batches
from cmp.train.session import Session, TrialOutcome, TrialPlan
from cmp.train.written import is_answerable, write_answers

EXAMPLES = "examples.json"


def write_examples(
    folder: Path,
    *,
    backbone: Backbone | None = None,
    device: torch.device | str | None = None,
    count: int = 6,
    max_windows: int = 256,
    target: Path | None = None,
    control: Compressor | None = None,
) -> Path:
    """Score validation windows, choose some, let the backbone write on from each kind of context, and save them.

    Args:
        folder: a compressor that a search has trained, such as `results/demo/best`; its data must still be there.
        backbone: a loaded one to use; None loads it to `device`.
        device: None is the GPU when there is one.
        count: examples to show.
        max_windows: windows to score and choose from.
        target: where to write; None is `folder/examples.json`.
        control: the text control of its search, to read text at equal positions where something is asked; None lets the
            backbone read it.

    Returns:
        The file that was written.

    Raises:
        UserError: the compressor or its data cannot be read, or no search has trained it.
    """
    compressor = Compressor.from_pretrained(folder, device=device, backbone=backbone)
    windows = validation_windows(compressor)
    found = make_examples(compressor, windows, count=count, max_windows=max_windows, control=control)
    path = folder / EXAMPLES if target is None else target
    save_examples(path, found)
    return path


def write_trial_examples(plan: TrialPlan, session: Session) -> TrialOutcome:
    """`write_examples` in the shape of a trial: of the best epoch of `plan`, written into the search's `best/`.

    Errors are raised: the caller decides what missing examples are worth.
    """
    write_examples(plan.folder / "best", device=session.device, target=plan.folder.parent.parent / "best" / EXAMPLES)
    return TrialOutcome("finished", 0)


def validation_windows(compressor: Compressor) -> WindowSet:
    """The held-out windows that the compressor's search validated on, cut as its trial read them."""
    return search_data(compressor).validation


def search_data(compressor: Compressor) -> TrialData:
    """All that the compressor's search trained on and held out, cut as its trial read it."""
    origin, settings = compressor.origin, compressor.settings
    window = Window(**origin.window) if origin.window else own_window(compressor)
    return open_data(settings, window, tokenizer=compressor.tokenizer)


def own_window(compressor: Compressor) -> Window:
    """Windows just as long as this compressor needs."""
    settings = compressor.settings
    return Window(0 if settings.rmb_only else settings.cmp_len, settings.seq_len)


def make_examples(
    compressor: Compressor, windows: WindowSet, *, count: int, max_windows: int, control: Compressor | None = None
) -> ExampleSet:
    """Score up to `max_windows` windows, in the order of validation, and work out `count` of them."""
    origin = compressor.origin
    if origin.trial is None or origin.metrics.get("epoch") is None:
        raise CompressorError("examples: this compressor does not say which trial and epoch of a search it is from")
    batch_size = compressor.settings.val_batch_size
    batches = in_batches(validation_order(windows, max_windows), windows, batch_size)
    scored = _scored_windows(compressor, windows, batches)
    lost = [losses.memory - losses.full_context for _, losses in scored]
    ranks = {index: place for place, index in enumerate(np.argsort(lost, kind="stable").tolist(), start=1)}
    chosen = [(int(scored[index][0]), ranks[index], scored[index][1]) for index in pick(lost, max(3, count))]
    examples = _worked_out(compressor, windows, chosen, control)
    return ExampleSet(origin.trial, int(origin.metrics["epoch"] or 0), len(scored), tuple(examples))


def _scored_windows(
    compressor: Compressor, windows: WindowSet, batches: list[np.ndarray]
) -> list[tuple[int, ExampleLosses]]:
    """Window numbers and their losses; windows without a target token are left out."""
    found: list[tuple[int, ExampleLosses]] = []
    for one in scored_batches(compressor.model, windows, batches):
        found += [
            pair for pair in zip(one.indices.tolist(), _losses(one), strict=True) if math.isfinite(pair[1].memory)
        ]
    return found


def _losses(one: ScoredBatch) -> list[ExampleLosses]:
    columns = {name: one.window_losses(name) for name in one.scores}
    reconstruction = columns.get(RECONSTRUCTION, [None] * len(one.indices))
    rows = zip(columns["no_context"], columns["memory"], columns["full_context"], reconstruction, strict=True)
    return [ExampleLosses(*row) for row in rows]


def _worked_out(
    compressor: Compressor,
    windows: WindowSet,
    chosen: list[tuple[int, int, ExampleLosses]],
    control: Compressor | None,
) -> list[Example]:
    """The chosen windows with their texts and what is written after each kind of context."""
    indices = np.array([window for window, _, _ in chosen])
    batch = windows.batch(indices)
    contexts, targets = _rows(batch.context_ids, batch.context_mask), _rows(batch.target_ids, batch.target_mask)
    only_rmb = compressor.settings.rmb_only
    again = _reconstructions(compressor, contexts)
    texts = _Texts(compressor.tokenizer, contexts, follows_context=not only_rmb)
    answered = write_answers(compressor, windows, indices, control) if is_answerable(windows, compressor) else []
    continuations = [_answers(row) for row in answered] or _continuations(compressor, texts, targets, again)
    return [
        Example(
            window=window,
            place=place,
            context=texts.plain(contexts[row]),
            target=texts.plain(targets[row]) if answered else texts.after(row, targets[row]),
            continuations=continuations[row],
            losses=replace(losses, reconstruction=losses.memory) if only_rmb else losses,
            reconstruction=texts.plain(again[row]) if again else None,
            prompt=answered[row].prompt or None if answered else None,
            golds=answered[row].golds if answered else (),
        )
        for row, (window, place, losses) in enumerate(chosen)
    ]


def _answers(row: WrittenRow) -> Continuations:
    return Continuations(**row.answers)


def _continuations(
    compressor: Compressor, texts: "_Texts", targets: list[list[int]], again: list[list[int]]
) -> list[Continuations]:
    """As many tokens as each target has, after each kind of context."""
    contexts, lengths = texts.contexts, [len(target) for target in targets]
    after_memory = again if compressor.settings.rmb_only else _after_memories(compressor, contexts, lengths)
    after_context = _after_contexts(compressor, contexts, lengths)
    (alone,) = _after_contexts(compressor, [[]], [max(lengths)])
    return [
        Continuations(
            no_context=texts.plain(alone[: lengths[row]]),
            memory=texts.after(row, after_memory[row]),
            full_context=continuation_text(compressor.tokenizer, contexts[row], after_context[row]),
        )
        for row in range(len(contexts))
    ]


@dataclass(frozen=True)
class _Texts:
    """Token ids as text; what follows a context keeps its first space."""

    tokenizer: Any
    contexts: list[list[int]]
    follows_context: bool

    def plain(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def after(self, row: int, ids: list[int]) -> str:
        return continuation_text(self.tokenizer, self.contexts[row] if self.follows_context else [], ids)


def _rows(ids: torch.Tensor, mask: torch.Tensor | None) -> list[list[int]]:
    """(B, T) ids to lists without padding."""
    if mask is None:
        return ids.tolist()
    return [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)]


def _reconstructions(compressor: Compressor, contexts: list[list[int]]) -> list[list[int]]:
    """The contexts written back from their memories; none when not trained to."""
    token = compressor.model.rmb_token
    if token is None:
        return []
    memory = compressor.compress(contexts)
    lengths = [len(row) - len(kept) for row, kept in zip(contexts, memory.kept, strict=True)]
    written = _from_memory(compressor, memory, token, [[] for _ in contexts], lengths)
    return [[*row, *kept] for row, kept in zip(written, memory.kept, strict=True)]


def _after_memories(compressor: Compressor, contexts: list[list[int]], lengths: list[int]) -> list[list[int]]:
    token = compressor.model.fwd_token
    assert token is not None, "only rmb_only has none"
    memory = compressor.compress(contexts)
    return _from_memory(compressor, memory, token, memory.kept, lengths)


def _from_memory(
    compressor: Compressor,
    memory: Memory,
    token: torch.Tensor,
    before: Sequence[Sequence[int]],
    lengths: list[int],
) -> list[list[int]]:
    """As many greedy tokens after each memory, the task token and `before` as `lengths` says."""
    new = compressor.new_tokens(memory, token, before, max_new_tokens=max(lengths), **GREEDY)
    return [row[0][:length] for row, length in zip(new, lengths, strict=True)]


def _after_contexts(compressor: Compressor, contexts: list[list[int]], lengths: list[int]) -> list[list[int]]:
    """As many greedy tokens after each uncompressed context as `lengths` says."""
    text = padded(contexts, left=True)
    new = generate_after_tokens(compressor.backbone, text, max_new_tokens=max(lengths), **GREEDY)
    return [row[:length] for row, length in zip(new.tolist(), lengths, strict=True)]
