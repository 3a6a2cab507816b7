"""What is lost: where in the text a memory does worse than the context, and what having it costs."""

from collections.abc import Mapping

from cmp.report import text
from cmp.report.text import Markup, escape
from cmp.report.view import SearchView
from cmp.results.costs import cost_lines
from cmp.results.recovered import recovered_fraction
from cmp.results.scores import SplitScores

_SHARE = "of the gap"


def lost(view: SearchView) -> Markup:
    """Losses of the best by kind of target token, and its costs; empty before the test split was scored."""
    if view.tested is None or view.scores is None:
        return ""
    return _kinds(view.scores) + _costs(view.scores)


def _kinds(scores: SplitScores) -> Markup:
    """A row for each kind of target token."""
    if not scores.kinds:
        return ""
    names = [name for name in next(iter(scores.kinds.values())) if name != "tokens"]
    head = "".join(f"<th>{escape(name)}</th>" for name in ("tokens", *names, _SHARE))
    rows = "".join(_kind_row(kind, row, names) for kind, row in scores.kinds.items())
    return f"""<p>The best compressor on {text.count(scores.tokens)} target tokens of
{text.plural(scores.documents, "test document")}, by kind of token: those that occur in their context and those that do
not, the first of each target and the later ones. Nats per token; the last column is the share of the gap between no
and full context that the memory recovers.</p>
<div class="scroll"><table class="kinds"><thead><tr><th class="t">target tokens</th>{head}</tr></thead>
<tbody>{rows}</tbody></table></div>"""


def _kind_row(kind: str, row: Mapping[str, float | None], names: list[str]) -> Markup:
    memory = row.get("memory")
    share = None if memory is None else recovered_fraction(row.get("no context"), row.get("full context"), memory)
    cells = [text.count(row.get("tokens") or 0), *(text.loss(row.get(name)) for name in names), text.percent(share)]
    own = [name == "memory" for name in ("tokens", *names, _SHARE)]
    shown = "".join(f'<td class="{"own" if mine else ""}">{cell}</td>' for cell, mine in zip(cells, own, strict=True))
    return f'<tr><td class="t">{escape(kind)}</td>{shown}</tr>'


def _costs(scores: SplitScores) -> Markup:
    if not scores.costs:
        return ""
    sentences = " ".join(escape(line) for line in cost_lines(scores.costs))
    return f"<h3>What it costs</h3><p>{sentences}</p>"
