"""For tests in Triton's interpreter: a function with and without its kernels."""

import pytest
import torch

from sentilora.engine import attention, elementwise, fp8, groups, kernels

assert kernels.HAS_TRITON and kernels.INTERPRETED, "set TRITON_INTERPRET=1"


def plainly(function, *args):
    """The result of a function without kernels."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (attention, elementwise, fp8, groups):
            patch.setattr(module, "use_triton", lambda x: False)
        return function(*args)


def assert_same(function, *args):
    """A kernel against plain PyTorch, to float32's rounding."""
    assert kernels.use_triton(args[0])
    torch.testing.assert_close(function(*args), plainly(function, *args), rtol=2e-6, atol=2e-6)


def apart(T, D):
    """(T, D) whose rows are apart."""
    return torch.randn(T, D + 3)[:, :D]
