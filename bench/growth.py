"""How time and memory grow with examples, length, labels, processes and rows scored.

    python bench/growth.py --base BASE --data imdb                      # a GPU
    python bench/growth.py --base embedded --data imdb --only labels    # a CPU

BASE and imdb are those of `bench/training.py`. Each line is a process of its own, which makes its
rows from those reviews and then runs the product's own code:

    examples    training rows: 2,000, 4 and 16 times as many
    length      every prompt cut to this many tokens
    labels      labels of two words, in training and in scoring; the adapter is new, so that it
                finds all labels nearly as probable, which costs most
    processes   GPUs, 16 rows a step for each ("weak") and 16 in all ("strong")
    rows        texts through `Classifier.classify`, tokenizer included

"s before" is the time in which rows are read, checked and turned into tokens, and the base is
loaded. A step's time is the median of those after the fifth, without captures and saves. GiB is the
GPU's peak allocation, and "GiB host" the largest resident memory of the process.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from training import (
    FIRST_TIMED,
    describe_machine,
    load_config_of,
    mean_tokens,
    prepare,
    step_seconds,
)

from sentilora.models.device import spin_briefly

CELLS: dict[str, list[Any]] = {
    "examples": [2000, 8000, 32_000],
    "length": [128, 512, 1024, 2048, 4096],
    "labels": [2, 64, 1000],
    "processes": [1, 2, 4],
    "rows": [1000, 4000],
}
NUM_SCORED = 100  # texts, with every size
ADJECTIVES = "amber bold calm dry early fair grand high idle just keen loud mild neat old pale"
NOUNS = "acorn basin cedar delta ember field grove harbor island jetty kettle lantern meadow north"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--only", default=",".join(CELLS))
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--sizes", type=int, nargs="+", help="only these, of one kind")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    spin_briefly()
    if options.cell:
        kind, size, folder = options.cell
        print(json.dumps(MEASURES[kind](int(size), Path(folder), options)))
        return
    import torch

    print(describe_machine(), flush=True)
    for kind in options.only.split(","):
        for size in CELLS[kind] if options.sizes is None else options.sizes:
            if kind != "processes":
                measure(kind, size, [sys.executable], options)
            elif size <= torch.cuda.device_count():
                launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
                for scaling in ("weak", "strong")[:size]:
                    rows = 4 if scaling == "weak" else 4 // size
                    measure(
                        f"processes, {scaling}", size, [*launcher, str(size)], options,
                        f"training.per_device_train_batch_size={rows}",
                    )  # fmt: skip


def measure(
    name: str, size: int, launcher: list[str], options: argparse.Namespace, *settings: str
) -> None:
    """Print a line: one size, measured in a process of its own."""
    kind = name.partition(",")[0]
    with TemporaryDirectory(prefix="growth-") as folder:
        command = [*launcher, __file__, *sys.argv[1:], "--cell", kind, str(size), folder]
        command += [part for setting in settings for part in ("--set", setting)]
        process = subprocess.run(command, capture_output=True, text=True)
    lines = [line for line in process.stdout.splitlines() if line.startswith("{")]
    if process.returncode or not lines:
        log = (process.stderr.strip() or "no output").splitlines()
        errors = [line for line in log if "Error: " in line] or log
        print(f"{name:<20}{size:>7,}  failed: {errors[-1]}", flush=True)
        return
    figures = json.loads(lines[0])
    words = ", ".join(f"{value:,.4g} {unit}" for unit, value in figures.items() if value)
    print(f"{name:<20}{size:>7,}  {words}", flush=True)


# --- rows ----------------------------------------------------------------------------------------


def write_rows(texts: list[str], labels: list[str], folder: Path) -> Path:
    """A table of labeled texts; each label in turn."""
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / "rows.parquet"
    own = path.with_suffix(f".{os.getpid()}")  # the processes of a launcher write the same rows
    cycle = itertools.islice(itertools.cycle(labels), len(texts))
    parquet.write_table(pa.table({"text": texts, "label": list(cycle)}), own)
    own.replace(path)
    return path


def reviews(data: str, num_rows: int) -> list[str]:
    """This many different texts: the reviews, numbered from the second time on."""
    from pyarrow import parquet

    files = sorted(Path(data).glob("*train*.parquet")) or sorted(Path(data).glob("*.parquet"))
    known = parquet.read_table(files[0])["text"].to_pylist()
    rounds, rest = divmod(num_rows, len(known))
    texts = [
        text if number == 0 else f"Review number {number} of its kind. {text}"
        for number in range(rounds + 1)
        for text in (known if number < rounds else known[:rest])
    ]
    return texts


def two_word_labels(count: int) -> list[str]:
    """Labels of two words, the same ones first."""
    numbers = range(1 + count // (16 * 14))
    names = itertools.product(numbers, ADJECTIVES.split(), NOUNS.split())
    return [f"{a} {b}{n or ''}" for n, a, b in itertools.islice(names, count)]


# --- what is measured ----------------------------------------------------------------------------


def train_steps(rows: Path, options: argparse.Namespace, *settings: str) -> dict[str, float]:
    """Seconds until the first step, seconds a step, and memory of a training on these rows."""
    from sentilora.stages.train import build_trainer, prepare_model

    started = time.perf_counter()
    options.data = str(rows)
    run = rows.parent / "run"  # shared by the processes of a launcher
    settings = (f"data.num_evaluation={NUM_SCORED}", f"output_dir={run}", *settings)
    config = load_config_of(options, *settings)
    base, prompter, examples, evaluation = prepare(config)
    loaded = time.perf_counter() - started
    model = prepare_model(config, base, None)
    trainer = build_trainer(config, base, model, prompter, examples, evaluation)
    seconds = statistics.median(step_seconds(trainer)[FIRST_TIMED:])
    rows_per_step = trainer.args.train_batch_size * trainer.args.world_size
    figures = {
        "s before": loaded,
        "s a step": seconds,
        "tokens/s": mean_tokens(examples) / 16 * rows_per_step / seconds,
        **memory(),
    }
    trainer.evaluate()
    started = time.perf_counter()
    trainer.evaluate()
    figures["ms a text scored"] = 1e3 * (time.perf_counter() - started) / len(evaluation)
    return figures


def memory() -> dict[str, float]:
    """Peak memory of this process on the GPU and on the host, GiB."""
    import torch

    gpu = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"GiB": gpu, "GiB host": host}


def with_examples(size: int, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """A training on this many rows."""
    num_rows = size + 2 * NUM_SCORED  # duplicates among the reviews are left out
    rows = write_rows(reviews(options.data, num_rows), ["positive", "negative"], folder)
    return train_steps(rows, options, f"data.num_train={size}")


def with_length(size: int, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """A training on rows that are all cut to this many tokens."""
    texts = reviews(options.data, 8 * 448)
    # Characters are enough of a measure: a token has fewer than eight on average.
    long = [" ".join(texts[i::448]) * (1 + size // 1024) for i in range(448)]
    rows = write_rows(long, ["positive", "negative"], folder)
    return train_steps(rows, options, "data.num_train=256", f"prompt.max_length={size}")


def with_labels(size: int, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """A training with this many labels, and texts scored with a new adapter."""
    labels = two_word_labels(size)
    rows = write_rows(reviews(options.data, 2400), labels, folder)
    settings = [f"prompt.labels={','.join(labels)}", "data.label_map={}", "data.num_train=1200"]
    settings += ["prompt.instruction=Name the kind of this text."]
    return train_steps(rows, options, *settings)


def with_processes(size: int, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """A training in this many processes, whose launcher runs this in each; the first one prints."""
    return with_examples(2000, folder, options)


def with_rows(size: int, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """This many texts classified."""
    from sentilora import Classifier, train

    adapter = write_rows(reviews(options.data, 64), ["positive", "negative"], folder)
    texts = reviews(options.data, size)
    options.data = str(adapter)
    config = load_config_of(options, "data.num_train=32", "training.max_steps=1")
    train(config)
    classifier = Classifier.load(config.output_dir)
    classifier.classify(texts[:100])
    started = time.perf_counter()
    classifier.classify(texts)
    return {"rows/s": size / (time.perf_counter() - started), **memory()}


MEASURES = {
    "examples": with_examples,
    "length": with_length,
    "labels": with_labels,
    "processes": with_processes,
    "rows": with_rows,
}


if __name__ == "__main__":
    main()
