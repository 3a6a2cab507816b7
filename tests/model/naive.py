"""The slow way to the same numbers: one full pass per row, no cache, no truncation, all logits, plain autograd.

Independent of `cmp.model`: it takes the trainables by name and calls the whole Hugging Face model.
"""

import torch
from torch import nn
from torch.nn import functional

from cmp.model.batch import Batch
from cmp.model.compression import CompressionModel


def naive_loss(
    model: nn.Module, compressor: CompressionModel, batch: Batch, n_vectors: int | None = None
) -> torch.Tensor:
    """Mean nats per kept target token plus the reconstruction, row by row without any padding."""
    names = dict(compressor.named_parameters())
    config = compressor.settings
    scale = 8 * compressor.backbone.embedding_rms
    lm_sum, lm_tokens, rmb_sum, rmb_tokens = 0.0, 0, 0.0, 0
    for row in range(len(batch.context_ids)):
        context = _kept(batch.context_ids, batch.context_mask, row)
        target = _kept(batch.target_ids, batch.target_mask, row)
        boundary = max(0, len(context) - config.keep_len)
        compressed, kept = context[:boundary], context[boundary:]
        pieces = _pieces(compressed, config.piece_len or max(1, len(compressed)))
        memory = torch.cat([_memory(model, compressor, names, piece)[:, :n_vectors] for piece in pieces], dim=1)
        lm_sum = lm_sum + _predict(model, memory, scale * names["fwd.weight"], kept, target)
        lm_tokens += len(target)
        if config.rmb_task:
            rmb_sum = rmb_sum + _predict(model, memory, scale * names["rmb.weight"], kept[:0], compressed)
            rmb_tokens += len(compressed)
    loss = lm_sum / lm_tokens
    return loss + config.rmb_scale * rmb_sum / rmb_tokens if config.rmb_task else loss


def _pieces(ids: torch.Tensor, piece_len: int) -> list[torch.Tensor]:
    """Consecutive pieces; where the last ones are full, the first is what is left over."""
    ends = list(range(len(ids), 0, -piece_len)) or [0]
    return [ids[max(0, end - piece_len) : end] for end in reversed(ends)]


def _kept(ids: torch.Tensor, mask: torch.Tensor | None, row: int) -> torch.Tensor:
    return ids[row] if mask is None else ids[row][mask[row]]


def _memory(
    model: nn.Module, compressor: CompressionModel, names: dict[str, nn.Parameter], context: torch.Tensor
) -> torch.Tensor:
    backbone, n_cmps = compressor.backbone, compressor.settings.n_cmps
    parts = [model.get_input_embeddings()(torch.cat([context.new_tensor([backbone.bos_id]), context]))]
    if "memory.compression.separator.weight" in names:
        parts.append(8 * backbone.embedding_rms * names["memory.compression.separator.weight"])
    parts.append(8 * backbone.embedding_rms * names["memory.compression.tokens.weight"])
    captured: list[torch.Tensor] = []
    block = backbone.block_modules(backbone.n_layers)[compressor.memory.n_blocks - 1]
    hook = block.register_forward_hook(lambda _m, _i, out: captured.append(out if torch.is_tensor(out) else out[0]))
    body = model.get_submodule(backbone._stack_path)
    final = body(inputs_embeds=torch.cat(parts)[None], use_cache=False).last_hidden_state
    hook.remove()
    states = final if compressor.memory.n_blocks == backbone.n_layers else captured[0]
    if getattr(body, "project_out", None) is not None and compressor.memory.n_blocks != backbone.n_layers:
        states = body.project_out(states)
    return compressor.memory.projection(states[:, -n_cmps:])


def _predict(
    model: nn.Module, memory: torch.Tensor, token: torch.Tensor, lead: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    if len(ids) == 0:
        return torch.zeros(())
    inputs = torch.cat([memory[0], token, model.get_input_embeddings()(torch.cat([lead, ids[:-1]]))])
    logits = model(inputs_embeds=inputs[None], use_cache=False).logits[0, memory.shape[1] + len(lead) :]
    return functional.cross_entropy(logits, ids, reduction="sum")
