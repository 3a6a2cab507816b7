import dataclasses
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cmp.space.layers import ModelFacts, resolve_layer
from cmp.space.loading import load_space
from cmp.space.rehearsal import rehearse
from cmp.space.settings import RULES, ResourceSettings, SearchSettings, TrialSettings, Window
from cmp.space.space import Space

Load = Callable[..., Space]
SPACES = sorted((Path(__file__).parents[2] / "spaces").glob("*.yaml"))
MEASURING = sorted((Path(__file__).parents[1] / "benchmarks/spaces").glob("*.yaml"))
TINY = ModelFacts(n_layers=2, max_positions=128, vocab_size=260, width=32)


@pytest.fixture(params=SPACES, ids=lambda path: path.stem)
def shipped(request: pytest.FixtureRequest) -> Space:
    return load_space(request.param)


def test_the_resolved_space_is_a_space_file_that_means_the_same(shipped: Space, tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(shipped.to_dict(), sort_keys=False))

    again = load_space(path)

    assert again == shipped
    assert list(again.searched) == list(shipped.searched)
    assert Space.from_dict(yaml.safe_load(path.read_text())) == shipped
    assert again.notes == ()


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "rungs"),
    [(1, 3, 10, (1, 3, 9)), (1, 3, 9, (1, 3)), (2, 2, 10, (2, 4, 8)), (4, 4, 4, ()), (1, 2, 1, ())],
)
def test_rungs_are_powers_of_the_factor_below_the_last_epoch(
    grace: int, factor: int, epochs: int, rungs: tuple[int, ...]
) -> None:
    plain = {"model_string": "m", "dataset": "d", "n_epochs": epochs}
    search = {"grace_period": grace, "reduction_factor": factor}
    assert Space.from_dict({**plain, "search": search}).rungs == rungs


def test_a_space_travels_to_other_processes(shipped: Space) -> None:
    assert pickle.loads(pickle.dumps(shipped)) == shipped


def test_every_sample_makes_a_trial(shipped: Space) -> None:
    rng = random.Random(0)
    for _ in range(100):
        sampled = shipped.sample(rng)
        settings = shipped.trial_settings(sampled)
        assert {name: getattr(settings, name) for name in sampled} == sampled
        assert settings.n_cmps <= settings.context_len <= max(shipped.window.context_len, shipped.window.target_len)


def test_shipped_spaces_say_question_budget_and_hardware(shipped: Space) -> None:
    header = (Path(__file__).parents[2] / "spaces" / f"{shipped.name}.yaml").read_text().split("\n\n")[0]

    assert [word for word in ("Question:", "Budget:", "Hardware:") if f"# {word}" in header] == [
        "Question:",
        "Budget:",
        "Hardware:",
    ]
    assert len(shipped.searched) >= 3
    assert shipped.notes == ()


def test_the_five_spaces_are_shipped() -> None:
    assert {"demo", "owt", "bloom", "glue", "reconstruct"} <= {path.stem for path in SPACES}


def test_the_web_text_space_searches_what_it_promises() -> None:
    space = load_space(SPACES[0].parent / "owt.yaml")

    assert set(space.searched) == {"lr", "n_cmps", "keep_len", "cmp_layer", "cmp_len"}
    assert (space.fixed["model_string"], space.fixed["dataset"]) == ("gpt2", "openwebtext")


def test_the_bloom_space_begins_with_the_prototypes_published_setting() -> None:
    space = load_space(SPACES[0].parent / "bloom.yaml")
    published = {
        "lr": 5e-4, "n_cmps": 1, "keep_len": 0, "cmp_len": 10, "cmp_layer": -2, "proj_cmpr": True, "lora_rank": 0,
        "kl_scale": 0.01,
    }  # fmt: skip
    held = {"model_string": "bigscience/bloomz-560m", "seq_len": 20, "batch_size": 64, "lr_schedule": "plateau"}

    assert space.search.first == (published,) and set(published) == set(space.searched)
    assert {name: space.fixed[name] for name in held} == held


@pytest.mark.parametrize("path", MEASURING, ids=lambda path: path.stem)
def test_measuring_spaces_need_nothing_but_a_model_and_a_text(path: Path, tmp_path: Path) -> None:
    space = load_space(path, [f"model_string={tmp_path}", "dataset=pydoc"])

    assert (space.fixed["model_string"], space.fixed["dataset"]) == (str(tmp_path), "pydoc")
    assert "--set model_string=" in path.read_text(encoding="utf-8")
    assert space.notes == ()
    for seed in range(20):
        settings = space.trial_settings(space.sample(random.Random(seed)))
        assert settings.positions <= 16, "what is asked of these measurements is asked of at most 16 positions"


def test_a_rehearsal_is_the_same_space_in_miniature(shipped: Space) -> None:
    small = rehearse(shipped, TINY)

    assert small.name == f"{shipped.name}-test"
    assert small.fixed["model_string"] == (shipped.fixed["testing"] or "pydoc-tiny")
    assert small.search.num_samples == 2
    assert set(small.searched) <= set(shipped.searched)
    for seed in range(50):
        settings = small.trial_settings(small.sample(random.Random(seed)))
        assert 1 <= resolve_layer(settings.cmp_layer, TINY.n_layers) <= TINY.n_layers
        assert settings.n_cmps <= settings.context_len
        assert 1 + settings.context_len + settings.seq_len <= TINY.max_positions
        assert settings.n_epochs * settings.n_train_loops <= 8
        assert settings.n_grad_loops <= settings.n_train_loops


