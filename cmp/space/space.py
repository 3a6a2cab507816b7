"""A `Space`: what is fixed, what is searched, how, and where results go. Built by `loading`, read by everybody."""

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmp.objects import is_url
from cmp.space.domains import Choice, Domain, Int, LogInt, domain_from_plain
from cmp.space.errors import Problem
from cmp.space.rules import show
from cmp.space.settings import RULES, SECTIONS, ResourceSettings, SearchSettings, TrialSettings, Window

_TRIAL_NAMES = [item.name for item in dataclasses.fields(TrialSettings)]
_NOT_IDENTITY = {
    "exp_name",
    "save_root",
    "data_root",
    "testing",
    "n_data_procs",
    "checkpt_mod",
    "multi_gpu",
    "model_parallel",
    "attn_implementation",
    "gradient_checkpointing",
}
"""Where files go, when they are saved and what a trial occupies: none of it changes what a trial learns."""
_NOT_SEARCH_IDENTITY = {
    "best_positions",
    "control",
    "confirm",
    "num_samples",
    "max_concurrent",
    "time_budget_seconds",
    "gpu_hours",
    "trial_time_limit_seconds",
    "first",
    "learn_from",
    "tracker",
}


@dataclass(frozen=True)
class Space:
    """Everything one space file says.

    Args:
        fixed: every setting of `TrialSettings` that is not searched, defaults included, parsed.
        searched: the domains, in the order of the file.
        search: how trials are chosen and stopped.
        resources: what a trial occupies.
        path: the file it came from.
        sources: (file, line) of each setting that was written down, for messages.
        notes: what a user should know though nothing is wrong, one line each.
    """

    fixed: dict[str, Any]
    searched: dict[str, Domain]
    search: SearchSettings
    resources: ResourceSettings
    path: Path = field(default=Path(), compare=False)
    sources: dict[str, tuple[str, int | None]] = field(default_factory=dict, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.fixed["exp_name"]

    @property
    def results_place(self) -> str:
        """Where everything of this search goes: a folder, or a URL on an object store."""
        root = self.fixed["save_root"]
        return f"{root.rstrip('/')}/{self.name}" if is_url(root) else str(Path(root).expanduser() / self.name)

    @property
    def window(self) -> Window:
        """How documents are cut: the largest context that can be sampled, and the target."""
        return Window(0 if self.fixed["rmb_only"] else self.largest("cmp_len"), self.largest("seq_len"))

    @property
    def max_epochs(self) -> int:
        """The largest `n_epochs` that can be sampled."""
        return self.largest("n_epochs")

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs at which ASHA compares trials: `grace_period` times powers of the factor, below `max_epochs`."""
        rungs, epoch = [], self.search.grace_period
        while epoch < self.max_epochs:
            rungs.append(epoch)
            epoch *= self.search.reduction_factor
        return tuple(rungs)

    def values(self, name: str) -> list[Any]:
        """Every value that `name` can take; of ranges of real numbers, and of long ranges, some that stand for all."""
        return self.searched[name].probes() if name in self.searched else [self.fixed[name]]

    def smallest(self, name: str) -> Any:
        """The smallest number that `name` can take."""
        return self.searched[name].extremes()[0] if name in self.searched else self.fixed[name]

    def largest(self, name: str) -> Any:
        """The largest number that `name` can take."""
        return self.searched[name].extremes()[1] if name in self.searched else self.fixed[name]

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """One value for each searched setting."""
        return {name: domain.sample(rng) for name, domain in self.searched.items()}

    def trial_settings(self, sampled: Mapping[str, Any]) -> TrialSettings:
        """The settings of the trial that got `sampled`.

        Raises:
            ValueError: `sampled` lacks a searched setting, or holds another.
        """
        if set(sampled) != set(self.searched):
            raise ValueError(f"sampled {sorted(sampled)}, but the space searches {sorted(self.searched)}")
        parsed = {name: RULES[name].parse(value) for name, value in sampled.items()}
        return TrialSettings(**{**self.fixed, **parsed})

    def settings_of(self, sampled: Mapping[str, Any]) -> TrialSettings:
        """The same of values that were sampled or journalled, which nobody has to parse again; fifty times as fast."""
        return TrialSettings(**{**self.fixed, **sampled})

    def combinations(self) -> int | None:
        """How many different trials there are; None when a range of real numbers makes them countless."""
        count = 1
        for domain in self.searched.values():
            if isinstance(domain, Choice):
                count *= len(domain.values)
            elif isinstance(domain, Int | LogInt):
                count *= (domain.high - domain.low) // (domain.step if isinstance(domain, Int) else 1) + 1
            else:
                return None
        return count

    def to_dict(self) -> dict[str, Any]:
        """Plain values, every default filled in: written as YAML it is a space file that means the same."""
        plain: dict[str, Any] = {name: _plain(self._setting(name)) for name in _TRIAL_NAMES}
        order = [*self.searched, *(name for name in _TRIAL_NAMES if name not in self.searched)]
        head = [name for name in ("exp_name", "model_string", "dataset") if name not in self.searched]
        plain = {name: plain[name] for name in [*head, *(name for name in order if name not in head)]}
        plain["search"] = dataclasses.asdict(self.search)
        plain["resources"] = dataclasses.asdict(self.resources)
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], path: Path | None = None) -> "Space":
        """The space that `to_dict` wrote. Values are parsed, rules between settings are not checked again."""
        searched = {key: domain_from_plain(value) for key, value in plain.items() if _is_domain(key, value)}
        fixed = {name: RULES[name].default for name in _TRIAL_NAMES if name not in searched}
        given = {name: RULES[name].parse(plain[name]) for name in fixed if name in plain}
        return cls(
            fixed={**fixed, **given},
            searched=searched,
            search=SearchSettings(**{name: _listed(value) for name, value in plain.get("search", {}).items()}),
            resources=ResourceSettings(**plain.get("resources", {})),
            path=path or Path(),
        )

    def identity(self) -> dict[str, Any]:
        """What must not change between runs that continue one search, as plain values.

        Left out: number of trials, concurrency, time budget, resources, and where files go.
        """
        settings = {name: _plain(self._setting(name)) for name in _TRIAL_NAMES if name not in _NOT_IDENTITY}
        search = {f"search.{name}": value for name, value in dataclasses.asdict(self.search).items()}
        return {
            **settings,
            **{k: v for k, v in search.items() if k.removeprefix("search.") not in _NOT_SEARCH_IDENTITY},
        }

    def differences(self, other: "Space") -> list[str]:
        """What keeps `self`, the space at hand, from continuing `other`, the one on disk: one line each."""
        mine, theirs = self.identity(), other.identity()
        return [
            f"{name}: {show(mine.get(name))} now, {show(theirs.get(name))} before"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name)
        ]

    def problem(self, setting: str, message: str) -> Problem:
        """A problem with `setting`, at the place where it was written."""
        file, line = self.sources.get(setting, (str(self.path), None))
        return Problem(file, line, setting, message)

    def _setting(self, name: str) -> Any:
        return self.searched[name] if name in self.searched else self.fixed[name]


def _plain(value: Any) -> Any:
    return value.to_plain() if isinstance(value, Domain) else value


def _listed(value: Any) -> Any:
    """Lists as settings hold them."""
    return tuple(value) if isinstance(value, list) else value


def _is_domain(key: str, value: Any) -> bool:
    return isinstance(value, Mapping) and key not in SECTIONS
