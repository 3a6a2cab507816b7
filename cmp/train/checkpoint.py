"""Checkpoints of one trial: trainables, optimizer and progress, never the backbone; kilobytes to megabytes.

Rank 0 writes one at the end of an optimizer step; all ranks start from what rank 0 could read. A torn file is passed
over for the one before it, which is why two are kept.
"""

import dataclasses
import io
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cmp.space.settings import TrialSettings
from cmp.store import Twin, replacing
from cmp.train.state import TrialState

FORMAT = 2
KEPT = 2
# What zipfile, torch and pickle raise on a damaged file, and dataclasses on content that they do not know.
_UNREADABLE = (
    OSError, zipfile.BadZipFile, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError, TypeError
)  # fmt: skip
_NAME = re.compile(r"loop-(\d{9})\.pt")
# Settings that move files or share the work out, without changing what is learned; the data have their fingerprint.
_FREE = (
    "exp_name", "save_root", "testing", "data_root", "dataset", "n_data_procs", "multi_gpu", "model_parallel",
    "attn_implementation", "gradient_checkpointing", "checkpt_mod",
)  # fmt: skip


@dataclass
class Checkpoint:
    """Everything a trial needs to go on.

    Args:
        trainables: the compression model's `state_dict`, on the CPU.
        optimizer: the optimizer's `state_dict`.
        loss_scale: `LossScale.state`.
        state: progress and the history of reports.
        owner: what the numbers belong to (settings, data, backbone); another owner's checkpoint is not used.
    """

    trainables: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    loss_scale: list[float]
    state: TrialState
    owner: dict[str, Any]


def owner_of(settings: TrialSettings, data_fingerprint: str, backbone: str) -> dict[str, Any]:
    """What a checkpoint belongs to: the settings that shape the numbers, the data, the backbone."""
    shaping = {name: value for name, value in dataclasses.asdict(settings).items() if name not in _FREE}
    return {"settings": shaping, "data": data_fingerprint, "backbone": backbone}


def save_checkpoint(home: Twin, checkpoint: Checkpoint) -> Path:
    """Write the checkpoint atomically, to the disk and then to the store, and delete all but the newest two.

    Raises:
        OSError: the disk is full or the store away, for one; the older checkpoints are then still there.
    """
    content = {
        "format": FORMAT,
        "trainables": checkpoint.trainables,
        "optimizer": checkpoint.optimizer,
        "loss_scale": checkpoint.loss_scale,
        "state": checkpoint.state.to_dict(),
        "owner": checkpoint.owner,
    }
    buffer = io.BytesIO()  # torch's own file writer hides the error number of a full disk
    torch.save(content, buffer)
    path = home.path / f"loop-{checkpoint.state.loops:09d}.pt"
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    for old in _newest_first(file.name for file in home.path.iterdir())[KEPT:]:
        (home.path / old).unlink(missing_ok=True)
    home.send(path.name)
    home.drop(_newest_first(home.names())[KEPT:])
    return path


def load_newest(home: Twin, owner: dict[str, Any], log: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that can be read and belongs to `owner`; others are passed over with a line in the log.

    Raises:
        StoreError: the store is away; what it holds must not be passed over.
    """
    here = [path.name for path in home.path.glob("loop-*.pt")]
    for name in _newest_first({*here, *home.names()}):
        home.fetch(name)
        try:
            checkpoint = _read(home.path / name)
        except _UNREADABLE as error:
            log(f"checkpoint {name} cannot be read ({_first_line(error)}); trying the one before it")
            continue
        if checkpoint.owner != owner:
            log(f"checkpoint {name} belongs to other {_differences(checkpoint.owner, owner)}; it is not used")
            continue
        return checkpoint
    return None


def _read(path: Path) -> Checkpoint:
    """Load one file; raises one of many errors where it is torn.

    torch reads an archive without looking at its checksums, so they are checked first.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, this program reads {FORMAT}")
    state = TrialState.from_dict(content["state"])
    return Checkpoint(content["trainables"], content["optimizer"], content["loss_scale"], state, content["owner"])


def _newest_first(names: Iterable[str]) -> list[str]:
    """The names of checkpoints among others, by the number of loops in them."""
    return sorted(filter(_NAME.fullmatch, names), reverse=True)


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """Names of what differs between two owners."""
    names = [key for key in ("data", "backbone") if theirs.get(key) != ours[key]]
    saved = theirs.get("settings", {})
    names += [name for name, value in ours["settings"].items() if saved.get(name) != value]
    return ", ".join(names) or "settings"


def _first_line(error: Exception) -> str:
    """Type and first line of an error's message."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
