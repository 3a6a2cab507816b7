"""How fast one training loop is: `python -m tests.benchmarks.step [--device cuda] [--graphs] ...`.

For every model, layer and shape it prints seconds per loop, tokens per second, peak memory above the weights, the
operations that the method needs (`cmp.model.flops`), the share of the device's matrix-product rate measured in
between, the same for the naive way, and where the time goes.

The naive way is the prototype's: one autograd pass over context and compression tokens through all layers with
all hidden states kept, then the whole language model on memory and target with logits at every position. Both do the
same work on the same random batch in the same process, in turns; times are medians. `ops` is how many times our
operations the naive way needs: where both keep the device equally busy, `speedup` cannot be more.
"""

import argparse
import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from cmp.model.backbone import Backbone
from cmp.model.batch import Batch, split
from cmp.model.compression import CompressionModel
from cmp.model.flops import ModelShape, loop_flops, shape_of
from cmp.model.memory import Memories
from cmp.model.steps import LossStep, recordings_for
from cmp.space.layers import resolve_layer
from cmp.space.settings import TrialSettings

SHAPES = [(10, 20, 1), (100, 20, 2), (500, 100, 4), (1024, 256, 16)]
LAYERS: list[int | str] = ["half", -2]
PARTS = ("data", "prefill", "compression", "decoder", "head", "optimizer")


class _Tokenizer:
    bos_token_id = 1


def model_config(name: str, size: str) -> Any:
    """GPT-2- and Llama-shaped configurations: on a CPU a third of gpt2's width, on a GPU gpt2 and a 1B Llama."""
    if name == "gpt2":
        small = {"n_embd": 512, "n_layer": 8, "n_head": 8, "vocab_size": 20_000}
        options = small if size == "cpu" else {}  # the defaults are gpt2's own
        return AutoConfig.for_model("gpt2", n_positions=2048, **options)
    small = {
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 16_000,
    }
    billion = {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "tie_word_embeddings": True,
    }
    return AutoConfig.for_model("llama", max_position_embeddings=2048, **(small if size == "cpu" else billion))


@dataclass
class Way:
    """One way to do a loop: how long it takes and what it needs."""

    step: Callable[[], None]
    seconds: list[float]
    peak_bytes: int = 0

    @property
    def median(self) -> float:
        """Seconds per loop."""
        return statistics.median(self.seconds)


