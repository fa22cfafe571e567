"""Accuracy on a user's own data, by one command without a setting, beside TF-IDF.

    python bench/own_data.py examples/support.csv DATA/trec DATA/clinc150 --output tiny
    python bench/own_data.py DATA/* --output all --preset smollm2-135m --jobs 4 \
        --set base.name=smollm2 --set data.num_train=0

Each file or folder is trained on and evaluated once per seed, in a process of its own. Its folder
in the output folder gets the run, `seed-1.log` with what was printed, a report, and figures. Runs
whose figures are there are not run again, and a finished training is only evaluated. `results.md`
and `results.json` put the figures together.

The test rows are the same for every seed, so the interval of a mean comes from resampling these
rows, not from pooling seeds. McNemar's test is exact, per seed; the table shows the largest p.
`--jobs` runs share the machine, so their seconds say little.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from training import describe_machine

NUM_RESAMPLES = 10_000
ANSWERED = 0.95  # of the in-scope rows, where out-of-scope rows are told apart by confidence
HEADER = (
    "data", "labels", "train / evaluation / test", "accuracy (seeds)", "95 %", "TF-IDF",
    "difference (95 %)", "p", "macro-F1", "ECE", "train s", "evaluate s", "verdict",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="+", type=Path, help="labeled files, or folders of splits")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--out-of-scope", default="oos", help="label of rows that have no other")
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)  # the seed of a single run
    options = parser.parse_args()
    if options.run is not None:
        return measure(options, options.run)
    names = [path.stem for path in options.data]
    if len(set(names)) < len(names):
        raise SystemExit("two of the data sets have the same name")
    machine = describe_machine()
    print(machine, flush=True)
    seeds = range(1, options.seeds + 1)
    jobs = [(path, seed) for path in options.data for seed in seeds]
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda job: run(options, *job), jobs))
    results = []
    for path in options.data:
        runs = [figures for figures in done if figures is not None and figures["data"] == str(path)]
        if len(runs) == options.seeds:
            results.append(summary(options, path, runs))
    settings = {"preset": options.preset, "settings": options.set, "jobs": options.jobs}
    content = {"machine": machine, **settings, "data": results}
    (options.output / "results.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    table = "\n".join([line(HEADER), line("---" for _ in HEADER), *map(row_of, results)])
    text = "\n\n".join([table, *filter(None, map(out_of_scope_line, results))])
    (options.output / "results.md").write_text(f"{machine}\n\n{text}\n", encoding="utf-8")
    print(text)
    if len(results) < len(options.data):
        raise SystemExit("some runs failed; their logs say why")


# --- a run ---------------------------------------------------------------------------------------


def run(options: argparse.Namespace, path: Path, seed: int) -> dict[str, Any] | None:
    """The figures of a run, from its file or from a new process; None if that fails."""
    folder = options.output / path.stem
    folder.mkdir(parents=True, exist_ok=True)
    figures = folder / f"seed-{seed}.json"
    if not figures.exists():
        command = [sys.executable, __file__, str(path), "--output", str(options.output)]
        command += ["--preset", options.preset, "--run", str(seed)]
        for setting in options.set:
            command += ["--set", setting]
        with figures.with_suffix(".log").open("a", encoding="utf-8") as log:
            status = subprocess.run(command, stdout=log, stderr=log).returncode
        if status:
            lines = figures.with_suffix(".log").read_text(encoding="utf-8").strip().splitlines()
            print(f"{path.stem}, seed {seed}: failed: {lines[-1] if lines else status}", flush=True)
            return None
    result: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    if (result["data"], result["request"]) != (str(path), request_of(options)):
        raise SystemExit(f"{figures} comes from other data or settings; name another --output")
    accuracy = result["evaluation"]["adapter"]["accuracy"]
    print(f"{path.stem}, seed {seed}: {accuracy:.2%}, {result['train_seconds']:.0f} s", flush=True)
    return result


def request_of(options: argparse.Namespace) -> dict[str, Any]:
    """What determines a run besides its data and its seed."""
    return {"preset": options.preset, "settings": options.set}


def measure(options: argparse.Namespace, seed: int) -> None:
    """Train on the data with a seed and evaluate, in this process, and write the figures."""
    from sentilora import evaluate, load_config, train
    from sentilora.config import CONFIG_FILE, read_config
    from sentilora.evaluation import measuring
    from sentilora.folders.run_folder import DataRecord, TrainingResult

    measuring.MAX_EXPLAINED = 0  # a report's explanations of errors take minutes with many labels
    (path,) = options.data
    folder = options.output / path.stem / f"seed-{seed}"
    report = folder.with_name(f"{folder.name}-report")
    values = {"data.train": str(path), "output_dir": str(folder), "training.seed": seed}
    started = time.perf_counter()
    if not (folder / TrainingResult.FILE).exists():
        shutil.rmtree(folder, ignore_errors=True)  # a run that was stopped
        train(load_config(options.preset, overrides=options.set, values=values))
    training = TrainingResult.load(folder)
    trained = time.perf_counter()
    shutil.rmtree(report, ignore_errors=True)
    result = evaluate(folder, report=report)
    seconds = time.perf_counter() - trained
    record, config = DataRecord.load(folder), read_config(folder / CONFIG_FILE)
    log = folder.with_suffix(".log").read_text(encoding="utf-8").splitlines()
    figures = {
        "data": str(path),
        "request": request_of(options),
        "seed": seed,
        "num_rows": {name: split.num_rows for name, split in record.splits.items()},
        "train_seconds": training.train_seconds,
        "train_command_seconds": round(trained - started, 1),
        "evaluate_seconds": round(seconds, 1),
        "num_steps": training.num_steps,
        "best_step": training.best_step,
        "peak_memory_gib": training.peak_memory_gib,
        "warnings": [entry for entry in log if "warning:" in entry],
        "config": config.flat(),
        "evaluation": {**json.loads(result.to_json()), "explained": None, "leakage": None},
    }
    folder.with_suffix(".json").write_text(json.dumps(figures, indent=1), encoding="utf-8")


# --- several seeds -------------------------------------------------------------------------------


def summary(options: argparse.Namespace, path: Path, runs: Sequence[dict[str, Any]]) -> Any:
    """Means over the seeds with their intervals, what comes out of scope, and the runs."""
    from pyarrow import parquet

    tables = [
        parquet.read_table(
            options.output / path.stem / f"seed-{figures['seed']}-report" / "predictions.parquet"
        )
        for figures in runs
    ]
    truth = np.array(tables[0]["label"].to_pylist())
    correct = np.array([np.array(table["prediction"].to_pylist()) == truth for table in tables])
    accuracy, difference = correct.mean(0), None
    if "tfidf_prediction" in tables[0].column_names:
        answers = [np.array(table["tfidf_prediction"].to_pylist()) for table in tables]
        difference = accuracy - np.mean([answer == truth for answer in answers], 0)
    is_open = options.out_of_scope in runs[0]["evaluation"]["labels"]
    return {
        "name": path.stem,
        "num_labels": len(runs[0]["evaluation"]["labels"]),
        "num_rows": {**runs[0]["num_rows"], "test": len(truth)},
        "accuracy": float(accuracy.mean()),
        "interval": interval_of(accuracy),
        "difference": None if difference is None else float(difference.mean()),
        "difference_interval": None if difference is None else interval_of(difference),
        "out_of_scope": [out_of_scope(table, options.out_of_scope) for table in tables]
        if is_open
        else None,
        "runs": list(runs),
    }


def interval_of(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of a mean over rows, by resampling the rows."""
    counts = np.random.default_rng(0).multinomial(
        len(values), np.full(len(values), 1 / len(values)), NUM_RESAMPLES
    )
    low, high = np.quantile(counts @ values / len(values), [0.025, 0.975])
    return float(low), float(high)


