"""Real, tiny objects that every test directory may use: a saved two-layer model with its tokenizer, and a text."""

from pathlib import Path

import pytest

from tests.tiny import save_tiny_model, write_tiny_text


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved two-layer GPT-2 of width 32 (260 tokens, 128 positions) with a byte-level fast tokenizer."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-gpt2"))


@pytest.fixture(scope="session")
def tiny_text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short documents of 300 to 600 characters, separated by `<|endoftext|>` lines."""
    return write_tiny_text(tmp_path_factory.mktemp("tiny-text") / "tiny.txt")
