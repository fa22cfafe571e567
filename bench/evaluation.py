"""Memory and time of `evaluate` without the model: a stand-in answers at random, at once.

python bench/evaluation.py --rows 200000
python bench/evaluation.py --words 240 --read parquet     of reading the rows, which is all it does
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from sentilora.data.rows import Rows
from sentilora.data.tables import write_table
from sentilora.evaluation.measuring import measure_rows, with_label_issues
from sentilora.evaluation.page import write_report

LABELS = ("positive", "negative")
WORDS = ["film", "plot", "actor", "scene", "music", "story", "ending", "camera", "light", "cut"]


class AtRandom:
    """Stands for a classifier and for its prompter and scorer."""

    labels = LABELS
    reference = SimpleNamespace(name="at random")
    adapter_disabled = nullcontext

    def __init__(self) -> None:
        self.prompter = self.scorer = self
        self.source = np.random.default_rng(0)

    def encode(self, text: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[1] * 40, truncated=False)

    def log_probs(self, ids: list[list[int]], advance: Callable[[int], None]) -> torch.Tensor:
        advance(len(ids))
        return torch.log_softmax(torch.from_numpy(self.source.normal(size=(len(ids), 2))), -1)


def make_rows(num_rows: int, num_words: int, seed: int) -> Rows:
    """Texts of different words, labels at random."""
    source = random.Random(seed)
    texts = [
        " ".join([*source.choices(WORDS, k=num_words - 1), f"n{seed}x{i}"]) for i in range(num_rows)
    ]
    return Rows("made up", texts, source.choices(LABELS, k=num_rows))


def tell(what: str, started: float) -> None:
    """What is held now, the most that was held so far, and the time."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:<14}{now:6.0f} MiB, peak {peak:6.0f} MiB, {time.monotonic() - started:6.1f} s")


# Alone in a process: what made the file is not to count. VmHWM is the peak of this one, while
# ru_maxrss begins with what the parent held.
READING = """
import sys, time
from pathlib import Path
import numpy, pandas, pyarrow.parquet
from sentilora.data import Columns, load_rows

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

imports, started = peak(), time.monotonic()
rows = load_rows(sys.argv[1], "train", Columns(labels=tuple(sys.argv[2:])))
size = sum(map(len, rows.texts)) / 2**20
print(f"{len(rows):,} rows, {size:.0f} MiB of text: peak {peak():.0f} MiB, {imports:.0f} of it "
      f"imports, {time.monotonic() - started:.1f} s")
"""


def read(num_rows: int, num_words: int, form: str) -> None:
    """Peak of a process that reads a file with texts, labels and another column as large."""
    rows, more = (make_rows(num_rows, num_words, seed) for seed in (1, 2))
    frame = pd.DataFrame({"text": rows.texts, "label": rows.labels, "page": more.texts})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{form}"
        write_table(frame, path)
        subprocess.run([sys.executable, "-c", READING, str(path), *LABELS], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--words", type=int, default=15)
    parser.add_argument("--near-duplicates", action="store_true")
    parser.add_argument("--read", choices=("parquet", "jsonl", "csv"), help="only read such a file")
    options = parser.parse_args()
    if options.read:
        return read(options.rows, options.words, options.read)
    # Heavy imports first: they are no part of it.
    for name in ("cleanlab.filter", "datasketch", "pyarrow.parquet", "sklearn.linear_model"):
        import_module(name)

    started = time.monotonic()
    tell("imports", started)
    rows = make_rows(options.rows, options.words, 1)
    known = make_rows(2000, options.words, 2), make_rows(400, options.words, 3)
    tell("rows", started)
    result, scores = measure_rows(
        AtRandom(), rows, "at random", known, near_duplicates=options.near_duplicates
    )
    tell("measured", started)
    result = with_label_issues(result, scores, rows)
    tell("label issues", started)
    with tempfile.TemporaryDirectory() as folder:
        splits = {"train": known[0], "evaluation": known[1]}
        write_report(
            Path(folder), result, scores, rows, [], "", {}, lambda text: [(0, len(text))], splits
        )
    tell("report", started)
    result.to_json()
    tell("JSON", started)
    print(f"{len(result.label_issues.issues):,} label issues")


if __name__ == "__main__":
    main()
