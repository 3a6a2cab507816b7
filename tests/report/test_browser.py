"""The page in a real Chromium: it renders, complains of nothing, sorts, and shows what the journal holds."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cmp.report import page as page_module
from cmp.report.page import write_page
from tests.report.synthetic import write_folder

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

WIDTHS = {"laptop": 1280, "phone": 390}


def wait_for(browser: "Chrome", condition: str, seconds: float = 90.0) -> None:
    """Wait until a JavaScript expression is true."""
    end = time.monotonic() + seconds
    while not browser.execute_script(f"return {condition}"):
        assert time.monotonic() < end, f"{condition} did not become true in {seconds} s"
        time.sleep(0.05)


def show(browser: "Chrome", page: Path, *, width: int = 1280, dark: bool = False) -> None:
    """Open a page afresh at a width and theme, and wait until all plots are drawn."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get_log("browser")
    browser.get(page.as_uri())
    browser.execute_script("sessionStorage.clear()")
    wait_for(browser, "document.documentElement.dataset.drawn === 'yes'")


def complaints(browser: "Chrome") -> list[str]:
    """What the page wrote to the console, but for the software renderer's remarks about its own speed."""
    return [entry["message"] for entry in browser.get_log("browser") if "GL Driver Message" not in entry["message"]]


def column(browser: "Chrome", heading: str) -> list[str]:
    """The sort values of one column of the trials table, as shown from top to bottom."""
    script = """
      const heads = [...document.querySelectorAll('#trials th')].map((head) => head.textContent);
      const index = heads.indexOf(arguments[0]);
      return [...document.querySelectorAll('#trials tbody tr')].filter((row) => !row.hidden)
        .map((row) => row.cells[index].dataset.v);"""
    return browser.execute_script(script, heading)


def click_heading(browser: "Chrome", heading: str) -> None:
    script = "[...document.querySelectorAll('#trials th button')].find((b) => b.textContent === arguments[0]).click()"
    browser.execute_script(script, heading)


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["none", "one", "failed", "typical", "many"])
def test_every_state_renders_without_a_complaint_and_fits_a_phone(
    browser: "Chrome", pages: Callable[[str], Path], kind: str
) -> None:
    show(browser, pages(kind) / "report.html", width=WIDTHS["phone"], dark=True)

    drawn = browser.execute_script("return document.querySelectorAll('.plot').length")
    empty = browser.execute_script("return [...document.querySelectorAll('.plot')].filter((p) => !p.firstChild).length")
    has_results = any(event["event"] == "reported" for event in journal(pages(kind)))
    assert complaints(browser) == []
    assert (drawn > 0) == has_results and empty == 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= WIDTHS["phone"]


def test_the_plots_hold_the_points_of_the_journal(browser: "Chrome", pages: Callable[[str], Path]) -> None:
    folder = pages("typical")
    show(browser, folder / "report.html")

    script = """
      const points = [];
      for (const trace of document.getElementById('curves').data) {
        if (trace.name === 'stopped here') continue;
        trace.x.forEach((x, i) => x === null || points.push([trace.customdata[i], x, trace.y[i]]));
      }
      return points;"""
    shown = {tuple(point) for point in browser.execute_script(script)}
    circles = browser.execute_script("return document.querySelectorAll('#tradeoff-positions .points path').length")

    reported = [e for e in journal(folder) if e["event"] == "reported"]
    assert shown == {(e["trial"], e["epoch"], float(f"{e['metrics']['val_loss']:.6g}")) for e in reported}
    assert circles == len({e["trial"] for e in reported}) + 1, "one mark per trial, and the ring around the best"


def test_the_switch_shows_the_recovered_share(browser: "Chrome", pages: Callable[[str], Path]) -> None:
    folder = pages("typical")
    show(browser, folder / "report.html")
    best: dict[int, float] = {}
    for event in journal(folder):
        if event["event"] == "reported":
            best[event["trial"]] = max(event["metrics"]["recovered"], best.get(event["trial"], -9.0))

    browser.execute_script("document.querySelector('[data-variant=recovered]').click()")
    wait_for(browser, "document.getElementById('tradeoff-ratio').layout.yaxis.title.text === 'recovered'")

    script = """return document.getElementById('tradeoff-ratio').data.filter((trace) => trace.customdata)
      .flatMap((trace) => trace.customdata.map((n, i) => [n, trace.y[i]]))"""
    assert dict(browser.execute_script(script)) == pytest.approx(best, rel=1e-5), "plots hold six digits"


def test_the_table_sorts_by_number_and_by_word_both_ways(browser: "Chrome", pages: Callable[[str], Path]) -> None:
    show(browser, pages("typical") / "report.html")

    click_heading(browser, "lr")
    rates = [float(v) for v in column(browser, "lr")]
    click_heading(browser, "lr")
    reversed_rates = [float(v) for v in column(browser, "lr")]
    click_heading(browser, "outcome")
    outcomes = column(browser, "outcome")

    assert rates == sorted(rates) and len(rates) == 12
    assert reversed_rates == rates[::-1]
    assert outcomes == sorted(outcomes)