class Bench:
    """One model on one device, and the windows that batches are cut from."""

    def __init__(self, name: str, size: str, options: argparse.Namespace) -> None:
        self.device, self.options = torch.device(options.device), options
        self.dtype = torch.bfloat16 if size == "gpu" else torch.float32
        torch.manual_seed(0)
        with self.device:  # a billion weights are drawn where they are needed
            model = AutoModelForCausalLM.from_config(model_config(name, size), dtype=self.dtype).eval()
        self.naive_model = model.requires_grad_(False).train(options.dropout)
        with torch.device("meta"):
            twin = AutoModelForCausalLM.from_config(model.config, dtype=self.dtype)
        twin.load_state_dict(model.state_dict(), assign=True)  # shares the weights, but may exchange activations
        _share_buffers(twin, model)
        self.backbone = Backbone(twin, _Tokenizer(), name)
        self.tokens = torch.randint(self.backbone.vocab_size, (1 << 16,))

    def run(self, cmp_len: int, seq_len: int, n_cmps: int, layer: int | str, batch_size: int) -> None:
        """Measure one line of the table and print it."""
        settings = TrialSettings(
            "bench", "none", cmp_len=cmp_len, seq_len=seq_len, n_cmps=n_cmps, cmp_layer=layer, batch_size=batch_size
        )  # type: ignore[arg-type]
        model = CompressionModel(self.backbone, settings, seed=0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        recordings = recordings_for(self.backbone, print) if self.options.graphs else None
        loss_step = LossStep(model, recordings=recordings)

        def ours() -> None:
            loss_step(self.batch(settings), batch_size * seq_len, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)

        def naive() -> None:
            batch = self.batch(settings)
            naive_loss(self.naive_model, model, batch, context_logits=self.options.context_logits).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)  # recorded graphs add to the same tensors

        ways = {"ours": Way(ours, [])}
        ways["ours"].peak_bytes = peak_memory(ours, self.device)
        if not self.options.skip_naive:
            try:
                ways["naive"] = Way(naive, [], peak_memory(naive, self.device))
            except torch.OutOfMemoryError:
                ways.pop("naive", None)
                optimizer.zero_grad(set_to_none=True)
                print(f"{'':>12}naive: out of memory", flush=True)
        rates: list[float] = []
        for _ in range(self.options.rounds):
            for way in ways.values():
                way.seconds.append(timed(way.step, self.device, self.options.loops))
            rates.append(matmul_rate(self.device, self.dtype))
        self._print(model, ways, statistics.median(rates))
        self._print_parts(model, optimizer, settings)

    def batch(self, settings: TrialSettings) -> Batch:
        """Random windows, cut and moved as training does it."""
        width = settings.cmp_len + settings.seq_len
        starts = torch.randint(len(self.tokens) - width, (settings.batch_size, 1))
        windows = self.tokens[starts + torch.arange(width)].to(self.device)
        return Batch(windows[:, : settings.cmp_len], windows[:, settings.cmp_len :])

    def _print(self, model: CompressionModel, ways: dict[str, Way], rate: float) -> None:
        settings, ours = model.settings, ways["ours"]
        needed = loop_flops(shape_of(self.backbone), settings).total
        tokens = settings.batch_size * (settings.cmp_len + settings.seq_len)
        shape = f"{settings.cmp_len}/{settings.seq_len}/{settings.n_cmps}"
        line = (
            f"{shape:>11} {settings.cmp_layer!s:>5} {settings.batch_size:>5} {ours.median:>9.4f} "
            f"{tokens / ours.median:>9.0f} {ours.peak_bytes / 2**20:>8.0f} {needed / 1e9:>9.1f} "
            f"{needed / ours.median / rate:>6.0%}"
        )
        if "naive" in ways:
            naive = ways["naive"]
            naive_needs = naive_flops(shape_of(self.backbone), settings, context_logits=self.options.context_logits)
            line += (
                f" {naive.median:>9.4f} {naive.peak_bytes / 2**20:>8.0f} {needed / naive.median / rate:>6.0%}"
                f" {naive.median / ours.median:>7.2f}x {naive_needs / needed:>4.2f}x"
                f" {ours.peak_bytes / max(1, naive.peak_bytes):>6.0%}"
            )
        print(line + f" {rate / 1e12:>7.2f}", flush=True)

    def _print_parts(self, model: CompressionModel, optimizer: torch.optim.Optimizer, settings: TrialSettings) -> None:
        rounds = [self._parts(model, optimizer, settings) for _ in range(max(3, self.options.rounds))]
        medians = [statistics.median(parts[name] for parts in rounds) for name in PARTS]
        shares = "  ".join(f"{name} {part / sum(medians):.0%}" for name, part in zip(PARTS, medians, strict=True))
        print(f"{'':>12}time (eager): {shares}", flush=True)

    def _parts(
        self, model: CompressionModel, optimizer: torch.optim.Optimizer, settings: TrialSettings
    ) -> dict[str, float]:
        """Seconds of every phase of an eager loop, forward and backward together."""
        clock = Clock(self.device)
        batch = self.batch(settings)
        clock.stop("data")
        parts = split(batch, model.view)
        prefix = model.read(parts)
        clock.stop("prefill")
        memory = model.memory.make(prefix)
        clock.stop("compression")
        cut_memory = memory.detach().requires_grad_()
        tasks = model.tasks(batch, parts)
        states = model.decode(Memories(cut_memory), tasks)
        clock.stop("decoder")
        cut_states = [part.detach().requires_grad_() for part in states]
        model.combine(tasks, cut_states, None, settings.batch_size * settings.seq_len, 1.0).total.backward()
        clock.stop("head")
        torch.autograd.backward(states, [part.grad for part in cut_states])  # type: ignore[arg-type]
        clock.stop("decoder")
        memory.backward(cut_memory.grad)
        clock.stop("compression")
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        clock.stop("optimizer")
        return clock.seconds


