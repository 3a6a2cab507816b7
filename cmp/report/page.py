"""report.html: one file that opens offline and says what a search found.

`search` calls `write_page` while it runs and at the end; `python -m cmp report FOLDER` does the same by hand. Reads
space.yaml, journal.jsonl, test.json, best/examples.json and best/answers.json, nothing else.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from cmp.objects import is_url
from cmp.report import answer, example_cards, figures, lost, method, sections, setting_figures, trials_table
from cmp.report.figures import Figure, Variants
from cmp.report.numbers import shortened
from cmp.report.text import Markup, escape
from cmp.report.tradeoff_figures import tradeoff
from cmp.report.view import SearchView, build
from cmp.results.examples import ExampleSet, load_examples
from cmp.results.folder import ResultsFolder
from cmp.results.history import History
from cmp.results.journal import each_event
from cmp.results.scores import load_scores
from cmp.results.space_file import read_space_file
from cmp.results.written import ANSWERS, load_written
from cmp.space.space import Space
from cmp.store import replacing

RELOAD_SECONDS = 15
"""How often an open page reads itself again while the search runs."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"
"""Nothing is ever fetched: texts of a data set are shown here."""

PLOTLY = "plotly-basic.min.js"
"""plotly.js with the traces that are drawn here (scatter, bar) and pie: a quarter of the whole library.

The file of the npm package plotly.js-basic-dist-min as it is (MIT, plotly.LICENSE). To renew it, in this assets folder:
`npm pack plotly.js-basic-dist-min && tar xzf plotly.js-*.tgz --strip-components=1 package/plotly-basic.min.js`
"""


def write_page(folder: Path, history: History | None = None) -> Path:
    """Build report.html of a results folder from its journal, replacing the old one in one step.

    Args:
        folder: a results folder; one without a journal yet gives a page that says so.
        history: what the journal says, where the caller has it.

    Returns:
        The path of the page.

    Raises:
        JournalError: the journal is damaged before its last line.
        FileNotFoundError: there is no space.yaml, so this is no results folder.
    """
    results = ResultsFolder(Path(folder))
    plain_space = read_space_file(results.space)
    history = history or History.from_events(each_event(results.journal))
    view = build(history, Space.from_dict(plain_space, results.space), load_scores(results.test_scores))
    page = render(view, plain_space, load_examples(results.best / "examples.json"), results)
    with replacing(results.report) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(page)
    return results.report


def render(
    view: SearchView, plain_space: dict[str, Any], examples: ExampleSet | None, results: ResultsFolder
) -> list[str]:
    """The page's HTML in pieces, to be written one after the other."""
    plots: dict[str, Variants] = {}
    body = _body(view, plain_space, examples, results, plots)
    shown = figures.trials_in(plots.values())
    title = f"{view.name} · {answer.BADGES[view.state]}"
    running = view.state == "running"
    refresh = f'<noscript><meta http-equiv="refresh" content="{RELOAD_SECONDS}"></noscript>' if running else ""
    facts = {
        "reload": RELOAD_SECONDS if running else None,
        "plots": {key: {name: _lighter(figure) for name, figure in plot.items()} for key, plot in plots.items()},
        "trials": {t.number: figures.hover(view, t) for t in (*view.trials, *view.extras) if t.number in shown},
    }
    head = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">{refresh}
<link rel="icon" href="data:,"><style>{_asset("page.css")}</style></head><body><main>
"""
    return [
        head,
        body,
        '</main>\n<script type="application/json" id="facts">',
        _json_for_html(facts),
        "</script>\n<script>",
        _asset(PLOTLY),
        "</script>\n<script>",
        _asset("page.js"),
        "</script></body></html>\n",
    ]


def _body(
    view: SearchView,
    plain_space: dict[str, Any],
    examples: ExampleSet | None,
    results: ResultsFolder,
    plots: dict[str, Variants],
) -> Markup:
    """All sections that have something to say, in order; their figures are added to `plots`."""
    parts: list[tuple[str, str, Markup]] = [("answer", "Answer", answer.answer(view, _typed(view, results)))]
    if view.scored:
        parts += _plotted(view, plots)
    if (written := load_written(results.best / ANSWERS)) is not None:
        parts.append(("answers", "Answers", example_cards.answers(written)))
    if examples is not None and examples.examples:
        parts.append(("examples", "Examples", example_cards.examples(examples)))
    if view.trials:
        parts.append(("trials-section", "Trials", trials_table.trials_table(view)))
    parts.append(("method", "How it was made", method.method(view, plain_space, _files(results))))
    blocks = [
        f'<section id="{key}"><h2>{escape(title)}</h2>{content}</section>' for key, title, content in parts if content
    ]
    return answer.header(view, [(key, title) for key, title, content in parts if content]) + "\n".join(blocks)


def _typed(view: SearchView, results: ResultsFolder) -> str | None:
    """The results folder as a reader would type it where the search was started; None without a best compressor."""
    if not (results.best / "config.json").exists():
        return None
    if is_url(place := view.space.results_place):
        return place
    typed = Path(view.space.fixed["save_root"]) / view.name
    return str(typed if typed.name == results.path.name else results.path)


def _files(results: ResultsFolder) -> list[str]:
    """What lies beside the page and is worth opening."""
    paths = (results.journal, results.space, results.trials_csv, results.results_parquet, results.test_scores)
    folders = (results.best, results.front)
    names = [path.name for path in paths if path.exists()]
    return names + [f"{path.name}/" for path in folders if path.exists()]


def _plotted(view: SearchView, plots: dict[str, Variants]) -> list[tuple[str, str, Markup]]:
    found = setting_figures.ranked_settings(view)
    timeline, n_slots = figures.timeline(view)
    plots["tradeoff-positions"] = tradeoff(view, "positions")
    if sections.ratio_says_more(view):
        plots["tradeoff-ratio"] = tradeoff(view, "ratio")
    plots["curves"] = figures.curves(view)
    if found:
        plots["importance"] = setting_figures.importance_bars(found)
    for index, name in enumerate(view.domains):
        plots[f"slice-{index}"] = setting_figures.slice_plot(view, name)
    if len(view.domains) > 1 and len(view.scored) > 1:
        plots["parallel"] = setting_figures.parallel(view)
    plots["best-over-time"] = figures.best_over_time(view)
    plots["timeline"] = timeline
    return [
        ("tradeoff", "Trade-off", sections.tradeoff(view)),
        ("lost", "What is lost", lost.lost(view)),
        ("curves-section", "Learning curves", sections.curves(view)),
        ("settings", "What mattered", sections.importance(view, found)),
        ("course", "The search over time", sections.course(view, n_slots)),
    ]


def _lighter(figure: Figure) -> Figure:
    """The same figure with no more digits than a plot can show."""
    axes = ("x", "y", "base")
    data = [trace | {axis: shortened(trace[axis]) for axis in axes if axis in trace} for trace in figure["data"]]
    return {**figure, "data": data}


def _json_for_html(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")
