"""bitsandbytes: imported without a download, and the 4-bit layers of a model."""

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def import_bitsandbytes() -> Any:
    """bitsandbytes, without the compiled kernel it would fetch from the hub.

    On CPUs with AVX512-BF16 its import downloads one when the package `kernels` is installed, so
    this comes before what imports it by itself: parts of transformers do.
    """
    if "bitsandbytes" in sys.modules:
        return sys.modules["bitsandbytes"]
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    missing = object()
    kernels = sys.modules.get("kernels", missing)
    level = logger.level
    sys.modules["kernels"] = None  # type: ignore[assignment]  # "not installed", for this import
    logger.setLevel(logging.ERROR)
    try:
        import bitsandbytes
    finally:
        logger.setLevel(level)
        if kernels is missing:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = kernels  # type: ignore[assignment]
    return bitsandbytes


def linear_4bit_modules(model: "torch.nn.Module") -> list[Any]:
    """Every 4-bit linear layer of a model."""
    linear = import_bitsandbytes().nn.Linear4bit
    return [module for module in model.modules() if isinstance(module, linear)]
