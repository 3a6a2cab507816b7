"""A trial that starts from a saved compressor: which one may be used, and its tensors. Called by `train` and `search`.

What the trial has beyond the saved one starts as it would without: more vectors lie behind the saved ones, which do not
read them; a projection starts at the identity, LoRA at no update.
"""

import torch

from cmp.model.compression import CompressionModel
from cmp.model.saving import CompressorError, SavedConfig, read_compressor

TOKENS = "memory.compression.tokens.weight"
# A trial may do less with a memory than the saved compressor did.
_TASKS = ("fwd.weight", "rmb.weight")


def start_from(model: CompressionModel, place: str) -> None:
    """Put the tensors of a saved compressor into a model that has not been trained.

    Args:
        model: changed only where the compressor fits.
        place: its folder, URL or hub id.

    Raises:
        CompressorError: there is none, it is of another backbone, or of another shape.
    """
    config, saved = read_compressor(place)
    identity = model.backbone.identity
    if config.backbone.fingerprint != identity.fingerprint:
        raise CompressorError(
            f"warm_start: {place} was trained with {config.backbone.name} (fingerprint {config.backbone.fingerprint}), "
            f"but {identity.name} has other weights ({identity.fingerprint}); its vectors mean nothing to them"
        )
    own = model.state_dict()
    unused = [name for name in saved if name not in own and name not in _TASKS]
    if unused or config.settings.memory != model.settings.memory:
        raise CompressorError(f"warm_start: {place} {_how_it_differs(config, model, unused)}; give the trial the same")
    started = {name: _placed(name, saved[name], own[name], place) for name in own if name in saved}
    model.load_state_dict({**own, **started})


def _placed(name: str, saved: torch.Tensor, own: torch.Tensor, place: str) -> torch.Tensor:
    """The saved tensor in the shape of the trial's own; of compression tokens as many as both have."""
    saved = saved.to(own)
    if name == TOKENS and saved.shape[1:] == own.shape[1:]:
        count = min(len(saved), len(own))
        return torch.cat([saved[:count], own[count:]])
    if saved.shape != own.shape:
        raise CompressorError(
            f"warm_start: {name} of {place} is {tuple(saved.shape)}, the trial's {tuple(own.shape)}; give the trial "
            "the same memory, lora_rank and proj_hid_mult"
        )
    return saved


def _how_it_differs(config: SavedConfig, model: CompressionModel, unused: list[str]) -> str:
    if config.settings.memory != model.settings.memory:
        return f'has memory: "{config.settings.memory}", the trial "{model.settings.memory}"'
    return f"has {', '.join(unused[:3])}, which the trial has not (sep_cmpr, proj_cmpr, lora_rank, cmp_layer)"
