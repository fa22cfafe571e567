"""Errors of other packages while training, as ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sentilora.errors import SentiloraError, UsageError, first_line, is_out_of_memory


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
