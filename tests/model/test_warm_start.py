"""A trial that starts from a saved compressor: what it takes over, what is new, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cmp.model.api import CompressorError
from cmp.model.backbone import Backbone
from cmp.model.compression import CompressionModel
from cmp.model.warm_start import TOKENS, start_from
from cmp.search.model_check import facts_of, saved_start
from cmp.space.errors import UserError
from cmp.space.space import Space
from tests.model.families import settings
from tests.model.saved import new_compressor, save_tiny_model
from tests.model.test_families import full_batch

KINDS: dict[str, dict[str, Any]] = {
    "hidden": {"proj_cmpr": True, "lora_rank": 2, "sep_cmpr": True},
    "kv": {"memory": "kv", "lora_rank": 2},
    "pooled": {"memory": "pooled", "proj_cmpr": True},
}


@pytest.fixture
def backbone(tmp_path: Path) -> Backbone:
    return Backbone.load(str(save_tiny_model("llama", tmp_path / "model")))


def trial_of(backbone: Backbone, **changes: Any) -> CompressionModel:
    return CompressionModel(backbone, settings(model_string=backbone.identity.name, **changes), seed=7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_of_the_same_shape_begins_where_the_compressor_is(
    backbone: Backbone, tmp_path: Path, kind: str
) -> None:
    saved = new_compressor(backbone, **KINDS[kind])
    saved.save_pretrained(tmp_path / "best")
    model, cold = trial_of(backbone, **KINDS[kind]), trial_of(backbone, **KINDS[kind])

    start_from(model, str(tmp_path / "best"))

    batch = full_batch()
    with torch.no_grad():
        loss, start = model.score(batch).nll, cold.score(batch).nll
        assert torch.equal(loss, saved.model.score(batch).nll) and not torch.equal(loss, start)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_more_vectors_are_added_behind_the_saved_ones_and_fewer_are_the_first(
    backbone: Backbone, tmp_path: Path
) -> None:
    saved = new_compressor(backbone, n_cmps=2, cmp_layer=2)
    saved.save_pretrained(tmp_path / "best")
    more, fewer = trial_of(backbone, n_cmps=5, cmp_layer=2), trial_of(backbone, n_cmps=1, cmp_layer=2)
    own = more.state_dict()[TOKENS].clone()

    start_from(more, str(tmp_path / "best"))
    start_from(fewer, str(tmp_path / "best"))

    batch, tokens = full_batch(), saved.model.state_dict()[TOKENS]
    assert torch.equal(more.state_dict()[TOKENS], torch.cat([tokens, own[2:]]))
    assert torch.equal(fewer.state_dict()[TOKENS], tokens[:1])
    with torch.no_grad():
        first = more.compress(batch).vectors[:, :2]
        torch.testing.assert_close(first, saved.model.compress(batch).vectors, rtol=1e-5, atol=1e-6)


def test_what_the_compressor_had_not_begins_as_it_would_and_a_task_may_be_dropped(
    backbone: Backbone, tmp_path: Path
) -> None:
    saved = new_compressor(backbone, rmb_task=True, proj_cmpr=False)
    saved.save_pretrained(tmp_path / "best")
    model, cold = trial_of(backbone, proj_cmpr=True, lora_rank=2), trial_of(backbone, proj_cmpr=True, lora_rank=2)

    start_from(model, str(tmp_path / "best"))

    before, after = cold.state_dict(), model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {TOKENS, "fwd.weight"}
    with torch.no_grad():
        batch = full_batch()
        torch.testing.assert_close(model.score(batch).nll, saved.model.score(batch).nll)


def test_a_compressor_of_other_weights_or_another_shape_is_refused_with_the_reason(
    backbone: Backbone, tmp_path: Path
) -> None:
    place = str(tmp_path / "best")
    new_compressor(backbone, lora_rank=2, sep_cmpr=True).save_pretrained(tmp_path / "best")
    other = Backbone.load(str(save_tiny_model("llama", tmp_path / "other", change=0.3)))
    refused = {
        "has other weights": trial_of(other, lora_rank=2, sep_cmpr=True),
        'has memory: "hidden", the trial "kv"': trial_of(backbone, memory="kv", lora_rank=2, sep_cmpr=True),
        "has memory.compression.separator.weight, which the trial has not": trial_of(backbone, lora_rank=2),
        r"is \(2, 32\), the trial's \(3, 32\)": trial_of(backbone, lora_rank=3, sep_cmpr=True),
    }
    for message, model in refused.items():
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(CompressorError, match=f"warm_start: .*{message}"):
            start_from(model, place)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(CompressorError, match="no such folder"):
        start_from(trial_of(backbone), str(tmp_path / "none"))


def test_a_search_that_cannot_start_from_it_is_refused_before_anything_is_tokenized(
    backbone: Backbone, tmp_path: Path, tiny_model_folder: Path
) -> None:
    new_compressor(backbone).save_pretrained(tmp_path / "best")
    wide = save_tiny_model("gpt2", tmp_path / "gpt2")

    def found(model: Path | str, place: str = "best", **changes: Any) -> Any:
        plain = {"model_string": str(model), "dataset": "t", "warm_start": str(tmp_path / place), **changes}
        return saved_start(Space.from_dict(plain), facts_of(str(model)))

    assert found(backbone.identity.name).settings.n_cmps == 3
    assert found(wide) is not None, "whether it is of the same weights shows in the first trial"
    with pytest.raises(UserError, match=r'has memory: "hidden", but trials have "kv"'):
        found(backbone.identity.name, memory={"choice": ["hidden", "kv"]})
    with pytest.raises(UserError, match=r"warm_start: .*none: no such folder"):
        found(backbone.identity.name, "none")
    with pytest.raises(UserError, match="32 wide; pydoc is 192 wide; use a compressor of pydoc"):
        found("pydoc")