def test_a_rehearsal_without_facts_keeps_to_layers_that_every_model_has(shipped: Space) -> None:
    assert set(rehearse(shipped).values("cmp_layer")) <= {"half", 1, -1}


def test_a_rehearsal_without_gpus_runs_its_workers_on_cpus(load: Load) -> None:
    space = load("multi_gpu: true\nquantization: 4bit\nrevision: v1\nresources: {gpus_per_worker: 2}\n")

    small = rehearse(space, TINY, gpus=0)

    assert (small.fixed["multi_gpu"], small.resources) == (False, ResourceSettings(workers=2))
    assert rehearse(space, TINY, gpus=8).resources == space.resources
    assert small.fixed["batch_size"] % 2 == 0
    assert (small.fixed["quantization"], small.fixed["model_string"]) == (None, "pydoc-tiny")


def test_the_window_holds_the_longest_context_and_the_target(load: Load) -> None:
    space = load("cmp_len: {choice: [20, 80, 40]}\nseq_len: 15\n")

    assert space.window == Window(context_len=80, target_len=15)


def test_reconstruction_alone_has_windows_of_text_only(load: Load) -> None:
    space = load("rmb_only: true\nseq_len: 64\n")

    assert space.window == Window(context_len=0, target_len=64)
    assert space.trial_settings({}).context_len == 64


def test_trial_settings_refuse_a_sample_of_another_space(load: Load) -> None:
    space = load("lr: {uniform: [0.1, 0.2]}\n")

    with pytest.raises(ValueError, match=r"sampled \['n_cmps'\], but the space searches \['lr'\]"):
        space.trial_settings({"n_cmps": 3})


def test_sampling_follows_from_the_generator(shipped: Space) -> None:
    assert shipped.sample(random.Random(3)) == shipped.sample(random.Random(3))


@pytest.mark.parametrize(
    "change",
    [
        "search.num_samples=99",
        "search.max_concurrent=1",
        "search.time_budget_seconds=60",
        "resources.workers=2",
        "save_root=elsewhere",
        "n_data_procs=1",
        "checkpt_mod=5",
        "testing=x",
    ],
)
def test_a_search_may_be_extended_and_moved(load: Load, change: str) -> None:
    text = "lr: {uniform: [0.1, 0.2]}\n"

    assert load(text, change).differences(load(text)) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("n_cmps=2", "n_cmps: 2 now, 4 before"),
        ("lr=0.1", "lr: 0.1 now, {uniform: [0.1, 0.2]} before"),
        ("lr={uniform: [0.1, 0.3]}", "lr: {uniform: [0.1, 0.3]} now, {uniform: [0.1, 0.2]} before"),
        ("search.grace_period=2", "search.grace_period: 2 now, 1 before"),
        ("model_string=other", 'model_string: "other" now, "gpt2" before'),
    ],
)
def test_a_change_that_would_mix_unlike_trials_is_listed(load: Load, change: str, line: str) -> None:
    text = "lr: {uniform: [0.1, 0.2]}\n"

    assert load(text, change).differences(load(text)) == [line]


def test_combinations_are_counted_where_they_can_be(load: Load) -> None:
    discrete = "n_cmps: {int: [1, 4]}\ncmp_layer: {choice: [half, -1]}\n"

    assert load(discrete).combinations() == 8
    assert load(discrete + "lr: {uniform: [0.1, 0.2]}\n").combinations() is None
    assert load("").combinations() == 1


def test_a_problem_points_at_the_line_of_its_setting(load: Load) -> None:
    space = load("lr: 0.1\n", "n_cmps=2")

    assert str(space.problem("lr", "wrong")).endswith("x.yaml:3  lr: wrong")
    assert str(space.problem("n_cmps", "wrong")) == "--set n_cmps=2  n_cmps: wrong"
    assert str(space.problem("seq_len", "wrong")).endswith("x.yaml  seq_len: wrong")


@pytest.mark.parametrize("seed", range(30))
def test_random_spaces_survive_being_written_and_read(load: Load, seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    low = rng.randint(1, 8)
    plain = {
        "lr": {"loguniform": [10 ** rng.uniform(-6, -3), 10 ** rng.uniform(-3, 0)]},
        "l2": {"uniform": [0.0, rng.random()]},
        "n_cmps": {"int": [low, low + 2 * rng.randint(0, 9)], "step": 2},
        "n_epochs": {"logint": [rng.randint(1, 9), rng.randint(9, 99)]},
        "cmp_layer": {"choice": rng.sample(["half", -1, -2, 1, 6], rng.randint(1, 5))},
        "sep_cmpr": {"choice": [True, False]},
        "seed": rng.randint(0, 9),
    }
    names = rng.sample(sorted(plain), rng.randint(1, len(plain)))
    space = load(yaml.safe_dump({name: plain[name] for name in names}, sort_keys=False))

    assert Space.from_dict(yaml.safe_load(yaml.safe_dump(space.to_dict()))) == space
    assert list(space.searched) == [name for name in names if name != "seed"]
    assert load(yaml.safe_dump(space.to_dict(), sort_keys=False), whole=True) == space
    assert space.differences(space) == []


def test_every_setting_has_a_rule_that_its_default_keeps_and_a_meaning() -> None:
    for rule in RULES.values():
        assert rule.meaning
        assert rule.required or rule.parse(rule.default) == rule.default
    names = {field.name for field in dataclasses.fields(TrialSettings)}
    assert names == {name for name in RULES if "." not in name}
    assert len(RULES) == len(names) + len(dataclasses.fields(SearchSettings)) + len(
        dataclasses.fields(ResourceSettings)
    )
