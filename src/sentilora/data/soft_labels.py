"""Soft labels: the share that each label has in a row, from probabilities or from annotators.

A table has shares as columns `probability_<label>`, as `predict` writes them. Without such columns
they are those of several annotators: rows of the same text with different labels.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sentilora.data.columns import is_missing, more_rows
from sentilora.data.label_words import word_for, word_in_map
from sentilora.data.rows import Columns, Rows, row_place
from sentilora.data.tables import python_values
from sentilora.data.text import digest, normalized
from sentilora.errors import DataError
from sentilora.wording import counted, listed, quoted

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = "probability_"
PREDICTION = "prediction"  # beside such columns: a model's answer, as `predict` writes it
ROUNDING = 1e-9  # of a sum that needs no division, so that what was written is read again
TOLERANCE = 0.02  # of a sum of shares: those of a few labels, rounded to two decimals


def is_probability(column: str) -> bool:
    """Whether a column holds the probabilities of a label, by its name. Case does not matter."""
    return column[: len(PREFIX)].lower() == PREFIX and len(column) > len(PREFIX)


def probability_columns(names: Sequence[str]) -> dict[str, str]:
    """{stored label: its column of probabilities}, in order; empty if fewer than two have one."""
    columns = {name[len(PREFIX) :]: name for name in names if is_probability(name)}
    return columns if len(columns) > 1 else {}


def labels_of_columns(stored: Iterable[str], label_map: Mapping[str, str]) -> list[str]:
    """The label words of columns of probabilities, in order.

    Those that differ in capitals or outer spaces only are one label, as in a column of labels.
    """
    words: dict[str, str] = {}
    for label in stored:
        word = word_in_map(label_map, label) or label.strip()
        words.setdefault(word.lower(), word)
    return list(words.values())


def shares_of(source: str, table: "pa.Table", columns: Columns) -> list[tuple[float, ...]]:
    """Each row's share of every label, with sum 1. The table has columns of probabilities.

    Raises `DataError` for a column that belongs to no label, for a label without a column, and for
    the first row whose shares are missing, negative, no numbers, or do not add up to 1.
    """
    numbers = {label: number for number, label in enumerate(columns.labels)}
    places = {
        column: numbers[word]
        for column, word in _words(source, table.column_names, columns).items()
    }
    values = {column: python_values(table[column]) for column in places}
    faults: dict[int, tuple[str, Any]] = {}
    shares = []
    for row in range(len(table)):
        mine = [0.0] * len(numbers)
        for column, place in places.items():
            share = _number(values[column][row])
            if isinstance(share, str):
                faults[row] = f"{column} is {share}", values[column][row]
                break
            mine[place] += share
        total = sum(mine)
        if row not in faults and abs(total - 1) > TOLERANCE:
            faults[row] = (
                f"its probabilities add up to {total:g}, not to 1 ({listed(places)})",
                total,
            )
        if row not in faults and abs(total - 1) > ROUNDING:
            mine = [share / total for share in mine]
        shares.append(tuple(mine))
    if faults:
        row, (fault, seen) = next(iter(faults.items()))
        raise DataError(
            f"{quoted(source)}, {row_place(row)}: {fault}"
            + more_rows(list(faults), "unusable row"),
            setting="data.soft_labels",
            seen=seen,
            remedy=_remedy_for(seen),
        )
    return shares


def _words(source: str, names: Sequence[str], columns: Columns) -> dict[str, str]:
    """{column of probabilities: label word}. Raises `DataError` unless they cover the labels."""
    words, stored = {}, probability_columns(names)
    for name, column in stored.items():
        word = word_for(name, columns)
        if word is None:
            raise DataError(
                f"{quoted(source)} has a column {column!r}, and {name!r} is not one of the labels "
                f"({listed(columns.labels)})",
                setting="data.label_map",
                seen=name,
                remedy="map it with data.label_map, add it to prompt.labels, or remove the column",
            )
        words[column] = word
    if absent := [label for label in columns.labels if label not in words.values()]:
        raise DataError(
            f"{quoted(source)} has no column {PREFIX + absent[0]!r} for the label {absent[0]!r}; "
            f"it has {listed(stored.values())}",
            setting="prompt.labels",
            seen=absent[0],
            remedy="add the column, or leave the label out of prompt.labels",
        )
    return words


def _number(value: Any) -> float | str:
    """A share as a number, or what is wrong with it, worded to follow "is"."""
    if is_missing(value) or value == "":
        return "missing"
    try:
        number = float(value)
    except (TypeError, ValueError):
        return f"{value!r:.40}, no number"
    if math.isnan(number):
        return "missing"
    return number if 0 <= number < math.inf else f"{number:g}"


def _remedy_for(seen: Any) -> str:
    """What to do about a row's probabilities. seen: a share as it is stored, or their sum."""
    is_percentage = isinstance(seen, str) and seen.rstrip().endswith("%")
    if is_percentage or (isinstance(seen, float) and abs(seen / 100 - 1) <= TOLERANCE):
        return "write shares of 1, such as 0.15, instead of percentages"
    return "fix the probabilities or drop the row"


def one_hot(labels: Sequence[str], every_label: Sequence[str]) -> list[tuple[float, ...]]:
    """The shares of rows with one label each: 1 for it, 0 for the others."""
    rows = {label: tuple(float(x == label) for x in every_label) for label in every_label}
    return [rows[label] for label in labels]


def with_shares(
    rows: Rows, shares: Sequence[tuple[float, ...]], labels: Sequence[str], origin: str
) -> Rows:
    """Rows with soft labels, one for each text: the shares of rows with the same text are averaged.

    origin: where the shares come from. labels: the label words, in the order of the shares.
    """
    groups: dict[bytes, list[int]] = defaultdict(list)
    for row, item in enumerate(rows.inputs):
        groups[digest(normalized(item))].append(row)
    first = rows.take(group[0] for group in groups.values())
    means = [
        tuple(
            math.fsum(column) / len(group)
            for column in zip(*(shares[i] for i in group), strict=True)
        )
        for group in groups.values()
    ]
    if merged := sum(len(group) for group in groups.values() if len(group) > 1):
        texts = sum(len(group) > 1 for group in groups.values())
        origin += f"; {counted(merged, 'row')} of {counted(texts, 'text')} became one row each"
    best = [labels[max(range(len(mean)), key=mean.__getitem__)] for mean in means]
    return Rows(
        first.source,
        first.texts,
        best,
        first.rating_column,
        first.ratings,
        first.numbers,
        rows.meanings,
        first.fields,
        first.notes,
        means,
        origin,
    )
