"""A space file and `--set` overrides -> a `Space`, or every mistake at once. Called by `search.py`.

The order: text -> entries with lines -> overrides -> words of the original code -> each value by its rule -> rules
between settings. Nothing here imports torch or ray: a wrong file fails in a fraction of a second.
"""

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cmp.space import legacy
from cmp.space.checks import check_paths, check_space, find_notes
from cmp.space.domains import Choice, Domain, DomainError, Int, LogInt, domain_from_plain
from cmp.space.errors import Problem, SpaceError, require
from cmp.space.nodes import Entry, read_entries, read_value
from cmp.space.rules import Rule, RuleError, show, suggestion
from cmp.space.settings import RULES, SECTIONS, ResourceSettings, SearchSettings
from cmp.space.space import Space


def load_space(path: str | Path, overrides: Sequence[str] = ()) -> Space:
    """Read a space file (YAML, or JSON as the original code's users have it).

    Args:
        path: the file.
        overrides: `KEY=VALUE`, with VALUE in YAML and KEY dotted inside a section; they replace the file's entry.

    Raises:
        SpaceError: every mistake in the file and the overrides, each with its place.
    """
    file = str(path)
    is_json = Path(path).suffix.lower() == ".json"
    entries, problems = read_entries(_read_text(Path(path)), file, is_json=is_json)
    if not entries and problems:
        raise SpaceError(problems)
    entries = _flatten(entries, problems)
    for override in overrides:
        _apply(override, entries, problems)
    entries, notes, wrong = legacy.translate(entries)
    problems += wrong
    if is_json:
        legacy.imply_plateau(entries, notes)
    return _build(entries, Path(path), notes, problems)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SpaceError([Problem(str(path), None, None, "no such file" + _similar_files(path))]) from None
    except IsADirectoryError:
        inside = path / "space.yaml"
        hint = f"; its space is {inside}" if inside.exists() else "; name a space file"
        raise SpaceError([Problem(str(path), None, None, f"is a folder{hint}")]) from None
    except UnicodeDecodeError:
        raise SpaceError([Problem(str(path), None, None, "is not a text file in UTF-8")]) from None
    except OSError as error:
        raise SpaceError([Problem(str(path), None, None, f"cannot be read: {error.strerror}")]) from None


def _similar_files(path: Path) -> str:
    shipped = Path(__file__).parents[2] / "spaces"
    known = [file for folder in {path.parent, shipped} if folder.is_dir() for file in folder.iterdir()]
    spaces = {file.name: file for file in known if file.suffix in (".yaml", ".yml", ".json")}
    near = difflib.get_close_matches(path.name, spaces, n=1) or difflib.get_close_matches(f"{path.name}.yaml", spaces)
    if not near:
        return ""
    found = spaces[near[0]]
    shown = found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) else found
    return f"; did you mean {shown}?"


def _flatten(entries: dict[str, Entry], problems: list[Problem]) -> dict[str, Entry]:
    """Sections as dotted names."""
    flat: dict[str, Entry] = {}
    for key, entry in entries.items():
        if key not in SECTIONS:
            flat[key] = entry
        elif isinstance(entry.value, dict):
            flat |= {f"{key}.{name}": nested for name, nested in entry.value.items()}
        elif entry.value is not None:
            first = next(name for name in RULES if name.startswith(f"{key}."))
            message = (
                f"{show(entry.value)} is not a section; write its settings below it, such as {first.split('.')[1]}"
            )
            problems.append(Problem(entry.file, entry.line, key, message))
    return flat


def _apply(override: str, entries: dict[str, Entry], problems: list[Problem]) -> None:
    """Put one `KEY=VALUE` over the file's entry."""
    place = f"--set {override}"
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        problems.append(Problem(place, None, None, "write --set KEY=VALUE, such as --set n_epochs=3"))
        return
    value, wrong = read_value(text, place)
    if wrong:
        problems += wrong
    elif key in SECTIONS:
        first = next(name for name in RULES if name.startswith(f"{key}."))
        problems.append(Problem(place, None, key, f"is a section; set one of its settings, such as {first}=..."))
    else:
        for old, new in legacy.RENAMED.items():  # the override replaces the file's entry under either name
            if key in (old, new):
                entries.pop(old, None)
                entries.pop(new, None)
        entries[key] = Entry(value, place, None)


def _build(entries: dict[str, Entry], path: Path, notes: list[str], problems: list[Problem]) -> Space:
    """Parse every entry, fill in defaults, check what meets."""
    parsed: dict[str, Any] = {}
    broken: set[str] = set()
    for name, entry in entries.items():
        try:
            parsed[name] = _parse(name, entry.value)
        except (RuleError, DomainError) as error:
            problems.append(Problem(entry.file, entry.line, name, str(error)))
            broken.add(name)
    for name, rule in RULES.items():
        if rule.required and name not in entries:
            problems.append(Problem(str(path), None, name, f"missing; it is {rule.meaning}"))
            broken.add(name)
    space = _with_first(_assemble(parsed, entries, path, notes), problems)
    problems += check_space(space, broken) + check_paths(space, broken)
    require(sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0)))
    return space


def _parse(name: str, value: Any) -> Any:
    rule = RULES.get(name)
    if rule is None:
        raise RuleError(_unknown(name, value))
    if isinstance(value, dict) and not rule.items:
        return _parse_domain(rule, value)
    return rule.parse(value)


