"""The errors that sentilora raises on purpose.

    SentiloraError              exit 1   training or scoring failed: out of memory, divergence,
    │                                    disk; an export answers otherwise
    ├── UsageError              exit 2   configuration, device, output folder in use or held by
    │                                    another job, adapter of another base
    ├── DataError               exit 3   data or adapter missing, corrupt or unreachable
    ├── RequirementError        exit 4   `evaluate` measured less than `require` asks for
    └── Interrupted             exit 130 Ctrl-C, after a checkpoint was saved

Each class also inherits the standard exception that a caller would expect. A message is one line:
what is wrong, what was seen, what to do. It names a keyword of a library function as `keyword`; the
command line shows the option of that name in its place.
"""

import errno
import os
import re
from collections.abc import Sequence
from typing import Any


class SentiloraError(RuntimeError):
    """An error that sentilora raises on purpose; the base class of the others.

    problem: what is wrong, and what was seen. setting: name of the setting or keyword that caused
    the error; None if there is none. seen: value of that setting. remedy: what to do. The message
    is "problem; remedy". evaluation: the result of `evaluate` when only writing its report failed,
    or a requirement.
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
    """The request cannot be carried out: a setting, a device or an output folder is wrong."""

    exit_code = 2


class DataError(SentiloraError, ValueError):
    """Data, a base or an adapter is missing, corrupt or unreachable."""

    exit_code = 3


class RequirementError(SentiloraError, AssertionError):
    """Figures of an evaluation are not what was required; everything else has been written.

    failed: the requirements that are not met, each with `bound` and the `value` seen. The
    `evaluation` is complete.
    """

    exit_code = 4

    def __init__(self, problem: str, *, failed: Sequence[Any], evaluation: Any) -> None:
        super().__init__(problem, setting="require", seen=[each.bound for each in failed])
        self.failed = list(failed)
        self.evaluation = evaluation


class Interrupted(SentiloraError, KeyboardInterrupt):
    """The user pressed Ctrl-C. Everything that could be saved has been saved."""

    exit_code = 130


# --- errors from other packages ------------------------------------------------------------------


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has no message."""
    lines = str(error).strip().splitlines()
    # Backticks are for our own keywords; the command line would show another's as an option.
    return lines[0].replace("`", "'") if lines else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: the GPU's (torch has a class for it) or the CPU's."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in str(error)
    )


_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
# Of torch.save, whose errors name neither file nor reason.
_INCOMPLETE = ("PytorchStreamWriter", "unexpected pos", "iostream error")


def write_failure(error: BaseException) -> str | None:
    """Why a file could not be written, if that is what another package's error is about.

    safetensors, tokenizers and torch raise errors of their own for a full disk, without a common
    class; the reason may be in the error that came before.
    """
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        rust = re.search(r"\(os error (\d+)\)", text)  # of safetensors and tokenizers
        number = int(rust[1]) if rust else cause.errno if isinstance(cause, OSError) else None
        if number in _CANNOT_WRITE or (number and "while serializing" in text):
            return os.strerror(number)
        if any(part in text for part in _INCOMPLETE):
            return "a file could not be completed; the disk may be full"
        cause = cause.__cause__ or cause.__context__
    return None
