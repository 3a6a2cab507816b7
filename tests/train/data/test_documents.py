import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from cmp.space.settings import TrialSettings
from cmp.train.data import hub
from cmp.train.data.cache import cached_tokens
from cmp.train.data.documents import Documents, data_identity, open_documents
from cmp.train.data.errors import DataError
from cmp.train.data.rows import Row
from tests.train.data.conftest import ByteTokenizer

Make = Callable[..., TrialSettings]


def read(settings: TrialSettings) -> dict[str, list[Any]]:
    return {name: list(split.documents()) for name, split in open_documents(settings).splits.items()}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_a_text_file_is_one_document(tmp_path: Path, settings: Make) -> None:
    (tmp_path / "a.txt").write_text("one\n\ndocument\n", encoding="utf-8")

    assert read(settings(tmp_path / "a.txt")) == {"train": ["one\n\ndocument"]}


def test_lines_of_endoftext_separate_documents_and_those_inside_a_line_do_not(tmp_path: Path, settings: Make) -> None:
    text = "<|endoftext|>\nfirst <|endoftext|> still first\n <|endoftext|> \nsecond\n<|endoftext|>\n"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")

    (documents,) = read(settings(tmp_path / "a.txt")).values()

    assert [document for document in documents if document] == ["first <|endoftext|> still first", "second"]


def test_jsonl_and_parquet_are_read_by_their_text_column(tmp_path: Path, settings: Make) -> None:
    jsonl = write_jsonl(tmp_path / "a.jsonl", [{"title": "t", "text": "one"}, {"title": "t", "text": "two"}])
    parquet = write_parquet(tmp_path / "b.parquet", {"body": ["three", None], "id": [1, 2]})

    assert read(settings(jsonl)) == {"train": ["one", "two"]}
    assert read(settings(jsonl, text_column="title")) == {"train": ["t", "t"]}
    assert read(settings(parquet)) == {"train": ["three", ""]}  # the only column of text; nothing is an empty document


def test_folders_and_globs_are_all_their_files_in_order(tmp_path: Path, settings: Make) -> None:
    (tmp_path / "text" / "sub").mkdir(parents=True)
    (tmp_path / "text" / "a.txt").write_text("one", encoding="utf-8")
    (tmp_path / "text" / "sub" / "b.txt").write_text("two", encoding="utf-8")
    (tmp_path / "text" / "notes.md").write_text("not data", encoding="utf-8")

    assert read(settings(tmp_path / "text")) == {"train": ["one", "two"]}
    assert read(settings(f"{tmp_path}/text/*.txt")) == {"train": ["one"]}
    assert read(settings(f"{tmp_path}/text/**/*.txt")) == {"train": ["one", "two"]}


def test_files_named_after_splits_are_the_data_sets_own_splits(tmp_path: Path, settings: Make) -> None:
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation", "test"):
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", [{"text": name}])

    assert read(settings(tmp_path / "data")) == {
        "train": ["train-00000-of-00002", "train-00001-of-00002"],
        "validation": ["validation"],
        "test": ["test"],
    }


def test_a_test_split_without_the_column_is_not_used(tmp_path: Path, settings: Make) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"text": "seen"}])
    write_jsonl(tmp_path / "test.jsonl", [{"id": 1, "question": "what follows?"}])

    assert read(settings(tmp_path)) == {"train": ["seen"]}


def test_without_a_file_named_train_every_file_is_text_to_be_split_here(tmp_path: Path, settings: Make) -> None:
    for name in ("valid", "test"):
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")

    assert read(settings(tmp_path)) == {"train": ["test", "valid"]}


@pytest.mark.parametrize("as_dict", [False, True])
def test_folders_of_save_to_disk_are_read(tmp_path: Path, settings: Make, as_dict: bool) -> None:
    datasets = pytest.importorskip("datasets")
    train = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [0, 1]})
    validation = datasets.Dataset.from_dict({"text": ["three"], "label": [0]})
    saved = datasets.DatasetDict(train=train, validation=validation, test=validation) if as_dict else train
    saved.save_to_disk(tmp_path / "saved")

    expected = {"train": ["one", "two"]} | ({"validation": ["three"], "test": ["three"]} if as_dict else {})
    assert read(settings(tmp_path / "saved")) == expected


