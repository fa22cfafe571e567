"""Choose the device and the dtype to compute with, by what this machine has."""

import ctypes
import gc
import os
from typing import TYPE_CHECKING

from sentilora.errors import UsageError
from sentilora.wording import counted

if TYPE_CHECKING:
    import torch


def spin_briefly() -> None:
    """Make idle OpenMP threads spin briefly before they sleep. Call it before torch is imported.

    Without any spinning, a step takes up to a quarter longer on an idle machine. With OpenMP's
    default it takes many times longer on a busy one (docs/results.md). Settings in the environment
    take precedence.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def cuda_driver_present() -> bool:
    """Whether a CUDA driver reports a device. Takes milliseconds, as torch is not imported."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int()
        return (
            driver.cuInit(0) == 0
            and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
            and count.value > 0
        )
    return False


def require_device(device: str) -> None:
    """Raise `UsageError` when `device` is "cuda" and there is no GPU. Does not import torch."""
    if device == "cuda" and not cuda_driver_present():
        raise UsageError(
            "a CUDA GPU was requested, but this machine has none",
            setting="device",
            seen=device,
            remedy="use a machine with an NVIDIA GPU, train with the preset tiny (it runs on a "
            "CPU), or choose the CPU: base.device=cpu (predict and evaluate: `device`=cpu)",
        )


def choose_device(device: str) -> str:
    """The device to compute on: "cuda" or "cpu". "auto" means a GPU if there is one."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"a CUDA GPU was requested, but torch {torch.__version__} sees none",
            setting="device",
            seen=device,
            remedy="install a CUDA build of torch, or choose the CPU: base.device=cpu (predict and "
            "evaluate: `device`=cpu)",
        )
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def place_of_process(device: str) -> str:
    """The torch device of this process: "cpu" or "cuda:N".

    Under a launcher each process has a GPU of its own. Raises `UsageError` when there are too few.
    """
    import torch

    if device == "cpu":
        return device
    if "LOCAL_RANK" in os.environ:
        number, visible = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= visible:
            raise UsageError(
                f"process {number + 1} on this machine has no GPU of its own "
                f"({counted(visible, 'GPU')} visible)",
                setting="num_processes",
                seen=number + 1,
                remedy=f"launch with --num_processes {visible}",
            )
        torch.cuda.set_device(number)
    return f"cuda:{torch.cuda.current_device()}"


def compute_capability(assume_capability: float = 0.0) -> float:
    """The GPU's compute capability as a number (7.5 for a T4); 0 without a GPU.

    assume_capability: the value to return instead; 0 returns the real one.
    """
    import torch

    if assume_capability or not torch.cuda.is_available():
        return assume_capability
    major, minor = torch.cuda.get_device_capability()
    return major + minor / 10


def choose_dtype(
    dtype: str, device: str, assume_capability: float = 0.0
) -> tuple["torch.dtype", str]:
    """The dtype to compute in, and the reason for it."""
    import torch

    if dtype != "auto":
        if device == "cpu" and dtype == "float16":
            raise UsageError(
                "compute_dtype=float16 needs a GPU",
                setting="compute_dtype",
                seen=dtype,
                remedy="use float32 on the CPU",
            )
        return getattr(torch, dtype), "set by compute_dtype"
    if device == "cpu":
        return torch.float32, "the default on a CPU"
    capability = compute_capability(assume_capability)
    name = f"{torch.cuda.get_device_name()}, compute capability {capability}"
    if assume_capability:
        name += " assumed"
    if capability < 8:
        return torch.float16, f"{name} has no bfloat16"
    return torch.bfloat16, name


def free_memory() -> None:
    """Free a finished run's memory: a Trainer and its model form a reference cycle."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
