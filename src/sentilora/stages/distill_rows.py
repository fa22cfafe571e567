"""The rows of a distillation: what the teacher said of the texts, split, and written for training.

texts = read_scored(folder, config, format)
parts = split(texts, …)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sentilora.config import Config
from sentilora.data.columns import is_missing
from sentilora.data.held_out import MIN_ROWS, hold_out
from sentilora.data.label_words import word_for
from sentilora.data.output import encode_table, write_encoded
from sentilora.data.records import are_records, table_of_records
from sentilora.data.rows import Columns, Rows
from sentilora.data.soft_labels import PREFIX, one_hot
from sentilora.data.tables import concatenated, python_values, read_file
from sentilora.data.text import as_field, digest, normalized
from sentilora.errors import DataError
from sentilora.progress import say
from sentilora.stages.from_config import columns_of
from sentilora.training.distillation import UNKNOWN
from sentilora.wording import counted, listed, quoted

if TYPE_CHECKING:
    import pyarrow as pa

MIN_LABELED = 100  # rows with a true label: fewer say little about a student


@dataclass(frozen=True)
class ScoredTexts:
    """Texts with the teacher's probabilities (texts, labels), and the numbers of true labels.

    truth: `UNKNOWN` for a text without one. rows: labeled with the teacher's answers.
    """

    rows: Rows
    probabilities: np.ndarray
    truth: np.ndarray

    def take(self, places: Sequence[int]) -> "ScoredTexts":
        """The texts at these places, in that order."""
        chosen = np.asarray(places, dtype=np.int64)
        return ScoredTexts(self.rows.take(places), self.probabilities[chosen], self.truth[chosen])

    @property
    def num_labeled(self) -> int:
        return int((self.truth != UNKNOWN).sum())


@dataclass(frozen=True)
class Parts:
    """The texts of each split. are_true: whether evaluation and test have true labels.

    test: None if the test rows are of a source of their own.
    """

    train: ScoredTexts
    evaluation: ScoredTexts
    test: ScoredTexts | None
    are_true: bool


def read_scored(folder: Path, config: Config, labels: Sequence[str]) -> ScoredTexts:
    """The texts that a teacher scored, from its units. labels: of its prompt.

    Prints how many have a true label, how many are repeated, and so left out, and which labels of
    the column are none of the teacher's.
    """
    table = concatenated([read_file(path, None) for path in sorted(folder.glob("part-*.parquet"))])
    columns = columns_of(config, labels)
    names = [columns.text, *columns.others]
    texts, *others = [
        [as_field(value, name) for value in python_values(table[name])] for name in names
    ]
    probabilities = np.array([python_values(table[PREFIX + label]) for label in labels]).T
    pairs = zip(*others, strict=True)
    fields: list[Any] = [dict(zip(columns.others, row, strict=True)) for row in pairs]
    answers = [labels[number] for number in probabilities.argmax(1)]
    rows = Rows(config.data.train, texts, answers, fields=fields)
    return without_repeats(
        ScoredTexts(rows, probabilities, _truth(config.data.train, table, columns))
    )


def without_repeats(texts: ScoredTexts) -> ScoredTexts:
    """The texts, each once for each of its true labels: a repeated one is no second test."""
    places_of: dict[bytes, dict[int, int]] = {}  # by text, then by true label
    for place, (item, number) in enumerate(zip(texts.rows.inputs, texts.truth, strict=True)):
        places_of.setdefault(digest(normalized(item)), {}).setdefault(int(number), place)
    for places in places_of.values():
        if len(places) > 1:
            places.pop(UNKNOWN, None)
    first = sorted(place for places in places_of.values() for place in places.values())
    if repeated := len(texts.rows) - len(first):
        say(f"{counted(repeated, 'repeated text')} left out")
    once = texts.take(first)
    return replace(once, rows=replace(once.rows, numbers=()))


def _truth(source: str, table: "pa.Table", columns: Columns) -> np.ndarray:
    """The number of each row's true label, `UNKNOWN` where it has none of the teacher's."""
    numbers = {label: number for number, label in enumerate(columns.labels)}
    if are_records(table):
        table = table_of_records(source, table)
    if columns.label not in table.column_names:
        return np.full(len(table), UNKNOWN)
    values = python_values(table[columns.label])
    stored = {str(value) for value in values if not is_missing(value) and str(value).strip()}
    words = {value: word_for(value, columns) for value in stored}
    if unknown := sorted(value for value, word in words.items() if word is None):
        say(
            f"rows whose {quoted(columns.label)} is {listed(unknown[:5])} count as unlabeled: "
            f"the teacher's labels are {listed(columns.labels)}"
        )
    truth = np.array([numbers.get(words.get(str(v)) or "", UNKNOWN) for v in values])
    say(f"{counted(int((truth != UNKNOWN).sum()), 'text')} of {len(table):,} have a true label")
    return truth


def fault_of_number(texts: ScoredTexts) -> DataError | None:
    """The error for too few texts to hold any out; None for enough."""
    rows = texts.rows
    if len(rows) >= MIN_ROWS:
        return None
    return DataError(
        f"{quoted(rows.source)} has {counted(len(rows), 'usable text')}, too few to hold out "
        "test and evaluation rows",
        setting="texts",
        seen=rows.source,
        remedy=f"give {MIN_ROWS} texts or more",
    )


def split(texts: ScoredTexts, labels: Sequence[str], seed: int, test: Rows | None) -> Parts:
    """Training, evaluation and test texts: held out of those with a true label, if they are enough.

    labels: the label words. test: test rows of a source of their own; no training text is one of
    them. Near-duplicates stay on one side, as when `train` holds rows out.

    Raises `DataError` if no text is left to train on.
    """
    labeled = np.flatnonzero(texts.truth != UNKNOWN)
    are_true = len(labeled) >= MIN_LABELED
    pool = labeled if are_true else np.arange(len(texts.truth))
    rows = texts.rows.take(pool.tolist())
    if are_true:
        words = [labels[number] for number in texts.truth[pool]]
        rows = Rows(rows.source, rows.texts, words, numbers=rows.numbers, fields=rows.fields)
    _, evaluation, held_out = hold_out(rows, 0, seed)
    places = [*evaluation.numbers, *(held_out.numbers if test is None else ())]
    elsewhere = {digest(normalized(texts.rows.inputs[place])) for place in places}
    if test is not None:
        elsewhere |= {digest(normalized(item)) for item in test.inputs}
    inputs = texts.rows.inputs
    train = [i for i, item in enumerate(inputs) if digest(normalized(item)) not in elsewhere]
    if not train:
        raise DataError(
            f"{quoted(texts.rows.source)} has no text that does not evaluate or test",
            setting="texts",
            seen=texts.rows.source,
            remedy="give more texts",
        )
    held_out_of = "those with a true label" if are_true else "all: too few have a true label"
    to_test = f" and {len(held_out):,} to test" if test is None else ""
    say(
        f"{counted(len(train), 'text')} to train on, {len(evaluation):,} to evaluate{to_test}, "
        f"held out of {held_out_of}"
    )
    if dropped := len(inputs) - len(train) - len(places):
        say(f"{counted(dropped, 'text')} left out: the same text evaluates or tests")
    return Parts(
        texts.take(train),
        texts.take(evaluation.numbers),
        texts.take(held_out.numbers) if test is None else None,
        are_true,
    )


# --- written -------------------------------------------------------------------------------------


def true_rows(part: ScoredTexts, labels: Sequence[str], are_true: bool) -> Rows:
    """The texts with the labels that count: true ones, or the teacher's answers."""
    rows = part.rows
    if not are_true:
        return rows
    words = [labels[number] for number in part.truth]
    return Rows(rows.source, rows.texts, words, numbers=rows.numbers, fields=rows.fields)


