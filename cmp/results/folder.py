"""Where everything in a results folder lies, who may write to it, and how an old one is set aside.

`search` asks a `ResultsFolder` for every path and holds its lock while it runs; `report` only reads.
"""

import errno
import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmp.objects import ObjectStore
from cmp.results import lease
from cmp.results.history import CONTROL
from cmp.space.errors import UserError
from cmp.store import Twin, sync

logger = logging.getLogger(__name__)


class FolderInUseError(UserError):
    """Another process is searching in this folder."""


@dataclass(frozen=True)
class ResultsFolder:
    """The paths of everything that a search leaves. Nothing is created before it is needed.

    Args:
        path: the folder. Where results go to an object store, this machine's copy, which may be deleted.
        url: the results' place on the store; None for a folder that is the results.
        search_id: tells a search from an earlier one that was at the same URL.
    """

    path: Path
    url: str | None = None
    search_id: str | None = None

    def __str__(self) -> str:
        """As people know the place."""
        return self.url or str(self.path)

    @property
    def home(self) -> Twin:
        """The folder, and its counterpart on the store."""
        return Twin(self.path, self.url)

    @property
    def space(self) -> Path:
        """The resolved space, with versions and the git commit."""
        return self.path / "space.yaml"

    @property
    def journal(self) -> Path:
        """The truth: one JSON line per event."""
        return self.path / "journal.jsonl"

    @property
    def optuna_log(self) -> Path:
        """A view of the journal for optuna-dashboard."""
        return self.path / "optuna.log"

    @property
    def trials(self) -> Path:
        """One folder per trial."""
        return self.path / "trials"

    @property
    def trials_csv(self) -> Path:
        """One row per trial, best first."""
        return self.path / "trials.csv"

    @property
    def results_parquet(self) -> Path:
        """One row per report."""
        return self.path / "results.parquet"

    @property
    def report(self) -> Path:
        """The page."""
        return self.path / "report.html"

    @property
    def test_scores(self) -> Path:
        """The best compressors on documents that decided nothing."""
        return self.path / "test.json"

    @property
    def best(self) -> Path:
        """The best compressor so far."""
        return self.path / "best"

    @property
    def front(self) -> Path:
        """The best compressor for every price: a folder each, named by its positions."""
        return self.path / "front"

    @property
    def bounds(self) -> Path:
        """No-context and full-context losses, shared by all trials."""
        return self.path / "bounds"

    @property
    def ray(self) -> Path:
        """Ray's own state; safe to delete when the search has ended."""
        return self.path / ".ray"

    @property
    def lock_file(self) -> Path:
        """Locked by the process that searches here; says who that is."""
        return self.path / ".lock"

    def trial(self, number: int) -> Path:
        """The folder of one trial: settings.json, log.txt, checkpoints/, best/."""
        return self.trials / trial_label(number)

    def trial_url(self, number: int) -> str | None:
        """Its place on the store; None where results are on a disk."""
        return (self.home / f"trials/{trial_label(number)}").url

    def best_of(self, number: int) -> str:
        """Where a trial's best compressor is for a process on any machine: an absolute path, or a URL."""
        return f"{self.trial_url(number) or self.trial(number).absolute()}/best"

    def has_history(self) -> bool:
        """True when a search has written here before."""
        return self.journal.exists()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; the kernel lets go when the process dies, however it dies.

        Raises:
            FolderInUseError: another process holds it; the message has its host and process id.
            UserError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError("save_root", f"{self.path} cannot be written: {error.strerror}") from error
        _locked_descriptors.add(descriptor)
        try:
            _lock_or_refuse(descriptor, str(self))
            _write_holder(descriptor)
            with self._lease():
                yield
        finally:
            _locked_descriptors.discard(descriptor)
            os.close(descriptor)

    def _lease(self) -> AbstractContextManager[None]:
        """What the lock is on a disk, against processes of other machines."""
        if self.url is None:
            return nullcontext()
        return lease.hold(ObjectStore(self.url), _me(), lambda holder: _in_use(str(self), holder))

    def set_aside(self) -> Path | None:
        """Move the folder to `<name>.1`, `.2`, ... (the next free one) and return where it went; never delete.

        Of results on a store `opening.set_aside` takes care.

        Returns:
            The new place, or None when there was nothing to move.

        Raises:
            FolderInUseError: a search is running in it.
        """
        if not self.path.exists():
            return None
        with self.lock():
            target = self._free_name()
            self.path.rename(target)
        sync(self.path.parent)
        return target

    def _free_name(self) -> Path:
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.{number}")).exists():
            number += 1
        return target


def trial_label(number: int) -> str:
    """A trial as its folder is named: four digits; of extra trials what they are for."""
    if number == CONTROL:
        return "text"
    return f"{number:04d}" if number >= 0 else f"confirm-{CONTROL - number:02d}"


# What network file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)

# A forked child (a tokenizing pool, say) inherits open files and would keep the lock of a parent that was killed.
_locked_descriptors: set[int] = set()


def _close_inherited_locks() -> None:
    for descriptor in _locked_descriptors:
        os.close(descriptor)
    _locked_descriptors.clear()


os.register_at_fork(after_in_child=_close_inherited_locks)


def _in_use(place: str, holder: Mapping[str, Any]) -> FolderInUseError:
    return FolderInUseError(
        None,
        f"{place}: another search is running here (host {holder.get('host', 'unknown')}, "
        f"process {holder.get('pid', 'unknown')}, since {holder.get('since', 'unknown')}); "
        "wait for it, stop it, or choose another exp_name",
    )


def _lock_or_refuse(descriptor: int, place: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(place, _read_holder(descriptor)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning("%s: this file system has no locks; take care that no other search runs here", place)


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(_me()).encode(), 0)


def _read_holder(descriptor: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}
