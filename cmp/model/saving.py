"""A compressor's folder: `config.json`, `compressor.safetensors`, `README.md`.

Written by training (each better epoch) and `Compressor.save_pretrained`; read by `Compressor.from_pretrained`,
`cmp evaluate` and `cmp export`. The backbone's weights are never in it: only its name, revision and fingerprint.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cmp.model.backbone import BackboneId
from cmp.model.card import PLACES, hub_metadata, in_repository, model_card, without_metadata
from cmp.model.hub import HubError, fetched, is_hub_id
from cmp.objects import ObjectStore, StoreError, is_url
from cmp.space.errors import UserError
from cmp.space.settings import TrialSettings
from cmp.store import local_folder, replacing, write_json, write_text

if TYPE_CHECKING:
    from cmp.model.compression import CompressionModel

FORMAT = "cmp-compressor"
FORMAT_VERSION = 1
CONFIG, TENSORS, CARD = "config.json", "compressor.safetensors", "README.md"
# The text control that a compressor is measured by, in the same folder: the same two files under other names.
CONTROL_CONFIG, CONTROL_TENSORS = "control.json", "control.safetensors"
FILES = (CONFIG, TENSORS, CARD, CONTROL_CONFIG, CONTROL_TENSORS)


class CompressorError(UserError):
    """A compressor, or what it was given, that cannot be used as asked, and what would be right."""

    def __init__(self, message: str) -> None:
        super().__init__(None, message)


@dataclass(frozen=True)
class Origin:
    """Where a compressor comes from; empty for one that no search has trained.

    Args:
        trial: its number in the search.
        metrics: the `EpochReport` of the epoch that it was saved at, by name.
        window: `context_len` and `target_len` in tokens, how its documents were cut.
        data: what is known of its training data, such as counts of documents and tokens.
    """

    trial: int | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    window: Mapping[str, int] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedConfig:
    """What `config.json` says: the trial's settings, the backbone it belongs to and where it comes from.

    `n_cmps` is how many vectors of each piece are made unless asked otherwise, where it is a part of the trained ones.
    """

    settings: TrialSettings
    backbone: BackboneId
    origin: Origin
    tensors_sha256: str
    n_cmps: int | None = None


def save_compressor(
    model: "CompressionModel", folder: Path, extra: Mapping[str, Any] | None = None, n_cmps: int | None = None
) -> None:
    """Write a compressor's folder; each file appears whole, the tensors first.

    Args:
        model: the compressor; only its own tensors are written.
        folder: made when missing; other files in it are left alone.
        extra: any of `Origin`'s fields, by name.
        n_cmps: as in `SavedConfig`.

    Raises:
        TypeError: `extra` has a key that `Origin` has not.
    """
    origin = Origin(**(extra or {}))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(folder / TENSORS) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    config = SavedConfig(model.settings, model.backbone.identity, origin, _sha256(folder / TENSORS), n_cmps)
    write_json(folder / CONFIG, _plain(config))
    write_text(folder / CARD, card_of(config))


def card_of(
    config: SavedConfig, *, n_cmps: int | None = None, headline: str | None = None, tests: str | None = None
) -> str:
    """The card of a saved compressor; see `model_card` for what more may be known of it."""
    origin = config.origin
    return model_card(
        config.settings,
        config.backbone,
        origin.trial,
        origin.metrics,
        origin.window,
        origin.data,
        n_cmps=n_cmps or config.n_cmps,
        headline=headline,
        tests=tests,
    )


def read_compressor(place: str | Path) -> tuple[SavedConfig, dict[str, torch.Tensor]]:
    """Read and check a compressor, from its folder, the URL of one on an object store, or the hub.

    Raises:
        CompressorError: missing or damaged files, or a store or hub that cannot be read.
    """
    with opened(place) as folder:
        config = read_config(folder)
        return config, read_tensors(folder, config)


@contextlib.contextmanager
def opened(place: str | Path) -> Iterator[Path]:
    """A compressor's folder, or a copy of what is at its URL or hub id; errors then name these, not the copy."""
    try:
        source = fetched(str(place), FILES) if is_hub_id(place) else place
        with local_folder(source) as folder:
            try:
                yield folder
            except CompressorError as error:
                raise CompressorError(str(error).replace(str(folder), str(place)) + _hint(place)) from error
    except (StoreError, HubError) as error:
        raise CompressorError(str(error)) from error


