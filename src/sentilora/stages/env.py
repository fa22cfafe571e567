"""The text for a bug report: versions, GPU, dtypes, whether the hub answers.

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
    "scikit-learn", "pydantic", "kernels",
)  # fmt: skip


def versions() -> dict[str, str]:
    """What runs here: sentilora, Python, platform and the packages that matter."""
    found = {
        "sentilora": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.platform()}, {os.cpu_count()} cores",
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def env() -> dict[str, str]:
    """What to know of this machine, in the order to print it."""
    import torch

    found = versions()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            found[f"gpu {index}"] = (
                f"{properties.name}, {properties.total_memory / 2**30:.1f} GiB, compute capability "
                f"{properties.major}.{properties.minor}, CUDA {torch.version.cuda}"
            )
        native = torch.cuda.get_device_capability()[0] >= 8
        found["dtype"] = "bfloat16" if native else "float16 (no bfloat16 below capability 8.0)"
    else:
        driver = (
            "a CUDA driver answers, this torch has no CUDA" if cuda_driver_present() else "none"
        )
        found["gpu"] = driver
        found["dtype"] = "float32 (CPU)"
    found["hub"] = f"{hub_endpoint()} {'reachable' if hub_reachable() else 'NOT reachable'}"
    for name in ("HF_HOME", "HF_HUB_OFFLINE", "CUDA_VISIBLE_DEVICES"):
        if name in os.environ:
            found[name] = os.environ[name]
    found["HF_TOKEN"] = "set" if os.environ.get("HF_TOKEN") else "not set"
    return found
