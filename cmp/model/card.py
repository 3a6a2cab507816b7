"""The README.md of a compressor's folder: what it is, what its numbers mean, how to use it. Called by `saving`."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from cmp.model.backbone import BackboneId
from cmp.space.hub_names import hub_data_set
from cmp.space.settings import TrialSettings

DEFINITIONS: dict[str, tuple[str, str]] = {
    "val_loss": ("nats per token", "cross-entropy of the held-out target tokens, the memory in the context's place"),
    "val_ppl": ("", "exp(val_loss)"),
    "no_context_loss": ("nats per token", "the backbone alone on the same target tokens: what a useless memory gives"),
    "full_context_loss": ("nats per token", "the backbone with the uncompressed context, on the same target tokens"),
    "recovered": (
        "",
        "(no_context_loss - val_loss) / (no_context_loss - full_context_loss): 0 = useless, 1 = as good as the text; "
        "adaptation to the kind of text counts in it",
    ),
    "positions": ("", "what the decoder reads in the context's place: vectors, and tokens that stay text"),
    "swapped_loss": (
        "nats per token",
        "val_loss after the memory of another document: what its content is worth lacks",
    ),
    "compression_ratio": ("", "context tokens per position"),
    "val_acc": ("", "share of target tokens that were the most likely one"),
    "val_top5": ("", "share of target tokens among the five most likely"),
    "val_rmb_loss": ("nats per token", "cross-entropy of the context itself, read back from the memory"),
    "val_rmb_acc": ("", "share of context tokens that were the most likely one, read back from the memory"),
    "train_loss": ("nats per token", "mean over the training targets of the last epoch"),
    "epoch": ("", "the epoch whose weights these are"),
    "loops": ("", "micro-batches trained on until then"),
    "tokens": ("", "tokens trained on until then, context and target"),
    "seconds": ("s", "training time until then"),
}
# Settings that say where files lay: nobody's business but theirs who trained it.
PLACES = ("save_root", "data_root")
FOLDER = '"this/folder"'
NUMBERS_NOTE = (
    "All losses are teacher-forced means over kept target tokens of the validation documents. These chose the epoch "
    "and the trial, so that its numbers flatter it."
)


def model_card(
    settings: TrialSettings,
    backbone: BackboneId,
    trial: int | None,
    metrics: Mapping[str, Any],
    window: Mapping[str, int],
    data: Mapping[str, Any],
    *,
    n_cmps: int | None = None,
    headline: str | None = None,
    tests: str | None = None,
) -> str:
    """The card as Markdown.

    Args:
        settings: of the trial.
        backbone: whose compressor it is.
        trial: as the next three, see `saving.Origin`.
        metrics: of the epoch of these weights, on validation documents.
        window: how documents were cut.
        data: what is known of them.
        n_cmps: vectors of each piece that are made unless asked otherwise, where these are not all.
        headline: what it is worth on documents that decided nothing; None where it was not scored there.
        tests: a section with those scores.
    """
    sections = [_heading(settings, backbone, trial, n_cmps), headline or _selected(metrics, n_cmps), _usage(settings)]
    sections += [tests or "", _numbers(metrics), _part(settings, metrics, n_cmps)]
    sections += [_backbone(settings, backbone), _data(settings, window, data), _settings(settings)]
    return "\n\n".join(section for section in sections if section) + "\n"


def hub_metadata(
    settings: TrialSettings,
    backbone: BackboneId,
    metrics: Mapping[str, Any],
    data: Mapping[str, Any],
    repository: str,
) -> str:
    """The head of a card on the hub, which makes it show base model, data set and loss; arguments as `model_card`'s."""
    from huggingface_hub import EvalResult, ModelCardData

    on_hub = data.get("revision") is not None
    data_set = hub_data_set(settings.dataset) if on_hub else settings.dataset.rstrip("/").rpartition("/")[2]
    found: dict[str, Any] = {"library_name": "cmp", "tags": ["context-compression", f"{settings.memory}-memory"]}
    if backbone.revision is not None:
        found |= {"base_model": backbone.name, "base_model_relation": "adapter"}
    if on_hub:
        found["datasets"] = [data_set]
    if metrics.get("val_loss") is not None:
        shown = {
            name: metrics[name] for name in ("val_loss", "no_context_loss", "full_context_loss") if name in metrics
        }
        found["model_name"] = repository.rpartition("/")[2]
        found["eval_results"] = [
            EvalResult(
                task_type="text-generation",
                dataset_type=data_set,
                dataset_name=data_set,
                dataset_revision=data.get("revision"),
                dataset_split="validation",
                metric_type=name,
                metric_name=f"{name} (nats per token)",
                metric_value=value,
            )
            for name, value in shown.items()
        ]
    return f"---\n{ModelCardData(**found).to_yaml()}\n---\n\n"


def without_metadata(card: str) -> str:
    """A card that came from the hub, without its head."""
    return card.split("\n---\n", 1)[1].lstrip("\n") if card.startswith("---\n") and "\n---\n" in card else card


