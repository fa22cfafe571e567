"""Tables that a program passes instead of files: DataFrames, `datasets.Dataset`s, Arrow tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sentilora.data.columns import items_of
from sentilora.data.text import Item
from sentilora.errors import DataError, UsageError, first_line
from sentilora.wording import listed, with_article

if TYPE_CHECKING:
    import pyarrow as pa

_PREFIX = "memory:"  # begins the name under which a run records such a table


@dataclass(frozen=True)
class InMemory:
    """A table and the name under which a run records it: "memory:DataFrame"."""

    table: "pa.Table"
    kind: str

    def __str__(self) -> str:
        return f"{_PREFIX}{self.kind}"


def in_memory(data: object, setting: str) -> InMemory:
    """A program's table as a source. setting: the keyword that it was passed for.

    Raises `UsageError` for what is no table.
    """
    return InMemory(table_of(data, setting), type(data).__name__)


def was_passed(source: str) -> bool:
    """Whether a source is the name of a table that a program passed."""
    return source.startswith(_PREFIX)


def require_passed(source: str) -> None:
    """Raise `DataError` if a source is the name of a table that must be passed again."""
    if was_passed(source):
        raise DataError(
            f"the rows were passed {source.replace(_PREFIX, 'from memory, as a ')}, and are not "
            "on disk",
            seen=source,
            remedy="pass them again, or name a file",
        )


def is_table(data: object) -> bool:
    """Whether a value has columns: a DataFrame, a data set, an Arrow table."""
    return hasattr(data, "column_names") or hasattr(data, "columns")


def column_names(data: Any) -> list[str]:
    """The names of a table's columns; none if it does not know them, as a stream of rows may."""
    names = data.column_names if hasattr(data, "column_names") else data.columns
    return [] if names is None else list(map(str, names))


def records_of(data: Any, text: str, others: Sequence[str]) -> list[Item]:
    """The rows of a table as records of the text and the other columns that the prompt shows.

    text: the name of the column of texts. Raises `DataError` if the table lacks one of the columns,
    and for the first row that cannot be classified.
    """
    is_pandas = hasattr(data, "iterrows")
    table = data if is_pandas else table_of(data, "texts")
    names, columns = column_names(table), (text, *others)
    for name in columns:
        if names.count(name) != 1:
            raise DataError(
                f"the table has {'two columns' if name in names else 'no column'} {name!r}; it has "
                f"{listed(names) or 'none at all'}",
                setting="texts",
                seen=name,
                remedy=f"the prompt shows {', '.join(columns)}: rename the columns to these",
            )
    if is_pandas:  # whose other columns may hold what Arrow cannot
        table = table_of(data[list(columns)], "texts")
    records: list[Item] = []
    for row, item in enumerate(items_of(table, text, others)):
        if isinstance(item, DataError):
            raise DataError(
                f"texts[{row}]: {item.problem}",
                setting="texts",
                seen=item.seen,
                remedy=item.remedy or "fix the row or drop it",
            )
        records.append(item)
    return records


def table_of(data: Any, setting: str = "data.train") -> "pa.Table":
    """A table in memory as an Arrow table; a data set keeps the names of its labels.

    Raises `UsageError` for what is no table, `DataError` for a column of several types.
    """
    import pyarrow as pa

    try:
        if isinstance(data, pa.Table):
            return data
        # datasets.Dataset; an IterableDataset, a stream, has no length
        if hasattr(data, "with_format") and hasattr(data, "features") and hasattr(data, "__len__"):
            table = data.with_format("arrow")[:]
            return table.replace_schema_metadata(data.features.arrow_schema.metadata)
        if hasattr(data, "iterrows"):  # pandas
            return pa.Table.from_pandas(data)
        # polars, DuckDB and others; a Series offers a stream too, and has no schema
        if hasattr(data, "__arrow_c_stream__") and hasattr(data, "schema"):
            return pa.table(data)
    except (ValueError, TypeError) as error:  # of several types, or two columns of one name
        raise DataError(
            f"`{setting}` is a {type(data).__name__} that is no table of Arrow: "
            f"{first_line(error)}",
            setting=setting,
            seen=type(data).__name__,
            remedy="give each column a name and a type of its own",
        ) from error
    raise UsageError(
        f"`{setting}` is {with_article(type(data).__name__)}, not a table",
        setting=setting,
        seen=type(data).__name__,
        remedy="pass a pandas DataFrame, a datasets.Dataset or a pyarrow.Table, or name a file",
    )
