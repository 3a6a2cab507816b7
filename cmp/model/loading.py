"""From a model's name to transformers' objects: configuration, tokenizer, weights. Called by `backbone` and by checks.

Names are `names`'s; nothing above this file calls `from_pretrained`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from cmp.model.names import place_of
from cmp.space.layers import ModelFacts

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# On a CPU with instructions for bfloat16, a training loop of a Llama-shaped model in it is so many times faster than in
# float32 (`tests.benchmarks.precision`, AMD EPYC with avx512_bf16, one and two threads, three shapes of batch):
# width    64       128       192       256       384       512
# faster   0.9-1.3  1.1-1.25  1.3-1.5   1.2-1.6   1.3-1.7   1.3-1.8   (validation: 1.5-1.9 from 384 on)
# Narrower models keep float32's exactness: they are fast enough.
CPU_BFLOAT16_WIDTH = 384


@dataclass(frozen=True)
class LoadOptions:
    """How a backbone's weights are loaded.

    Args:
        torch_dtype: "auto" is what `resolve_dtype` says, else a precision by name.
        device: where the model goes, unless it is spread.
        model_parallel: spread the blocks over all visible devices (`device_map="auto"`).
        device_map: an explicit map in place of "auto", from module path to device, "cpu" or "disk".
        offload_folder: where weights go that the map sends to "disk".
    """

    torch_dtype: str = "auto"
    device: torch.device | str = "cpu"
    model_parallel: bool = False
    device_map: Mapping[str, Any] | None = None
    offload_folder: Path | None = None


DEFAULT_OPTIONS = LoadOptions()


def load_model(model_string: str, options: LoadOptions) -> nn.Module:
    """The causal LM, with its head; a GGUF file's weights are dequantised.

    Raises:
        OSError: it is not there, or the hub cannot be reached.
        ValueError: its files are damaged, or not of a causal LM that transformers knows.
    """
    place, device = place_of(model_string), torch.device(options.device)
    wanted: dict[str, Any] = {"dtype": _dtype(model_string, options.torch_dtype, device), **place.options}
    if place.gguf_file is not None:
        wanted["quantization_config"] = GgufConfig(dequantize=True)
    if options.model_parallel or options.device_map is not None:
        device_map = dict(options.device_map) if options.device_map else "auto"
        wanted |= {"device_map": device_map, "offload_folder": options.offload_folder}
    model: nn.Module = AutoModelForCausalLM.from_pretrained(place.name, **wanted)
    return model if "device_map" in wanted else model.to(device)


def load_tokenizer(model_string: str) -> Any:
    """The tokenizer of a model, by the same name as the model."""
    place = place_of(model_string, weights=False)
    return AutoTokenizer.from_pretrained(place.name, **place.options)


def model_facts(model_string: str) -> ModelFacts:
    """Layers, positions, vocabulary and width from the configuration alone; no weights are read."""
    place = place_of(model_string, weights=False)
    config = AutoConfig.from_pretrained(place.name, **place.options).get_text_config(decoder=True)
    return ModelFacts(config.num_hidden_layers, max_positions(config), config.vocab_size, config.hidden_size)


def max_positions(config: Any) -> int | None:
    """None where positions are relative biases (ALiBi), which have no end."""
    return getattr(config, "max_position_embeddings", None)


def resolve_dtype(torch_dtype: str, device: torch.device, width: int) -> torch.dtype:
    """The precision of a model of `width` on `device`.

    "auto" is bfloat16 on a GPU that computes in it, and on a CPU that does where the model is wide enough for it to
    pay; else float32.
    """
    if torch_dtype != "auto":
        return DTYPES[torch_dtype]
    if device.type == "cuda":
        pays = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        pays = device.type == "cpu" and width >= CPU_BFLOAT16_WIDTH and _cpu_computes_in_bfloat16()
    return torch.bfloat16 if pays else torch.float32


def auto_precision(device: str, width: int) -> str | None:
    """What "auto" means on a kind of device ("cpu", "cuda"); None where this process has none."""
    if device == "cuda" and not torch.cuda.is_available():
        return None
    return dtype_name(resolve_dtype("auto", torch.device(device), width))


def dtype_name(dtype: torch.dtype) -> str:
    """As in the setting `torch_dtype`."""
    return str(dtype).removeprefix("torch.")


def _dtype(model_string: str, torch_dtype: str, device: torch.device) -> torch.dtype:
    width = model_facts(model_string).width if torch_dtype == "auto" else 0
    return resolve_dtype(torch_dtype, device, width)


def _cpu_computes_in_bfloat16() -> bool:
    found: Mapping[str, Any] = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
