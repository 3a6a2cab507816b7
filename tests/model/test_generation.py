from pathlib import Path
from typing import Any

import pytest
import torch

from cmp import Compressor
from cmp.model.api import CompressorError
from cmp.model.backbone import Backbone
from cmp.model.batch import Batch
from cmp.model.compression import Task
from cmp.model.generation import continuation_text, generate_after_memory, generate_after_tokens
from cmp.model.memory import Memories
from tests.model.saved import new_compressor, save_tiny_model

FAMILIES = ["gpt2", "llama", "bloom", "opt", "gemma2"]
KINDS = [
    pytest.param({"memory": "hidden"}, id="hidden"),
    pytest.param({"memory": "kv", "sep_cmpr": True}, id="kv"),
]
PROMPT = torch.tensor([[7, 8, 9], [12, 5, 40]])


@pytest.fixture(scope="module", params=FAMILIES)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(str(save_tiny_model(request.param, tmp_path_factory.mktemp(request.param))))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Compressor:
    return new_compressor(Backbone.load(str(save_tiny_model("gpt2", tmp_path_factory.mktemp("gpt2")))))


def written_one_by_one(compressor: Compressor, memory: Memories, prompt: torch.Tensor, count: int) -> torch.Tensor:
    """The most likely token after [memory, FWD, prompt], again and again, each by a decoder pass of its own."""
    ids, token = prompt, compressor.model.fwd_token
    assert token is not None
    for _ in range(count):
        unknown_next = torch.cat([ids, ids[:, :1]], dim=1)
        (states,) = compressor.model.decode(memory, [Task(token, unknown_next, None)])
        with compressor.backbone.head.weights() as (weight, bias):
            logits = compressor.backbone.head.logits(states[:, -1], weight, bias)
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    return ids[:, prompt.shape[1] :]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_those_that_the_decoder_finds_most_likely(backbone: Backbone, kind: dict[str, Any]) -> None:
    compressor = new_compressor(backbone, **kind)
    memory, token = Memories(compressor.compress(["the cat!!", "dogs bark"]).vectors), compressor.model.fwd_token
    assert token is not None

    for prompt in (PROMPT, PROMPT[:, :0]):
        settings = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}
        new = generate_after_memory(compressor.model, memory, token, (prompt, None), **settings)

        assert torch.equal(new, written_one_by_one(compressor, memory, prompt, 6))


PADDED = (torch.tensor([[7, 8, 9, 3], [0, 0, 0, 0]]), torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]).bool())


@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_prompts_and_texts_of_several_lengths_are_written_as_each_alone(
    backbone: Backbone, kind: dict[str, Any]
) -> None:
    """The first text has one piece, the second three; the first has a prompt, the second none."""
    model = new_compressor(backbone, **kind, piece_len=4).model
    ids, mask = torch.randint(3, 90, (2, 9)), torch.arange(9) >= torch.tensor([[6], [0]])
    settings = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}
    assert model.fwd_token is not None

    memories = model.compress(Batch(ids, ids[:, :0], mask))
    together = generate_after_memory(model, memories, model.fwd_token, PADDED, **settings)
    texts = generate_after_tokens(backbone, (ids, mask), **settings)

    for row in range(2):
        alone = model.compress(Batch(ids[row : row + 1, mask[row]], ids[:1, :0]))
        lead = PADDED[0][row : row + 1, PADDED[1][row]], None
        assert torch.equal(
            together[row : row + 1], generate_after_memory(model, alone, model.fwd_token, lead, **settings)
        )
        text = ids[row : row + 1, mask[row]], None
        assert torch.equal(texts[row : row + 1], generate_after_tokens(backbone, text, **settings))


@pytest.mark.parametrize("kind", KINDS)
def test_beams_and_samples_keep_to_their_own_memory(backbone: Backbone, kind: dict[str, Any]) -> None:
    compressor = new_compressor(backbone, **kind)
    memory = compressor.compress(["the cat!!", "dogs bark"])
    settings = {"max_new_tokens": 4, "num_beams": 3, "do_sample": False, "num_return_sequences": 2}

    texts = compressor.generate(memory, "It", **settings)

    assert len(texts) == 4
    for row in range(2):
        assert texts[2 * row : 2 * row + 2] == compressor.generate(memory[row : row + 1], "It", **settings)
    sampled = compressor.generate(memory, do_sample=True, top_k=1, num_return_sequences=3, max_new_tokens=4)
    greedy = compressor.generate(memory, do_sample=False, max_new_tokens=4)
    assert sampled == [text for text in greedy for _ in range(3)]


def test_plain_tokens_continue_as_the_model_itself_does(backbone: Backbone) -> None:
    start = torch.cat([torch.full((2, 1), backbone.bos_id), PROMPT], dim=1)
    model: Any = backbone.model
    expected = model.generate(start, do_sample=False, max_new_tokens=5, pad_token_id=0)[:, start.shape[1] :]

    assert torch.equal(generate_after_tokens(backbone, (PROMPT, None), do_sample=False, max_new_tokens=5), expected)


def test_one_memory_and_one_prompt_give_one_text(gpt2: Compressor) -> None:
    memory = gpt2.compress(["the cat", "a dog"])

    assert isinstance(gpt2.generate(memory[:1], "It"), str)
    assert isinstance(gpt2.generate(memory[:1], ["It"]), list)
    assert len(gpt2.generate(memory, "It")) == 2
    assert len(gpt2.generate(memory[:1], num_return_sequences=2, do_sample=True)) == 2


def test_seq_len_tokens_are_written_unless_said_otherwise(gpt2: Compressor) -> None:
    memory = gpt2.compress("the cat")

    assert len(gpt2.generate(memory, do_sample=False, eos_token_id=None)) <= 7
    assert len(gpt2.generate(memory, do_sample=False, eos_token_id=None, min_new_tokens=3, max_new_tokens=3)) == 3


def test_writing_ends_at_an_end_of_text_token_and_does_not_show_it(gpt2: Compressor) -> None:
    memory = gpt2.compress("the cat")
    text = gpt2.generate(memory, do_sample=False, max_new_tokens=6)
    assert isinstance(text, str)
    third = gpt2.tokenizer(text[2])["input_ids"][0]

    shorter = gpt2.generate(memory, do_sample=False, max_new_tokens=6, eos_token_id=third)

    assert text.startswith(shorter)
    assert len(shorter) <= 3


def test_the_same_seed_samples_the_same_text(gpt2: Compressor) -> None:
    memory, texts = gpt2.compress("the cat"), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        texts.append(gpt2.generate(memory, do_sample=True, temperature=2.0, top_p=0.99, max_new_tokens=20))

    assert texts[0] == texts[1] != texts[2]


def test_prompts_must_be_one_or_as_many_as_memories(gpt2: Compressor) -> None:
    with pytest.raises(CompressorError, match="3 prompts for 2 memories"):
        gpt2.generate(gpt2.compress(["a", "b"]), ["x", "y", "z"])


def test_a_first_space_survives_tokenizers_that_drop_it() -> None:
    folder = Path(__file__).parent.parent.parent.parent / "shared" / "data" / "stories260K"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/stories260K, whose tokenizer drops a text's first space")
    from cmp.model.loading import load_tokenizer

    tokenizer = load_tokenizer(str(folder))
    prompt, new = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Once upon a", "time"))

    assert continuation_text(tokenizer, prompt, new) == " time"
