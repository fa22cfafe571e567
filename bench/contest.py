"""What benchmarks of quality share: contenders on the same rows, a process each, with a time limit.

bench/published_recipe.py and bench/peers_quality.py are built from it. A contender trains in one
process and answers the test rows in another. Its folder, OUTPUT/NAME-seed-N, gets `run.log`, what
it trained, `training.json` and `answers.parquet`; its figures go next to the folder. A run whose
figures are there is not run again, and a finished training only answers.

Training that lasts longer than the limit is interrupted as Ctrl-C does it. The run then answers
with its best checkpoint; one that has none is reported without figures.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from contenders import ANSWERS, FIRST_SEED, TRAINING, figures_of
from own_data import line
from training import describe_machine

SECONDS_TO_SAVE = 90  # an interrupted run has this long to save what it has


# --- the command line ----------------------------------------------------------------------------


def parser_of(description: str, *, minutes: float | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark of quality has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--base", required=True, help='folder, hub id or "embedded"')
    parser.add_argument("--data", required=True, help="IMDB as a folder of Parquet files")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--rows", type=int, default=2000, help="training rows")
    parser.add_argument("--evaluation-rows", type=int, default=400)
    parser.add_argument("--test-rows", type=int, default=0, help="0 takes all")
    parser.add_argument("--minutes", type=float, default=minutes, help="limit of each training")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # the contender of a single run
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--step", choices=["train", "answer"], help=argparse.SUPPRESS)
    return parser


def request_of(options: argparse.Namespace) -> dict[str, Any]:
    """What determines the runs besides contender and seed."""
    names = ("base", "data", "rows", "evaluation_rows", "test_rows", "set")
    return {name: getattr(options, name) for name in names}


def run_all(
    options: argparse.Namespace, jobs: Sequence[tuple[str, int]], machine: str
) -> list[dict[str, Any]]:
    """The figures of each (contender, seed) that has answers or was stopped, in this order."""
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda job: _run(options, *job, machine), jobs))
    return [figures for figures in done if figures is not None]


def _run(
    options: argparse.Namespace, contender: str, seed: int, machine: str
) -> dict[str, Any] | None:
    """The figures of a run, from its file or from new processes; None if one of these fails."""
    name = f"{contender}-seed-{seed}"
    path = options.output / f"{name}.json"
    request = request_of(options)
    if not path.exists():
        folder = options.output / name
        seconds: float | None = None
        stopped = (folder / "stopped").exists()
        if not stopped and not (folder / TRAINING).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            status, seconds = _process(folder, contender, seed, "train", options.minutes)
            if status is None:
                stopped = True
                (folder / "stopped").touch()
            elif status:
                return _failed(name, folder)
        status, _ = _process(folder, contender, seed, "answer", None)
        if status and not stopped:
            return _failed(name, folder)
        figures = {
            "contender": contender,
            "seed": seed,
            "request": request,
            "machine": machine,
            "jobs": options.jobs,
            "stopped_after_minutes": options.minutes if stopped else None,
            "command_seconds": seconds,
            "training": _read(folder / TRAINING),
            **_measured(folder, status == 0),
        }
        path.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    figures = _read(path)
    if figures["request"] != request:
        raise SystemExit(f"{path} comes from other data or settings; name another --output")
    print(_line_of(name, figures), flush=True)
    return figures


def _process(
    folder: Path, contender: str, seed: int, step: str, minutes: float | None
) -> tuple[int | None, float]:
    """Exit code of a step of a run, None if it was stopped at its limit, and seconds."""
    command = [sys.executable, *sys.argv, "--run", contender, "--seed", str(seed), "--step", step]
    started = time.perf_counter()
    with (folder / "run.log").open("a", encoding="utf-8") as log:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # the log shows how far it is
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        status: int | None
        try:
            status = process.wait(None if minutes is None else 60 * minutes)
        except subprocess.TimeoutExpired:
            status = None
            process.send_signal(signal.SIGINT)
            try:
                process.wait(SECONDS_TO_SAVE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return status, time.perf_counter() - started


def _failed(name: str, folder: Path) -> None:
    lines = (folder / "run.log").read_text(encoding="utf-8").strip().splitlines()
    print(f"{name}: failed: {lines[-1] if lines else 'it printed nothing'}", flush=True)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _line_of(name: str, figures: Mapping[str, Any]) -> str:
    limit = figures["stopped_after_minutes"]
    stopped = f", stopped after {limit:g} minutes" if limit is not None else ""
    if figures["metrics"] is None:
        return f"{name}: no checkpoint{stopped}"
    return f"{name}: {figures['metrics']['accuracy']:.2%}{stopped}"


# --- figures -------------------------------------------------------------------------------------


def _measured(folder: Path, has_answers: bool) -> dict[str, Any]:
    """Metrics and facts of a run's answers; None without answers."""
    if not has_answers:
        return {"metrics": None, "answering": None}
    from pyarrow import parquet

    from sentilora.metrics import wilson_interval

    table = parquet.read_table(folder / ANSWERS)
    facts = json.loads(table.schema.metadata[b"facts"])
    right, answers = right_of(table), table["prediction"].to_pylist()
    metrics = {
        "num_rows": len(right),
        "accuracy": float(right.mean()),
        "accuracy_interval": wilson_interval(int(right.sum()), len(right)),
        "no_label": answers.count(None) / len(answers),
    }
    names = [f"probability_{label}" for label in facts["labels"]]
    if names[0] in table.column_names:
        probabilities = np.stack([table[name].to_numpy() for name in names], -1)
        truth = [facts["labels"].index(label) for label in table["label"].to_pylist()]
        metrics |= figures_of(probabilities, truth)
    facts["rows_per_second"] = len(right) / facts["seconds"]
    return {"metrics": metrics, "answering": facts}


