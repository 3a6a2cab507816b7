"""The frozen map from hidden states to logits, with what families do to it: bias, scale, softcap.

Shape suffixes: `N` tokens, `H` hidden, `V` vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from cmp.model.surgery import StubStack, UnsupportedModelError, replace_at, text_config


@dataclass(frozen=True)
class Head:
    """logits = softcap(scale * (hidden @ weight.T + bias)).

    Args:
        module: the output embedding, an `nn.Linear`.
        scale: a constant factor (Cohere, Granite), usually 1.
        softcap: c in c * tanh(logits / c) (Gemma 2); None where there is none.
    """

    module: nn.Module
    scale: float = 1.0
    softcap: float | None = None

    @contextmanager
    def weights(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """(V, H) weight and (V,) bias, brought in from where accelerate has offloaded them."""
        if not hasattr(self.module, "_hf_hook"):
            yield self.module.weight, self.module.bias  # type: ignore[misc]
            return
        from accelerate.utils import align_module_device

        with align_module_device(self.module):
            yield self.module.weight, self.module.bias  # type: ignore[misc]

    def logits(self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """(N, H) hidden states to (N, V) float32 logits."""
        logits = nn.functional.linear(hidden, weight, bias).float()
        if self.scale != 1.0:
            logits = logits.mul_(self.scale)
        if self.softcap is not None:
            logits = logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def backward_through_shape(self, grad: torch.Tensor, logits: torch.Tensor | None) -> torch.Tensor:
        """The gradient before softcap and scale, from the gradient of `logits`; changes `grad` in place.

        `logits` may be None when there is no softcap.
        """
        if self.softcap is not None:
            assert logits is not None
            grad = grad.mul_(1.0 - (logits / self.softcap).square_())
        return grad if self.scale == 1.0 else grad.mul_(self.scale)


def find_head(model: nn.Module, stack_path: str, hidden_size: int) -> Head:
    """The model's head, checked against the model itself on made-up hidden states.

    Raises:
        UnsupportedModelError: the model turns hidden states into logits in a way that `Head` does not know.
    """
    module = model.get_output_embeddings()  # type: ignore[operator]
    if module is None or getattr(module, "weight", None) is None:
        raise UnsupportedModelError(f"{type(model).__name__} has no output embedding")
    config = text_config(model)
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    head = Head(module, scale, softcap)
    _check_head(head, replace_at(model, stack_path, StubStack()), hidden_size, type(model).__name__)
    return head


@torch.no_grad()
def _check_head(head: Head, headed: nn.Module, hidden_size: int, name: str) -> None:
    with head.weights() as (weight, bias):
        hidden = torch.linspace(-1.0, 1.0, 2 * hidden_size, device=weight.device).to(weight.dtype).view(1, 2, -1)
        ours = head.logits(hidden[0], weight, bias)
    theirs = headed(inputs_embeds=hidden, use_cache=False).logits[0].float().to(ours.device)
    if ours.shape != theirs.shape or (ours - theirs).abs().max() > 0.02 * theirs.abs().max() + 1e-6:
        raise UnsupportedModelError(f"{name} computes its logits in a way that this program does not know")
