"""A table written to a file: encoded first, so that nothing is computed for a file that fails.

columns = encode_table(table, path)        # DataError for what the format cannot hold
write_encoded(columns, path)               # the file appears whole or not at all
"""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from sentilora.data.delimited import write_delimited
from sentilora.data.json_tables import json_text, write_json
from sentilora.data.tables import python_values, suffix_of
from sentilora.errors import DataError, SentiloraError, first_line
from sentilora.wording import quoted

if TYPE_CHECKING:
    import pyarrow as pa


_ROWS_AT_ONCE = 8192  # become Python objects together


def encode_table(table: "pa.Table", path: Path) -> "pa.Table":
    """The table as the format of `path` holds it.

    Columns have types in Parquet; in the other formats they are the texts of their cells.

    Raises `DataError` for a column that the format cannot hold.
    """
    import pyarrow as pa

    suffix = suffix_of(path)
    names = table.column_names
    if suffix not in (".csv", ".tsv") and len(set(names)) < len(names):
        repeat = next(name for name in names if names.count(name) > 1)
        raise _unwritable(repeat, path, "it occurs twice, and only CSV and TSV files can repeat it")
    arrays = []
    for name, column in zip(names, table.columns, strict=True):
        try:
            arrays.append(_encoded(column, suffix))
        except UnicodeEncodeError as error:
            reason = "it has half of a surrogate pair, which only JSON can write"
            raise _unwritable(name, path, reason) from error
        except (ValueError, TypeError) as error:  # Arrow's errors are such errors
            raise _unwritable(name, path, first_line(error)) from error
    fields = [
        field.with_type(array.type) for field, array in zip(table.schema, arrays, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, table.schema.metadata))


def write_encoded(table: "pa.Table", path: Path) -> None:
    """Write what `encode_table` returned. Nothing stays of a file that cannot be completed.

    Raises `SentiloraError` when the file cannot be written, for example to a full disk.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        try:
            if suffix_of(path) == ".parquet":
                import pyarrow.parquet as pq

                pq.write_table(table, partial)
            else:
                with _open_text(partial, is_packed=path.name.lower().endswith(".gz")) as file:
                    _write_text(file, table, suffix_of(path))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise SentiloraError(f"cannot write {quoted(path)}: {error}", seen=str(path)) from error


def _open_text(path: Path, is_packed: bool) -> TextIO:
    if is_packed:
        return cast(TextIO, gzip.open(path, "wt", encoding="utf-8", newline="\n"))
    return path.open("w", encoding="utf-8", newline="\n")


def _write_text(file: TextIO, table: "pa.Table", suffix: str) -> None:
    if suffix in (".csv", ".tsv"):
        rows = ([cell or "" for cell in row] for row in _rows(table))
        write_delimited(file, table.column_names, rows, "\t" if suffix == ".tsv" else ",")
    else:
        write_json(file, table.column_names, _rows(table), is_list=suffix == ".json")


def _rows(table: "pa.Table") -> Iterator[tuple[str | None, ...]]:
    for batch in table.to_batches(_ROWS_AT_ONCE):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _unwritable(name: str, path: Path, reason: str) -> DataError:
    return DataError(
        f"{path.name} cannot hold the column {name!r}: {reason}",
        setting="output",
        seen=name,
        remedy="write another format, or leave the column out of the input",
    )


def _encoded(column: "pa.ChunkedArray", suffix: str) -> "pa.ChunkedArray":
    import pyarrow as pa

    is_json = column.type == pa.json_()
    if suffix == ".parquet":
        return _typed(column) if is_json else column
    if suffix in (".csv", ".tsv"):
        return column if column.type == pa.string() else _texts(column, _cell)
    if is_json:
        return pa.chunked_array([chunk.storage for chunk in column.chunks], pa.string())
    return _texts(column, json_text)


def _typed(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """A column of JSON values with the Arrow type that holds them all; an absent key is a null."""
    import pyarrow as pa

    values = [value for chunk in column.chunks for value in python_values(chunk)]
    try:
        array = pa.array(values)
    except OverflowError as error:
        raise ValueError("it has an integer of more than 64 bits") from error
    if pa.types.is_nested(array.type) and array.to_pylist() != values:
        raise ValueError("its objects do not have the same keys")
    return pa.chunked_array([array])


def _texts(column: "pa.ChunkedArray", encode: Callable[[Any], str]) -> "pa.ChunkedArray":
    import pyarrow as pa

    chunks = []
    for chunk in column.chunks:
        for start in range(0, len(chunk), _ROWS_AT_ONCE):
            values = python_values(chunk.slice(start, _ROWS_AT_ONCE))
            chunks.append(pa.array([encode(value) for value in values], pa.string()))
    return pa.chunked_array(chunks, pa.string())


def _cell(value: Any) -> str:
    """The text of a value in a CSV file: strings and numbers as they are, lists as JSON."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bytes():
            raise ValueError(f"a text file cannot hold bytes: {value!r:.40}")
        case dict() | list() | tuple():
            return json_text(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
