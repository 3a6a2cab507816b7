"""Runs one function on several gloo workers, each a process of its own, without Ray.

They are forked from a process that has imported what they need: importing it takes each five seconds of a core.
"""

import json
import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT_SECONDS = 120


def run_group(work: Callable[[int, int], Any], n_workers: int, folder: Path) -> list[Any]:
    """What `work(rank, n_workers)` returned on each worker, as plain JSON; None from a worker that died on purpose."""
    multiprocessing.set_forkserver_preload(["cmp.train.trial", "transformers.models.gpt2.modeling_gpt2"])
    context = mp.start_processes(
        _worker, args=(work, n_workers, folder), nprocs=n_workers, join=False, start_method="forkserver"
    )
    for process in context.processes:
        process.join(TIMEOUT_SECONDS)
        if process.is_alive():
            process.kill()
            raise AssertionError(f"a worker still hangs after {TIMEOUT_SECONDS} s")
    paths = [folder / f"result-{rank}.json" for rank in range(n_workers)]
    results = [json.loads(path.read_text()) if path.exists() else None for path in paths]
    for result in results:
        if isinstance(result, dict) and "traceback" in result:
            raise AssertionError(result["traceback"])
    return results


def _worker(rank: int, work: Callable[[int, int], Any], n_workers: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=n_workers)
    try:
        result = work(rank, n_workers)
    except Exception:
        result = {"traceback": traceback.format_exc()}
    (folder / f"result-{rank}.json").write_text(json.dumps(result))
