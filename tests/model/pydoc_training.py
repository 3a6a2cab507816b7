"""How the built-in backbones were made: small causal LMs trained on the training documents of `pydoc_text`.

`python -m tests.model.pydoc_training pydoc` makes one again, in minutes on two cores, where it comes with the package.
"""

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cmp.model.pydoc import MODELS
from cmp.model.pydoc_text import documents, documents_fingerprint

BOS = "<|endoftext|>"
WARM_UP_STEPS = 20
COOL_DOWN_SHARE = 0.7  # of training; the rate falls linearly to END_RATE of itself
END_RATE = 0.02
CONTEXT, TARGET = 50, 40  # tokens, as in the demo
VALIDATION_WINDOWS = 512
MADE = "made.json"  # how a backbone was made, beside it


@dataclass(frozen=True)
class Recipe:
    """How a built-in backbone is shaped and trained; Llama-shaped, tied embeddings, no biases.

    Args:
        vocab_size: tokens of its byte-level BPE.
        width: hidden size.
        n_blocks: transformer blocks.
        n_heads: attention heads.
        inner_width: of the gated MLP.
        steps: optimizer steps.
        batch_size: sequences per step.
        sequence_len: tokens per sequence.
        matrix_lr: learning rate of Muon, for the blocks' matrices.
        vector_lr: learning rate of AdamW, for embeddings and norms.
    """

    vocab_size: int
    width: int
    n_blocks: int
    n_heads: int
    inner_width: int
    steps: int
    batch_size: int
    sequence_len: int
    matrix_lr: float = 0.02
    vector_lr: float = 0.01
    max_positions: int = 256


# 2.2 M parameters. Muon, because in so few steps AdamW does not yet learn to copy a name from the context, which is
# what makes a context worth compressing.
RECIPES = {
    "pydoc": Recipe(2048, 192, 4, 3, 512, steps=700, batch_size=21, sequence_len=192),
    "pydoc-tiny": Recipe(1024, 128, 2, 2, 320, steps=150, batch_size=16, sequence_len=160),
}


def make(name: str, folder: Path, show: Callable[[int, float], None] = lambda step, loss: None) -> None:
    """Train a backbone and leave it in `folder` in Hugging Face format, weights in bfloat16, with its fast tokenizer.

    Args:
        name: one of `RECIPES`.
        folder: replaced as a whole.
        show: called with the number of steps done and the loss in nats after each.
    """
    recipe = RECIPES[name]
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = make_tokenizer(recipe)
    tokenizer.save_pretrained(folder)
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(documents("train"), add_special_tokens=False)
    token_lists = [np.array([tokenizer.bos_token_id, *encoding.ids]) for encoding in encodings]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _new_model(recipe)
        train(model, recipe, token_lists, show)
    model.to(torch.bfloat16).save_pretrained(folder)
    made = {
        "command": f"python -m tests.model.pydoc_training {name}",
        "recipe": asdict(recipe),
        "text": documents_fingerprint(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "losses": losses(folder),
    }
    (folder / MADE).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def losses(folder: Path) -> dict[str, float]:
    """What a context is worth to a backbone, in nats per token of the validation documents, which it never read.

    Returns:
        `no_context`: of 40 tokens after BOS; `full_context`: of the same after BOS and the 50 tokens before them.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(documents("validation"), add_special_tokens=False)
    starts = [(e.ids, start) for e in encodings for start in range(0, len(e.ids) - CONTEXT - TARGET, CONTEXT + TARGET)]
    windows = torch.tensor([ids[start : start + CONTEXT + TARGET] for ids, start in starts])[:VALIDATION_WINDOWS]

    def loss(ids: torch.Tensor) -> float:
        read = torch.cat([ids.new_full((len(ids), 1), tokenizer.bos_token_id), ids[:, :-1]], dim=1)
        logits = model(read).logits[:, -TARGET:]
        return nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -TARGET:].flatten()).item()

    return {"no_context": round(loss(windows[:, CONTEXT:]), 3), "full_context": round(loss(windows), 3)}


def make_tokenizer(recipe: Recipe) -> Any:
    """A byte-level BPE of the training documents."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocab_size,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents("train"), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS)


def _config(recipe: Recipe) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=recipe.width,
        intermediate_size=recipe.inner_width,
        num_hidden_layers=recipe.n_blocks,
        num_attention_heads=recipe.n_heads,
        max_position_embeddings=recipe.max_positions,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def _new_model(recipe: Recipe) -> Any:
    """Blocks start as the identity: what they write into the residual stream starts at zero, which learns faster."""
    from transformers import LlamaForCausalLM

    # In sequences this short, plain attention takes a third of the time of PyTorch's fused one on a CPU.
    model: Any = LlamaForCausalLM._from_config(_config(recipe), attn_implementation="eager")
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(parameter)
    return model


def train(model: Any, recipe: Recipe, token_lists: list[np.ndarray], show: Callable[[int, float], None]) -> None:
    """Next-token training over shuffled, concatenated documents that each begin with BOS.

    Args:
        model: changed in place.
        recipe: how long and how fast.
        token_lists: token ids of each document, BOS first.
        show: called with the number of steps done and the loss in nats after each.
    """
    optimizers = _optimizers(model, recipe)
    sequences = _sequences(token_lists, recipe.sequence_len, np.random.default_rng(0))
    bfloat16 = _computes_faster_in_bfloat16()
    for step in range(recipe.steps):
        _set_rate(optimizers, step, step / recipe.steps)
        ids = torch.from_numpy(np.stack([next(sequences) for _ in range(recipe.batch_size)]))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = model(ids[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        show(step + 1, loss.item())


def _optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for matrices inside the blocks, AdamW for the rest (Jordan et al. 2024)."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=recipe.matrix_lr, weight_decay=0.1),
        torch.optim.AdamW(rest, lr=recipe.vector_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return optimizers


def _set_rate(optimizers: list[torch.optim.Optimizer], step: int, progress: float) -> None:
    rate = min(1.0, (step + 1) / WARM_UP_STEPS) * min(1.0, max(END_RATE, (1 - progress) / COOL_DOWN_SHARE))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["full_rate"] * rate


def _sequences(token_lists: list[np.ndarray], length: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """(length + 1,) tokens without end; each pass joins the documents in a new order and cuts them elsewhere."""
    while True:
        flat = np.concatenate([token_lists[index] for index in rng.permutation(len(token_lists))])
        starts = np.arange(rng.integers(length), len(flat) - length, length)
        for start in rng.permutation(starts):
            yield flat[start : start + length + 1]


def _computes_faster_in_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; without, it is emulated and many times slower."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(384, 384, dtype=dtype)
        runs = []
        for _ in range(5):
            began = time.perf_counter()
            matrix @ matrix
            runs.append(time.perf_counter() - began)
        seconds[dtype] = min(runs)
    return seconds[torch.bfloat16] < seconds[torch.float32]


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.pydoc_training", description=__doc__)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="instead of the package's own folder")
    options = parser.parse_args(arguments)
    steps, began = RECIPES[options.name].steps, time.monotonic()

    def show(step: int, loss: float) -> None:
        left = (time.monotonic() - began) / step * (steps - step)
        print(f"\rstep {step} of {steps}, loss {loss:.2f}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)

    folder = options.to or MODELS / options.name
    make(options.name, folder, show)
    print(f"\n{folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
