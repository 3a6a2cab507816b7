"""What a person asks of a search that runs in another process."""

import subprocess
import sys
import time
from pathlib import Path

from tests.search.check_journal import violations
from tests.whole_program.harness import REPOSITORY, Search


def test_a_trial_is_stopped_from_another_process_and_the_search_goes_on(tmp_path: Path) -> None:
    search = Search(tmp_path, {"n_epochs": 40, "search": {"num_samples": 2, "max_concurrent": 1, "control": False}})
    run = search.start("--set", "search.num_samples=1", epoch_seconds=0.3)
    while not search.events("reported"):
        assert run.process.poll() is None, run.text()
        time.sleep(0.1)

    command = [sys.executable, "search.py", str(search.space), "--stop-trial", "0"]
    asked = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)

    assert asked.returncode == 0 and "Trial 0 leaves after its next report" in asked.stdout
    assert run.wait(120) == 0, run.text()
    (stopped,) = search.events("stopped")
    assert (stopped["trial"], stopped["reason"], stopped["rung"]) == (0, "user", None)
    assert stopped["epoch"] < 40
    assert violations(search.journal, ended=True) == []
    assert "stopped after epoch" in run.text() and "as you asked" in run.text()
    assert not list((search.results / ".requests").iterdir())
