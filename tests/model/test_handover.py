"""A memory taken away: embeddings for a server, a cache for plain transformers code. In float32, to the token."""

import base64
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, pipeline
from transformers.cache_utils import DynamicCache

from cmp import Compressor
from cmp.model.api import CompressorError
from cmp.model.backbone import Backbone
from cmp.model.handover import encode_prompt_embeds
from tests.model.saved import new_compressor, save_tiny_model

FAMILIES = ["gpt2", "llama", "bloom", "opt", "gptj", "gemma3", "mistral-sliding", "qwen2"]
EMBEDDED: dict[str, dict[str, Any]] = {
    "hidden": {"proj_cmpr": True},
    "hidden-kept": {"keep_len": 2, "cmp_layer": -1, "lora_rank": 2},
    "pooled-pieces": {"memory": "pooled", "piece_len": 4},
}
CACHED = {
    **EMBEDDED,
    "kv": {"memory": "kv", "lora_rank": 2},
    "kv-kept-pieces": {"memory": "kv", "keep_len": 3, "piece_len": 3},
}
TEXT, PROMPT = "the old tree is red", "a cat"
GREEDY = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return Backbone.load(str(folder))


@pytest.fixture(scope="module")
def plain(folder: Path) -> Any:
    """The model as any transformers code has it, without anything of ours."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def written(compressor: Compressor, ids: torch.Tensor) -> str:
    """Without special tokens, as `generate` gives it."""
    return compressor.tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("prompt", ["", PROMPT])
@pytest.mark.parametrize("kind", EMBEDDED)
def test_transformers_own_generate_on_the_embeddings_writes_what_the_compressor_does(
    backbone: Backbone, plain: Any, kind: str, prompt: str
) -> None:
    compressor = new_compressor(backbone, **EMBEDDED[kind])
    memory = compressor.compress(TEXT)

    embeds = compressor.prompt_embeds(memory, prompt=prompt)

    assert isinstance(embeds, torch.Tensor)
    n_prompt = len(compressor.tokenizer(prompt)["input_ids"])
    assert embeds.shape == (memory.positions[0] + 1 + n_prompt, backbone.hidden_size)
    ids = plain.generate(inputs_embeds=embeds[None], **GREEDY)[0]
    assert written(compressor, ids) == compressor.generate(memory, prompt, **GREEDY)


@pytest.mark.parametrize("kind", CACHED)
def test_transformers_own_generate_on_the_cache_writes_what_the_compressor_does(
    backbone: Backbone, plain: Any, kind: str
) -> None:
    compressor = new_compressor(backbone, **CACHED[kind])
    memory = compressor.compress(TEXT)
    ids = torch.tensor([compressor.tokenizer(PROMPT)["input_ids"]])

    cache = compressor.to_cache(memory)

    assert isinstance(cache, DynamicCache)
    mask = torch.ones(1, cache.get_seq_length() + ids.shape[1], dtype=torch.long)
    new = plain.generate(ids, attention_mask=mask, past_key_values=cache, **GREEDY)[0, ids.shape[1] :]
    assert written(compressor, new) == compressor.generate(memory, PROMPT, **GREEDY)


@pytest.mark.parametrize("kind", CACHED)
def test_a_pipeline_on_the_cache_writes_what_the_compressor_does(backbone: Backbone, plain: Any, kind: str) -> None:
    """It wants a token for each place in the cache, and reads none of them."""
    compressor = new_compressor(backbone, **CACHED[kind])
    memory = compressor.compress(TEXT)
    tokenizer, cache = compressor.tokenizer, compressor.to_cache(memory)
    pipe = pipeline("text-generation", model=plain, tokenizer=tokenizer)

    found = pipe(
        tokenizer.bos_token * cache.get_seq_length() + PROMPT,
        past_key_values=cache, add_special_tokens=False, return_full_text=False, **GREEDY,
    )  # fmt: skip

    assert found[0]["generated_text"] == compressor.generate(memory, PROMPT, **GREEDY)


@pytest.mark.parametrize("kind", CACHED)
def test_a_plain_pass_on_the_cache_gives_the_compressors_losses(backbone: Backbone, plain: Any, kind: str) -> None:
    compressor = new_compressor(backbone, **CACHED[kind])
    memory = compressor.compress([TEXT, TEXT[::-1]])
    ids = torch.tensor([compressor.tokenizer(text)["input_ids"] for text in ("is this it?", "or that one")])
    cache = compressor.to_cache(memory)
    mask = torch.ones(2, cache.get_seq_length() + ids.shape[1], dtype=torch.long)
    with torch.no_grad():
        logits = plain(ids[:, :-1], attention_mask=mask[:, :-1], past_key_values=cache).logits

    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")

    expected = [row[1:] for row in compressor.loss(memory, ids, per_token=True)]
    torch.testing.assert_close(nll, torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_vllm_gets_a_saved_tensor_in_base64(tmp_path: Path) -> None:
    compressor = new_compressor(Backbone.load(str(save_tiny_model("llama", tmp_path))))
    embeds = compressor.prompt_embeds(compressor.compress(TEXT), PROMPT)
    assert isinstance(embeds, torch.Tensor)

    encoded = encode_prompt_embeds(embeds)

    read = torch.load(io.BytesIO(base64.b64decode(encoded, validate=True)), weights_only=True, map_location="cpu")
    assert torch.equal(read, embeds) and read.ndim == 2 and read.untyped_storage().nbytes() == read.nbytes


def test_several_memories_give_a_list_and_each_its_own_length(tmp_path: Path) -> None:
    compressor = new_compressor(Backbone.load(str(save_tiny_model("llama", tmp_path))), piece_len=4)
    memory = compressor.compress([TEXT, "x"])

    embeds = compressor.prompt_embeds(memory, ["", PROMPT])

    assert [len(each) for each in embeds] == [memory.positions[0] + 1, memory.positions[1] + 1 + len(PROMPT)]
    alone = compressor.prompt_embeds(memory[1:2], PROMPT)
    torch.testing.assert_close(embeds[1], alone)
    with pytest.raises(CompressorError, match="to_cache: memories of different lengths; make one cache for each"):
        compressor.to_cache(memory)
    assert compressor.to_cache(memory[1:2]).get_seq_length() == memory.positions[1] + 1


def test_what_cannot_be_taken_away_is_refused_with_the_reason(tmp_path: Path) -> None:
    backbone = Backbone.load(str(save_tiny_model("llama", tmp_path)))
    kv, only = new_compressor(backbone, memory="kv"), new_compressor(backbone, rmb_only=True)

    with pytest.raises(CompressorError, match=r'memory: "kv" is keys and values .* not embeddings; use to_cache'):
        kv.prompt_embeds(kv.compress(TEXT))
    for method in (only.prompt_embeds, only.to_cache):
        with pytest.raises(CompressorError, match="trained with rmb_only, so it can only reconstruct"):
            method(only.compress("x y z"))
