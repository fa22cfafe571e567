"""The Triton kernels' tests, in a process of their own: the interpreter is chosen at the import."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).parent / "triton_kernels.py"


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("triton") is None,
    reason="triton is not installed (286 MB to download; torch's CUDA builds bring it)",
)
def test_kernels_equal_plain_pytorch_in_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"^(\d+) passed in", done.stdout, re.MULTILINE)  # and nothing skipped
    assert passed and int(passed[1]) >= 91
