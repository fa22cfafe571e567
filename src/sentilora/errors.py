"""The errors sentilora raises on purpose.

    SentiloraError              exit 1   training or scoring broke: out of memory, NaN, disk
    ├── UsageError              exit 2   configuration, device, output folder, adapter of
    │                                    another base
    ├── DataError               exit 3   data or adapter missing, corrupt or unreachable
    └── Interrupted             exit 130 Ctrl-C, after a checkpoint was saved

Each also inherits the standard exception a caller would expect. The message is one line: what is
wrong, what was seen, what to do. Behind the tree: what turns other packages' errors into these.
"""

from typing import Any


class SentiloraError(RuntimeError):
    """Something broke while working. Base of every error raised on purpose.

    evaluation: what `evaluate` had measured when only its report failed.
    """

    exit_code = 1
    evaluation: Any = None


class UsageError(SentiloraError, ValueError):
    """The request cannot be carried out as asked: a setting, a device or an output folder."""

    exit_code = 2


class DataError(SentiloraError, ValueError):
    """Data, a base or an adapter is missing, corrupt or unreachable."""

    exit_code = 3


class Interrupted(SentiloraError, KeyboardInterrupt):
    """The user pressed Ctrl-C; what could be saved was saved."""

    exit_code = 130


# --- somebody else's errors ----------------------------------------------------------------------


def first_line(error: BaseException) -> str:
    """The first line of somebody else's error, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a GPU's, for which torch has a class, or the machine's."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )
