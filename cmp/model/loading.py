"""From a model's name to transformers' objects: configuration, tokenizer, weights. Called by `backbone` and by checks.

Names are `names`'s; nothing above this file calls `from_pretrained`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, GgufConfig
from transformers.utils import is_bitsandbytes_available

from cmp.model.names import Place, place_of
from cmp.space.errors import UserError
from cmp.space.layers import ModelFacts

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# On a CPU with instructions for bfloat16, a training loop of a Llama-shaped model in it is so many times faster than in
# float32 (`tests.benchmarks.precision`, AMD EPYC with avx512_bf16, one and two threads, three shapes of batch):
# width    64       128       192       256       384       512       768
# faster   0.9-1.3  1.1-1.25  1.3-1.5   1.2-1.6   1.3-1.7   1.3-1.8   1.4-2.1  (validation: 1.5-2.8 from 384 on)
# Narrower models keep float32's exactness: they are fast enough.
CPU_BFLOAT16_WIDTH = 384

# On a CPU bitsandbytes packs weights anew at the first pass without gradient, and then has none for those with one.
QUANTIZING_DEVICES = ("cuda",)


@dataclass(frozen=True)
class LoadOptions:
    """How a backbone's weights are loaded.

    Args:
        torch_dtype: "auto" is what `resolve_dtype` says, else a precision by name.
        device: where the model goes, unless it is spread.
        model_parallel: spread the blocks over all visible devices (`device_map="auto"`).
        device_map: an explicit map in place of "auto", from module path to device, "cpu" or "disk".
        offload_folder: where weights go that the map sends to "disk".
        trust_remote_code: run the code that the model's files bring.
        quantization: "8bit" or "4bit" of the linear layers, by bitsandbytes.
        attn_implementation: of transformers; None is its own choice.
    """

    torch_dtype: str = "auto"
    device: torch.device | str = "cpu"
    model_parallel: bool = False
    device_map: Mapping[str, Any] | None = None
    offload_folder: Path | None = None
    trust_remote_code: bool = False
    quantization: str | None = None
    attn_implementation: str | None = None


DEFAULT_OPTIONS = LoadOptions()


def load_model(model_string: str, options: LoadOptions) -> nn.Module:
    """The causal LM, with its head; a GGUF file's weights are dequantised.

    Raises:
        OSError: it is not there, or the hub cannot be reached.
        ValueError: its files are damaged, or not of a causal LM that transformers knows.
        UserError: a package is missing, or options that do not go together.
    """
    place, device = place_of(model_string), torch.device(options.device)
    config = _config(place, options.trust_remote_code)
    dtype = resolve_dtype(options.torch_dtype, device, config.get_text_config(decoder=True).hidden_size)
    wanted: dict[str, Any] = {"dtype": dtype, "trust_remote_code": options.trust_remote_code, **place.options}
    if options.attn_implementation is not None:
        wanted["attn_implementation"] = options.attn_implementation
    is_quantized = options.quantization is not None or getattr(config, "quantization_config", None) is not None
    if place.gguf_file is not None:
        wanted["quantization_config"] = GgufConfig(dequantize=True)
    if options.quantization is not None:
        wanted["quantization_config"] = _bitsandbytes(options.quantization, device, dtype, config, place)
    if options.model_parallel or options.device_map is not None:
        device_map = dict(options.device_map) if options.device_map else "auto"
        wanted |= {"device_map": device_map, "offload_folder": options.offload_folder}
    elif is_quantized:  # quantized weights are made where they stay
        wanted["device_map"] = {"": device}
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(place.name, **wanted)
    except ImportError as error:
        setting = "model_string" if options.attn_implementation is None else "attn_implementation"
        raise UserError(setting, f'"{model_string}" needs a package that is not here: {_first_line(error)}') from error
    return model if "device_map" in wanted else model.to(device)


def load_tokenizer(model_string: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model, by the same name as the model."""
    place = place_of(model_string)
    return AutoTokenizer.from_pretrained(place.name, trust_remote_code=trust_remote_code, **place.options)


def model_facts(model_string: str, *, trust_remote_code: bool = False) -> ModelFacts:
    """Layers, positions, vocabulary and width from the configuration alone; no weights are read."""
    config = _config(place_of(model_string), trust_remote_code).get_text_config(decoder=True)
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


def _config(place: Place, trust_remote_code: bool) -> Any:
    return AutoConfig.from_pretrained(place.name, trust_remote_code=trust_remote_code, **place.options)


def _bitsandbytes(bits: str, device: torch.device, dtype: torch.dtype, config: Any, place: Place) -> BitsAndBytesConfig:
    """How bitsandbytes is to quantize.

    Raises:
        UserError: it is not installed, there is no GPU, or the weights are quantized already.
    """
    if device.type not in QUANTIZING_DEVICES:
        raise UserError("quantization", f"{bits} needs a GPU, but this is for {device.type}; leave it out here")
    before = getattr(config, "quantization_config", None)
    if before is not None or place.gguf_file is not None:
        how = "a GGUF file" if before is None else "quantized already"
        raise UserError("quantization", f"{bits}, but {place.name} is {how}; leave quantization out")
    if not is_bitsandbytes_available():
        raise UserError("quantization", f"{bits} needs the package bitsandbytes: pip install bitsandbytes")
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _cpu_computes_in_bfloat16() -> bool:
    found: Mapping[str, Any] = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