def in_repository(card: str, repository: str) -> str:
    """A card as it stands beside the files on the hub."""
    lines = card.replace(FOLDER, json.dumps(repository)).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(tuple(f"| {place} |" for place in PLACES)))


def _heading(settings: TrialSettings, backbone: BackboneId, trial: int | None, n_cmps: int | None) -> str:
    origin = f", from trial {trial} of `{settings.exp_name}`" if trial is not None else ""
    count = (n_cmps or settings.n_cmps) * settings.n_pieces
    vectors = "1 memory vector" if count == 1 else f"{count} memory vectors"
    kept = ""
    if settings.keep_len:
        kept = f" and the last {'token' if settings.keep_len == 1 else f'{settings.keep_len} tokens'} as text"
    stand = "that stands in" if count == 1 and not kept else "that stand in"
    return (
        f"# A context compressor for {backbone.name}\n\n"
        f"{settings.context_len} context tokens become {vectors}{kept} {stand} for them "
        f"({settings.memory} memory){origin}.\n"
        "This folder holds the trained tensors only; the backbone's weights come from its own place."
    )


def _selected(metrics: Mapping[str, Any], n_cmps: int | None) -> str:
    """The numbers that it was selected on, called that, where there are no better ones."""
    loss, low, high = (metrics.get(name) for name in ("val_loss", "no_context_loss", "full_context_loss"))
    if loss is None or low is None or high is None:
        return ""
    loss = (metrics.get("nested") or {}).get(str(n_cmps), loss)
    return (
        f"On the validation documents that it was selected on it reaches {loss:.4f} nats per token, between {low:.4f} "
        f"without and {high:.4f} with the whole context. It was not scored on documents that decided nothing."
    )


def _part(settings: TrialSettings, metrics: Mapping[str, Any], n_cmps: int | None) -> str:
    if n_cmps is None or n_cmps == settings.n_cmps:
        return ""
    loss = (metrics.get("nested") or {}).get(str(n_cmps))
    known = "" if loss is None else f"; its val_loss is {loss:.4f}"
    return (
        f"## A part of the vectors\n\nThis copy makes the first {n_cmps} of each piece's {settings.n_cmps} vectors "
        f"unless asked for another number{known}. The numbers above are of all vectors where they are of validation."
    )


def _usage(settings: TrialSettings) -> str:
    lines = [
        "from cmp import Compressor",
        "",
        f"compressor = Compressor.from_pretrained({FOLDER})",
        'memory = compressor.compress("a long text ...")',
    ]
    if not settings.rmb_only:
        prompt = json.dumps((settings.prompt_template or "...").replace("{prompt}", "..."), ensure_ascii=False)
        lines += [
            f"print(compressor.generate(memory, prompt={prompt}, max_new_tokens={settings.seq_len}))",
            'print(compressor.loss(memory, "what follows"))  # nats per token',
        ]
    if settings.rmb_task or settings.rmb_only:
        lines.append("print(compressor.reconstruct(memory))")
    return "## Use\n\n```python\n" + "\n".join(lines) + "\n```"


def _numbers(metrics: Mapping[str, Any]) -> str:
    known = [name for name in DEFINITIONS if metrics.get(name) is not None]
    if not known:
        return ""
    rows = [f"| {name} | {_number(metrics[name])} | {_with_unit(*DEFINITIONS[name])} |" for name in known]
    return "\n".join(
        [
            "## Numbers that it was selected on",
            "",
            NUMBERS_NOTE,
            "",
            "| number | value | meaning |",
            "|---|---|---|",
            *rows,
        ]
    )


def _backbone(settings: TrialSettings, backbone: BackboneId) -> str:
    rows = [("name", backbone.name), ("revision", backbone.revision or "none (a local folder)")]
    rows += [("fingerprint of its weights", backbone.fingerprint), ("torch_dtype in training", settings.torch_dtype)]
    return _table("## Backbone", rows)


def _data(settings: TrialSettings, window: Mapping[str, int], data: Mapping[str, Any]) -> str:
    rows = [("dataset", settings.dataset)]
    rows += [
        (name.replace("_", " "), _count(value)) for name, value in (*data.items(), *window.items()) if value is not None
    ]
    return _table("## Data", rows)


def _settings(settings: TrialSettings) -> str:
    defaults = {field.name: field.default for field in dataclasses.fields(TrialSettings)}
    rows = [
        (name, f"{value} (default)" if value == defaults[name] else value)
        for name, value in dataclasses.asdict(settings).items()
        if name not in PLACES
    ]
    return _table("## Settings", rows)


def _table(heading: str, rows: list[tuple[str, Any]]) -> str:
    cells = [(name, str(value).replace("\n", "\\n")) for name, value in rows]
    return "\n".join(
        [heading, "", "| name | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)]
    )


def _number(value: float | None) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _count(value: Any) -> Any:
    return f"{value:,}" if isinstance(value, int) else value


def _with_unit(unit: str, meaning: str) -> str:
    return f"{meaning} ({unit})" if unit else meaning
