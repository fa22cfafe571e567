"""What `check` finds in the rows: figures to beat, warnings, and faults of their sources."""

from collections import Counter
from collections.abc import Mapping
from functools import partial

import numpy as np

from sentilora.config import Config
from sentilora.data.loading import HELD_OUT
from sentilora.data.memory import InMemory
from sentilora.data.rows import Rows
from sentilora.data.sources import read_table
from sentilora.data.splits import stratified
from sentilora.data.text import whole_text
from sentilora.evaluation.advice import SUFFICIENT
from sentilora.metrics import measure_group, tfidf_baseline
from sentilora.shipped import is_film_reviews
from sentilora.stages.data_warnings import (
    base_warning,
    few_rows_warning,
    template_warning,
    text_warning,
)
from sentilora.stages.findings import Finding, Findings, Level, attempt
from sentilora.wording import counted, percent, percent_interval, quoted

# What the baseline learns from in about ten seconds on one core. Measured: 2,000 reviews of IMDB
# 2.5 s, 5,452 rows of TREC 4, 5,000 of SST-5 9, 5,000 of BANKING77 (77 labels) 13.
MAX_ROWS = 5_000
MAX_ROWS_TIMES_LABELS = 310_000
MAX_CHARACTERS = 10_000_000


def look_at_sources(config: Config) -> Findings[None]:
    """What else is wrong with sources that were set, where neither labels nor splits are known."""
    for setting, split, name in (
        ("data.evaluation", "validation", "evaluation data"),
        ("data.test", "test", "test data"),
    ):
        source = config.flat()[setting]
        if setting in config.chosen and source not in (HELD_OUT, "test"):
            level: Level = "problem" if setting == "data.evaluation" else "note"
            yield from attempt(name, partial(read_table, source, split), level)


def look_at_evaluation(
    config: Config, splits: Mapping[str, Rows], tables: Mapping[str, InMemory]
) -> Findings[None]:
    """What an answer without a model reaches on the evaluation rows, and what is wrong with them.

    splits: those that can be loaded.
    """
    if not {"train", "evaluation"} <= set(splits):
        return
    train, evaluation = splits["train"], splits["evaluation"]
    counts = Counter(evaluation.labels)
    label = max(config.prompt.labels, key=counts.__getitem__)  # the first, as `train` says it
    share = counts[label] / len(evaluation)
    always = f"always answering {quoted(label)}"
    yield Finding("ok", "majority", f"{always}: {percent(share)} of {of(evaluation)}")
    reached, figure = figure_to_beat(train, evaluation)
    yield Finding("ok", "to beat", figure)
    text_fault = text_warning(config, train, tables)
    if text_fault:
        yield Finding("note", "texts", text_fault)
    elif reached <= share:
        text = (
            f"TF-IDF is no better than {always}: these texts may not tell the labels; look at the "
            "column of texts (data.text_column), at the labels, or add rows"
        )
        yield Finding("note", "to beat", text)
    elif reached >= SUFFICIENT:
        text = "TF-IDF already suffices on these rows: a language model can get no further ahead"
        yield Finding("note", "to beat", text)
    if not is_film_reviews(config.data.train) and (warning := few_rows_warning(evaluation)):
        yield Finding("note", "evaluation", warning)
    if warning := template_warning(train, evaluation):
        yield Finding("note", "templates", warning)
    if not text_fault and (warning := base_warning(config, train)):
        yield Finding("note", "base", warning)


def figure_to_beat(train: Rows, evaluation: Rows) -> tuple[float, str]:
    """The accuracy of TF-IDF + logistic regression; and with its interval, in one line."""
    part = affordable(train)
    numbers = {
        label: number for number, label in enumerate(sorted({*train.labels, *evaluation.labels}))
    }
    known, new = ([whole_text(item) for item in rows.inputs] for rows in (part, evaluation))
    answers = tfidf_baseline(known, [numbers[x] for x in part.labels], new, len(numbers)).argmax(1)
    truth = np.array([numbers[label] for label in evaluation.labels])
    reached = measure_group("TF-IDF", answers == truth)
    rows = f"the {counted(len(train), 'training row')}"
    hint = ""
    if len(part) < len(train):
        rows = f"{len(part):,} of {rows}"
        hint = ", at least: all rows would take longer than a check should"
    return reached.accuracy, (
        f"TF-IDF + logistic regression trained on {rows} reaches "
        f"{percent(reached.accuracy)} ({percent_interval(reached.interval)}) of {of(evaluation)}: "
        f"the figure to beat{hint}"
    )


def affordable(train: Rows) -> Rows:
    """The training rows, or as many, label shares kept, as the baseline learns from in seconds."""
    num_rows, num_labels = len(train), len(set(train.labels))
    mean_characters = sum(map(len, train.texts)) / num_rows
    most = min(
        num_rows,
        MAX_ROWS,
        MAX_ROWS_TIMES_LABELS // num_labels,
        int(MAX_CHARACTERS / mean_characters),
    )
    return train if most == num_rows else stratified(train, max(most, num_labels))


def of(evaluation: Rows) -> str:
    """The evaluation rows in a sentence."""
    return f"the {counted(len(evaluation), 'evaluation row')}"