def test_folders_in_the_hubs_layout_with_other_files_go_through_the_hubs_library(
    tmp_path: Path, settings: Make
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").write_text("text,n\none,1\ntwo,2\n", encoding="utf-8")
    (tmp_path / "set" / "validation.csv").write_text("text,n\nthree,3\n", encoding="utf-8")

    assert read(settings(tmp_path / "set")) == {"train": ["one", "two"], "validation": ["three"]}


def test_configurations_in_a_folders_readme_are_obeyed(tmp_path: Path, settings: Make) -> None:
    write_jsonl(tmp_path / "set" / "a.jsonl", [{"text": "a"}])
    write_jsonl(tmp_path / "set" / "b.jsonl", [{"text": "b"}])
    configurations = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in "ab")
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n", encoding="utf-8")

    assert read(settings(tmp_path / "set", dataset_config="b")) == {"train": ["b"]}


def hub_at(monkeypatch: pytest.MonkeyPatch, folders: dict[str, Path]) -> list[dict[str, Any]]:
    """A hub whose data sets are local folders; returns the calls that load them."""
    datasets = pytest.importorskip("datasets")
    load, calls = datasets.load_dataset, []

    def load_dataset(name: str, config: str | None, *, revision: str | None, streaming: bool) -> Any:
        calls.append({"name": name, "config": config, "revision": revision, "streaming": streaming})
        return load(str(folders[name]), streaming=streaming, cache_dir=str(folders[name].parent / "hub-cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "hub_revision", lambda name, revision: revision or "0123abc")
    return calls


def test_with_abbrev_len_a_hub_data_set_is_streamed_and_a_seeded_choice_of_its_beginning_is_taken(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first documents were taken: of a sorted collection all of one kind."""
    datasets = pytest.importorskip("datasets")
    read_rows: list[int] = []
    streamed: list[bool] = []

    def rows() -> Iterator[dict[str, str]]:
        for number in range(1000):
            read_rows.append(number)
            yield {"text": f"document {number}"}

    def load_dataset(*_: object, revision: str, streaming: bool) -> Any:
        streamed.append(streaming and revision == "0123abc")
        return {"train": datasets.IterableDataset.from_generator(rows)}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "hub_revision", lambda name, revision: "0123abc")

    first, again = (read(settings("openwebtext", abbrev_len=10))["train"] for _ in range(2))

    numbers = [int(document.split()[1]) for document in first]
    assert first == again and len(set(numbers)) == 10 and all(streamed)
    assert max(numbers) > 50, "they come from the whole of the buffer"
    assert max(read_rows) <= 11 * 10, "and little more than the buffer is ever downloaded"


def test_what_a_hub_name_stood_for_is_found_by_its_commit_too(
    tmp_path: Path, settings: Make, tokenizer: ByteTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials go by the commit that the search began with; nothing is tokenized for them again."""
    commit, texts = "c" * 40, tmp_path / "texts"
    texts.mkdir()
    write_jsonl(texts / "train.jsonl", [{"text": "old"}])
    calls = hub_at(monkeypatch, {"some/texts": texts})
    monkeypatch.setattr(hub, "hub_revision", lambda name, revision: revision or commit)
    by_name = cached_tokens(settings("some/texts"), tokenizer)

    by_commit = cached_tokens(settings(f"some/texts@{commit}"), tokenizer)

    assert by_commit.was_there and by_commit.content == by_name.content and len(calls) == 1
    assert by_name.facts["revision"] == commit
    shutil.rmtree(by_name.folder)
    monkeypatch.setattr(hub, "hub_revision", lambda name, revision: None)  # away, but it was downloaded
    again = cached_tokens(settings(f"some/texts@{commit}"), tokenizer)
    assert not again.was_there and again.content == by_name.content and again.facts["revision"] == commit
    assert calls[-1]["revision"] == commit


def test_with_abbrev_len_a_local_file_is_read_no_further(tmp_path: Path, settings: Make) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    path.write_text(path.read_text() + "{broken\n", encoding="utf-8")

    assert read(settings(path, abbrev_len=2)) == {"train": ["one", "two"]}


def test_abbrev_len_counts_all_splits(tmp_path: Path, settings: Make) -> None:
    for name in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name}] * 50)

    splits = read(settings(tmp_path, abbrev_len=20))

    sizes = {name: len(documents) for name, documents in splits.items()}
    assert sizes == {"train": 16, "validation": 2, "test": 2}


