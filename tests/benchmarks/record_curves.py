"""Learning curves of random settings, trained for real, for `simulate --recorded`.

    python -m tests.benchmarks.record_curves SPACE --cache FOLDER [--trials 80] [--minutes 25] [--set KEY=VALUE]

One trial after the other in this process, each to its end, until there are so many or the time is up; a second run goes
on where the first one was. What is trained is the space's own: no ledger, no stopping.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch

from cmp.space.loading import load_space
from cmp.store import write_json
from cmp.train.data import prepare_data
from cmp.train.session import LocalSession, TrialPlan
from cmp.train.trial import run_trial


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    space = load_space(args.space, args.set)
    prepare_data(space.trial_settings(space.sample(random.Random(0))), space.window)
    write_json(args.cache / "space.json", space.to_dict())
    began, rng = time.monotonic(), random.Random(0)
    for number in range(args.trials):
        settings = space.sample(rng)
        folder = args.cache / "trials" / f"{number:04d}"
        if (folder / "curve.json").exists():
            continue
        if time.monotonic() - began > 60 * args.minutes:
            break
        session, started = LocalSession(), time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        outcome = run_trial(TrialPlan(number, space.trial_settings(settings), space.window, folder.absolute()), session)
        losses = [report.val_loss for report in session.reports]
        seconds = (time.monotonic() - started) / max(1, len(losses))
        write_json(folder / "curve.json", {"settings": settings, "losses": losses, "seconds": seconds})
        print(json.dumps({"trial": number, **settings, "status": outcome.status, "losses": losses[-1:]}), flush=True)


if __name__ == "__main__":
    main()
