"""The errors sentilora raises on purpose.

    SentiloraError              exit 1   training or scoring broke: out of memory, NaN, disk
    ├── UsageError              exit 2   configuration, device, output folder, adapter of
    │                                    another base
    ├── DataError               exit 3   data or adapter missing, corrupt or unreachable
    └── Interrupted             exit 130 Ctrl-C, after a checkpoint was saved

Each also inherits the standard exception a caller would expect. The message is one line: what is
wrong, what was seen, what to do. A keyword of a library function appears in it as `keyword`; the
command line shows it as the option of that name.
"""

from typing import Any


class SentiloraError(RuntimeError):
    """Something broke while working. Base of every error raised on purpose.

    problem: what is wrong, and what was seen. setting: the setting or keyword it is about, if it is
    about one. seen: that setting's value. remedy: what to do. The message is problem and remedy.
    evaluation: what `evaluate` had measured when only its report failed.
    """

    exit_code = 1
    evaluation: Any = None

    def __init__(
        self, problem: str, *, setting: str | None = None, seen: object = None, remedy: str = ""
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.setting = setting
        self.seen = seen
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}; {self.remedy}" if self.remedy else self.problem


class UsageError(SentiloraError, ValueError):
    """The request cannot be carried out as asked: a setting, a device or an output folder."""

    exit_code = 2


class DataError(SentiloraError, ValueError):
    """Data, a base or an adapter is missing, corrupt or unreachable."""

    exit_code = 3


class Interrupted(SentiloraError, KeyboardInterrupt):
    """The user pressed Ctrl-C; what could be saved was saved."""

    exit_code = 130


# --- errors of other packages --------------------------------------------------------------------


def first_line(error: BaseException) -> str:
    """The first line of another package's error, or its type where it has no message."""
    lines = str(error).strip().splitlines()
    # Backticks are for our own keywords; the command line would show another's as an option.
    return lines[0].replace("`", "'") if lines else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a GPU's, for which torch has a class, or the machine's."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )
