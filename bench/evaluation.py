"""Memory and time of `evaluate` without the model: a stand-in answers at random, at once.

python bench/evaluation.py --rows 200000
python bench/evaluation.py --words 240 --read parquet     only reads the rows, from such a file
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa

from sentilora.data.output import encode_table, write_encoded
from sentilora.data.rows import Rows
from sentilora.evaluation.measuring import label_issues_of, measure_rows
from sentilora.evaluation.page import Provenance, write_report
from sentilora.scoring.answers import TEXTS_AT_ONCE, Scores

LABELS = ("positive", "negative")
WORDS = ["film", "plot", "actor", "scene", "music", "story", "ending", "camera", "light", "cut"]


class RandomClassifier:
    """Stands in for a classifier: random scores, and no text truncated."""

    labels = LABELS
    reference = SimpleNamespace(name="at random")

    def __init__(self) -> None:
        self.source = np.random.default_rng(0)

    def score(
        self,
        texts: Sequence[str],
        progress: Callable[[int], object],
        *,
        with_base: bool = False,
    ) -> Iterator[Scores]:
        for start in range(0, len(texts), TEXTS_AT_ONCE):
            num = len(texts[start : start + TEXTS_AT_ONCE])
            log_probs, of_base = (
                np.log(self.source.dirichlet(np.ones(len(LABELS)), num)) for _ in range(2)
            )
            progress(num * (1 + with_base))
            yield Scores(log_probs, of_base if with_base else None, np.zeros(num, bool))


def make_rows(num_rows: int, num_words: int, seed: int) -> Rows:
    """Distinct texts with random labels."""
    source = random.Random(seed)
    texts = [
        " ".join([*source.choices(WORDS, k=num_words - 1), f"n{seed}x{i}"]) for i in range(num_rows)
    ]
    return Rows("random", texts, source.choices(LABELS, k=num_rows))


def report_usage(stage: str, started: float) -> None:
    """Prints memory now, its peak so far, and the time since `started`."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{stage:<14}{now:6.0f} MiB, peak {peak:6.0f} MiB, {time.monotonic() - started:6.1f} s")


# In a process of its own, so that creating the file does not count. VmHWM is the peak of this
# process, while ru_maxrss starts at its parent's.
READING = """
import sys, time
from pathlib import Path
import numpy, pandas, pyarrow.parquet
from sentilora.data.rows import Columns
from sentilora.data.sources import load_rows

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
    """Prints the peak of a process that reads a file of texts, labels and another large column."""
    rows, more = (make_rows(num_rows, num_words, seed) for seed in (1, 2))
    frame = pd.DataFrame({"text": rows.texts, "label": rows.labels, "page": more.texts})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows.{form}"
        write_encoded(encode_table(pa.Table.from_pandas(frame), path), path)
        subprocess.run([sys.executable, "-c", READING, str(path), *LABELS], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--words", type=int, default=15)
    parser.add_argument("--near-duplicates", action="store_true")
    parser.add_argument(
        "--read", choices=("parquet", "jsonl", "csv"), help="only read a file of this format"
    )
    options = parser.parse_args()
    if options.read:
        return read(options.rows, options.words, options.read)
    # Heavy imports first, so that they do not count.
    for name in ("cleanlab.filter", "datasketch", "pyarrow.parquet", "sklearn.linear_model"):
        import_module(name)

    started = time.monotonic()
    report_usage("imports", started)
    rows = make_rows(options.rows, options.words, 1)
    known = make_rows(2000, options.words, 2), make_rows(400, options.words, 3)
    report_usage("rows", started)
    measurement = measure_rows(
        RandomClassifier(), rows, "random", known, near_duplicates=options.near_duplicates
    )
    report_usage("measured", started)
    issues = label_issues_of(measurement)
    result = measurement.as_evaluation(label_issues=issues)
    report_usage("label issues", started)
    with tempfile.TemporaryDirectory() as folder:
        write_report(
            Path(folder),
            result,
            measurement.scores,
            rows,
            Provenance([], "", {}),
            lambda text: [(0, len(text))],
            {"train": known[0], "evaluation": known[1]},
        )
    report_usage("report", started)
    result.to_json()
    report_usage("JSON", started)
    print(f"{len(result.label_issues.issues):,} label issues")


if __name__ == "__main__":
    main()
