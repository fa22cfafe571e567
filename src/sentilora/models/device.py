"""Where to compute and in which dtype: what is asked for, what there is, and why it was chosen."""

import ctypes
import os
from typing import TYPE_CHECKING

from sentilora.errors import UsageError

if TYPE_CHECKING:
    import torch


def spin_shortly() -> None:
    """How idle OpenMP threads wait, unless the environment says; to be called before torch comes.

    They spin shortly before they sleep: not at all makes a step up to a quarter slower on an idle
    machine, the library's default many times slower beside other work (docs/results.md).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def cuda_driver_present() -> bool:
    """Whether a CUDA driver with a device answers; asked without importing torch (milliseconds)."""
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
    """Raise `UsageError` when `device` is "cuda" and there is none. Needs no torch."""
    if device == "cuda" and not cuda_driver_present():
        raise UsageError(
            "a CUDA GPU is asked for and this machine has none",
            setting="device",
            seen=device,
            remedy="run it on an NVIDIA GPU, train with the preset tiny (works on a CPU), or "
            "insist on the CPU: base.device=cpu (predict and evaluate: `device` cpu)",
        )


def choose_device(device: str) -> str:
    """ "cuda" or "cpu" for "auto", "cuda" or "cpu"."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"a CUDA GPU is asked for and torch {torch.__version__} sees none",
            setting="device",
            seen=device,
            remedy="install a CUDA build of torch, or use the CPU: base.device=cpu (predict and "
            "evaluate: `device` cpu)",
        )
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def place_of_process(device: str) -> str:
    """ "cpu", or this process's own GPU: under a launcher each has one."""
    import torch

    if device == "cpu":
        return device
    if "LOCAL_RANK" in os.environ:
        number, visible = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= visible:
            raise UsageError(
                f"process {number + 1} on this machine finds no GPU of its own, {visible} are "
                "visible",
                setting="num_processes",
                seen=number + 1,
                remedy=f"launch with --num_processes {visible}",
            )
        torch.cuda.set_device(number)
    return f"cuda:{torch.cuda.current_device()}"


def compute_capability(assumed: float = 0.0) -> float:
    """The GPU's, as a number (7.5 for a T4), or the one to act for; 0 without a GPU."""
    import torch

    if assumed or not torch.cuda.is_available():
        return assumed
    major, minor = torch.cuda.get_device_capability()
    return major + minor / 10


def choose_dtype(
    dtype: str, device: str, assume_capability: float = 0.0
) -> tuple["torch.dtype", str]:
    """The dtype to compute in, and why."""
    import torch

    if dtype != "auto":
        if device == "cpu" and dtype == "float16":
            raise UsageError(
                "base.compute_dtype=float16 needs a GPU",
                setting="compute_dtype",
                seen=dtype,
                remedy="use float32 on the CPU",
            )
        return getattr(torch, dtype), "as compute_dtype asks"
    if device == "cpu":
        return torch.float32, "on a CPU"
    capability = compute_capability(assume_capability)
    name = f"{torch.cuda.get_device_name()}, compute capability {capability}"
    if assume_capability:
        name += " assumed"
    if capability < 8:
        return torch.float16, f"{name} has no bfloat16"
    return torch.bfloat16, name
