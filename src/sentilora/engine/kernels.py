"""Triton, if it is installed: for CUDA tensors, or for all in its interpreter.

The interpreter (`TRITON_INTERPRET=1` before the import) runs the kernels on the CPU, for tests. Its
bfloat16 products are wrong, so those tests use float32 only.
"""

import os

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # torch's CPU builds come without it
    triton = tl = None

HAS_TRITON = triton is not None
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


if triton is not None:

    @triton.jit
    def sigmoid(x):  # type: ignore[no-untyped-def]
        """The sigmoid of a float32; `tl.sigmoid` takes four instructions more to divide."""
        return 1.0 / (1.0 + tl.exp2(x * -1.4426950408889634))


def use_triton(x: torch.Tensor) -> bool:
    """Whether the Triton kernels run on this tensor."""
    return HAS_TRITON and (x.is_cuda or INTERPRETED)
