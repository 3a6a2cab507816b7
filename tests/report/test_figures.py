import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmp.report import figures, setting_figures
from cmp.report.tradeoff_figures import ADAPTED, BARE, tradeoff
from cmp.report.view import SearchView, build
from cmp.results.history import History
from cmp.results.journal import read_events
from cmp.results.space_file import read_space_file
from cmp.space.space import Space
from tests.report.honest import plain_loss, text_loss


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

    traces = named(tradeoff(view_of(folder), against)["val_loss"], *OUTCOMES)

    shown = {n: y for trace in traces for n, y in zip(trace["customdata"], trace["y"], strict=True)}
    assert shown == lowest_losses(folder)


def test_plain_text_at_the_same_price_is_the_line_to_beat(results: Callable[[str], Path]) -> None:
    view = view_of(results("tested"))
    prices = [point.positions for point, _ in view.points]

    found = tradeoff(view, "positions")

    (adapted,), (bare,) = named(found["val_loss"], ADAPTED), named(found["val_loss"], BARE)
    assert adapted["x"] == bare["x"] == [1, 2, 4, 8, 16, 20]
    assert (min(prices), max(prices)) == (1, 20)
    assert adapted["y"][:5] == pytest.approx([text_loss(k) for k in (1, 2, 4, 8, 16)])
    assert bare["y"][:5] == pytest.approx([plain_loss(k) for k in (1, 2, 4, 8, 16)])
    assert "dash" not in adapted["line"] and bare["line"]["dash"] == "dash"
    low, high = found["val_loss"]["layout"]["yaxis"]["range"]
    assert low < min(adapted["y"]) and max(adapted["y"]) < high
    (gain_line,) = found["gain"]["layout"]["shapes"]
    assert gain_line["y0"] == 1.0
    assert not named(found["gain"], ADAPTED)


def test_points_under_the_line_are_those_with_a_gain_above_one(results: Callable[[str], Path]) -> None:
    view = view_of(results("tested"))
    found, curve = tradeoff(view, "positions"), view.text_curve
    assert curve is not None

    losses, gains = (named(found[name], *OUTCOMES) for name in ("val_loss", "gain"))
    points = [
        (loss < curve.loss(x), gain > 1)
        for by_loss, by_gain in zip(losses, gains, strict=True)
        for x, loss, gain in zip(by_loss["x"], by_loss["y"], by_gain["y"], strict=True)
    ]

    assert {under for under, _ in points} == {True, False}
    assert all(under == above for under, above in points)


def test_a_nested_trial_is_a_line_through_all_its_numbers_of_vectors(results: Callable[[str], Path]) -> None:
    folder = results("tested")
    view = view_of(folder)

    (trace,) = named(tradeoff(view, "positions")["val_loss"], "nested, in part")

    nested = {t.number: t for t in view.trials if t.best and t.best["nested"] and not t.failed}
    expected = {
        (number, float(size) + t.record.settings["keep_len"], loss)
        for number, t in nested.items()
        for size, loss in [*(t.best or {})["nested"].items(), (t.record.settings["n_cmps"], t.loss)]
    }
    drawn = list(zip(trace["customdata"], trace["x"], trace["y"], strict=True))
    assert {point for point in drawn if point[1] is not None} == expected
    assert sum(x is None for x in trace["x"]) == len(nested)
    for (one, x, _), (other, after, _) in itertools.pairwise(drawn):
        assert None in (x, after) or (one == other and x < after)


@pytest.mark.parametrize(
    ("kind", "names"), [("no-control", [BARE]), ("typical", []), ("useless-text", [BARE, ADAPTED])]
)
def test_the_text_lines_are_those_that_the_search_has(
    results: Callable[[str], Path], kind: str, names: list[str]
) -> None:
    found = tradeoff(view_of(results(kind)), "positions")

    assert [trace["name"] for trace in named(found["val_loss"], BARE, ADAPTED)] == names
    assert ("gain" in found) == (kind == "no-control")


def test_learning_curves_lie_beside_the_adapted_model_and_text_at_the_bests_price(
    results: Callable[[str], Path],
) -> None:
    view = view_of(results("tested"))
    assert view.text_curve is not None and view.best_point is not None

    layout = figures.curves(view)["val_loss"]["layout"]

    levels = {shape["y0"] for shape in layout["shapes"] if shape.get("xref") == "paper"}
    labels = [note["text"] for note in layout["annotations"]]
    assert {text_loss(0), view.text_curve.loss(view.best_point.positions)} <= levels
    assert "adapted, no text 1.950" in labels
    assert any(label.startswith("20 tokens of text ") for label in labels)
    assert layout["yaxis"]["range"][0] < text_loss(0) < layout["yaxis"]["range"][1]


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


def test_the_text_control_and_finalists_are_on_the_timeline_too(results: Callable[[str], Path]) -> None:
    view = view_of(results("tested"))

    variants, _ = figures.timeline(view)

    shown = {text for trace in variants["slots"]["data"] for text in trace["text"]}
    assert {"text", "8 seed 1", "8 seed 2", "0", "11"} <= shown
    assert {-1, -2} <= figures.trials_in([variants])
    assert figures.hover(view, view.extras[0]).startswith("<b>the text control</b> · finished")
    assert "worth " not in figures.hover(view, view.extras[0])
    best = next(t for t in view.trials if t is view.best)
    assert "tokens of text at 20 positions · gain 1.1" in figures.hover(view, best)


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


@pytest.mark.parametrize(
    "kind", ["one", "failed", "typical", "harmful", "many", "tested", "control-running", "useless-text"]
)
def test_figures_are_plain_json_without_nan(results: Callable[[str], Path], kind: str) -> None:
    view = view_of(results(kind))
    drawn = [tradeoff(view, "positions"), tradeoff(view, "ratio"), figures.curves(view), figures.best_over_time(view)]
    drawn += [setting_figures.slice_plot(view, name) for name in view.domains]

    json.dumps([drawn, figures.timeline(view), setting_figures.parallel(view)], allow_nan=False)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(1e-4, 1e-1, [1e-4, 1e-3, 1e-2, 1e-1]), (2e-3, 2e-2, [2e-3, 5e-3, 1e-2, 2e-2]), (0.3, 0.5, [0.3, 0.5])],
)
def test_log_axes_have_round_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert setting_figures._log_ticks(low, high) == pytest.approx(ticks)
