"""What one search tells another, and what a user wants tried first."""

import json
from pathlib import Path
from typing import Any

import pytest

from cmp.results.folder import ResultsFolder
from cmp.results.journal import read_events
from cmp.search.decide.learning import learned_event
from cmp.search.decide.ledger import Ledger
from cmp.space.errors import UserError
from cmp.space.space import Space
from tests.search.check_journal import trajectory, violations
from tests.search.fake_search import Clock, make_space, run

FACTS = {"model": "m1", "data": "d1"}


def earlier_search(path: Path, space: Space | None = None, facts: dict[str, str] = FACTS) -> Path:
    """A search that has run, whose session noted these facts."""
    run(space or make_space(num_samples=12), path, slots=3)
    events = read_events(path / "journal.jsonl")
    events[0]["facts"] = facts
    (path / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def ledger_of(path: Path, **search: Any) -> Ledger:
    ledger = Ledger(make_space(**search), ResultsFolder(path), Clock(), views=False)
    ledger.begin(facts=FACTS)
    return ledger


def test_suggestions_learn_from_an_earlier_search_and_need_no_start_up(tmp_path: Path) -> None:
    place = str(earlier_search(tmp_path / "earlier"))

    alone = [ledger_of(tmp_path / "alone").next_trial()]
    taught = ledger_of(tmp_path / "taught", learn_from=(place,))

    assert len(taught.history.learned) >= 8
    assert taught.next_trial() != alone[0]
    assert taught.history.best() is None and len(taught.history.trials) == 1, "it is told to the sampler alone"
    assert taught._asha.losses(1) == {}


def test_what_was_learned_is_in_the_journal_and_needs_the_earlier_search_no_more(tmp_path: Path) -> None:
    place = earlier_search(tmp_path / "earlier")
    space = make_space(num_samples=10, max_concurrent=1, learn_from=(str(place),))
    run(space, tmp_path / "whole")
    whole = trajectory(tmp_path / "whole" / "journal.jsonl")
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    assert json.loads(lines[1])["event"] == "learned"
    place.rename(tmp_path / "gone")

    for kept in range(2, len(lines), 9):
        journal = tmp_path / f"cut-{kept}" / "journal.jsonl"
        journal.parent.mkdir()
        journal.write_bytes(b"".join(lines[:kept]))
        run(space, journal.parent)
        assert violations(journal, ended=True) == []
        assert trajectory(journal) == whole


@pytest.mark.parametrize(
    ("facts", "changes", "words"),
    [
        ({"model": "m2"}, {}, "another model (model m1 here, m2 there)"),
        ({"data": "d2"}, {}, "another data set, or another text in it (data d1 here, d2 there)"),
        ({}, {"max_val_loops": 7}, "max_val_loops is 50 here and 7 there"),
        ({}, {"seq_len": 33}, "windows have 40 tokens of target here and 33 there"),
        ({}, {"cmp_len": {"choice": [50, 150]}}, "windows have 100 tokens of context here and 150 there"),
    ],
)
def test_a_search_whose_losses_do_not_compare_is_refused_with_the_difference(
    tmp_path: Path, facts: dict[str, str], changes: dict[str, Any], words: str
) -> None:
    other = Space.from_dict({**make_space().to_dict(), **changes})
    place = earlier_search(tmp_path / "earlier", other, FACTS | facts)

    with pytest.raises(UserError) as refusal:
        ledger_of(tmp_path / "new", learn_from=(str(place),))

    assert str(refusal.value).startswith(f"search.learn_from: {place}: its losses do not compare")
    assert words in str(refusal.value)
    with pytest.raises(UserError, match="nowhere: not a results folder"):
        ledger_of(tmp_path / "new", learn_from=(str(tmp_path / "nowhere"),))


def test_trials_outside_the_domains_or_with_other_fixed_settings_are_left_out(tmp_path: Path) -> None:
    place = str(earlier_search(tmp_path / "earlier"))
    plain = make_space().to_dict()
    whole = learned_event(make_space(), place, FACTS)
    narrow = learned_event(Space.from_dict({**plain, "n_cmps": {"int": [2, 8], "step": 2}}), place, FACTS)
    fixed = learned_event(Space.from_dict({**plain, "n_cmps": 8}), place, FACTS)
    longer = learned_event(Space.from_dict({**plain, "n_epochs": 9}), place, FACTS)

    assert whole["skipped"] == sum(known["report"] is None and known["status"] != "failed" for known in whole["trials"])
    assert 0 < len(narrow["trials"]) < len(whole["trials"])
    assert all(known["settings"]["n_cmps"] <= 8 for known in narrow["trials"])
    assert all(set(known["settings"]) == {"lr", "cmp_layer"} for known in fixed["trials"])
    assert len(fixed["trials"]) == sum(known["settings"]["n_cmps"] == 8 for known in whole["trials"])
    assert longer["trials"] == [] and longer["skipped"] == 12, "four epochs say little of nine"


def test_a_further_search_to_learn_from_may_be_named_later(tmp_path: Path) -> None:
    one, two = (str(earlier_search(tmp_path / name)) for name in ("one", "two"))
    first = ledger_of(tmp_path / "new", learn_from=(one,))
    first.next_trial()
    first.close()

    second = ledger_of(tmp_path / "new", learn_from=(one, two))

    assert second.history.learned_from == [one, two]
    assert len(second.history.learned) == 2 * len(first.history.learned)


FIRST = ({"lr": 0.005, "n_cmps": 2, "cmp_layer": -1}, {"n_cmps": 16})


def test_what_the_user_wants_is_tried_first_and_what_is_left_out_is_sampled(tmp_path: Path) -> None:
    ledger = ledger_of(tmp_path / "new", first=FIRST)
    made = [ledger.next_trial() for _ in range(3)]
    settings = [one.settings for one in made if one is not None]

    assert settings[0] == FIRST[0]
    assert settings[1]["n_cmps"] == 16
    assert settings[1] == {**_plain_suggestion(tmp_path, 1), "n_cmps": 16}
    assert settings[2] == _plain_suggestion(tmp_path, 2)


def _plain_suggestion(tmp_path: Path, number: int) -> dict[str, Any]:
    ledger = ledger_of(tmp_path / f"plain-{number}")
    made = [ledger.next_trial() for _ in range(number + 1)][-1]
    assert made is not None
    return made.settings


def test_more_to_try_may_be_added_while_a_search_is_interrupted(tmp_path: Path) -> None:
    first = ledger_of(tmp_path, first=FIRST[:1])
    for _ in range(3):
        first.next_trial()
    first.close()

    later = ledger_of(tmp_path, first=FIRST[::-1])  # wherever in the list
    for _ in range(3):
        assert later.next_trial() is not None  # those that were begun
    added = later.next_trial()

    assert added is not None and added.settings["n_cmps"] == 16
    assert violations(tmp_path / "journal.jsonl") == []
