"""What the best compressor is worth, and everything that it has to be told apart from, on one scale.

Part of the page's answer. All of it is on documents that decided nothing where the search has scored those, else on
the validation documents that the best was selected on, and says so.
"""

from cmp.report import text
from cmp.report.text import Markup, escape
from cmp.report.view import SearchView
from cmp.results.controls import ReadingLoss, runner_up_words
from cmp.results.finalists import order_held
from cmp.results.recovered import recovered_fraction
from cmp.results.scores import CompressorScores, Interval
from cmp.results.worth import Worth, headline


def sentence(view: SearchView) -> Markup | None:
    """The headline, with a link to the trial; None where worth cannot be told."""
    worth, point = view.best_worth, view.best_point
    if worth is None or point is None:
        return None
    words = escape(headline(worth, point.positions - point.kept, point.kept))
    what, verb, rest = _split(words)
    tokens = f"{worth.tokens:.1f} tokens of text"
    return (
        f'<a href="#trial-{point.trial}">{what}</a> {verb} {rest.replace(tokens, f"<b>{tokens}</b>")}.{_nothing(worth)}'
    )


def _split(words: str) -> tuple[str, str, str]:
    """A headline at its verb."""
    verb = " does " if " does " in words else " do "
    what, rest = words.split(verb, 1)
    return what, verb.strip(), rest


def _nothing(worth: Worth) -> str:
    """In words, where the memory is worth no token at all."""
    return " Without any context the adapted model does as well." if worth.tokens == 0 else ""


def ladder(view: SearchView) -> Markup:
    """Where the numbers are from, the table of controls, and how sure the order is."""
    return f"{_source(view)}{_table(view.readings)}{_certainty(view)}"


def _source(view: SearchView) -> Markup:
    parts = [_on_test(view.tested, view) if view.tested is not None else _on_validation(view)]
    if view.caveat is not None and not (view.tested is not None and view.scores is not None and view.scores.trained):
        parts.append(f"Note: {escape(view.caveat)}.")
    verdict = _verdict(view)
    return "".join(f"<p>{part}</p>" for part in (" ".join(parts), verdict) if part)


def _on_test(tested: CompressorScores, view: SearchView) -> str:
    assert view.scores is not None, "the best has scores"
    where = f"On {text.plural(view.scores.documents, 'test document')} that decided nothing"
    if not (tested.gain and tested.worth_tokens and tested.carried):
        return f"{where}: worth cannot be told, because the context itself does not help on them."
    return (
        f"{where}, with 95 % intervals: worth {_range(tested.worth_tokens, 1)} tokens, gain {_range(tested.gain, 2)}, "
        f"and {_percents(tested.carried)} of the context's own value gets through."
    )


def _on_validation(view: SearchView) -> str:
    where = "On the validation documents that it was selected on, which flatters it"
    worth = view.best_worth
    if worth is not None:
        where += f": gain {worth.gain:.2f}, and {text.percent(worth.carried)} of the context's own value gets through"
    later = {"completed": "There are no scores on the test split", "running": "The test split is scored at the end"}
    return f"{where}. {later.get(view.state, 'The test split is not scored yet')}."


def _verdict(view: SearchView) -> str:
    """Whether keeping text at the same price does better; the first question that a user has."""
    losses = {row.kind: row.loss for row in view.readings}
    if "text" not in losses or view.best_worth is None or view.best_point is None:
        return ""
    own, plain = losses["own"], losses["text"]
    price = text.plural(view.best_point.positions, "position")
    shown = f"{text.loss(own)} against {text.loss(plain)}"
    gain = None if view.tested is None else view.tested.gain
    if gain is not None and gain.low <= 1 <= gain.high:
        return f"At the same price of {price} it cannot be told from keeping that many of the last tokens: {shown}."
    better = "it beats" if own < plain else "it does worse than"
    return f"At the same price of {price} {better} keeping that many of the last tokens: {shown} nats per token."


def _table(readings: list[ReadingLoss]) -> Markup:
    losses = {row.kind: row.loss for row in readings}
    bounds = losses.get("no context"), losses.get("full context")
    rows = "".join(_row(row, min(losses.values()), max(losses.values()), bounds) for row in readings)
    head = '<th class="t">read before the target</th><th>loss</th>'
    head += '<th class="wide" aria-hidden="true"></th><th>recovered</th>'
    table = f'<table class="ladder"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _row(row: ReadingLoss, low: float, high: float, bounds: tuple[float | None, float | None]) -> Markup:
    span = (high - low) or 1.0

    def place(loss: float) -> float:
        """Percent of the way from the highest loss to the lowest."""
        return 100 * min(1.0, max(0.0, (high - loss) / span))

    whisker, shown = "", text.loss(row.loss)
    if row.interval is not None:
        left, right = place(row.interval.high), place(row.interval.low)
        whisker = f'<i class="whisker" style="left:{left:.1f}%;width:{right - left:.1f}%"></i>'
        if row.kind == "own":
            shown = f"<small>{_range(row.interval, 3)}</small> {shown}"
    track = f'<div class="rail">{whisker}<i class="at" style="left:{place(row.loss):.1f}%"></i></div>'
    recovered = text.percent(recovered_fraction(*bounds, row.loss))
    kind = ' class="own"' if row.kind == "own" else ""
    return (
        f'<tr{kind}><td class="t">{escape(row.read)}</td><td>{shown}</td>'
        f'<td class="wide" aria-hidden="true">{track}</td><td>{recovered}</td></tr>'
    )


def _certainty(view: SearchView) -> Markup:
    """The runner-up, the finalists over seeds, and what the best was selected on."""
    parts = []
    if view.tested is not None and view.scores is not None and view.scores.difference is not None:
        number = view.scores.runner_up
        parts.append(
            f'<a href="#trial-{number}">Trial {number}</a>, the runner-up, is '
            f"{escape(runner_up_words(view.scores.difference))}."
        )
    parts += [_finalists(view)] if view.finalists else []
    report = view.best_report
    if view.tested is not None:
        chosen = f"It was selected on a val_loss of {text.loss(report['val_loss'])} (validation documents"
        parts.append(f"{chosen}, recovered {text.percent(report.get('recovered'))}).")
    return f"<p>{' '.join(parts)}</p>" if parts else ""


def _finalists(view: SearchView) -> Markup:
    found = view.finalists
    seeds = len(found[0].losses)
    each = ", ".join(
        f'<a href="#trial-{one.trial}">trial {one.trial}</a> {one.mean:.3f} ± {one.spread:.3f}' for one in found
    )
    held = ""
    if len(found) > 1:
        held = "; their order held" if order_held(found) else "; their order did not hold"
    return f"Trained under {seeds} seeds, val_loss is {each}{held}."


def _range(found: Interval, digits: int) -> str:
    return f"{found.low:.{digits}f} to {found.high:.{digits}f}"


def _percents(found: Interval) -> str:
    return f"{text.percent(found.low)} to {text.percent(found.high)}"