def out_of_scope(table: Any, label: str) -> dict[str, dict[str, float]]:
    """Accuracy in scope, and how rows out of scope are told apart, of each model.

    auroc: of the largest probability. auroc_in_scope: of the largest probability of a label that is
    in scope. rejected: rows out of scope whose largest probability in scope is below that of 95 %
    of the rows in scope.
    """
    from sklearn.metrics import roc_auc_score

    truth = np.array(table["label"].to_pylist())
    inside, result = truth != label, {}
    for name, prefix in {"adapter": "", "tfidf": "tfidf_"}.items():
        if f"{prefix}prediction" not in table.column_names:
            continue
        start = f"{prefix}probability_"
        columns = [column for column in table.column_names if column.startswith(start)]
        probabilities = {column: table[column].to_numpy() for column in columns}
        confidence = np.max(list(probabilities.values()), 0)
        del probabilities[start + label]
        in_scope = np.max(list(probabilities.values()), 0)
        answers = np.array(table[f"{prefix}prediction"].to_pylist())
        says_outside = answers == label
        result[name] = {
            "in_scope_accuracy": float((answers == truth)[inside].mean()),
            "recall": float(says_outside[~inside].mean()),
            "precision": float((~inside)[says_outside].mean()) if says_outside.any() else 0.0,
            "auroc": float(roc_auc_score(inside, confidence)),
            "auroc_in_scope": float(roc_auc_score(inside, in_scope)),
            "rejected": float(
                (in_scope[~inside] < np.quantile(in_scope[inside], 1 - ANSWERED)).mean()
            ),
        }
    return result


