"""A source as a stream of tables, so that memory does not grow with its number of rows.

    stream = open_stream("reviews.parquet", "test")
    for table in stream.tables(first=8192):
        ...

The tables, joined, are what `read_table` returns, and what it refuses is refused when the stream is
opened: text files are read once then, before their rows are used. Parquet, CSV, TSV and JSON lines
are read in pieces; a list in a JSON file, an Excel sheet, a folder of .txt files or a data set from
the hub is held as a whole.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sentilora.data.delimited import DelimitedReader, check_delimited
from sentilora.data.json_tables import JsonColumns, check_json, json_blocks
from sentilora.data.sources import describe, join_tables, local_paths, read_table
from sentilora.data.tables import (
    concatenated,
    open_text,
    range_index,
    readable_file,
    require_suffix,
)
from sentilora.errors import DataError
from sentilora.places import native
from sentilora.wording import quoted

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 8192
_BYTES_AT_ONCE = 2**20


@dataclass(frozen=True)
class Stream:
    """Rows of one schema. read: the tables from a row on; they may begin earlier, as (row, table).

    Tables begin at the same rows wherever reading starts: a file's bytes depend on where the pieces
    of its rows begin, and a job that is resumed writes the bytes of one that is not.
    digest_content: adds the content of the source to a hash. faults: why rows cannot be used that
    hold nothing for this reason, by their number.
    """

    schema: "pa.Schema"
    num_rows: int
    read: "Callable[[int], Iterator[tuple[int, pa.Table]]]"
    digest_content: "Callable[[_Hash], None]"
    faults: Mapping[int, str] = field(default_factory=dict)

    def tables(self, first: int = 0) -> "Iterator[pa.Table]":
        """The rows from number `first` on, in order, in tables of up to 8,192 rows."""
        for start, table in self.read(first):
            if start + len(table) > first:
                yield table.slice(max(0, first - start))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the source's content, whatever the source is called."""
        digest = hashlib.sha256()
        self.digest_content(digest)
        return digest.hexdigest()


class _Hash(Protocol):
    def update(self, data: Any, /) -> None: ...


def open_stream(source: str, split: str, *, keep_faulty: bool = False) -> Stream:
    """One split of a source as a stream. Raises `DataError` as `read_table` does.

    keep_faulty: whether a line of JSON that cannot be used is a row, one of the `faults`, instead
    of an error. Other formats do not say where a row ends that is broken.
    """
    paths = local_paths(source, split)
    if paths is None or paths[0].is_dir():
        return _of_table(read_table(source, split))
    streams = [_of_file(path, keep_faulty) for path in paths]
    firsts = accumulate((stream.num_rows for stream in streams), initial=0)
    empty = [stream.schema.empty_table() for stream in streams]
    schema = describe(join_tables(source, paths, empty), source, paths[0]).schema
    return Stream(
        schema,
        sum(stream.num_rows for stream in streams),
        partial(_read_joined, streams, schema),
        partial(_digest_all, streams),
        {
            first + row: reason
            for first, stream in zip(firsts, streams, strict=False)
            for row, reason in stream.faults.items()
        },
    )


def _read_joined(
    streams: Sequence[Stream], schema: "pa.Schema", first: int
) -> "Iterator[tuple[int, pa.Table]]":
    """The rows of several streams, one after the other, as tables of one schema."""
    start = 0
    for stream in streams:
        if start + stream.num_rows > first:
            for place, table in stream.read(max(0, first - start)):
                if len(streams) > 1:
                    table = concatenated([schema.empty_table(), table])
                yield start + place, table.replace_schema_metadata(schema.metadata)
        start += stream.num_rows


def _digest_all(streams: Sequence[Stream], digest: _Hash) -> None:
    for stream in streams:
        stream.digest_content(digest)


