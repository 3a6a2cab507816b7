"""What a search settles before its first trial, and keeps: which commit, which precision."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from cmp.model import loading
from cmp.results.folder import ResultsFolder
from cmp.search.decide.identity import noted_facts
from cmp.search.decide.ledger import Ledger
from cmp.search.engine import task
from cmp.search.engine.footprint import Footprint
from cmp.search.engine.task import TaskError
from cmp.search.precision import precision_facts
from cmp.search.preparation import prepare, settled
from cmp.space.errors import UserError
from cmp.space.space import Space
from cmp.train.session import LocalSession, TrialPlan
from cmp.train.trial import run_trial
from tests.hub_cache import publish, use_cache
from tests.tiny import save_tiny_model

NAME = "someone/tiny"
OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
ON_CPU, ON_GPU = Footprint(1, 1.0, 0.0), Footprint(1, 1.0, 1.0)


def space_of(model: str, text: Path, tmp_path: Path, **settings: Any) -> Space:
    tiny = {"cmp_len": 16, "seq_len": 8, "n_data_procs": 1, "data_root": str(tmp_path / "data")}
    return Space.from_dict({"model_string": model, "dataset": str(text), "exp_name": "tiny", **tiny, **settings})


def quiet() -> Console:
    return Console(record=True, width=200)


def test_a_search_that_goes_on_keeps_the_commit_that_it_began_with(
    tiny_model_folder: Path, tiny_text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit was noted and never used: trials loaded whatever the name stood for when they ran."""
    cache = use_cache(tmp_path / "hub", monkeypatch)
    publish(cache, NAME, OLD, tiny_model_folder)
    space = space_of(NAME, tiny_text_file, tmp_path)
    first = prepare(space, quiet(), noted={})
    publish(cache, NAME, NEW, save_tiny_model(tmp_path / "new"))

    again = prepare(space, quiet(), noted=first.facts)

    assert first.facts["model"] == OLD and again.facts == first.facts
    assert settled(space.trial_settings({}), first.facts).model_string == f"{NAME}@{OLD}"
    assert prepare(space, quiet(), noted={}).facts["model"] == NEW, "a new search takes what is there now"


