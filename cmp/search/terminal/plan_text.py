"""What a search would do, as lines of text: the words of `--dry-run`. Pure functions of a space, a plan and counts."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cmp.search.decide.extras import wants_control
from cmp.search.engine.footprint import Plan
from cmp.space.layers import ModelFacts
from cmp.space.rules import show
from cmp.space.settings import RULES
from cmp.space.space import Space

if TYPE_CHECKING:
    from cmp.train.data import DataSummary

_WIDTH_COLUMNS = 100


def describe_space(space: Space) -> list[str]:
    """What is searched, what was set, and the defaults, one paragraph each."""
    plain = space.to_dict()
    searched = [f"  {name}: {show(plain[name])}" for name in space.searched]
    names = [name for name in space.fixed if not _is_default(space, name)]
    defaults = [name for name in space.fixed if _is_default(space, name)]
    return [
        f"{space.name} ({space.path})",
        "",
        "Searched:" if searched else "Searched: nothing, so this is one trial",
        *searched,
        "Set:",
        *[f"  {name}: {show(space.fixed[name])}" for name in names],
        "Defaults:",
        *_wrapped(", ".join(f"{name}: {show(space.fixed[name])}" for name in defaults)),
        *[line for section in ("search", "resources") for line in _section_lines(section, plain[section])],
    ]


def _is_default(space: Space, name: str) -> bool:
    return name not in space.sources and space.fixed[name] == RULES[name].default


def _section_lines(section: str, values: dict[str, Any]) -> list[str]:
    return [
        f"{section.capitalize()}:",
        *_wrapped(", ".join(f"{name}: {show(value)}" for name, value in values.items())),
    ]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH_COLUMNS, initial_indent="  ", subsequent_indent="  ")


def describe_trials(trials: Sequence[dict[str, Any]]) -> list[str]:
    """One line per trial."""
    if not trials[0]:
        return ["  0  as set"]
    texts = [", ".join(f"{name}: {show(_rounded(value))}" for name, value in sampled.items()) for sampled in trials]
    return [f"  {number}  {text}" for number, text in enumerate(texts)]


def describe_extras(space: Space) -> list[str]:
    """What is trained beside the trials."""
    control = "Text control: one trial more that compresses nothing, for what plain text does at the same price"
    if not wants_control(space):
        control = "Text control: none; what trials are worth is read off the bare model's text, adaptation included"
    again = f"Then: the best {space.search.confirm} again under two more seeds"
    return [control, *([again] if space.search.confirm else [])]


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def describe_rungs(space: Space) -> list[str]:
    """After which epochs trials are compared, and what happens there."""
    search = space.search
    if not space.rungs or not space.searched:
        return [f"Rungs: none; every trial runs its {_range(space, 'n_epochs')} epochs"]
    epochs = ", ".join(str(rung) for rung in space.rungs)
    share = f"the best of every {search.reduction_factor} trials go on, once {search.min_peers} others were there"
    return [f"Rungs: after epochs {epochs} of {_range(space, 'n_epochs')} {share}"]


def describe_plan(plan: Plan) -> list[str]:
    """What a trial occupies and how many run at once."""
    return [f"A trial: {plan.footprint}", f"At once: {plan.max_concurrent} ({plan.reason})"]


def describe_model(space: Space, facts: ModelFacts) -> list[str]:
    """The backbone's shape."""
    positions = "no limit of positions" if facts.max_positions is None else f"{facts.max_positions:,} positions"
    return [f"Model: {space.fixed['model_string']}, {facts.n_layers} layers, {positions}, {facts.vocab_size:,} tokens"]


def describe_data(space: Space, summary: "DataSummary") -> list[str]:
    """Documents, tokens and windows, what was dropped, and how tokenizing went."""
    how = "were tokenized before" if summary.from_cache else f"tokenized in {summary.seconds:.1f} s"
    own = [name for name in ("validation", "test") if name in summary.own_splits]
    here = [name for name in ("validation", "test") if name not in own]
    splits = [f"its own {' and '.join(own)}"] if own else []
    noun, what = ("row", "context") if summary.rows else ("document", "document")
    splits += [f"a tenth of the {what}s held out for {' and as much for '.join(here)}"] if here else []
    lost = (
        f"Dropped: {count(summary.dropped_documents, 'document')} too short for a window, and with the ends of others "
    )
    if summary.rows:
        lost = f"Dropped: {'; '.join(lost_of_rows(summary)) or 'no row'}; in all "
    return [
        f"Data: {space.fixed['dataset']}, {count(summary.documents, noun)}, {summary.tokens:,} tokens, {how} "
        f"({summary.tokens_per_second:,.0f} tokens/s); {', '.join(splits)}",
        f"Windows: {_window_text(space, rows=summary.rows)}; {summary.train_windows:,} to train on, "
        f"{summary.validation_windows:,} to validate on ({_validated(space, summary.validation_windows):,} used), "
        f"{summary.test_windows:,} to test on",
        f"{lost}{summary.dropped_tokens:,} tokens ({_percent(summary.dropped_tokens, summary.tokens)})",
        f"Repeated: {count(summary.repeated_documents, f'held-out {what}')} with a text that another split has too",
    ]


def lost_of_rows(summary: "DataSummary") -> list[str]:
    """What is left out of rows and what is cut off in those that are read, one phrase for each that happened."""
    incomplete = summary.dropped_documents - summary.long_prompts
    found = {
        "without a context or an answer, left out": incomplete,
        "with a prompt above prompt_len, left out": summary.long_prompts,
        "with a context above cmp_len, cut": summary.cut_contexts,
        "with an answer above seq_len, cut": summary.cut_answers,
    }
    return [f"{count(number, 'row')} {what}" for what, number in found.items() if number]


def _validated(space: Space, windows: int) -> int:
    loops = space.fixed["max_val_loops"]
    return windows if loops is None else min(windows, loops * space.fixed["val_batch_size"])


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.0f} %"


def _window_text(space: Space, *, rows: bool) -> str:
    window = space.window
    if space.fixed["rmb_only"]:
        return f"{window.target_len} tokens, context and target at once"
    if rows:
        return f"at most {window.context_len} + {window.target_len} tokens, context and answer"
    return f"{window.context_len} + {window.target_len} tokens, context and target"


def describe_epoch(space: Space, train_windows: int) -> list[str]:
    """Windows and tokens that one epoch of training reads, and how often a whole trial reads each window."""
    lows, highs = ([pick(name) for name in _EPOCH_SETTINGS] for pick in (space.smallest, space.largest))
    low, high = (_tokens_per_epoch(space, *values) for values in (lows, highs))
    windows = _between(lows[0] * lows[1], highs[0] * highs[1])
    passes = highs[0] * highs[1] * space.max_epochs / train_windows
    loops, batch_size = _range(space, "n_train_loops"), _range(space, "batch_size")
    return [
        f"An epoch: {loops} loops of {batch_size} windows: {windows} windows, {_between(low, high)} tokens; "
        f"a whole trial reads each window {_times(passes)}"
    ]


def _times(passes: float) -> str:
    return f"{passes:,.1f} times" if passes >= 0.1 else "at most once"


_EPOCH_SETTINGS = ("n_train_loops", "batch_size", "cmp_len", "seq_len")


def _tokens_per_epoch(space: Space, loops: int, batch_size: int, cmp_len: int, seq_len: int) -> int:
    """Context and target tokens; with `rmb_only` the text is both and counts once."""
    return loops * batch_size * (seq_len if space.fixed["rmb_only"] else cmp_len + seq_len)


def _range(space: Space, name: str) -> str:
    return _between(space.smallest(name), space.largest(name))


def _between(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
