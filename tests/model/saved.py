"""Tiny models saved as a user has them, with a tokenizer of one token per character; compressors on them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cmp.model.api import Compressor
from cmp.model.backbone import Backbone
from cmp.model.compression import CompressionModel
from tests.model.families import VOCABULARY, settings, tiny_model

CHARACTERS = [chr(code) for code in range(32, 32 + VOCABULARY - 3)]


def save_tiny_model(family: str, folder: Path, *, change: float = 0.0) -> Path:
    """Save a model of `families` with its tokenizer; `change` is added to its weights, for another model like it."""
    model: Any = tiny_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += change
    for config in (model.config, model.generation_config):
        config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    model.save_pretrained(folder)
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "<pad>", *CHARACTERS])}
    vocabulary |= {"<pad>": 0, "<s>": 1, "</s>": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    return folder


def new_compressor(backbone: Backbone, **changes: Any) -> Compressor:
    """An untrained compressor whose LoRA, if any, is not zero."""
    model = CompressionModel(backbone, settings(model_string=backbone.identity.name, **changes), seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_up"):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return Compressor(model)
