"""report.html: one file that opens offline and says what a search found.

`search` calls `write_page` while it runs and at the end; `python -m cmp.report FOLDER` does the same by hand. Reads
space.yaml, journal.jsonl and best/examples.json, nothing else.
"""

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cmp.report import answer, figures, sections, setting_figures
from cmp.report.figures import Variants
from cmp.report.text import Markup, escape
from cmp.report.view import SearchView, build
from cmp.results.examples import ExampleSet, load_examples
from cmp.results.folder import ResultsFolder, replacing
from cmp.results.history import History
from cmp.results.journal import read_events

RELOAD_SECONDS = 15
"""How often an open page reads itself again while the search runs."""

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:"
"""Nothing is ever fetched: texts of a data set are shown here. `unsafe-eval` is for plotly's parallel coordinates."""


def write_page(folder: Path) -> Path:
    """Build report.html of a results folder from its journal, replacing the old one in one step.

    Args:
        folder: a results folder; one without a journal gives a page that says so.

    Returns:
        The path of the page.

    Raises:
        JournalError: the journal is damaged before its last line.
    """
    results = ResultsFolder(Path(folder))
    space = _read_space(results.space)
    view = build(History.from_events(read_events(results.journal)), space)
    page = render(view, space, load_examples(results.best / "examples.json"))
    with replacing(results.report) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        file.writelines(page)
    return results.report


def _read_space(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except FileNotFoundError:
        return {}
    return content if isinstance(content, dict) else {}


@cache
def _loader() -> Any:
    """The C loader where PyYAML has it: ten times faster."""
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def render(view: SearchView, space: dict[str, Any], examples: ExampleSet | None) -> list[str]:
    """The page's HTML in pieces, to be written one after the other."""
    plots: dict[str, Variants] = {}
    body = _body(view, space, examples, plots)
    title = f"{view.name} · {answer.BADGES[view.state]}"
    running = view.state == "running"
    refresh = f'<noscript><meta http-equiv="refresh" content="{RELOAD_SECONDS}"></noscript>' if running else ""
    facts = {"reload": RELOAD_SECONDS if running else None, "plots": plots, "name": view.name}
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
        _plotly(),
        "</script>\n<script>",
        _asset("page.js"),
        "</script></body></html>\n",
    ]


def _body(view: SearchView, space: dict[str, Any], examples: ExampleSet | None, plots: dict[str, Variants]) -> Markup:
    """All sections that have something to say, in order; their figures are added to `plots`."""
    parts: list[tuple[str, str, Markup]] = [("answer", "Answer", answer.answer(view))]
    if view.scored:
        parts += _plotted(view, plots)
    if examples is not None and examples.examples:
        parts.append(("examples", "Examples", sections.examples(examples)))
    if view.trials:
        parts.append(("trials-section", "Trials", sections.trials_table(view)))
    parts.append(("method", "How it was made", sections.method(view, space)))
    blocks = [
        f'<section id="{key}"><h2>{escape(title)}</h2>{content}</section>' for key, title, content in parts if content
    ]
    return answer.header(view, [(key, title) for key, title, _ in parts]) + "\n".join(blocks)


def _plotted(view: SearchView, plots: dict[str, Variants]) -> list[tuple[str, str, Markup]]:
    found = setting_figures.ranked_settings(view)
    timeline, n_slots = figures.timeline(view)
    plots["tradeoff-vectors"] = figures.tradeoff(view, "vectors")
    plots["tradeoff-ratio"] = figures.tradeoff(view, "ratio")
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
        ("curves-section", "Learning curves", sections.curves(view)),
        ("settings", "What mattered", sections.importance(view, found)),
        ("course", "The search over time", sections.course(view, n_slots)),
    ]


def _json_for_html(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """plotly.js as the plotly package ships it, read once per process; the package itself is not imported."""
    spec = importlib.util.find_spec("plotly")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("plotly is not installed: pip install -r requirements.txt")
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
