"""Fine-tune: rows → examples → base in NF4 → adapter → training → the best adapter on disk.

sentilora train --preset mistral-7b
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from sentilora.adapter_folder import BaseReference, ClassifierFile, lora_to_continue
from sentilora.card import write_model_card
from sentilora.config import CONFIG_FILE, Config, read_config
from sentilora.device import choose_device, require_device
from sentilora.errors import (
    DataError,
    Interrupted,
    SentiloraError,
    UsageError,
    refused_settings,
    training_errors,
)
from sentilora.model import (
    attach_adapter,
    beyond_positions,
    checkpoint_activations,
    count_parameters,
    install_engine,
    load_adapter,
    require_engine,
    resolve_base,
)
from sentilora.overview import look_over, look_over_lengths
from sentilora.progress import is_main_process, say
from sentilora.prompt import Prompter
from sentilora.recipe import recipe_faults
from sentilora.run_folder import (
    PROBABILITIES_FILE,
    TrainingResult,
    data_record,
    last_checkpoint,
    require_same_rows,
    require_same_settings,
    require_single_run,
    require_unused,
    resume_command,
    save_data_record,
)
from sentilora.splits import label_weights
from sentilora.stages import (
    check_steps,
    count_steps,
    load_base_of,
    load_rows_of,
    others_test,
    prompt_format_of,
    rows_per_step,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from peft import PeftModel
    from transformers import TrainingArguments

    from sentilora.data import Rows
    from sentilora.engine.graph import FlatParameters
    from sentilora.engine.swap import Engine
    from sentilora.model import Base
    from sentilora.overview import Overview
    from sentilora.prompt import Example, Prompt
    from sentilora.trainer import ClassifierTrainer

T = TypeVar("T")
CURVE_FILE = "training_curve.png"


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
    splits = {"train": train_rows, "evaluation": eval_rows}
    overview, record = look_over(splits), data_record(splits)
    checkpoint = find_checkpoint(folder, config, record, len(train_rows)) if resume else None
    if not resume:
        require_unused(folder)
    show_overview(overview)
    untrained = [label for label in format.labels if label not in train_rows.labels]
    if untrained:
        say(f"warning: no training row is {', '.join(untrained)}; that answer is not learnt")

    if warning := others_test(config):
        say(f"warning: {warning}")

    check_recipe(config)
    asked = config.engine
    require_engine(
        asked.implementation, asked.base_matmul, asked.assume_capability, config.base.device
    )
    base = load_base_of(config)
    say(f"base {config.base.name} on {base.device} in {str(base.dtype)[6:]} ({base.dtype_reason})")
    if base.cached_in is not None:
        done = "read in NF4 from" if base.from_cache else "kept in NF4 for the next start in"
        say(f"base {done} {base.cached_in}")
    prompter = Prompter(base.tokenizer, format)
    examples = encode_training(prompter, train_rows, config.data.balance)
    prompts = [prompter.encode(text) for text in eval_rows.texts]
    if beyond := beyond_positions(base.model, format.max_length):
        say(f"warning: {beyond}")
    lengths = look_over_lengths(examples)
    say(f"tokens per example: {lengths.tokens}")
    say(f"truncated to {format.max_length} tokens ({format.truncation}): {lengths.truncated}")
    model = prepare_model(config, base, adapter)
    say(str(count_parameters(model)))
    engine = install_engine(model, **config.engine.model_dump())
    if engine is None and config.training.gradient_checkpointing and base.device == "cuda":
        checkpoint_activations(base.model)

    reference = BaseReference(
        config.base.name, base.revision, config.base.quantization, config.base.double_quantization
    )
    classifier = ClassifierFile(format, reference, prompter.label_ids)
    truth = [format.labels.index(label) for label in eval_rows.labels]
    with refused_settings(), training_errors(folder):
        trainer = build_trainer(config, base, model, engine, classifier, examples, prompts, truth)
    with training_errors(folder):
        if is_main_process():
            folder.mkdir(parents=True, exist_ok=True)
            config.save(folder / CONFIG_FILE)
            save_data_record(folder, record)
        seconds = run(trainer, folder, checkpoint)
        if is_main_process():
            # Of the best weights, which are loaded now; unknown when resumed behind that
            # evaluation, and from other batches when several processes shared it.
            expected = trainer.best_probabilities
            if expected is None or trainer.accelerator.num_processes > 1:
                expected = trainer.scorer.probabilities(trainer.eval_prompts).numpy()
            trainer.save_model(str(folder))
            finish(trainer, base, config, overview, seconds, expected)
    trainer.accelerator.wait_for_everyone()
    return TrainingResult.load(folder)


# --- before --------------------------------------------------------------------------------------


def check_recipe(config: Config) -> None:
    """Raise `UsageError` for an optimizer, a schedule or a tracker that cannot be had here."""
    recipe = config.training
    faults = recipe_faults(
        optim=recipe.optim,
        lr_scheduler_type=recipe.lr_scheduler_type,
        report_to=recipe.report_to,
        device=choose_device(config.base.device),
    )
    if faults:
        raise UsageError(next(iter(faults.values())))


def find_checkpoint(folder: Path, config: Config, record: dict[str, Any], num_rows: int) -> Path:
    """The checkpoint to go on from, once recipe and rows are found to be those of the run."""
    if not (folder / CONFIG_FILE).is_file():
        raise DataError(f"{folder} holds no run to resume: {CONFIG_FILE} is missing")
    require_single_run(folder)
    require_same_settings(folder, read_config(folder / CONFIG_FILE).flat(), config.flat())
    require_same_rows(folder, record)
    patience = config.training.early_stopping_patience
    return last_checkpoint(folder, count_steps(config, num_rows), patience)


def show_overview(overview: "Overview") -> None:
    """The rows and what to warn of, as notices."""
    for name in overview.num_rows:
        say(f"{name}: {overview.describe(name)}")
    for warning in overview.warnings:
        say(f"warning: {warning}")


def encode_training(prompter: Prompter, rows: "Rows", balance: str) -> "list[Example]":
    """The training rows as examples, weighted by label when `balance` is "weights"."""
    weights = label_weights(rows.labels) if balance == "weights" else {}
    return [
        prompter.encode_example(text, label, weights.get(label, 1.0))
        for text, label in zip(rows.texts, rows.labels, strict=True)
    ]


def prepare_model(config: Config, base: "Base", adapter: str | Path | None) -> "PeftModel":
    """The base with a new adapter, or with the one to start from, seeded and ready to train."""
    from transformers import set_seed

    set_seed(config.training.seed)  # before the adapter is created: its A matrices are random
    if adapter is not None:
        return load_adapter(base.model, adapter, is_trainable=True)
    return attach_adapter(base.model, **config.lora.model_dump())


# --- training ------------------------------------------------------------------------------------


def training_arguments(config: Config, base: "Base", num_rows: int) -> "TrainingArguments":
    """The recipe in transformers' words."""
    import torch
    from transformers import TrainingArguments

    recipe = config.training
    num_steps = count_steps(config, num_rows)
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
        # A batch is a whole step; see ClassifierTrainer.training_step.
        per_device_train_batch_size=rows_per_step(config),
        gradient_accumulation_steps=1,
        per_device_eval_batch_size=recipe.per_device_eval_batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.lr_scheduler_type,
        warmup_steps=math.ceil(recipe.warmup_ratio * num_steps) or recipe.warmup_steps,
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
        restore_callback_states_from_checkpoint=True,  # early stopping's count of evaluations
    )
    if arguments.n_gpu > 1:
        say(
            f"one of {arguments.n_gpu} GPUs is used; for all: `accelerate launch --num_processes "
            f"{arguments.n_gpu} -m sentilora train …`"
        )
        arguments._n_gpu = 1
    return arguments


