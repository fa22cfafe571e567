"""Labeled rows: columns of a table turned into texts, label words and ratings, each one checked."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sentilora.data.text import fault_of
from sentilora.errors import DataError
from sentilora.wording import counted

if TYPE_CHECKING:
    import pandas as pd


RATING_COLUMNS = ("rating", "stars", "score")
MAX_RATINGS = 20  # distinct values; a column with more is a score, too fine to group rows by


@dataclass(frozen=True)
class Columns:
    """Names of the text and label columns, and the label word that each stored label stands for."""

    text: str = "text"
    label: str = "label"
    label_map: Mapping[str, str] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Labeled texts in the source's order. `labels` holds label words.

    ratings: the value of the source's `rating_column` for each row, None where it has none; empty
        if the source has no such column (see `RATING_COLUMNS`).
    numbers: each row's number in its source, counted from 0, also after rows were selected. The
        header of a file does not count; the .txt files of a folder count in reading order. The
        default is every row of the source.
    notes: what a reader should know about how the rows were chosen.
    """

    source: str
    texts: list[str]
    labels: list[str]
    rating_column: str | None = None
    ratings: list[float | None] = field(default_factory=list)
    numbers: Sequence[int] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.numbers:
            object.__setattr__(self, "numbers", range(len(self.texts)))

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Iterable[int]) -> "Rows":
        """The rows at `indices`, in that order."""
        places = [int(i) for i in indices]
        return Rows(
            self.source,
            [self.texts[i] for i in places],
            [self.labels[i] for i in places],
            self.rating_column,
            [self.ratings[i] for i in places] if self.ratings else [],
            [self.numbers[i] for i in places],
            notes=self.notes,
        )

    def hashes(self) -> Iterator[str]:
        """`row_hash` of each row."""
        return (row_hash(*pair) for pair in zip(self.texts, self.labels, strict=True))


def row_hash(text: str, label: str) -> str:
    """SHA-256 of a text, as the source has it, and its label."""
    return hashlib.sha256(f"{text}\0{label}".encode()).hexdigest()


def row_place(row: int) -> str:
    """A row's number as errors show it: counted from 0, as in `Rows`, in reports and in pandas."""
    return f"row {row} (counted from 0)"


def missing_column(source: str, frame: "pd.DataFrame", column: str, keyword: str) -> DataError:
    """The error for a table without `column`. keyword: the setting that names the column."""
    names = ", ".join(map(str, frame.columns)) or "none at all"
    remedy = f"name the right one with `{keyword}`"
    if len(frame.columns) == 1 and (separator := re.search("[;\t|]", names)):
        remedy = (
            f"its separator seems to be {separator[0]!r}: save it with commas, or as .tsv with tabs"
        )
    return DataError(
        f"{source} has no column {column!r}; it has {names}",
        setting=keyword,
        seen=column,
        remedy=remedy,
    )


def texts_of(source: str, frame: "pd.DataFrame", column: str) -> list[str]:
    """The texts of a column. Raises `DataError` with the row of the first unusable one."""
    values = frame[column].tolist()
    faults = {
        row: fault
        for row, (value, is_missing) in enumerate(zip(values, frame[column].isna(), strict=True))
        if (fault := "missing" if is_missing else fault_of(value))
    }
    if faults:
        row, fault = next(iter(faults.items()))
        raise DataError(
            f"{source}, {row_place(row)}: {column} is {fault}"
            + _more(len(faults) - 1, "unusable row"),
            setting="text_column",
            seen=values[row],
            remedy="fix the text or drop the row",
        )
    return values


def labels_of(source: str, frame: "pd.DataFrame", columns: Columns) -> list[str]:
    """The label word of each row. Raises `DataError` for a label that is missing or unknown."""
    column = frame[columns.label]
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise DataError(
            f"{source}, {row_place(row)}: {columns.label} is missing"
            + _more(int(column.isna().sum()) - 1, "missing label"),
            setting="label_column",
            remedy="fill in the label or drop the row",
        )
    words: dict[Any, str] = {}
    unknown: dict[str, int] = {}
    for value, row in _first_rows(source, column.tolist()).items():
        word = _label_word(value, columns)
        if word is None:
            unknown[str(value)] = row
        else:
            words[value] = word
    if unknown:
        raise _unknown_label(source, columns, unknown)
    return [words[value] for value in column.tolist()]


def _label_word(value: Any, columns: Columns) -> str | None:
    """The label word for a stored label; None if there is none."""
    label_map = columns.label_map or {}
    keys = _label_keys(value, len(columns.labels))
    # The stored labels 0 … 9 can be the prompt's own labels although the default map leads 0 and 1
    # elsewhere: what a map yields only counts if it is a label of the prompt.
    candidates = [label_map[key] for key in keys if key in label_map] + keys
    return next((word for word in candidates if word in columns.labels), None)


def _label_keys(value: Any, num_labels: int) -> list[str]:
    """The names a stored label goes by. 1.0, which a column with gaps makes of 1, is also "1".

    True, which files spell in three ways, is also "true", and with two labels also "1".
    """
    keys = [str(value)]
    if (word := keys[0].lower()) in ("true", "false"):
        number = "1" if word == "true" else "0"
        return [*keys, word, number] if num_labels == 2 else [*keys, word]
    whole = re.fullmatch(r"([+-]?\d+)\.0+", keys[0])
    return [*keys, whole[1]] if whole else keys


def _first_rows(source: str, values: Sequence[Any]) -> dict[Any, int]:
    """Each distinct value with the number of the first row that holds it."""
    first: dict[Any, int] = {}
    for row, value in enumerate(values):
        try:
            first.setdefault(value, row)
        except TypeError as error:
            raise DataError(
                f"{source}, {row_place(row)}: the label is {value!r}",
                setting="label_column",
                seen=value,
                remedy="a single value is expected",
            ) from error
    return first


def _unknown_label(source: str, columns: Columns, unknown: Mapping[str, int]) -> DataError:
    """The error for labels without a label word. unknown: each with its first row."""
    label, row = next(iter(unknown.items()))
    mapping = ", ".join(f"{k} = {v}" for k, v in (columns.label_map or {}).items()) or "empty"
    return DataError(
        f"{source}, {row_place(row)}: {columns.label} is {label!r:.60}, which is no label of the "
        f"prompt ({', '.join(columns.labels)}) and is mapped to none (data.label_map: {mapping})"
        + _more(len(unknown) - 1, "unknown label"),
        setting="data.label_map",
        seen=label,
        remedy="extend data.label_map or prompt.labels",
    )


def _more(count: int, noun: str) -> str:
    """How many more rows have the same fault, so that all can be fixed in one go."""
    return f" (and {counted(count, f'more {noun}')})" if count else ""


def ratings_of(frame: "pd.DataFrame", columns: Columns) -> tuple[str | None, list[float | None]]:
    """Name and values of the first numeric column that rates the rows; missing ratings are None."""
    import numpy as np
    import pandas as pd

    for name in frame.columns:
        if not may_rate(name) or name in (columns.text, columns.label):
            continue
        try:
            values = pd.to_numeric(frame[name], errors="coerce").astype(float)
        except OverflowError:
            continue  # no rating is a number of 300 digits
        no_number = (values.isna() & frame[name].notna()) | np.isinf(values)
        if not no_number.any() and 1 <= values.nunique() <= MAX_RATINGS:
            return str(name), [None if value != value else value for value in values.tolist()]
    return None, []


def may_rate(name: Any) -> bool:
    """Whether a column of this name can hold ratings."""
    return str(name).lower() in RATING_COLUMNS
