"""CSV and TSV files: read strictly, because a stray quote must not join rows, and written.

Cells stay as they are written: "007" is not 7. Only an empty cell is missing, because "None" and
"NA" are words that a text may consist of.
"""

import csv
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from sentilora.data.rows import row_place
from sentilora.errors import DataError
from sentilora.progress import say_once
from sentilora.wording import counted, quoted

if TYPE_CHECKING:
    import pyarrow as pa


_ROWS_AT_ONCE = 8192  # become Arrow arrays together
_SEPARATORS = ",;\t|"
_MAX_SEEN = 1000  # values of a column that are compared with the lines of a doubtful row
_T = TypeVar("_T")
_PADDED_QUOTES = re.compile(r' +".*"', re.DOTALL)


def read_delimited(
    path: Path,
    open_text: Callable[[], TextIO],
    separator: str,
    is_needed: Callable[[str], bool] | None,
) -> "pa.Table":
    """The needed columns of a CSV or TSV file, every cell as a string.

    open_text: opens the file without translating line ends. separator: a header without it may
    show another one, which is then used and reported.

    Raises `DataError` for a quote out of place and for a row with more or fewer cells than the
    header. A TSV file with a quote out of place is read without quoting, and that is reported, if
    every line of it has the header's number of cells.
    """
    import pyarrow as pa

    _, tables = _read_checked(
        path, open_text, separator, lambda reader: list(reader.tables(is_needed))
    )
    return pa.concat_tables(tables)


def check_delimited(
    path: Path, open_text: Callable[[], TextIO], separator: str
) -> "tuple[DelimitedReader, int]":
    """A reader for a file that is read in blocks, and its number of rows.

    The file is read once, so that what `read_delimited` refuses is refused here.
    """
    reader, count = _read_checked(
        path, open_text, separator, lambda reader: sum(map(len, reader.blocks(reader.header())))
    )
    return replace(reader, is_checked=True), count


def _read_checked(
    path: Path,
    open_text: Callable[[], TextIO],
    separator: str,
    read: "Callable[[DelimitedReader], _T]",
) -> "tuple[DelimitedReader, _T]":
    """The reader that suits a file, and what `read` returns for it."""
    reader = _reader_for(path, open_text, separator)
    try:
        content = read(reader)
    except _Malformed:
        if reader.separator != "\t" or not reader.is_plain:
            raise
        say_once(f"{path.name}: read without quoting, because its quotes are part of the texts")
        reader = replace(reader, is_quoted=False, joined=[])
        return reader, read(reader)
    if number := reader.number_of_doubtful_row():
        raise DataError(
            f"{quoted(path)} can be read in two ways: {row_place(number - 1)} is one quoted row of "
            "several lines, or its quotes are part of the texts and each line is a row",
            seen=str(path),
            remedy="save it as JSONL or Parquet",
        )
    return reader, content


def _reader_for(path: Path, open_text: Callable[[], TextIO], separator: str) -> "DelimitedReader":
    """The reader that suits a file's header. Prints what is not as the suffix says."""
    with open_text() as file:
        named = re.fullmatch("sep=(.)\r?\n?", file.readline())  # Excel's own first line
    reader = DelimitedReader(
        path, open_text, named[1] if named else separator, num_skipped=bool(named)
    )
    header = reader.header()
    other = re.search(f"[{_SEPARATORS}]", header[0]) if len(header) == 1 else None
    if other and len(replace(reader, separator=other[0]).header()) > 1:
        reader = replace(reader, separator=other[0])
        header = reader.header()
    if reader.separator != separator:
        say_once(f"{path.name}: its separator is {reader.separator!r}")
    if len(header) > 1 and all(name.startswith(" ") for name in header[1:]):
        reader = replace(reader, is_padded=True)
        say_once(f"{path.name}: a space after a separator is no part of a cell, as in its header")
    return reader


class _Malformed(DataError):
    """A quote out of place, or a row with another number of cells than the header."""


