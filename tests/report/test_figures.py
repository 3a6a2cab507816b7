import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmp.report import figures, setting_figures
from cmp.report.view import SearchView, build
from cmp.results.history import History
from cmp.results.journal import read_events
from cmp.results.space_file import read_space_file
from cmp.space.space import Space


def view_of(folder: Path) -> SearchView:
    space = Space.from_dict(read_space_file(folder / "space.yaml"))
    return build(History.from_events(read_events(folder / "journal.jsonl")), space)


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def lowest_losses(folder: Path) -> dict[int, float]:
    """Best val_loss by trial, read from the journal by hand."""
    lowest: dict[int, float] = {}
    for event in journal(folder):
        if event["event"] == "reported":
            loss = event["metrics"]["val_loss"]
            lowest[event["trial"]] = min(loss, lowest.get(event["trial"], loss))
    return lowest


def named(figure: dict[str, Any], *names: str) -> list[dict[str, Any]]:
    return [trace for trace in figure["data"] if trace["name"] in names]


OUTCOMES = tuple(figures.GROUP_NAMES.values())


@pytest.mark.parametrize("kind", ["one", "typical", "many"])
@pytest.mark.parametrize("against", ["positions", "ratio"])
def test_the_trade_off_has_one_point_per_trial_at_its_best_loss(
    results: Callable[[str], Path], kind: str, against: str
) -> None:
    folder = results(kind)

    traces = named(figures.tradeoff(view_of(folder), against)["val_loss"], *OUTCOMES)

    shown = {n: y for trace in traces for n, y in zip(trace["customdata"], trace["y"], strict=True)}
    assert shown == lowest_losses(folder)


def test_learning_curves_hold_every_report_of_the_journal(results: Callable[[str], Path]) -> None:
    folder = results("typical")

    traces = named(figures.curves(view_of(folder))["val_loss"], *OUTCOMES, "best")

    shown = {
        (n, x, y)
        for trace in traces
        for n, x, y in zip(trace["customdata"], trace["x"], trace["y"], strict=True)
        if x is not None
    }
    reported = {(e["trial"], e["epoch"], e["metrics"]["val_loss"]) for e in journal(folder) if e["event"] == "reported"}
    assert shown == reported


def test_stops_are_marked_where_the_journal_has_them(results: Callable[[str], Path]) -> None:
    folder = results("typical")

    (trace,) = named(figures.curves(view_of(folder))["val_loss"], "stopped here")

    shown = set(zip(trace["customdata"], trace["x"], strict=True))
    assert shown == {(e["trial"], e["epoch"]) for e in journal(folder) if e["event"] == "stopped"}


def test_the_best_so_far_only_falls_and_ends_at_the_best(results: Callable[[str], Path]) -> None:
    folder = results("typical")
    view = view_of(folder)

    (stairs,) = named(figures.best_over_time(view)["val_loss"], "best so far")

    assert stairs["y"] == sorted(stairs["y"], reverse=True)
    assert view.best is not None and stairs["y"][-1] == view.best.loss


def test_the_timeline_has_a_bar_per_attempt_and_no_two_overlap_on_a_slot(results: Callable[[str], Path]) -> None:
    folder = results("many")

    variants, n_slots = figures.timeline(view_of(folder))

    bars = sorted(
        (slot, start, start + length)
        for trace in variants["slots"]["data"]
        for slot, start, length in zip(trace["y"], trace["base"], trace["x"], strict=True)
    )
    assert n_slots == 8
    assert len(bars) == sum(e["event"] == "started" for e in journal(folder))
    assert all(a[0] != b[0] or a[2] <= b[1] + 1e-9 for a, b in itertools.pairwise(bars))


def test_a_slice_places_choices_by_name_and_numbers_by_value(results: Callable[[str], Path]) -> None:
    view = view_of(results("typical"))

    layer = setting_figures.slice_plot(view, "cmp_layer")["val_loss"]
    lr = setting_figures.slice_plot(view, "lr")["val_loss"]

    assert layer["layout"]["xaxis"]["ticktext"] == ["half", "-1", "2"]
    settings = {t.number: t.record.settings for t in view.trials}
    for trace in named(layer, *OUTCOMES):
        for number, x in zip(trace["customdata"], trace["x"], strict=True):
            assert ["half", -1, 2][round(x)] == settings[number]["cmp_layer"]
    for trace in named(lr, *OUTCOMES):
        assert trace["x"] == [settings[number]["lr"] for number in trace["customdata"]]
    assert lr["layout"]["xaxis"]["type"] == "log"


def test_parallel_coordinates_hold_every_scored_trial_and_end_with_the_best(results: Callable[[str], Path]) -> None:
    folder = results("typical")
    view = view_of(folder)
    lowest = lowest_losses(folder)
    low, high = min(lowest.values()), max(lowest.values())

    figure = setting_figures.parallel(view)["val_loss"]

    axes = figure["layout"]["xaxis"]["ticktext"]
    points = [p for t in figure["data"] for p in zip(t["customdata"], t["x"], t["y"], strict=True) if p[1] is not None]
    on_the_last = {number: y for number, x, y in points if x == len(axes) - 1}
    assert axes == [*view.domains, "val_loss"]
    assert len(points) == len(lowest) * len(axes)
    assert on_the_last == pytest.approx({n: (loss - low) / (high - low) for n, loss in lowest.items()}, abs=1e-4)
    assert view.best is not None and set(figure["data"][-1]["customdata"]) == {view.best.number}


@pytest.mark.parametrize("kind", ["one", "failed", "typical", "harmful", "many"])
def test_figures_are_plain_json_without_nan(results: Callable[[str], Path], kind: str) -> None:
    view = view_of(results(kind))
    drawn = [figures.tradeoff(view, "ratio"), figures.curves(view), figures.best_over_time(view)]
    drawn += [setting_figures.slice_plot(view, name) for name in view.domains]

    json.dumps([drawn, figures.timeline(view), setting_figures.parallel(view)], allow_nan=False)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(1e-4, 1e-1, [1e-4, 1e-3, 1e-2, 1e-1]), (2e-3, 2e-2, [2e-3, 5e-3, 1e-2, 2e-2]), (0.3, 0.5, [0.3, 0.5])],
)
def test_log_axes_have_round_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert setting_figures._log_ticks(low, high) == pytest.approx(ticks)
