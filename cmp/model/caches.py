"""Caches of keys and values as the backbone's passes need them. Called by `backbone`, `memory` and `handover`.

Shape suffixes: `B` batch, `P` cached positions, `T` new positions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

Pair = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one block, (B, heads, positions, width) each."""


class EverythingCachedError(Exception):
    """The keys and values that were asked for are there; what would follow is not needed."""


class CacheUntil(DynamicCache):
    """Ends the pass as soon as a block has its keys and values: the last block's attention and MLP are not run.

    Any family passes here, so none has to be cut open inside a block. Saves most of one block of the prefill.
    """

    def __init__(self, last_layer: int) -> None:
        super().__init__()
        self._last_layer = last_layer

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Pair:
        """As in any cache, up to the last layer."""
        kept = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        if layer_idx == self._last_layer:
            raise EverythingCachedError
        return kept


class NothingKept(DynamicCache):
    """A cache that stays empty: for a pass that nothing goes on from.

    Without any cache transformers looks whether several texts are packed in a row. Its answer waits for the device at
    every pass; and where it cannot be waited for, in a recorded graph, each attention gets an explicit mask, which no
    fused kernel takes.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> Pair:
        """The new keys and values are all there are."""
        return key_states, value_states


class ReadLayer(DynamicLayer):
    """One block's keys and values, read and never changed, so that a block may be run again on them.

    The block's own new ones are noted beside them, as `new`.
    """

    new: Pair

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Pair:
        """What was there and the new."""
        assert self.keys is not None and self.values is not None
        self.new = key_states, value_states
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def cache_pairs(cache: DynamicCache) -> list[Pair]:
    """Keys and values of every layer, (B, heads, P, width) each."""
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def cache_of(pairs: Sequence[Pair], kind: type[DynamicLayer] = DynamicLayer) -> DynamicCache:
    """A cache that holds these very tensors. (`DynamicCache(pairs)` would copy each.)"""
    cache = DynamicCache()
    for keys, values in pairs:
        layer = kind()
        layer.keys, layer.values = keys, values
        layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
        cache.layers.append(layer)
    return cache


def reading(cache: DynamicCache, n_blocks: int | None = None) -> DynamicCache:
    """The first `n_blocks` layers of a cache, or all, for one pass that leaves them as they are."""
    return cache_of(cache_pairs(cache)[:n_blocks], ReadLayer)


def new_pairs(cache: DynamicCache) -> list[Pair]:
    """Keys and values of the positions of the pass that a `reading` cache was for, (B, heads, T, width) each."""
    layers: list[Any] = cache.layers
    return [layer.new for layer in layers]
