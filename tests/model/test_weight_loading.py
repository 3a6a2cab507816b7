"""How a backbone's weights are loaded: quantized, with an attention of one's choice, with code of its own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cmp import Compressor
from cmp.model import loading
from cmp.model.api import CompressorError
from cmp.model.backbone import Backbone
from cmp.model.compression import CompressionModel
from cmp.model.flops import shape_of
from cmp.model.loading import LoadOptions, load_tokenizer, model_facts
from cmp.search.model_check import facts_of
from cmp.space.errors import UserError
from cmp.train.own import load_own
from tests.model.families import FAMILIES, settings
from tests.model.saved import new_compressor, save_tiny_model
from tests.model.test_families import counts, full_batch, gradients

WIDER = {"llama": {"hidden_size": 64, "intermediate_size": 128}, "gpt2": {"n_embd": 64}}


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bitsandbytes compute here. Its packing for CPUs with avx512_bf16, which training cannot use, is left out."""
    modules = pytest.importorskip("bitsandbytes.nn.modules", reason="quantizing needs the package bitsandbytes")
    monkeypatch.setattr(modules, "has_avx512bf16", lambda: False)
    monkeypatch.setattr(loading, "QUANTIZING_DEVICES", ("cuda", "cpu"))


@pytest.fixture
def wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A saved model whose matrices hold whole blocks of 64 numbers."""
    family = getattr(request, "param", "llama")
    name, options = FAMILIES[family]
    monkeypatch.setitem(FAMILIES, family, (name, {**options, **WIDER[family]}))
    return save_tiny_model(family, tmp_path / family)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("wide", ["llama", "gpt2"], indirect=True)
@pytest.mark.filterwarnings("ignore")
def test_a_quantized_backbone_trains_what_is_around_it(wide: Path, on_cpu: None, bits: str) -> None:
    whole, quantized = Backbone.load(str(wide)), Backbone.load(str(wide), LoadOptions(quantization=bits))
    batch = full_batch()
    for kind in ({"lora_rank": 2, "proj_cmpr": True, "rmb_task": True}, {"memory": "kv", "lora_rank": 2}):
        exact, rough = (CompressionModel(one, settings(**kind), seed=0) for one in (whole, quantized))
        losses = rough.losses(batch, *counts(batch))
        assert losses.total.item() == pytest.approx(exact.losses(batch, *counts(batch)).total.item(), rel=0.05)
        assert all(torch.isfinite(gradient).all() for gradient in gradients(losses.total, rough).values())
        assert dict(rough.named_parameters()).keys() == dict(exact.named_parameters()).keys(), "LoRA finds all layers"
    one_byte = [p for p in quantized.model.parameters() if p.element_size() == 1]
    assert len(one_byte) >= 4 * 4, "every block's matrices"
    assert shape_of(quantized) == shape_of(whole), "4 bits count as a number, not as half a byte"


@pytest.mark.filterwarnings("ignore")
def test_fingerprints_know_how_the_weights_are_quantized(wide: Path, on_cpu: None, tmp_path: Path) -> None:
    prints = {
        bits: Backbone.load(str(wide), LoadOptions(quantization=bits)).identity.fingerprint
        for bits in (None, "8bit", "4bit")
    }
    again = Backbone.load(str(wide), LoadOptions(quantization="4bit"))

    assert len(set(prints.values())) == 3
    assert again.identity.fingerprint == prints["4bit"]
    new_compressor(again, quantization="4bit").save_pretrained(tmp_path / "saved")
    loaded = Compressor.from_pretrained(tmp_path / "saved", device="cpu")
    assert loaded.backbone.identity.fingerprint == prints["4bit"]
    with pytest.raises(CompressorError, match="has other weights"):
        Compressor.from_pretrained(tmp_path / "saved", backbone=Backbone.load(str(wide)))


@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_that_is_quantized_already_loads_as_it_is(wide: Path, on_cpu: None, tmp_path: Path) -> None:
    quantized: Any = Backbone.load(str(wide), LoadOptions(quantization="4bit"))
    quantized.model.save_pretrained(tmp_path / "quantized")
    load_tokenizer(str(wide)).save_pretrained(tmp_path / "quantized")

    loaded = Backbone.load(str(tmp_path / "quantized"))

    assert loaded.identity.fingerprint == quantized.identity.fingerprint
    batch = full_batch()
    torch.testing.assert_close(loaded.score_full_context(batch).nll, quantized.score_full_context(batch).nll)
    with pytest.raises(UserError, match=r"quantization: 8bit, but .*quantized is quantized already; leave .* out"):
        Backbone.load(str(tmp_path / "quantized"), LoadOptions(quantization="8bit"))


def test_quantizing_without_a_gpu_or_the_package_is_an_error_that_says_so(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = LoadOptions(quantization="4bit")
    with pytest.raises(UserError, match="quantization: 4bit needs a GPU, but this is for cpu; leave it out here"):
        Backbone.load(str(tiny_model_folder), four)
    new_compressor(Backbone.load(str(tiny_model_folder)), quantization="4bit").save_pretrained(tmp_path)
    with pytest.raises(CompressorError, match=r"the backbone cannot be loaded \(quantization: 4bit needs a GPU"):
        Compressor.from_pretrained(tmp_path, device="cpu")
    monkeypatch.setattr(loading, "QUANTIZING_DEVICES", ("cpu",))
    monkeypatch.setattr(loading, "is_bitsandbytes_available", lambda: False)
    with pytest.raises(UserError, match="quantization: 4bit needs the package bitsandbytes: pip install bitsandbytes"):
        Backbone.load(str(tiny_model_folder), four)


def test_attention_of_ones_choice_computes_the_same(tiny_model_folder: Path) -> None:
    ways = [Backbone.load(str(tiny_model_folder), LoadOptions(attn_implementation=name)) for name in ("eager", "sdpa")]
    batch = full_batch()

    assert [way.config._attn_implementation for way in ways] == ["eager", "sdpa"]
    scores = [CompressionModel(way, settings(memory="kv"), seed=0).score(batch).nll for way in ways]
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="it may be there")
def test_an_attention_that_is_not_installed_is_named(tiny_model_folder: Path) -> None:
    with pytest.raises(UserError, match=r"attn_implementation: .* needs a package that is not here: .*[Ff]lash"):
        Backbone.load(str(tiny_model_folder), LoadOptions(attn_implementation="flash_attention_2"))


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own-llama"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def with_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of a kind that transformers does not know, with the code that does."""
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save_tiny_model("llama", tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    config |= {"model_type": "own-llama", "architectures": ["OwnModel"], "auto_map": code}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(OWN_CODE)
    return folder


def test_a_models_own_code_runs_only_when_asked_for(with_own_code: Path, tmp_path: Path) -> None:
    place = str(with_own_code)
    with pytest.raises(
        UserError, match=r"own.* cannot be loaded \(it brings code of its own\); .* trust_remote_code: t"
    ):
        facts_of(place)

    trusted = Backbone.load(place, LoadOptions(trust_remote_code=True))

    assert type(trusted.model).__name__ == "OwnModel"
    assert facts_of(place, trust_remote_code=True) == model_facts(place, trust_remote_code=True)
    new_compressor(trusted, trust_remote_code=True).save_pretrained(tmp_path / "saved")
    with pytest.raises(CompressorError, match="if you trust the code that it brings, give trust_remote_code=True"):
        Compressor.from_pretrained(tmp_path / "saved", device="cpu")  # whatever its own settings say
    Compressor.from_pretrained(tmp_path / "saved", device="cpu", trust_remote_code=True).compress("the cat")
    load_own(tmp_path / "saved", "cpu").compress("the cat")  # a search scores what it has trained itself


def test_lora_on_a_model_without_linear_layers_is_refused() -> None:
    from cmp.model.lora import CompressionLora

    with pytest.raises(UserError, match=r"lora_rank: 2, but .* no linear layers"):
        CompressionLora([nn.Sequential(nn.LayerNorm(4))], 2, torch.Generator())
