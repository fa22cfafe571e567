"""Columns of a table turned into checked texts and ratings; `label_words` does the labels."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sentilora.data.rows import Columns, row_place
from sentilora.data.tables import python_values
from sentilora.data.text import Item, as_field, fault_of
from sentilora.errors import DataError
from sentilora.wording import counted, listed, quoted

if TYPE_CHECKING:
    import pyarrow as pa


RATING_COLUMNS = ("rating", "stars", "score")
NUM_LISTED = 4  # rows that are named besides the first
MAX_RATINGS = 20  # distinct values; a column with more is a score, too fine to group rows by


def is_missing(value: Any) -> bool:
    """Whether a value is none: a null, or not a number."""
    return value is None or value != value


def more_rows(rows: Sequence[int], noun: str) -> str:
    """Which more rows have the fault of the first one, so that all can be fixed in one go."""
    if not (others := rows[1:]):
        return ""
    numbers = ", ".join(map(str, others[:NUM_LISTED])) + ", …" * (len(others) > NUM_LISTED)
    return f" (and {counted(len(others), f'more {noun}')}: {numbers})"


def missing_column(source: str, names: Sequence[str], column: str, keyword: str) -> DataError:
    """The error for a table without `column`. keyword: the setting that names the column."""
    return DataError(
        f"{quoted(source)} has no column {column!r}; it has {listed(names) or 'none at all'}",
        setting=keyword,
        seen=column,
        remedy=f"name the right one with `{keyword}`",
    )


def missing_columns(source: str, names: Sequence[str], text: str, label: str) -> DataError | None:
    """The error for a table without the column of texts, of labels, or both; None if it has both.

    names: the table's columns.
    """
    if text in names and label in names:
        return None
    if text == label:  # probabilities are the labels
        return missing_column(source, names, text, "text_column")
    if text in names or label in names:
        is_text = label in names  # which is missing
        error = missing_column(
            source,
            names,
            text if is_text else label,
            "text_column" if is_text else "label_column",
        )
        kind, column = ("labels", label) if is_text else ("texts", text)
        error.remedy += f" (the {kind} are in {quoted(column)})"
        return error
    enough = ": of two columns, one is enough" if len(names) == 2 else ""
    return DataError(
        f"{quoted(source)} has neither a column {text!r} nor {label!r}; it has "
        f"{listed(names) or 'none at all'}",
        setting="text_column",
        seen=text,
        remedy=f"name the right ones with `text_column` and `label_column`{enough}",
    )


def text_fault(value: Any) -> str | None:
    """Why a cell cannot be classified, worded to follow "is"; None for a usable text."""
    return "missing" if is_missing(value) else fault_of(value)


def unknown_placeholder(source: str, names: Sequence[str], column: str) -> DataError:
    """The error for a table without a column that the prompt shows. names: the table's columns."""
    remedy = "name one of these, or write the braces with a space: only {identifier} is filled in"
    if column == "labels":
        remedy = "the label words belong in prompt.instruction, in place of {labels}"
    return DataError(
        f"the prompt names {{{column}}}, and {quoted(source)} has no such column; it has "
        f"{listed(names)}",
        setting="prompt.template",
        seen=column,
        remedy=remedy,
    )


def texts_of(source: str, table: "pa.Table", column: str) -> list[str]:
    """The texts of a column. Raises `DataError` with the row of the first unusable one."""
    values = python_values(table[column])
    faults = {row: fault for row, value in enumerate(values) if (fault := text_fault(value))}
    if faults:
        row, fault = next(iter(faults.items()))
        raise DataError(
            f"{quoted(source)}, {row_place(row)}: {column} is {fault}"
            + more_rows(list(faults), "unusable row"),
            setting="text_column",
            seen=values[row],
            remedy="fix the text or drop the row",
        )
    return values


def fields_of(source: str, columns: Mapping[str, Sequence[Any]]) -> list[Mapping[str, str]]:
    """Each row's columns that the prompt shows besides the text; empty if it shows none.

    columns: their values, by name. Raises `DataError` for a value that is no text, number or date.
    """
    return [
        {
            name: as_field(value, f"{quoted(source)}, {row_place(row)}: {name}")
            for name, value in zip(columns, values, strict=True)
        }
        for row, values in enumerate(zip(*columns.values(), strict=True))
    ]


def items_of(table: "pa.Table", text: str, others: Sequence[str]) -> list[Item | DataError]:
    """What the prompt shows of each row; an error where the row cannot be classified.

    text: the column of texts. others: the other columns that the prompt shows.
    """
    items: list[Item | DataError] = []
    for value, *more in zip(*(python_values(table[name]) for name in (text, *others)), strict=True):
        if fault := text_fault(value):
            items.append(DataError(f"{text} is {fault}", setting="text_column", seen=value))
            continue
        try:
            fields = {name: as_field(cell, name) for name, cell in zip(others, more, strict=True)}
        except DataError as error:
            items.append(error)
        else:
            items.append({"text": value, **fields} if others else value)
    return items


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
