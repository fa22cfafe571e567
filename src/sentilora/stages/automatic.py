"""Settings that fit data of the user's own, each with its reason; what was set stays as it is.

    fitted = fit(config, tables)
    fitted.config.prompt.labels, fitted.notes["prompt.labels"]

The recipe's own data are film reviews: for IMDB and the reviews that ship, nothing is changed.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sentilora.config import Config
from sentilora.data.held_out import evaluation_share, num_held_out
from sentilora.data.inference import are_numbers, infer_columns, infer_labels
from sentilora.data.layouts import has_split
from sentilora.data.loading import HELD_OUT, require_test_rows
from sentilora.data.memory import InMemory
from sentilora.data.records import Question, question_of
from sentilora.data.rows import Rows
from sentilora.data.soft_labels import is_probability, labels_of_columns, probability_columns
from sentilora.data.sources import (
    has_column,
    hub_splits,
    is_on_hub,
    load_rows,
    read_labeled,
    read_table,
)
from sentilora.errors import DataError, UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.presets import conditional_settings, fits_base
from sentilora.progress import num_processes
from sentilora.shipped import is_film_reviews
from sentilora.stages.from_config import columns_of, load_rows_of, prompt_settings_of, rows_per_step
from sentilora.template import CHAT
from sentilora.wording import MAX_LISTED, counted, listed, quoted

if TYPE_CHECKING:
    import pyarrow as pa

TEMPLATE = "### Instruction:\n{instruction}\n\n### Text:\n{text}\n\n### Label:\n"
INSTRUCTION = "Classify the following text. Respond with only one of these labels: {labels}."
INSTRUCTION_WITHOUT_LABELS = "Classify the following text. Respond with only its label."
MAX_LABEL_CHARACTERS = 400  # of all labels together in the instruction: about 100 tokens
MIN_STEPS, MIN_STEPS_PER_LABEL = 150, 6  # with fewer, little is learned (docs/results.md)
MAX_EPOCHS = 20
NUM_EVALUATIONS = 8
PATIENCE = 3
WARMUP_RATIO = 0.13  # the recipe's own share: 50 of 375 steps
EVALUATION_PART = 6  # one row in this many evaluates, where there are too few for the recipe


@dataclass(frozen=True)
class Fitted:
    """A configuration that fits its data, with the reason for each automatic value, and its rows.

    notes: {"section.key": reason}.
    """

    config: Config
    rows: Rows
    evaluation: Rows
    notes: dict[str, str]

    def lines(self) -> list[str]:
        """The automatic values, one line each, ready to print."""
        return lines_of(self.config, self.notes)


def fit(
    config: Config, tables: Mapping[str, InMemory], start: AdapterFolder | None = None
) -> Fitted:
    """The configuration with labels, prompt, splits and schedule that fit its data, and the rows.

    tables: see `tables_of`. start: the adapter to start from, whose prompt is kept if it has the
    labels of the data.

    Raises what `load_rows_of` raises, and `DataError` for a column that holds no labels.
    """
    config, notes = fit_data(config, tables, start)
    rows, evaluation = load_rows_of(config, tables)
    config, more = fit_schedule(config, len(rows))
    return Fitted(config, rows, evaluation, notes | more)


def lines_of(config: Config, notes: Mapping[str, str]) -> list[str]:
    """Automatic values with their reasons, one line each. notes: as in `Fitted`."""
    lines, values = [], config.flat()
    for setting, reason in notes.items():
        value = _as_typed(values[setting])
        is_short = len(str(values[setting])) < 20
        lines.append(f"{setting}={value}: {reason}" if is_short else f"{setting}: {reason}")
    return lines


def _as_typed(value: Any) -> str:
    """A value as `section.key=value` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list | tuple) else str(value)


class _Choices:
    """Values for settings that nobody has set, and the reason for each."""

    def __init__(self, config: Config) -> None:
        self._config, self._before = config, config.flat()
        self._values: dict[str, Any] = {}
        self.notes: dict[str, str] = {}

    def is_free(self, *settings: str) -> bool:
        """Whether none of these settings was set."""
        return not self._config.chosen.intersection(settings)

    def add(self, setting: str, value: object, reason: str) -> None:
        """Choose a value, unless the setting was set, or has that value already."""
        if self.is_free(setting) and self.value(setting) != value:
            self._values[setting] = value
            self.notes[setting] = reason

    def value(self, setting: str) -> Any:
        """The value of a setting, chosen or not."""
        return self._values[setting] if setting in self._values else self._before[setting]

    def config(self) -> Config:
        """The configuration with these values."""
        return self._config.with_values(self._values)


