"""The frozen language model: embeds, encodes a context once into a cache, and goes on from there.

The only module that knows how Hugging Face models are called. Everything above it deals in embeddings, hidden states
and `Prefix`es. Weights never get gradients and never change; dropout is off.

Shape suffixes: `B` batch, `C` context, `P` prefix (BOS + context), `T` new positions, `S` target, `H` hidden, `V`
vocabulary.
"""

import dataclasses
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from cmp.model.batch import Batch, Stretch, TokenScores, joined, padded_left, padded_right, prompt_of
from cmp.model.caches import (
    CacheUntil,
    EverythingCachedError,
    NothingKept,
    Pair,
    cache_of,
    cache_pairs,
    new_pairs,
    reading,
)
from cmp.model.head import find_head
from cmp.model.loading import DEFAULT_OPTIONS, LoadOptions, load_model, load_tokenizer, max_positions
from cmp.model.lora import recomputation_contexts
from cmp.model.losses import token_scores
from cmp.model.names import hub_commit, pinned, split_revision
from cmp.model.surgery import (
    UnsupportedModelError,
    find_stack,
    fuse_activations,
    norms_after_blocks,
    recomputing,
    takes_position_ids,
    text_config,
    truncated,
)

FINGERPRINT_SAMPLES_PER_TENSOR = 512
EMBEDDING_SAMPLES = 8192


@dataclass(frozen=True)
class BackboneId:
    """Which weights a compressor belongs to.

    Args:
        name: the hub id, folder or built-in name it was loaded by, without a revision.
        revision: the hub's commit hash, where it came from the hub.
        fingerprint: hash of shape and weights, the same in any precision (but not quantized) and on any device.
    """

    name: str
    revision: str | None
    fingerprint: str

    @property
    def place(self) -> str:
        """Where these very weights are: what the hub's name stood for when it was loaded, whatever is there now."""
        return pinned(self.name, self.revision)


