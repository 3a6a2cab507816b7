"""The demo's backbone: a small causal LM trained on this machine from Python's own documentation, once.

`model_string: pydoc` means this model (about 2 minutes on 2 cores), `pydoc-tiny` a smaller one for rehearsals and tests
(about 10 seconds). Called by `backbone` through `resolve`; its text is in `pydoc_text`.

"""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import nn

from cmp.model.pydoc_text import SPLITS, documents, documents_fingerprint
from cmp.space.cache_root import cache_root

__all__ = [
    "RECIPES", "SPLITS", "Recipe", "documents", "documents_fingerprint", "ensure_backbone", "ensure_tokenizer",
    "resolve",
]  # fmt: skip

FORMAT = 1  # raise when training changes in a way that the recipe does not show
BOS = "<|endoftext|>"
WARM_UP_STEPS = 20
COOL_DOWN_SHARE = 0.7  # of training; the rate falls linearly to END_RATE of itself
END_RATE = 0.02


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
    "pydoc": Recipe(2048, 192, 4, 3, 512, steps=500, batch_size=21, sequence_len=192),
    "pydoc-tiny": Recipe(1024, 128, 2, 2, 320, steps=150, batch_size=16, sequence_len=160),
}


def resolve(model_string: str, *, weights: bool = True) -> str:
    """The folder of a built-in backbone, trained now if it is not there; any other name as it is.

    Args:
        model_string: as a user writes it.
        weights: without them the folder has only tokenizer and configuration, and takes seconds to make.
    """
    if model_string not in RECIPES:
        return model_string
    return str(ensure_backbone(model_string) if weights else ensure_tokenizer(model_string))


def ensure_backbone(name: str) -> Path:
    """The folder of a built-in backbone in Hugging Face format, with its fast tokenizer.

    Safe for several processes at once: one trains, the others wait. A killed training leaves nothing that would pass
    for a model.

    Raises:
        KeyError: there is no such backbone.
        UserError: this Python comes without its documentation.
    """
    recipe = RECIPES[name]
    return _made_once(_folder(name, recipe), lambda folder: _make_backbone(name, recipe, folder))


def ensure_tokenizer(name: str) -> Path:
    """The folder of the backbone's tokenizer and configuration alone: seconds, where the weights take minutes."""
    recipe = RECIPES[name]
    trained = _folder(name, recipe)
    if trained.is_dir():
        return trained
    return _made_once(trained.with_name(f"{trained.name}-tokenizer"), lambda folder: _make_tokenizer(recipe, folder))


def _folder(name: str, recipe: Recipe) -> Path:
    content = json.dumps([FORMAT, asdict(recipe), documents_fingerprint()])
    return cache_root() / "models" / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Make `folder` under a lock, complete before it has its name."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                make(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def _make_tokenizer(recipe: Recipe, folder: Path) -> None:
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
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS).save_pretrained(folder)
    _config(recipe).save_pretrained(folder)


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


def _make_backbone(name: str, recipe: Recipe, folder: Path) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(ensure_tokenizer(name), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(documents("train"), add_special_tokens=False)
    token_lists = [np.array([tokenizer.bos_token_id, *encoding.ids]) for encoding in encodings]
    with torch.random.fork_rng(devices=[]), _loss_bar(f"training the language model {name}", recipe.steps) as show:
        torch.manual_seed(0)
        model = _new_model(recipe)
        train(model, recipe, token_lists, show)
    with _without_bars():
        model.save_pretrained(folder)


def _new_model(recipe: Recipe) -> Any:
    """Blocks start as the identity: what they write into the residual stream starts at zero, which learns faster."""
    from transformers import LlamaForCausalLM

    # In sequences this short, plain attention takes a third of the time of PyTorch's fused one on a CPU.
    model: Any = LlamaForCausalLM._from_config(_config(recipe), attn_implementation="eager")
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(parameter)
    return model


def train(model: Any, recipe: Recipe, token_lists: list[np.ndarray], show: Callable[[float], None]) -> None:
    """Next-token training over shuffled, concatenated documents that each begin with BOS.

    A number of steps, not of seconds: a busy machine takes longer and does not keep a half-trained model for ever.

    Args:
        model: changed in place.
        recipe: how long and how fast.
        token_lists: token ids of each document, BOS first.
        show: called with the loss in nats after each step.
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
        show(loss.item())


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


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Writing nine megabytes needs no bar of its own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def _loss_bar(what: str, steps: int) -> Iterator[Callable[[float], None]]:
    """A bar with the latest loss on stderr; one line where nobody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{what} (once, then kept in {cache_root()})", highlight=False, soft_wrap=True)
        yield lambda loss: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.2f}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=steps, loss=float("nan"))
        yield lambda loss: bar.update(task, advance=1, loss=loss)
