"""How it was made: run, software, hardware, data, what each number means, the resolved space."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cmp.report import text
from cmp.report.definitions import DEFINITIONS
from cmp.report.text import Markup, escape
from cmp.report.view import SearchView

SESSION_FACTS = {
    "hardware": "hardware",
    "resources": "a trial's share",
    "max_concurrent": "trials at once, at most",
    "data": "data",
    "versions": "versions",
    "commit": "commit",
    "host": "host",
    "facts": "settled at the start",
}
"""What a session event records and how the page calls it, in the order in which it is shown."""


def method(view: SearchView, plain_space: Mapping[str, Any], files: Sequence[str]) -> Markup:
    """Where the numbers come from: run, software, hardware, data, definitions, the resolved space."""
    session = view.session
    seeds = f"trials {text.setting(view.space.fixed.get('seed'))}, search {view.space.search.seed}"
    facts: dict[str, Any] = {"seed": seeds}
    facts |= {word: session[key] for key, word in SESSION_FACTS.items() if session.get(key)}
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{_fact(v)}</dd>" for k, v in facts.items())
    words = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in DEFINITIONS)
    links = ", ".join(f'<a href="{escape(name)}">{escape(name)}</a>' for name in files)
    resolved = yaml.safe_dump(dict(plain_space), sort_keys=False, allow_unicode=True)
    return f"""<h3>This run</h3><dl class="facts">{rows}</dl>{_control(view)}
<h3>What the numbers mean</h3><dl class="words">{words}</dl>
<details><summary>The resolved space: every setting, defaults filled in</summary><pre>{escape(resolved)}</pre></details>
<p class="note">Beside this page: {links}. Everything shown comes from journal.jsonl and space.yaml, scores on
test documents from test.json, the examples from best/examples.json.</p>"""


def _control(view: SearchView) -> Markup:
    """How the text control was trained, or why there is none."""
    words = f"None: {view.caveat}." if view.caveat else ""
    if view.control is not None:
        record = view.control.record
        settings = ", ".join(f"{name} {text.setting(value)}" for name, value in record.own_settings.items())
        ended = "." if record.status == "finished" else f" ({view.control.word})."
        words = (
            "A compressor with nothing to compress, trained beside the trials on the same documents with the same "
            "losses, optimizer and number of loops, and never stopped early. It reads an empty context; at every loop "
            "a number of the context's last tokens is drawn anew (none, all, or between, evenly on a logarithmic "
            "scale), and these stay plain text after its memory. Of searched settings it has the most capacity that a "
            f"trial can have, else the middle: {settings or 'nothing was searched'}. It ran "
            f"{text.plural(record.epoch, 'epoch')} in {text.duration(record.seconds)}{ended}"
        )
    return f"<h3>The text control</h3><p>{escape(words)}</p>" if words else ""


def _fact(value: Any) -> Markup:
    if isinstance(value, Mapping):
        return ", ".join(f"{escape(str(k).replace('_', ' '))} {_fact(v)}" for k, v in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(_fact(v) for v in value) or "–"
    return escape(text.count(value) if isinstance(value, int) and abs(value) >= 100_000 else text.setting(value))
