"""Tables on disk: files of every format, read as Arrow tables; `output` writes them.

Columns keep the types, names and values that the file has, so that a file whose texts were read
can be written with everything else it holds.
"""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

from sentilora.data.delimited import read_delimited, require_unique
from sentilora.data.json_tables import json_column, read_json
from sentilora.errors import DataError, first_line
from sentilora.places import native
from sentilora.progress import say_once
from sentilora.wording import quoted

if TYPE_CHECKING:
    import pyarrow as pa


_TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
_PACKED = (".gz", ".zst")
OUTPUT_SUFFIXES = (
    *_TEXT_SUFFIXES,
    ".parquet",
    *(f"{suffix}{packed}" for packed in _PACKED for suffix in _TEXT_SUFFIXES),
)
SUFFIXES = (*OUTPUT_SUFFIXES, ".xlsx")
_ROWS_AT_ONCE = 8192
# Text packs to a tenth of its size; a file of zeros to a thousandth, and it would fill the memory.
_MAX_UNPACKED, _MAX_RATIO = 2**26, 200


def suffix_of(path: Path) -> str:
    """The suffix of a file's format, without ".gz" or ".zst": ".csv" of "a.CSV.gz"; "" for none."""
    name = path.name.lower()
    suffix = next((s for s in SUFFIXES if name.endswith(s)), "")
    return suffix.removesuffix(packing_of(path))


def packing_of(path: Path) -> str:
    """How a file is packed: ".gz", ".zst" or ""."""
    name = path.name.lower()
    return next((packed for packed in _PACKED if name.endswith(packed)), "")


def concatenated(tables: Sequence["pa.Table"]) -> "pa.Table":
    """Tables of the same columns, one after the other, in the first one's order of columns.

    Categories become their values, and texts become JSON where another table has other values.

    Raises `ValueError` if their columns, or the types of them, are others.
    """
    import pyarrow as pa

    names = tables[0].column_names
    if len(tables) == 1:
        return tables[0]
    if any(sorted(table.column_names) != sorted(names) for table in tables):
        raise ValueError("the columns have other names")
    if len(set(names)) == len(names):
        tables = [table.select(names) for table in tables]
    columns = []
    for place, name in enumerate(names):
        parts = [_without_categories(table.column(place)) for table in tables]
        if {part.type for part in parts} == {pa.string(), pa.json_()}:
            parts = [pa.chunked_array([json_column(python_values(part))]) for part in parts]
        if len({part.type for part in parts}) > 1:
            raise ValueError(f"{name} has other types")
        columns.append(pa.chunked_array([chunk for part in parts for chunk in part.chunks]))
    metadata = tables[0].schema.metadata
    return pa.Table.from_arrays(columns, names=names).replace_schema_metadata(metadata)


