"""What strangers may send: a few inputs of each kind here, 10,000 in bench/fuzz.py."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = str(Path(__file__).parents[1] / "bench")


@pytest.fixture(scope="module")
def fuzz():
    """bench/fuzz.py as a module."""
    sys.path.insert(0, BENCH)
    try:
        yield importlib.import_module("fuzz")
    finally:
        sys.path.remove(BENCH)


TARGETS = ["classifier.json", "adapter_config.json", "safetensors", "records", "settings",
           "templates", "tables", "http"]  # fmt: skip


def test_every_target_is_tried(fuzz):
    assert list(fuzz.TARGETS) == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_stranger_sends_is_accepted_or_refused_by_an_error_of_ours(fuzz, target):
    assert fuzz.run(target, 25, 0).startswith(f"{target}: 2")


@pytest.mark.slow
def test_more_of_what_a_stranger_sends():
    """bench/fuzz.py as it is called, in a process of its own: Hypothesis runs a target once."""
    command = [sys.executable, f"{BENCH}/fuzz.py", "--inputs", "3200", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()[1:]
    assert len(lines) == len(TARGETS)
    assert all("400 inputs" in line and ", 0 accepted" not in line for line in lines), lines


def test_a_write_elsewhere_is_noticed(fuzz, tmp_path):
    """The guard itself: a fault must not pass because nobody looked."""
    with pytest.raises(RuntimeError, match="outside the example's folder"), fuzz.example():
        (tmp_path / "elsewhere").write_text("x")
    with pytest.raises(ZeroDivisionError), fuzz.example():
        print(1 / 0)
