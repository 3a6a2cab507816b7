"""Suggestions depend on seed and history alone, cover the space at first, and then learn from every kind of end."""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from cmp.results.history import History, TrialRecord
from cmp.search.decide.evidence import Evidence
from cmp.search.decide.sampler import (
    Sampler,
    _seed,
    distributions,
    latin_hypercube,
    max_trials,
    startup_point,
    suggest,
    value_at,
)
from cmp.search.decide.tpe import varied
from cmp.space.domains import Choice, Domain, Int, LogInt, LogUniform, Uniform, domain_from_plain
from cmp.space.space import Space
from tests.search.fake_search import make_space

EVERY_DOMAIN: dict[str, Any] = {
    "lr": {"loguniform": [1e-4, 1e-1]},
    "kl_scale": {"uniform": [0.0, 1.0]},
    "n_cmps": {"int": [2, 16], "step": 2},
    "batch_size": {"logint": [4, 64]},
    "cmp_layer": {"choice": ["half", -1, 6]},
    "sep_cmpr": {"choice": [True, False]},
    "proj_hid_mult": {"choice": [None, 1, 2.5]},
    "grad_clip": {"uniform": [1.0, 1.0]},
}


def history_of(trials: list[tuple[dict[str, Any], list[float], str]]) -> History:
    """A history of trials, each (settings, losses, end); the end is an event's name, a failure's kind or "running"."""
    events: list[dict[str, Any]] = [{"event": "session", "run": 1}]
    for number, (settings, losses, end) in enumerate(trials):
        events.append({"event": "suggested", "trial": number, "settings": settings})
        events.append({"event": "started", "trial": number, "attempt": 1})
        for epoch, loss in enumerate(losses, start=1):
            report = {"epoch": epoch, "val_loss": loss}
            events.append({"event": "reported", "trial": number, "epoch": epoch, "metrics": report})
        if end in ("stopped", "finished"):
            events.append({"event": end, "trial": number, "epoch": len(losses), "rung": len(losses)})
        elif end != "running":
            events.append({"event": "failed", "trial": number, "kind": end, "reason": "r", "epoch": len(losses)})
    return History.from_events({"time": float(index), **event} for index, event in enumerate(events))


def a_history(space: Space, trials: int = 12) -> History:
    ends = ["finished", "stopped", "diverged", "running"]
    return history_of([(startup_point(space, n), [3.0 - n / 50, 2.5], ends[n % 4]) for n in range(trials)])


def test_every_domain_gives_plain_values_inside_it_that_survive_json() -> None:
    space = make_space(searched=EVERY_DOMAIN)
    for number in range(3):
        for history in (History(), a_history(space)):
            sampled = suggest(space, number + 12, history)
            assert json.loads(json.dumps(sampled)) == sampled
            assert list(sampled) == list(EVERY_DOMAIN)
            for name, value in sampled.items():
                assert space.searched[name].contains(value), name
                assert type(value) in (int, float, str, bool, type(None))
            space.trial_settings(sampled)


def test_a_suggestion_depends_on_seed_number_and_history_only() -> None:
    space = make_space(searched=EVERY_DOMAIN)
    history = a_history(space)
    assert suggest(space, 12, history) == suggest(space, 12, history)
    assert suggest(space, 12, history) != suggest(space, 13, history)
    assert suggest(make_space(searched=EVERY_DOMAIN, seed=1), 12, history) != suggest(space, 12, history)
    assert suggest(space, 12, a_history(space, 8)) != suggest(space, 12, history)


def test_another_process_suggests_the_same() -> None:
    code = (
        "from tests.search.decide.test_sampler import *; space = make_space(searched=EVERY_DOMAIN); "
        "print(json.dumps([suggest(space, 1, History()), suggest(space, 12, a_history(space))]))"
    )
    root = Path(__file__).resolve().parents[3]
    output = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    space = make_space(searched=EVERY_DOMAIN)
    assert json.loads(output) == [suggest(space, 1, History()), suggest(space, 12, a_history(space))]