MRPC = {"sentence1": ["a", "b"], "sentence2": ["A", "B"], "label": [1, 0], "idx": [0, 1]}


def test_in_mrpc_a_pair_that_is_not_equivalent_is_its_first_sentence_twice(
    tmp_path: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "validation", "test"):
        write_parquet(tmp_path / "glue" / f"{split}.parquet", MRPC)
    calls = hub_at(monkeypatch, {"nyu-mll/glue": tmp_path / "glue"})

    documents = open_documents(settings("glue"))

    assert documents.layout is not None and set(documents.splits) == {"train", "validation", "test"}
    assert list(documents.splits["train"].documents()) == [Row("a", "", ("A",)), Row("b", "", ("b",))]
    assert calls[0]["config"] == "mrpc" and not calls[0]["streaming"]


def test_a_test_split_whose_labels_are_hidden_cannot_say_what_its_pairs_mean(tmp_path: Path, settings: Make) -> None:
    questions = {"question1": ["a", "b"], "question2": ["A", "B"], "label": [1, 0]}
    write_parquet(tmp_path / "qqp" / "train.parquet", questions)
    write_parquet(tmp_path / "qqp" / "test.parquet", questions | {"label": [-1, -1]})

    assert read(settings(tmp_path / "qqp")) == {"train": [Row("a", "", ("A",)), Row("b", "", ("b",))]}


@pytest.mark.parametrize(
    ("task", "columns", "answer"),
    [
        ("qqp", {"question1": ["a"], "question2": ["A"], "label": [0]}, "a"),
        ("rte", {"sentence1": ["a"], "sentence2": ["A"], "label": [0]}, "A"),
        ("qnli", {"question": ["a"], "sentence": ["A"], "label": [0]}, "A"),
        ("mnli", {"premise": ["a"], "hypothesis": ["A"], "label": [0]}, "A"),
    ],
)
def test_only_tasks_about_equivalence_look_at_the_label(
    tmp_path: Path, settings: Make, task: str, columns: dict[str, list[Any]], answer: str
) -> None:
    write_parquet(tmp_path / task / "train.parquet", columns)

    assert read(settings(tmp_path / task)) == {"train": [Row("a", "", (answer,))]}


def test_single_sentences_have_a_meaning_only_for_reconstruction(
    tmp_path: Path, settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "set" / "train.parquet", {"sentence": ["so good"], "label": [1]})
    hub_at(monkeypatch, {"nyu-mll/glue": tmp_path / "set"})

    assert read(settings("glue/sst2", rmb_only=True)) == {"train": ["so good"]}
    with pytest.raises(
        DataError, match="nothing follows a context; set rmb_only, name an answer_column, or use one of mrpc"
    ):
        open_documents(settings("glue/sst2"))


def test_the_shared_mrpc_has_pairs_and_its_own_held_out_splits(shared_data: Path, settings: Make) -> None:
    documents: Documents = open_documents(settings(shared_data / "glue" / "mrpc"))

    pairs = {name: list(split.documents()) for name, split in documents.splits.items()}

    assert {name: len(split) for name, split in pairs.items()} == {"train": 3576, "validation": 500, "test": 1725}
    repeated = sum((row.context,) == row.answers for row in pairs["train"])
    assert 0.25 < repeated / 3576 < 0.4  # a third of MRPC is not equivalent