class Clock:
    """Adds up wall time by name; waits for the device at every stop."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict.fromkeys(PARTS, 0.0)
        synchronize(device)
        self.last = time.perf_counter()

    def stop(self, name: str) -> None:
        """Time since the last stop goes to `name`."""
        synchronize(self.device)
        now = time.perf_counter()
        self.seconds[name] += now - self.last
        self.last = now


def naive_loss(
    model: nn.Module, trainables: CompressionModel, batch: Batch, *, context_logits: bool = False
) -> torch.Tensor:
    """The prototype's way: everything with gradient through all layers, logits at every position of the decoder.

    With `context_logits` also at those of context and compression tokens, as calling the whole language model gives.
    """
    n_cmps = trainables.settings.n_cmps
    embed = model.get_input_embeddings()
    tokens = trainables.memory.compression.tokens().expand(len(batch.context_ids), -1, -1)
    bos = torch.full_like(batch.context_ids[:, :1], trainables.backbone.bos_id)
    embeds = torch.cat([embed(torch.cat([bos, batch.context_ids], 1)), tokens], 1)
    reader = model if context_logits else model.base_model
    states = reader(inputs_embeds=embeds, output_hidden_states=True, use_cache=False).hidden_states
    memory = trainables.memory.projection(states[trainables.memory.n_blocks][:, -n_cmps:])
    forward = trainables.fwd_token.expand(len(memory), 1, -1)
    embeds = torch.cat([memory, forward, embed(batch.target_ids)], 1)
    logits = model(inputs_embeds=embeds, use_cache=False).logits[:, n_cmps:-1]
    return functional.cross_entropy(logits.flatten(0, 1).float(), batch.target_ids.flatten())


def naive_flops(shape: ModelShape, settings: TrialSettings, *, context_logits: bool = False) -> float:
    """Operations of a naive loop; its backward pass goes no deeper than the layer that the memory is read at."""
    read, decoded = 1 + settings.cmp_len + settings.n_cmps, settings.n_cmps + 1 + settings.seq_len
    encoder = shape.forward(read, 0, shape.n_layers)
    encoder += shape.forward(read, 0, resolve_layer(settings.cmp_layer, shape.n_layers))
    if context_logits:
        encoder += shape.head(read)
    decoder = 2 * shape.forward(decoded, 0, shape.n_layers) + 2 * shape.head(decoded)
    return settings.batch_size * (encoder + decoder)


def timed(step: Callable[[], None], device: torch.device, loops: int) -> float:
    """Seconds per loop."""
    synchronize(device)
    start = time.perf_counter()
    for _ in range(loops):
        step()
    synchronize(device)
    return (time.perf_counter() - start) / loops


def peak_memory(step: Callable[[], None], device: torch.device) -> int:
    """Most bytes that one loop holds above what was there before it (weights, trainables).

    On a CPU this is the kernel's own high-water mark of the process, reset before the loop.
    """
    step()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status_bytes("VmRSS")
    step()
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> int:
    """Memory of this process as the kernel has it, such as `VmRSS`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large square matrix product, the best of a few."""
    size = 8192 if device.type == "cuda" else 1536
    a = torch.randn(size, size, device=device, dtype=dtype)
    b = torch.randn(size, size, device=device, dtype=dtype)
    best = min(timed(lambda: torch.mm(a, b), device, 1) for _ in range(4))
    return 2 * size**3 / best


def synchronize(device: torch.device) -> None:
    """Wait for the device's queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _share_buffers(twin: nn.Module, original: nn.Module) -> None:
    buffers = dict(original.named_buffers())
    for name, _ in list(twin.named_buffers()):
        parent, _, leaf = name.rpartition(".")
        setattr(twin.get_submodule(parent), leaf, buffers[name])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gpu", action="store_true", help="gpt2 and 1B sizes in bfloat16 (the default on cuda)")
    parser.add_argument("--models", nargs="+", default=["gpt2", "llama"], choices=["gpt2", "llama"])
    parser.add_argument("--shapes", nargs="+", default=None, help="such as 500/100/4 (context/target/compression)")
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    parser.add_argument("--batch-size", type=int, default=None, help="default: 8 on a CPU, 32 on a GPU")
    parser.add_argument("--rounds", type=int, default=3, help="turns; times are medians over them")
    parser.add_argument("--loops", type=int, default=None, help="loops per turn; default 1 on a CPU, 5 on a GPU")
    parser.add_argument("--graphs", action="store_true", help="replay CUDA graphs of the whole loss step")
    parser.add_argument("--skip-naive", action="store_true")
    parser.add_argument(
        "--dropout", action="store_true", help="leave dropout on in the naive way, as the prototype did"
    )
    parser.add_argument(
        "--context-logits", action="store_true", help="in the naive way: logits of context and compression tokens too"
    )
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    options = parse_arguments()
    size = "gpu" if options.gpu or options.device.startswith("cuda") else "cpu"
    options.loops = options.loops or (5 if options.device.startswith("cuda") else 1)
    batch_size = options.batch_size or (32 if options.device.startswith("cuda") else 8)
    shapes = SHAPES if options.shapes is None else [tuple(map(int, text.split("/"))) for text in options.shapes]
    layers = [layer if layer == "half" else int(layer) for layer in options.layers]
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {options.device} ({where}), graphs {options.graphs}")
    for name in options.models:
        bench = Bench(name, size, options)
        weights = sum(parameter.numel() for parameter in bench.backbone.model.parameters())
        print(f"\n{name}-shaped, {weights / 1e6:.0f} M parameters, {bench.dtype}")
        print(
            f"{'c/s/k':>11} {'layer':>5} {'batch':>5} {'s/loop':>9} {'tokens/s':>9} {'MiB':>8} {'GFLOP':>9} {'rate':>6}"
            f" {'naive s':>9} {'MiB':>8} {'rate':>6} {'speedup':>8} {'ops':>5} {'memory':>6} {'TFLOP/s':>7}"
        )
        for shape in shapes:
            for layer in layers:
                bench.run(*shape, layer, batch_size)
        del bench
        gc.collect()


if __name__ == "__main__":
    main()
