import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmp.space.settings import TrialSettings
from cmp.store import Twin
from cmp.train.checkpoint import Checkpoint, load_newest, owner_of, save_checkpoint
from cmp.train.session import EpochReport
from cmp.train.state import LossSums, TrialState

SETTINGS = TrialSettings(model_string="m", dataset="d")
OWNER = owner_of(SETTINGS, "data-1", "weights-1")
REPORT = EpochReport(
    epoch=1, loops=10, tokens=1400, train_loss=3.5, val_loss=3.25, val_ppl=25.8, val_acc=0.25, val_top5=0.5,
    no_context_loss=4.0, full_context_loss=3.0, recovered=0.75, compression_ratio=25.0, tokens_per_second=1000.0,
    peak_memory_bytes=1, seconds=1.5, lr=0.005,
)  # fmt: skip


def checkpoint_at(loops: int) -> Checkpoint:
    parameter = torch.nn.Parameter(torch.arange(300.0) + loops)
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.grad = torch.ones(300)
    optimizer.step()
    state = TrialState(
        loops=loops, tokens=7, sums=LossSums(1.25, 2, 0.1, 4, 0.3), best_val_loss=3.25, reports=[REPORT, REPORT]
    )
    return Checkpoint({"tokens": parameter.detach()}, optimizer.state_dict(), [512.0, 17.0], state, OWNER)


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    saved = checkpoint_at(10)
    save_checkpoint(Twin(tmp_path), saved)
    loaded = load_newest(Twin(tmp_path), OWNER, pytest.fail)
    assert loaded is not None
    assert (loaded.state, loaded.loss_scale) == (saved.state, saved.loss_scale)
    assert torch.equal(loaded.trainables["tokens"], saved.trainables["tokens"])
    assert torch.equal(loaded.optimizer["state"][0]["exp_avg"], saved.optimizer["state"][0]["exp_avg"])
    assert loaded.optimizer["param_groups"] == saved.optimizer["param_groups"]


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for loops in (5, 100, 20):
        save_checkpoint(Twin(tmp_path), checkpoint_at(loops))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loop-000000020.pt", "loop-000000100.pt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "text"])
def test_a_damaged_checkpoint_is_passed_over_with_one_line(tmp_path: Path, damage: str) -> None:
    save_checkpoint(Twin(tmp_path), checkpoint_at(10))
    newest = save_checkpoint(Twin(tmp_path), checkpoint_at(20))
    content = bytearray(newest.read_bytes())
    flip = content.index(checkpoint_at(20).trainables["tokens"].numpy().tobytes()[400:440])  # inside the trainables
    content[flip] ^= 1
    damaged = {"cut": bytes(content[:-100]), "empty": b"", "flipped": bytes(content), "text": b"no checkpoint"}
    newest.write_bytes(damaged[damage])
    lines: list[str] = []

    loaded = load_newest(Twin(tmp_path), OWNER, lines.append)

    assert loaded is not None and loaded.state.loops == 10
    assert len(lines) == 1 and "loop-000000020.pt cannot be read" in lines[0] and "\n" not in lines[0]


def test_a_checkpoint_of_other_settings_data_or_weights_is_not_used(tmp_path: Path) -> None:
    save_checkpoint(Twin(tmp_path), checkpoint_at(10))
    lines: list[str] = []
    assert load_newest(Twin(tmp_path), owner_of(replace(SETTINGS, lr=1.0), "data-1", "weights-1"), lines.append) is None
    assert load_newest(Twin(tmp_path), owner_of(SETTINGS, "data-2", "weights-2"), lines.append) is None
    assert "other lr;" in lines[0] and "other data, backbone;" in lines[1]


def test_moving_the_results_or_other_machines_do_not_disown_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(Twin(tmp_path), checkpoint_at(10))
    moved = replace(SETTINGS, save_root="elsewhere", exp_name="renamed", n_data_procs=3, checkpt_mod=7)
    moved = replace(moved, attn_implementation="eager", gradient_checkpointing=True, dataset="the same, elsewhere")
    assert load_newest(Twin(tmp_path), owner_of(moved, "data-1", "weights-1"), pytest.fail) is not None


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert load_newest(Twin(tmp_path / "missing"), OWNER, pytest.fail) is None


def test_a_disk_that_is_full_leaves_the_last_checkpoint_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(Twin(tmp_path), checkpoint_at(10))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(Twin(tmp_path), checkpoint_at(20))
    assert [path.name for path in tmp_path.iterdir()] == ["loop-000000010.pt"]
