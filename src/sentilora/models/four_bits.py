"""Import bitsandbytes without a download, and list a model's 4-bit layers."""

import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def import_bitsandbytes() -> Any:
    """The module bitsandbytes, imported without downloading a compiled kernel from the hub.

    It does download one on CPUs with AVX512-BF16 if the package `kernels` is installed. Call this
    before anything else imports bitsandbytes, as parts of transformers do.
    """
    if "bitsandbytes" in sys.modules:
        return sys.modules["bitsandbytes"]
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    missing = object()
    kernels = sys.modules.get("kernels", missing)
    level = logger.level
    sys.modules["kernels"] = None  # type: ignore[assignment]  # during this import, "not installed"
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