def right_of(table: Any) -> np.ndarray:
    """For each row whether the answer is its label."""
    return np.array(table["prediction"].to_pylist(), object) == np.array(
        table["label"].to_pylist(), object
    )


def right_answers(output: Path, contender: str, seed: int) -> np.ndarray:
    """The same for a run, whose answers are on disk."""
    from pyarrow import parquet

    return right_of(parquet.read_table(output / f"{contender}-seed-{seed}" / ANSWERS))


def compared(output: Path, first: tuple[str, int], second: tuple[str, int]) -> dict[str, Any]:
    """The first run's accuracy minus the second's, with Newcombe's interval and McNemar's p."""
    from sentilora.metrics import compare

    comparison = compare(right_answers(output, *first), right_answers(output, *second))
    return {"first": first, "second": second, **vars(comparison)}


# --- results -------------------------------------------------------------------------------------


def machine_of(options: argparse.Namespace) -> str:
    """This machine, printed."""
    machine = describe_machine()
    print(machine, flush=True)
    return machine


def write_results(
    options: argparse.Namespace,
    runs: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
    text: str,
) -> None:
    """results.json and results.md in the output folder; the latter printed too."""
    content = {"request": request_of(options), "runs": runs, "comparisons": comparisons}
    (options.output / "results.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    machines = "\n".join(dict.fromkeys(str(run["machine"]) for run in runs))
    (options.output / "results.md").write_text(f"{machines}\n\n{text}\n", encoding="utf-8")
    print(text)


def line_of(
    run: Mapping[str, Any], num_cells: int, figures: Callable[[Mapping[str, Any]], Sequence[str]]
) -> str:
    """A run's line of a table. figures: the cells between its interval and the note at the end."""
    limit, metrics = run["stopped_after_minutes"], run["metrics"]
    note = "" if limit is None else f"stopped after {limit:g} minutes"
    name = [run["contender"], str(run["seed"])]
    if metrics is None:
        return line([*name, *[""] * (num_cells - 3), f"{note}, no checkpoint"])
    low, high = (100 * bound for bound in metrics["accuracy_interval"])
    accuracy = [f"{100 * metrics['accuracy']:.2f}", f"{low:.2f}–{high:.2f}"]
    return line([*name, *accuracy, *figures(run), note])
