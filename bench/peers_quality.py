"""Trainers of decision models against sentilora: same base, same rows, accuracy and calibration.

    python bench/peers_quality.py --base BASE --data imdb --output peers
    python bench/peers_quality.py --base BASE --data imdb --output small --peers sysone \
        --rows 48 --evaluation-rows 16 --test-rows 24

BASE is a folder or a hub id, not in 4 bits; imdb is a folder with train.parquet and test.parquet.
The peers are used as their documentation says, each from its own package, and only where that is
installed (nothing else of them is needed than torch, transformers, peft, bitsandbytes, pydantic):

    sysone           sysone 0.5.2
    decisionformer   decisionformer 0.2.0, with omegaconf and PyYAML; its metadata also asks for
                     sentencepiece and protobuf, which it imports only for tokenizers that need them

Unsloth's `FastDecisionModel` is left out: the part of its public documentation that was within
reach shows how such a model answers, and not how its trainer is called.

Every peer trains twice: "own" is with its own defaults, QLoRA, and "ours" with the recipe's rank,
scale, dropout, epochs, rows a step, learning rate, schedule and evaluations, on all layers. All of
them, sentilora too, get 2,000 rows to train on, 400 to choose a checkpoint and a temperature, and
the texts as sentilora's prompt shows them. sysone draws its validation rows itself: it gets both
kinds together, and the share to draw. By default it keeps 70 % of the layers. Long texts are cut as
each one cuts them: sysone at the 95th percentile of the lengths, decisionformer at 1,024 tokens,
both at the end; sentilora at 512, at the beginning. On a CPU sysone trains LoRA, by its own choice.

Reported: accuracy with the Wilson interval, ECE (15 bins) and log-loss with each one's temperature
(sentilora: the one `sentilora evaluate` would store), seconds of the training call with loading and
evaluations, rows scored per second, and exact McNemar against sentilora with the same seed.
Training stops after --minutes; then the best checkpoint answers, if there is one, sysone's without
a temperature, which it fits at the end.
"""

import json
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from contenders import (
    WARM_UP,
    Answers,
    Contender,
    Sentilora,
    Task,
    forget_peak,
    likeliest,
    peak_memory,
    run_step,
)
from contest import compared, line_of, machine_of, parser_of, run_all, write_results
from own_data import line

KEY = "sentiment"  # of the one question
HEADER = ("", "seed", "accuracy", "95 %", "ECE", "log-loss", "training s", "rows/s",
          "GiB training", "difference to sentilora (95 %)", "p", "note")  # fmt: skip


