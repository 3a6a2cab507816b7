"""The few words that the workers of a trial exchange. With one worker every function returns at once.

Workers are in step by construction: each of these functions is called by all of them, in the same order. A worker
that fails says so in the next exchange (`agreed` here, the flags of a step in `step`), so that nobody waits for it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from cmp.space.settings import TrialSettings
from cmp.train.outcome import PeerLostError, TrialFailedError, as_failure
from cmp.train.session import Session

T = TypeVar("T")


class Workers:
    """All workers of one trial, seen from one of them.

    Args:
        session: rank, number of workers and device; with several, `torch.distributed` is already initialised.
        settings: for the words of a failure.
    """

    def __init__(self, session: Session, settings: TrialSettings) -> None:
        self.rank = session.rank
        self.count = session.world_size
        self.device = session.device
        self._session = session
        self._settings = settings

    @property
    def leads(self) -> bool:
        """This worker writes the files and speaks with the search."""
        return self.rank == 0

    def stop_requested(self) -> bool:
        """Was the trial asked to leave? Only rank 0 hears of it; the others learn it in the next exchange."""
        return self.leads and self._session.stop_requested()

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the workers, in place."""
        if self.count > 1:
            self._exchange(lambda: dist.all_reduce(tensor))
        return tensor

    def from_leader(self, value: T) -> T:
        """Rank 0's `value`, on every worker."""
        if self.count == 1:
            return value
        box: list[Any] = [value]
        self._exchange(lambda: dist.broadcast_object_list(box, src=0, device=self.device))
        return box[0]

    def agreed(self, action: Callable[[], T]) -> T:
        """Do `action` on every worker and go on only if it went well on all.

        Raises:
            TrialFailedError: with the reason of the first worker that failed.
        """
        failure: TrialFailedError | None = None
        cause: Exception | None = None
        try:
            result = action()
        except PeerLostError:
            raise
        except Exception as error:
            failure, cause = as_failure(error, self._settings), error
        self.share_failure(failure, cause)
        return result

    def share_failure(self, failure: TrialFailedError | None, cause: BaseException | None = None) -> None:
        """Raise if any worker has a failure: this worker's own, else the first other's."""
        if self.count > 1:
            failed = self.add_up(torch.tensor(float(failure is not None), device=self.device))
            if not failed.item():
                return
            mine = None if failure is None else (failure.kind, failure.reason)
            everyone: list[Any] = [None] * self.count
            self._exchange(lambda: dist.all_gather_object(everyone, mine))
            rank, (kind, reason) = next((rank, words) for rank, words in enumerate(everyone) if words is not None)
            failure = failure or TrialFailedError(kind, f"{reason} (worker {rank})", elsewhere=True)
        if failure is not None:
            raise failure from (cause if cause is not failure else None)

    def _exchange(self, operation: Callable[[], Any]) -> None:
        """Run a collective operation; it only fails where the group is broken."""
        try:
            operation()
        except RuntimeError as error:
            raise PeerLostError(f"a worker of the trial is gone: {error}") from error
