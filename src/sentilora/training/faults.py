"""Translates errors of other packages during training into ours; records that a run diverged."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sentilora.errors import (
    DataError,
    SentiloraError,
    UsageError,
    first_line,
    is_out_of_memory,
    write_failure,
)
from sentilora.folders.run_folder import Divergence
from sentilora.progress import is_main_process
from sentilora.wording import quoted

# Of the error for a run that diverged, and of no other error while it runs.
DIVERGENCE_SETTING = "training.learning_rate"


@contextmanager
def refused_settings() -> Iterator[None]:
    """Turn transformers' refusal of an optimizer, schedule or tracker into `UsageError`."""
    try:
        yield
    except (ValueError, ImportError, RuntimeError) as error:
        if isinstance(error, SentiloraError):
            raise
        raise UsageError(
            f"transformers refuses a training.* setting: {first_line(error).rstrip('.')}",
            setting="training",
            remedy="choose another value; every setting is explained in docs/reference/settings.md",
        ) from error


@contextmanager
def training_errors(folder: Path) -> Iterator[None]:
    """Turn failures of training, and of writing to `folder`, into our errors."""
    try:
        yield
    except OSError as error:
        raise _write_error(folder, str(error)) from error
    except NotImplementedError as error:
        raise UsageError(
            f"this device does not support an operation of this run ({first_line(error)})",
            setting="base.attn_implementation",
            remedy="try base.attn_implementation=sdpa and training.optim=adamw_torch",
        ) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise SentiloraError(
                "out of memory while training",
                setting="training.per_device_train_batch_size",
                remedy="lower training.per_device_train_batch_size (and raise "
                "training.gradient_accumulation_steps by the same factor), set "
                "training.gradient_checkpointing=true, or lower prompt.max_length",
            ) from error
        if reason := write_failure(error):
            raise _write_error(folder, reason) from error
        if _is_of_others(error):
            raise SentiloraError(
                f"another process of this training has ended or does not answer: "
                f"{first_line(error)}",
                remedy="see its own message; then start all processes again with `resume`",
            ) from error
        if type(error).__name__ == "SafetensorError" and "deserializing" in str(error):
            raise DataError(
                f"a checkpoint in {quoted(folder)} is damaged: {first_line(error)}",
                setting="output_dir",
                seen=str(folder),
                remedy="continue with `resume`, which uses the checkpoint before it",
            ) from error
        raise


def _is_of_others(error: Exception) -> bool:
    """Whether a process failed because it could not reach the others, over gloo or NCCL."""
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    message = str(error).lower()
    signs = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "timed out")
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and any(sign in message for sign in signs)
    )


@contextmanager
def divergence_recorded(folder: Path) -> Iterator[None]:
    """Records in a run's folder that it diverged, in place of the record of an attempt before."""
    if is_main_process():
        (folder / Divergence.FILE).unlink(missing_ok=True)
    try:
        yield
    except SentiloraError as error:
        if error.setting == DIVERGENCE_SETTING and is_main_process():
            Divergence(problem=error.problem).save(folder)
        raise


def _write_error(folder: Path, reason: str) -> SentiloraError:
    return SentiloraError(
        f"cannot write to {quoted(folder)}: {reason}", setting="output_dir", seen=str(folder)
    )
