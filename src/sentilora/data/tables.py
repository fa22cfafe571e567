"""Tables on disk: files of every format, read as Arrow tables; `output` writes them.

Columns keep the types, names and values that the file has, so that a file whose texts were read
can be written with everything else it holds.
"""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO, cast

from sentilora.data.delimited import read_delimited, require_unique
from sentilora.data.json_tables import read_json
from sentilora.errors import DataError, first_line
from sentilora.progress import say
from sentilora.wording import quoted

if TYPE_CHECKING:
    import pyarrow as pa


_TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
OUTPUT_SUFFIXES = (*_TEXT_SUFFIXES, ".parquet", *(f"{suffix}.gz" for suffix in _TEXT_SUFFIXES))
SUFFIXES = (*OUTPUT_SUFFIXES, ".xlsx")
_ROWS_AT_ONCE = 8192


def suffix_of(path: Path) -> str:
    """The suffix that names a file's format, without ".gz": ".csv" of "a.CSV.gz"; "" for none."""
    name = path.name.lower()
    return next((s.removesuffix(".gz") for s in SUFFIXES if name.endswith(s)), "")


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
    suffix = suffix_of(path)
    if not suffix:
        raise DataError(
            f"cannot tell the format of {path.name}",
            seen=str(path),
            remedy=f"use one of {', '.join(SUFFIXES)}",
        )
    try:
        match suffix:
            case ".parquet":
                return _read_parquet(path, is_needed)
            case ".xlsx":
                return _read_spreadsheet(path, is_needed)
            case ".csv" | ".tsv":
                separator = "\t" if suffix == ".tsv" else ","
                return read_delimited(path, lambda: open_text(path, ""), separator, is_needed)
        # Lines end at \n only: a JSON string may hold other characters at which Python splits.
        with open_text(path, "\n") as file:
            return read_json(file, suffix == ".json", is_needed)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{quoted(path)} is not valid UTF-8{_bad_byte(path)}",
            seen=str(path),
            remedy="save it as UTF-8",
        ) from error
    except (OSError, EOFError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"cannot read {quoted(path)}: {first_line(error)}", seen=str(path)
        ) from error


def open_text(path: Path, newline: str) -> TextIO:
    """A file of UTF-8 text, packed with gzip or not, without its byte-order mark."""
    if path.name.lower().endswith(".gz"):
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig", newline=newline))
    return path.open(encoding="utf-8-sig", newline=newline)


def _read_parquet(path: Path, is_needed: Callable[[str], bool] | None) -> "pa.Table":
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
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
    """The table with pandas' index as a column, where the file has only its start and step.

    Any other index is a column already. 0, 1, 2 … without a name counts the rows and says nothing.
    """
    import pyarrow as pa

    try:
        pandas = json.loads((table.schema.metadata or {})[b"pandas"])
        (index,) = pandas["index_columns"]
        numbers = range(index["start"], index["stop"], index["step"])
    except (KeyError, ValueError, TypeError):
        return table
    if len(numbers) != len(table) or (numbers == range(len(table)) and index["name"] is None):
        return table
    name = index["name"] or "__index_level_0__"  # pandas' own name for an index without one
    pandas["index_columns"] = [name]
    metadata = {**table.schema.metadata, b"pandas": json.dumps(pandas).encode()}
    return table.append_column(name, pa.array(numbers)).replace_schema_metadata(metadata)


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
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # zipfile's, KeyError, and openpyxl's own, which share no base
        raise DataError(
            f"cannot read {quoted(path)}: {first_line(error)}", seen=str(path)
        ) from error
    if len(book.sheetnames) > 1:
        say(f"{path.name}: the first of its {len(book.sheetnames)} sheets, {book.sheetnames[0]!r}")
    rows = [row for row in book.worksheets[0].iter_rows(values_only=True) if any(_filled(row))]
    book.close()
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
    """The cells of a sheet's column. Cells of several types become strings."""
    import pyarrow as pa

    if len({type(cell) for cell in cells if cell is not None}) > 1:
        cells = [None if cell is None else str(cell) for cell in cells]
    return pa.array(cells)


def _bad_byte(path: Path) -> str:
    """Where a file stops being UTF-8: ": byte 0xe9 in line 1"."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with cast(IO[bytes], opener(path, "rb")) as file:
        content = file.read()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f": byte {content[error.start]:#04x} in line {line}"
    return ""
