"""What is checked and made ready before the first trial: the model's config, the tokenized data, what both are."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from cmp.search.engine.probe import Needs, files_fingerprint
from cmp.search.model_check import checked_model_facts, saved_start
from cmp.search.terminal.messages import say
from cmp.search.terminal.plan_text import lost_of_rows
from cmp.search.terminal.waiting import waiting
from cmp.space.checks import check_against_model
from cmp.space.errors import Problem, require
from cmp.space.hub_names import at_commit
from cmp.space.layers import ModelFacts
from cmp.space.settings import TrialSettings, Window
from cmp.space.space import Space

if TYPE_CHECKING:
    from cmp.model.saving import SavedConfig
    from cmp.train.data import DataSummary


@dataclass(frozen=True)
class Preparation:
    """What the trials will find ready.

    Args:
        facts: what the settings only name: the model's commit or fingerprint, the data's fingerprint and, of the hub,
            their commit. They must not change between sessions.
        data: counts of the data set.
        settings: of any trial: they name the model and the data.
        model: what the model's configuration says.
    """

    facts: dict[str, str]
    data: "DataSummary"
    settings: TrialSettings
    model: ModelFacts

    def needs(self, window: Window, results: str, sign: Path | None) -> Needs:
        """What another machine must have for trials to find it ready, too.

        Args:
            window: how the space cuts documents.
            results: where results go, as people know it.
            sign: a file there, where that is on a disk.
        """
        place = Path(self.settings.model_string)
        return Needs(
            settings=self.settings,
            window=window,
            directory=Path.cwd(),
            results=results,
            sign=sign,
            model_place=place if place.expanduser().exists() else None,
            model_fingerprint=self.facts["model"],
            start_place=_folder(self.settings.warm_start),
            tokens=self.data.cache.name,
            data_fingerprint=self.data.fingerprint,
        )


def prepare(space: Space, console: Console, noted: Mapping[str, str]) -> Preparation:
    """Check the space against its model and tokenize its data, once, for all trials.

    Args:
        space: what will be searched.
        console: where to say what the data hold.
        noted: facts of earlier sessions. A model and data of the hub are taken at the commits that the search began
            with.

    Raises:
        UserError: the model or the data cannot be loaded, or a setting does not suit them.
    """
    from cmp.train.data import prepare_data

    with waiting(console, "Reading what the model is"):
        settings = settled(space.trial_settings(space.sample(random.Random(0))), noted)
        model = checked_model_facts(space, settings.model_string)
        facts = {"model": model_fingerprint(settings.model_string)}
        if (start := saved_start(space, model, settings.warm_start)) is not None:
            facts["warm_start"] = _start_fingerprint(settings.warm_start, start)
    with waiting(console, "Reading and tokenizing the data", live=False):
        data = prepare_data(settled(settings, facts), space.window, progress=console.is_terminal)
    require(check_with_data(space, model, data))
    say(console, data_line(data))
    facts |= {"data": data.fingerprint} | ({"dataset": data.revision} if data.revision else {})
    return Preparation(facts, data, settled(settings, facts), model)


def settled(settings: TrialSettings, facts: Mapping[str, str]) -> TrialSettings:
    """A trial's settings with nothing left that each process would find out for itself, perhaps differently.

    Args:
        settings: as the space says.
        facts: of the search: the hub's commits in place of what its names stand for today, the precision in place of
            "auto". Those that are not known leave the settings as they are.
    """
    from cmp.model.hub import is_hub_id
    from cmp.model.names import pinned

    torch_dtype: Any = settings.torch_dtype if settings.torch_dtype != "auto" else facts.get("torch_dtype", "auto")
    model_string = pinned(settings.model_string, facts.get("model"))
    dataset = at_commit(settings.dataset, facts["dataset"]) if "dataset" in facts else settings.dataset
    start = settings.warm_start
    if start is not None and "warm_start" in facts and is_hub_id(start):
        start = at_commit(start, facts["warm_start"])
    return replace(settings, model_string=model_string, dataset=dataset, warm_start=start, torch_dtype=torch_dtype)


def _start_fingerprint(place: str | None, start: "SavedConfig") -> str:
    """What the compressor is that trials start from: the hub's commit, or a hash of its tensors."""
    from cmp.model.hub import fetched_commit, is_hub_id
    from cmp.model.saving import FILES

    return fetched_commit(place, FILES) if place and is_hub_id(place) else start.tensors_sha256[:24]


def _folder(compressor: str | None) -> Path | None:
    """Where a compressor lies on this machine; None for one of a store or the hub."""
    if compressor is None or not (Path(compressor) / "config.json").is_file():
        return None
    return Path(compressor)


def check_with_data(space: Space, facts: ModelFacts, data: "DataSummary") -> list[Problem]:
    """Problems that show only when the data are known: prompts too long for the model, settings of rows without any."""
    for_rows = ("prompt_template", "chat_template", "answer_choices")
    message = f"{space.fixed['dataset']} is plain text; name its context_column and answer_column, or remove this"
    without = [space.problem(name, message) for name in for_rows if space.fixed[name] and not data.rows]
    return without + check_against_model(space, facts, data.longest_prompt)


def data_line(data: "DataSummary") -> str:
    """What the data set holds and what was left out."""
    documents, windows = ("rows", "") if data.rows else ("documents", " windows")
    line = f"Data: {data.documents:,} {documents}, {data.train_windows:,}{windows} to train on, "
    line += f"{data.validation_windows:,} to validate on and {data.test_windows:,} to test on"
    if data.rows:
        line += "".join(f"; {lost}" for lost in lost_of_rows(data))
    elif data.dropped_documents:
        line += f"; {data.dropped_documents:,} documents were too short"
    if data.repeated_documents:
        what = "contexts " if data.rows else ""
        line += f"; {data.repeated_documents:,} {what}that are held out stand in another split too, word for word"
    if not data.from_cache:
        line += f"; tokenized in {data.seconds:.1f} s ({data.tokens_per_second:,.0f} tokens/s)"
    return line + "."


def model_fingerprint(model_string: str) -> str:
    """What the weights are, without loading them: the hub's commit, or a hash of the folder's files."""
    from cmp.model.names import hub_commit
    from cmp.model.pydoc import resolve

    place = Path(resolve(model_string)).expanduser()
    return files_fingerprint(place) if place.exists() else hub_commit(model_string) or "unknown"
