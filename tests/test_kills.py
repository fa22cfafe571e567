"""Jobs that are killed at random instants: a short run of bench/kills.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.slow
@pytest.mark.parametrize("job", ["training", "evaluating", "exporting", "bulk"])
def test_killed_jobs_end_as_others_do(job):
    """transformers #35782 and datasets #5089: half a checkpoint, a job that starts from zero."""
    command = [sys.executable, BENCH / "kills.py", "--only", job, "--kills", "3"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    survived = [int(count) for count in re.findall(r": (\d+) kills survived", done.stdout)]
    assert sum(survived) >= 3, done.stdout
