from collections.abc import Callable
from pathlib import Path

import pytest

from cmp.space.domains import Choice, Int, LogUniform
from cmp.space.errors import SpaceError
from cmp.space.loading import load_space
from cmp.space.settings import SearchSettings, TrialSettings
from cmp.space.space import Space

Load = Callable[..., Space]
Problems = Callable[..., list[str]]


def test_a_file_without_domains_is_a_search_of_one_trial(load: Load) -> None:
    space = load("lr: 1e-3\n")

    assert space.search.num_samples == 1
    assert space.trial_settings({}) == TrialSettings("gpt2", "openwebtext", exp_name="x", lr=1e-3)


def test_no_more_trials_are_run_than_there_are_different_ones(load: Load) -> None:
    assert load("n_cmps: {choice: [1, 2]}\nsep_cmpr: {choice: [true, false]}\n").search.num_samples == 4
    assert load("n_cmps: {choice: [1, 2]}\nsearch: {num_samples: 1}\n").search.num_samples == 1


def test_defaults_are_those_of_the_dataclasses(load: Load) -> None:
    space = load("lr: {uniform: [0.1, 0.2]}\n")

    assert space.search == SearchSettings()
    assert space.trial_settings({"lr": 0.15}) == TrialSettings("gpt2", "openwebtext", exp_name="x", lr=0.15)


@pytest.mark.parametrize("written", ["5e-4", "5E-4", "0.0005", ".5e-3", "5.0e-04", "+5e-4"])
def test_numbers_are_numbers_whatever_yaml_1_1_thinks(load: Load, written: str) -> None:
    assert load(f"lr: {written}\n").fixed["lr"] == 5e-4


def test_whole_numbers_may_be_written_as_floats_or_with_underscores(load: Load) -> None:
    space = load("abbrev_len: 1e6\nn_train_loops: 10_000\nn_epochs: 010\nl2: 0\n")

    assert space.fixed["abbrev_len"] == 1_000_000
    assert isinstance(space.fixed["abbrev_len"], int)
    assert (space.fixed["n_train_loops"], space.fixed["n_epochs"]) == (10_000, 10)
    assert isinstance(space.fixed["l2"], float)


def test_numbers_inside_domains_are_numbers_too(load: Load) -> None:
    space = load("lr: {loguniform: [1e-4, 5e-2]}\nkl_scale: {choice: [0, 1e-2]}\n")

    assert space.searched == {"lr": LogUniform(1e-4, 5e-2), "kl_scale": Choice((0.0, 0.01))}


def test_a_choice_may_mix_types(load: Load) -> None:
    assert load("cmp_layer: {choice: [half, -1, 6]}\n").searched["cmp_layer"] == Choice(("half", -1, 6))


def test_words_that_yaml_1_1_reads_as_something_else_stay_texts(load: Load) -> None:
    assert load("exp_name: 2024-01-31\n").name == "2024-01-31"
    assert load("exp_name: on\n").name == "on"


def test_searched_settings_keep_the_order_of_the_file(load: Load) -> None:
    text = "cmp_len: {choice: [10, 20]}\nlr: {uniform: [0.1, 0.2]}\nn_cmps: {int: [1, 2]}\n"

    assert list(load(text).searched) == ["cmp_len", "lr", "n_cmps"]


def test_the_file_names_the_experiment_unless_it_says_otherwise(load: Load) -> None:
    assert load("", name="my space.yaml").name == "my-space"
    assert load("exp_name: other\n").name == "other"


def test_sections_may_be_nested_empty_or_dotted(load: Load) -> None:
    assert load("lr: {uniform: [1, 2]}\nsearch:\n  num_samples: 3\n").search.num_samples == 3
    assert load("lr: {uniform: [1, 2]}\nsearch.num_samples: 3\n").search.num_samples == 3
    assert load("search:\n").search == SearchSettings(num_samples=1)


def test_set_replaces_values_domains_and_section_settings(load: Load) -> None:
    space = load(
        "lr: 0.1\nn_cmps: {int: [1, 4]}\nsearch: {num_samples: 9}\n",
        "lr={loguniform: [1e-4, 1e-2]}",
        "n_cmps=2",
        "search.num_samples=4",
        "resources.gpus_per_worker=0.5",
        "grad_clip=",
    )

    assert space.searched == {"lr": LogUniform(1e-4, 1e-2)}
    assert (space.fixed["n_cmps"], space.search.num_samples, space.resources.gpus_per_worker) == (2, 4, 0.5)
    assert space.fixed["grad_clip"] is None


