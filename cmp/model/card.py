"""The README.md of a compressor's folder: what it is, what its numbers mean, how to use it. Called by `saving`."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from cmp.model.backbone import BackboneId
from cmp.space.settings import TrialSettings

DEFINITIONS: dict[str, tuple[str, str]] = {
    "val_loss": ("nats per token", "cross-entropy of the held-out target tokens, the memory in the context's place"),
    "val_ppl": ("", "exp(val_loss)"),
    "no_context_loss": ("nats per token", "the backbone alone on the same target tokens: what a useless memory gives"),
    "full_context_loss": ("nats per token", "the backbone with the uncompressed context, on the same target tokens"),
    "recovered": (
        "",
        "(no_context_loss - val_loss) / (no_context_loss - full_context_loss): 0 = useless, 1 = as good as the text",
    ),
    "compression_ratio": ("", "context tokens per memory vector"),
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
NUMBERS_NOTE = "All losses are teacher-forced means over kept target tokens of the validation documents."


def model_card(
    settings: TrialSettings,
    backbone: BackboneId,
    trial: int | None,
    metrics: Mapping[str, float | None],
    window: Mapping[str, int],
    data: Mapping[str, Any],
) -> str:
    """The card as Markdown; see `saving.Origin` for the last four arguments."""
    sections = [_heading(settings, backbone, trial, metrics), _usage(settings), _numbers(metrics)]
    sections += [_backbone(settings, backbone), _data(settings, window, data), _settings(settings)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _heading(
    settings: TrialSettings, backbone: BackboneId, trial: int | None, metrics: Mapping[str, float | None]
) -> str:
    recovered = metrics.get("recovered")
    origin = f", from trial {trial} of `{settings.exp_name}`" if trial is not None else ""
    vectors = (
        "1 memory vector that stands in" if settings.n_cmps == 1 else f"{settings.n_cmps} memory vectors that stand in"
    )
    gained = f" It recovers {recovered:.3f} of what the uncompressed context is worth." if recovered is not None else ""
    return (
        f"# A context compressor for {backbone.name}\n\n"
        f"{settings.context_len} context tokens become {vectors} for them "
        f"({settings.memory} memory){origin}.{gained}\n"
        "This folder holds the trained tensors only; the backbone's weights come from its own place."
    )


def _usage(settings: TrialSettings) -> str:
    lines = [
        "from cmp import Compressor",
        "",
        'compressor = Compressor.from_pretrained("this/folder")',
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


def _numbers(metrics: Mapping[str, float | None]) -> str:
    known = [name for name in DEFINITIONS if metrics.get(name) is not None]
    if not known:
        return ""
    rows = [f"| {name} | {_number(metrics[name])} | {_with_unit(*DEFINITIONS[name])} |" for name in known]
    return "\n".join(["## Numbers", "", NUMBERS_NOTE, "", "| number | value | meaning |", "|---|---|---|", *rows])


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