def main() -> None:
    parser = parser_of(__doc__.split("\n")[0], minutes=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", default="sysone,decisionformer", help="separated by commas")
    parser.add_argument("--settings", default="own,ours", help="separated by commas")
    options = parser.parse_args()
    contenders: dict[str, Contender] = {"sentilora": Sentilora(calibrates=True)}
    for setting in ("own", "ours"):
        contenders[f"sysone-{setting}"] = Sysone(setting)
        contenders[f"decisionformer-{setting}"] = Decisionformer(setting)
    if options.run:
        return run_step(options, contenders[options.run])
    names = ["sentilora"]
    for peer in options.peers.split(","):
        if peer == "unsloth":
            print("unsloth is left out: it is not documented how its trainer is called", flush=True)
            continue
        names += [f"{peer}-{setting}" for setting in options.settings.split(",")]
        if unknown := [name for name in names if name not in contenders]:
            parser.error(f"there is no contender {unknown[0]}")
        if find_spec(peer) is None:
            print(f"{peer} is left out: the package is not installed", flush=True)
            names = [name for name in names if not name.startswith(peer)]
    options.output.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = [(name, seed) for name in names for seed in seeds]
    runs = run_all(options, jobs, machine_of(options))
    answered = [(run["contender"], run["seed"]) for run in runs if run["metrics"]]
    comparisons = [
        compared(options.output, job, ("sentilora", job[1]))
        for job in answered
        if job[0] != "sentilora" and ("sentilora", job[1]) in answered
    ]
    write_results(options, runs, comparisons, text_of(runs, comparisons))
    if len(runs) < len(jobs):
        raise SystemExit("some runs failed; their logs say why")


def question_of(task: Task) -> dict[str, Any]:
    """The task as a question, in the form that the peers share."""
    from sentilora.stages.from_config import prompt_format_of

    format = prompt_format_of(task.any_config)
    *others, last = format.labels
    instruction = format.instruction.format(labels=f"{', '.join(others)} or {last}")
    return {"type": "choice", "instructions": instruction,
            "criteria": dict.fromkeys(format.labels)}  # fmt: skip


def records_of(task: Task, rows: Any) -> list[dict[str, Any]]:
    """Rows as records with one question and its answer."""
    questions = {KEY: question_of(task)}
    return [
        {"id": str(number), "state": text, "questions": questions, "gold": {KEY: label}}
        for number, text, label in zip(rows.numbers, texts_of(rows), rows.labels, strict=True)
    ]


def texts_of(rows: Any) -> list[str]:
    """The texts as sentilora's prompt shows them."""
    from sentilora.data.text import clean_text

    return [clean_text(text) for text in rows.texts]


def answers_from(task: Task, predict: Any, facts: Mapping[str, Any]) -> Answers:
    """Answers to the test rows. predict: turns texts into {label: probability} of each."""
    texts = texts_of(task.test)
    predict(texts[:WARM_UP])
    forget_peak()
    started = time.perf_counter()
    results = predict(texts)
    seconds = time.perf_counter() - started
    probabilities = np.array([[result[label] for label in task.labels] for result in results])
    facts = {**facts, "peak_memory_gib": peak_memory()}
    return Answers(likeliest(probabilities, task.labels), probabilities, seconds, facts)


# --- the peers -----------------------------------------------------------------------------------


class Sysone:
    """sysone's `DecoderModel`. setting: "own" or "ours"."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def train(self, task: Task, seed: int, folder: Path) -> Mapping[str, Any]:
        from sysone import SystemOneModel

        config = task.config(seed, folder)
        train, evaluation = task.rows
        chosen = self._ours(config, len(train)) if self.setting == "ours" else {}
        model = SystemOneModel(
            config.base.name,
            seed=seed,
            validation_fraction=len(evaluation) / (len(train) + len(evaluation)),
            checkpoint_dir=str(folder / "model"),  # it cannot save a Path
            **chosen,
        )
        records = [
            {"state": record["state"], "questions": record["questions"], "expected": record["gold"]}
            for record in records_of(task, train) + records_of(task, evaluation)
        ]
        forget_peak()
        model.fit(records)
        return {
            "peak_memory_gib": peak_memory(),
            "num_steps": max((entry["step"] for entry in model.history_), default=None),
            "history": model.history_,
            "report": model.report_,
            "tuning": model.tuning_,
        }

    def _ours(self, config: Any, num_rows: int) -> dict[str, Any]:
        """The recipe in sysone's terms."""
        from sentilora.stages.from_config import count_steps, rows_per_step

        lora, recipe = config.lora, config.training
        return {
            "num_layers": "all",
            "lora_layers": "all",
            "lora_targets": "all",
            "lora_rank": lora.r,
            "lora_alpha": lora.lora_alpha,
            "lora_dropout": lora.lora_dropout,
            "backbone_lr": float(recipe.learning_rate),
            "head_lr": float(recipe.learning_rate),  # it asks for less than 1e-3 with 16 rows
            "batch_size": rows_per_step(config),
            "epochs": int(recipe.num_train_epochs),
            "scheduler": recipe.lr_scheduler_type,
            "warmup_ratio": recipe.warmup_steps / count_steps(config, num_rows),
            "weight_decay": recipe.weight_decay,
            "validation_interval": recipe.eval_steps,
            "early_stopping": False,  # the best validation's weights come back all the same
        }

    def answer(self, task: Task, seed: int, folder: Path) -> Answers:
        from sysone import SystemOneModel

        if not (folder / "model").exists():
            raise SystemExit("stopped before it saved anything")
        model = SystemOneModel.load(folder / "model", verbose=0)
        questions = {KEY: question_of(task)}

        def predict(texts: Sequence[str]) -> list[dict[str, float]]:
            results = model.predict(list(texts), questions)
            return [result["answers"][KEY]["probabilities"] for result in results]

        return answers_from(task, predict, {"temperatures": model.temperatures_})


class Decisionformer:
    """decisionformer's `train`, with the readout of answer codes. setting: "own" or "ours"."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def train(self, task: Task, seed: int, folder: Path) -> Mapping[str, Any]:
        import decisionformer

        keep_cpu_layers_exact()
        config = task.config(seed, folder)
        files = {}
        for name, rows in zip(("train", "evaluation"), task.rows, strict=True):
            files[name] = str(folder / f"{name}.jsonl")
            lines = [json.dumps(record) + "\n" for record in records_of(task, rows)]
            Path(files[name]).write_text("".join(lines), encoding="utf-8")
        settings: dict[str, Any] = {
            "model": {"backbone": config.base.name, "head": {"type": "code_readout"}},
            "finetune": {"mode": "qlora"},
            "data": {
                "train": files["train"],
                "calibration": files["evaluation"],
                "eval": {"dev": files["evaluation"]},
            },
            "train": {"output_dir": str(folder / "run"), "seed": seed},
        }
        if self.setting == "ours":
            self._set_ours(settings, config)
        forget_peak()
        summary = decisionformer.train(settings)
        return {"peak_memory_gib": peak_memory(), "num_steps": summary["steps"],
                "best_step": summary["best_step"], "best": summary["best"]}  # fmt: skip

    def _set_ours(self, settings: dict[str, Any], config: Any) -> None:
        """The recipe in decisionformer's terms."""
        from sentilora.stages.from_config import rows_per_step

        recipe = config.training
        settings["finetune"]["lora"] = {
            **config.lora.model_dump(exclude={"target_modules"}),
            "target_modules": "all-linear",
        }
        settings["train"] |= {
            "epochs": int(recipe.num_train_epochs),
            "global_batch_size": rows_per_step(config),
            "lr": float(recipe.learning_rate),
            "weight_decay": recipe.weight_decay,
            "scheduler": {
                "type": recipe.lr_scheduler_type,
                "warmup_steps": recipe.warmup_steps,
                "min_lr_ratio": 0.0,
            },
            "eval_every": recipe.eval_steps,
        }

    def answer(self, task: Task, seed: int, folder: Path) -> Answers:
        from decisionformer import AutoDecisionModel

        if not (folder / "run" / "best").exists():
            raise SystemExit("stopped before its first evaluation")
        model = AutoDecisionModel.from_pretrained(folder / "run" / "best")
        model.builder.overflow = "truncate_state_end"  # as in training; a served model refuses
        questions = {KEY: question_of(task)}

        def predict(texts: Sequence[str]) -> list[dict[str, float]]:
            results = model.decide_many([{"state": text, "questions": questions} for text in texts])
            return [result["answers"][KEY]["probabilities"] for result in results]

        facts = {"temperature": model.temperature, "by_type": model.temperature_by_type}
        return answers_from(task, predict, facts)


def keep_cpu_layers_exact() -> None:
    """Keep bitsandbytes from repacking 4-bit layers on a CPU: gradients are wrong afterwards.

    Its layers repack when a model is evaluated, and stay so when training goes on.
    """
    import torch

    from sentilora.models.four_bits import import_bitsandbytes

    if torch.cuda.is_available():
        return
    layer = import_bitsandbytes().nn.Linear4bit
    build = layer.__init__

    def build_exact(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        self.support_avx512bf16_for_cpu = False

    layer.__init__ = build_exact


# --- the table -----------------------------------------------------------------------------------


def text_of(runs: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The table, and what sentilora's probabilities are without its temperature."""
    tests = {tuple(comparison["first"]): comparison for comparison in comparisons}

    def figures(run: Mapping[str, Any]) -> list[str]:
        return figure_cells(run, tests.get((run["contender"], run["seed"])))

    rows = [line_of(run, len(HEADER), figures) for run in runs]
    notes = [
        f"sentilora, seed {run['seed']}, without its temperature of "
        f"{run['answering']['temperature']:.2f}: ECE {raw['expected_calibration_error']:.4f}, "
        f"log-loss {raw['log_loss']:.4f}"
        for run in runs
        if (raw := (run["answering"] or {}).get("at_temperature_1"))
    ]
    table = "\n".join([line(HEADER), line("---" for _ in HEADER), *rows])
    return "\n\n".join([table, *notes])


def figure_cells(run: Mapping[str, Any], test: Mapping[str, Any] | None) -> list[str]:
    """The cells of a run's figures. test: its comparison with sentilora."""
    metrics, training = run["metrics"], run["training"] or {}
    limit = run["stopped_after_minutes"]
    memory = training.get("peak_memory_gib")
    difference, p = "–", "–"
    if test is not None:
        difference = f"{100 * test['difference']:+.2f} " + "({:+.2f} to {:+.2f})".format(
            *(100 * bound for bound in test["interval"])
        )
        p = f"{test['p']:.2g}"
    return [
        f"{metrics['expected_calibration_error']:.4f}",
        f"{metrics['log_loss']:.4f}",
        f"{training['call_seconds']:.0f}" if training else f"> {60 * limit:.0f}",
        f"{run['answering']['rows_per_second']:.1f}",
        "–" if memory is None else f"{memory:.1f}",
        difference,
        p,
    ]


if __name__ == "__main__":
    main()
