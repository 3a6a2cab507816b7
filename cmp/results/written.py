"""How right the answers are that a model writes after four kinds of context: `best/answers.json`.

Measured by `cmp.train.written`, shown by `cmp evaluate`, the terminal and the page. No torch here.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from cmp.store import write_text

ANSWERS = "answers.json"
WAYS = {
    "no_context": "no context",
    "memory": "the memory",
    "text": "text at equal positions",
    "full_context": "full context",
}
"""What is read before the prompt, with the words for it."""


@dataclass(frozen=True)
class AnswerScores:
    """How right answers are, from 0 to 1 and each the best over all right answers.

    Args:
        exact_match: the same words; SQuAD's normalisation (no case, punctuation, articles).
        f1: of the words that both have, normalised likewise.
        rouge_l: F-measure of the longest common subsequence of stemmed words.
        accuracy: of the choices, a right one was the likeliest; None where answers are free.
    """

    exact_match: float
    f1: float
    rouge_l: float
    accuracy: float | None = None


@dataclass(frozen=True)
class WrittenRow:
    """One row, and what was written.

    Args:
        window: its number in the split.
        document: rows with the same context have the same.
        prompt: what was asked, as the model reads it.
        golds: all right answers.
        answers: what was written, by way.
        scores: of these answers, by way.
    """

    window: int
    document: int
    prompt: str
    golds: tuple[str, ...]
    answers: dict[str, str]
    scores: dict[str, AnswerScores]


@dataclass(frozen=True)
class Written:
    """Answers of a compressor, and of the backbone alone.

    Args:
        positions: what the memory takes in the context's place, and how many of the context's last tokens "text" has.
        text_by: who reads these: the text control, which is trained as a compressor is, or the backbone alone.
        rows: in no particular order.
    """

    positions: int
    text_by: Literal["control", "backbone"]
    rows: tuple[WrittenRow, ...]

    def mean(self, way: str) -> AnswerScores:
        """The means over all rows."""
        every = [row.scores[way] for row in self.rows]
        known = [one.accuracy for one in every if one.accuracy is not None]
        return AnswerScores(
            _mean([one.exact_match for one in every]),
            _mean([one.f1 for one in every]),
            _mean([one.rouge_l for one in every]),
            _mean(known) if known else None,
        )

    def kept(self, way: str = "memory") -> dict[str, float | None]:
        """The share of each full-context score that is kept, as BenchPress has it; None where that is 0 or unknown."""
        some, full = dataclasses.asdict(self.mean(way)), dataclasses.asdict(self.mean("full_context"))
        return {name: some[name] / full[name] if full[name] else None for name in some}


def measures(written: Written) -> dict[str, str]:
    """The names of the scores that are known, and what to call them."""
    names = {"exact_match": "exact match", "f1": "F1", "rouge_l": "ROUGE-L"}
    return names if written.mean("memory").accuracy is None else {**names, "accuracy": "accuracy"}


def save_written(path: Path, written: Written) -> None:
    """Write as JSON; a reader sees the old file or the new one, never half of one."""
    write_text(path, json.dumps(dataclasses.asdict(written), ensure_ascii=True, indent=1))


def load_written(path: Path) -> Written | None:
    """What a file holds, or None where there is none or it cannot be read as one."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Written(int(raw["positions"]), raw["text_by"], tuple(_row(row) for row in raw["rows"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _row(raw: dict[str, Any]) -> WrittenRow:
    scores = {way: AnswerScores(**some) for way, some in raw["scores"].items()}
    known = {item.name: raw[item.name] for item in fields(WrittenRow)}
    return WrittenRow(**{**known, "golds": tuple(raw["golds"]), "scores": scores})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
