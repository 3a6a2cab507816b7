"""Files as users of the original code have them."""

import json
from collections.abc import Callable

import pytest

from cmp.space.space import Space

Load = Callable[..., Space]
Problems = Callable[..., list[str]]

# The keys and the style of a published file of the original code, values shortened.
ORIGINAL = {
    "exp_name": "gpt2_kl",
    "save_root": "results",
    "data_cache": "/data/.cache",
    "model_string": "gpt2",
    "_model_string": "bigscience/bloomz-560m",
    "test_model_str": None,
    "multi_gpu": False,
    "model_parallel": True,
    "torch_dtype": "float32",
    "seed": 123456,
    "dataset": "openwebtext",
    "abbrev_len": 1000000,
    "n_data_procs": 4,
    "gen_targs": False,
    "gen_ids": False,
    "data_batch_size": 64,
    "max_val_loops": 500,
    "n_train_loops": 10000,
    "checkpt_mod": None,
    "rmb_rask": False,
    "rmb_only": False,
    "csl_task": False,
    "csl_scale": 1,
    "train_embs": False,
    "train_lmhead": False,
    "n_epochs": 30,
    "batch_size": 16,
    "val_batch_size": 50,
    "lr": 5e-4,
    "l2": 0,
    "n_grad_loops": 4,
    "grad_clip": 0,
    "grad_scaling": False,
    "kl_scale": 1e-2,
    "n_cmps": 1,
    "proj_cmpr": True,
    "proj_hid_mult": 0,
    "cmp_len": 10,
    "seq_len": 20,
    "seq_overlap": 0,
    "sep_cmpr": False,
    "cmp_layer": -2,
    "patience": 5,
    "_alternatives": ["gpt2", "EleutherAI/gpt-j-6B"],
}


@pytest.mark.parametrize("indent", [None, 4, "\t"], ids=["one line", "spaces", "tabs"])
def test_an_original_file_loads_with_its_meaning(load: Load, indent: int | str | None) -> None:
    settings = load(json.dumps(ORIGINAL, indent=indent), name="hyps.json", whole=True).trial_settings({})

    assert (settings.exp_name, settings.lr, settings.cmp_layer, settings.n_grad_loops) == ("gpt2_kl", 5e-4, -2, 4)
    assert settings.grad_clip is None
    assert settings.proj_hid_mult is None
    assert (settings.lr_schedule, settings.patience) == ("plateau", 5)


def test_every_key_that_has_no_effect_is_named_in_a_note(load: Load) -> None:
    notes = load(json.dumps(ORIGINAL, indent=1), name="hyps.json", whole=True).notes

    named = {note.split("  ")[1].split(":")[0] for note in notes}
    silent = {"gen_targs", "gen_ids", "csl_task", "csl_scale", "train_embs", "train_lmhead", "grad_scaling"}
    assert named == silent | {
        "data_cache",
        "data_batch_size",
        "seq_overlap",
        "_model_string",
        "_alternatives",
        "test_model_str",
        "rmb_rask",
        "grad_clip",
        "proj_hid_mult",
        "patience",
    }


def test_the_misspelt_rmb_rask_is_rmb_task(load: Load) -> None:
    space = load("rmb_rask: true\n")

    assert space.fixed["rmb_task"] is True
    assert [note.split("  ")[1] for note in space.notes] == ["rmb_rask: is read as rmb_task"]


def test_both_spellings_at_once_are_a_mistake(problems: Problems) -> None:
    assert problems("rmb_task: true\nrmb_rask: false\n") == [
        "x.yaml:4  rmb_rask: is rmb_task, which is there already; keep one"
    ]


@pytest.mark.parametrize(
    ("line", "start"),
    [
        ("gen_targs: true", "gen_targs: true is a setting of the original code that is not supported; targets are"),
        ("train_embs: true", "train_embs: true is a setting of the original code that is not supported; the backbone"),
        ("seq_overlap: 5", "seq_overlap: 5 is a setting of the original code that is not supported; context and"),
        ("n_gpus: 4", "n_gpus: 4 is a setting of the original code that is not supported; write resources: {workers"),
        ("csl_task: true", "csl_task: true is a setting of the original code that is not supported; the backbone"),
        (
            "combos: {kl_scale: [1, 2]}",
            "combos: a grid of the original code; write each setting with its values as a domain, such as kl_scale: "
            "{choice: [1, 2]}",
        ),
        ("cmp_layer: output", 'cmp_layer: "output" is not a whole number other than 0 or "half"'),
    ],
)
def test_what_cannot_be_honoured_is_refused_with_what_to_do(problems: Problems, line: str, start: str) -> None:
    found = problems(line + "\n")

    assert len(found) == 1
    assert found[0].startswith(f"x.yaml:3  {start}")


@pytest.mark.parametrize(
    ("written", "name", "value"),
    [
        ("cmp_layer: null", "cmp_layer", -1),
        ("cmp_layer: middle", "cmp_layer", "half"),
        ("abbrev_len: 0", "abbrev_len", None),
        ("grad_clip: 0", "grad_clip", None),
    ],
)
def test_old_spellings_of_off_are_translated_with_a_note(load: Load, written: str, name: str, value: object) -> None:
    space = load(written + "\n")

    assert space.fixed[name] == value
    assert len(space.notes) == 1


def test_mistakes_in_a_json_file_have_lines(problems: Problems) -> None:
    text = '{\n  "model_string": "gpt2",\n  "dataset": "openwebtext",\n  "n_cmp": 3\n}\n'

    assert problems(text, name="h.json", whole=True) == ["h.json:4  n_cmp: unknown setting; did you mean n_cmps?"]


def test_broken_json_names_line_and_column(problems: Problems) -> None:
    text = '{\n  "model_string": "gpt2"\n  "dataset": "openwebtext"\n}\n'

    assert problems(text, name="h.json", whole=True) == ["h.json:3  not valid JSON: Expecting ',' delimiter, column 3"]


def test_a_json_file_may_hold_domains_and_sections(load: Load) -> None:
    text = (
        '{"model_string": "gpt2", "dataset": "glue", "lr": {"loguniform": [1e-4, 0.01]}, "search": {"num_samples": 3}}'
    )

    space = load(text, name="h.json", whole=True)

    assert (list(space.searched), space.search.num_samples) == (["lr"], 3)
