"""Where a library has a function of the same purpose as ours: `python -m tests.benchmarks.libraries`.

`torch.nn.functional.linear_cross_entropy` (PyTorch 2.13) beside ours in the plain case: one loss per token, a frozen
head, forward and backward in turns in one process. And `get_decoder()` of transformers beside `find_stack`, on every
family of the tests.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from cmp.model.head import Head
from cmp.model.losses import linear_cross_entropy
from cmp.model.surgery import find_stack
from tests.benchmarks.record import record
from tests.benchmarks.step import peak_memory
from tests.model.families import FAMILIES, tiny_model

SHAPES = [(160, 256, 10_000), (640, 256, 10_000), (40, 512, 125_000)]
ROUNDS = 3
NOTES = (
    "Cross-entropy of each token from hidden states, float32, frozen head, forward and backward, medians of {rounds} "
    "turns; memory is the peak above hidden states and head. Torch's chunked way is `LinearCrossEntropyOptions()` with "
    "`reduction='none'`: the loss of each token is asked for. Ours also has the softcap of Gemma 2, the scale of "
    "Cohere and the KL to a teacher, which theirs has not. On {same} of {families} families `get_decoder()` is the "
    "module that `find_stack` finds; which of its lists holds the blocks it does not say."
)


def ours(hidden: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(N,) losses."""
    module = nn.Linear(1, 1, bias=False)
    module.weight = nn.Parameter(weight, requires_grad=False)
    return linear_cross_entropy(hidden, labels, Head(module))[0]


def torchs(hidden: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(N,) losses, in chunks."""
    options = nn.LinearCrossEntropyOptions()
    return nn.functional.linear_cross_entropy(hidden, weight, labels, reduction="none", options=options)


def whole(hidden: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(N,) losses, from all logits at once."""
    return nn.functional.linear_cross_entropy(hidden, weight, labels, reduction="none")


WAYS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "ours": ours, "torch, chunked": torchs, "torch, whole": whole,
}  # fmt: skip


def compare(n_tokens: int, width: int, vocabulary: int, rounds: int) -> dict[str, float | str]:
    """One row: how long the others take, and how much memory, as multiples of ours."""
    torch.manual_seed(0)
    hidden = torch.randn(n_tokens, width, requires_grad=True)
    weight = 0.02 * torch.randn(vocabulary, width)
    labels = torch.randint(vocabulary, (n_tokens,))
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    gradients, memory = {}, {}

    def step(name: str) -> None:
        hidden.grad = None
        WAYS[name](hidden, labels, weight).mean().backward()

    for name in WAYS:
        memory[name] = peak_memory(lambda name=name: step(name), hidden.device)
        gradients[name] = hidden.grad
    for _ in range(rounds):
        for name in WAYS:
            began = time.perf_counter()
            step(name)
            seconds[name].append(time.perf_counter() - began)
    for name in WAYS:
        torch.testing.assert_close(gradients[name], gradients["ours"], rtol=1e-4, atol=1e-7)
    took = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "tokens / width / vocabulary": f"{n_tokens} / {width} / {vocabulary:,}",
        "ours, ms": round(1000 * took["ours"], 1),
        "ours, MB": round(memory["ours"] / 1e6),
        **{f"{name}: times the time of ours": round(took[name] / took["ours"], 2) for name in WAYS if name != "ours"},
        **{f"{name}, MB": round(memory[name] / 1e6) for name in WAYS if name != "ours"},
    }


def is_the_stack(family: str) -> bool:
    """Whether transformers names the module that we find."""
    model = tiny_model(family)
    return model.get_decoder() is model.get_submodule(find_stack(model)[0])  # type: ignore[operator]


def main() -> None:
    """Measure and write `results/libraries.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [compare(*shape, args.rounds) for shape in SHAPES]
    named = [family for family in FAMILIES if is_the_stack(family)]
    print(rows, "get_decoder is another module on", set(FAMILIES) - set(named))
    notes = NOTES.format(rounds=args.rounds, families=len(FAMILIES), same=len(named))
    record("libraries", "tests.benchmarks.libraries", notes, rows)


if __name__ == "__main__":
    main()
