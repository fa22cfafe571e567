"""Settings that fit data of the user's own, each with its reason; what was set stays as it is.

    config, notes = fit_data(config, tables)          # labels, prompt, splits
    config, more = fit_schedule(config, len(rows))    # steps, evaluations, warm-up

The recipe's own data are film reviews: for IMDB and the reviews that ship, nothing is changed.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentilora.config import Config
from sentilora.data.inference import are_numbers, infer_labels
from sentilora.data.layouts import has_split
from sentilora.data.loading import HELD_OUT
from sentilora.data.memory import InMemory
from sentilora.data.sources import read_table
from sentilora.hub import looks_like_hub_id
from sentilora.progress import num_processes
from sentilora.shipped import is_film_reviews
from sentilora.stages.from_config import rows_per_step
from sentilora.wording import counted, listed

TEMPLATE = "### Instruction:\n{instruction}\n\n### Text:\n{text}\n\n### Label:\n"
INSTRUCTION = "Classify the following text. Respond with only one of these labels: {labels}."
INSTRUCTION_WITHOUT_LABELS = "Classify the following text. Respond with only its label."
MAX_LABEL_CHARACTERS = 400  # of all labels together in the instruction: about 100 tokens
MIN_STEPS = 150  # fewer steps hardly teach a model the form of an answer (docs/results.md)
MAX_EPOCHS = 20
NUM_EVALUATIONS = 8
PATIENCE = 3
WARMUP_RATIO = 0.13  # the recipe's own share: 50 of 375 steps


class _Choices:
    """Values for settings that nobody has set, and the reason for each."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.values: dict[str, Any] = {}
        self.notes: dict[str, str] = {}

    def add(self, setting: str, value: object, reason: str) -> None:
        """Choose a value, unless it was set, or has that value already."""
        if setting in self._config.chosen or self._config.flat()[setting] == value:
            return
        self.values[setting] = value
        self.notes[setting] = reason

    def config(self) -> Config:
        """The configuration with these values."""
        return self._config.with_values(self.values)


def fit_data(config: Config, tables: Mapping[str, InMemory]) -> tuple[Config, dict[str, str]]:
    """The configuration with labels, prompt and splits that fit its data; the reason for each.

    Raises `DataError` if the data cannot be read, or if their labels are none.
    """
    if "data.train" not in tables and is_film_reviews(config.data.train):
        return config, {}
    source = tables.get("data.train", config.data.train)
    choices = _Choices(config)
    _choose_splits(choices, source)
    labels = config.prompt.labels
    if "prompt.labels" not in config.chosen:
        table = read_table(source, "train", {config.data.label_column}.__contains__)
        if config.data.label_column in table.column_names:  # else loading the rows says so
            labels = infer_labels(str(source), table, config.data.label_column)
            hint = (
                "; they are numbers: name them with data.label_map" if are_numbers(labels) else ""
            )
            reason = f"the values of {config.data.label_column}: {listed(labels)}{hint}"
            choices.add("prompt.labels", list(labels), reason)
    _choose_prompt(choices, labels)
    return choices.config(), choices.notes


def _choose_splits(choices: _Choices, source: str | InMemory) -> None:
    name = str(source)
    is_hub = isinstance(source, str) and not Path(source).exists() and looks_like_hub_id(source)
    if is_hub or has_split(name, "test"):
        choices.add("data.test", name, "its test split")
    else:
        choices.add("data.test", HELD_OUT, "a fifth of the rows, held out: there is no test split")
    if not is_hub and has_split(name, "validation"):
        choices.add("data.evaluation", name, "its validation split")


def _choose_prompt(choices: _Choices, labels: tuple[str, ...]) -> None:
    choices.add("prompt.template", TEMPLATE, "a neutral prompt: the data are no film reviews")
    if sum(map(len, labels)) <= MAX_LABEL_CHARACTERS:
        choices.add(
            "prompt.instruction", INSTRUCTION, "a neutral instruction that lists the labels"
        )
    else:
        choices.add(
            "prompt.instruction",
            INSTRUCTION_WITHOUT_LABELS,
            f"{counted(len(labels), 'label')} are too many to list in each prompt",
        )


def fit_schedule(config: Config, num_rows: int) -> tuple[Config, dict[str, str]]:
    """The configuration with a schedule that fits this many training rows; the reason for each."""
    if is_film_reviews(config.data.train):
        return config, {}
    choices = _Choices(config)
    recipe = config.training
    steps_per_epoch = math.ceil(num_rows / (rows_per_step(config) * num_processes()))
    epochs = recipe.num_train_epochs
    if not recipe.max_steps and steps_per_epoch * epochs < MIN_STEPS:
        epochs = float(min(MAX_EPOCHS, math.ceil(MIN_STEPS / steps_per_epoch)))
        few = f"{counted(num_rows, 'row')} are {counted(steps_per_epoch, 'step')} an epoch"
        choices.add("training.num_train_epochs", epochs, few)
        choices.add("training.early_stopping_patience", PATIENCE, "so many epochs may overfit")
        epochs = choices.values.get("training.num_train_epochs", recipe.num_train_epochs)
    num_steps = recipe.max_steps or math.ceil(steps_per_epoch * epochs)
    every = max(1, num_steps // NUM_EVALUATIONS)
    often = f"about {NUM_EVALUATIONS} evaluations in {counted(num_steps, 'step')}"
    if not {"training.eval_steps", "training.save_steps"} & config.chosen:
        choices.add("training.eval_steps", every, often)
        choices.add("training.save_steps", every, "a checkpoint at each evaluation")
    choices.add("training.logging_steps", max(1, num_steps // 40), "40 points of the loss curve")
    if "training.warmup_steps" not in config.chosen:
        choices.add("training.warmup_ratio", WARMUP_RATIO, "the recipe's share: 50 of 375 steps")
    return choices.config(), choices.notes