def build_trainer(
    config: Config,
    base: "Base",
    model: "PeftModel",
    engine: "Engine | None",
    classifier: ClassifierFile,
    examples: "Sequence[Example]",
    prompts: "Sequence[Prompt]",
    truth: Sequence[int],
) -> "ClassifierTrainer":
    """The Trainer with its callbacks."""
    from transformers import EarlyStoppingCallback, PrinterCallback

    from sentilora.engine.graph import FlatParameters, Graphs
    from sentilora.trainer import (
        ClassifierTrainer,
        Report,
        SaveBest,
        StopOnInterrupt,
        StopOnNaN,
    )

    recipe = config.training
    stop_on_nan, stop_on_interrupt = StopOnNaN(), StopOnInterrupt()
    # NaN last: Ctrl-C asks for a checkpoint, and none may hold a NaN.
    callbacks = [SaveBest(), Report(Path(config.output_dir)), stop_on_interrupt, stop_on_nan]
    if recipe.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(recipe.early_stopping_patience))
    arguments = training_arguments(config, base, len(examples))
    graphs = optimizer = None
    if engine is not None:
        if base.device == "cuda":
            flat = FlatParameters([p for p in model.parameters() if p.requires_grad])
            model.zero_grad = flat.zero_grad  # type: ignore[method-assign]
            graphs = Graphs(flat, engine.refresh)
        say(plan_engine(engine, config, examples, model))
        if graphs is not None:
            optimizer = one_launch_optimizer(graphs.flat, arguments, paged=not engine.keep_layers)
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
        engine=engine,
        graphs=graphs,
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(PrinterCallback)
    stop_on_nan.trainer = trainer
    return trainer