def _hint(place: str | Path) -> str:
    """What to type where a URL is a search's results rather than a compressor; `_nearby` does it for folders."""
    best = f"{place}/best"
    return f"; did you mean {best}?" if is_url(place) and ObjectStore(best).briefly().list() else ""


def add_control(folder: Path, control: Path) -> None:
    """Put a copy of the text control's two files beside a compressor's own; does nothing where there is no control."""
    if not (control / CONFIG).is_file():
        return
    for name, copy in ((TENSORS, CONTROL_TENSORS), (CONFIG, CONTROL_CONFIG)):
        with replacing(folder / copy) as temporary:
            shutil.copyfile(control / name, temporary)


def write_for_hub(place: str | Path, folder: Path, repository: str) -> None:
    """Write a compressor's files as the hub has them: a card with metadata, and no word of where files lay.

    Args:
        place: the compressor.
        folder: where to write; empty.
        repository: the hub id that it will have.
    """
    with opened(place) as source:
        config = read_config(source)
        for name in (name for name in FILES if (source / name).is_file()):
            shutil.copyfile(source / name, folder / name)
    for name in (name for name in (CONFIG, CONTROL_CONFIG) if (folder / name).is_file()):
        raw = _read_json(folder, name)
        raw["settings"] = {key: value for key, value in raw["settings"].items() if key not in PLACES}
        write_json(folder / name, raw)
    card, origin = folder / CARD, config.origin
    text = card.read_text(encoding="utf-8") if card.is_file() else card_of(config)
    head = hub_metadata(config.settings, config.backbone, origin.metrics, origin.data, repository)
    write_text(card, head + in_repository(without_metadata(text), repository))


def has_control(folder: Path) -> bool:
    """Whether a compressor's folder holds the text control that it is measured by."""
    return (folder / CONTROL_CONFIG).is_file()


def read_config(folder: Path, name: str = CONFIG) -> SavedConfig:
    """Read and check `config.json`, or the control's; the tensors are not touched.

    Raises:
        CompressorError: no compressor there, a file that is not one, or one that a newer version has written.
    """
    raw = _read_json(folder, name)
    if raw.get("format") != FORMAT:
        raise CompressorError(f'{folder / name}: not a compressor\'s config (no "format": "{FORMAT}")')
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise CompressorError(f"{folder / name}: format version {version!r}; this program reads {FORMAT_VERSION}")
    try:
        return SavedConfig(
            settings=TrialSettings(**raw["settings"]),
            backbone=BackboneId(**raw["backbone"]),
            origin=Origin(**raw["origin"]),
            tensors_sha256=str(raw["tensors_sha256"]),
            n_cmps=raw.get("n_cmps"),
        )
    except KeyError as error:
        raise CompressorError(f"{folder / name}: corrupt, {error} is missing") from error
    except TypeError as error:
        raise CompressorError(f"{folder / name}: written by another version of this program ({error})") from error


def read_tensors(folder: Path, config: SavedConfig, name: str = TENSORS) -> dict[str, torch.Tensor]:
    """The trained tensors, or the control's, by name, on the CPU.

    Raises:
        CompressorError: the file is missing, damaged, or not the one that `config.json` was written with.
    """
    path = folder / name
    if not path.is_file():
        raise CompressorError(f"{path}: missing; copy the whole folder, or export the trial again")
    if _sha256(path) != config.tensors_sha256:
        raise CompressorError(f"{path}: damaged, or not the file that {CONFIG} was written with; copy the folder again")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CompressorError(f"{path}: not a safetensors file ({error})") from error


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    """The content of a config as a dict."""
    if not folder.is_dir():
        raise CompressorError(f"{folder}: no such folder; a search leaves its best compressor in RESULTS/best")
    path = folder / name
    if not path.is_file():
        raise CompressorError(f"{folder}: not a compressor's folder, {name} is missing{_nearby(folder)}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompressorError(f"{path}: not JSON ({error})") from error
    if not isinstance(raw, dict):
        raise CompressorError(f"{path}: not a compressor's config (a JSON object is expected)")
    return raw


def _nearby(folder: Path) -> str:
    """A hint where `folder` is a search's results folder rather than a compressor's."""
    return f"; did you mean {folder / 'best'}?" if (folder / "best" / CONFIG).is_file() else ""


def _plain(config: SavedConfig) -> dict[str, Any]:
    """The config as JSON will hold it, with what wrote it."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        **dataclasses.asdict(config),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