# --- the table -----------------------------------------------------------------------------------


def line(cells: Any) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def row_of(result: dict[str, Any]) -> str:
    """A data set's line of the table; figures are means over the seeds."""
    runs, rows = result["runs"], result["num_rows"]
    evaluations = [figures["evaluation"] for figures in runs]
    metrics = [evaluation["adapter"] for evaluation in evaluations]
    baselines = [evaluation["baseline"] for evaluation in evaluations]
    tfidf, difference, largest = "–", "–", "–"
    if result["difference"] is not None:
        tfidf = f"{100 * np.mean([baseline['accuracy'] for baseline in baselines]):.1f}"
        low, high = (100 * bound for bound in result["difference_interval"])
        difference = f"{100 * result['difference']:+.1f} ({low:+.1f} to {high:+.1f})"
        largest = f"{max(e['comparisons']['baseline']['p'] for e in evaluations):.2g}"
    seeds = ", ".join(f"{100 * metric['accuracy']:.1f}" for metric in metrics)
    low, high = (100 * bound for bound in result["interval"])
    verdicts = sorted({evaluation["verdict"].partition(":")[0] for evaluation in evaluations})
    scores = [metric["macro_f1"] for metric in metrics if metric["macro_f1"] is not None]
    seconds = ("train_command_seconds", "evaluate_seconds")
    return line(
        [
            result["name"],
            str(result["num_labels"]),
            " / ".join(f"{rows[name]:,}" for name in ("train", "evaluation", "test")),
            f"{100 * result['accuracy']:.1f} ({seeds})",
            f"{low:.1f}–{high:.1f}",
            tfidf,
            difference,
            largest,
            f"{100 * np.mean(scores):.1f}" if scores else "–",
            f"{100 * np.mean([m['expected_calibration_error'] for m in metrics]):.1f}",
            *(f"{np.mean([figures[name] for figures in runs]):.0f}" for name in seconds),
            "; ".join(verdicts),
        ]
    )


def out_of_scope_line(result: dict[str, Any]) -> str:
    """The means of `out_of_scope`, a line per model; empty for data without such rows."""
    if not result["out_of_scope"]:
        return ""
    lines = []
    for model in result["out_of_scope"][0]:
        seeds = [figures[model] for figures in result["out_of_scope"]]
        mean = {name: 100 * np.mean([seed[name] for seed in seeds]) for name in seeds[0]}
        lines.append(
            f"{result['name']}, {model}: {mean['in_scope_accuracy']:.1f} % in scope; out of scope "
            f"recall {mean['recall']:.1f}, precision {mean['precision']:.1f}; AUROC of the largest "
            f"probability {mean['auroc']:.1f}, of the largest in scope "
            f"{mean['auroc_in_scope']:.1f}; {mean['rejected']:.1f} % rejected when "
            f"{ANSWERED:.0%} in scope are answered"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
