"""Validation examples of the best compressor: what `best/examples.json` holds.

Written where a trial's best weights are written, read by the report page. Texts are plain strings (decoded tokens),
so that whoever shows them needs neither torch nor a tokenizer.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmp.store import write_text


@dataclass(frozen=True)
class Continuations:
    """What the backbone writes (greedily) after each kind of context: an answer where one was asked for, else as many
    tokens as the target has. `text` is after the context's last tokens, as many as the memory has positions; None where
    nothing was asked.
    """

    no_context: str
    memory: str
    full_context: str
    text: str | None = None


@dataclass(frozen=True)
class ExampleLosses:
    """Teacher-forced mean cross-entropy on this example's target, nats per kept target token."""

    no_context: float
    memory: float
    full_context: float
    reconstruction: float | None = None
    """On the context itself, nats per context token; None when the compressor was not trained to reconstruct."""


@dataclass(frozen=True)
class Example:
    """One validation window and what became of it.

    Args:
        window: its index in the validation windows.
        place: its place by `memory` minus `full_context` loss among all that were scored: 1 = least was lost.
        context: the text that was compressed.
        target: the text that really follows.
        continuations: what is written after no context, the memory and the full context.
        losses: the losses of the true target under each.
        reconstruction: the context written back from the memory; None when not trained to (`rmb_task`, `rmb_only`).
        prompt: what was asked of the context; None where the target simply follows it.
        golds: all right answers; none where nothing was asked.
    """

    window: int
    place: int
    context: str
    target: str
    continuations: Continuations
    losses: ExampleLosses
    reconstruction: str | None = None
    prompt: str | None = None
    golds: tuple[str, ...] = ()


@dataclass(frozen=True)
class ExampleSet:
    """The examples of one trial's best epoch, least lost first, the worst case last."""

    trial: int
    epoch: int
    scored: int
    examples: tuple[Example, ...]


def pick(lost: Sequence[float], count: int = 6) -> list[int]:
    """Indices of windows worth showing: the best, the worst two, and the rest spread evenly over the ranks between.

    Args:
        lost: memory loss minus full-context loss of every scored window, nats per token.
        count: how many to show at most, at least 3.

    Returns:
        Indices into `lost`, least lost first; all of them when there are no more than `count`.
    """
    ranked = sorted(range(len(lost)), key=lambda i: lost[i])
    if len(ranked) <= count:
        return ranked
    spread = [round(step * (len(ranked) - 2) / (count - 2)) for step in range(count - 2)]
    return [ranked[place] for place in spread] + ranked[-2:]


def save_examples(path: Path, examples: ExampleSet) -> None:
    """Write the set as JSON; a reader sees the old file or the new one, never half of one."""
    write_text(path, json.dumps(dataclasses.asdict(examples), ensure_ascii=True, indent=1))


def load_examples(path: Path) -> ExampleSet | None:
    """The set in `path`, or None where there is none or it cannot be read as one (the page then does without)."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return ExampleSet(
            trial=int(raw["trial"]),
            epoch=int(raw["epoch"]),
            scored=int(raw["scored"]),
            examples=tuple(_example(item) for item in raw["examples"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _example(raw: dict[str, Any]) -> Example:
    fields = dict(raw)
    fields["continuations"] = Continuations(**raw["continuations"])
    fields["losses"] = ExampleLosses(**raw["losses"])
    fields["golds"] = tuple(raw.get("golds", ()))
    return Example(**fields)
