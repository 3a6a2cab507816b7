"""Tables and best/ say what the journal says, typed, and are replaced as a whole."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmp.results.best import BestNote, OlderWeightsError, read_note, replace_best
from cmp.results.history import History
from cmp.results.space_file import read_space_file, write_space_file
from cmp.results.tables import TRIAL_COLUMNS, write_results_parquet, write_trials_csv
from cmp.space.domains import Choice, Domain, Int, LogUniform
from cmp.space.loading import load_space
from cmp.space.space import Space

SEARCHED: dict[str, Domain] = {"lr": LogUniform(1e-4, 1e-1), "n_cmps": Int(2, 16), "cmp_layer": Choice(("half", -1, 6))}


SPACE = Space.from_dict(
    {"model_string": "m", "dataset": "d", **{name: domain.to_plain() for name, domain in SEARCHED.items()}}
)


def metrics(epoch: int, val_loss: float | None) -> dict[str, Any]:
    bounds = {"no_context_loss": 3.0, "full_context_loss": 1.0, "compression_ratio": 25.0}
    recovered = None if val_loss is None else (3.0 - val_loss) / 2.0
    return {"epoch": epoch, "loops": 100 * epoch, "val_loss": val_loss, "recovered": recovered, **bounds}


def history() -> History:
    events: list[dict[str, Any]] = [{"event": "session", "run": 1}]
    for trial, layer in enumerate(["half", -1, 6, 6]):
        settings = {"lr": 0.001 * (trial + 1), "n_cmps": 4, "cmp_layer": layer}
        events.append({"event": "suggested", "trial": trial, "settings": settings})
    losses = {0: [2.5, 2.1, 2.2], 1: [2.0, None], 2: [2.4]}
    for trial, values in losses.items():
        events.append({"event": "started", "trial": trial, "attempt": 1})
        for epoch, loss in enumerate(values, start=1):
            events.append({"event": "reported", "trial": trial, "epoch": epoch, "metrics": metrics(epoch, loss)})
    events.append({"event": "finished", "trial": 0, "epoch": 3})
    events.append({"event": "failed", "trial": 1, "kind": "diverged", "reason": "r", "log": "l", "epoch": 2})
    events.append({"event": "stopped", "trial": 2, "epoch": 1, "rung": 1})
    return History.from_events({"time": 1000.0 + index, **event} for index, event in enumerate(events))


def test_trials_csv_has_designs_columns_and_the_best_trial_first(tmp_path: Path) -> None:
    write_trials_csv(tmp_path / "trials.csv", history(), SPACE)
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    columns = (
        "trial status epoch loops seconds val_loss positions front worth_tokens gain carried swapped_loss recovered "
    )
    columns += "no_context_loss full_context_loss compression_ratio"
    assert list(rows[0]) == [*columns.split(), "lr", "n_cmps", "cmp_layer"] == [*TRIAL_COLUMNS, *SEARCHED]
    # One that diverged later has its best epoch; the one without a report comes last.
    assert [row["trial"] for row in rows] == ["1", "0", "2", "3"]
    assert [row["status"] for row in rows] == ["diverged", "finished", "stopped", "waiting"]
    best = rows[1]
    assert (best["val_loss"], best["epoch"], best["loops"]) == ("2.1", "3", "300")
    assert float(best["recovered"]) == pytest.approx(0.45)
    # Started at event 5, finished at event 14; trials wait for one another in this journal.
    assert best["seconds"] == "9.0"
    assert rows[3]["val_loss"] == ""
    assert (best["worth_tokens"], best["gain"]) == ("", ""), "no text curve is known"
    assert [row["positions"] for row in rows] == ["4", "4", "4", ""]
    assert [row["front"] for row in rows] == ["4", "", "", ""]


def test_tables_say_what_losses_are_worth_once_the_text_control_is_there(tmp_path: Path) -> None:
    curve = {"epoch": 3, "val_loss": 2.5, "text_curve": {"0": 2.5, "1": 2.3, "2": 2.1, "4": 1.9}}
    events = [{"event": "suggested", "trial": -1, "role": "control", "settings": {}, "time": 1000.5}]
    events += [{"event": "reported", "trial": -1, "epoch": 3, "metrics": curve, "time": 1000.6}]
    known = history()
    for event in events:
        known.apply(event)
    for trial in known.trials.values():
        for report in trial.reports:
            report["positions"] = 4

    write_trials_csv(tmp_path / "trials.csv", known, SPACE)
    write_results_parquet(tmp_path / "results.parquet", known, SEARCHED)

    with (tmp_path / "trials.csv").open() as file:
        best = next(row for row in csv.DictReader(file) if row["trial"] == "0")
    assert float(best["worth_tokens"]) == pytest.approx(2.0)
    assert float(best["gain"]) == pytest.approx(0.5)
    assert float(best["carried"]) == pytest.approx(0.4 / 0.6)
    table = pq.read_table(tmp_path / "results.parquet")
    assert table["worth_tokens"].to_pylist()[:2] == [0.0, pytest.approx(2.0)]
    assert set(table["trial"].to_pylist()) == {0, 1, 2}, "the control is no row: its losses are of another kind"


def test_results_parquet_has_one_typed_row_per_report(tmp_path: Path) -> None:
    write_results_parquet(tmp_path / "results.parquet", history(), SEARCHED)
    table = pq.read_table(tmp_path / "results.parquet")
    assert table.num_rows == 6
    assert table.schema.field("trial").type == pa.int64()
    assert table.schema.field("val_loss").type == pa.float64()
    assert table.schema.field("setting.lr").type == pa.float64()
    assert table.schema.field("setting.n_cmps").type == pa.int64()
    assert table["setting.cmp_layer"].to_pylist() == ["half", "half", "half", "-1", "-1", "6"]
    assert table["val_loss"].to_pylist() == [2.5, 2.1, 2.2, 2.0, None, 2.4]
    assert table["val_ppl"].to_pylist() == [None] * 6
    assert table["time"][0].as_py().timestamp() == 1006.0


def test_tables_of_an_empty_search_can_be_read(tmp_path: Path) -> None:
    write_trials_csv(tmp_path / "trials.csv", History(), SPACE)
    write_results_parquet(tmp_path / "results.parquet", History(), SEARCHED)
    assert (tmp_path / "trials.csv").read_text().count("\n") == 1
    assert pq.read_table(tmp_path / "results.parquet").num_rows == 0


def test_the_best_trial_is_the_lowest_loss_of_any_epoch_also_of_a_trial_that_failed_later() -> None:
    best = history().best()
    assert best is not None and best.best_report is not None
    assert (best.number, best.best_report["epoch"]) == (1, 1)


def test_time_between_sessions_counts_neither_for_a_trial_nor_for_the_search() -> None:
    events = [
        {"event": "session", "run": 1, "time": 0.0},
        {"event": "suggested", "trial": 0, "settings": {}, "time": 1.0},
        {"event": "started", "trial": 0, "attempt": 1, "time": 2.0},
        {"event": "reported", "trial": 0, "epoch": 1, "metrics": {"epoch": 1, "val_loss": 2.0}, "time": 5.0},
        {"event": "session", "run": 2, "time": 1000.0},
        {"event": "finished", "trial": 0, "epoch": 1, "time": 1001.0},
    ]
    trial = History.from_events(events).trials[0]
    assert trial.seconds == 3.0
    assert History.from_events(events).seconds == 6.0


NOTE = BestNote(trial=7, epoch=3, val_loss=2.5, partial=True, settings={"lr": 0.1})


def fill(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "compressor.safetensors"):
        (folder / name).write_text(text)
    return folder


def test_best_is_replaced_as_a_whole_and_says_where_it_comes_from(tmp_path: Path) -> None:
    best = tmp_path / "best"
    replace_best(best, fill(tmp_path / "a", "old"), NOTE)
    (best / "extra").write_text("of the old one")
    replace_best(best, fill(tmp_path / "b", "new"), NOTE)
    assert sorted(path.name for path in best.iterdir()) == ["compressor.safetensors", "config.json", "search.json"]
    assert (best / "config.json").read_text() == "new"
    assert read_note(best) == NOTE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "best"]


def test_best_waits_for_a_trial_that_is_replacing_its_own(tmp_path: Path) -> None:
    source = tmp_path / "trial"
    pauses: list[float] = []

    def appear(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            fill(source, "there")

    replace_best(tmp_path / "best", source, NOTE, pause=appear)
    assert (tmp_path / "best" / "config.json").read_text() == "there"


def test_a_source_that_never_comes_leaves_the_old_best(tmp_path: Path) -> None:
    replace_best(tmp_path / "best", fill(tmp_path / "a", "old"), NOTE)
    with pytest.raises(FileNotFoundError):
        replace_best(tmp_path / "best", tmp_path / "missing", NOTE, pause=lambda seconds: None)
    assert (tmp_path / "best" / "config.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "best"]


def of_epoch(folder: Path, epoch: int, val_loss: float) -> Path:
    """A trial's best/ with weights of this epoch."""
    fill(folder, "weights")
    (folder / "config.json").write_text(json.dumps({"origin": {"metrics": {"epoch": epoch, "val_loss": val_loss}}}))
    return folder


