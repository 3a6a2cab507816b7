"""What a trial knows of the world outside: its rank, its device, where reports go, whether to leave.

`search` implements it on Ray; `LocalSession` runs a trial without Ray, in tests and plain scripts. Importing these
words does not import torch, because the search's driver needs them and has no use for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from cmp.space.settings import TrialSettings, Window
from cmp.store import Twin

Role = Literal["search", "control", "confirm"]

if TYPE_CHECKING:
    import torch


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


@dataclass(frozen=True)
class EpochReport:
    """What a trial says after each epoch. Losses are nats per kept target token; see README for definitions.

    `nested` has the val_loss of every smaller number of vectors (as a text, as JSON has it), of a nested trial;
    `text_curve` that of every number of kept tokens, of the text control's last epoch; `plain_curve` the backbone's own
    after so many of the context's last tokens, with the first report.
    """

    epoch: int
    loops: int
    tokens: int
    train_loss: float
    val_loss: float
    val_ppl: float
    val_acc: float
    val_top5: float
    no_context_loss: float
    full_context_loss: float
    recovered: float | None
    compression_ratio: float
    tokens_per_second: float
    peak_memory_bytes: int
    seconds: float
    lr: float
    val_rmb_loss: float | None = None
    val_rmb_acc: float | None = None
    positions: int | None = None
    swapped_loss: float | None = None
    nested: dict[str, float] | None = None
    text_curve: dict[str, float] | None = None
    plain_curve: dict[str, float] | None = None


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended. Only `interrupted` trials are continued later; nothing is retried."""

    status: Literal["finished", "interrupted", "diverged", "out_of_memory", "failed"]
    epoch: int
    reason: str | None = None


@dataclass(frozen=True)
class TrialPlan:
    """One trial to run: what to do, how the data is cut, and the folder that holds its checkpoints and log.

    Where results go to an object store, `url` is that folder's place there, and `folder` a copy on this machine.
    Its `role` is what the search wants of it: a trial of its own, the text control (which compresses nothing), or a
    finalist under another seed.
    """

    number: int
    settings: TrialSettings
    window: Window
    folder: Path
    url: str | None = None
    role: Role = "search"

    @property
    def home(self) -> Twin:
        """The folder, and its counterpart on the store."""
        return Twin(self.folder, self.url)

    @property
    def bounds(self) -> Twin:
        """The bounds that all trials of the search share, beside the trials' folders."""
        root = None if self.url is None else self.url.rsplit("/", 2)[0]
        return Twin(self.folder.parent.parent, root) / "bounds"


class Session(Protocol):
    """The trial's view of its workers. Rank 0 reports, checkpoints and decides to stop."""

    rank: int
    world_size: int
    device: torch.device

    def report(self, report: EpochReport) -> None:
        """Hand a finished epoch to the search; only rank 0 calls it. Repeats (same epoch) are dropped there."""

    def stop_requested(self) -> bool:
        """True once the trial should checkpoint where it is and return `interrupted`; cheap enough for every loop."""


@dataclass
class LocalSession:
    """A trial in this very process: one worker, reports kept in a list."""

    device: torch.device = field(default_factory=_cpu)
    rank: int = 0
    world_size: int = 1
    reports: list[EpochReport] = field(default_factory=list)
    stop_after_reports: int | None = None

    def report(self, report: EpochReport) -> None:
        """Keep the report."""
        self.reports.append(report)

    def stop_requested(self) -> bool:
        """True after `stop_after_reports` reports, to rehearse an interruption."""
        return self.stop_after_reports is not None and len(self.reports) >= self.stop_after_reports