@pytest.mark.parametrize("seed", range(3))
def test_start_up_points_lie_in_every_slice_of_every_domain(seed: int) -> None:
    space = make_space(searched=EVERY_DOMAIN, startup_trials=8, seed=seed)
    points = [startup_point(space, number) for number in range(8)]
    slices = sorted(int(8 * math.log(point["lr"] / 1e-4) / math.log(1e3)) for point in points)
    assert slices == list(range(8))
    assert sorted(point["n_cmps"] for point in points) == [2, 4, 6, 8, 10, 12, 14, 16]
    layers = [point["cmp_layer"] for point in points]
    assert sorted(layers.count(layer) for layer in ("half", -1, 6)) in ([2, 3, 3], [2, 2, 4])
    assert sum(point["sep_cmpr"] for point in points) == 4
    assert startup_point(space, 8) not in points


def test_a_latin_hypercube_is_spread_out_better_than_the_average_one() -> None:
    def closest(points: tuple[tuple[float, ...], ...]) -> float:
        return min(math.dist(a, b) for i, a in enumerate(points) for b in points[:i])

    chosen = [closest(latin_hypercube(8, 3, seed)) for seed in range(10)]
    assert sum(chosen) / 10 > 0.35


@pytest.mark.parametrize("plain", list(EVERY_DOMAIN.values()), ids=str)
def test_shares_of_a_domain_reach_both_ends_in_order(plain: dict[str, Any]) -> None:
    domain: Domain = domain_from_plain(plain)
    values = [value_at(domain, share / 1000) for share in range(1000)]
    assert all(domain.contains(value) for value in values)
    if isinstance(domain, Choice):
        assert {str(value) for value in values} == {str(value) for value in domain.values}
    else:
        assert values == sorted(values)
        assert values[0] == pytest.approx(domain.low)
        assert values[-1] == pytest.approx(domain.high, rel=0.01)


def test_optuna_sees_the_domains_as_they_are() -> None:
    seen = distributions(make_space(searched=EVERY_DOMAIN))
    assert (seen["n_cmps"].low, seen["n_cmps"].high, seen["n_cmps"].step) == (2, 16, 2)
    assert seen["lr"].log and seen["batch_size"].log and not seen["kl_scale"].log
    assert seen["cmp_layer"].choices == ("half", -1, 6)


ONE: dict[str, Any] = {"lr": {"loguniform": [1e-4, 1e-1]}}


def at(lr: float) -> dict[str, Any]:
    return {"lr": lr}


def mean_log_lr(history: History, numbers: range = range(100, 130)) -> float:
    space = make_space(searched=ONE, num_samples=200, startup_trials=3)
    return sum(math.log10(suggest(space, number, history)["lr"]) for number in numbers) / len(numbers)


def spread(end_low: str, end_high: str, losses_low: list[float], losses_high: list[float]) -> History:
    low = [(at(10 ** -(3.9 - n / 20)), losses_low, end_low) for n in range(8)]
    high = [(at(10 ** -(1.1 + n / 20)), losses_high, end_high) for n in range(8)]
    return history_of([trial for pair in zip(low, high, strict=True) for trial in pair])


def test_trials_go_where_finished_trials_had_low_losses() -> None:
    assert mean_log_lr(spread("finished", "finished", [2.0], [3.0])) < -2.8
    assert mean_log_lr(spread("finished", "finished", [3.0], [2.0])) > -2.2


def test_of_stopped_trials_those_that_got_further_count_as_better_whatever_their_loss() -> None:
    assert mean_log_lr(spread("stopped", "stopped", [3.0, 2.9, 2.8], [2.5])) < -2.8


def test_trials_that_diverged_or_ran_out_of_memory_are_avoided() -> None:
    for kind in ("diverged", "out_of_memory"):
        assert mean_log_lr(spread("stopped", kind, [3.0], [])) < -2.8