def test_the_note_is_never_of_another_epoch_than_the_weights(tmp_path: Path) -> None:
    """A trial on a full disk keeps its older best/, and the note said the newer epoch."""
    best, wanted = tmp_path / "best", replace(NOTE, epoch=5, val_loss=2.0)
    replace_best(best, of_epoch(tmp_path / "a", 5, 2.0), wanted)
    assert read_note(best) == wanted
    with pytest.raises(OlderWeightsError, match="holds epoch 3 of trial"):
        replace_best(best, of_epoch(tmp_path / "b", 3, 2.4), wanted)
    assert read_note(best) == wanted
    replace_best(best, of_epoch(tmp_path / "c", 6, 1.9), wanted)

    assert read_note(best) == replace(wanted, epoch=6, val_loss=1.9), "its report is on its way"


def test_a_torn_note_is_no_note(tmp_path: Path) -> None:
    assert read_note(tmp_path) is None
    (tmp_path / "search.json").write_text(json.dumps({"trial": 1})[:-3])
    assert read_note(tmp_path) is None


def test_space_yaml_is_a_space_file_itself(tmp_path: Path) -> None:
    space = Space.from_dict({"model_string": "m", "dataset": "glue", "lr": {"loguniform": [1e-4, 1e-1]}})
    write_space_file(tmp_path / "space.yaml", space.to_dict(), {"torch": "2.13.0"}, "abc-dirty")
    assert Space.from_dict(read_space_file(tmp_path / "space.yaml")) == space
    assert load_space(tmp_path / "space.yaml") == space
    text = (tmp_path / "space.yaml").read_text()
    assert "# versions: torch 2.13.0\n# commit: abc-dirty\n" in text
