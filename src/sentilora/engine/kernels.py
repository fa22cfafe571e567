"""Triton where there is one: on CUDA tensors, or everywhere in its interpreter.

The interpreter (`TRITON_INTERPRET=1` before the import) runs the kernels on the CPU, for tests;
its bfloat16 products are wrong, so there they take float32 only.
"""

import os

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # torch's CPU builds come without it
    triton = tl = None

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


if triton is not None:

    @triton.jit
    def sigmoid(x):  # type: ignore[no-untyped-def]
        """Of float32. `tl.sigmoid` divides with four instructions more."""
        return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))


def use_triton(x: torch.Tensor) -> bool:
    """Whether the Triton kernels take this tensor."""
    return triton is not None and (x.is_cuda or INTERPRETED)
