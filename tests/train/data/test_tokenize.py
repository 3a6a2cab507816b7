import os
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from cmp.train.data import tokenize as module
from cmp.train.data.forms import RowTexts
from cmp.train.data.tokenize import encode_rows, encode_texts, encoder, pieces_of, tokenize
from tests.train.data.conftest import ByteTokenizer


def test_tokens_come_in_the_order_of_the_texts_however_many_work(
    tokenizer: ByteTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_CHARACTERS", 50)
    texts = [f"text number {number}" * (number % 4) for number in range(100)]
    encode, _ = encoder(tokenizer)

    chunks = list(tokenize(texts, partial(encode_texts, encode), workers=3))

    assert tokenizer.text(np.concatenate([chunk.ids for chunk in chunks])) == "".join(texts)
    assert np.concatenate([chunk.lengths for chunk in chunks]).tolist() == [len(text) for text in texts]


def test_a_long_document_is_tokenized_in_pieces_to_the_same_tokens(
    tokenizer: ByteTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONG_DOCUMENT_CHARACTERS", 100)
    text = "\n".join(f"line {number} of a long document\n" * (number % 3) + "end" for number in range(40))
    encode, _ = encoder(tokenizer)

    (chunk,) = tokenize([text, "short"], partial(encode_texts, encode), workers=1)

    assert len(pieces_of(text)) > 10
    assert tokenizer.text(chunk.ids) == text + "short"
    assert chunk.lengths.tolist() == [len(text), 5]


def test_pieces_end_after_a_single_line_break_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG_DOCUMENT_CHARACTERS", 10)

    assert pieces_of("aaaaaa\n\nbb \nccc\ndddddddddddd") == ["aaaaaa\n\nbb \nccc\n", "dddddddddddd"]


def test_saved_truncation_padding_and_templates_do_not_touch_the_text() -> None:
    tokenizer = ByteTokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=9)

    encode, _ = encoder(tokenizer)

    assert [len(ids) for ids in encode(["seven77", "a"])] == [7, 1]
    assert tokenizer.backend_tokenizer.truncation is not None  # the model's own tokenizer keeps them


def test_ids_are_as_small_as_the_vocabulary_allows(tokenizer: ByteTokenizer) -> None:
    class Large(ByteTokenizer):
        def __len__(self) -> int:
            return 70_000

    assert encoder(tokenizer)[1] == np.uint16
    assert encoder(Large())[1] == np.uint32


def test_a_tokenizer_without_a_fast_backend_works_too() -> None:
    class Slow:
        def __len__(self) -> int:
            return 300

        def __call__(self, texts: list[str], add_special_tokens: bool) -> dict[str, list[list[int]]]:
            return {"input_ids": [list(text.encode()) for text in texts]}

    encode, _ = encoder(Slow())

    assert [ids.tolist() for ids in encode(["ab", ""])] == [[97, 98], []]


def test_the_environment_is_left_as_it_was(tokenizer: ByteTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")

    list(tokenize(["text"], encoder(tokenizer)[0], workers=1))

    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"


def test_an_error_while_reading_reaches_the_caller(tokenizer: ByteTokenizer) -> None:
    def texts() -> Iterator[str]:
        yield "fine"
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        list(tokenize(texts(), encoder(tokenizer)[0], workers=2))


def test_an_answer_has_the_tokens_that_it_has_after_its_prompt() -> None:
    tokenizer = ByteTokenizer(merges=[("\u0120", "y"), ("?", "n")])  # " y" is a token, and so is "?n"
    encode, _ = encoder(tokenizer)
    rows = [RowTexts("a context", "is it?", " yes"), RowTexts("b", "is it?", "no"), RowTexts("", "", "")]

    chunk = encode_rows(encode, 0, rows)

    ends = np.cumsum(chunk.lengths)
    stretches = [chunk.ids[end - length : end] for end, length in zip(ends, chunk.lengths, strict=True)]
    assert [tokenizer.text(ids) for ids in stretches[:3]] == ["a context", "is it?", " yes<s>"]
    assert len(stretches[2]) == 4, "the space and the y are one token, and the end is one"
    assert [tokenizer.text(ids) for ids in stretches[3:6]] == ["b", "is it?", "no<s>"], "merged over the border"
    assert [len(ids) for ids in stretches[6:]] == [0, 0, 0]
