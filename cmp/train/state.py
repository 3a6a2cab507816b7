"""What a trial knows of its own progress: the numbers beside the tensors. For `loop`, `trial` and `checkpoint`."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cmp.train.session import EpochReport


@dataclass
class LossSums:
    """Sums over kept tokens, all workers together; `kl` is summed over the target tokens too."""

    lm: float = 0.0
    lm_tokens: float = 0.0
    rmb: float = 0.0
    rmb_tokens: float = 0.0
    kl: float = 0.0

    def add(self, values: Iterable[float]) -> None:
        """Add five sums in the order of the fields."""
        for item, value in zip(fields(self), values, strict=True):
            setattr(self, item.name, getattr(self, item.name) + value)


@dataclass
class TrialState:
    """Progress at the end of an optimizer step; with the trainables and the optimizer it is all that resuming needs.

    There are no random states: data order, schedule and initial values are functions of the seed and of `loops`.

    Args:
        loops: loops done in the whole trial.
        tokens: context and target tokens read in them, all workers together.
        epoch_tokens: the same for the running epoch.
        epoch_train_seconds: time in the training loops of the running epoch, over all its runs.
        seconds: time in training and validation so far, over all runs.
        sums: losses of the running epoch.
        skipped_steps: optimizer steps of the whole trial that were left out because float16 overflowed.
        best_val_loss: of the epoch whose weights lie in `best/`; None before the first.
        reports: one per finished epoch.
    """

    loops: int = 0
    tokens: int = 0
    epoch_tokens: int = 0
    epoch_train_seconds: float = 0.0
    seconds: float = 0.0
    sums: LossSums = field(default_factory=LossSums)
    skipped_steps: int = 0
    best_val_loss: float | None = None
    reports: list[EpochReport] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Finished and reported epochs."""
        return len(self.reports)

    def become(self, other: "TrialState") -> None:
        """Take over all of `other`: whoever holds this state sees the progress that was loaded."""
        self.__dict__.update(other.__dict__)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "TrialState":
        """The inverse of `to_dict`."""
        reports = [EpochReport(**report) for report in plain["reports"]]
        return cls(**{**plain, "sums": LossSums(**plain["sums"]), "reports": reports})