@dataclass(frozen=True)
class DelimitedReader:
    """Reads one file in one way.

    num_skipped: lines before the header. is_quoted: whether a cell can be quoted. is_padded:
    whether to skip a space after a separator. is_checked: whether the file was read before, so that
    nothing is collected in `joined` and `seen`. joined: after the rows were read, number and cells
    of each row of several lines, if the file is plain. seen: then the values of each column in the
    other rows.
    """

    path: Path
    open_text: Callable[[], TextIO]
    separator: str
    num_skipped: int = 0
    is_quoted: bool = True
    is_padded: bool = False
    is_checked: bool = False
    joined: list[tuple[int, list[str]]] = field(default_factory=list)
    seen: dict[int, set[str]] = field(default_factory=dict)

    def header(self) -> list[str]:
        """The names of the columns."""
        with self._open() as file, _cells_of_any_length():
            return self._next_header(self._rows(file))

    def tables(self, is_needed: Callable[[str], bool] | None) -> "Iterator[pa.Table]":
        """The columns that are needed, in tables of consecutive rows, one at least.

        None of the columns must occur twice, unless all are needed.
        """
        import pyarrow as pa

        header = self.header()
        places = [i for i, name in enumerate(header) if is_needed is None or is_needed(name)]
        schema = pa.schema([(header[i], pa.string()) for i in places])
        if is_needed is not None:
            require_unique(self.path, schema.names)
        yield schema.empty_table()
        for block in self.blocks(header):
            cells = [pa.array([row[i] or None for row in block], pa.string()) for i in places]
            yield pa.Table.from_arrays(cells, schema=schema)

    def blocks(self, header: list[str]) -> Iterator[list[list[str]]]:
        """The rows below the header, in lists of up to `_ROWS_AT_ONCE`."""
        with self._open() as file, _cells_of_any_length():
            rows = self._rows(file)
            next(rows, None)  # the header
            yield from _blocks(self._checked(rows, len(header)))

    @cached_property
    def is_plain(self) -> bool:
        """Whether every line has the header's number of cells, two or more, read unquoted."""
        counts: set[int] = set()
        with self._open() as file:
            for line in file:
                if line.strip("\r\n"):
                    counts.add(line.count(self.separator))
                if len(counts) > 1:
                    return False
        return bool(counts) and counts != {0}

    def number_of_doubtful_row(self) -> int:
        """The number, from 1, of a row of several lines that may be rows of their own; 0 for none.

        It is doubtful if every line of the file has the header's number of cells and, except in a
        TSV file, where quotes are rare, if one of its lines has a value of another row in the same
        column, such as a label.
        """
        for number, cells in self.joined:
            if self.separator == "\t" or self._has_rows_within(cells):
                return number + 1
        return 0

    def _has_rows_within(self, cells: list[str]) -> bool:
        lines = [line.split(self.separator) for line in self.separator.join(cells).splitlines()]
        return any(
            cell and cell in self.seen.get(place, ())
            for line in lines[:-1]  # the end of the last one belongs to the row in both readings
            for place, cell in enumerate(line)
        )

    def _open(self) -> TextIO:
        file = self.open_text()
        for _ in range(self.num_skipped):
            file.readline()
        return file

    def _rows(self, file: TextIO) -> Iterator[list[str]]:
        """The rows, header included. A blank line is none. A fault has the number of its row."""
        lines = _Lines(file)
        rows = csv.reader(
            lines,
            delimiter=self.separator,
            quoting=csv.QUOTE_MINIMAL if self.is_quoted else csv.QUOTE_NONE,
            skipinitialspace=self.is_padded,
            strict=True,
        )
        number, line = -1, 0  # of the next row and of the last line; the header is row -1
        ends = set()
        while True:
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                raise self._quote_fault(error, number) from error
            if row:
                if number >= 0 and not self.is_checked:
                    self._notice(number, row, is_joined=rows.line_num > line + 1)
                ends |= {
                    end for end in "\r\n" if lines.last.endswith(end)
                }  # none at the end of a file
                if len(ends) > 1:
                    raise self._malformed(
                        number,
                        "some rows end with a carriage return, others with a line feed",
                        "put texts that hold a carriage return in double quotes",
                    )
                number += 1
                yield row
            line = rows.line_num

    def _notice(self, number: int, row: list[str], is_joined: bool) -> None:
        if is_joined:
            if self.is_plain:
                self.joined.append((number, row))
            return
        for place, cell in enumerate(row):
            values = self.seen.setdefault(place, set())
            if len(values) < _MAX_SEEN:
                values.add(cell)

    def _next_header(self, rows: Iterator[list[str]]) -> list[str]:
        header = next(rows, None)
        if header is None:
            raise DataError(
                f"{quoted(self.path)} is empty",
                seen=str(self.path),
                remedy="a header and rows are expected",
            )
        return header

    def _checked(self, rows: Iterable[list[str]], num_cells: int) -> Iterator[list[str]]:
        for number, row in enumerate(rows):
            if len(row) != num_cells:
                raise self._count_fault(number, len(row), num_cells)
            if self.is_quoted and any(map(_PADDED_QUOTES.fullmatch, row[1:])):
                raise self._malformed(
                    number,
                    "a cell has a space before its opening quote",
                    "remove the spaces after the separators, or put one after each of the header's",
                )
            yield row

    def _count_fault(self, number: int, num_cells: int, num_expected: int) -> DataError:
        if num_cells > num_expected:
            remedy = f"put texts that hold a {self.separator!r} in double quotes"
        else:
            remedy = "put texts that hold a line break in double quotes, and write empty cells too"
        cells = f"{counted(num_cells, 'cell')}, but the header has {num_expected}"
        return self._malformed(number, cells, remedy)

    def _quote_fault(self, error: csv.Error, number: int) -> DataError:
        remedy = 'put a text that holds a quote in double quotes, and write "" for that quote'
        if "end of data" in str(error):
            problem = "a cell opens a double quote and never closes it"
        elif "expected after" in str(error):
            problem = "a quoted cell goes on after its closing quote"
        else:
            problem, remedy = str(error), ""
        return self._malformed(number, problem, remedy)

    def _malformed(self, number: int, problem: str, remedy: str) -> DataError:
        place = row_place(number) if number >= 0 else "header"
        return _Malformed(
            f"{quoted(self.path)}, {place}: {problem}", seen=str(self.path), remedy=remedy
        )


