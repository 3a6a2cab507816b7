"""A tiny Llama in a GGUF file, written by the package `gguf`, with its byte-level tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

TOKENS = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th"]


def tiny_llama() -> nn.Module:
    """Two blocks of width 64; heads share keys and values, as they do in the real one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            "llama", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=len(TOKENS), max_position_embeddings=128, initializer_range=0.2,
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        )  # fmt: skip
        return AutoModelForCausalLM.from_config(config).eval()


def write_gguf(path: Path, model: nn.Module) -> Path:
    """The model with its matrices in 8 bits (Q8_0)."""
    import gguf

    config: Any = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))  # 3: control, 1: normal
    writer.add_token_merges(["t h"])
    for name, token_id in [("bos", 0), ("eos", 1), ("pad", 2)]:
        getattr(writer, f"add_{name}_token_id")(token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":  # tied
            continue
        place = names.get_name(name, try_suffixes=(".weight",))
        values = _as_llama_cpp_has_it(name, tensor.float().numpy(), config)
        kind = gguf.GGMLQuantizationType.Q8_0 if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(place, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _as_llama_cpp_has_it(name: str, values: np.ndarray, config: Any) -> np.ndarray:
    """Rows of queries and keys in llama.cpp's order: the two halves of a rotary pair lie next to each other."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return values
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(values.shape))
