"""Finding and sharing the parts of any Hugging Face causal LM. Only `backbone` calls this.

Nothing here knows a family by name: the block list is found by its length (`config.num_hidden_layers`), the final
norm by running one block and seeing which norm comes after it. Shallow copies share every weight with the original,
also when accelerate has spread or offloaded it.
"""

import copy
import functools
import inspect
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

FUSABLE_GELU_TYPES = ("NewGELUActivation", "FastGELUActivation", "BloomGelu")


class UnsupportedModelError(ValueError):
    """The model is not shaped like a decoder-only transformer that can be cut after a block."""


def text_config(model: nn.Module) -> Any:
    """The configuration of the language part, also for a model that reads images."""
    config: Any = model.config
    return config.get_text_config(decoder=True)


def find_stack(model: nn.Module) -> tuple[str, str]:
    """The dotted path of the module that runs the blocks, and the name of its block list.

    Raises:
        UnsupportedModelError: no list of `num_hidden_layers` modules.
    """
    n_layers = text_config(model).num_hidden_layers
    lists = [name for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    lists = [name for name in lists if len(model.get_submodule(name)) == n_layers]  # type: ignore[arg-type]
    if not lists:
        raise UnsupportedModelError(f"{type(model).__name__} has no list of {n_layers} blocks to cut")
    path = min(lists, key=lambda name: name.count("."))  # lists inside blocks (experts) lie deeper
    parent, _, name = path.rpartition(".")
    return parent, name


def shallow_copy(module: nn.Module) -> nn.Module:
    """A module of its own with the same children and weights, whose children may be exchanged."""
    twin = copy.copy(module)
    twin.__dict__["_modules"] = dict(module._modules)
    forward = twin.__dict__.get("forward")
    if isinstance(forward, functools.partial):  # an accelerate hook, bound to the original: bind it to the twin
        twin.__dict__["_old_forward"] = types.MethodType(type(twin).forward, twin)
        twin.__dict__["forward"] = functools.partial(forward.func, twin)
    return twin


def replace_at(module: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """A shallow copy of `module` with `new` at the dotted `path`; the original is untouched."""
    if not path:
        return new
    name, _, rest = path.partition(".")
    twin = shallow_copy(module)
    twin._modules[name] = replace_at(module.get_submodule(name), rest, new)
    return twin


def truncated(stack: nn.Module, block_list: str, n_blocks: int, norms: tuple[str, ...]) -> nn.Module:
    """The first `n_blocks` blocks of `stack`, sharing its weights; `norms` become the identity.

    `norms` are the norms that run after the last block; leave them in (pass none) when all blocks run.
    """
    twin = shallow_copy(stack)
    blocks = stack.get_submodule(block_list)
    twin._modules[block_list] = nn.ModuleList(list(blocks.children())[:n_blocks])
    for name in norms:
        twin._modules[name] = nn.Identity()
    return twin


def recomputing(stack: nn.Module, block_list: str, contexts: Callable[[], tuple[Any, Any]]) -> nn.Module:
    """`stack`, sharing its weights, with blocks that keep only their inputs for the backward pass and run again there.

    Transformers' own gradient checkpointing wants training mode and takes the caches away from the blocks.

    Args:
        stack: the module that runs the blocks.
        block_list: the name of its block list.
        contexts: called as a block is run: what to enter for that run, and for the one of the backward pass.
    """

    def run(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False, "context_fn": contexts}
        return checkpoint(block.forward, *args, **settings, **kwargs)

    twin = shallow_copy(stack)
    blocks = []
    for block in stack.get_submodule(block_list).children():
        again = shallow_copy(block)
        again.__dict__["forward"] = functools.partial(run, block)
        blocks.append(again)
    twin._modules[block_list] = nn.ModuleList(blocks)
    return twin


@torch.no_grad()
def norms_after_blocks(stack: nn.Module, block_list: str, inputs_embeds: torch.Tensor) -> tuple[str, ...]:
    """Names of the children of `stack` that run after its blocks and are norms.

    Args:
        stack: the module that runs the blocks.
        block_list: the name of its block list.
        inputs_embeds: (1, T, H), anything: only the order of execution is looked at.
    """
    probe = truncated(stack, block_list, 1, ())
    first_block = next(iter(probe.get_submodule(block_list).children()))
    order: list[str] = []
    watched = {"": first_block, **{name: child for name, child in probe.named_children() if name != block_list}}
    handles = [
        module.register_forward_hook(lambda *_, name=name: order.append(name)) for name, module in watched.items()
    ]
    try:
        probe(inputs_embeds=inputs_embeds, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    after = order[order.index("") + 1 :]
    return tuple(name for name in after if "norm" in type(watched[name]).__name__.lower())


def takes_position_ids(stack: nn.Module) -> bool:
    """False for families whose positions follow from the attention mask alone (BLOOM)."""
    return "position_ids" in inspect.signature(type(stack).forward).parameters


def fuse_activations(model: nn.Module) -> None:
    """Exchange GELUs that are written out in Python for torch's own kernel, the same function to rounding.

    GPT-2's tanh GELU as transformers writes it is eight passes over the widest activation; on a CPU that is a fifth
    of a block's time.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ in FUSABLE_GELU_TYPES:
                setattr(parent, name, nn.GELU(approximate="tanh"))


class StubStack(nn.Module):
    """Stands where the blocks were and returns its input: what is left of the model is its head."""

    def forward(self, *_args: object, inputs_embeds: torch.Tensor, **_: object) -> object:
        """Hidden states in, the same hidden states out."""
        from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

        return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)