# --- data ----------------------------------------------------------------------------------------


def fit_data(
    config: Config, tables: Mapping[str, InMemory], start: AdapterFolder | None = None
) -> tuple[Config, dict[str, str]]:
    """The configuration with columns, labels, prompt and splits that fit; the reason for each.

    tables, start: as for `fit`. Raises `DataError` if the data cannot be read, or if a column holds
    no labels.
    """
    if "data.train" not in tables and is_film_reviews(config.data.train):
        return _fit_film_reviews(config)
    source = tables.get("data.train", config.data.train)
    choices = _Choices(config)
    table = _fit_columns(choices, source)
    is_soft = choices.value("data.soft_labels")
    if is_soft:  # first, because rows are texts, and labels tell which column they are from
        _fit_labels(choices, str(source), table)
    num_rows = _num_rows(choices, source, "train") if is_soft else len(table)
    _fit_splits(choices, source, num_rows, tables)
    if not is_soft:
        _fit_labels(choices, str(source), table)
    stored = None if start is None else start.classifier
    if stored is not None and set(choices.value("prompt.labels")) <= set(stored.prompt.labels):
        for setting, value in prompt_settings_of(stored.prompt).items():
            choices.add(setting, value, "that of the adapter to start from")
    else:
        if config.prompt.ordered and choices.is_free("prompt.labels"):
            _require_numbers(choices.value("prompt.labels"))
        _fit_prompt(choices, question_of(table))
    return choices.config(), choices.notes


def _fit_film_reviews(config: Config) -> tuple[Config, dict[str, str]]:
    """The recipe as it is, but for local film reviews that have probabilities as labels."""
    choices = _Choices(config)
    source, column = config.data.train, config.data.label_column
    is_local = os.path.exists(os.path.expanduser(source))
    if is_local and not has_column(source, "train", column):
        _fit_softness(choices, read_labeled(source, "train"))
    return choices.config(), choices.notes


def _fit_columns(choices: _Choices, source: str | InMemory) -> "pa.Table":
    """Choose the columns; the table with at least the column of labels, if there is one."""
    settings = {role: f"data.{role}_column" for role in ("text", "label")}
    names = {role: choices.value(setting) for role, setting in settings.items()}
    needed = set(names.values())
    table = read_table(source, "train", lambda name: name in needed or is_probability(name))
    if not needed <= set(table.column_names):
        table = read_labeled(source, "train")
        for role, column in infer_columns(table.column_names, **names).items():
            reason = f"there is no column {names[role]!r} among {listed(table.column_names)}"
            choices.add(settings[role], column, reason)
    _fit_softness(choices, table)
    return table


def _fit_softness(choices: _Choices, table: "pa.Table") -> None:
    """Take probabilities as labels where there are no others; say so where there are."""
    setting, column = "data.soft_labels", choices.value("data.label_column")
    probabilities = listed(probability_columns(table.column_names).values())
    single = [name for name in table.column_names if is_probability(name)]
    if len(single) == 1 and column not in table.column_names:
        raise DataError(
            f"the only labels are the probabilities of one, in {quoted(single[0])}",
            setting=setting,
            seen=single[0],
            remedy="add a column of probabilities for each of the other labels, or name a column "
            "of labels with `label_column`",
        )
    if not probabilities or not choices.is_free(setting):
        return
    if column not in table.column_names:
        choices.add(setting, True, f"there is no column of labels; {probabilities} are the labels")
    else:
        choices.notes[setting] = (
            f"column {quoted(column)} holds the labels; true would take {probabilities}"
        )