def _without_categories(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow as pa

    is_category = pa.types.is_dictionary(column.type)
    return column.cast(column.type.value_type) if is_category else column


def python_values(column: "pa.Array | pa.ChunkedArray") -> list[Any]:
    """The values of a column as Python has them; None for a null and for an absent JSON key."""
    import pyarrow as pa

    cells: list[Any] = column.to_pylist()
    if column.type == pa.json_():
        return [None if cell is None else json.loads(cell) for cell in cells]
    return cells


# --- reading -------------------------------------------------------------------------------------


def read_file(path: Path, is_needed: Callable[[str], bool] | None) -> "pa.Table":
    """A file as a table, in the format that its suffix names.

    is_needed: whether a column of this name is needed; None keeps every column. A needed column
        must occur once.

    Raises `DataError` for an unknown suffix and for a file that cannot be read.
    """
    suffix = require_suffix(path)
    with readable_file(path):
        match suffix:
            case ".parquet":
                return _read_parquet(path, is_needed)
            case ".xlsx":
                return _read_spreadsheet(path, is_needed)
            case ".csv" | ".tsv":
                separator = "\t" if suffix == ".tsv" else ","
                return read_delimited(path, lambda: open_text(path, ""), separator, is_needed)
        # Lines end at \n only: a JSON string may hold other characters at which Python splits.
        return read_json(lambda: open_text(path, "\n"), suffix == ".json", is_needed)


def require_suffix(path: Path) -> str:
    """`suffix_of` a file. Raises `DataError` if the file's name names no format."""
    if suffix := suffix_of(path):
        return suffix
    raise DataError(
        f"cannot tell the format of {path.name}",
        seen=str(path),
        remedy=f"use one of {', '.join(SUFFIXES)}",
    )


@contextmanager
def readable_file(path: Path) -> Iterator[None]:
    """Within a `with` block, what a file that cannot be read raises is a `DataError`."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise DataError(
            f"{quoted(path)} is not valid UTF-8{_bad_byte(path)}",
            seen=str(path),
            remedy="save it as UTF-8",
        ) from error
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"cannot read {quoted(path)}: {first_line(error)}", seen=str(path)
        ) from error


def open_text(path: Path, newline: str, errors: str = "strict") -> TextIO:
    """A file of UTF-8 text, packed or not, without its byte-order mark. errors: as of `open`."""
    return io.TextIOWrapper(_open_bytes(path), "utf-8-sig", errors, newline)


def _open_bytes(path: Path) -> IO[bytes]:
    match packing_of(path):
        case ".gz":
            return _unpacked(gzip.open(native(path), "rb"), path)
        case (
            ".zst"
        ):  # Arrow's reader goes on after a frame, and notices a file that ends within one
            import pyarrow as pa

            return _unpacked(pa.input_stream(native(path), compression="zstd"), path)
    return path.open("rb")


def _unpacked(content: Any, path: Path) -> IO[bytes]:
    """What a packed file holds. Reading raises `ValueError` once that is too much for its size."""
    return cast(IO[bytes], io.BufferedReader(_Unpacked(content, path.stat().st_size)))


class _Unpacked(io.RawIOBase):
    """Counts what is read of a packed file. content: unpacks it. packed_size: of the file."""

    def __init__(self, content: Any, packed_size: int) -> None:
        self._content = content
        self._most = most_unpacked(packed_size)
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._content.read(len(buffer))
        self._size += len(piece)
        require_no_bomb(self._size, self._most)
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._content.close()
        super().close()


def most_unpacked(packed_size: int) -> int:
    """The most bytes that a packed file may unpack to."""
    return max(_MAX_UNPACKED, _MAX_RATIO * packed_size)


def require_no_bomb(size: int, most: int) -> None:
    """Raise `ValueError` if a packed file unpacks to more bytes than text can."""
    if size > most:
        raise ValueError(
            f"it unpacks to more than {most / 2**20:,.0f} MiB, {_MAX_RATIO} times its size; unpack "
            "it yourself if that is right"
        )


def _read_parquet(path: Path, is_needed: Callable[[str], bool] | None) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(native(path)) as file:
        if is_needed is None:
            return _with_range_index(file.read())
        names = [name for name in file.schema_arrow.names if is_needed(name)]
        require_unique(path, names)
        # In batches: read at once, the column would be in memory twice. A name with a dot also
        # selects a field of a nested column, which is not needed.
        batches = file.iter_batches(_ROWS_AT_ONCE, columns=names)
        tables = [pa.Table.from_batches([batch]).select(names) for batch in batches]
        return pa.concat_tables(tables) if tables else file.schema_arrow.empty_table().select(names)


def _with_range_index(table: "pa.Table") -> "pa.Table":
    """The table with pandas' index as a column, where the file has only its start and step."""
    index = range_index(table.schema, len(table))
    return table if index is None else index.added(table, 0)


@dataclass(frozen=True)
class RangeIndex:
    """An index of pandas that a file has only as start and step. metadata: with it as a column."""

    name: str
    numbers: range
    metadata: dict[bytes, bytes]

    def added(self, table: "pa.Table", first: int) -> "pa.Table":
        """A table of consecutive rows with the index as a column. first: number of its first."""
        import pyarrow as pa

        numbers = pa.array(self.numbers[first : first + len(table)], pa.int64())
        return table.append_column(self.name, numbers).replace_schema_metadata(self.metadata)


def range_index(schema: "pa.Schema", num_rows: int) -> RangeIndex | None:
    """The index of a file that has only its start and step, None if it has no such index.

    Any other index is a column already. 0, 1, 2 … without a name counts the rows and says nothing.
    """
    try:
        pandas = json.loads((schema.metadata or {})[b"pandas"])
        (index,) = pandas["index_columns"]
        numbers = range(index["start"], index["stop"], index["step"])
        num_numbers, columns = len(numbers), list(pandas["columns"])
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
        return None
    name = index.get("name")
    if num_numbers != num_rows or (numbers == range(num_rows) and name is None):
        return None
    column = str(name or "__index_level_0__")  # pandas' own name for an index without one
    integer = {"pandas_type": "int64", "numpy_type": "int64", "metadata": None}
    columns.append({"name": name, "field_name": column, **integer})
    pandas |= {"index_columns": [column], "columns": columns}
    return RangeIndex(column, numbers, {**schema.metadata, b"pandas": json.dumps(pandas).encode()})


def _read_spreadsheet(path: Path, is_needed: Callable[[str], bool] | None) -> "pa.Table":
    """The first sheet of an Excel file. Its first row is the header."""
    import pyarrow as pa

    try:
        import openpyxl
    except ImportError as error:
        raise DataError(
            f"{quoted(path)} is an Excel file, and openpyxl, which reads it, is not installed",
            seen=str(path),
            remedy="install openpyxl, or save the sheet as CSV",
        ) from error
    try:
        with zipfile.ZipFile(native(path)) as parts:
            unpacked = sum(part.file_size for part in parts.infolist())
        require_no_bomb(unpacked, most_unpacked(path.stat().st_size))
        with closing(openpyxl.load_workbook(native(path), read_only=True, data_only=True)) as book:
            sheets = book.sheetnames
            cells = book.worksheets[0].iter_rows(values_only=True)  # unpacked and parsed here
            rows = [row for row in cells if any(_filled(row))]
    except Exception as error:  # zipfile's, KeyError, and openpyxl's own, which share no base
        raise DataError(
            f"cannot read {quoted(path)}: {first_line(error)}", seen=str(path)
        ) from error
    if len(sheets) > 1:
        say_once(f"{path.name}: the first of its {len(sheets)} sheets, {sheets[0]!r}")
    if not rows:
        raise DataError(
            f"{quoted(path)} is empty", seen=str(path), remedy="a header and rows are expected"
        )
    header, *body = rows
    names = ["" if name is None else str(name) for name in header]
    places = [i for i, name in enumerate(names) if is_needed is None or is_needed(name)]
    if is_needed is not None:
        require_unique(path, [names[i] for i in places])
    arrays = [_cells_to_arrow([row[i] for row in body]) for i in places]
    return pa.Table.from_arrays(arrays, names=[names[i] for i in places])


def _filled(row: tuple[Any, ...]) -> Iterator[bool]:
    return (cell is not None for cell in row)


def _cells_to_arrow(cells: list[Any]) -> "pa.Array":
    """The cells of a sheet's column. Cells of several types become JSON values."""
    import pyarrow as pa

    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds <= {int, float}:  # a whole number in a column of others, or one beyond 64 bits
        kinds = {float} if float in kinds else kinds
        cells = [None if cell is None else next(iter(kinds))(cell) for cell in cells]
    return json_column(cells) if len(kinds) > 1 else pa.array(cells)


def _bad_byte(path: Path) -> str:
    """Where a file stops being UTF-8: ": byte 0xe9 in line 1"."""
    with _open_bytes(path) as file:
        content = file.read()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f": byte {content[error.start]:#04x} in line {line}"
    return ""