def test_the_shared_openwebtext_streams_only_its_beginning(shared_data: Path, settings: Make) -> None:
    assert len(read(settings(shared_data / "openwebtext", abbrev_len=7))["train"]) == 7


def test_the_built_in_text_brings_the_documents_that_its_backbone_never_saw(
    settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {"train": ["seen"] * 30, "validation": ["unseen"] * 9, "test": ["untouched"] * 9}
    monkeypatch.setattr("cmp.model.pydoc_text._texts", lambda: texts)

    assert read(settings("pydoc")) == texts
    few = {"train": ["seen"] * 8, "validation": ["unseen"], "test": ["untouched"]}
    assert read(settings("pydoc", abbrev_len=10)) == few
    assert data_identity(settings("pydoc"))["pydoc"]


def test_a_changed_file_is_another_text(tmp_path: Path, settings: Make) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one", encoding="utf-8")
    before = data_identity(settings(path))
    path.write_text("longer", encoding="utf-8")

    assert data_identity(settings(path)) != before


@pytest.mark.parametrize("others", [{"abbrev_len": 5}, {"text_column": "x"}, {"dataset_config": "c"}])
def test_whatever_changes_the_documents_changes_their_identity(
    tmp_path: Path, settings: Make, others: dict[str, Any]
) -> None:
    (tmp_path / "a.txt").write_text("one", encoding="utf-8")

    assert data_identity(settings(tmp_path / "a.txt")) != data_identity(settings(tmp_path / "a.txt", **others))


def problem(settings: TrialSettings) -> DataError:
    with pytest.raises(DataError) as caught:
        data_identity(settings)
        for split in open_documents(settings).splits.values():
            list(split.documents())
    return caught.value


@pytest.mark.parametrize("name", ["nothing.txt", "./nothing", "nothing/*.txt", "/nothing/at/all"])
def test_a_missing_file_is_said_by_name(settings: Make, name: str) -> None:
    error = problem(settings(name))

    assert error.setting == "dataset" and f"{name}: no such file" in str(error)


def test_other_mistakes_are_said_with_the_setting_to_change(tmp_path: Path, settings: Make) -> None:
    two = write_jsonl(tmp_path / "two.jsonl", [{"title": "t", "body": "b", "n": 1}])
    (tmp_path / "a.docx").write_text("a,b", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("né".encode("latin-1"))
    (tmp_path / "empty.jsonl").touch()
    broken = write_jsonl(tmp_path / "broken.jsonl", [{"text": "a"}])
    broken.write_text(broken.read_text() + '{"text": 3}\n', encoding="utf-8")

    assert str(problem(settings(two))).startswith("text_column: ")
    assert "text columns title, body; name one of them" in str(problem(settings(two)))
    assert "'text' of" in str(problem(settings(two, text_column="text")))
    assert "'n' of" in str(problem(settings(two, text_column="n"))) and "holds no text" in str(
        problem(settings(two, text_column="n"))
    )
    assert "cannot read .docx; use .txt, .jsonl, .parquet or .csv" in str(problem(settings(tmp_path / "a.docx")))
    assert "latin.txt is not UTF-8" in str(problem(settings(tmp_path / "latin.txt")))
    assert "empty.jsonl is empty" in str(problem(settings(tmp_path / "empty.jsonl")))
    assert "broken.jsonl:2 holds no text in 'text'" in str(problem(settings(broken)))
    assert "glue has no task 'mrcp'; use one of mrpc" in str(problem(settings("glue/mrcp")))


def test_an_unreachable_hub_is_said_at_once(settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_client = pytest.importorskip("huggingface_hub")
    nowhere = hub_client.HfApi(endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(hub_client, "HfApi", lambda: nowhere)
    monkeypatch.setattr(hub, "_was_downloaded", lambda name: False)

    error = problem(settings("someone/something"))

    assert error.setting == "dataset"
    assert "the hub cannot be reached for someone/something" in str(error)
