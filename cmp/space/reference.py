"""All settings with their meaning and default, as text for `search.py --help` and as a table for the README.

`python -m cmp.space.reference` prints the table.
"""

import textwrap

from cmp.space.rules import Rule, show
from cmp.space.settings import RULES

_HEADINGS = {"": "settings", "search": "search: (a section)", "resources": "resources: (a section)"}


def settings_help(width: int = 100) -> str:
    """Every setting, one paragraph each, by section; `width` is the terminal's, in columns."""
    lines = []
    column = 2 + max(len(_short(rule)) for rule in RULES.values())
    for section, heading in _HEADINGS.items():
        lines.append(f"{heading}:" if not section else heading)
        for rule in _rules_of(section):
            text = f"{rule.meaning}{_default(rule)}"
            first = f"  {_short(rule):{column}}"
            lines += textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * len(first))
    return "\n".join(lines)


def settings_table() -> str:
    """Every setting as a row of a Markdown table: name, what is allowed, default, meaning."""
    rows = ["| setting | allowed | default | meaning |", "|---|---|---|---|"]
    for rule in RULES.values():
        default = "required" if rule.required else f"`{show(rule.default)}`"
        rows.append(f"| `{rule.name}` | {rule.wanted()} | {default} | {rule.meaning} |")
    return "\n".join(rows)


def _rules_of(section: str) -> list[Rule]:
    return [rule for name, rule in RULES.items() if name.rpartition(".")[0] == section]


def _short(rule: Rule) -> str:
    return rule.name.rpartition(".")[2]


def _default(rule: Rule) -> str:
    if rule.required:
        return " (required)"
    return "" if rule.default is None else f" ({show(rule.default)})"


if __name__ == "__main__":
    print(settings_table())