class _Lines:
    """The lines of a file, one at a time. last: the one that was read last."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.last = ""

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.last = line
            yield line


def _blocks(rows: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    block = []
    for row in rows:
        block.append(row)
        if len(block) == _ROWS_AT_ONCE:
            yield block
            block = []
    if block:
        yield block


@contextmanager
def _cells_of_any_length() -> Iterator[None]:
    """The csv module refuses cells of more than 131,072 characters by default."""
    limit = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a C long, also on Windows
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def require_unique(path: Path, names: Sequence[str]) -> None:
    """Raise `DataError` if a name of a column occurs twice."""
    if repeats := [name for name in names if names.count(name) > 1]:
        raise DataError(
            f"{quoted(path)} has more than one column {repeats[0]!r}",
            seen=str(path),
            remedy="rename or remove all but one",
        )


def write_delimited(
    file: TextIO, names: Sequence[str], rows: Iterable[Sequence[str]], separator: str
) -> None:
    """Write a header and rows of cells. A cell is quoted only where it must be."""
    must_quote = re.compile(f'["\\r\\n{re.escape(separator)}]')

    def line(cells: Sequence[str]) -> str:
        if len(cells) == 1 and not cells[0]:
            return '""\n'  # a blank line would be no row
        quoted = [
            '"' + cell.replace('"', '""') + '"' if must_quote.search(cell) else cell
            for cell in cells
        ]
        return separator.join(quoted) + "\n"

    file.write(line(names))
    file.writelines(map(line, rows))
