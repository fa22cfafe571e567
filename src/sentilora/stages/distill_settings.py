"""The settings of a distillation: what the student takes from its teacher, and what is refused.

config = student_of(adapter, config)
require_possible(config, texts)
config = in_tokens_of_base(config, has_own_answer=False)
show_decided(config, on_rows(config, folder, has_own_test=False))
"""

from pathlib import Path

from sentilora.chat_format import LABEL
from sentilora.config import Config
from sentilora.data.columns import missing_column
from sentilora.data.sources import has_column, read_labeled
from sentilora.data.streams import open_stream
from sentilora.errors import DataError, UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.models.base_source import resolve_base
from sentilora.models.bases import load_tokenizer
from sentilora.models.device import require_device
from sentilora.places import path_of
from sentilora.progress import num_processes, say
from sentilora.prompt import Prompter
from sentilora.stages.adapter_rows import text_column_in
from sentilora.stages.automatic import lines_of
from sentilora.stages.from_config import prompt_format_of, prompt_settings_of
from sentilora.template import special_tokens_of
from sentilora.wording import listed, quoted

# What a distillation decides itself: the value that changes nothing, and what it does instead.
DECIDED = {
    "data.train": (None, "the student trains on the texts"),
    "data.evaluation": (None, "evaluation rows are held out of the texts"),
    "data.num_train": (0, "the student trains on all texts that are not held out"),
    "data.num_train_subset": (0, "the student trains on all texts that are not held out"),
    "data.num_evaluation": (
        0,
        "evaluation rows are a tenth of the texts, or of those with a true label",
    ),
    "data.num_test": (0, "the figures are of all test rows"),
    "data.soft_labels": (True, "the student's labels are probabilities"),
}


def student_of(adapter: AdapterFolder, config: Config) -> Config:
    """The student's configuration: the teacher's prompt and labels, unless they were set.

    Raises `UsageError` for a teacher without a prompt, and for other labels.
    """
    record = adapter.require_classifier("teacher")
    labels = record.prompt.labels
    if "prompt.labels" in config.chosen and config.prompt.labels != labels:
        raise UsageError(
            f"prompt.labels is {list(config.prompt.labels)}, and the teacher's labels are "
            f"{list(labels)}",
            setting="prompt.labels",
            seen=config.prompt.labels,
            remedy="leave it out: a student has its teacher's labels",
        )
    prompt = prompt_settings_of(record.prompt)
    if "prompt.template" in config.chosen:
        del prompt["prompt.answer"]  # it is how a label follows the teacher's template
    own, values = config.chosen & prompt.keys(), config.flat()
    differing = sorted(setting for setting in own if values[setting] != prompt[setting])
    but = f", but for {listed(differing)}" if differing else ""
    say(f"prompt and labels: the teacher's{but}")
    return config.with_values({k: v for k, v in prompt.items() if k not in own})


def show_decided(before: Config, decided: Config) -> None:
    """Print the settings that a distillation has changed by itself, each with its reason."""
    values, usual = decided.flat(), before.flat()
    changed = {name: why for name, (_, why) in DECIDED.items() if values[name] != usual[name]}
    say("decided by the distillation:")
    for line in lines_of(decided, changed):
        say(f"  {line}")


def require_possible(config: Config, texts: str | Path) -> None:
    """Raise an error for a distillation that cannot run, before the teacher is loaded."""
    if num_processes() > 1:
        raise UsageError(
            f"{num_processes()} processes were started, and a distillation runs in one",
            setting="teacher",
            seen=num_processes(),
            remedy="start it without a launcher",
        )
    values = config.flat()
    for setting, (usual, instead) in DECIDED.items():
        if setting in config.chosen and values[setting] != usual:
            raise UsageError(
                f"{setting} is set, and {instead}",
                setting=setting,
                seen=values[setting],
                remedy="leave it out; data.test names test rows of your own",
            )
    if config.training.learning_rate == "search":
        raise UsageError(
            "a distillation does not search for a learning rate",
            setting="training.learning_rate",
            seen="search",
            remedy="give a number",
        )
    require_device(config.base.device)
    resolve_base(config.base.name)
    if not path_of(texts).exists():
        raise DataError(
            f"there is no file {quoted(texts)}",
            setting="texts",
            seen=str(texts),
            remedy="name a file or a folder as `texts`",
        )
    column = config.data.label_column
    if "data.label_column" in config.chosen and not has_column(str(texts), "train", column):
        names = read_labeled(str(texts), "train").column_names  # of records, their answers too
        raise missing_column(str(texts), names, column, "label_column")


def with_text_column(config: Config, texts: str | Path) -> Config:
    """The configuration with the column of texts that `texts` have, unless one was named."""
    if "data.text_column" in config.chosen:
        return config
    stream = open_stream(str(texts), "train", keep_faulty=True)
    column = text_column_in(stream.schema.names, config.data.text_column, stream.tables())
    return config.with_values({"data.text_column": column})


def in_tokens_of_base(config: Config, has_own_answer: bool) -> Config:
    """The student's configuration, with an answer that its base can end.

    has_own_answer: whether `prompt.answer` was set. If not, EOS stands in for a special token that
    ends the teacher's answers and that the student's base does not have.

    Raises `UsageError` if the prompt does not work in the student's tokens, which may be more.
    """
    tokenizer = load_tokenizer(config.base.name, config.base.revision)
    opening, _, end = config.prompt.answer.partition(LABEL)
    if end and not has_own_answer and end not in special_tokens_of(tokenizer):
        config = config.with_values({"prompt.answer": opening + LABEL})
        say(
            f"prompt.answer={quoted(config.prompt.answer)}: EOS ends the student's answers, whose "
            f"base has no {end}, which ends the teacher's"
        )
    Prompter(tokenizer, prompt_format_of(config))
    return config
