"""Reading, tokenizing and caching text beside the library's own way: `python -m tests.benchmarks.data`.

The library's way is what its documentation says: `load_dataset` and `Dataset.map(batched=True, num_proc=2)`. Each opens
the same file twice, then three processes open it for the first time at once. Every opener is a process of its own,
forked from this one when everything is imported and the tokenizer loaded. Two workers tokenize, with the tokenizer of
pydoc. Both ways take turns.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute

from cmp.model.loading import load_tokenizer
from cmp.model.pydoc import documents
from cmp.space.settings import TrialSettings
from cmp.train.data.cache import cached_tokens
from tests.benchmarks.record import record
from tests.benchmarks.step import status_bytes

WORKERS = 2
OPENERS = 3
WINDOWS, WINDOW_TOKENS = 20_000, 90
ROUNDS = 2
NOTES = (
    "One text file of {megabytes} MB as JSON lines ({tokens:,} tokens), two workers, every opener a process of its own "
    "that has imported everything, medians of {rounds} rounds in turns. The library: `load_dataset` and "
    "`map(batched=True, num_proc=2)`. Memory is the largest process's peak above what it began with. Windows are 90 "
    "tokens each at random places."
)


def ours(text: Path, cache: Path) -> tuple[int, Any]:
    """Tokens, and a function that reads a window; the way of a search."""
    settings = TrialSettings(
        model_string="pydoc", dataset=str(text), data_root=str(cache), text_column="text", n_data_procs=WORKERS
    )
    column = cached_tokens(settings, load_tokenizer("pydoc")).columns["train"]

    def read(document: int, start: float) -> np.ndarray:
        first = column.offsets[document] + int(start * (column.offsets[document + 1] - column.offsets[document]))
        return np.asarray(column.tokens[first : first + WINDOW_TOKENS])

    return len(column.tokens), (len(column.offsets) - 1, read)


def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
    """What the library maps over the rows."""
    return {"ids": load_tokenizer("pydoc")(batch["text"], add_special_tokens=False)["input_ids"]}


def library(text: Path, cache: Path) -> tuple[int, Any]:
    """The same with `datasets`."""
    datasets.disable_progress_bars()
    rows = datasets.load_dataset("json", data_files=str(text), split="train", cache_dir=str(cache))
    rows = rows.map(encode, batched=True, num_proc=WORKERS, remove_columns=["text"]).with_format("numpy")

    def read(document: int, start: float) -> np.ndarray:
        ids = rows[document]["ids"]
        first = int(start * len(ids))
        return ids[first : first + WINDOW_TOKENS]

    return pyarrow.compute.sum(pyarrow.compute.list_value_length(rows.data.column("ids"))).as_py(), (len(rows), read)


WAYS = {"ours": ours, "datasets": library}


def open_once(way: str, text: Path, cache: Path, answer: Connection) -> None:
    """In a process of its own: open, then read windows, and send what that took."""
    before, began = status_bytes("VmRSS"), time.perf_counter()
    tokens, (documents, read) = WAYS[way](text, cache)
    seconds = time.perf_counter() - began
    workers = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    peak = max(status_bytes("VmHWM"), workers) - before
    rng = np.random.default_rng(0)
    began = time.perf_counter()
    for document, start in zip(rng.integers(documents, size=WINDOWS), rng.random(WINDOWS), strict=True):
        read(int(document), float(start))
    rate = WINDOWS / (time.perf_counter() - began)
    answer.send({"seconds": seconds, "tokens": tokens, "megabytes": peak / 1e6, "windows": rate})


def open_at_once(openers: int, way: str, text: Path, cache: Path) -> list[dict[str, float]]:
    """What each of some processes measured that began together."""
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(openers)]
    processes = [fork.Process(target=open_once, args=(way, text, cache, sender)) for _, sender in pipes]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()  # a process that dies is noticed: nobody else could send
    found = [receiver.recv() for receiver, _ in pipes]
    for process in processes:
        process.join()
    return found


def measure(way: str, text: Path, folder: Path) -> dict[str, float]:
    """One round of one way."""
    (first,) = open_at_once(1, way, text, folder / "alone")
    (second,) = open_at_once(1, way, text, folder / "alone")
    together = open_at_once(OPENERS, way, text, folder / "together")
    disk = sum(path.stat().st_size for path in (folder / "alone").rglob("*") if path.is_file())
    return {
        "tokens/s, first open": first["tokens"] / first["seconds"],
        "first open, s": first["seconds"],
        "second open, s": second["seconds"],
        "three at once, first open, s": max(each["seconds"] for each in together),
        "first open, MB": first["megabytes"],
        "second open, MB": second["megabytes"],
        "on disk, MB": disk / 1e6,
        "windows/s": second["windows"],
        "tokens": first["tokens"],
    }


def write_text(path: Path, megabytes: float) -> None:
    """Documentation, over and over, each document once as it is and then with a number before it."""
    written = number = 0
    with path.open("w", encoding="utf-8") as file:
        while True:
            for document in documents():
                written += file.write(json.dumps({"text": f"{number} {document}"}) + "\n")
                number += 1
                if written >= megabytes * 1e6:
                    return


def main() -> None:
    """Measure both ways in turns and write `results/data.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=12)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    load_tokenizer("pydoc")
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.jsonl"
        write_text(text, args.megabytes)
        for turn in range(args.rounds):
            for way in WAYS:
                measured[way].append(measure(way, text, Path(folder) / f"{way}-{turn}"))
    rows = []
    for way, rounds in measured.items():
        medians = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
        tokens = int(medians.pop("tokens"))
        rows.append({"way": way, **{name: float(f"{value:.3g}") for name, value in medians.items()}})
    notes = NOTES.format(megabytes=args.megabytes, tokens=tokens, rounds=args.rounds)
    print(json.dumps(rows, indent=1))
    record("data", "tests.benchmarks.data", notes, rows)


if __name__ == "__main__":
    main()
