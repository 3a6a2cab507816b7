"""Hyperparameter files of the original research code (grantsrb/ctx_cmp), read without surprises.

Keys that were renamed are translated, values with an old spelling of "off" too, each with a note. Keys for what this
program does not do are harmless when they are off (a note) and an error when they are on: nothing is ignored silently.
"""

from dataclasses import dataclass
from typing import Any

from cmp.space.errors import Problem
from cmp.space.nodes import Entry
from cmp.space.rules import show

RENAMED = {"rmb_rask": "rmb_task", "test_model_str": "testing"}

_OLD_VALUES: dict[tuple[str, Any], tuple[Any, str]] = {
    ("grad_clip", 0): (None, "no clipping"),
    ("proj_hid_mult", 0): (None, "a linear projection"),
    ("abbrev_len", 0): (None, "all documents"),
    ("cmp_layer", None): (-1, "the last layer"),
    ("cmp_layer", "middle"): ("half", "the middle layer"),
}


@dataclass(frozen=True)
class Retired:
    """A key of the original code that has no counterpart.

    Args:
        off: its values that change nothing here; None when no value does.
        instead: what this program does, or what to write.
    """

    off: tuple[Any, ...] | None
    instead: str


_OFF = (False, None, 0)
RETIRED = {
    "gen_targs": Retired(_OFF, "targets are always the text; kl_scale trains towards the full-context model"),
    "gen_ids": Retired(_OFF, "targets are always the text; kl_scale trains towards the full-context model"),
    "csl_task": Retired(_OFF, "the backbone is frozen, so plain language modelling has nothing to train"),
    "csl_scale": Retired(None, "the backbone is frozen, so plain language modelling has nothing to train"),
    "train_embs": Retired(_OFF, "the backbone is frozen; lora_rank adds trained weights"),
    "train_lmhead": Retired(_OFF, "the backbone is frozen; lora_rank adds trained weights"),
    "grad_scaling": Retired(_OFF, "gradients are not rescaled; grad_clip limits them"),
    "seq_overlap": Retired(_OFF, "context and target do not overlap, so that every trial predicts the same tokens"),
    "val_mod": Retired((1, None), "every epoch is validated; n_train_loops sets how long an epoch is"),
    "save": Retired((True, None), "every epoch is saved"),
    "n_gpus": Retired((1, None), "write resources: {workers: N}, with one GPU each"),
    "data_cache": Retired(None, "the hub's downloads are cached where the environment's HF_HOME says"),
    "data_batch_size": Retired(None, "tokenizing chooses its own batches"),
    "exp_num": Retired(None, "trials are numbered by the search"),
    "save_folder": Retired(None, "results go to save_root/exp_name"),
    "rank": Retired(None, "workers number themselves"),
    "device_map": Retired(None, "model_parallel spreads the backbone"),
    "pad_token": Retired(None, "padding is masked, whatever its token"),
}
_ANY_VALUE_IS_HARMLESS = {name for name, retired in RETIRED.items() if retired.off is None}


def translate(entries: dict[str, Entry]) -> tuple[dict[str, Entry], list[str], list[Problem]]:
    """Entries in today's words, notes on what was translated or has no effect, and keys that cannot be honoured."""
    today: dict[str, Entry] = {}
    notes: list[str] = []
    problems: list[Problem] = []
    for key, entry in entries.items():
        name = RENAMED.get(key, key)
        if key.startswith("_"):
            notes.append(_note(entry, key, "begins with _, so it is a comment"))
        elif key in RETIRED:
            _retire(key, entry, notes, problems)
        elif key == "combos":
            problems.append(_combos_problem(entry))
        elif name in today:
            problems.append(Problem(entry.file, entry.line, key, f"is {name}, which is there already; keep one"))
        else:
            if name != key:
                notes.append(_note(entry, key, f"is read as {name}"))
            today[name] = _with_todays_value(name, entry, notes)
    return today, notes, problems


def imply_plateau(entries: dict[str, Entry], notes: list[str]) -> None:
    """The original code reduced lr on plateaus, always: `patience` in its files means that schedule."""
    if "patience" in entries and "lr_schedule" not in entries:
        patience = entries["patience"]
        entries["lr_schedule"] = Entry("plateau", patience.file, patience.line)
        notes.append(_note(patience, "patience", "without lr_schedule in a JSON file means lr_schedule: plateau"))


def _retire(key: str, entry: Entry, notes: list[str], problems: list[Problem]) -> None:
    retired = RETIRED[key]
    if key in _ANY_VALUE_IS_HARMLESS or _is_one_of(entry.value, retired.off or ()):
        notes.append(_note(entry, key, f"has no effect here: {retired.instead}"))
    else:
        message = f"{show(entry.value)} is a setting of the original code that is not supported; {retired.instead}"
        problems.append(Problem(entry.file, entry.line, key, message))


def _is_one_of(value: Any, others: tuple[Any, ...]) -> bool:
    return not isinstance(value, list | dict | str) and value in others


def _with_todays_value(name: str, entry: Entry, notes: list[str]) -> Entry:
    if isinstance(entry.value, list | dict | bool) or (name, entry.value) not in _OLD_VALUES:
        return entry
    value, meaning = _OLD_VALUES[name, entry.value]
    notes.append(_note(entry, name, f"{show(entry.value)} is read as {show(value)}, {meaning}"))
    return Entry(value, entry.file, entry.line)


def _combos_problem(entry: Entry) -> Problem:
    combos = entry.value if isinstance(entry.value, dict) else {}
    example = next((f"{show(key)[1:-1]}: {{choice: {show(values)}}}" for key, values in combos.items()), "")
    hint = f", such as {example}" if example else ""
    message = f"a grid of the original code; write each setting with its values as a domain{hint}"
    return Problem(entry.file, entry.line, "combos", message)


def _note(entry: Entry, key: str, text: str) -> str:
    return str(Problem(entry.file, entry.line, key, text))
