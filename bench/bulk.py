"""What `predict --input … --output …` costs beyond scoring: memory for many rows, and time.

    python bench/bulk.py memory [--rows 100000,1000000] [--formats parquet,csv,jsonl]
    python bench/bulk.py speed [--rows 2000] [--rounds 3]

memory: the peak resident memory of a process for each input. Scorers are replaced by one that
answers at once, so the rest of the way is what is measured: reading, checks, units, writing.
speed: rows a second of the shipped adapter, short texts, against `Classifier.classify` on the same
texts in memory. Both have loaded the adapter, and scored a few texts, before the clock starts.
"""

import argparse
import csv
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

WORDS = [
    "a",
    "film",
    "which",
    "never",
    "was",
    "quite",
    "lovely",
    "or",
    "dull",
    "and",
    "long",
    "good",
]
OUTPUTS = ("out/", "out.jsonl")


def text(row: int, most: int) -> str:
    """A text of 1 to `most` words."""
    count = 1 + row * 7 % most
    return " ".join(WORDS[(row * 7 + place * place) % len(WORDS)] for place in range(count))


def write_rows(path: Path, num_rows: int, most: int) -> None:
    """Write `num_rows` rows with a text each, and every ten-thousandth without one."""
    rows = ({"id": n, "text": "" if n % 10_000 == 9 else text(n, most)} for n in range(num_rows))
    if path.suffix == ".parquet":
        _write_parquet(path, rows)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
            return
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        writer.writerows(row.values() for row in rows)


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import itertools

    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(itertools.islice(rows, 50_000)):
            writer.write_table(pa.Table.from_pylist(group, schema))


# --- memory --------------------------------------------------------------------------------------


def score_at_once(source: str, output: str) -> None:
    """Classify `source` with a scorer that costs nothing; print the process's peak in MiB."""
    from sentilora.bulk import scoring
    from sentilora.scoring.answers import Prediction
    from sentilora.scoring.classifier import Classifier
    from sentilora.stages.predict_file import predict_file

    probabilities = {"positive": 0.5, "negative": 0.5}
    stand_in: Any = SimpleNamespace(
        scorer=SimpleNamespace(restore_passes=lambda: False),
        classify=lambda texts, _: [Prediction(t, "positive", probabilities, False) for t in texts],
    )
    Classifier.load = lambda *_, **__: stand_in  # type: ignore[method-assign]
    scoring.computation_of = lambda *_: {"passes": None}
    predict_file(source, output)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure_memory(sizes: list[int], formats: list[str]) -> None:
    """Print the peak for each number of rows, format and kind of output."""
    print("| input | output | " + " | ".join(f"{size:,} rows" for size in sizes) + " | |")
    for suffix in formats:
        with tempfile.TemporaryDirectory() as folder:
            peaks: dict[str, list[float]] = {name: [] for name in OUTPUTS}
            for size in sizes:
                source = Path(folder, f"{size}.{suffix}")
                write_rows(source, size, 80)
                for name in OUTPUTS:
                    output = f"{folder}/{size}-{name}"
                    command = [sys.executable, __file__, "one", str(source), output]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    peaks[name].append(float(done.stdout))
            for name, found in peaks.items():
                figures = " | ".join(f"{peak:.0f} MiB" for peak in found)
                growth = found[-1] / found[0] - 1
                print(f"| {suffix} | {name} | {figures} | {growth:+.1%} |", flush=True)


# --- speed ---------------------------------------------------------------------------------------


def measure_speed(num_rows: int, rounds: int) -> None:
    """Print rows a second of both ways, by turns, and the median ratio of their CPU time."""
    from sentilora.scoring.classifier import Classifier
    from sentilora.stages.predict_file import predict_file

    classifier = Classifier.load()
    texts = [text(number, 30) for number in range(num_rows)]
    classifier.classify(texts[:64])
    Classifier.load = lambda *_, **__: classifier  # type: ignore[method-assign]
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.csv")
        with source.open("w", encoding="utf-8") as file:
            file.writelines(["text\n", *(f"{line}\n" for line in texts)])
        for number in range(rounds):
            in_memory = timed(partial(classifier.classify, texts))
            as_file = timed(partial(predict_file, source, f"{folder}/out{number}/"))
            ratios.append(in_memory[1] / as_file[1])
            for name, (seconds, cpu_seconds) in (("in memory", in_memory), ("as a file", as_file)):
                print(f"{name}: {num_rows / seconds:.1f} rows/s, {cpu_seconds:.1f} s CPU time")
    print(f"CPU time in memory / as a file: median {statistics.median(ratios):.3f}")


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of CPU time, which other work on the machine changes less."""
    start, cpu_start = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - cpu_start


def main() -> None:
    """Run one of the two measurements."""
    if sys.argv[1:2] == ["one"]:  # a process of its own for each peak
        score_at_once(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["memory", "speed"])
    parser.add_argument("--rows")
    parser.add_argument("--formats", default="parquet,csv,jsonl")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.what == "memory":
        sizes = [int(size) for size in (options.rows or "100000,1000000").split(",")]
        measure_memory(sizes, options.formats.split(","))
    else:
        measure_speed(int(options.rows or 2000), options.rounds)


if __name__ == "__main__":
    main()
