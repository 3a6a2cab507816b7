"""A byte-level tokenizer of 257 ids: a token is a byte, so token counts can be worked out by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cmp.space.settings import TrialSettings

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


class ByteTokenizer:
    """What the data package needs of a transformers tokenizer, without transformers."""

    def __init__(self, merges: Sequence[tuple[str, str]] = ()) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        words = ["<s>", *alphabet, *map("".join, merges)]
        self.backend_tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(words)}, merges=list(merges)))
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not merges)
        self.backend_tokenizer.decoder = decoders.ByteLevel()

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def text(self, ids: Any) -> str:
        return self.backend_tokenizer.decode([int(i) for i in ids])


@pytest.fixture(scope="session")
def tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., TrialSettings]:
    """Settings of a trial with a cache of its own; the model is never loaded."""

    def make(dataset: object, **others: Any) -> TrialSettings:
        return TrialSettings(model_string="unused", dataset=str(dataset), data_root=str(tmp_path / "cache"), **others)

    return make


@pytest.fixture
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there: real texts for tests are not part of the repository")
    return SHARED