def test_of_two_overrides_of_one_setting_the_last_counts(load: Load) -> None:
    assert load("", "lr=0.1", "lr=0.2").fixed["lr"] == 0.2


def test_an_override_puts_a_wrong_value_of_the_file_right(load: Load) -> None:
    assert load("lr: fast\n", "lr=0.1").fixed["lr"] == 0.1


def test_an_override_replaces_the_old_spelling_in_the_file(load: Load) -> None:
    assert load("rmb_rask: true\n", "rmb_task=false").fixed["rmb_task"] is False
    assert load("rmb_task: true\n", "rmb_rask=false").fixed["rmb_task"] is False


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("n_cmp: 3", "n_cmp: unknown setting; did you mean n_cmps?"),
        ("N_CMPS: 3", "N_CMPS: unknown setting; did you mean n_cmps?"),
        ("xyzzy: 3", "xyzzy: unknown setting; --help lists all"),
        ("num_samples: 3", "num_samples: belongs in a section; write search: {num_samples: 3}"),
        ("num_sample: 3", "num_sample: unknown setting; did you mean search.num_samples?"),
        ("search: {lr: 3}", "search.lr: belongs beside the section search, not in it"),
        ("search: {num_sampels: 3}", "search.num_sampels: unknown setting; did you mean search.num_samples?"),
        ("search: 3", "search: 3 is not a section; write its settings below it, such as num_samples"),
        ("lr: fast", 'lr: "fast" is not a number above 0'),
        ("lr: '5e-4'", 'lr: "5e-4" is a text; write 0.0005 without quotes'),
        ("lr: 0", "lr: 0 is not above 0; use a number above 0"),
        ("lr: .nan", "lr: nan is not a finite number; use a number above 0"),
        ("lr: true", "lr: true is not a number above 0"),
        ("lr: null", "lr: null is not allowed; use a number above 0"),
        ("lr: [1e-3, 1e-2]", "lr: [0.001, 0.01] is a list; to search over its values write {choice: [0.001, 0.01]}"),
        ("n_cmps: 2.5", "n_cmps: 2.5 is not a whole number; use a whole number of at least 1"),
        ("n_cmps: 0", "n_cmps: 0 is below 1; use a whole number of at least 1"),
        ("cmp_layer: 0", 'cmp_layer: 0 is not allowed; use a whole number other than 0 or "half"'),
        ("cmp_layer: hafl", 'cmp_layer: "hafl" is not a whole number other than 0 or "half"; did you mean half?'),
        ("memory: kvs", 'memory: "kvs" is not one of "hidden", "kv", "pooled"; did you mean kv?'),
        ("rmb_task: yes", 'rmb_task: "yes" is not true or false; write true without quotes'),
        ("rmb_task: 1", "rmb_task: 1 is not true or false"),
        ("exp_name: 5", "exp_name: 5 is not a text; put it in quotes"),
        ("dataset_config: ' '", 'dataset_config: " " is empty; use a text or null'),
        ("search: {reduction_factor: 1}", "search.reduction_factor: 1 is below 2; use a whole number of at least 2"),
        ("n_cmps: {int: [0, 8]}", "n_cmps: 0 is below 1; use a whole number of at least 1; it is in {int: [0, 8]}"),
        ("n_cmps: {uniform: [1, 8]}", "n_cmps: {uniform: [1, 8]} has values that are not whole; use {int: [1, 8]}"),
        (
            "n_cmps: {loguniform: [1, 8]}",
            "n_cmps: {loguniform: [1, 8]} has values that are not whole; use {logint: [1, 8]}",
        ),
        (
            "cmp_layer: {int: [-2, 4]}",
            'cmp_layer: 0 is not allowed; use a whole number other than 0 or "half"; it is in {int: [-2, 4]}',
        ),
        (
            "rmb_task: {int: [0, 1]}",
            "rmb_task: {int: [0, 1]} is a range of numbers; use true or false, or {choice: [...]} of these",
        ),
        ("lr: {choice: [[1], 2]}", "lr: {choice: [[1], 2]} has [1] as a choice; use single values"),
        (
            "dataset: {choice: [glue, openwebtext]}",
            'dataset: {choice: ["glue", "openwebtext"]} cannot be searched: losses on different texts or tokens '
            "cannot be compared; use one space file for each",
        ),
        (
            "seq_len: {choice: [10, 40]}",
            "seq_len: {choice: [10, 40]} cannot be searched: losses over more or fewer target tokens cannot be "
            "compared; use one space file for each",
        ),
        (
            "search: {seed: {int: [0, 3]}}",
            "search.seed: {int: [0, 3]} is a domain, but the search section has fixed values only",
        ),
        ("1: 2", "1 is not the name of a setting"),
    ],
)
def test_each_mistake_has_its_message_and_line(problems: Problems, line: str, message: str) -> None:
    text = f"model_string: gpt2\n\n{line}\n" + ("" if line.startswith("dataset:") else "dataset: openwebtext\n")

    assert problems(text, whole=True) == [f"x.yaml:3  {message}"]


