"""Fine-tune: rows → examples → base in NF4 → adapter → training → the best adapter on disk.

sentilora train --preset mistral-7b
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.config import CONFIG_FILE, Config, read_config
from sentilora.data.memory import InMemory
from sentilora.data.overview import look_over
from sentilora.data.rows import Rows
from sentilora.data.soft_labels import one_hot
from sentilora.data.splits import label_weights
from sentilora.errors import Interrupted
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.checkpoints import checkpoint_folder
from sentilora.folders.claim import claim
from sentilora.folders.classifier_file import FORMAT_VERSION, BaseReference, ClassifierFile
from sentilora.folders.run_folder import (
    Choices,
    DataRecord,
    TrainingResult,
    require_unused,
    require_writable,
)
from sentilora.models.adapters import (
    attach_adapter,
    checkpoint_activations,
    count_parameters,
    load_adapter,
)
from sentilora.models.base_source import resolve_base
from sentilora.models.bases import beyond_positions
from sentilora.models.device import choose_device, require_device
from sentilora.models.fast_path import install_engine
from sentilora.progress import detail, is_main_process, say
from sentilora.prompt import Prompter, PromptFormat
from sentilora.stages.automatic import fit
from sentilora.stages.data_warnings import data_warnings
from sentilora.stages.finish import finish
from sentilora.stages.from_config import (
    check_steps,
    held_out_test_of,
    load_base_of,
    prompt_format_of,
    require_prompt,
    rows_per_step,
    runtime_of,
    shipped_test_warning,
    tables_of,
    training_arguments_of,
    with_absolute_base,
    with_tables,
)
from sentilora.stages.rate_search import SEARCH, as_searched, search_rate
from sentilora.stages.starting_points import (
    find_checkpoint,
    require_run,
    warn_of_other_prompt,
    with_lora_of,
)
from sentilora.training.faults import divergence_recorded, refused_settings, training_errors
from sentilora.training.lengths import look_over_lengths
from sentilora.training.recipe import recipe_faults
from sentilora.wording import quoted

if TYPE_CHECKING:
    from peft import PeftModel

    from sentilora.models.bases import Base
    from sentilora.prompt import Example
    from sentilora.scoring.label_loss import SoftExample
    from sentilora.training.trainer import ClassifierTrainer


def train(
    config: Config,
    *,
    data: object = None,
    resume: bool = False,
    adapter: str | Path | None = None,
) -> TrainingResult:
    """Fine-tune a base, save the best adapter in `config.output_dir` and return its result.

    data: rows in memory instead of the configuration's sources: a table (pandas, `datasets`,
    pyarrow, polars) to train on, or a mapping with the splits "train", "validation" and "test".
    resume: whether to resume from the last checkpoint there. adapter: folder of an adapter whose
    weights to start from. Raises `UsageError`, `DataError`, `Interrupted` or `SentiloraError`; see
    `errors`.
    """
    # Errors that need no model are raised before torch is imported.
    config = with_absolute_base(config)
    folder = Path(config.output_dir)
    tables = tables_of(data, "train")
    config = with_tables(config, tables)
    require_prompt(config)
    require_device(config.base.device)
    resolve_base(config.base.name)
    start = None if adapter is None else AdapterFolder.open(adapter)
    if start is not None:
        config = with_lora_of(start, config)
    if resume:
        require_run(folder)
        config = as_searched(config, read_config(folder / CONFIG_FILE))
    else:
        require_writable(folder)
    with training_errors(folder):
        own_claim = claim(folder)
    with own_claim:
        if not resume:
            require_unused(folder)
        return train_in(folder, config, tables, start, resume)


def train_in(
    folder: Path,
    config: Config,
    tables: Mapping[str, InMemory],
    start: AdapterFolder | None,
    resume: bool,
) -> TrainingResult:
    """Train in a folder that this job holds."""
    fitted = fit(config, tables, start)
    config, rows, evaluation = fitted.config, fitted.rows, fitted.evaluation
    check_steps(config)
    format = prompt_format_of(config)
    record = DataRecord.of(rows, evaluation, held_out_test_of(config, tables))
    checkpoint = find_checkpoint(folder, config, record, len(rows)) if resume else None
    show_rows(config, rows, evaluation, tables)
    show_choices(fitted.lines())
    check_recipe(config)
    runtime_of(config).require_possible()
    choices = Choices.of(folder) if resume else Choices(settings=fitted.notes)
    if config.training.learning_rate == SEARCH:

        def train_once(trial: Config) -> TrainingResult:
            return train_in(Path(trial.output_dir), trial, tables, start, resume=False)

        rate, log_losses = search_rate(config, len(rows), train_once)
        config = config.with_values({"training.learning_rate": rate})
        choices = choices.model_copy(update={"learning_rates": log_losses})

    base = load_base_of(config)
    show_base(config, base)
    prompter = Prompter(base.tokenizer, format)
    if start is not None:
        warn_of_other_prompt(start, prompter.format)
    for warning in prompter.warnings:
        say(f"warning: {warning}")
    examples = encode_training(prompter, rows, config)
    show_lengths(examples, base, format)
    model = prepare_model(config, base, start)
    with refused_settings(), training_errors(folder):
        trainer = build_trainer(config, base, model, prompter, examples, evaluation)
    with training_errors(folder), divergence_recorded(folder):
        if is_main_process():
            config.save(folder / CONFIG_FILE)
            record.save(folder)
            choices.save(folder)
        seconds = run(trainer, folder, checkpoint)
        if is_main_process():
            finish(trainer, base, config, rows, evaluation, seconds, choices)
    trainer.accelerator.wait_for_everyone()
    return TrainingResult.load(folder)


# --- before a base is loaded ---------------------------------------------------------------------


def show_rows(config: Config, rows: Rows, evaluation: Rows, tables: Mapping[str, InMemory]) -> None:
    """Print the rows of each split, and warnings about them."""
    overview = look_over({"train": rows, "evaluation": evaluation}, config.prompt.labels)
    for name in overview.num_rows:
        say(f"{name}: {overview.describe(name)}")
    for line in overview.meanings:
        say(f"labels of {line}")
    for warning in (*overview.warnings, *data_warnings(config, rows, evaluation, tables)):
        say(f"warning: {warning}")
    if test_warning := shipped_test_warning(config):
        say(f"warning: {test_warning}")


def show_choices(lines: Sequence[str]) -> None:
    """Print the settings that were chosen to fit the data. lines: one each, with its reason."""
    if lines:
        say("chosen to fit these data; any of them can be set instead:")
        for line in lines:
            say(f"  {line}")


def check_recipe(config: Config) -> None:
    """Raise `UsageError` for an optimizer, a schedule or a tracker that is unavailable here."""
    recipe = config.training
    faults = recipe_faults(
        optim=recipe.optim,
        lr_scheduler_type=recipe.lr_scheduler_type,
        report_to=recipe.report_to,
        device=choose_device(config.base.device),
    )
    for fault in faults.values():
        raise fault


# --- before training -----------------------------------------------------------------------------


def show_base(config: Config, base: "Base") -> None:
    """Print the base, its device, and the folder of its quantized copy if one was written."""
    say(f"base {quoted(config.base.name)} on {base.device}")
    if base.cached_in is not None and not base.from_cache:
        say(f"NF4 base saved for later loads in {quoted(base.cached_in)}")


def show_lengths(
    examples: "Sequence[Example | SoftExample]", base: "Base", format: PromptFormat
) -> None:
    """Print the token lengths of the training examples, and how many texts were truncated."""
    if beyond := beyond_positions(base.model, format.max_length):
        say(f"warning: {beyond}")
    lengths = look_over_lengths(examples)
    detail(f"tokens per example: {lengths.tokens}")
    show = say if lengths.num_truncated else detail
    show(f"truncated to {format.max_length} tokens ({format.truncation}): {lengths.truncated}")


def encode_training(
    prompter: Prompter, rows: Rows, config: Config
) -> "Sequence[Example | SoftExample]":
    """The training rows as examples, for the loss that the configuration has for them."""
    weights = label_weights(rows.labels) if config.data.balance == "weights" else {}
    if has_shares(config, rows):
        from sentilora.scoring.label_loss import SoftExample

        shares = rows.shares or one_hot(rows.labels, prompter.format.labels)
        prompts = [prompter.encode(item) for item in rows.inputs]
        row_weights = [weights.get(label, 1.0) for label in rows.labels]
        return [
            SoftExample(prompt.input_ids, row_shares, prompt.truncated, weight)
            for prompt, row_shares, weight in zip(prompts, shares, row_weights, strict=True)
        ]
    return [
        prompter.encode_example(item, label, weights.get(label, 1.0))
        for item, label in zip(rows.inputs, rows.labels, strict=True)
    ]


def has_shares(config: Config, rows: Rows) -> bool:
    """Whether rows train with the shares of their labels, or with the tokens of the one label."""
    return bool(rows.shares) or config.training.loss == "labels"


def prepare_model(config: Config, base: "Base", start: AdapterFolder | None) -> "PeftModel":
    """The base with an adapter: a new one, with weights from the seed, or `start`."""
    from transformers import set_seed

    set_seed(config.training.seed)  # before the adapter exists: its A matrices are random
    if start is not None:
        model = load_adapter(base.model, start, is_trainable=True)
    else:
        model = attach_adapter(base.model, **config.lora.model_dump())
    detail(str(count_parameters(model)))
    return model


def build_trainer(
    config: Config,
    base: "Base",
    model: "PeftModel",
    prompter: Prompter,
    examples: "Sequence[Example | SoftExample]",
    evaluation: Rows,
) -> "ClassifierTrainer":
    """The Trainer with its callbacks, on the fast engine if it fits this base."""
    from transformers import PrinterCallback

    from sentilora.scoring.labels import LabelScorer
    from sentilora.training.fast_steps import prepare_fast_steps
    from sentilora.training.losses import loss_for
    from sentilora.training.trainer import ClassifierTrainer

    recipe, runtime = config.training, runtime_of(config)
    engine = install_engine(model, runtime)
    if engine is None and recipe.gradient_checkpointing and base.device == "cuda":
        checkpoint_activations(base.model)
    arguments = training_arguments_of(config, base, len(examples))
    scorer = LabelScorer(model, prompter.label_ids, base.pad_token_id, base.dtype, runtime, engine)
    loss = loss_for(examples[0], scorer)
    graphs = optimizer = None
    if engine is not None:
        lengths = [loss.num_tokens(example) for example in examples]
        graphs, optimizer = prepare_fast_steps(
            model, engine, lengths, rows_per_step(config), runtime.max_memory_gib, arguments
        )
    labels = prompter.format.labels
    trainer = ClassifierTrainer(
        model=model,
        args=arguments,
        train_dataset=list(examples),
        callbacks=callbacks_of(config),
        classifier=classifier_file_of(config, base, prompter),
        tokenizer=base.tokenizer,
        scorer=scorer,
        loss=loss,
        eval_prompts=[prompter.encode(item).input_ids for item in evaluation.inputs],
        eval_truth=[labels.index(label) for label in evaluation.labels],
        eval_shares=evaluation.shares,
        rows_per_pass=recipe.per_device_train_batch_size,
        graphs=graphs,
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def classifier_file_of(config: Config, base: "Base", prompter: Prompter) -> ClassifierFile:
    """The `classifier.json` of every checkpoint of this run."""
    settings = config.base
    reference = BaseReference(
        settings.name, base.revision, settings.quantization, settings.double_quantization
    )
    return ClassifierFile(
        format_version=FORMAT_VERSION,
        prompt=prompter.format,
        base=reference.seen_from(config.output_dir),
        label_ids=prompter.label_ids,
        runtime=runtime_of(config).record(base.dtype),
    )


def callbacks_of(config: Config) -> "list[object]":
    """The callbacks of a run, in the order in which Trainer calls them."""
    from transformers import EarlyStoppingCallback

    from sentilora.training.callbacks import Report, SaveBest, StopOnInterrupt

    callbacks = [SaveBest(), Report(Path(config.output_dir)), StopOnInterrupt()]
    patience = config.training.early_stopping_patience
    return [*callbacks, EarlyStoppingCallback(patience)] if patience else list(callbacks)


# --- training ------------------------------------------------------------------------------------


def run(trainer: "ClassifierTrainer", folder: Path, checkpoint: Path | None) -> float:
    """Train to the end, load the best checkpoint and return the training time in seconds."""
    import torch

    from sentilora.training.callbacks import Report, StopOnInterrupt, callback_of
    from sentilora.training.divergence import require_learned

    interrupt, report = callback_of(trainer, StopOnInterrupt), callback_of(trainer, Report)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        report.close()
        interrupt.restore()
    if interrupt.interrupted:
        step = trainer.state.global_step
        raise Interrupted(
            f"stopped after step {step}, with a checkpoint in "
            f"{quoted(checkpoint_folder(folder, step))}",
            setting="output_dir",
            seen=str(folder),
            remedy="continue with `resume` and the same `output_dir`",
        )
    seconds = time.perf_counter() - started
    if trainer.best_probabilities is None:  # resumed after the best evaluation, or none was made
        trainer.best_probabilities = trainer.score_evaluation()
    require_learned(
        trainer.best_probabilities,
        trainer.eval_truth,
        trainer.eval_prompts,
        trainer.state,
        trainer.args,
    )
    return seconds
