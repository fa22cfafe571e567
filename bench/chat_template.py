"""An instruct base in its own chat format against the plain template: same rows, same seeds.

    python bench/chat_template.py --base smollm2 --data imdb --output chat                  # a GPU
    python bench/chat_template.py --base smollm2 --data imdb --output chat --num-test 400

BASE is a hub id or a folder, such as the one that tools/smollm2.py makes; data is a source with
labeled training and test rows. Both templates train the preset once per seed and are measured on
the same test rows; the base alone, before any training, is measured under both too. Runs whose
figures are in the output folder are not run again. `results.md` and `results.json` have the table.

A difference is of the means over the seeds. Its interval comes from resampling the test rows.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from contenders import FIRST_SEED
from own_data import interval_of
from training import describe_machine

TEMPLATES = ("plain", "chat")
HEADER = (
    "template", "base alone", "trained: accuracy (seeds)", "log-loss", "ECE", "train s",
    "prompt tokens besides the text",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True, help="labeled training and test rows")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--preset", default="smollm2-135m")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-test", type=int, default=0, help="0: all test rows")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    print(machine, flush=True)
    runs = [
        measured(options, template, seed)
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for template in TEMPLATES
    ]
    rows = [row_of(template, [run for run in runs if run["template"] == template])
            for template in TEMPLATES]  # fmt: skip
    lines = [HEADER, ["---"] * len(HEADER), *rows]
    table = "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
    text = f"{machine}\n\n{table}\n\n{difference(options, runs)}\n"
    (options.output / "results.md").write_text(text, encoding="utf-8")
    content = {"machine": machine, "settings": options.set, "runs": runs}
    (options.output / "results.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(text)


def measured(options: argparse.Namespace, template: str, seed: int) -> dict[str, Any]:
    """The figures of a run, from its file or by training and evaluating now."""
    folder = options.output / f"{template}-{seed}"
    file = folder.with_suffix(".json")
    request = [options.base, options.data, options.preset, options.num_test, options.set]
    if not file.exists():
        figures = {"request": request, **train_and_evaluate(options, template, seed, folder)}
        file.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    run: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if run["request"] != request:
        raise SystemExit(f"{file} comes from other settings; name another --output")
    print(f"{template}, seed {seed}: {run['evaluation']['adapter']['accuracy']:.2%}", flush=True)
    return run


def train_and_evaluate(
    options: argparse.Namespace, template: str, seed: int, folder: Path
) -> dict[str, Any]:
    from sentilora import Classifier, evaluate, load_config, train
    from sentilora.evaluation import measuring

    measuring.MAX_EXPLAINED = 0  # a report's explanations of errors take minutes
    report = folder.with_name(f"{folder.name}-report")
    for path in (folder, report):  # of a run that was stopped
        shutil.rmtree(path, ignore_errors=True)
    values = {
        "base.name": options.base, "data.train": options.data, "data.test": options.data,
        "data.num_test": options.num_test, "training.seed": seed, "output_dir": str(folder),
    }  # fmt: skip
    if template == "chat":
        values["prompt.template"] = "chat"
    started = time.perf_counter()
    train(load_config(options.preset, overrides=options.set, values=values))
    seconds = time.perf_counter() - started
    result = evaluate(folder, report=report)
    prompter = Classifier.load(folder).prompter
    return {
        "template": template,
        "seed": seed,
        "train_command_seconds": round(seconds, 1),
        "frame_tokens": len(prompter.encode_parts(())),
        "prompt": prompter.format.to_dict(),
        "evaluation": {**json.loads(result.to_json()), "explained": None, "leakage": None},
    }


def row_of(template: str, runs: list[dict[str, Any]]) -> tuple[str, ...]:
    """A template's row: means over its seeds, and each seed's accuracy."""
    adapters = [run["evaluation"]["adapter"] for run in runs]

    def mean(name: str) -> float:
        return float(np.mean([figures[name] for figures in adapters]))

    each = " / ".join(f"{100 * figures['accuracy']:.2f}" for figures in adapters)
    return (
        template,
        f"{100 * runs[0]['evaluation']['base']['accuracy']:.1f} %",
        f"**{100 * mean('accuracy'):.2f} %** ({each})",
        f"{mean('log_loss'):.4f}",
        f"{mean('expected_calibration_error'):.3f}",
        f"{np.mean([run['train_command_seconds'] for run in runs]):.0f}",
        str(runs[0]["frame_tokens"]),
    )


def difference(options: argparse.Namespace, runs: list[dict[str, Any]]) -> str:
    """How much more accurate chat is than plain, on the same rows."""
    from pyarrow import parquet

    correct: dict[str, list[np.ndarray]] = {template: [] for template in TEMPLATES}
    for run in runs:
        report = options.output / f"{run['template']}-{run['seed']}-report"
        table = parquet.read_table(report / "predictions.parquet")
        truth, answers = (np.array(table[name].to_pylist()) for name in ("label", "prediction"))
        correct[run["template"]].append(answers == truth)
    values = np.mean(correct["chat"], 0) - np.mean(correct["plain"], 0)
    low, high = interval_of(values)
    return (
        f"chat − plain: {100 * values.mean():+.2f} points (95 % interval {100 * low:+.2f} to "
        f"{100 * high:+.2f}), {len(values):,} test rows, {options.seeds} seeds"
    )


if __name__ == "__main__":
    main()
