"""Labeled rows: columns of a table turned into texts, label words and ratings, each one checked."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sentilora.data.text import fault_of
from sentilora.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


RATING_COLUMNS = ("rating", "stars", "score")
MAX_RATINGS = 20  # distinct values; a score of more is none that rows can be grouped by


@dataclass(frozen=True)
class Columns:
    """Where text and label stand, and which word each stored label means."""

    text: str = "text"
    label: str = "label"
    label_map: Mapping[str, str] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Labelled texts in the source's order. `labels` holds label words.

    ratings: what the source's own `rating_column` says of each row, None where it says nothing;
    empty when the source has no such column, see `RATING_COLUMNS`.
    numbers: each row's place in the source, counted from 0, however few of its rows these are: of a
    file without its header, of a folder of .txt files in the order in which they are read. Left
    out: the rows are all of the source.
    """

    source: str
    texts: list[str]
    labels: list[str]
    rating_column: str | None = None
    ratings: list[float | None] = field(default_factory=list)
    numbers: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not self.numbers:
            object.__setattr__(self, "numbers", range(len(self.texts)))

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Iterable[int]) -> "Rows":
        """The rows at `indices`, in that order."""
        at = [int(i) for i in indices]
        return Rows(
            self.source,
            [self.texts[i] for i in at],
            [self.labels[i] for i in at],
            self.rating_column,
            [self.ratings[i] for i in at] if self.ratings else [],
            [self.numbers[i] for i in at],
        )

    def hashes(self) -> Iterator[str]:
        """SHA-256 of each text as the source has it, and its label."""
        return (row_hash(*pair) for pair in zip(self.texts, self.labels, strict=True))


def row_hash(text: str, label: str) -> str:
    """SHA-256 of a text as the source has it, and its label."""
    return hashlib.sha256(f"{text}\0{label}".encode()).hexdigest()


def missing_column(source: str, frame: "pd.DataFrame", column: str, kind: str) -> str:
    names = ", ".join(map(str, frame.columns)) or "none at all"
    remedy = f"Name it with --{kind}-column"
    if len(frame.columns) == 1 and (found := re.search("[;\t|]", names)):
        remedy = (
            f"Its separator seems to be {found[0]!r}: save it with commas, or as .tsv with tabs"
        )
    return f"{source} has no column {column!r}; it has {names}. {remedy}"


def texts_of(source: str, frame: "pd.DataFrame", column: str) -> list[str]:
    """The texts of a column. Raises `DataError` with the row of the first that cannot be used."""
    values = frame[column].tolist()
    faults = {
        row: fault
        for row, (value, missing) in enumerate(zip(values, frame[column].isna(), strict=True))
        if (fault := "missing" if missing else fault_of(value))
    }
    if faults:
        row, fault = next(iter(faults.items()))
        raise DataError(
            f"{source}, {row_place(row)}: {column} is {fault}; mend it or drop the row"
            + _more(len(faults) - 1, "row that cannot be used", "rows that cannot be used")
        )
    return values


def row_place(row: int) -> str:
    """A row's number as `Rows` has it, which is that of reports and of pandas."""
    return f"row {row} (counted from 0)"


def _more(count: int, one: str, several: str) -> str:
    """How much of the same there is, so that it can be mended in one go."""
    return f" (and {count:,} more {one if count == 1 else several})" if count else ""


def labels_of(source: str, frame: "pd.DataFrame", columns: Columns) -> list[str]:
    column = frame[columns.label]
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise DataError(
            f"{source}, {row_place(row)}: {columns.label} is missing; fill it or drop the row"
            + _more(int(column.isna().sum()) - 1, "row without", "rows without")
        )
    label_map = dict(columns.label_map or {})
    words: dict[Any, str] = {}
    unknown: dict[str, int] = {}
    for value, row in _first_rows(source, column.tolist()).items():
        keys = _label_keys(value, len(columns.labels))
        # A label that the map leads to no label of the prompt may itself be one: the labels 0 … 9.
        candidates = [label_map[key] for key in keys if key in label_map] + keys
        word = next((c for c in candidates if c in columns.labels), None)
        if word is None:
            unknown[keys[0]] = row
        else:
            words[value] = word
    if unknown:
        known = ", ".join(columns.labels)
        mapped = ", ".join(f"{k} = {v}" for k, v in label_map.items()) or "empty"
        found, row = next(iter(unknown.items()))
        raise DataError(
            f"{source}, {row_place(row)}: {columns.label} is {found!r:.60}, which is no label of "
            f"the prompt ({known}) and is mapped to none (data.label_map: {mapped}); extend "
            "data.label_map or prompt.labels"
            + _more(len(unknown) - 1, "unknown label", "unknown labels")
        )
    return [words[value] for value in column.tolist()]


def ratings_of(frame: "pd.DataFrame", columns: Columns) -> tuple[str | None, list[float | None]]:
    """Name and values of the first column of numbers that rates the rows; missing ones are None."""
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
    return str(name).lower() in RATING_COLUMNS


def _label_keys(value: Any, num_labels: int) -> list[str]:
    """How a stored label may be called: 1.0, which a column with gaps makes of 1, is also "1".

    True, which files spell in three ways, is also "true", and of two labels the one called "1".
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
                f"{source}, {row_place(row)}: the label is {value!r}; one value is expected"
            ) from error
    return first