def test_a_trial_trains_and_saves_with_the_settled_commit(
    tiny_model_folder: Path, tiny_text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmp import Compressor

    cache = use_cache(tmp_path / "hub", monkeypatch)
    publish(cache, NAME, OLD, tiny_model_folder)
    short = {"n_epochs": 1, "n_train_loops": 1, "batch_size": 2, "val_batch_size": 2, "max_val_loops": 1}
    space = space_of(NAME, tiny_text_file, tmp_path, **short)
    facts = prepare(space, quiet(), noted={}).facts
    publish(cache, NAME, NEW, save_tiny_model(tmp_path / "new"))
    plan = TrialPlan(0, settled(space.trial_settings({}), facts), space.window, tmp_path / "trials" / "0000")

    assert run_trial(plan, LocalSession()).status == "finished"

    loaded = Compressor.from_pretrained(plan.folder / "best", device="cpu")
    assert (loaded.backbone.identity.name, loaded.backbone.identity.revision) == (NAME, OLD)


def test_a_search_that_goes_on_elsewhere_reads_the_data_of_the_commit_that_it_began_with(
    tiny_model_folder: Path, tiny_text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit was noted in the cache of tokens alone: another machine read what the name stands for today."""
    import datasets

    from cmp.train.data import hub

    asked: list[str | None] = []
    load = datasets.load_dataset

    def load_dataset(name: str, config: str | None, *, revision: str | None, streaming: bool) -> Any:
        asked.append(revision)
        files = str(tiny_text_file)
        return load("text", data_files={"train": files}, cache_dir=str(tmp_path / "hub-cache"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "hub_revision", lambda name, revision: revision or OLD)
    space = space_of(str(tiny_model_folder), Path("some/texts"), tmp_path)
    first = prepare(space, quiet(), noted={})
    monkeypatch.setattr(hub, "hub_revision", lambda name, revision: revision or NEW)
    elsewhere = space_of(str(tiny_model_folder), Path("some/texts"), tmp_path, data_root=str(tmp_path / "there"))

    again = prepare(elsewhere, quiet(), noted=first.facts)

    assert first.facts["dataset"] == OLD and again.facts == first.facts and asked == [OLD, OLD]
    assert first.settings.dataset == again.settings.dataset == f"some/texts@{OLD}"
    assert prepare(elsewhere, quiet(), noted={}).facts["dataset"] == NEW, "a new search takes what is there now"


def facts_for(space: Space, noted: dict[str, str], footprint: Footprint = ON_CPU) -> dict[str, str]:
    return precision_facts(space, noted, footprint, 32, lambda: False)


def test_auto_is_settled_once_and_a_search_that_goes_on_elsewhere_keeps_it(
    tiny_text_file: Path, tmp_path: Path
) -> None:
    """Each process used to decide for itself: float32 and bfloat16 trials met in one search."""
    space = space_of("m", tiny_text_file, tmp_path)

    here = facts_for(space, {})
    elsewhere = facts_for(space, {"torch_dtype": "bfloat16"})

    assert (here, elsewhere) == ({"torch_dtype": "float32"}, {"torch_dtype": "bfloat16"})
    assert settled(space.trial_settings({}), elsewhere).torch_dtype == "bfloat16"
    assert settled(space.trial_settings({}), {}).torch_dtype == "auto"


def test_a_precision_that_was_asked_for_is_no_fact(tiny_text_file: Path, tmp_path: Path) -> None:
    space = space_of("m", tiny_text_file, tmp_path, torch_dtype="float16")

    assert facts_for(space, {}) == {}
    assert settled(space.trial_settings({}), {"torch_dtype": "float32"}).torch_dtype == "float16"


def test_where_auto_is_one_of_several_precisions_it_is_settled_too(tiny_text_file: Path, tmp_path: Path) -> None:
    space = space_of("m", tiny_text_file, tmp_path, torch_dtype={"choice": ["auto", "float16"]})

    assert facts_for(space, {}) == {"torch_dtype": "float32"}
    assert (
        settled(space.trial_settings({"torch_dtype": "float16"}), {"torch_dtype": "float32"}).torch_dtype == "float16"
    )


def answering(answer: object) -> Callable[..., object]:
    def run_task(work: partial[str], footprint: Footprint, **_: object) -> object:
        assert (work.func, work.keywords, footprint) == (loading.auto_precision, {"width": 32}, ON_GPU)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return run_task


def test_a_driver_without_a_gpu_asks_a_worker_that_has_one(
    tiny_text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_of("m", tiny_text_file, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(task, "run_task", answering("bfloat16"))

    assert facts_for(space, {}, ON_GPU) == {"torch_dtype": "bfloat16"}

    for nothing in (TaskError("no such device"), None):
        monkeypatch.setattr(task, "run_task", answering(nothing))
        with pytest.raises(UserError, match=r"torch_dtype: auto could not be settled.*name a precision"):
            facts_for(space, {}, ON_GPU)
    assert precision_facts(space, {}, ON_GPU, 32, lambda: True) == {}, "the user has gone"


def test_the_first_sessions_facts_are_those_that_count(tmp_path: Path, tiny_text_file: Path) -> None:
    folder, space = ResultsFolder(tmp_path / "results"), space_of("m", tiny_text_file, tmp_path)
    for facts in ({"model": OLD}, {"model": OLD, "torch_dtype": "float32"}):
        ledger = Ledger(space, folder, views=False)
        ledger.begin(facts=facts)
        noted = noted_facts(ledger.history)
        ledger.close()

    assert noted == {"model": OLD, "torch_dtype": "float32"}
