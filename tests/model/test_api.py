import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from cmp import Compressor
from cmp.model.api import CompressorError
from cmp.model.backbone import Backbone
from cmp.model.batch import Batch
from cmp.model.pieces import Memory, padded
from tests.model.saved import new_compressor, save_tiny_model

ROOT = Path(__file__).parent.parent.parent
LONG, SHORT = "the cat sees the old dog", "a tree"


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return Backbone.load(str(save_tiny_model("gpt2", tmp_path_factory.mktemp("gpt2"))))


@pytest.fixture(scope="module")
def compressor(backbone: Backbone) -> Compressor:
    return new_compressor(backbone, rmb_task=True)


KINDS = [
    pytest.param({"memory": "hidden"}, id="hidden"),
    pytest.param({"memory": "kv", "keep_len": 2}, id="kv-kept"),
    pytest.param({"memory": "hidden", "keep_len": 3, "piece_len": 3}, id="hidden-kept-pieces"),
    pytest.param({"memory": "kv", "lora_rank": 2}, id="kv-lora"),
    pytest.param({"memory": "pooled", "proj_cmpr": True}, id="pooled"),
]


WITHOUT_TEXT = [kind for kind in KINDS if "kept" not in str(kind.id)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_does_not_depend_on_its_neighbours_in_the_batch(backbone: Backbone, kind: dict[str, Any]) -> None:
    compressor = new_compressor(backbone, **kind)

    together = compressor.compress([SHORT, "the cat", "x"])
    for row, text in enumerate((SHORT, "the cat", "x")):
        alone = compressor.compress(text).vectors[0]
        torch.testing.assert_close(together.vectors[row, -len(alone) :], alone, rtol=1e-5, atol=1e-6)


def test_padding_beside_ids_changes_nothing(compressor: Compressor) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    padded_ids = torch.tensor([[0, 0, 5, 6, 7, 8]])

    memory = compressor.compress(ids)

    same = compressor.compress(padded_ids, attention_mask=padded_ids.ne(0))
    torch.testing.assert_close(memory.vectors, same.vectors)


def test_texts_and_their_token_ids_give_the_same_memory(compressor: Compressor) -> None:
    ids = compressor.tokenizer(SHORT, add_special_tokens=False)["input_ids"]

    memory = compressor.compress(SHORT)

    assert memory.vectors.shape == (1, 3, 32)
    for same in (ids, [ids], [SHORT], torch.tensor(ids), torch.tensor([ids])):
        assert torch.equal(memory.vectors, compressor.compress(same).vectors)


@pytest.mark.parametrize("kind", WITHOUT_TEXT)
def test_a_long_text_is_compressed_in_consecutive_pieces(backbone: Backbone, kind: dict[str, Any]) -> None:
    compressor = new_compressor(backbone, **kind)

    memory = compressor.compress(LONG)

    # 24 tokens in pieces of 9: the short one comes first.
    pieces = [compressor.compress(piece).vectors for piece in (LONG[:6], LONG[6:15], LONG[15:])]
    assert (memory.vectors.shape[1], memory.lengths, memory.n_cmps) == (9, [9], 3)
    alone = torch.cat(pieces, dim=1)
    read = slice(3) if kind["memory"] == "kv" else slice(None)  # keys are made at their own place in the text
    torch.testing.assert_close(memory.vectors[:, read], alone[:, read], rtol=1e-5, atol=1e-6)


def test_a_text_of_more_pieces_than_the_model_has_positions_for_is_refused_where_pieces_are_read_at_their_place(
    backbone: Backbone,
) -> None:
    kv, hidden = new_compressor(backbone, memory="kv"), new_compressor(backbone)
    assert backbone.max_positions == 128
    most = (128 - 1 - 3) // kv.piece_len  # beside BOS and three compression tokens

    assert kv.compress([1] * most * kv.piece_len).lengths == [3 * most]
    with pytest.raises(CompressorError, match=rf"{most + 1} pieces of 9 tokens takes .* and the model has 128"):
        kv.compress([1] * (most * kv.piece_len + 1))
    assert hidden.compress([1] * (most * hidden.piece_len + 1)).lengths == [3 * (most + 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_with_fewer_pieces_score_and_write_as_they_do_alone(backbone: Backbone, kind: dict[str, Any]) -> None:
    compressor = new_compressor(backbone, **kind)
    memory = compressor.compress([LONG, SHORT])

    losses = compressor.loss(memory, ["under it", "is red."])
    texts = compressor.generate(memory, ["", "red"], max_new_tokens=4, do_sample=False)

    assert memory.vectors[1, :6].eq(0).all(), "the shorter row begins with zero vectors"
    for row, (text, after, prompt) in enumerate([(LONG, "under it", ""), (SHORT, "is red.", "red")]):
        alone = compressor.compress(text)
        assert losses[row] == pytest.approx(compressor.loss(alone, after), rel=1e-5)
        assert texts[row] == compressor.generate(alone, prompt, max_new_tokens=4, do_sample=False)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_is_what_training_scores(backbone: Backbone, kind: dict[str, Any]) -> None:
    compressor = new_compressor(backbone, **kind)
    targets = ["the dog", "on"]
    ids, mask = padded([compressor.tokenizer(text)["input_ids"] for text in targets], left=False)
    context, context_mask = padded([compressor.tokenizer(text)["input_ids"] for text in (SHORT, "cat")], left=True)
    scores = compressor.model.score(Batch(context, ids, context_mask, mask))

    memory = compressor.compress([SHORT, "cat"])

    assert mask is not None
    expected = scores.nll.sum(1) / mask.sum(1)
    torch.testing.assert_close(torch.tensor(compressor.loss(memory, targets)), expected, rtol=1e-5, atol=1e-6)
    assert len(compressor.loss(memory, targets, per_token=True)[1]) == 2


def test_loss_of_one_text_is_a_number(compressor: Compressor) -> None:
    memory = compressor.compress(SHORT)

    loss, tokens = compressor.loss(memory, "is red"), compressor.loss(memory, "is red", per_token=True)

    assert isinstance(loss, float)
    assert loss == pytest.approx(sum(tokens) / 6)
    assert compressor.loss(memory, ["is red"]) == [pytest.approx(loss)]


def test_bounds_are_the_backbone_alone_and_after_the_whole_text(compressor: Compressor) -> None:
    batch = Batch(
        *(torch.tensor([compressor.tokenizer(text)["input_ids"]]) for text in ("the cat sees", " a dog")),
    )

    bounds = compressor.bounds("the cat sees", " a dog")

    assert bounds.no_context == pytest.approx(compressor.backbone.score_no_context(batch).nll.mean().item())
    assert bounds.full_context == pytest.approx(compressor.backbone.score_full_context(batch).nll.mean().item())


def test_a_text_beyond_the_models_positions_has_no_upper_bound(compressor: Compressor) -> None:
    bounds = compressor.bounds("a" * 125, "bcd")

    assert bounds.full_context is None
    assert compressor.bounds("a" * 124, "bcd").full_context is not None


def test_reconstruction_goes_piece_by_piece(compressor: Compressor) -> None:
    memory = compressor.compress(LONG)

    text = compressor.reconstruct(memory, max_new_tokens=3)

    parts = [Memory(memory.vectors[:, start : start + 3], memory.kept, 3) for start in (0, 3, 6)]
    assert text == "".join(compressor.reconstruct(part, max_new_tokens=3) for part in parts)


def test_reconstruction_loss_is_what_training_scores(compressor: Compressor) -> None:
    ids = torch.tensor([compressor.tokenizer(SHORT)["input_ids"]])
    expected = compressor.model.score_reconstruction(Batch(ids, ids)).nll.mean().item()

    loss = compressor.reconstruction_loss(compressor.compress(SHORT), SHORT)

    assert loss == pytest.approx(expected, rel=1e-5)


def test_a_compressor_not_trained_to_reconstruct_says_so(backbone: Backbone) -> None:
    compressor = new_compressor(backbone)

    with pytest.raises(CompressorError, match="trained with rmb_task or rmb_only"):
        compressor.reconstruct(compressor.compress(SHORT))


def test_a_compressor_that_only_reconstructs_says_so(backbone: Backbone) -> None:
    compressor = new_compressor(backbone, rmb_only=True)
    memory = compressor.compress(SHORT)

    assert compressor.piece_len == 7
    assert isinstance(compressor.reconstruct(memory), str)
    with pytest.raises(CompressorError, match="only reconstruct"):
        compressor.generate(memory)
    with pytest.raises(CompressorError, match="reconstruction_loss"):
        compressor.loss(memory, "x")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("", "text 0 has no tokens"),
        (["a", ""], "text 1 has no tokens"),
        ([], "no text"),
        (torch.zeros(2, 3), "integers"),
    ],
)
def test_nothing_to_compress_is_an_error_of_its_own(compressor: Compressor, texts: Any, message: str) -> None:
    with pytest.raises(CompressorError, match=message):
        compressor.compress(texts)


def test_a_memory_of_another_shape_is_refused(compressor: Compressor) -> None:
    with pytest.raises(CompressorError, match="E a multiple of 3"):
        compressor.loss(Memory(torch.zeros(1, 4, 32), ((),), 3), "x")
    with pytest.raises(CompressorError, match="zero vectors"):
        compressor.loss(Memory(torch.zeros(1, 3, 32), ((),), 3), "x")
    with pytest.raises(CompressorError, match="2 texts for 1 memories"):
        compressor.loss(compressor.compress(SHORT), ["x", "y"])


@pytest.mark.parametrize("kind", WITHOUT_TEXT)
def test_more_than_the_models_positions_is_an_error_before_the_model_fails(
    backbone: Backbone, kind: dict[str, Any]
) -> None:
    compressor = new_compressor(backbone, **kind)
    memory = compressor.compress(SHORT)
    start = 1 + 9 + 3 if kind["memory"] == "kv" else 3  # position of the task token; the model has 128

    compressor.loss(memory, "x" * (127 - start))
    with pytest.raises(CompressorError, match="128 positions"):
        compressor.loss(memory, "x" * (128 - start))
    compressor.generate(memory, "x" * 50, max_new_tokens=78 - start, do_sample=False)
    with pytest.raises(CompressorError, match="128 positions"):
        compressor.generate(memory, "x" * 50, max_new_tokens=79 - start, do_sample=False)


def test_many_threads_read_at_once(backbone: Backbone) -> None:
    compressors = [new_compressor(backbone, memory="kv", lora_rank=2), new_compressor(backbone, cmp_layer=1)]
    texts = [LONG[start:] for start in range(8)]

    def read(compressor: Compressor, text: str) -> tuple[torch.Tensor, float, Any]:
        memory = compressor.compress(text)
        return (
            memory.vectors,
            compressor.loss(memory, SHORT),
            compressor.generate(memory, max_new_tokens=3, do_sample=False),
        )

    alone = [read(compressor, text) for compressor in compressors for text in texts]
    together: dict[int, tuple[torch.Tensor, float, Any]] = {}
    jobs = [(compressor, text) for compressor in compressors for text in texts]
    threads = [
        threading.Thread(target=lambda n=n, job=job: together.update({n: read(*job)})) for n, job in enumerate(jobs)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(together) == len(jobs), "a thread failed"
    for number, (memory, loss, text) in enumerate(alone):
        assert torch.equal(together[number][0], memory)
        assert together[number][1:] == (loss, text)


def test_a_plain_script_needs_no_ray(backbone: Backbone, tmp_path: Path) -> None:
    new_compressor(backbone).save_pretrained(tmp_path / "saved")
    script = f"""
import sys
for name in ("ray", "optuna", "datasets", "pyarrow"):
    sys.modules[name] = None  # importing it fails
from cmp import Compressor
compressor = Compressor.from_pretrained({str(tmp_path / "saved")!r}, device="cpu")
memory = compressor.compress({SHORT!r})
print(compressor.loss(memory, "is red"), len(compressor.generate(memory, max_new_tokens=2)))
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)

    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_gives_the_same_memory_and_loss(backbone: Backbone, kind: dict[str, Any], tmp_path: Path) -> None:
    compressor = new_compressor(backbone, **kind)
    compressor.save_pretrained(tmp_path)

    on_gpu = Compressor.from_pretrained(tmp_path, device="cuda", torch_dtype="float32")
    memory = on_gpu.compress([LONG, SHORT])

    torch.testing.assert_close(
        memory.to("cpu").vectors, compressor.compress([LONG, SHORT]).vectors, rtol=1e-3, atol=1e-4
    )
    assert on_gpu.loss(memory.cpu(), "x y") == pytest.approx(compressor.loss(memory.cpu(), "x y"), rel=1e-3)
    assert len(on_gpu.generate(memory, max_new_tokens=2)) == 2


def test_a_memory_carries_the_tokens_that_stay_text(backbone: Backbone) -> None:
    compressor = new_compressor(backbone, keep_len=4)

    memory = compressor.compress([LONG, "the"])

    assert [compressor.tokenizer.decode(kept) for kept in memory.kept] == [LONG[-4:], "the"]
    assert memory.lengths == [12, 3]  # 20 tokens in pieces of 5, and nothing at all
    assert memory.positions == [16, 6]
    without = Memory(memory.vectors, ((), ()), memory.n_cmps)
    assert compressor.loss(memory, "is red") != compressor.loss(without, "is red")
    assert memory[1:].kept == memory.kept[1:]


def test_fewer_vectors_than_trained_are_the_first_ones(backbone: Backbone) -> None:
    compressor = new_compressor(backbone, nested=True)
    two = compressor.compress(LONG, n_cmps=2)

    whole = compressor.compress(LONG).vectors.view(3, 3, -1)
    torch.testing.assert_close(two.vectors.view(3, 2, -1), whole[:, :2], rtol=1e-5, atol=1e-6)
    assert compressor.loss(two, SHORT) > 0
    with pytest.raises(CompressorError, match=r"outside 1\.\.3"):
        compressor.compress(LONG, n_cmps=4)
    with pytest.raises(CompressorError, match="nested"):
        new_compressor(backbone).compress(LONG, n_cmps=2)
