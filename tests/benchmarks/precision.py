"""Where bfloat16 pays on a CPU: `python -m tests.benchmarks.precision [--widths 64 128 ...] [--threads 1 2]`.

For every width a Llama-shaped model of four blocks, once in float32 and once in bfloat16, trains the same loops in one
process, in turns. Printed is how many times faster bfloat16 is: for a training loop, and for a validation batch. It is
where `cmp.model.loading.resolve_dtype` has its rule from.
"""

import argparse
import statistics
import time
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cmp.model.backbone import Backbone
from cmp.model.batch import Batch
from cmp.model.compression import CompressionModel
from cmp.model.steps import LossStep
from cmp.space.settings import TrialSettings

WIDTHS = (64, 128, 192, 256, 384, 512, 768, 1024)
SHAPES = ((32, 100, 40), (16, 128, 128), (32, 256, 64))  # batch_size, cmp_len, seq_len
DTYPES = (torch.float32, torch.bfloat16)


class _Tokenizer:
    bos_token_id = 1


def tiny_backbone(width: int, vocab_size: int, dtype: torch.dtype) -> Backbone:
    """Four blocks of a width, heads of 64."""
    heads = max(1, width // 64)
    config = AutoConfig.for_model(
        "llama",
        hidden_size=width,
        intermediate_size=width * 8 // 3 // 32 * 32,
        num_hidden_layers=4,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=vocab_size,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Backbone(AutoModelForCausalLM.from_config(config, dtype=dtype).eval(), _Tokenizer(), f"llama-{width}")


class Way:
    """Training and validation of one model in one precision."""

    def __init__(self, backbone: Backbone, settings: TrialSettings) -> None:
        self.model = CompressionModel(backbone, settings, seed=0)
        self.step = LossStep(self.model)
        size = settings.batch_size, settings.cmp_len + settings.seq_len
        ids = torch.randint(3, backbone.vocab_size, size, generator=torch.Generator().manual_seed(0))
        self.batch = Batch(ids[:, : settings.cmp_len], ids[:, settings.cmp_len :])
        self.seconds: dict[str, list[float]] = {"train": [], "validate": []}

    def train(self) -> None:
        """One loop."""
        self.step(self.batch, self.batch.target_ids.numel(), 1.0)

    def validate(self) -> None:
        """One batch, as after an epoch."""
        self.model.score(self.batch)

    def measure(self, what: str) -> None:
        """Time one of them."""
        began = time.perf_counter()
        getattr(self, what)()
        self.seconds[what].append(time.perf_counter() - began)


def ratios(ways: dict[torch.dtype, Way], rounds: int) -> dict[str, float]:
    """How many times faster the second way is, by what is done: the median of each round's own ratio."""
    slow, fast = (ways[dtype] for dtype in DTYPES)
    for what in slow.seconds:
        for turn in range(rounds + 1):  # the first round warms up
            for way in (slow, fast) if turn % 2 else (fast, slow):
                way.measure(what)
    return {
        what: statistics.median(a / b for a, b in zip(slow.seconds[what][1:], fast.seconds[what][1:], strict=True))
        for what in slow.seconds
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--memory", choices=["hidden", "kv", "pooled"], default="hidden")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"{torch.backends.cpu.get_cpu_capability()}; vocabulary {options.vocabulary}, memory {options.memory}")
    print(f"{'width':>6} {'batch/context/target':>21} {'threads':>7} {'train':>7} {'validate':>8}", flush=True)
    for width in options.widths:
        backbones = {dtype: tiny_backbone(width, options.vocabulary, dtype) for dtype in DTYPES}
        for batch_size, cmp_len, seq_len in SHAPES:
            shape: dict[str, Any] = {"batch_size": batch_size, "cmp_len": cmp_len, "seq_len": seq_len}
            settings = TrialSettings("bench", "none", memory=options.memory, **shape)
            ways = {dtype: Way(backbone, settings) for dtype, backbone in backbones.items()}
            for threads in options.threads:
                torch.set_num_threads(threads)
                for way in ways.values():
                    way.seconds = {"train": [], "validate": []}
                found = ratios(ways, options.rounds)
                name = f"{batch_size}/{cmp_len}/{seq_len}"
                print(
                    f"{width:>6} {name:>21} {threads:>7} {found['train']:>6.2f}x {found['validate']:>7.2f}x", flush=True
                )


if __name__ == "__main__":
    main()
