"""The best compressor beside everything that it has to be told apart from, as the terminal, the page and the cards say
it: one row for each way of reading a context, from no context at all to the whole one. From journal and scores alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cmp.results.history import History
from cmp.results.scores import Candidate, CompressorScores, Interval, SplitScores
from cmp.results.worth import TextCurve, headline
from cmp.space.space import Space

Kind = Literal["no context", "adapted", "swapped", "mean", "text", "own", "full context"]


@dataclass(frozen=True)
class ReadingLoss:
    """One way of reading a context before the target.

    Args:
        kind: which one.
        read: the same in words.
        loss: nats per target token.
        interval: of the loss, where it is known.
    """

    kind: Kind
    read: str
    loss: float
    interval: Interval | None = None


def readings_on_test(scores: SplitScores, tested: CompressorScores) -> list[ReadingLoss]:
    """On documents that decided nothing."""
    return _readings(
        tested.candidate,
        bounds=(scores.no_context_loss, scores.full_context_loss),
        curve=scores.curve,
        swapped=_with_interval(tested.swapped_loss),
        mean=_with_interval(tested.mean_loss),
        own=_with_interval(tested.loss),
    )


def readings_on_validation(history: History, report: Mapping[str, Any], candidate: Candidate) -> list[ReadingLoss]:
    """On the validation documents that a trial was selected on, as far as its report goes."""
    return _readings(
        candidate,
        bounds=(report.get("no_context_loss"), report.get("full_context_loss")),
        curve=history.text_curve,
        swapped=(report.get("swapped_loss"), None),
        mean=(None, None),
        own=(report["val_loss"], None),
    )


_Loss = tuple[float | None, Interval | None]


def _with_interval(found: Interval | None) -> _Loss:
    return (None, None) if found is None else (found.value, found)


def _readings(
    candidate: Candidate,
    *,
    bounds: tuple[float | None, float | None],
    curve: TextCurve | None,
    swapped: _Loss,
    mean: _Loss,
    own: _Loss,
) -> list[ReadingLoss]:
    adapted = curve.loss(candidate.kept) if curve is not None and curve.trained else None
    text = None if curve is None else curve.loss(candidate.positions)
    tokens = "token" if candidate.positions == 1 else f"{candidate.positions} tokens"
    whose = "" if curve is None or curve.trained else ", the model untrained"
    found: list[tuple[Kind, str, _Loss]] = [
        ("no context", "the model without the context", (bounds[0], None)),
        ("adapted", f"the adapted model {_without_memory(candidate.kept)}", (adapted, None)),
        ("swapped", "with the memory of another document", swapped),
        ("mean", "with one constant memory, the mean", mean),
        ("text", f"plain text at the same price, the last {tokens}{whose}", (text, None)),
        ("own", "its own memory", own),
        ("full context", "the model with the whole context", (bounds[1], None)),
    ]
    return [ReadingLoss(kind, words, loss, interval) for kind, words, (loss, interval) in found if loss is not None]


def _without_memory(kept: int) -> str:
    if kept == 0:
        return "without the context"
    return f"with the last {f'{kept} tokens' if kept > 1 else 'token'}, without any memory"


def worth_caveat(space: Space, history: History) -> str | None:
    """Why the worth of a memory is not known, or what counts as memory though it is none; None where all is well."""
    curve, control = history.text_curve, history.control
    if space.fixed["rmb_only"]:
        return "the context itself is reconstructed (rmb_only): there is no text that could stand in for it"
    if curve is None:
        return "what a memory is worth in plain text is not known: no report has a text curve"
    if curve.trained:
        return None if curve.text_helps else "the context itself does not help on this text"
    if control is not None and control.status == "failed":
        why = "the text control failed"
    elif not space.search.control:
        why = "there is no text control (search.control: false)"
    else:
        return "what a memory is worth in plain text is not known before the text control is done"
    return f"{why}, so worth is by the untrained model's text curve and adaptation to the text counts as memory"


def runner_up_words(difference: Interval) -> str:
    """What the runner-up is beside the best, from the loss of the best minus its own on the same documents."""
    worse = Interval(-difference.value, -difference.high, -difference.low)
    size = f"{abs(worse.value):.4f} nats {'worse' if worse.value >= 0 else 'better'}"
    chance = "within chance" if worse.low <= 0 <= worse.high else "more than chance"
    return f"{size} on the same documents ({worse.low:+.4f} to {worse.high:+.4f}), {chance}"


@dataclass(frozen=True)
class CardWords:
    """What a compressor's card says of test documents, as Markdown.

    Args:
        headline: the sentence that it begins with.
        section: a table of every way of reading, and worth with its intervals.
    """

    headline: str
    section: str


def card_words(scores: SplitScores, tested: CompressorScores) -> CardWords:
    """For the card of a compressor that was scored."""
    candidate, worth = tested.candidate, tested.worth
    where = f"{scores.documents:,} test documents, which decided nothing in its search"
    if worth is None or tested.gain is None:
        first = f"What it is worth cannot be told: the context itself does not help on {where}."
    else:
        first = f"{headline(worth, candidate.vectors, candidate.kept)}, on {where}."
    if not scores.trained:
        first += " This is by the untrained model's text, for want of a text control: adaptation counts in it."
    rows = [
        f"| {row.read} | {row.loss:.4f}{_interval_words(row.interval)} |" for row in readings_on_test(scores, tested)
    ]
    numbers = {
        "worth, tokens of text": tested.worth_tokens,
        "gain, worth per position": tested.gain,
        "carried, of the context's own value": tested.carried,
        "recovered, of the gap between no and whole context (adaptation counts)": tested.recovered,
    }
    known = [
        f"| {name} | {found.value:.3f}{_interval_words(found)} |"
        for name, found in numbers.items()
        if found is not None
    ]
    return CardWords(
        first,
        "\n".join(
            [
                "## On test documents",
                "",
                f"On {where}. Losses are nats per target token; 95 % intervals are over documents.",
                "",
                "| read before the target | loss |",
                "|---|---|",
                *rows,
                "",
                "| number | value |",
                "|---|---|",
                *known,
                "",
                "Worth is the number of the context's last tokens that reach the same loss as plain text, for a model "
                "adapted to the text like the compressor but with nothing to compress (the text control).",
            ]
        ),
    )


def _interval_words(found: Interval | None) -> str:
    return "" if found is None else f" ({found.low:.3f} to {found.high:.3f})"
