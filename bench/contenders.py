"""Contenders of the benchmarks of quality: the task they share, and what one of them is.

bench/contest.py runs them, a process for each step; sentilora itself is one of them.
"""

import argparse
import json
import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

FIRST_SEED = 42
RECIPE_STEPS = 375  # of 2,000 rows: evaluations, checkpoints and warmup keep their share of fewer
WARM_UP = 32  # texts answered before the clock starts
TRAINING, ANSWERS = "training.json", "answers.parquet"


@dataclass(frozen=True)
class Answers:
    """What a contender answers to the test rows, in their order.

    labels: None for an answer that is no label. probabilities: (rows, labels); None if it has none.
    """

    labels: Sequence[str | None]
    probabilities: np.ndarray | None
    seconds: float
    facts: Mapping[str, Any]


class Contender(Protocol):
    """A way from training rows to answers. `facts` of either step go into the figures."""

    def train(self, task: "Task", seed: int, folder: Path) -> Mapping[str, Any]: ...

    def answer(self, task: "Task", seed: int, folder: Path) -> Answers: ...


class Task:
    """The base, the rows and the recipe, as `sentilora train` would take them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def config(self, seed: int, folder: Path, *more: str) -> Any:
        """The recipe for a run in a folder. more: overrides that those of the command line follow.

        With fewer rows than the recipe has, evaluations, checkpoints and warmup keep their share.
        """
        from sentilora.config import load_config

        options = self.options
        share = min(1.0, math.ceil(options.rows / 16) * 3 / RECIPE_STEPS)
        every = max(1, round(50 * share))
        return load_config(
            "tiny" if options.base == "embedded" else "mistral-7b",
            overrides=[
                f"base.name={options.base}",
                "base.device=auto",
                f"data.train={options.data}",
                f"data.test={options.data}",
                'data.label_map={ 0 = "negative", 1 = "positive" }',  # of IMDB as plain Parquet
                f"data.num_train={options.rows}",
                f"data.num_evaluation={options.evaluation_rows}",
                f"data.num_test={options.test_rows}",
                f"training.seed={seed}",
                f"training.eval_steps={every}",
                f"training.save_steps={2 * every}",
                f"training.warmup_steps={round(50 * share)}",
                f"output_dir={folder}",
                *more,
                *options.set,
            ],
        )

    @cached_property
    def any_config(self) -> Any:
        """The recipe, for what does not depend on a run."""
        return self.config(FIRST_SEED, self.options.output)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.any_config.prompt.labels)

    @cached_property
    def rows(self) -> tuple[Any, Any]:
        """Training and evaluation rows."""
        from sentilora.stages.from_config import load_rows_of

        return load_rows_of(self.any_config)

    @cached_property
    def test(self) -> Any:
        """The test rows."""
        from sentilora.stages.from_config import load_test_of

        return load_test_of(self.any_config, self.labels)


class Sentilora:
    """`sentilora train`, then the adapter's probabilities.

    calibrates: divide scores by the temperature that `sentilora evaluate` would store.
    """

    def __init__(self, calibrates: bool = False) -> None:
        self.calibrates = calibrates

    def train(self, task: Task, seed: int, folder: Path) -> Mapping[str, Any]:
        from sentilora import train

        result = train(task.config(seed, folder / "run"))
        return {
            "loop_seconds": result.train_seconds,
            "num_steps": result.num_steps,
            "best_step": result.best_step,
            "peak_memory_gib": result.peak_memory_gib,
        }

    def answer(self, task: Task, seed: int, folder: Path) -> Answers:
        from sentilora import Classifier
        from sentilora.scoring.answers import at_temperature

        adapter = folder / "run"
        if not (folder / TRAINING).exists():
            adapter = best_checkpoint(adapter)
        classifier = Classifier.load(adapter)
        divisor = self._temperature(classifier, task.rows[1]) if self.calibrates else 1.0
        texts = task.test.texts
        classifier.predict_proba(texts[:WARM_UP])
        forget_peak()
        started = time.perf_counter()
        scores = np.concatenate([piece.log_probs for piece in classifier.score(texts)])
        seconds = time.perf_counter() - started
        probabilities = at_temperature(scores, divisor)
        facts = {"temperature": divisor, "peak_memory_gib": peak_memory()}
        if divisor != 1:
            truth = [task.labels.index(label) for label in task.test.labels]
            facts["at_temperature_1"] = figures_of(at_temperature(scores, 1.0), truth)
        return Answers(likeliest(probabilities, task.labels), probabilities, seconds, facts)

    def _temperature(self, classifier: Any, rows: Any) -> float:
        """The temperature that helps on the evaluation rows, as `evaluate` chooses it."""
        from sentilora.evaluation.calibration import MIN_ROWS, choose_temperature

        if len(rows) < MIN_ROWS:
            return 1.0
        scores = np.concatenate([piece.log_probs for piece in classifier.score(rows.texts)])
        truth = [classifier.labels.index(label) for label in rows.labels]
        return choose_temperature(scores, truth).divisor


def likeliest(probabilities: np.ndarray, labels: Sequence[str]) -> list[str | None]:
    """The most probable label of each row."""
    return [labels[i] for i in probabilities.argmax(-1)]


def best_checkpoint(run: Path) -> Path:
    """The best complete checkpoint of a run that was stopped. Ends the process if it has none."""
    from sentilora.folders.checkpoints import STATE_FILE, checkpoints

    complete = [path for path in checkpoints(run).values() if (path / STATE_FILE).exists()]
    if not complete:
        raise SystemExit("stopped before its first checkpoint")
    best = json.loads((complete[-1] / STATE_FILE).read_text(encoding="utf-8"))
    path = run / Path(best["best_model_checkpoint"] or "").name
    return path if path in complete else complete[-1]


def forget_peak() -> None:
    """Start measuring the peak of GPU memory."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> float | None:
    """Peak of allocated GPU memory in GiB; None on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


# --- a step of a run -----------------------------------------------------------------------------


def run_step(options: argparse.Namespace, contender: Contender) -> None:
    """Train or answer, in this process."""
    from sentilora.models.device import spin_briefly

    spin_briefly()
    # A shell that starts jobs in the background lets them ignore Ctrl-C, and children inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    task, folder = Task(options), options.output / f"{options.run}-seed-{options.seed}"
    if options.step == "train":
        num_rows = sum(map(len, task.rows))  # read before the clock starts
        started = time.perf_counter()
        facts = contender.train(task, options.seed, folder)
        seconds = time.perf_counter() - started
        content = {"call_seconds": seconds, "num_rows": num_rows, **facts}
        (folder / TRAINING).write_text(json.dumps(content, indent=1), encoding="utf-8")
        return
    write_answers(folder, task, contender.answer(task, options.seed, folder))


def write_answers(folder: Path, task: Task, answers: Answers) -> None:
    """The answers as a table, with what else is known about them."""
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, Any] = {
        "row": np.array(task.test.numbers),
        "label": task.test.labels,
        "prediction": pa.array(answers.labels, pa.string()),
    }
    if answers.probabilities is not None:
        for number, label in enumerate(task.labels):
            columns[f"probability_{label}"] = answers.probabilities[:, number]
    facts = {"labels": task.labels, "seconds": answers.seconds, **answers.facts}
    table = pa.table(columns).replace_schema_metadata({"facts": json.dumps(facts)})
    parquet.write_table(table, folder / ANSWERS)


def figures_of(probabilities: np.ndarray, truth: Sequence[int]) -> dict[str, float]:
    """What the product measures of probabilities."""
    from sentilora.metrics import measure_fully

    metrics = measure_fully(probabilities, truth)
    return {
        "log_loss": metrics.log_loss,
        "expected_calibration_error": metrics.expected_calibration_error,
        "brier": metrics.brier,
    }