def _fit_labels(choices: _Choices, source: str, table: "pa.Table") -> None:
    """Choose the labels: those of the records' question, of probabilities, or of a column."""
    column, label_map = choices.value("data.label_column"), choices.value("data.label_map")
    stored = probability_columns(table.column_names)
    question = question_of(table)
    if question is not None:
        reason = f"the criteria of question {question.name!r}"
        choices.add("prompt.labels", list(question.labels), reason)
    elif stored and choices.value("data.soft_labels"):
        words = labels_of_columns(stored, label_map)
        if len(words) < 2:
            raise DataError(
                f"{listed(stored.values())} of {quoted(source)} are of one label: {words[0]}",
                setting="data.label_map",
                seen=words[0],
                remedy="name each column probability_<label>, with another label",
            )
        choices.add("prompt.labels", words, f"of {listed(stored.values())}")
    elif column in table.column_names and choices.is_free("prompt.labels"):
        labels = infer_labels(source, table, column, label_map)
        choices.add("prompt.labels", list(labels), _about_labels(labels, column))


def _about_labels(labels: tuple[str, ...], column: str) -> str:
    first, more = labels[:MAX_LISTED], len(labels) - MAX_LISTED
    names = listed(first) + (f" and {more} more" if more > 0 else "")
    hint = "; numbers tell a model little: name them with data.label_map" * are_numbers(labels)
    return f"{counted(len(labels), 'label')} in column {quoted(column)}: {names}{hint}"


def _require_numbers(labels: Sequence[str]) -> None:
    """Raise `UsageError` for words: the data do not say in which order they are."""
    if not are_numbers(tuple(labels)):
        raise UsageError(
            f"prompt.ordered is set, and the labels {listed(labels[:MAX_LISTED])} of the data are "
            "words, whose order is unknown",
            setting="prompt.labels",
            seen=labels,
            remedy="name them in their order with prompt.labels",
        )


def _fit_splits(
    choices: _Choices, source: str | InMemory, num_rows: int, tables: Mapping[str, InMemory]
) -> None:
    """Choose the sources of test and evaluation rows, and how many rows to take."""
    name = str(source)
    if isinstance(source, str) and is_on_hub(source):
        splits = hub_splits(source)
    else:
        splits = [split for split in ("test", "validation") if has_split(name, split)]
    if "test" in splits:
        choices.add("data.test", name, "its test split")
    else:
        part = f"about {num_held_out(num_rows):,} of {counted(num_rows, 'row')}, held out"
        choices.add("data.test", HELD_OUT, f"there is no test split: {part}")
    if "validation" in splits:
        choices.add("data.evaluation", name, "its validation split")
    evaluation, test = choices.value("data.evaluation"), choices.value("data.test")
    require_test_rows(evaluation, test)
    if evaluation != HELD_OUT:
        num_left = num_rows - (num_held_out(num_rows) if test == HELD_OUT else 0)
        _fit_counts(choices, num_left, _num_evaluation_rows(choices, tables))
    elif test != HELD_OUT:
        _carve_counts(choices, num_rows)
    else:
        if choices.value("data.num_evaluation") > num_rows / EVALUATION_PART:
            choices.add("data.num_evaluation", 0, "a tenth of the rows, held out: there are few")
        num_evaluation = choices.value("data.num_evaluation") or evaluation_share(num_rows)
        if choices.value("data.num_train") > num_rows - num_held_out(num_rows) - num_evaluation:
            choices.add("data.num_train", 0, "all rows that are not held out")


def _num_evaluation_rows(choices: _Choices, tables: Mapping[str, InMemory]) -> int:
    """The number of rows of a source of evaluation rows."""
    is_test = choices.value("data.evaluation") == "test"
    setting, split = ("data.test", "test") if is_test else ("data.evaluation", "validation")
    return _num_rows(choices, tables.get(setting, choices.value(setting)), split)


def _num_rows(choices: _Choices, source: str | InMemory, split: str) -> int:
    """The number of rows of a split. With soft labels a text is one row."""
    if not choices.value("data.soft_labels"):
        return len(read_table(source, split))
    config = choices.config()
    return len(load_rows(source, split, columns_of(config, config.prompt.labels)))


def _fit_counts(choices: _Choices, num_train: int, num_evaluation: int) -> None:
    """Choose all rows of sources that have fewer than the recipe takes."""
    available = {"data.num_train": num_train, "data.num_evaluation": num_evaluation}
    for setting, num_rows in available.items():
        if choices.value(setting) > num_rows:
            choices.add(setting, 0, "all there are: the recipe would take more")


