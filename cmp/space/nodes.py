"""Text of a space file -> plain values with the line each came from. Called by `loading` only.

JSON goes through the same YAML node tree, which is how both have line numbers. Plain words are read as YAML 1.2 does:
`5e-4` and `1_000` are numbers, `yes`, `on` and dates are texts.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import yaml

from cmp.space.errors import Problem
from cmp.space.rules import show


@dataclass(frozen=True)
class Entry:
    """One value as written.

    Args:
        value: plain Python: number, text, bool, None, list or dict.
        file: the file, or `--set KEY=VALUE`.
        line: from 1; None on the command line.
    """

    value: Any
    file: str
    line: int | None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's idea of plain words."""

    yaml_implicit_resolvers: dict[str, list] = {}  # noqa: RUF012 - PyYAML's own class attribute

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        """Digits as decimal: 010 is ten."""
        return int(self.construct_scalar(node).replace("_", ""))


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?
            |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_decimal)


def read_value(text: str, file: str) -> tuple[Any, list[Problem]]:
    """The plain value of one YAML text, as in `--set KEY=VALUE`."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        return (None if node is None else loader.construct_object(node, deep=True)), []
    except (yaml.YAMLError, ValueError, TypeError) as error:
        return None, [Problem(file, None, None, f"not valid YAML: {_why(error)}")]
    finally:
        loader.dispose()


def read_entries(text: str, file: str, *, is_json: bool) -> tuple[dict[str, Entry], list[Problem]]:
    """Top-level keys of a file with their values and lines, and what is wrong with the text itself."""
    if is_json:
        try:
            json.loads(text)
        except json.JSONDecodeError as error:
            return {}, [Problem(file, error.lineno, None, f"not valid JSON: {error.msg}, column {error.colno}")]
        text = text.replace("\t", " ")  # only outside of strings can a tab be in valid JSON; YAML refuses it there
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return {}, [Problem(file, None, None, "the file is empty; it needs model_string and dataset at least")]
        if not isinstance(node, yaml.MappingNode):
            line = node.start_mark.line + 1
            return {}, [Problem(file, line, None, "not a space file: write one `setting: value` on each line")]
        return _entries_of(loader, node, file)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        return {}, [Problem(file, mark.line + 1 if mark else None, None, f"not valid YAML: {_why(error)}")]
    finally:
        if loader is not None:
            loader.dispose()


def _entries_of(loader: _Loader, node: yaml.MappingNode, file: str) -> tuple[dict[str, Entry], list[Problem]]:
    """Entries of a mapping; those of a nested section come as one dict of entries."""
    entries: dict[str, Entry] = {}
    problems: list[Problem] = []
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            problems.append(Problem(file, line, None, f"{show(key)} is not the name of a setting"))
            continue
        if key in entries:
            first = entries[key].line
            problems.append(Problem(file, line, key, f"written twice, first on line {first}; keep one"))
            continue
        if isinstance(value_node, yaml.MappingNode) and key in ("search", "resources"):
            nested, wrong = _entries_of(loader, value_node, file)
            problems += [Problem(p.file, p.line, f"{key}.{p.setting}" if p.setting else key, p.message) for p in wrong]
            entries[key] = Entry(nested, file, line)
        else:
            entries[key] = Entry(loader.construct_object(value_node, deep=True), file, line)
    return entries, problems


def _why(error: Exception) -> str:
    """A parser's error in one line."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    why = error.problem or error.context or "unreadable"
    if "'\\t'" in why:
        return "a tab; indent with spaces"
    column = f", column {error.problem_mark.column + 1}" if error.problem_mark else ""
    return f"{why}{column}"
