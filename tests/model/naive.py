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
        context, prompt, target = _texts(batch, row)
        boundary = max(0, len(context) - config.keep_len)
        compressed, kept = context[:boundary], context[boundary:]
        pieces = _pieces(compressed, config.piece_len or max(1, len(compressed)))
        memory = torch.cat([_memory(model, compressor, names, piece)[:, :n_vectors] for piece in pieces], dim=1)
        lm_sum = lm_sum + _predict(model, memory, scale * names["fwd.weight"], torch.cat([kept, prompt]), target)
        lm_tokens += len(target)
        if config.rmb_task:
            rmb_sum = rmb_sum + _predict(model, memory, scale * names["rmb.weight"], kept[:0], compressed)
            rmb_tokens += len(compressed)
    loss = lm_sum / lm_tokens
    return loss + config.rmb_scale * rmb_sum / rmb_tokens if config.rmb_task else loss


def naive_no_context_nll(model: nn.Module, batch: Batch, bos_id: int) -> list[float]:
    """Nats of each row's target after [BOS, prompt], row by row."""
    return [_nll_after(model, batch, bos_id, row, with_context=False) for row in range(len(batch.target_ids))]


def naive_full_context_nll(model: nn.Module, batch: Batch, bos_id: int) -> list[float]:
    """Nats of each row's target after [BOS, context, prompt], row by row."""
    return [_nll_after(model, batch, bos_id, row, with_context=True) for row in range(len(batch.target_ids))]


def naive_kl(model: nn.Module, compressor: CompressionModel, batch: Batch) -> torch.Tensor:
    """KL from the backbone after [BOS, context, prompt] to the decoder, summed over kept target tokens, row by row."""
    names, config, total = dict(compressor.named_parameters()), compressor.settings, torch.zeros(())
    backbone = compressor.backbone
    for row in range(len(batch.context_ids)):
        context, prompt, target = _texts(batch, row)
        boundary = max(0, len(context) - config.keep_len)
        memory = _memory(model, compressor, names, context[:boundary])
        lead = torch.cat([context[boundary:], prompt])
        token = 8 * backbone.embedding_rms * names["fwd.weight"]
        ours = _logits(model, memory, token, lead, target)[-len(target) :]
        ids = torch.cat([context.new_tensor([backbone.bos_id]), context, prompt, target[:-1]])
        theirs = model(input_ids=ids[None], use_cache=False).logits[0, -len(target) :]
        total = total + functional.kl_div(
            ours.log_softmax(-1), theirs.log_softmax(-1), reduction="sum", log_target=True
        )
    return total


def _texts(batch: Batch, row: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Context, prompt and target of one row, without padding."""
    context = _kept(batch.context_ids, batch.context_mask, row)
    prompt = context[:0] if batch.prompt_ids is None else _kept(batch.prompt_ids, batch.prompt_mask, row)
    return context, prompt, _kept(batch.target_ids, batch.target_mask, row)


@torch.no_grad()
def _nll_after(model: nn.Module, batch: Batch, bos_id: int, row: int, *, with_context: bool) -> float:
    context, prompt, target = _texts(batch, row)
    before = torch.cat([target.new_tensor([bos_id]), context if with_context else context[:0], prompt])
    logits = model(input_ids=torch.cat([before, target[:-1]])[None], use_cache=False).logits[0, len(before) - 1 :]
    return functional.cross_entropy(logits, target, reduction="sum").item()


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
    logits = _logits(model, memory, token, lead, ids)[memory.shape[1] + len(lead) :]
    return functional.cross_entropy(logits, ids, reduction="sum")


def _logits(
    model: nn.Module, memory: torch.Tensor, token: torch.Tensor, lead: torch.Tensor, ids: torch.Tensor
) -> torch.Tensor:
    inputs = torch.cat([memory[0], token, model.get_input_embeddings()(torch.cat([lead, ids[:-1]]))])
    return model(inputs_embeds=inputs[None], use_cache=False).logits[0]
