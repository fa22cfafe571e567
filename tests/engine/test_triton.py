"""Triton kernels without a GPU: in Triton's interpreter, and compiled, in a process each."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("triton") is None,
        reason="triton is not installed (286 MB to download; torch's CUDA builds bring it)",
    ),
]


def num_passed(name, **environment):
    """Number of tests that pass in a file, in a process of its own; none may fail or be skipped."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         str(Path(__file__).parent / name)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"^(\d+) passed in", done.stdout, re.MULTILINE)
    return int(passed[1]) if passed else 0


@pytest.mark.parametrize(
    "name, least", [("triton_kernels.py", 52), ("triton_groups.py", 44), ("triton_fp8.py", 27)]
)
def test_kernels_equal_plain_pytorch_in_the_interpreter(name, least):
    assert num_passed(name, TRITON_INTERPRET="1") >= least


def test_kernels_compile_for_gpus_that_this_machine_lacks():
    assert num_passed("compiled_kernels.py") >= 16
