"""Fine-tune: rows → examples → base in NF4 → adapter → training → the best adapter on disk.

sentilora train --preset mistral-7b
"""

import hashlib
import json
import math
import os
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from sentilora.adapter_folder import BaseReference, ClassifierFile, lora_to_continue
from sentilora.card import write_model_card
from sentilora.config import CONFIG_FILE, Config, read_config
from sentilora.data import Columns, Rows
from sentilora.device import require_device
from sentilora.errors import DataError, Interrupted, SentiloraError, UsageError, first_line
from sentilora.model import (
    attach_adapter,
    checkpoint_activations,
    count_parameters,
    load_adapter,
    load_base,
    resolve_base,
)
from sentilora.overview import Overview, look_over, look_over_lengths
from sentilora.progress import is_main_process, say
from sentilora.prompt import Prompter, PromptFormat
from sentilora.splits import label_weights, load_splits

if TYPE_CHECKING:
    import numpy as np
    from peft import PeftModel

    from sentilora.metrics import Metrics
    from sentilora.model import Base
    from sentilora.prompt import Example, Prompt
    from sentilora.trainer import ClassifierTrainer

T = TypeVar("T")
DATA_FILE = "data.json"
RESULTS_FILE = "train_results.json"
CURVE_FILE = "training_curve.png"
# What may differ between a run and its continuation without changing the result.
FREE_ON_RESUME = {"output_dir", "training.report_to", "training.per_device_eval_batch_size"}


@dataclass(frozen=True)
class TrainingResult:
    """Where the adapter lies and how it did on the evaluation rows, after reloading it.

    step_seconds: median time of an optimizer step, without evaluations and saving. peak_memory_gib:
    most GPU memory allocated (None on a CPU). reload_difference: largest difference of a
    probability to the one seen while training.
    """

    output_dir: str
    metrics: "Metrics"
    best_step: int
    num_steps: int
    train_seconds: float
    step_seconds: float
    peak_memory_gib: float | None
    reload_difference: float


def columns_of(config: Config) -> Columns:
    """Columns and labels of a configuration."""
    data = config.data
    return Columns(data.text_column, data.label_column, data.label_map, config.prompt.labels)


def prompt_format_of(config: Config) -> PromptFormat:
    """The prompt format of a configuration."""
    return PromptFormat(**config.prompt.model_dump())


def load_rows_of(config: Config) -> tuple[Rows, Rows]:
    """Training and evaluation rows of a configuration."""
    data = config.data
    return load_splits(
        train=data.train,
        evaluation=data.evaluation,
        test=data.test,
        columns=columns_of(config),
        num_train=data.num_train,
        num_evaluation=data.num_evaluation,
        seed=data.shuffle_seed,
        balance=data.balance,
    )


def load_base_of(config: Config) -> "Base":
    """The base of a configuration, loaded."""
    base = config.base
    return load_base(
        base.name,
        revision=base.revision,
        device=base.device,
        quantization=base.quantization,
        double_quantization=base.double_quantization,
        compute_dtype=base.compute_dtype,
        attn_implementation=base.attn_implementation,
    )