def write_rows(
    folder: Path, name: str, rows: Rows, columns: Columns, shares: np.ndarray | None
) -> None:
    """Write rows as the split `name` of a folder. shares: (rows, labels); None writes labels."""
    import pyarrow as pa

    content: dict[str, Any] = {columns.text: rows.texts}
    for field in columns.others:
        content[field] = [fields[field] for fields in rows.fields]
    if shares is None:
        content[columns.label] = rows.labels
    else:
        for number, label in enumerate(columns.labels):
            content[PREFIX + label] = shares[:, number].tolist()
    path = folder / f"{name}.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    write_encoded(encode_table(pa.table(content), path), path)


def write_parts(folder: Path, parts: Parts, targets: np.ndarray, columns: Columns) -> None:
    """Write the splits that the student is trained on. targets: (training texts, labels)."""
    labels = columns.labels
    write_rows(folder, "train", parts.train.rows, columns, targets)
    evaluation = true_rows(parts.evaluation, labels, parts.are_true)
    shares = parts.evaluation.probabilities
    if parts.are_true:
        shares = np.array(one_hot(evaluation.labels, labels))
    write_rows(folder, "validation", evaluation, columns, shares)
    if parts.test is not None:
        test = true_rows(parts.test, labels, parts.are_true)
        write_rows(folder, "test", test, columns, None)
