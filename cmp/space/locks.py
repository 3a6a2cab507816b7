"""One process at a time, where the file system can see to that. For what is made once and shared: data, models, bounds.

Some network file systems refuse locks. Then several processes may do the same work at once; whoever uses this sees to
it that this costs time only: under names of their own, with a rename at the end.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

_REFUSALS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[bool]:
    """Hold the lock file at `path`; True where that keeps others out, False where there are no locks."""
    lock = FileLock(path)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