def _of_table(table: "pa.Table") -> Stream:
    """A table in memory as a stream."""

    def read(first: int) -> "Iterator[tuple[int, pa.Table]]":
        for start in range(first - first % _ROWS_AT_ONCE, len(table), _ROWS_AT_ONCE):
            yield start, table.slice(start, _ROWS_AT_ONCE)

    def digest_content(digest: _Hash) -> None:
        import pyarrow as pa

        digest.update(table.schema.to_string().encode())
        for _, piece in read(0):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, piece.schema) as writer:
                writer.write_table(piece.combine_chunks())
            digest.update(sink.getvalue())

    return Stream(table.schema, len(table), read, digest_content)


def _of_file(path: Path, keep_faulty: bool) -> Stream:
    """A file as a stream."""
    suffix, faults = require_suffix(path), {}
    with readable_file(path):
        match suffix:
            case ".xlsx":
                return _of_table(read_table(str(path), "test"))
            case ".parquet":
                schema, num_rows, read = _parquet(path)
            case ".csv" | ".tsv":
                reader, num_rows = check_delimited(
                    path, partial(open_text, path, ""), "\t" if suffix == ".tsv" else ","
                )
                schema, read = _first(reader.tables(None)).schema, partial(_delimited, reader)
            case _:
                errors = "surrogateescape" if keep_faulty else "strict"
                open_lines = partial(open_text, path, "\n", errors)
                how = (open_lines, suffix == ".json", None)
                columns = check_json(*how, is_tolerant=keep_faulty)
                schema, num_rows, faults = columns.schema, columns.num_rows, columns.faults
                read = partial(_json, partial(json_blocks, *how, keep_faulty), columns)
    read = partial(_as_checked, path, num_rows, read)
    return Stream(schema, num_rows, read, partial(_digest_file, path), faults)


def _as_checked(
    path: Path,
    num_rows: int,
    read: "Callable[[int], Iterator[tuple[int, pa.Table]]]",
    first: int,
) -> "Iterator[tuple[int, pa.Table]]":
    """The tables of a file. Raises `DataError` if it has other rows than when it was opened."""
    end = num_rows if num_rows == first else first
    with readable_file(path):
        for start, table in read(first):
            end = start + len(table)
            yield start, table
    if end != num_rows:
        raise DataError(
            f"{quoted(path)} has changed while it was read: {end:,} rows instead of {num_rows:,}",
            seen=str(path),
            remedy="start again when it is complete",
        )


def _digest_file(path: Path, digest: _Hash) -> None:
    with readable_file(path), path.open("rb") as file:
        while content := file.read(_BYTES_AT_ONCE):
            digest.update(content)


def _first(tables: "Iterator[pa.Table]") -> "pa.Table":
    return next(tables)


def _delimited(reader: DelimitedReader, first: int) -> "Iterator[tuple[int, pa.Table]]":
    start = 0
    for table in reader.tables(None):
        if len(table):
            yield start, table
        start += len(table)


def _json(
    blocks: Callable[[], Iterator[Any]], columns: JsonColumns, first: int
) -> "Iterator[tuple[int, pa.Table]]":
    start = 0
    for block in blocks():
        if start + block.num_rows > first:
            yield start, columns.table(block)
        start += block.num_rows


def _parquet(
    path: Path,
) -> "tuple[pa.Schema, int, Callable[[int], Iterator[tuple[int, pa.Table]]]]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(native(path)) as file:
        # An index without a column is added to every table.
        schema, num_rows = file.schema_arrow, file.metadata.num_rows
    index = range_index(schema, num_rows)

    def read(first: int) -> "Iterator[tuple[int, pa.Table]]":
        with pq.ParquetFile(native(path)) as file:
            start = 0
            for group in range(file.metadata.num_row_groups):
                if start + file.metadata.row_group(group).num_rows <= first:
                    start += file.metadata.row_group(group).num_rows
                    continue
                # Batches of several groups would begin elsewhere when reading starts elsewhere.
                for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=[group]):
                    table = pa.Table.from_batches([batch], batch.schema)
                    table = table.replace_schema_metadata(schema.metadata)
                    yield start, table if index is None else index.added(table, start)
                    start += len(table)

    empty = schema.empty_table()
    whole = empty if index is None else index.added(empty, 0)
    return whole.schema, num_rows, read