def test_the_line_of_a_setting_in_a_section_is_its_own(problems: Problems) -> None:
    text = "search:\n  # a comment\n  num_samples: 0\n"

    assert problems(text) == ["x.yaml:5  search.num_samples: 0 is below 1; use a whole number of at least 1"]


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(problems: Problems) -> None:
    text = "n_cmp: 3\nlr: fast\nbatch_size: 30\nresources: {workers: 4}\nmemory: kvs\n"

    found = problems(text, "seed=-1")

    assert [problem.split()[0] for problem in found] == ["x.yaml:3", "x.yaml:4", "x.yaml:5", "x.yaml:7", "--set"]


def test_what_meets_a_broken_setting_is_not_judged_by_its_default(problems: Problems) -> None:
    assert len(problems("n_cmps: 500\ncmp_len: long\n")) == 1


def test_missing_settings_say_what_they_are(problems: Problems) -> None:
    assert problems("lr: 0.1\n", whole=True) == [
        "x.yaml  model_string: missing; it is the pretrained causal LM: hub id (with @revision), local folder, "
        "GGUF file, or built-in pydoc",
        "x.yaml  dataset: missing; it is openwebtext, glue, pydoc, a hub data set (with @revision), or local files",
    ]


def test_a_setting_written_twice_is_a_mistake(problems: Problems) -> None:
    assert problems("lr: 0.1\nn_cmps: 2\nlr: 0.2\n") == ["x.yaml:5  lr: written twice, first on line 3; keep one"]
    assert problems("search:\n  seed: 1\n  seed: 2\n") == [
        "x.yaml:5  search.seed: written twice, first on line 4; keep one"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml  the file is empty; it needs model_string and dataset at least"),
        ("# nothing\n", "x.yaml  the file is empty; it needs model_string and dataset at least"),
        ("- a\n- b\n", "x.yaml:1  not a space file: write one `setting: value` on each line"),
        ("lr: 0.1\nn_cmps 3\nl2: 0\n", "x.yaml:3  not valid YAML: could not find expected ':', column 1"),
        ("lr: [1, 2\n", "x.yaml:2  not valid YAML: expected ',' or ']', but got '<stream end>', column 1"),
        ("search:\n\tseed: 1\n", "x.yaml:2  not valid YAML: a tab; indent with spaces"),
        ("lr: !!python/object:os.system x\n", "x.yaml:1  not valid YAML: could not determine a constructor"),
    ],
)
def test_a_text_that_is_no_space_file_is_refused(problems: Problems, text: str, message: str) -> None:
    found = problems(text, whole=True)

    assert len(found) == 1
    assert found[0].startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("n_cmp=3", "--set n_cmp=3  n_cmp: unknown setting; did you mean n_cmps?"),
        ("lr=fast", '--set lr=fast  lr: "fast" is not a number above 0'),
        ("lr", "--set lr  write --set KEY=VALUE, such as --set n_epochs=3"),
        ("=3", "--set =3  write --set KEY=VALUE, such as --set n_epochs=3"),
        ("lr=[1", "--set lr=[1  not valid YAML: expected ',' or ']', but got '<stream end>', column 3"),
        ("search=3", "--set search=3  search: is a section; set one of its settings, such as search.num_samples=..."),
    ],
)
def test_a_wrong_override_is_named_as_it_was_typed(problems: Problems, override: str, message: str) -> None:
    assert problems("", override) == [message]


