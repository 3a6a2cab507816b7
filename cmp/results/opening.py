"""From where results go, as a user writes it, to a `ResultsFolder`: on a disk, or on an object store.

s3://bucket/prefix/demo/
  search              which search is here, a few letters; nodes keep their copies of it apart by these
  lease.json          who searches here now
  journal/<search>/   the truth (see `store_journal`)
  trials/0007/        settings, log, the newest checkpoints, best/<epoch>/
  best/<trial>-<epoch>/, best/current, and likewise front/8/
  bounds/             no-context and full-context losses
  everything else     views, as in a folder on a disk: put there again whenever they have changed
"""

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmp.objects import NoObjectError, ObjectStore, StoreError, is_url
from cmp.results import lease
from cmp.results.folder import ResultsFolder
from cmp.results.store_journal import copy_journal
from cmp.space.cache_root import cache_root
from cmp.space.errors import UserError
from cmp.store import fetch_folder

SEARCH = "search"
_MOVED = "moved-to"
# Views that a reader of a search may want: they lie beside each other at the URL.
_READ = ("space.yaml", "trials.csv", "results.parquet", "test.json")


def working_copy(key: str) -> Path:
    """Where this machine keeps its copy of a search whose results go to a store; `key` is the copy's folder name."""
    return cache_root() / "results" / key


def require_usable(url: str) -> None:
    """Try all that a search needs of a store.

    Raises:
        UserError: credentials, bucket or region are wrong, nobody answers, or the store creates an object twice.
    """
    with _users_error("save_root"):
        ObjectStore(url).require_usable()


def open_results(place: str) -> ResultsFolder:
    """The results folder for a search that will write to it.

    Raises:
        UserError: the store cannot do what a search needs; see `require_usable`.
    """
    if not is_url(place):
        return ResultsFolder(Path(place))
    require_usable(place)
    with _users_error("save_root"):
        store = ObjectStore(place)
        _finish_move(store)
        store.create_once(SEARCH, uuid.uuid4().hex[:12].encode())
        return _on_store(store, store.get(SEARCH).decode())


def set_aside(folder: ResultsFolder) -> str | None:
    """Move results to `<name>.1`, `.2`, ... (the next free one); never delete. The folder must be opened again.

    Returns:
        The new place, or None when there was nothing to move.

    Raises:
        FolderInUseError: a search is running there.
    """
    if folder.url is None:
        moved = folder.set_aside()
        return None if moved is None else str(moved)
    store = ObjectStore(folder.url)
    with _users_error("save_root"), folder.lock():
        names = [name for name in store.list() if name not in (SEARCH, lease.NAME)]
        if not names:
            return None
        target = _free_url(folder.url)
        store.copy_all([*names, SEARCH], ObjectStore(target))
        store.put(_MOVED, target.encode())  # from here on a crash does not leave two halves: the next start goes on
        _finish_move(store)
    shutil.rmtree(folder.path, ignore_errors=True)
    return target


@contextmanager
def reading(place: str) -> Iterator[ResultsFolder]:
    """The results of a search for who only reads: a folder itself, or for the time of the block a copy of a URL's.

    The copy has the journal, the tables and the best compressor; trials are fetched by who wants them.

    Raises:
        UserError: the store does not answer, or refuses.
    """
    if not is_url(place):
        yield ResultsFolder(Path(place))
        return
    with tempfile.TemporaryDirectory(prefix="cmp-") as temporary:
        with _users_error(None):
            store = ObjectStore(place).briefly()
            folder = ResultsFolder(Path(temporary), store.url, _search_at(store))
            if folder.search_id is not None:
                copy_journal(folder)
                for name in _READ:
                    folder.home.briefly.fetch(name)
                fetch_folder(f"{store.url}/best", folder.best)
        yield folder


def _search_at(store: ObjectStore) -> str | None:
    try:
        return store.get(SEARCH).decode()
    except NoObjectError:
        return None


def _on_store(store: ObjectStore, search_id: str) -> ResultsFolder:
    return ResultsFolder(working_copy(f"{store.url.rpartition('/')[2]}-{search_id}"), store.url, search_id)


def _finish_move(store: ObjectStore) -> None:
    """Delete what was copied elsewhere, the note that says so last."""
    try:
        store.get(_MOVED)
    except NoObjectError:
        return
    store.delete(name for name in store.list() if name not in (_MOVED, lease.NAME))
    store.delete([_MOVED])


def _free_url(url: str) -> str:
    number = 1
    while ObjectStore(target := f"{url}.{number}").list():
        number += 1
    return target


@contextlib.contextmanager
def _users_error(setting: str | None) -> Iterator[None]:
    """What a store says is for the user to put right."""
    try:
        yield
    except StoreError as error:
        raise UserError(setting, str(error)) from error
