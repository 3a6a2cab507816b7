"""What a user can get wrong, as data: one `Problem` per mistake, raised together.

`search.py` prints these to stderr and exits 2; nobody sees a traceback for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# Exit codes of every command. 75 is what sysexits.h calls a failure that may pass: the same command goes on.
EXIT_FINISHED = 0
EXIT_NO_SUCCESS = 1
EXIT_WRONG_INPUT = 2
EXIT_MOSTLY_FAILED = 3
EXIT_CLUSTER_LOST = 75
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """Something the user can put right: a setting, a file, a missing package.

    Args:
        setting: the setting to change, or None when it is not about one.
        message: the value, the rule, and what would be right.
    """

    def __init__(self, setting: str | None, message: str) -> None:
        super().__init__(f"{setting}: {message}" if setting else message)
        self.setting = setting
        self.message = message


@dataclass(frozen=True)
class Problem:
    """One mistake in a space file or on the command line.

    Args:
        file: the file as the user typed it, or `--set KEY=VALUE`.
        line: the line in that file, from 1; None where there is none.
        setting: the setting's name, dotted inside a section (`search.num_samples`); None for the file as a whole.
        message: the value, the rule, and what would be right.
    """

    file: str
    line: int | None
    setting: str | None
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}  {self.setting}: {self.message}" if self.setting else f"{place}  {self.message}"


class SpaceError(UserError):
    """A space that cannot be searched; its text is one line per problem."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(None, "\n".join(str(problem) for problem in problems))
        self.problems = list(problems)


def require(problems: Sequence[Problem]) -> None:
    """Raise `SpaceError` if there is any problem."""
    if problems:
        raise SpaceError(problems)