def test_a_missing_file_suggests_a_near_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("")

    with pytest.raises(SpaceError, match=r"mien\.yaml  no such file; did you mean .*mine\.yaml\?"):
        load_space(tmp_path / "mien.yaml")
    with pytest.raises(SpaceError, match=r"no such file; did you mean .*spaces/demo\.yaml\?"):
        load_space(tmp_path / "demo.yaml")
    with pytest.raises(SpaceError, match=r"zzzzzz  no such file$"):
        load_space(tmp_path / "zzzzzz")


def test_a_folder_or_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("")
    (tmp_path / "weights.bin").write_bytes(b"\xff\xfe\x00\xd8")

    with pytest.raises(SpaceError, match=r"is a folder; its space is .*space\.yaml"):
        load_space(tmp_path)
    with pytest.raises(SpaceError, match="is not a text file in UTF-8"):
        load_space(tmp_path / "weights.bin")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel_string: gpt2\ndataset: openwebtext\n")

    assert load_space(path).fixed["model_string"] == "gpt2"


def test_an_int_domain_of_a_real_setting_samples_floats_for_the_trial(load: Load) -> None:
    space = load("proj_hid_mult: {int: [1, 4]}\n")

    assert space.searched["proj_hid_mult"] == Int(1, 4)
    assert isinstance(space.trial_settings({"proj_hid_mult": 2}).proj_hid_mult, float)


@pytest.mark.parametrize(
    ("searched", "objective"),
    [
        ("lr: {uniform: [0.1, 0.2]}", "loss"),
        ("n_cmps: {int: [1, 4]}", "front"),
        ("keep_len: {choice: [0, 4]}", "front"),
        ("piece_len: {choice: [20, 50]}", "front"),
        ("n_cmps: {int: [1, 4]}\nsearch: {objective: loss}", "loss"),
        ("lr: {uniform: [0.1, 0.2]}\nsearch: {objective: front}", "front"),
    ],
)
def test_a_front_is_searched_where_trials_cost_differently_unless_said_otherwise(
    load: Load, searched: str, objective: str
) -> None:
    space = load(searched + "\n")

    assert space.search.objective == objective
    assert Space.from_dict(space.to_dict()).search.objective == objective


def test_settings_to_try_first_are_parsed_by_their_rules(load: Load) -> None:
    space = load("lr: {loguniform: [1e-4, 1e-2]}\nn_cmps: {int: [1, 4]}\nsearch: {first: [{lr: 1e-3, n_cmps: 2.0}]}\n")

    assert space.search.first == ({"lr": 1e-3, "n_cmps": 2},)
    assert type(space.search.first[0]["n_cmps"]) is int
    assert Space.from_dict(space.to_dict()) == space
    assert load("lr: {uniform: [0.1, 0.2]}\nsearch: {first: {lr: 0.1}}\n").search.first == ({"lr": 0.1},)


def test_searches_to_learn_from_are_a_text_or_several(load: Load) -> None:
    assert load("search: {learn_from: results/old}\n").search.learn_from == ("results/old",)
    assert load("search: {learn_from: [a, b]}\n").search.learn_from == ("a", "b")


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("[{lr: 1.0}]", "search.first: {lr: 1}: lr: 1 is outside {uniform: [0.1, 0.2]}"),
        ("[{lr: fast}]", 'search.first: {lr: "fast"}: lr: "fast" is not a number above 0'),
        (
            "[{n_cmps: 4}]",
            "search.first: {n_cmps: 4}: n_cmps: is not searched but fixed at 4; leave it out, or search it",
        ),
        ("[{lrr: 0.1}]", "search.first: {lrr: 0.1}: lrr: unknown setting; did you mean lr?"),
        ("[3]", "search.first: 3 is not a list such as [{lr: 0.001}]"),
        ("[{}]", "search.first: {} is not a list such as [{lr: 0.001}]"),
    ],
)
def test_what_cannot_be_tried_first_is_said(problems: Problems, first: str, message: str) -> None:
    found = problems(f"lr: {{uniform: [0.1, 0.2]}}\nsearch: {{first: {first}}}\n")

    assert any(message in problem for problem in found), found
