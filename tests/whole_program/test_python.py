"""Searches from Python, in processes of their own: in a thread without a console, and on the caller's own Ray."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.whole_program.harness import REPOSITORY, Search

SETTINGS = {"n_epochs": 2, "n_train_loops": 2, "search": {"num_samples": 2, "control": False}}

IN_A_THREAD = """
import json, sys, threading, logging
from cmp import load_space, run_search
import ray

reports, results = [], []
space = load_space(sys.argv[1])
def work():
    results.append(run_search(space, on_report=lambda trial, report: reports.append((trial, report["epoch"]))))
thread = threading.Thread(target=work)
thread.start()
thread.join()
result = results[0]
print(json.dumps({
    "completed": result.completed, "exit_code": result.exit_code, "reports": sorted(reports),
    "trials": result.trials["status"].tolist(), "rows": len(result.reports),
    "front": result.front["positions"].tolist(), "best": result.best.positions,
    "handlers": len(logging.getLogger("cmp").handlers), "ray": ray.is_initialized(),
}))
"""

ON_THE_CALLERS_RAY = """
import json, sys
import ray
from cmp import run_search

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
node = ray.get_runtime_context().get_node_id()
result = run_search(sys.argv[1], {"search.max_concurrent": 1})
memory = result.best.compressor(device="cpu").compress("The cat sat.")
print(json.dumps({
    "exit_code": result.exit_code, "vectors": memory.vectors.shape[1], "n_cmps": result.best.settings["n_cmps"],
    "same": ray.is_initialized() and ray.get_runtime_context().get_node_id() == node,
    "works": ray.get(ray.remote(lambda: 42).remote()),
}))
"""


def said(program: str, search: Search) -> dict[str, Any]:
    """What a program printed, which is nothing but one line of JSON."""
    command = [sys.executable, "-c", program, str(search.space)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def test_a_search_in_a_thread_writes_nothing_and_gives_tables(tmp_path: Path) -> None:
    found = said(IN_A_THREAD, Search(tmp_path, SETTINGS))

    assert found["completed"] and found["exit_code"] == 0
    assert found["reports"] == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert found["trials"] == ["finished", "finished"] and found["rows"] == 4
    assert found["best"] in found["front"]
    assert (found["handlers"], found["ray"]) == (0, False)


def test_a_ray_that_the_caller_started_is_used_and_left_running(tmp_path: Path) -> None:
    found = said(ON_THE_CALLERS_RAY, Search(tmp_path, SETTINGS))

    assert found["exit_code"] == 0
    assert found["vectors"] == found["n_cmps"]
    assert found["same"] and found["works"] == 42