def train(
    config: Config, *, resume: bool = False, adapter: str | Path | None = None
) -> TrainingResult:
    """Fine-tune as `config` says and save the best adapter in `config.output_dir`.

    resume: go on from the last checkpoint there. adapter: start from this adapter's weights.
    Raises `UsageError`, `DataError`, `Interrupted` or `SentiloraError`; see `errors`.
    """
    # What can be wrong without a model is said before torch is imported.
    folder = Path(config.output_dir)
    format = prompt_format_of(config)
    check_steps(config)
    require_device(config.base.device)
    resolve_base(config.base.name)
    if adapter is not None:
        lora = lora_to_continue(Path(adapter), config.base.name, format, config.lora.model_dump())
        config = config.with_values({f"lora.{name}": value for name, value in lora.items()})
    train_rows, eval_rows = load_rows_of(config)
    overview = look_over({"train": train_rows, "evaluation": eval_rows})
    fingerprint = data_record(train_rows, eval_rows)
    checkpoint = find_checkpoint(folder, config, fingerprint, resume, len(train_rows))
    show_overview(overview)
    untrained = [label for label in format.labels if label not in train_rows.labels]
    if untrained:
        say(f"warning: no training row is {', '.join(untrained)}; that answer is not learnt")

    from transformers import set_seed

    base = load_base_of(config)
    say(f"base {config.base.name} on {base.device} in {str(base.dtype)[6:]} ({base.dtype_reason})")
    prompter = Prompter(base.tokenizer, format)
    weights = label_weights(train_rows.labels) if config.data.balance == "weights" else {}
    examples = [
        prompter.encode_example(text, label, weights.get(label, 1.0))
        for text, label in zip(train_rows.texts, train_rows.labels, strict=True)
    ]
    prompts = [prompter.encode(text) for text in eval_rows.texts]
    lengths = look_over_lengths(examples)
    say(f"tokens per example: {lengths.tokens}")
    say(f"truncated to {format.max_length} tokens ({format.truncation}): {lengths.truncated}")

    if config.training.gradient_checkpointing and base.device == "cuda":
        checkpoint_activations(base.model)
    set_seed(config.training.seed)  # before the adapter is created: its A matrices are random
    if adapter is not None:
        model = load_adapter(base.model, adapter, is_trainable=True)
    else:
        model = attach_adapter(base.model, **config.lora.model_dump())
    say(str(count_parameters(model)))

    reference = BaseReference(
        config.base.name, base.revision, config.base.quantization, config.base.double_quantization
    )
    classifier = ClassifierFile(format, reference, prompter.label_ids)
    truth = [format.labels.index(label) for label in eval_rows.labels]
    try:
        trainer = build_trainer(config, base, model, classifier, examples, prompts, truth)
    except (ValueError, ImportError, RuntimeError) as error:
        if isinstance(error, SentiloraError):
            raise
        # An optimizer, a schedule or a tracker that transformers does not know or find.
        raise UsageError(f"a training.* setting is refused: {first_line(error)}") from error
    with one_line_errors(folder):
        if is_main_process():
            folder.mkdir(parents=True, exist_ok=True)
            config.save(folder / CONFIG_FILE)
            (folder / DATA_FILE).write_text(json.dumps(fingerprint, indent=1) + "\n", "utf-8")
        seconds = run(trainer, folder, checkpoint)
        # Of the best weights, which are loaded now; unknown when resumed behind that evaluation.
        expected = trainer.best_probabilities
        expected = trainer.score_evaluation() if expected is None else expected
        if is_main_process():
            trainer.save_model(str(folder))
            finish(trainer, base, config, overview, seconds, expected)
    trainer.accelerator.wait_for_everyone()
    return read_result(folder)


# --- before --------------------------------------------------------------------------------------


def check_steps(config: Config) -> None:
    """The best checkpoint can only be kept when checkpoints fall on evaluations."""
    training = config.training
    if training.save_steps % training.eval_steps:
        raise UsageError(
            f"training.save_steps={training.save_steps} is no multiple of "
            f"training.eval_steps={training.eval_steps}; the best checkpoint could not be kept"
        )


def show_overview(overview: Overview) -> None:
    """The rows and what to warn of, as notices."""
    for name in overview.num_rows:
        say(f"{name}: {overview.describe(name)}")
    for warning in overview.warnings:
        say(f"warning: {warning}")


def data_record(train_rows: Rows, eval_rows: Rows) -> dict[str, Any]:
    """Hashes of the chosen rows, in order: what `data.json` holds."""
    splits = {"train": train_rows, "evaluation": eval_rows}
    hashes = {name: rows.hashes() for name, rows in splits.items()}
    return {
        name: {
            "source": splits[name].source,
            "num_rows": len(found),
            "sha256": hashlib.sha256("".join(found).encode()).hexdigest(),
            "rows": found,
        }
        for name, found in hashes.items()
    }


def count_steps(config: Config, num_rows: int) -> int:
    """Optimizer steps of the whole run."""
    recipe = config.training
    num_processes = int(os.environ.get("WORLD_SIZE", "1"))
    rows_per_step = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    steps_per_epoch = math.ceil(num_rows / (rows_per_step * num_processes))
    return recipe.max_steps or math.ceil(steps_per_epoch * recipe.num_train_epochs)


