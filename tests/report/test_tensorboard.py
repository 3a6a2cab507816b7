import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmp.report.tensorboard import RESULTS, TensorBoardWriter
from cmp.results.history import History
from cmp.results.journal import read_events

accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
)
pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")


def read(folder: Path, trial: int) -> Any:
    run = accumulator.EventAccumulator(str(folder / "tensorboard" / f"trial-{trial:04d}"))
    run.Reload()
    return run


def journalled(folder: Path, trial: int, name: str) -> list[tuple[int, float]]:
    events = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    mine = [e["metrics"] for e in events if e["event"] == "reported" and e["trial"] == trial]
    return [(m["loops"], m[name]) for m in mine]


def hyperparameters(run: Any) -> dict[str, Any]:
    from tensorboard.plugins.hparams import metadata

    content = run.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    return dict(metadata.parse_session_start_info_plugin_data(content).hparams)


def test_scalars_are_those_of_the_journal(results: Callable[[str], Path]) -> None:
    folder = results("typical")
    writer = TensorBoardWriter(folder)

    writer.update(History.from_events(read_events(folder / "journal.jsonl")))
    writer.close()

    for name in ("val_loss", "recovered", "lr"):
        shown = [(s.step, s.value) for s in read(folder, 0).Scalars(name)]
        assert [step for step, _ in shown] == [step for step, _ in journalled(folder, 0, name)]
        assert [v for _, v in shown] == pytest.approx([v for _, v in journalled(folder, 0, name)], rel=1e-6)


def test_hparams_hold_settings_and_result_and_one_type_for_each_setting(results: Callable[[str], Path]) -> None:
    folder = results("typical")
    writer = TensorBoardWriter(folder)

    writer.update(History.from_events(read_events(folder / "journal.jsonl")))
    writer.close()

    history = History.from_events(read_events(folder / "journal.jsonl"))
    for number in (0, 5):
        run = read(folder, number)
        shown, settings = hyperparameters(run), history.trials[number].settings
        assert shown["lr"].number_value == pytest.approx(settings["lr"])
        assert shown["cmp_layer"].string_value == str(settings["cmp_layer"])
        assert {"best/val_loss", "best/recovered", "best/compression_ratio"} <= set(run.Tags()["scalars"])
        assert run.Scalars("best/val_loss")[-1].value == pytest.approx(history.trials[number].val_loss, rel=1e-6)


def test_reports_arrive_one_by_one_and_none_is_repeated(results: Callable[[str], Path]) -> None:
    folder = results("typical")
    history, writer = History(), TensorBoardWriter(folder)

    for event in read_events(folder / "journal.jsonl"):
        history.apply(event)
        writer.update(history)

    for trial in history.trials:
        steps = [s.step for s in read(folder, trial).Scalars("val_loss")]
        assert steps == [loops for loops, _ in journalled(folder, trial, "val_loss")]


def test_a_resumed_search_writes_its_view_anew(results: Callable[[str], Path]) -> None:
    folder = results("running")
    for _ in range(2):
        writer = TensorBoardWriter(folder)
        writer.update(History.from_events(read_events(folder / "journal.jsonl")))
        writer.close()

    steps = [s.step for s in read(folder, 0).Scalars("val_loss")]

    assert steps == [loops for loops, _ in journalled(folder, 0, "val_loss")]


def test_the_module_imports_without_tensorboardx() -> None:
    program = (
        "import sys; sys.modules['tensorboardX'] = None; import cmp.report.tensorboard; "
        "print('torch' in sys.modules, 'tensorboardX.summary' in sys.modules)"
    )

    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )

    assert printed.stdout.split() == ["False", "False"]


def test_a_trial_that_ended_is_written_once_however_often_the_search_resumes(results: Callable[[str], Path]) -> None:
    folder = results("typical")
    history = History.from_events(read_events(folder / "journal.jsonl"))
    for _ in range(2):
        writer = TensorBoardWriter(folder)
        writer.update(history)
        writer.close()
        written = {path: path.stat().st_mtime_ns for path in folder.glob("tensorboard/*/events*")}
        assert len(written) == len(history.trials)
    again = TensorBoardWriter(folder)
    again.update(history)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("tensorboard/*/events*")} == written

    (folder / "tensorboard" / "trial-0000" / "whole").write_text("finished after 1 reports\n")
    TensorBoardWriter(folder).update(history)
    assert [s.step for s in read(folder, 0).Scalars("val_loss")] == [
        loops for loops, _ in journalled(folder, 0, "val_loss")
    ]


def test_worth_is_written_by_the_text_controls_curve_also_for_trials_that_ended_before_it(
    results: Callable[[str], Path],
) -> None:
    folder = results("tested")
    events = list(read_events(folder / "journal.jsonl"))
    (last,) = [i for i, e in enumerate(events) if e["event"] == "reported" and e["metrics"].get("text_curve")]
    history, writer = History.from_events(events[:last]), TensorBoardWriter(folder)
    ended = next(number for number, trial in history.trials.items() if trial.has_ended)
    writer.update(history)
    assert "gain" not in read(folder, ended).Tags()["scalars"], "the bare model's text would make it several times that"

    for event in events[last:]:
        history.apply(event)
    writer.update(history)
    writer.close()

    report = history.trials[ended].best_report
    worth = history.worth_of(report) if report else None
    assert worth is not None and report is not None
    shown = read(folder, ended)
    assert set(RESULTS) <= set(shown.Tags()["scalars"])
    assert shown.Scalars("best/gain")[-1].value == pytest.approx(worth.gain, rel=1e-6)
    assert shown.Scalars("swapped_loss")[-1].value == pytest.approx(history.trials[ended].reports[-1]["swapped_loss"])
    written = {path: path.stat().st_mtime_ns for path in folder.glob("tensorboard/*/events*")}
    again = TensorBoardWriter(folder)
    again.update(history)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("tensorboard/*/events*")} == written
