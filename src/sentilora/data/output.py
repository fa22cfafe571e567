"""A table written to a file: encoded first, so that nothing is computed for a file that fails.

columns = encode_table(table, path)        # DataError for what the format cannot hold
write_encoded(columns, path)               # the file appears whole or not at all
"""

import gzip
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from sentilora.data.delimited import write_delimited
from sentilora.data.json_tables import json_text, write_json
from sentilora.data.places import is_remote, uploaded
from sentilora.data.tables import packing_of, python_values, suffix_of
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
    return Encoding.of(table.schema, [table], path).encode(table)


@dataclass(frozen=True)
class Encoding:
    """How the tables of one schema enter a file, piece by piece as they would as a whole.

    typed: Arrow types of the JSON columns in Parquet, by place.
    """

    path: Path
    typed: "Mapping[int, pa.DataType]"

    @classmethod
    def of(cls, schema: "pa.Schema", tables: "Iterable[pa.Table]", path: Path) -> Self:
        """The encoding of consecutive tables. Only JSON columns that Parquet will hold are read.

        Raises `DataError` for a column that the format cannot hold.
        """
        import pyarrow as pa

        suffix, names = suffix_of(path), schema.names
        if suffix not in (".csv", ".tsv") and len(set(names)) < len(names):
            repeat = next(name for name in names if names.count(name) > 1)
            reason = "it occurs twice, and only CSV and TSV files can repeat it"
            raise _unwritable(repeat, path, reason)
        places = [i for i, field in enumerate(schema) if field.type == pa.json_()]
        if suffix != ".parquet" or not places:
            return cls(path, {})
        witnesses = {place: _Witnesses() for place in places}
        for table in tables:
            for place in places:
                with _writable(names[place], path):
                    witnesses[place].add(python_values(table.column(place)))
        typed = {}
        for place in places:
            with _writable(names[place], path):
                typed[place] = witnesses[place].type()
        return cls(path, typed)

    def may_fail(self, schema: "pa.Schema") -> bool:
        """Whether a value can be one that the format cannot hold."""
        import pyarrow as pa

        suffix = suffix_of(self.path)
        if suffix == ".parquet":
            return bool(self.typed)
        safe = {pa.string()} if suffix in (".csv", ".tsv") else {pa.string(), pa.json_()}
        return not safe.issuperset(schema.types)

    def encode(self, table: "pa.Table") -> "pa.Table":
        """A piece as the file holds it. Raises `DataError` for a value that it cannot hold."""
        import pyarrow as pa

        suffix = suffix_of(self.path)
        arrays = []
        for place, name in enumerate(table.column_names):
            with _writable(name, self.path):
                arrays.append(_encoded(table.column(place), suffix, self.typed.get(place)))
        fields = [
            field.with_type(array.type) for field, array in zip(table.schema, arrays, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields, table.schema.metadata))


class _Witnesses:
    """A value of each kind in a column of JSON: Arrow's type for them is its type for all."""

    def __init__(self) -> None:
        self.values: dict[object, Any] = {}

    def add(self, values: Iterable[Any]) -> None:
        import pyarrow as pa

        for value in values:
            kind: object = type(value)
            if isinstance(value, dict | list) or (isinstance(value, int) and abs(value) >= 2**63):
                with _within_64_bits():
                    kind = pa.array([value]).type
            self.values.setdefault(kind, value)

    def type(self) -> "pa.DataType":
        import pyarrow as pa

        with _within_64_bits():
            return pa.array(list(self.values.values())).type


@contextmanager
def _within_64_bits() -> Iterator[None]:
    try:
        yield
    except OverflowError as error:
        raise ValueError("it has an integer of more than 64 bits") from error


@contextmanager
def _writable(name: str, path: Path) -> Iterator[None]:
    """Within a `with` block, what a value raises that the format cannot hold is a `DataError`."""
    try:
        yield
    except UnicodeEncodeError as error:
        reason = "it has half of a surrogate pair, which only JSON can write"
        raise _unwritable(name, path, reason) from error
    except (ValueError, TypeError) as error:  # Arrow's errors are such errors
        raise _unwritable(name, path, first_line(error)) from error


def write_encoded(table: "pa.Table", path: Path) -> None:
    """Write what `encode_table` returned. Nothing stays of a file that cannot be completed.

    Raises `SentiloraError` when the file cannot be written, for example to a full disk.
    """
    write_pieces(table.schema, [table], path)


def write_pieces(schema: "pa.Schema", tables: "Iterable[pa.Table]", path: Path) -> None:
    """Write encoded tables, one after the other, as `write_encoded` writes one."""
    with written_aside(path) as partial:
        if suffix_of(path) == ".parquet":
            import pyarrow.parquet as pq

            with pq.ParquetWriter(partial, schema) as writer:
                for table in tables:
                    writer.write_table(table)
        else:
            with _open_text(partial, packing_of(path)) as file:
                _write_text(file, schema.names, tables, suffix_of(path))


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path to write to within a `with` block; at its end the file is on the disk as `path`.

    Nothing stays of a file that cannot be completed. Raises `SentiloraError` when it cannot be
    written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        if is_remote(path):
            with uploaded(path) as local:
                yield local
            return
        try:
            yield partial
            _flush(partial)
            partial.replace(path)
            if os.name == "posix":  # elsewhere a folder cannot be opened
                _flush(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise SentiloraError(f"cannot write {quoted(path)}: {error}", seen=str(path)) from error


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _open_text(path: Path, packing: str) -> TextIO:
    """A text file to write. What is packed depends on its content alone, not on time and name."""
    content: Any
    if packing == ".gz":
        content = _Gzip(path)
    elif packing == ".zst":
        import pyarrow as pa

        content = pa.output_stream(str(path), compression="zstd")
    else:
        content = path.open("wb")
    return io.TextIOWrapper(content, encoding="utf-8", newline="\n")


class _Gzip(gzip.GzipFile):
    """A packed file without name and time in it."""

    def __init__(self, path: Path) -> None:
        self._packed = path.open("wb")
        super().__init__(filename="", mode="wb", fileobj=self._packed, mtime=0)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._packed.close()


def _write_text(
    file: TextIO, names: Sequence[str], tables: "Iterable[pa.Table]", suffix: str
) -> None:
    rows = (row for table in tables for row in _rows(table))
    if suffix in (".csv", ".tsv"):
        cells = ([cell or "" for cell in row] for row in rows)
        write_delimited(file, names, cells, "\t" if suffix == ".tsv" else ",")
    else:
        write_json(file, names, rows, is_list=suffix == ".json")


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


def _encoded(
    column: "pa.ChunkedArray", suffix: str, typed: "pa.DataType | None"
) -> "pa.ChunkedArray":
    import pyarrow as pa

    is_json = column.type == pa.json_()
    if suffix == ".parquet":
        return column if typed is None else _typed(column, typed)
    if suffix in (".csv", ".tsv"):
        return column if column.type == pa.string() else _texts(column, _cell)
    if is_json:
        return pa.chunked_array([chunk.storage for chunk in column.chunks], pa.string())
    return _texts(column, json_text)


def _typed(column: "pa.ChunkedArray", kind: "pa.DataType") -> "pa.ChunkedArray":
    """A column of JSON values with an Arrow type; an absent key is a null."""
    import pyarrow as pa

    values = [value for chunk in column.chunks for value in python_values(chunk)]
    with _within_64_bits():
        array = pa.array(values, kind)
    if pa.types.is_nested(kind) and array.to_pylist() != values:
        raise ValueError("its objects do not have the same keys")
    return pa.chunked_array([array], kind)


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
