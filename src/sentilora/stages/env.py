"""The text for a bug report: versions, GPUs, dtype, and whether the hub answers.

sentilora env
"""

import os
import platform
from importlib import metadata

from sentilora.hub import hub_endpoint, hub_reachable
from sentilora.models.device import cuda_driver_present
from sentilora.version import __version__

PACKAGES = (
    "torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "safetensors",
    "scikit-learn", "pydantic", "kernels", "gguf",
)  # fmt: skip
VARIABLES = ("HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES")  # listed where they are set


def versions() -> dict[str, str]:
    """{name: version} of sentilora, Python, the platform and the main packages."""
    lines = {
        "sentilora": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.platform()}, {os.cpu_count()} cores",
    }
    for name in PACKAGES:
        try:
            lines[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            lines[name] = "not installed"
    return lines


def env() -> dict[str, str]:
    """{name: text} of what a bug report needs, in the order to print it. Never a token."""
    hub = f"{hub_endpoint()} {'reachable' if hub_reachable() else 'NOT reachable'}"
    return {
        **versions(),
        **_gpus(),
        "hub": hub,
        **{name: os.environ[name] for name in VARIABLES if name in os.environ},
        "HF_TOKEN": "set" if os.environ.get("HF_TOKEN") else "not set",
    }


def _gpus() -> dict[str, str]:
    """Each GPU, and the dtype that "auto" stands for."""
    import torch

    if not torch.cuda.is_available():
        driver = "a CUDA driver answers, but this torch has no CUDA"
        return {"gpu": driver if cuda_driver_present() else "none", "dtype": "float32 (CPU)"}
    lines = {}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        lines[f"gpu {index}"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB, compute capability "
            f"{properties.major}.{properties.minor}, CUDA {torch.version.cuda}"
        )
    native = torch.cuda.get_device_capability()[0] >= 8
    lines["dtype"] = "bfloat16" if native else "float16 (no bfloat16 below capability 8.0)"
    return lines
