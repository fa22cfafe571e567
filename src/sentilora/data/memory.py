"""Tables that a program passes instead of files: DataFrames, `datasets.Dataset`s, Arrow tables."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sentilora.errors import DataError, UsageError, first_line

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


def require_passed(source: str) -> None:
    """Raise `DataError` if a source is the name of a table that must be passed again."""
    if source.startswith(_PREFIX):
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
    """The names of a table's columns."""
    return [
        str(name) for name in (data.column_names if hasattr(data, "column_names") else data.columns)
    ]


def table_of(data: Any, setting: str = "data.train") -> "pa.Table":
    """A table in memory as an Arrow table; a data set keeps the names of its labels.

    Raises `UsageError` for what is no table, `DataError` for a column of several types.
    """
    import pyarrow as pa

    try:
        if isinstance(data, pa.Table):
            return data
        # datasets.Dataset; one that streams has no number of rows
        if hasattr(data, "with_format") and hasattr(data, "num_rows"):
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
        f"`{setting}` is a {type(data).__name__}, not a table",
        setting=setting,
        seen=type(data).__name__,
        remedy="pass a pandas DataFrame, a datasets.Dataset or a pyarrow.Table, or name a file",
    )
