"""The smallest real things: a saved two-layer model with its tokenizer, a text, rows. For fixtures and for commands."""

import json
import random
from pathlib import Path

WORDS = ["the", "cat", "dog", "bird", "tree", "house", "sees", "finds", "near", "under", "red", "old", "small", "then"]


def save_tiny_model(folder: Path) -> Path:
    """A two-layer GPT-2 of width 32 (260 tokens, 128 positions) with a byte-level fast tokenizer, in `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", "<pad>", *alphabet, "th"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"vocab_size": len(vocabulary), "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4}
        # Ten times the usual initial spread, so that even an untrained model tells contexts apart.
        config = GPT2Config(**shape, initializer_range=0.2, bos_token_id=0, eos_token_id=1)
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def write_tiny_text(path: Path) -> Path:
    """Forty short documents of 300 to 600 characters, separated by `<|endoftext|>` lines."""
    rng = random.Random(0)
    documents = [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(80, 120))) + "." for _ in range(40)]
    path.write_text("\n<|endoftext|>\n".join(documents) + "\n", encoding="utf-8")
    return path


def write_tiny_rows(path: Path) -> Path:
    """Sixty rows of JSON that fit both SQuAD's and GLUE's columns: a context, a question of its first word, a label."""
    rng, rows = random.Random(1), []
    for number in range(60):
        words = [rng.choice(WORDS) for _ in range(rng.randrange(4, 12))]
        context = f"{number} " + " ".join(words)
        answers = {"text": [words[0], f"{number} {words[0]}"], "answer_start": [0, 0]}
        pair = {"sentence1": context, "sentence2": words[0], "label": number % 2}
        rows.append({"context": context, "question": f"{words[1]}?", "answers": answers, **pair})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