def _parse_domain(rule: Rule, plain: dict[Any, Any]) -> Domain:
    if rule.name.partition(".")[0] in SECTIONS:
        raise RuleError(f"{show(plain)} is a domain, but the {rule.name.split('.')[0]} section has fixed values only")
    if rule.not_searched:
        raise RuleError(f"{show(plain)} cannot be searched: {rule.not_searched}")
    domain = domain_from_plain(plain)
    shown = show(plain)
    if isinstance(domain, Choice):
        return Choice(tuple(_parse_within(rule, value, shown) for value in domain.values))
    if int not in rule.kinds and float not in rule.kinds:
        raise RuleError(f"{shown} is a range of numbers; use {rule.wanted()}, or {{choice: [...]}} of these")
    if float not in rule.kinds and not isinstance(domain, Int | LogInt):
        word = "logint" if "loguniform" in plain else "int"
        ends = show([int(value) for value in domain.extremes()])
        raise RuleError(f"{shown} has values that are not whole; use {{{word}: {ends}}}")
    for value in domain.probes():
        _parse_within(rule, value, shown)
    return domain


def _parse_within(rule: Rule, value: Any, domain: str) -> Any:
    if isinstance(value, list | dict):
        raise RuleError(f"{domain} has {show(value)} as a choice; use single values")
    try:
        return rule.parse(value)
    except RuleError as error:
        raise RuleError(f"{error}; it is in {domain}") from None


def _unknown(name: str, value: Any) -> str:
    section, _, tail = name.rpartition(".")
    if not section and (home := next((f"{part}.{name}" for part in SECTIONS if f"{part}.{name}" in RULES), None)):
        return f"belongs in a section; write {home.split('.')[0]}: {{{name}: {show(value)}}}"
    if section and tail in RULES:
        return f"belongs beside the section {section}, not in it"
    return "unknown setting" + (suggestion(name, RULES) or _suggest_tail(name, tail) or "; --help lists all")


def _suggest_tail(name: str, tail: str) -> str:
    """A near name in another section, such as num_sample -> search.num_samples."""
    tails = {known.rpartition(".")[2]: known for known in RULES}
    hint = suggestion(tail, tails)
    return re.sub(r"mean (\w+)\?", lambda found: f"mean {tails[found[1]]}?", hint)


def _assemble(parsed: dict[str, Any], entries: dict[str, Entry], path: Path, notes: list[str]) -> Space:
    """A space of everything that parsed, with defaults for the rest."""
    searched = {name: value for name, value in parsed.items() if isinstance(value, Domain)}
    values = {name: rule.default for name, rule in RULES.items()}
    values |= {name: value for name, value in parsed.items() if name not in searched}
    if "exp_name" not in entries:
        values["exp_name"] = re.sub(r"[^\w.-]+", "-", path.stem).strip(".-") or values["exp_name"]
    search = SearchSettings(**_section("search", values))
    resources = ResourceSettings(**_section("resources", values))
    fixed = {name: value for name, value in values.items() if "." not in name and name not in searched}
    fixed["model_string"] = _at_revision(fixed["model_string"], fixed["revision"])
    sources = {name: (entry.file, entry.line) for name, entry in entries.items()}
    space = Space(fixed, searched, search, resources, path, sources)
    notes = [*notes, *find_notes(space)]
    search = dataclasses.replace(_no_trial_twice(space), objective=_objective(space))
    return dataclasses.replace(space, search=search, notes=tuple(notes))


_PRICED = ("n_cmps", "keep_len", "piece_len")
"""Settings that say how many positions a trial costs."""


def _objective(space: Space) -> Literal["loss", "front"]:
    """What was asked for, or the front where trials of several prices are tried."""
    if "search.objective" in space.sources:
        return space.search.objective
    return "front" if any(name in space.searched for name in _PRICED) else "loss"


def _at_revision(model_string: str | None, revision: str | None) -> str | None:
    """The model's name as everything after this goes by it: `name@revision`."""
    if model_string is None or revision is None or "@" in model_string:
        return model_string
    return f"{model_string}@{revision}"


def _no_trial_twice(space: Space) -> SearchSettings:
    """As many trials as there are different ones, at most: the same settings would end the same."""
    combinations = space.combinations()
    if combinations is None or combinations >= space.search.num_samples:
        return space.search
    return dataclasses.replace(space.search, num_samples=combinations)


def _with_first(space: Space, problems: list[Problem]) -> Space:
    """The space with the settings to try first parsed by the rules of what they set, each inside its domain."""
    first = []
    for wanted in space.search.first:
        parsed = {}
        for name, value in wanted.items():
            try:
                parsed[name] = _parse_first(space, name, value)
            except RuleError as error:
                problems.append(space.problem("search.first", f"{show(wanted)}: {name}: {error}"))
        first.append(parsed)
    return dataclasses.replace(space, search=dataclasses.replace(space.search, first=tuple(first)))


def _parse_first(space: Space, name: str, value: Any) -> Any:
    domain = space.searched.get(name)
    if domain is None and name in space.fixed:
        raise RuleError(f"is not searched but fixed at {show(space.fixed[name])}; leave it out, or search it")
    if domain is None:
        raise RuleError(f"unknown setting{suggestion(name, space.searched)}")
    parsed = RULES[name].parse(value)
    if not domain.contains(parsed):
        raise RuleError(f"{show(value)} is outside {show(domain.to_plain())}")
    return parsed


def _section(section: str, values: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(f"{section}."): values[name] for name in RULES if name.startswith(f"{section}.")}
