"""Low-rank updates that act at compression positions only.

They are hooks on the shared linear layers of the frozen backbone, inert unless the calling thread is inside
`CompressionLora.active()`. Since the context is never read inside it, its keys and values stay constants and one
prefill without gradient stays exact (Context-Memory and Activation Beacon train the same way; prior work in README).
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from cmp.space.errors import UserError

_thread = threading.local()
_hooked: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
_hooked_lock = threading.Lock()


class CompressionLora(nn.Module):
    """x -> Wx + B(Ax) / sqrt(width of x) for every linear layer W of some blocks.

    A starts at N(0, 1), B at zero, so nothing changes at first. Kept at unit scale, A takes the same learning rate as
    the other trainables, whatever the width.
    """

    def __init__(self, blocks: list[nn.Module], rank: int, seed: torch.Generator) -> None:
        super().__init__()
        self._deltas: dict[nn.Module, tuple[nn.Parameter, nn.Parameter]] = {}
        for index, block in enumerate(blocks):
            for name, linear in block.named_modules():
                if isinstance(linear, nn.Linear | Conv1D):
                    self._add(f"{index}_{name}".replace(".", "_"), linear, rank, seed)
        if not self._deltas:
            raise UserError("lora_rank", f"{rank}, but this model has no linear layers that LoRA can act on; use 0")

    def _add(self, name: str, linear: nn.Module, rank: int, seed: torch.Generator) -> None:
        n_in, n_out = _widths(linear)
        device = next(linear.parameters()).device
        device = torch.device("cpu") if device.type == "meta" else device
        down = nn.Parameter(torch.randn(rank, n_in, generator=seed).to(device))
        up = nn.Parameter(torch.zeros(n_out, rank, device=device))
        self.register_parameter(f"{name}_down", down)
        self.register_parameter(f"{name}_up", up)
        self._deltas[linear] = (down, up)
        _hook_once(linear)

    def drop(self, unused: set[nn.Parameter]) -> None:
        """Forget the updates of layers whose output nobody reads."""
        names = {parameter: name for name, parameter in self.named_parameters()}
        for linear, pair in list(self._deltas.items()):
            if pair[1] in unused:
                del self._deltas[linear]
                for parameter in pair:
                    delattr(self, names[parameter])

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it, the calling thread's forward passes have the updates."""
        with _updates(self._deltas):
            yield


def recomputation_contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For a block that is run again in the backward pass, by whatever thread: with the updates that are active now."""
    return nullcontext(), _updates(getattr(_thread, "deltas", None))


@contextmanager
def _updates(deltas: Any) -> Iterator[None]:
    previous = getattr(_thread, "deltas", None)
    _thread.deltas = deltas
    try:
        yield
    finally:
        _thread.deltas = previous


def _hook_once(linear: nn.Module) -> None:
    with _hooked_lock:
        if linear not in _hooked:
            linear.register_forward_hook(_add_update)
            _hooked.add(linear)


def _add_update(linear: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor | None:
    deltas = getattr(_thread, "deltas", None)
    if deltas is None or linear not in deltas:
        return None
    down, up = deltas[linear]
    (x,) = inputs
    x = x.to(output.device)
    low = nn.functional.linear(x, (down * down.shape[1] ** -0.5).to(x.device, x.dtype))
    return output + nn.functional.linear(low, up.to(x.device, x.dtype))


def _widths(linear: nn.Module) -> tuple[int, int]:
    if isinstance(linear, Conv1D):
        return linear.nx, linear.nf
    assert isinstance(linear, nn.Linear)
    return linear.in_features, linear.out_features