def find_checkpoint(
    folder: Path, config: Config, data: dict[str, Any], resume: bool, num_rows: int
) -> Path | None:
    """The checkpoint to go on from, None for a new run.

    Raises `UsageError` when the folder is in use or finished, or when recipe or data changed
    since; `DataError` when there is no checkpoint or it is damaged.
    """
    if not resume:
        in_use = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if in_use and is_main_process():
            raise UsageError(
                f"{folder} is in use; choose another with --output-dir, go on there with --resume, "
                "or remove it"
            )
        return None
    check_same_recipe(folder, config, data)
    if (folder / RESULTS_FILE).is_file():
        raise UsageError(f"the run in {folder} is finished; there is nothing to resume")
    # A checkpoint is complete once trainer_state.json, which is written last, is there. Behind the
    # last step there is nothing to train: such a run goes on from the one before.
    found = {
        int(path.parent.name.rpartition("-")[2]): path.parent
        for path in folder.glob("checkpoint-*/trainer_state.json")
        if path.parent.name.rpartition("-")[2].isdecimal()
    }
    found = {step: path for step, path in found.items() if step < count_steps(config, num_rows)}
    if not found:
        raise DataError(f"{folder} has no checkpoint to resume from; start again")
    checkpoint = found[max(found)]
    for path in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]:
        if not zipfile.is_zipfile(path):  # torch's files are; a truncated one is not
            raise DataError(f"{path} is damaged; remove {checkpoint} to go on from the one before")
    return checkpoint


def check_same_recipe(folder: Path, config: Config, data: dict[str, Any]) -> None:
    """Raise `UsageError` naming the key when recipe or rows differ from the run in `folder`."""
    if not (folder / CONFIG_FILE).is_file():
        raise DataError(f"{folder} holds no run to resume: {CONFIG_FILE} is missing")
    before, now = read_config(folder / CONFIG_FILE).flat(), config.flat()
    for key in sorted(now.keys() | before.keys()):
        if key not in FREE_ON_RESUME and before.get(key) != now.get(key):
            raise UsageError(
                f"{key} was {before.get(key)!r} in {folder} and is {now.get(key)!r} now; resume "
                "with the same recipe, or start a new --output-dir"
            )
    try:
        stored = json.loads((folder / DATA_FILE).read_text(encoding="utf-8"))
        changed = [name for name in data if stored[name]["sha256"] != data[name]["sha256"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / DATA_FILE} is missing or damaged; start again") from error
    if changed:
        name = changed[0]
        raise UsageError(
            f"the rows of data.{name} changed since {folder} was started "
            f"({stored[name]['num_rows']:,} rows then, {data[name]['num_rows']:,} now, other "
            "hashes); restore them, or start a new --output-dir"
        )


# --- training ------------------------------------------------------------------------------------


def build_trainer(
    config: Config,
    base: "Base",
    model: "PeftModel",
    classifier: ClassifierFile,
    examples: "Sequence[Example]",
    prompts: "Sequence[Prompt]",
    truth: Sequence[int],
) -> "ClassifierTrainer":
    """The Trainer, with the recipe translated into transformers' arguments."""
    import torch
    from transformers import EarlyStoppingCallback, PrinterCallback, TrainingArguments

    from sentilora.trainer import (
        ClassifierTrainer,
        Report,
        SaveBest,
        StopOnInterrupt,
        StopOnNaN,
    )

    recipe = config.training
    rows_per_step = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    num_steps = count_steps(config, len(examples))
    warmup_steps = math.ceil(recipe.warmup_ratio * num_steps) or recipe.warmup_steps
    optim = recipe.optim
    if base.device == "cpu" and optim.startswith("paged_"):
        optim = optim.removeprefix("paged_")
        say(f"training.optim: {recipe.optim} pages to host memory, on a CPU it is {optim}")
    arguments = TrainingArguments(
        output_dir=config.output_dir,
        use_cpu=base.device == "cpu",
        bf16=base.dtype == torch.bfloat16 and base.device == "cuda",
        fp16=base.dtype == torch.float16,
        num_train_epochs=recipe.num_train_epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=rows_per_step,  # a batch is a step; see training_step
        gradient_accumulation_steps=1,
        per_device_eval_batch_size=recipe.per_device_eval_batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.lr_scheduler_type,
        warmup_steps=warmup_steps,
        optim=optim,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed,
        logging_strategy="steps",
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=recipe.eval_steps,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=recipe.save_total_limit,
        load_best_model_at_end=True,
        metric_for_best_model="log_loss",
        greater_is_better=False,
        report_to=recipe.report_to,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=base.device == "cuda",
    )
    if arguments.n_gpu > 1:
        raise UsageError(
            f"{arguments.n_gpu} GPUs are visible to one process; set CUDA_VISIBLE_DEVICES=0, or "
            f"use all with `accelerate launch --num_processes {arguments.n_gpu} -m sentilora "
            "train …`"
        )
    stop_on_nan, stop_on_interrupt = StopOnNaN(), StopOnInterrupt()
    callbacks = [SaveBest(), Report(Path(config.output_dir)), stop_on_nan, stop_on_interrupt]
    if recipe.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(recipe.early_stopping_patience))
    trainer = ClassifierTrainer(
        model=model,
        args=arguments,
        train_dataset=list(examples),
        callbacks=callbacks,
        classifier=classifier,
        tokenizer=base.tokenizer,
        pad_token_id=base.pad_token_id,
        eval_prompts=[prompt.input_ids for prompt in prompts],
        eval_truth=truth,
        rows_per_pass=recipe.per_device_train_batch_size,
        dtype=base.dtype,
    )
    trainer.remove_callback(PrinterCallback)
    stop_on_nan.trainer = trainer
    return trainer