def _carve_counts(choices: _Choices, num_rows: int) -> None:
    """Choose how many rows of one source train and evaluate, if the recipe would take more."""
    num_train = choices.value("data.num_train")
    num_evaluation = choices.value("data.num_evaluation")
    if num_train + num_evaluation <= num_rows or not choices.is_free("data.num_evaluation"):
        if num_train > num_rows - num_evaluation > 0:
            choices.add("data.num_train", 0, "all rows that do not evaluate")
        return
    if choices.is_free("data.num_train"):
        kept = num_rows - max(1, num_rows // EVALUATION_PART)
        choices.add("data.num_train", kept, f"of {counted(num_rows, 'row')}")
    choices.add("data.num_evaluation", 0, "all rows that do not train")


def _fit_prompt(choices: _Choices, question: Question | None) -> None:
    labels = choices.value("prompt.labels")
    if choices.value("prompt.template") != CHAT:
        choices.add("prompt.template", TEMPLATE, "a neutral one, with Text and Label as headings")
    if question is not None and question.instructions:
        reason = f"that of question {question.name!r} in the records"
        choices.add("prompt.instruction", question.instructions, reason)
    elif sum(map(len, labels)) <= MAX_LABEL_CHARACTERS:
        choices.add("prompt.instruction", INSTRUCTION, "a neutral one, which lists the labels")
    else:
        choices.add(
            "prompt.instruction",
            INSTRUCTION_WITHOUT_LABELS,
            f"a neutral one, without the {len(labels)} labels: they would fill the prompt",
        )


# --- schedule ------------------------------------------------------------------------------------


def fit_schedule(config: Config, num_rows: int) -> tuple[Config, dict[str, str]]:
    """The configuration with a schedule that fits this many training rows; the reason for each."""
    if is_film_reviews(config.data.train):
        return config, {}
    choices = _Choices(config)
    choices.notes.update(_preset_notes(config))
    recipe = config.training
    steps_per_epoch = math.ceil(num_rows / (rows_per_step(config) * num_processes()))
    enough = max(MIN_STEPS, MIN_STEPS_PER_LABEL * len(config.prompt.labels))
    if not recipe.max_steps and steps_per_epoch * recipe.num_train_epochs < enough:
        epochs = float(min(MAX_EPOCHS, math.ceil(enough / steps_per_epoch)))
        few = f"{counted(num_rows, 'row')} are only {counted(steps_per_epoch, 'step')} an epoch"
        if enough > MIN_STEPS:
            few += f", and {len(config.prompt.labels)} labels need about {enough:,}"
        choices.add("training.num_train_epochs", epochs, few)
        if "training.num_train_epochs" in choices.notes:
            many = "this many epochs may overfit: training stops when the log-loss gets no better"
            choices.add("training.early_stopping_patience", PATIENCE, many)
    epochs = choices.value("training.num_train_epochs")
    num_steps = recipe.max_steps or math.ceil(steps_per_epoch * epochs)
    every, often = max(1, num_steps // NUM_EVALUATIONS), f"about {NUM_EVALUATIONS} evaluations in "
    if not choices.is_free("training.save_steps"):
        every, often = recipe.save_steps, "as often as checkpoints, of "
    choices.add("training.eval_steps", every, f"{often}{counted(num_steps, 'step')}")
    every = choices.value("training.eval_steps")
    choices.add("training.save_steps", every, "a checkpoint at each evaluation")
    points = "about 40 points of the loss curve"
    choices.add("training.logging_steps", max(1, num_steps // 40), points)
    if choices.is_free("training.warmup_steps"):
        choices.add("training.warmup_ratio", WARMUP_RATIO, "the recipe's share: 50 of 375 steps")
    return choices.config(), choices.notes


def _preset_notes(config: Config) -> dict[str, str]:
    """What the preset itself has for data of the user's own, if it was not set."""
    if config.preset is None or not fits_base(config.preset, config.base.name):
        return {}
    own = conditional_settings(config.preset, "with_own_data")
    reason = f"what preset {config.preset} has for data of your own"
    return dict.fromkeys(own.keys() - config.chosen, reason)
