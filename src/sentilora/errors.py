"""The errors sentilora raises on purpose.

    SentiloraError              exit 1   training or scoring broke: out of memory, NaN, disk
    ├── UsageError              exit 2   configuration, device, output folder, adapter of
    │                                    another base
    ├── DataError               exit 3   data or adapter missing, corrupt or unreachable
    └── Interrupted             exit 130 Ctrl-C, after a checkpoint was saved

Each also inherits the standard exception a caller would expect. The message is one line: what is
wrong, what was seen, what to do. Behind the tree: what turns other packages' errors into these.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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


@contextmanager
def refused_settings() -> Iterator[None]:
    """An optimizer, a schedule or a tracker that transformers does not know or find."""
    try:
        yield
    except (ValueError, ImportError, RuntimeError) as error:
        if isinstance(error, SentiloraError):
            raise
        raise UsageError(f"a training.* setting is refused: {first_line(error)}") from error


@contextmanager
def report_errors(folder: str | Path, evaluation: Any) -> Iterator[None]:
    """What ends explaining errors and writing a report; the evaluation made before is not lost."""
    try:
        yield
    except (OSError, KeyboardInterrupt) as error:
        failed = SentiloraError(f"cannot write the report to {folder}: {error}")
        if isinstance(error, KeyboardInterrupt):
            failed = Interrupted(f"interrupted; there is no report in {folder}")
        failed.evaluation = evaluation
        raise failed from error


@contextmanager
def training_errors(folder: Path) -> Iterator[None]:
    """What breaks while training, and while saving in `folder`."""
    try:
        yield
    except OSError as error:
        raise SentiloraError(f"cannot write to {folder}: {error}") from error
    except NotImplementedError as error:
        raise UsageError(
            f"this device cannot compute what the settings ask for ({first_line(error)}); try "
            "base.attn_implementation=sdpa and training.optim=adamw_torch"
        ) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise SentiloraError(
                "out of memory while training; lower training.per_device_train_batch_size (and "
                "raise training.gradient_accumulation_steps by as much), set "
                "training.gradient_checkpointing=true, or lower prompt.max_length"
            ) from error
        # A full disk: safetensors has an error of its own, torch.save a RuntimeError.
        if type(error).__name__ != "SafetensorError" and "PytorchStreamWriter" not in str(error):
            raise
        raise SentiloraError(f"cannot write to {folder}: {error}") from error
