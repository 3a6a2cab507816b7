"""Questions on Python's documentation through a whole search: how right are answers after a memory?

    python -m tests.benchmarks.qa --folder qa/ [--trials 4] [--epochs 6]

The stand-in of `spaces/qa.yaml` with the built-in backbone (2.2 M parameters) and text, on CPUs: writes the rows of
`tests.questions`, runs `search.py` on them from end to end, and writes what `best/answers.json` then says of the test
split, in four ways, into `results/qa.json`. A second call goes on with, or reads, what is in the folder.
"""

import argparse
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from cmp.results.written import ANSWERS, WAYS, Written, load_written, measures
from tests.benchmarks.record import record
from tests.questions import write_questions

REPOSITORY = Path(__file__).parents[2]
SPACE = REPOSITORY / "spaces" / "qa.yaml"
NAME = "qa-pydoc"
# Entries have 49 to 185 tokens; nothing is downloaded.
SMALL: dict[str, Any] = {
    "model_string": "pydoc",
    "abbrev_len": None,
    "cmp_len": 112,
    "prompt_len": 32,
    "seq_len": 32,
    "n_cmps": {"logint": [2, 16]},
    "lora_rank": 8,
    "lr": {"loguniform": [2e-3, 2e-2]},
    "n_train_loops": 30,
    "max_val_loops": 4,
}


def main() -> None:
    """Search, read, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=6)
    args = parser.parse_args()
    space = write_space(args.folder, args.trials, args.epochs)
    done = subprocess.run([sys.executable, str(REPOSITORY / "search.py"), str(space)], check=False)
    if done.returncode:
        sys.exit(done.returncode)
    written = load_written(args.folder / "results" / NAME / "best" / ANSWERS)
    if written is None:
        sys.exit(f"{args.folder}: the search has left no answers")
    notes = (
        f"Questions on entries of Python's documentation, {args.trials} trials of at most {args.epochs} epochs of "
        f"{SMALL['n_train_loops']} loops, then the best compressor's answers to {len(written.rows)} questions of the "
        f"test split, which decided nothing; {written.positions} positions. The backbone has 2.2 M parameters and was "
        "never trained to answer, and reads no context and the full context as it is: what memory and text have beyond "
        "these is also that they were trained for the task, the text by the text control."
    )
    print(record("qa", "tests.benchmarks.qa", notes, rows(written)))


def write_space(folder: Path, trials: int, epochs: int) -> Path:
    """The rows and the space file of the search, in `folder`."""
    folder = folder.absolute()
    space = yaml.safe_load(SPACE.read_text(encoding="utf-8")) | SMALL | {"n_epochs": epochs}
    space |= {"dataset": str(write_questions(folder / "questions")), "save_root": str(folder / "results")}
    space["search"] = {"num_samples": trials, "startup_trials": max(1, trials // 2)}
    path = folder / f"{NAME}.yaml"
    path.write_text(yaml.safe_dump(space, sort_keys=False), encoding="utf-8")
    return path


def rows(written: Written) -> list[dict[str, Any]]:
    """A row for each way of reading, with its shares of the full context's scores."""
    found = []
    for way, words in WAYS.items():
        scores, kept = asdict(written.mean(way)), written.kept(way)
        row: dict[str, Any] = {"what is read": words}
        for name, title in measures(written).items():
            row[title] = round(scores[name], 4)
            row[f"{title}, of full context"] = None if kept[name] is None else round(kept[name], 3)
        found.append(row)
    return found


if __name__ == "__main__":
    main()
