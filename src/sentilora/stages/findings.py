"""What a check finds, one line each, and how a fault becomes such a line."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from sentilora.errors import SentiloraError

T = TypeVar("T")
Level = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """A line of the check.

    exit_code: for a problem, the code with which `train` would end; otherwise 0.
    """

    level: Level
    name: str
    text: str
    exit_code: int = 0


Findings = Generator[Finding, None, T]  # yields findings, returns a T


def attempt(name: str, action: Callable[[], T], level: Level = "problem") -> Findings[T | None]:
    """The action's result; None, and a finding with this name, if it raises an error of ours."""
    try:
        return action()
    except SentiloraError as error:
        exit_code = error.exit_code if level == "problem" else 0
        yield Finding(level, name, " ".join(str(error).split()), exit_code)
        return None


def without_repetitions(findings: Iterable[Finding]) -> list[Finding]:
    """The findings; one that several settings lead to is listed once, under its first name."""
    distinct: dict[str, Finding] = {}
    for finding in findings:
        distinct.setdefault(finding.text, finding)
    return list(distinct.values())