def test_trials_without_a_loss_stay_at_the_end_whichever_way_it_is_sorted(
    browser: "Chrome", results: Callable[[str], Path]
) -> None:
    folder = results("typical")
    extra = {"time": 1.8e9, "event": "suggested", "trial": 99, "settings": journal(folder)[1]["settings"]}
    with (folder / "journal.jsonl").open("a") as lines:
        lines.write(json.dumps(extra) + "\n")
    show(browser, write_page(folder))

    for _ in range(2):
        click_heading(browser, "val_loss")
        assert column(browser, "val_loss")[-1] == ""


def test_the_filter_keeps_the_rows_that_hold_every_word(browser: "Chrome", pages: Callable[[str], Path]) -> None:
    show(browser, pages("typical") / "report.html")

    browser.execute_script("""
      const box = document.getElementById('filter');
      box.value = 'not FINITE'; box.dispatchEvent(new Event('input'));""")

    assert column(browser, "outcome") == ["diverged"]


def test_a_point_leads_to_its_row(browser: "Chrome", pages: Callable[[str], Path]) -> None:
    show(browser, pages("typical") / "report.html")

    browser.execute_script(
        "document.getElementById('tradeoff-ratio').emit('plotly_click', {points: [{customdata: 3}]})"
    )

    assert browser.execute_script("return document.querySelector('#trials tr.found').id") == "trial-3"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_and_its_plots_follow_the_theme(browser: "Chrome", pages: Callable[[str], Path], dark: bool) -> None:
    show(browser, pages("one") / "report.html", dark=dark)

    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    ink = browser.execute_script("return document.getElementById('curves').layout.hoverlabel.font.color")
    brightness = sum(int(part) for part in paper.removeprefix("rgb(").removesuffix(")").split(",")) / 3

    assert (brightness < 60) == dark
    assert ink == ("#e4e2dd" if dark else "#1d2125")


def test_a_running_page_reads_itself_again_and_keeps_the_readers_place(
    browser: "Chrome", results: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "RELOAD_SECONDS", 2)
    folder = results("running")
    show(browser, write_page(folder))
    click_heading(browser, "lr")
    browser.execute_script("scrollTo(0, 1500); document.querySelector('details').open = true")

    write_folder(folder, "typical")
    write_page(folder)
    wait_for(browser, "document.getElementById('badge').textContent === 'final'")
    wait_for(browser, "document.documentElement.dataset.drawn === 'yes'")

    rates = [float(v) for v in column(browser, "lr")]
    assert len(rates) == 12 and rates == sorted(rates)
    assert browser.execute_script("return scrollY") == pytest.approx(1500, abs=2)
    assert browser.execute_script("return document.querySelector('details').open") is True


def test_reloading_can_be_turned_off(
    browser: "Chrome", results: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "RELOAD_SECONDS", 1)
    show(browser, write_page(results("running")))
    browser.execute_script("document.getElementById('reload').click(); window.untouched = true")

    time.sleep(3.5)

    assert browser.execute_script("return window.untouched") is True


def test_a_box_over_an_axis_keeps_the_lines_that_pass_it_and_a_double_click_clears_it(
    browser: "Chrome", pages: Callable[[str], Path]
) -> None:
    folder = pages("typical")
    show(browser, folder / "report.html")
    settings = {e["trial"]: e["settings"] for e in journal(folder) if e["event"] == "suggested"}
    scored = {e["trial"] for e in journal(folder) if e["event"] == "reported"}
    find = """
      const node = document.getElementById('parallel');
      const inside = node._fullLayout.xaxis, up = node._fullLayout.yaxis, corner = node.getBoundingClientRect();
      const axis = inside.ticktext.indexOf('cmp_layer');
      node.scrollIntoView({block: 'center', behavior: 'instant'});
      const top = node.getBoundingClientRect();
      return [[axis - 0.2, 0.2], [axis + 0.2, -0.02]].map(([x, y]) =>
        [top.left + inside._offset + inside.d2p(x), top.top + up._offset + up.d2p(y)]);"""
    kept = """
      return [...new Set(document.getElementById('parallel').data.filter((trace) => trace.hoverinfo !== 'skip')
        .flatMap((trace) => trace.customdata.filter((n, i) => trace.y[i] !== null)))];"""

    (left, top), (right, bottom) = browser.execute_script(find)
    drag(browser, (left, top), (right, bottom))
    wait_for(browser, "document.getElementById('parallel').layout.selections.length === 1")
    inside_box = set(browser.execute_script(kept))
    click_twice(browser, (left - 60, top))
    wait_for(browser, "document.getElementById('parallel').layout.selections.length === 0")

    assert inside_box == {n for n in scored if settings[n]["cmp_layer"] == "half"} != set()
    assert set(browser.execute_script(kept)) == scored
    assert complaints(browser) == []


def drag(browser: "Chrome", begin: tuple[float, float], end: tuple[float, float]) -> None:
    """Press the mouse at one point of the window, move it and let it go at another."""
    steps = [("mousePressed", begin), ("mouseMoved", end), ("mouseReleased", end)]
    for kind, (x, y) in [("mouseMoved", begin), *steps]:
        mouse = {"type": kind, "x": x, "y": y, "button": "left", "clickCount": 1}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", mouse | ({"buttons": 1} if kind != "mouseReleased" else {}))


def click_twice(browser: "Chrome", place: tuple[float, float]) -> None:
    for count in (1, 2):
        for kind in ("mousePressed", "mouseReleased"):
            mouse = {"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": count}
            browser.execute_cdp_cmd("Input.dispatchMouseEvent", mouse)
