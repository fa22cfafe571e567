"""Columns of a table turned into checked texts and ratings; `label_words` does the labels."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sentilora.data.rows import Columns, row_place
from sentilora.data.tables import python_values
from sentilora.data.text import fault_of
from sentilora.errors import DataError
from sentilora.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa


RATING_COLUMNS = ("rating", "stars", "score")
MAX_RATINGS = 20  # distinct values; a column with more is a score, too fine to group rows by


def is_missing(value: Any) -> bool:
    """Whether a value is none: a null, or not a number."""
    return value is None or value != value


def more_rows(count: int, noun: str) -> str:
    """How many more rows have the same fault, so that all can be fixed in one go."""
    return f" (and {counted(count, f'more {noun}')})" if count else ""


def missing_column(source: str, names: Sequence[str], column: str, keyword: str) -> DataError:
    """The error for a table without `column`. keyword: the setting that names the column."""
    return DataError(
        f"{source} has no column {column!r}; it has {', '.join(names) or 'none at all'}",
        setting=keyword,
        seen=column,
        remedy=f"name the right one with `{keyword}`",
    )


def text_fault(value: Any) -> str | None:
    """Why a cell cannot be classified, worded to follow "is"; None for a usable text."""
    return "missing" if is_missing(value) else fault_of(value)


def texts_of(source: str, table: "pa.Table", column: str) -> list[str]:
    """The texts of a column. Raises `DataError` with the row of the first unusable one."""
    values = python_values(table[column])
    faults = {row: fault for row, value in enumerate(values) if (fault := text_fault(value))}
    if faults:
        row, fault = next(iter(faults.items()))
        raise DataError(
            f"{source}, {row_place(row)}: {column} is {fault}"
            + more_rows(len(faults) - 1, "unusable row"),
            setting="text_column",
            seen=values[row],
            remedy="fix the text or drop the row",
        )
    return values


def ratings_of(table: "pa.Table", columns: Columns) -> tuple[str | None, list[float | None]]:
    """Name and values of the first numeric column that rates the rows; missing ratings are None."""
    for name in table.column_names:
        if not may_rate(name) or name in (columns.text, columns.label):
            continue
        if table.column_names.count(name) > 1:
            continue
        values = [_number(value) for value in python_values(table[name])]
        distinct = {value for value in values if isinstance(value, float)}
        if "" not in values and 1 <= len(distinct) <= MAX_RATINGS:
            return name, [value if isinstance(value, float) else None for value in values]
    return None, []


def _number(value: Any) -> float | str | None:
    """The finite number of a cell, None for a missing one, "" for anything else."""
    if is_missing(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return ""
    if math.isnan(number):
        return None
    return "" if math.isinf(number) else number


def may_rate(name: str) -> bool:
    """Whether a column of this name can hold ratings."""
    return name.lower() in RATING_COLUMNS