def test_trials_that_failed_for_another_reason_say_nothing() -> None:
    space = make_space(searched=ONE, num_samples=200, startup_trials=3)
    some = [(at(10**-n), [3.0 + n], "finished") for n in (1.5, 2.0, 2.5, 3.0)]
    failed = [(at(10**-1.2), [1.0], kind) for kind in ("failed", "worker_died")]
    assert suggest(space, 9, history_of([*some, *failed])) == suggest(space, 9, history_of(some))


def test_running_trials_are_kept_away_from() -> None:
    done = [(at(10**-n), [2.0 + abs(n - 2.5)], "finished") for n in (1.2, 1.7, 2.2, 2.5, 2.8, 3.3, 3.8)]
    alone = history_of(done)
    crowded = history_of([*done, *[(at(10 ** -(2.5 + n / 50)), [], "running") for n in range(-4, 5)]])
    space = make_space(searched=ONE, num_samples=200, startup_trials=3)

    def near(history: History) -> int:
        lrs = [math.log10(suggest(space, number, history)["lr"]) for number in range(100, 130)]
        return sum(abs(lr + 2.5) < 0.15 for lr in lrs)

    assert near(crowded) < near(alone)


def test_a_running_trial_that_has_reported_is_ranked_by_how_far_it_got_and_not_taken_for_bad() -> None:
    assert mean_log_lr(spread("running", "stopped", [3.0, 2.9, 2.8], [2.5])) < -2.8


def test_settings_are_never_tried_twice_and_a_small_space_ends_when_all_were() -> None:
    space = make_space(searched={"n_cmps": {"choice": [1, 2, 4]}, "sep_cmpr": {"choice": [True, False]}})
    assert max_trials(space) == 6
    tried: list[tuple[dict[str, Any], list[float], str]] = []
    for number in range(6):
        sampled = suggest(space, number, history_of(tried))
        assert sampled not in [settings for settings, _, _ in tried]
        tried.append((sampled, [2.0 + number], "finished"))


def test_domains_for_which_tpe_is_asked_directly_take_their_ends() -> None:
    for domain in (Uniform(0.0, 1.0), LogUniform(1.0, 2.0), Int(1, 1), LogInt(1, 9)):
        assert value_at(domain, 0.0) == pytest.approx(domain.low)


def test_a_start_up_of_any_length_takes_one_hypercube_after_another() -> None:
    space = make_space(searched=EVERY_DOMAIN, startup_trials=10**9)
    points = [startup_point(space, number) for number in range(130)]
    assert len({point["lr"] for point in points}) == 130
    slices = sorted(int(64 * math.log(point["lr"] / 1e-4) / math.log(1e3)) for point in points[64:128])
    assert slices == list(range(64))


def test_a_sampler_that_followed_a_search_suggests_what_a_new_one_would() -> None:
    space = make_space(searched=EVERY_DOMAIN)
    sampler = Sampler(space)
    for events in range(1, len(list(a_search(space))) + 1, 7):
        history = History.from_events(list(a_search(space))[:events])
        number = len(history.trials)
        assert sampler.suggest(number, history) == suggest(space, number, history), f"after {events} events"


def a_search(space: Space) -> Iterator[dict[str, Any]]:
    """Trials of all kinds side by side, so that most of them change between two suggestions."""
    time = itertools.count()
    ends = ["finished", "stopped", "diverged", "out_of_memory", "failed", None]
    for first in range(0, 90, 6):
        for number in range(first, first + 6):
            settings = startup_point(space, number)
            yield {"event": "suggested", "trial": number, "settings": settings, "time": float(next(time))}
        for epoch in (1, 2):
            for number in range(first, first + 6):
                metrics = {"val_loss": 2.0 + number % 7 / epoch}
                event = {"event": "reported", "trial": number, "epoch": epoch, "metrics": metrics}
                yield {**event, "time": float(next(time))}
        for number, end in zip(range(first, first + 6), ends, strict=True):
            if end in ("finished", "stopped"):
                yield {"event": end, "trial": number, "epoch": 2, "time": float(next(time))}
            elif end is not None:
                yield {"event": "failed", "trial": number, "kind": end, "epoch": 2, "time": float(next(time))}


