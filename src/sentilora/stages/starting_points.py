"""What a run starts from if it is not new: the weights of an adapter, or a checkpoint."""

from pathlib import Path

from sentilora.config import CONFIG_FILE, Config, read_config
from sentilora.errors import DataError, UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.checkpoints import last_checkpoint, step_of
from sentilora.folders.claim import require_free
from sentilora.folders.run_folder import (
    DataRecord,
    Divergence,
    TrainingResult,
    require_same_rows,
    require_same_settings,
    require_single_run,
)
from sentilora.progress import say
from sentilora.prompt import PromptFormat
from sentilora.stages.from_config import count_steps
from sentilora.wording import quoted


def with_lora_of(start: AdapterFolder, config: Config) -> Config:
    """The configuration, with the LoRA settings of the adapter to start from.

    Raises `UsageError` when the configuration was given another value for one of them.
    """
    lora = start.lora_to_continue(config.base.name, config.lora.model_dump())
    values = {f"lora.{name}": value for name, value in lora.items()}
    settings = config.flat()
    for key in sorted(config.chosen & values.keys()):
        setting, value = settings[key], values[key]
        if setting != value and not (isinstance(value, list) and sorted(setting) == value):
            raise UsageError(
                f"{key} is {setting!r}, but the adapter in {start.path} has {value!r}",
                setting=key,
                seen=setting,
                remedy=f"leave out {key}, which belongs to the adapter, or train a new adapter "
                "without `adapter`",
            )
    return config.with_values(values)


def warn_of_other_prompt(start: AdapterFolder, format: PromptFormat) -> None:
    """Warn when a run's prompt is not the one that the adapter to start from was trained with."""
    if start.classifier is not None and start.classifier.prompt != format:
        say(f"warning: {quoted(start.path)} was trained with a different prompt or labels")


def require_run(folder: Path) -> None:
    """Raise `DataError` when a folder holds no run.

    Raises `UsageError` when it holds a series, or when another job works in it, which may not have
    written its recipe yet.
    """
    require_free(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise DataError(
            f"{quoted(folder)} holds no run to resume: {CONFIG_FILE} is missing",
            setting="output_dir",
            seen=str(folder),
            remedy="name the folder of a run with `output_dir`, or train without `resume`",
        )
    require_single_run(folder)


def find_checkpoint(folder: Path, config: Config, record: DataRecord, num_train: int) -> Path:
    """The checkpoint to resume from, after checking that recipe and rows are the run's own.

    num_train: number of training rows.
    """
    require_same_settings(folder, read_config(folder / CONFIG_FILE).flat(), config.flat())
    require_same_rows(folder, record)
    if (folder / TrainingResult.FILE).is_file():
        TrainingResult.load(folder)  # names a damaged one
        raise UsageError(
            f"the run in {quoted(folder)} is finished, so there is nothing to resume",
            setting="output_dir",
            seen=str(folder),
            remedy="train in a new `output_dir`, without `resume`",
        )
    num_steps = count_steps(config, num_train)
    checkpoint = last_checkpoint(folder, num_steps, config.training.early_stopping_patience)
    say(f"resuming after step {step_of(checkpoint):,} of {num_steps:,}")
    if divergence := Divergence.of(folder):
        say(f"warning: this run diverged before, and is likely to again: {divergence.problem}")
    return checkpoint