def plan_engine(
    engine: "Engine", config: Config, examples: "Sequence[Example]", model: "PeftModel"
) -> str:
    """How the engine runs this recipe's steps; the text says what was chosen."""
    from sentilora.engine.memory import Workload

    engine.refresh()
    lengths = [len(example.input_ids) for example in examples]
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    workload = Workload.of(lengths, rows_per_step(config), num_trained, config.training.optim)
    try:
        chosen = engine.plan(workload, config.engine.max_memory_gib)
    except MemoryError as error:
        raise SentiloraError(f"{error}; lower prompt.max_length, or take a smaller base") from error
    return f"fast engine, {chosen}"


def one_launch_optimizer(
    flat: "FlatParameters", arguments: "TrainingArguments", paged: bool
) -> "torch.optim.Optimizer | None":
    """The recipe's optimizer over all adapter matrices as one tensor, None where that would differ.

    AdamW treats every element alike; bitsandbytes' 8-bit states come in blocks of 256, and tensors
    below 4,096 elements keep 32 bits. paged: whether a paged optimizer's states may go to the host,
    for want of room on the GPU.
    """
    from transformers import Trainer

    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    if "is_paged" in settings:
        settings["is_paged"] &= paged
    is_8bit = settings.get("optim_bits") == 8
    if "adamw" not in arguments.optim or (is_8bit and not flat.is_like_separate(256, 4096)):
        return None
    group = {"params": [flat.whole], "weight_decay": arguments.weight_decay}
    return kind([group], **settings)


def callback(trainer: "ClassifierTrainer", kind: type[T]) -> T:
    """The trainer's callback of a kind."""
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, kind))


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
            f"`{resume_command(folder)}`"
        )
    return time.perf_counter() - started


# --- after ---------------------------------------------------------------------------------------


def finish(
    trainer: "ClassifierTrainer",
    base: "Base",
    config: Config,
    overview: "Overview",
    train_seconds: float,
    expected: "np.ndarray",
) -> None:
    """Reload what was saved, score it again, and write results, curve and model card."""
    import numpy as np
    import torch

    from sentilora.metrics import measure
    from sentilora.plots import training_curve
    from sentilora.scoring import LabelScorer
    from sentilora.trainer import Report

    folder = Path(config.output_dir)
    peak = None
    if base.device == "cuda":
        peak = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    before = trainer.engine
    if trainer.graphs is not None:
        trainer.graphs.forget()
    if before is not None:
        before.remove()
    model = load_adapter(trainer.accelerator.unwrap_model(trainer.model).unload(), folder)
    engine = None
    if before is not None:
        engine = install_engine(model, **config.engine.model_dump())
        assert engine is not None  # it fitted the same base before
        engine.take_plan(before)
    scorer = LabelScorer(
        model,
        trainer.classifier.label_ids,
        trainer.pad_token_id,
        base.dtype,
        config.training.per_device_eval_batch_size,
        engine,
    )
    probabilities = scorer.probabilities(trainer.eval_prompts).numpy()
    difference = float(abs(probabilities - expected).max())
    allowed = 0.0 if base.device == "cpu" else 1e-3
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
    np.save(folder / PROBABILITIES_FILE, probabilities)
    result.save(folder)
    training_curve(trainer.state.log_history, folder / CURVE_FILE)
    write_model_card(
        folder,
        result,
        base_name=config.base.name,
        revision=config.base.revision,
        quantization=config.base.quantization,
        r=config.lora.r,
        lora_alpha=config.lora.lora_alpha,
        labels=config.prompt.labels,
        source=config.data.train,
        num_rows=overview.num_rows,
    )