def test_points_are_those_of_optunas_own_sampler_to_the_last_bit() -> None:
    """Optuna's study, filled by hand, is the slow way of what `tpe` does on arrays."""
    space = make_space(searched=EVERY_DOMAIN, startup_trials=1)
    domains = distributions(space)
    history = History.from_events(a_search(space))
    for number in range(90, 100):
        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(
                seed=_seed(space.search.seed, number, 0), multivariate=True, constant_liar=True, n_startup_trials=1
            )
        )
        study.add_trials([told(trial, domains) for trial in history.trials.values() if trial.kind != "failed"])
        assert suggest(space, number, history) == study.ask(domains).params


def told(trial: TrialRecord, domains: dict[str, Any]) -> optuna.trial.FrozenTrial:
    losses = {} if trial.status == "failed" else {r["epoch"]: r["val_loss"] for r in trial.reports}
    state, value = optuna.trial.TrialState.PRUNED, None
    if trial.status == "finished":
        state, value = optuna.trial.TrialState.COMPLETE, trial.val_loss
    return optuna.trial.create_trial(
        state=state, value=value, params=trial.settings, distributions=domains, intermediate_values=losses
    )


PRICED: dict[str, Any] = {"lr": {"loguniform": [1e-4, 1e-1]}, "n_cmps": {"logint": [1, 64]}}


def a_front(trials: int = 48) -> list[tuple[dict[str, Any], list[float], str]]:
    """Trials whose loss falls with their price, each price with its own best learning rate, lower for dear ones."""
    found = []
    for number in range(trials):
        n_cmps = 2 ** (number % 7)
        lr = 10 ** -(1.1 + 2.8 * (number * 0.618 % 1))
        off = math.log10(lr) + 1.5 + math.log2(n_cmps) / 4
        found.append(({"lr": lr, "n_cmps": n_cmps}, [3.0 - 0.2 * math.log2(n_cmps) + off**2], "finished"))
    return found


def test_a_search_of_the_front_suggests_at_every_price_and_one_of_the_loss_at_the_dear_end() -> None:
    history = history_of(a_front())

    def prices(objective: str) -> list[int]:
        space = make_space(searched=PRICED, num_samples=500, startup_trials=3, objective=objective)
        return sorted(suggest(space, number, history)["n_cmps"] for number in range(100, 160))

    assert prices("loss")[15] > 24
    front = prices("front")
    assert front[12] < 12 and front[-15] > 32
    assert len({int(math.log2(price)) for price in front}) == 7


def test_a_suggestion_within_a_budget_learns_from_what_is_best_within_it() -> None:
    """At the cheap end a high learning rate is best, at the dear end a low one."""
    space = make_space(searched=PRICED, num_samples=500, startup_trials=3, objective="front")
    history = history_of(a_front())
    made = [suggest(space, number, history) for number in range(100, 200)]

    def mean_log(cheap: bool) -> float:
        logs = [math.log10(one["lr"]) for one in made if (one["n_cmps"] <= 4) == cheap]
        return sum(logs) / len(logs)

    assert mean_log(cheap=True) > -2.1 > -2.3 > mean_log(cheap=False)


def test_a_nested_trial_is_known_at_the_price_of_each_of_its_prefixes() -> None:
    space = Space.from_dict({"model_string": "m", "dataset": "d", "nested": True, **PRICED})
    history = history_of(
        [({"lr": 0.01, "n_cmps": 8}, [2.0], "finished"), ({"lr": 0.02, "n_cmps": 1}, [2.5], "finished")]
    )
    report = history.trials[0].best_report
    assert report is not None
    report["nested"] = {"1": 2.3, "2": 2.2, "4": 2.1}
    evidence = Evidence(space, varied(distributions(space)))
    evidence.update(history)

    assert evidence.price_range() == (1.0, 8.0)
    assert [good.tolist() for good, _ in (evidence.split(), evidence.split(1.0))] == [[0], [0]]
    report["nested"]["1"] = 2.6
    again = Evidence(space, varied(distributions(space)))
    again.update(history)
    assert again.split(1.0)[0].tolist() == [1]