@dataclass(frozen=True)
class Prefix:
    """A context that was read: what the blocks need to go on after it, as constants.

    Args:
        cache: keys and values of `n_blocks` blocks, (B, heads, P, head width) each.
        n_blocks: how many blocks read it.
        batch_size: B.
        length: P, padding included.
        mask: (B, P) bool, False on padding; None when there is none.
        states: (B, P, H) output of the last of these blocks (after the final norm when all ran), where asked for.
        starts: (B, 1) int64, the position id of each row's BOS; None is 0.
    """

    cache: DynamicCache
    n_blocks: int
    batch_size: int
    length: int
    mask: torch.Tensor | None = None
    states: torch.Tensor | None = None
    starts: torch.Tensor | None = None

    def rows(self, rows: slice) -> "Prefix":
        """Some of the rows."""

        def of(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor[rows]

        cache = cache_of([(keys[rows], values[rows]) for keys, values in cache_pairs(self.cache)])
        count = len(range(self.batch_size)[rows])
        return Prefix(cache, self.n_blocks, count, self.length, of(self.mask), of(self.states), of(self.starts))

    def then(self, pairs: "list[tuple[torch.Tensor, torch.Tensor]]", mask: torch.Tensor | None) -> "Prefix":
        """This prefix with keys and values of (B, heads, T, width) behind it, hidden where the (B, T) mask is False."""
        cache = cache_of(
            [
                (torch.cat([k, new_k], 2), torch.cat([v, new_v], 2))
                for (k, v), (new_k, new_v) in zip(cache_pairs(self.cache), pairs, strict=True)
            ]
        )
        added = pairs[0][0].shape[2]
        mask = joint_mask(self.mask, self.length, mask, added, self.batch_size)
        return Prefix(cache, self.n_blocks, self.batch_size, self.length + added, mask, None, self.starts)

    def known_states(self) -> torch.Tensor:
        """`states`, of a prefix that was read with them."""
        assert self.states is not None, "this prefix was read for its keys and values only"
        return self.states


class Backbone:
    """A causal LM, its tokenizer and its facts. Shared by trials of one process; holds no state of any of them."""

    def __init__(self, model: nn.Module, tokenizer: Any, name: str, revision: str | None = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        fuse_activations(model)
        self._stack_path, self._block_list = find_stack(model)
        self._stack = model.get_submodule(self._stack_path)
        self._embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        self.config: Any = text_config(model)
        config = self.config
        self.n_layers: int = config.num_hidden_layers
        self.max_positions: int | None = max_positions(config)
        self.device = _execution_device(self._embedding)
        self.is_spread = any(hasattr(module, "_hf_hook") for module in self._stack.modules())
        self.dtype: torch.dtype = next(self._embedding.parameters()).dtype
        sample = self._sample_embeddings()
        self.hidden_size: int = sample.shape[1]
        self.embedding_mean = sample.mean(0)
        self.embedding_rms = float(sample.square().mean().sqrt())
        self.head = find_head(model, self._stack_path, self.hidden_size)
        with self.head.weights() as (weight, _):
            self.vocab_size: int = weight.shape[0]
        self.bos_id: int = _bos_id(tokenizer, config)
        self.takes_positions = takes_position_ids(self._stack)
        probe = self.embed(torch.full((1, 2), self.bos_id))
        self._norms = norms_after_blocks(self._stack, self._block_list, probe)
        self._truncated: dict[int, nn.Module] = {self.n_layers: self._stack}
        self._recomputed: dict[int, nn.Module] = {}
        self.block_devices = [_block_device(block) for block in self.block_modules(self.n_layers)]
        self.identity = BackboneId(name, revision, _fingerprint(model))

    @classmethod
    def load(cls, model_string: str, options: LoadOptions = DEFAULT_OPTIONS) -> "Backbone":
        """Load a model and its tokenizer.

        Args:
            model_string: hub id (with @revision to pin it), local folder, GGUF file, or a built-in name ("pydoc",
                "pydoc-tiny").
            options: precision, devices, and so on.

        Raises:
            OSError: the model or tokenizer is not there, or the hub cannot be reached.
            ValueError: its files are damaged, or not of a causal LM that transformers knows.
            UnsupportedModelError: the model is not a decoder-only transformer that can be cut.
            UserError: a package is missing.
        """
        name, commit = split_revision(model_string)[0], hub_commit(model_string)
        place = pinned(model_string, commit)
        tokenizer = load_tokenizer(place, trust_remote_code=options.trust_remote_code)
        return cls(load_model(place, options), tokenizer, name, commit)

    @property
    def slides(self) -> bool:
        """Whether some blocks see only so many tokens back."""
        return getattr(self.config, "sliding_window", None) is not None

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """(B, T) token ids to (B, T, H) input embeddings, as the family itself scales them."""
        with torch.no_grad():
            return self._embedding(ids.to(self.device))

    @torch.no_grad()
    def prefill(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        n_blocks: int,
        *,
        with_states: bool = False,
        starts: torch.Tensor | None = None,
    ) -> Prefix:
        """Read [BOS, ids] once, without gradient, through the first `n_blocks` blocks.

        Args:
            ids: (B, C) int64, padded on the left; BOS is put before the first real token.
            mask: (B, C) bool, True on real tokens; None when all are.
            n_blocks: 1..n_layers.
            with_states: also keep what the last block makes of its keys and values; without, it ends at these.
            starts: (B, 1) int64, the position id of each row's BOS; None is 0.
        """
        mask = None if mask is None else mask.to(self.device)
        ids, mask = with_bos(ids.to(self.device), mask, self.bos_id)
        positions = None if mask is None else left_padded_positions(mask)
        if starts is not None:
            starts = starts.to(self.device)
            natural = torch.arange(ids.shape[1], device=self.device)[None]
            positions = starts + (natural if positions is None else positions)
        # accelerate's hooks put a block's weights away after it: a block that does not end would keep them
        cache = DynamicCache() if with_states or self.is_spread else CacheUntil(n_blocks - 1)
        states = None
        with suppress(EverythingCachedError):
            states = self._run(n_blocks, self.embed(ids), cache, mask, positions)
        batch_size, length = ids.shape
        return Prefix(cache, n_blocks, batch_size, length, mask, states if with_states else None, starts)

    def extend(
        self,
        prefix: Prefix,
        embeds: torch.Tensor,
        *,
        n_blocks: int,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        recompute: bool = False,
    ) -> tuple[torch.Tensor, list[Pair]]:
        """Go on after a prefix, with gradient to `embeds`; the prefix itself is not changed.

        Args:
            prefix: read by at least `n_blocks` blocks.
            embeds: (B, T, H) the new positions.
            n_blocks: how many blocks to run.
            mask: (B, T) bool, False on padding among the new positions; None when there is none.
            positions: (B or 1, T) position ids; None continues after the prefix.
            recompute: keep no activations inside blocks for the backward pass, run each block there again.

        Returns:
            (B, T, H) states after the last block run, and the new positions' keys and values of every block.
        """
        batch, new, _ = embeds.shape
        cache, mask = reading(prefix.cache, n_blocks), joint_mask(prefix.mask, prefix.length, mask, new, batch)
        if positions is None and mask is not None:
            positions = left_padded_positions(mask)[:, -new:]
            positions = positions if prefix.starts is None else positions + prefix.starts
        elif positions is None and prefix.starts is not None:
            positions = prefix.starts + torch.arange(prefix.length, prefix.length + new, device=self.device)
        return self._run(n_blocks, embeds, cache, mask, positions, recompute), new_pairs(cache)

    def run(
        self,
        embeds: torch.Tensor,
        *,
        cache: DynamicCache | None = None,
        mask: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        recompute: bool = False,
    ) -> torch.Tensor:
        """All blocks over (B, T, H) embeddings, after `cache` where there is one; (B, T, H) states for the head.

        The cache is not changed. The mask is (B, cached + T) bool, False on padding; None when there is none.
        `recompute` as in `extend`.
        """
        cache = NothingKept() if cache is None else reading(cache)
        return self._run(self.n_layers, embeds, cache, mask, positions, recompute)

    def run_into(self, embeds: torch.Tensor, cache: DynamicCache, positions: torch.Tensor | None = None) -> None:
        """All blocks over (B, T, H) embeddings after what is in `cache`, and their keys and values into it."""
        self._run(self.n_layers, embeds, cache, None, positions)

    def _run(
        self,
        n_blocks: int,
        embeds: torch.Tensor,
        cache: DynamicCache,
        mask: torch.Tensor | None,
        positions: torch.Tensor | None,
        recompute: bool = False,
    ) -> torch.Tensor:
        inputs: dict[str, Any] = {"inputs_embeds": embeds, "use_cache": True, "past_key_values": cache}
        if mask is not None:
            inputs["attention_mask"] = mask.long()
        if positions is not None and self.takes_positions:
            inputs["position_ids"] = positions
        stack = self._recomputing(n_blocks) if recompute and torch.is_grad_enabled() else self._blocks(n_blocks)
        return stack(**inputs).last_hidden_state.to(self.device)

    def _recomputing(self, n_blocks: int) -> nn.Module:
        if n_blocks not in self._recomputed:
            self._recomputed[n_blocks] = recomputing(self._blocks(n_blocks), self._block_list, recomputation_contexts)
        return self._recomputed[n_blocks]

    def _blocks(self, n_blocks: int) -> nn.Module:
        if n_blocks not in self._truncated:
            if not 1 <= n_blocks < self.n_layers:
                raise ValueError(f"n_blocks: {n_blocks} is outside 1..{self.n_layers}")
            self._truncated[n_blocks] = truncated(self._stack, self._block_list, n_blocks, self._norms)
        return self._truncated[n_blocks]

    def block_modules(self, n_blocks: int) -> list[nn.Module]:
        """The first `n_blocks` blocks themselves."""
        return list(self._stack.get_submodule(self._block_list).children())[:n_blocks]

    @torch.no_grad()
    def score_no_context(self, batch: Batch) -> TokenScores:
        """The lower bound: the backbone alone on the target, after BOS and the prompt."""
        return self._score_after(prompt_of(batch), batch)

    @torch.no_grad()
    def score_full_context(self, batch: Batch) -> TokenScores:
        """The upper bound: the backbone on the target after BOS, the whole context and the prompt."""
        text = padded_left(joined([(batch.context_ids, batch.context_mask), prompt_of(batch)]))
        return self._score_after(text, batch)

    def _score_after(self, text: Stretch, batch: Batch) -> TokenScores:
        """The target after BOS and some text, which is padded on the left."""
        target_ids = batch.target_ids.to(self.device)
        ids, mask = text[0].to(self.device), None if text[1] is None else text[1].to(self.device)
        before, mask = with_bos(ids, mask, self.bos_id)
        ids = torch.cat([before, target_ids[:, :-1]], dim=1)
        positions = None
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(ids), ids.shape[1] - mask.shape[1])], dim=1)
            positions = left_padded_positions(mask)
        states = self.run(self.embed(ids), mask=mask, positions=positions)
        return self.scores(states[:, -target_ids.shape[1] :], target_ids, batch.target_mask)

    @torch.no_grad()
    def score_last_context(self, batch: Batch, kept: int) -> TokenScores:
        """The backbone on the target after BOS, the last `kept` tokens of the context and the prompt."""
        if kept == 0:
            return self.score_no_context(batch)
        ids, mask = batch.context_ids[:, -kept:], batch.context_mask
        shorter = dataclasses.replace(batch, context_ids=ids, context_mask=None if mask is None else mask[:, -kept:])
        return self.score_full_context(shorter)

    @torch.no_grad()
    def teacher_states(self, prefix: Prefix, lead: Stretch, target_ids: torch.Tensor) -> torch.Tensor:
        """(B, S, H) states that predict the target after the full context.

        Args:
            prefix: the part that is compressed, read by all blocks with their states.
            lead: the kept tokens and the prompt, which follow the prefix.
            target_ids: (B, S) int64.
        """
        last = prefix.known_states()[:, -1:]
        ids, starts = before_target(lead, target_ids)
        if ids.shape[1] == 0:
            return last
        states, _ = self.extend(prefix, self.embed(ids), n_blocks=self.n_layers)
        return states_of_target(torch.cat([last, states], dim=1), starts, target_ids.shape[1])

    def scores(self, states: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> TokenScores:
        """Teacher-forced scores of (B, S) labels from the (B, S, H) states that predict them."""
        labels = labels.to(states.device)
        nll, rank = token_scores(states.flatten(0, 1), labels.flatten(), self.head)
        nll, rank = nll.view(labels.shape), rank.view(labels.shape)
        keep = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask.to(states.device)
        return TokenScores(nll.masked_fill(~keep, 0.0), (rank == 0) & keep, (rank < 5) & keep, keep)

    def _sample_embeddings(self) -> torch.Tensor:
        n_tokens = self.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        ids = torch.linspace(0, n_tokens - 1, min(n_tokens, EMBEDDING_SAMPLES)).long()
        return self.embed(ids[None])[0].float().cpu()


def with_bos(ids: torch.Tensor, mask: torch.Tensor | None, bos_id: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """BOS before the first real token of every left-padded row: (B, C) to (B, 1 + C)."""
    bos = ids.new_full((len(ids), 1), bos_id)
    longer = torch.cat([bos, ids], dim=1)
    if mask is None:
        return longer, None
    first = (ids.shape[1] - mask.sum(1, keepdim=True)).to(ids.device)
    is_bos = torch.arange(longer.shape[1], device=ids.device) == first
    mask = torch.cat([mask.new_zeros(len(ids), 1), mask], dim=1) | is_bos
    return torch.where(is_bos, bos, longer), mask


def left_padded_positions(mask: torch.Tensor) -> torch.Tensor:
    """(B, T) position ids that count real tokens only; 0 on padding."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def before_target(lead: Stretch, target_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a decoder reads to predict a target: lead and target but its last token, without a gap between them.

    Padding of the lead goes behind the target, where no token sees it: positions need no correction, attention no mask,
    and windows of sliding attention reach as far as without padding.

    Args:
        lead: (B, L) text before the target.
        target_ids: (B, S) int64.

    Returns:
        (B, L + S - 1) ids, and (B,) int64 where each row's target starts in them; None where all start at L.
    """
    target_ids = target_ids.to(lead[0].device)
    if lead[1] is None:
        return torch.cat([lead[0], target_ids[:, :-1]], dim=1), None
    ids, _ = padded_right(joined([lead, (target_ids[:, :-1], None)]))
    return ids, lead[1].sum(1)


def states_of_target(states: torch.Tensor, starts: torch.Tensor | None, length: int) -> torch.Tensor:
    """(B, S, H) states that predict the target, of one state before `before_target`'s ids and one for each of them."""
    if starts is None:
        return states[:, -length:]
    places = starts.to(states.device)[:, None] + torch.arange(length, device=states.device)
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def joint_mask(
    before: torch.Tensor | None, n_before: int, after: torch.Tensor | None, n_after: int, batch_size: int
) -> torch.Tensor | None:
    """(B, before + after) bool from the masks of two stretches, either of which may have no padding; None for both."""
    known = before if before is not None else after
    if known is None:
        return None
    ones = [known.new_ones(batch_size, count) for count in (n_before, n_after)]
    return torch.cat([one if mask is None else mask for one, mask in zip(ones, (before, after), strict=True)], dim=1)


def _bos_id(tokenizer: Any, config: Any) -> int:
    candidates = (
        getattr(tokenizer, "bos_token_id", None),
        getattr(tokenizer, "eos_token_id", None),
        getattr(config, "bos_token_id", None),
        getattr(config, "eos_token_id", None),
    )
    for candidate in candidates:
        if isinstance(candidate, list):
            candidate = candidate[0]
        if candidate is not None:
            return int(candidate)
    raise UnsupportedModelError("neither tokenizer nor model name a BOS or EOS token to start a text with")


def _execution_device(module: nn.Module) -> torch.device:
    hook = getattr(module, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)


def _block_device(block: nn.Module) -> torch.device:
    """Where a block computes, wherever accelerate keeps its weights meanwhile."""
    devices = (getattr(getattr(module, "_hf_hook", None), "execution_device", None) for module in block.modules())
    device = next((device for device in devices if device is not None), None)
    return next(block.parameters()).device if device is None else torch.device(device)


@torch.no_grad()
def _fingerprint(model: nn.Module) -> str:
    """Hash of the shapes and of the signs of a sample of every tensor: rounding to any precision keeps them.

    Of quantized tensors the sample itself counts, so that they are told from the weights that they were made of: they
    do not compute the same.
    """
    config: Any = text_config(model)
    facts = {"type": config.model_type, "layers": config.num_hidden_layers, "vocabulary": config.vocab_size}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for module_name, module in model.named_modules():
        if not module._parameters:
            continue
        with _onloaded(module):
            for name, parameter in module.named_parameters(recurse=False):
                digest.update(f"{module_name}.{name}{tuple(parameter.shape)}".encode())
                flat = parameter.detach().reshape(-1)
                if flat.element_size() == 1:  # quantized: exact numbers, packed or not
                    flat = flat.view(torch.uint8)
                count = min(flat.numel(), FINGERPRINT_SAMPLES_PER_TENSOR)
                at = torch.linspace(0, flat.numel() - 1, count, dtype=torch.float64).long()
                sample = flat[at.to(flat.device)]
                sample = sample if flat.element_size() == 1 else torch.signbit(sample)
                digest.update(sample.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _onloaded(module: nn.Module) -> Any:
    from contextlib import nullcontext

    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device

    return align_module_device(module)
