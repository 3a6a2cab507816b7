"""Tiny models of every family, built from configs: nothing is downloaded."""

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from cmp.model.backbone import Backbone
from cmp.space.settings import TrialSettings

VOCABULARY = 97

_ROTARY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "vocab_size": VOCABULARY,
}
_GEMMA2 = {**_ROTARY, "head_dim": 8, "sliding_window": 16, "query_pre_attn_scalar": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {"vocab_size": VOCABULARY, "n_positions": 128, "n_embd": 32, "n_layer": 4, "n_head": 4}),
    "gptj": (
        "gptj",
        {"vocab_size": VOCABULARY, "n_positions": 128, "n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4},
    ),
    "gpt_neox": ("gpt_neox", {key: value for key, value in _ROTARY.items() if key != "num_key_value_heads"}),
    "bloom": ("bloom", {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 4, "n_head": 4}),
    "llama": ("llama", _ROTARY),
    "mistral": ("mistral", {**_ROTARY, "sliding_window": None}),
    "mistral-sliding": ("mistral", {**_ROTARY, "sliding_window": 12}),
    "qwen2": ("qwen2", _ROTARY),
    "qwen3": ("qwen3", {**_ROTARY, "head_dim": 8}),
    "gemma": ("gemma", {**_ROTARY, "head_dim": 8}),
    "gemma2": ("gemma2", _GEMMA2),
    "gemma3": ("gemma3_text", _GEMMA2),
    "opt": (
        "opt",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 32,
        },
    ),
    "opt-narrow-embeddings": (
        "opt",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "word_embed_proj_dim": 16,
        },
    ),
    "phi": ("phi", {**_ROTARY, "num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    "cohere": ("cohere", _ROTARY),
    "granite": ("granite", {**_ROTARY, "logits_scaling": 4.0, "embedding_multiplier": 3.0}),
}


class NoTokenizer:
    """Token ids are all that these tests need."""

    bos_token_id = 1
    eos_token_id = 2


def tiny_model(family: str) -> nn.Module:
    """A four-layer model whose weights are spread wide enough that every part of it shows in its output."""
    model_type, options = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(model_type, initializer_range=0.1, init_std=0.1, **options)
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases, which start at one and zero, must not hide mistakes
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def tiny_backbone(family: str) -> Backbone:
    """The same model as a backbone."""
    return Backbone(tiny_model(family), NoTokenizer(), family)


def settings(**changes: Any) -> TrialSettings:
    """Small settings for these models."""
    defaults: dict[str, Any] = {
        "model_string": "tiny",
        "dataset": "none",
        "cmp_len": 9,
        "seq_len": 7,
        "n_cmps": 3,
        "proj_cmpr": False,
    }
    return TrialSettings(**{**defaults, **changes})