def callback(trainer: "ClassifierTrainer", kind: type[T]) -> T:
    """The trainer's callback of a kind."""
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, kind))


@contextmanager
def one_line_errors(folder: Path) -> Iterator[None]:
    """What breaks while training and saving, as errors of this package."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SentiloraError(
            "out of GPU memory while training; lower training.per_device_train_batch_size (and "
            "raise training.gradient_accumulation_steps by as much), set "
            "training.gradient_checkpointing=true, or lower prompt.max_length"
        ) from error
    except OSError as error:
        raise SentiloraError(f"cannot write to {folder}: {error}") from error
    except Exception as error:
        # A full disk: safetensors has an error of its own, torch.save a RuntimeError.
        if type(error).__name__ != "SafetensorError" and "PytorchStreamWriter" not in str(error):
            raise
        raise SentiloraError(f"cannot write to {folder}: {error}") from error


def run(trainer: "ClassifierTrainer", folder: Path, checkpoint: Path | None) -> float:
    """Train to the end and load the best; returns the seconds it took."""
    import torch

    from sentilora.trainer import Report, StopOnInterrupt

    interrupt, report = callback(trainer, StopOnInterrupt), callback(trainer, Report)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        report.close()
        interrupt.restore()
    if interrupt.interrupted:
        raise Interrupted(
            f"stopped after step {trainer.state.global_step}, saved in "
            f"{folder / f'checkpoint-{trainer.state.global_step}'}; go on with "
            f"`sentilora train --output-dir {folder} --resume`"
        )
    return time.perf_counter() - started


# --- after ---------------------------------------------------------------------------------------


def finish(
    trainer: "ClassifierTrainer",
    base: "Base",
    config: Config,
    overview: Overview,
    train_seconds: float,
    expected: "np.ndarray",
) -> None:
    """Reload what was saved, score it again, and write results, curve and model card."""
    import torch

    from sentilora.metrics import measure
    from sentilora.plots import training_curve
    from sentilora.scoring import LabelScorer
    from sentilora.trainer import Report

    folder = Path(config.output_dir)
    peak = None
    if base.device == "cuda":
        peak = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    model = load_adapter(trainer.accelerator.unwrap_model(trainer.model).unload(), folder)
    scorer = LabelScorer(
        model,
        trainer.classifier.label_ids,
        trainer.pad_token_id,
        base.dtype,
        config.training.per_device_eval_batch_size,
    )
    probabilities = scorer.probabilities(trainer.eval_prompts).numpy()
    difference = float(abs(probabilities - expected).max())
    # Several processes scored other batches than this one does: equal to rounding only.
    alone = trainer.accelerator.num_processes == 1
    allowed = 0.0 if base.device == "cpu" and alone else 1e-3
    if difference > allowed:
        raise SentiloraError(
            f"the adapter saved in {folder} scores differently after reloading: probabilities "
            f"differ by up to {difference:.2g}, allowed is {allowed:g}; please report this"
        )
    result = TrainingResult(
        output_dir=str(folder),
        metrics=measure(probabilities, trainer.eval_truth),
        best_step=trainer.state.best_global_step or trainer.state.global_step,
        num_steps=trainer.state.global_step,
        train_seconds=round(train_seconds, 1),
        step_seconds=round(median(callback(trainer, Report).step_seconds or [0.0]), 4),
        peak_memory_gib=peak,
        reload_difference=difference,
    )
    text = json.dumps(asdict(result), indent=2) + "\n"
    (folder / RESULTS_FILE).write_text(text, encoding="utf-8")
    training_curve(trainer.state.log_history, folder / CURVE_FILE)
    write_model_card(folder, config, overview, result)


def read_result(folder: Path) -> TrainingResult:
    """What `finish` wrote."""
    from sentilora.metrics import Metrics

    content = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
    return TrainingResult(**{**content, "metrics": Metrics(**content["metrics"])})
