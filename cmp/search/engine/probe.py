"""What a machine must have to run trials, and looking for it there. The functions here run on the machine in question.

They import next to nothing: a look costs a second, most of it Ray's own process.
"""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from cmp.objects import ObjectStore, StoreError, is_url
from cmp.search.engine.process import enter
from cmp.space.cache_root import cache_root
from cmp.space.settings import TrialSettings, Window

# Of a weight file, this much from each end goes into the fingerprint, with its size: whole files take seconds.
FINGERPRINT_BYTES = 2**20

# A network file system may show a new file a little later.
FILE_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True)
class Needs:
    """What all trials of a search need from a machine.

    Args:
        settings: of any trial; they name the data and the model.
        window: how the space cuts documents.
        directory: where relative paths start.
        results: where results go, as people know it.
        sign: a file that this search has just written there; None where results go to a store.
        model_place: the folder or file that holds the model, as the space says it; None for one of the hub.
        model_fingerprint: of its files.
        start_place: the folder of the compressor that trials start from; None where there is none, or it is elsewhere.
        tokens: name of the folder of tokens in the data root.
        data_fingerprint: of the tokens and how they are cut.
    """

    settings: TrialSettings
    window: Window
    directory: Path
    results: str
    sign: Path | None
    model_place: Path | None
    model_fingerprint: str
    start_place: Path | None
    tokens: str
    data_fingerprint: str


@dataclass(frozen=True)
class Findings:
    """What a look at a machine has found.

    Args:
        sees_results: what the search writes is there.
        lack: what keeps trials from running there; None where nothing does.
        has_tokens: the data have been tokenized there.
    """

    sees_results: bool
    lack: str | None
    has_tokens: bool


def look(needs: Needs) -> Findings:
    """Look at this machine."""
    enter(needs.directory)
    tokens = cache_root(needs.settings.data_root) / "tokens" / needs.tokens / "facts.json"
    return Findings(sees(needs.sign), _lack(needs), tokens.is_file())


def prepare(needs: Needs) -> str | None:
    """Tokenize the data on this machine, which does not share the data root; returns what is wrong with them."""
    from cmp.train.data import prepare_data

    enter(needs.directory)
    if prepare_data(needs.settings, needs.window).fingerprint != needs.data_fingerprint:
        return f"its {needs.settings.dataset} is not the one here"
    return None


def sees(sign: Path | None, patience_seconds: float = FILE_PATIENCE_SECONDS) -> bool:
    """Is the file here that the search has written?"""
    end = time.monotonic() + patience_seconds
    while sign is not None and not sign.exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _lack(needs: Needs) -> str | None:
    return _lack_of_store(needs.results) or _lack_of_model(needs) or _lack_of_start(needs.start_place)


def _lack_of_start(place: Path | None) -> str | None:
    if place is None or (place / "config.json").is_file():
        return None
    return f"it has no compressor in {place} to start from"


def _lack_of_store(results: str) -> str | None:
    """A machine has credentials of its own, or none."""
    if not is_url(results):
        return None
    try:
        ObjectStore(results).require_usable()
    except StoreError as error:
        return f"it cannot use the store ({error})"
    return None


def _lack_of_model(needs: Needs) -> str | None:
    if needs.model_place is None:
        return None
    place = needs.model_place.expanduser()
    if not place.is_file() and not (place / "config.json").is_file():
        return f"it has no model in {needs.model_place}"
    if files_fingerprint(place) != needs.model_fingerprint:
        return f"its model in {needs.model_place} is not the one here"
    return None


def files_fingerprint(place: Path) -> str:
    """Of a model's files, in a folder or the only one: their names, sizes, and both ends."""
    digest = hashlib.sha256()
    for path in [place] if place.is_file() else sorted(place.glob("*")):
        if path.suffix in (".safetensors", ".bin", ".gguf") or path.name == "config.json":
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                digest.update(file.read(FINGERPRINT_BYTES))
                file.seek(max(0, path.stat().st_size - FINGERPRINT_BYTES))
                digest.update(file.read())
    return digest.hexdigest()[:24]
