"""Rules that show only when settings meet: each other, the model, the machine, the disk.

A check looks at every value that could be sampled, so that no trial fails for a reason that was there from the
start. Each says which settings it involves: when one of them is broken already, the check is not run.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from cmp.objects import is_url, url_mistake
from cmp.space.errors import Problem
from cmp.space.layers import ModelFacts, resolve_layer
from cmp.space.rules import show
from cmp.space.settings import RULES
from cmp.space.space import Space

_Finding = tuple[str, str]
"""A setting and a message."""

_ACTS_WITH: dict[str, dict[str, tuple[Any, ...]]] = {
    "cmp_len": {"rmb_only": (False,)},
    "recursive": {"memory": ("hidden", "kv")},
    "cmp_layer": {"memory": ("hidden", "pooled")},
    "lora_rank": {"memory": ("hidden", "kv")},
    "sep_cmpr": {"memory": ("hidden", "kv")},
    "proj_cmpr": {"memory": ("hidden", "pooled")},
    "proj_hid_mult": {"proj_cmpr": (True,), "memory": ("hidden", "pooled")},
    "rmb_task": {"rmb_only": (False,)},
    "rmb_scale": {"rmb_task": (True,), "rmb_only": (False,)},
    "patience": {"lr_schedule": ("plateau",)},
}
"""A setting has an effect only where each of these others has one of these values."""

_DATA_FILE = re.compile(r"[*?\[]|^[.~]?/|^\.\./|\.(txt|jsonl?|parquet|csv|gz|zst|gguf)$")
_HUB_GGUF = re.compile(r"[\w-][\w.-]*/[\w.-]+/.+\.gguf")


def check_space(space: Space, broken: AbstractSet[str] = frozenset()) -> list[Problem]:
    """Problems between settings that need neither model nor machine; `broken` names settings that did not parse."""
    found = [
        dataclasses.replace(space.problem(_written(space, setting, involved), message), setting=setting)
        for involved, check in _CHECKS
        if not broken & set(involved)
        for setting, message in check(space)
    ]
    return found + _searched_without_effect(space, broken)


def _written(space: Space, setting: str, involved: tuple[str, ...]) -> str:
    """The setting itself if it is in the file, else another involved one: a message needs a line to point at."""
    return setting if setting in space.sources else next((name for name in involved if name in space.sources), setting)


def _more_positions_than_context(space: Space) -> Iterator[_Finding]:
    context = "seq_len" if space.fixed["rmb_only"] else "cmp_len"
    n_cmps, keep_len, tokens = space.largest("n_cmps"), space.largest("keep_len"), space.smallest(context)
    if n_cmps + keep_len > tokens:
        both = f"{_of(space, 'n_cmps', n_cmps)}" + (
            f" and keep_len {_of(space, 'keep_len', keep_len)}" if keep_len else ""
        )
        rule = f"are above {context}" if keep_len else f"is above {context}"
        message = f"{both} {rule} {_of(space, context, tokens)}; a memory must not be longer than its context"
        yield "n_cmps", f"{message}, use at most {tokens}" + (" together" if keep_len else "")
    pieces = [length for length in space.values("piece_len") if length is not None]
    if pieces and n_cmps > min(pieces):
        both = f"{_of(space, 'n_cmps', n_cmps)} is above piece_len {_of(space, 'piece_len', min(pieces))}"
        yield "n_cmps", f"{both}; a memory must not be longer than its piece, use at most {min(pieces)}"


def _recursive_without_pieces(space: Space) -> Iterator[_Finding]:
    if True in space.values("recursive") and None in space.values("piece_len"):
        yield "recursive", "true, but without piece_len there is one piece, which has none before it; set piece_len"


def _kept_with_reconstruction_only(space: Space) -> Iterator[_Finding]:
    if space.fixed["rmb_only"] and space.largest("keep_len"):
        yield "keep_len", f"{space.largest('keep_len')} with rmb_only, which reconstructs all of a text; use 0"


def _half_named_rows(space: Space) -> Iterator[_Finding]:
    context, prompt, answer, text = (
        space.fixed[name] for name in ("context_column", "prompt_column", "answer_column", "text_column")
    )
    if (context is None) != (answer is None):
        named, missing = ("answer_column", "context_column") if context is None else ("context_column", "answer_column")
        yield named, f"{show(space.fixed[named])} without {missing}; rows need both"
    elif prompt is not None and context is None:
        yield "prompt_column", f"{show(prompt)} without context_column and answer_column; name all three"
    if text is not None and context is not None:
        yield "text_column", f"{show(text)} beside context_column; use text_column for texts, the others for rows"


def _template_without_prompt(space: Space) -> Iterator[_Finding]:
    template = space.fixed["prompt_template"]
    if template is not None and space.fixed["prompt_column"] is not None and "{prompt}" not in template:
        yield "prompt_template", f"{show(template)} has no place for the prompt; write {{prompt}} into it"


def _one_answer_choice(space: Space) -> Iterator[_Finding]:
    words = [word.strip() for word in (space.fixed["answer_choices"] or "").split(",")]
    if space.fixed["answer_choices"] is not None and (len(set(words)) < max(2, len(words)) or "" in words):
        yield (
            "answer_choices",
            f'{show(space.fixed["answer_choices"])} is no choice; write different words with commas, such as "no, yes"',
        )


def _cut_by_the_search(space: Space) -> Iterator[_Finding]:
    if space.fixed["cut"] == "error" and space.smallest("cmp_len") != space.largest("cmp_len"):
        yield "cut", "error, but trials with a smaller cmp_len cut contexts; fix cmp_len, or use start or end"


def _revision_of_no_hub_model(space: Space) -> Iterator[_Finding]:
    model, revision = space.fixed["model_string"], space.fixed["revision"]
    if revision is None or not isinstance(model, str):
        return
    name, _, pinned = model.partition("@")
    if pinned != revision:
        yield "revision", f"{show(revision)}, but model_string says {show(pinned)}; keep one of them"
    elif name.startswith("pydoc") or Path(name).expanduser().exists():
        yield "revision", f"{show(revision)}, but {show(name)} is no model of the hub; remove it"


def _uneven_batches(space: Space) -> Iterator[_Finding]:
    workers = space.resources.workers
    if workers is not None:
        yield from _uneven(space, workers)


def _uneven(space: Space, workers: int) -> Iterator[_Finding]:
    uneven = next((size for size in space.values("batch_size") if size % workers), None)
    if uneven is not None:
        near = max(1, round(uneven / workers)) * workers
        hint = (
            f"{{choice: [{near}, {2 * near}]}}, all multiples of {workers}" if "batch_size" in space.searched else near
        )
        yield "batch_size", f"{_of(space, 'batch_size', uneven)} cannot be split over {workers} workers; use {hint}"


def _grace_period_too_long(space: Space) -> Iterator[_Finding]:
    grace, epochs = space.search.grace_period, space.smallest("n_epochs")
    if grace > epochs:
        message = f"{grace} is above n_epochs {_of(space, 'n_epochs', epochs)}; use at most {epochs}"
        yield "search.grace_period", message


def _no_optimizer_step(space: Space) -> Iterator[_Finding]:
    loops = space.smallest("n_train_loops") * space.smallest("n_epochs")
    n_grad_loops = space.largest("n_grad_loops")
    if n_grad_loops > loops:
        message = f"{_of(space, 'n_grad_loops', n_grad_loops)} is above the {loops} loops of a trial, which would never"
        yield "n_grad_loops", f"{message} take a step; use at most {loops}"


def _gpu_shares(space: Space) -> Iterator[_Finding]:
    gpus = space.resources.gpus_per_worker
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        yield (
            "resources.gpus_per_worker",
            f"{show(gpus)} is more than one GPU but not whole; use {int(gpus)} or a share",
        )
    workers = space.resources.workers or 1
    if gpus is not None and 0 < gpus < 1 and (workers > 1 or space.fixed["multi_gpu"]):
        who = f"resources.workers: {workers}" if workers > 1 else "multi_gpu"
        message = f"{show(gpus)} with {who} would put two workers on one GPU, which NCCL refuses; use 1, or one worker"
        yield "resources.gpus_per_worker", message
    if gpus == 0 and space.fixed["quantization"]:
        yield "quantization", f"{space.fixed['quantization']} needs GPUs, but resources.gpus_per_worker is 0"
    if gpus == 0 and space.fixed["multi_gpu"]:
        yield "multi_gpu", "true needs GPUs, but resources.gpus_per_worker is 0; remove one of the two"
    if space.fixed["multi_gpu"] and space.fixed["model_parallel"] and gpus is None:
        message = "true together with model_parallel: say how the GPUs are shared, with resources.gpus_per_worker: N"
        yield "multi_gpu", message


def _leaves_save_root(space: Space) -> Iterator[_Finding]:
    name = space.fixed["exp_name"]
    if re.fullmatch(r"\w[\w .+=,@-]*", name):
        return
    plain = re.sub(r"[^\w.+=,@-]+", "-", name).strip(".-") or "search"
    if re.search(r"[/\\]|^\.+$", name):
        yield (
            "exp_name",
            f"{show(name)} would write outside save_root; use a name without slashes, such as {show(plain)}",
        )
    else:
        yield "exp_name", f"{show(name)} is not a folder's name; use letters, digits, - and _, such as {show(plain)}"


_CHECKS: list[tuple[tuple[str, ...], Callable[[Space], Iterator[_Finding]]]] = [
    (("n_cmps", "cmp_len", "seq_len", "keep_len", "piece_len", "rmb_only"), _more_positions_than_context),
    (("recursive", "piece_len"), _recursive_without_pieces),
    (("keep_len", "rmb_only"), _kept_with_reconstruction_only),
    (("context_column", "prompt_column", "answer_column", "text_column"), _half_named_rows),
    (("prompt_template", "prompt_column"), _template_without_prompt),
    (("answer_choices",), _one_answer_choice),
    (("cut", "cmp_len"), _cut_by_the_search),
    (("model_string", "revision"), _revision_of_no_hub_model),
    (("batch_size", "resources.workers"), _uneven_batches),
    (("search.grace_period", "n_epochs"), _grace_period_too_long),
    (("n_grad_loops", "n_train_loops", "n_epochs"), _no_optimizer_step),
    (
        ("resources.gpus_per_worker", "resources.workers", "multi_gpu", "model_parallel", "quantization"),
        _gpu_shares,
    ),
    (("exp_name",), _leaves_save_root),
]


def _searched_without_effect(space: Space, broken: AbstractSet[str]) -> list[Problem]:
    problems = []
    for name in space.searched:
        why = None if broken & set(_ACTS_WITH.get(name, ())) else _why_no_effect(space, name)
        if why:
            problems.append(space.problem(name, f"is searched but has no effect {why}; remove it, or change that"))
    return problems


def _why_no_effect(space: Space, name: str) -> str | None:
    """Why no trial of the space would notice `name`; None when one would."""
    for other, values in _ACTS_WITH.get(name, {}).items():
        there = space.values(other)
        if not any(value in values for value in there):
            return f"with {other}: {show(there[0])}"
    return None


def find_notes(space: Space) -> list[str]:
    """What is worth saying though it is allowed."""
    notes = []
    for name in _ACTS_WITH:
        value = space.fixed.get(name)
        asked = name in space.sources and name in space.fixed and value not in (None, False, 0, RULES[name].default)
        if asked and (why := _why_no_effect(space, name)):
            notes.append(str(space.problem(name, f"{show(value)} has no effect {why}")))
    count = space.combinations()
    if space.searched and count is not None and count < space.search.num_samples:
        text = f"{space.search.num_samples}, but there are only {count} different trials; {count} are run"
        notes.append(str(space.problem("search.num_samples", text)))
    return notes


def check_paths(space: Space, broken: AbstractSet[str] = frozenset()) -> list[Problem]:
    """Problems with files and folders that can be seen without reading any data."""
    problems = []
    for name in ("save_root", "data_root"):
        folder = space.fixed[name]
        if name in broken or folder is None:
            continue
        if is_url(folder):
            mistake = url_mistake(folder) if name == "save_root" else "tokens are mapped into memory; name a folder"
            problems += [space.problem(name, mistake)] if mistake else []
        elif why := _why_not_writable(Path(folder).expanduser()):
            problems.append(space.problem(name, f"{show(folder)} {why}; name a folder that can be written"))
    for name in ("dataset", "model_string", "testing"):
        source = space.fixed[name]
        if name not in broken and isinstance(source, str) and _is_missing(source):
            problems.append(space.problem(name, f"{show(source)}: no such file or folder{_seen_from(source)}"))
    return problems


def _why_not_writable(folder: Path) -> str | None:
    existing = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if os.path.lexists(parent))
    if not existing.is_dir():
        return f"is not a folder ({existing} is a file)" if existing != folder.absolute() else "is a file"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"cannot be written ({existing} is read-only for you)"


def _is_missing(source: str) -> bool:
    """Whether a text that can only be a local path leads nowhere; globs are left to the reader of the data."""
    if not _DATA_FILE.search(source) or re.search(r"[*?\[]|://", source) or _HUB_GGUF.fullmatch(source):
        return False
    return not Path(source).expanduser().exists()


def _seen_from(source: str) -> str:
    return "" if Path(source).expanduser().is_absolute() else f" (looked in {Path.cwd()})"


def check_against_model(space: Space, facts: ModelFacts, prompt_len: int = 0) -> list[Problem]:
    """Problems that show only when the backbone's config is known: layers and positions.

    Args:
        space: the space.
        facts: of the backbone.
        prompt_len: tokens of the longest prompt, once the data are known.
    """
    model = space.fixed["model_string"]
    found = (*_layers_outside(space, facts, model), *_too_long(space, facts, model, prompt_len))
    return [space.problem(*one) for one in found]


def _layers_outside(space: Space, facts: ModelFacts, model: str) -> Iterator[_Finding]:
    for value in space.values("cmp_layer"):
        try:
            resolve_layer(value, facts.n_layers)
        except ValueError:
            n = facts.n_layers
            allowed = f'use {-n}..{n}, "half", or -1 for the last'
            yield "cmp_layer", f"{_of(space, 'cmp_layer', value)} is outside {model}'s {n} layers; {allowed}"
            return


def _too_long(space: Space, facts: ModelFacts, model: str, prompt: int) -> Iterator[_Finding]:
    limit = facts.max_positions
    if limit is None:
        return
    context_name = "seq_len" if space.fixed["rmb_only"] else "cmp_len"
    context, target, vectors = space.largest(context_name), space.largest("seq_len"), space.largest("n_cmps")
    separator = int(True in space.values("sep_cmpr"))
    after = f"{prompt} prompt + {target} target" if prompt else f"{target} target"
    lengths = {
        f"1 BOS + {context} context + {after}": 1 + context + prompt + target,
        f"1 BOS + {context} context + {separator + vectors} compression": 1 + context + separator + vectors,
    }
    if "kv" in space.values("memory"):  # the decoder's positions go on after the compression tokens
        # pieces that do not fill a context are counted as if they did
        filled = max([context, *(-(-context // length) * length for length in space.values("piece_len") if length)])
        before = 1 + filled + separator + vectors
        text = f"1 BOS + {filled} context + {separator + vectors} compression + 1 task + {after}"
        lengths[text] = before + 1 + prompt + target
        if True in space.values("rmb_task"):
            text = f"1 BOS + {filled} context + {separator + vectors} compression + 1 task + {context} reconstruction"
            lengths[text] = before + 1 + context
    text, longest = max(lengths.items(), key=lambda item: item[1])
    if longest > limit:
        message = f"{text} tokens are {longest}, above {model}'s {limit} positions; make it {longest - limit} shorter"
        message += ", or lower prompt_len" if prompt and "prompt" in text else ""
        yield context_name, message


def check_against_cluster(space: Space, gpus: float, cpus: float, workers: int | None = None) -> list[Problem]:
    """Problems that show only when the machines are known.

    Args:
        space: the space.
        gpus: GPUs of the whole cluster.
        cpus: CPU cores of the whole cluster.
        workers: of one trial, where the footprint is known already; else as if the cluster were one machine.
    """
    found = _beyond_cluster(space, gpus, cpus, space.resources.workers or workers)
    return [space.problem(setting, message) for setting, message in found]


def _beyond_cluster(space: Space, gpus: float, cpus: float, workers: int | None) -> Iterator[_Finding]:
    resources, multi_gpu = space.resources, space.fixed["multi_gpu"]
    if multi_gpu and gpus == 0:
        yield "multi_gpu", "true, but there is no GPU here; for workers on CPUs use resources.workers: N"
        return
    if space.fixed["quantization"] and gpus == 0:
        yield "quantization", f"{space.fixed['quantization']}, but there is no GPU here, and it saves nothing without"
        return
    if space.search.gpu_hours is not None and (gpus == 0 or resources.gpus_per_worker == 0):
        yield "search.gpu_hours", "trials run without a GPU here; use search.time_budget_seconds"
    workers = workers or (int(gpus) if multi_gpu else 1)
    gpus_each, cpus_each = resources.gpus_per_worker or 0, resources.cpus_per_worker or 0
    needs_gpus = workers * (1 if multi_gpu and resources.gpus_per_worker is None else gpus_each)
    if needs_gpus > gpus:
        setting = "resources.gpus_per_worker" if gpus_each else "resources.workers"
        yield setting, f"a trial asks for {show(float(needs_gpus))} GPUs, but there are {show(float(gpus))}; use fewer"
    if workers * max(cpus_each, 0.01) > cpus:
        setting = "resources.cpus_per_worker" if cpus_each else "resources.workers"
        yield (
            setting,
            f"a trial asks for {show(workers * cpus_each)} CPUs, but there are {show(float(cpus))}; use fewer",
        )
    if resources.workers is None:
        yield from _uneven(space, workers)


def _of(space: Space, name: str, value: Any) -> str:
    """A value, and the domain that it comes from where it is searched."""
    if name not in space.searched:
        return show(value)
    return f"{show(value)} (in {show(space.searched[name].to_plain())})"
