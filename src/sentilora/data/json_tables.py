"""JSON and JSONL files: objects read as a table, values kept as they are, and written.

A column of strings is one of Arrow strings. Any other column has Arrow's type for JSON: each cell
is the text of its value, and a key that an object lacks is a null.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    import pyarrow as pa


_ROWS_AT_ONCE = 8192


_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of such a byte


class _Absent:
    """Stands for the value of a key that an object lacks."""


_ABSENT = _Absent()


# --- reading -------------------------------------------------------------------------------------


def read_json(
    open_text: Callable[[], TextIO], may_be_list: bool, is_needed: Callable[[str], bool] | None
) -> "pa.Table":
    """The needed keys of objects, as columns in the order in which they first occur.

    open_text: opens the file. may_be_list: whether it may hold a list of objects instead of one in
    each line.

    Raises `ValueError`, with the place of the fault, for what is no list or sequence of objects.
    """
    import pyarrow as pa

    blocks: list[JsonBlock] = []
    columns = check_json(open_text, may_be_list, is_needed, blocks.append)
    return pa.concat_tables(
        [columns.schema.empty_table(), *(columns.table(block) for block in blocks)]
    )


def check_json(
    open_text: Callable[[], TextIO],
    may_be_list: bool,
    is_needed: Callable[[str], bool] | None = None,
    keep: "Callable[[JsonBlock], object] | None" = None,
    is_tolerant: bool = False,
) -> "JsonColumns":
    """The columns of a file and its number of rows; raises what `read_json` raises.

    keep: called with each block of objects. is_tolerant: see `json_blocks`; a file without a usable
    line is refused all the same.
    """
    columns = JsonColumns()
    for block in json_blocks(open_text, may_be_list, is_needed, is_tolerant):
        columns.add(block)
        if keep is not None:
            keep(block)
    if columns.num_rows and len(columns.faults) == columns.num_rows:
        raise ValueError(f"no line of it can be used; the first: {columns.faults[0]}")
    if columns.num_rows and not columns.types and is_needed is None:
        raise ValueError("its objects have no keys")
    return columns


def json_blocks(
    open_text: Callable[[], TextIO],
    may_be_list: bool,
    is_needed: Callable[[str], bool] | None = None,
    is_tolerant: bool = False,
) -> "Iterator[JsonBlock]":
    """The objects of a file in blocks of up to `_ROWS_AT_ONCE`, which become columns together.

    is_tolerant: whether a line that is no object becomes one without keys, and a fault of its
    block. Bytes that are not UTF-8 must then be half surrogate pairs (`surrogateescape`).
    """
    objects: list[dict[str, Any]] = []
    faults: dict[int, str] = {}
    for place, item in _items(open_text, may_be_list, is_tolerant):
        if isinstance(item, _Fault):
            faults[len(objects)] = item.reason
            item = {}
        elif not isinstance(item, dict):
            raise ValueError(f"{place} is {item!r:.60}; an object is expected")
        objects.append({k: v for k, v in item.items() if is_needed is None or is_needed(k)})
        if len(objects) == _ROWS_AT_ONCE:
            yield JsonBlock.of(objects, faults)
            objects, faults = [], {}
    if objects:
        yield JsonBlock.of(objects, faults)


@dataclass(frozen=True)
class JsonBlock:
    """Consecutive objects: how many, and the columns of the keys that they have.

    faults: why the line of an object without keys cannot be used, by its place in the block.
    """

    num_rows: int
    columns: "dict[str, pa.Array]"
    faults: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, objects: list[dict[str, Any]], faults: dict[int, str]) -> Self:
        """The block of these objects."""
        names = dict.fromkeys(name for item in objects for name in item)
        columns = {name: _to_arrow([item.get(name, _ABSENT) for item in objects]) for name in names}
        return cls(len(objects), columns, faults)


class JsonColumns:
    """The columns of a whole file, found block by block: {name: type}, and the number of rows.

    faults: why rows cannot be used, by their number.
    """

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}
        self.num_rows = 0
        self.faults: dict[int, str] = {}

    def add(self, block: JsonBlock) -> None:
        """Take another block into account: a key that an object lacks makes its column JSON."""
        import pyarrow as pa

        for name, column in block.columns.items():
            before = self.types.get(name, pa.json_() if self.num_rows else column.type)
            self.types[name] = column.type if before == pa.string() else pa.json_()
        for name in self.types.keys() - block.columns.keys():
            self.types[name] = pa.json_()
        for row, reason in block.faults.items():
            self.faults[self.num_rows + row] = sys.intern(reason)
        self.num_rows += block.num_rows

    @property
    def schema(self) -> "pa.Schema":
        """Names and types of the columns."""
        import pyarrow as pa

        return pa.schema(list(self.types.items()))

    def table(self, block: JsonBlock) -> "pa.Table":
        """A block as a table with the columns of the whole file."""
        import pyarrow as pa

        arrays = []
        for name, kind in self.types.items():
            column = block.columns.get(name)
            if column is None:
                column = json_column([_ABSENT] * block.num_rows)
            elif column.type != kind:
                column = json_column(column.to_pylist())
            arrays.append(column)
        return pa.Table.from_arrays(arrays, schema=self.schema)


@dataclass(frozen=True)
class _Fault:
    """A line that cannot be used, and why."""

    reason: str


def _items(
    open_text: Callable[[], TextIO], may_be_list: bool, is_tolerant: bool
) -> Iterator[tuple[str, Any]]:
    """Each value with its place: "line 3", or "item 3" of a list.

    is_tolerant: whether a line that is no object is a `_Fault`.
    """
    is_list = may_be_list and _starts_list(open_text)
    with open_text() as file:
        if is_list:
            items = enumerate(_parse(file.read()), 1)
            yield from ((f"item {number}", item) for number, item in items)
        else:
            lines = _lines(file, is_tolerant)
            yield from map(_without_others, lines) if is_tolerant else lines


def _without_others(line: tuple[str, Any]) -> tuple[str, Any]:
    place, item = line
    if isinstance(item, dict | _Fault):
        return line
    return place, _Fault(f"broken line: {type(item).__name__} instead of an object")


def _lines(file: TextIO, is_tolerant: bool) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        if is_tolerant and _NOT_UTF8.search(line):
            yield f"line {number}", _Fault("broken line: not valid UTF-8")
            continue
        try:
            yield f"line {number}", _parse(line)
        except (ValueError, RecursionError) as error:
            if number == 1 and line.strip() in ("{", "["):
                raise ValueError(
                    "it is one object over several lines; a list of objects, or one object in each "
                    "line, is expected"
                ) from error
            reason = getattr(error, "msg", str(error))
            if not is_tolerant:
                raise ValueError(f"line {number}: {reason}") from error
            yield f"line {number}", _Fault(f"broken line: {reason}")


def _parse(text: str) -> Any:
    """The value of a JSON text. Raises `ValueError` for an object that has a key twice."""
    return json.loads(
        text, object_pairs_hook=_object, parse_float=_Literal, parse_constant=_Literal
    )


class _Literal(float):
    """A number that keeps the text it was written as: 1.10, or more digits than a float has."""

    text: str

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        repeat = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {repeat!r} twice")
    return value


def _starts_list(open_text: Callable[[], TextIO]) -> bool:
    with open_text() as file:
        while (character := file.read(1)).isspace():
            pass
        return character == "["


def _to_arrow(values: Sequence[Any]) -> "pa.Array":
    import pyarrow as pa

    if all(type(value) is str for value in values):
        try:
            return pa.array(values, pa.string())
        except UnicodeEncodeError:
            pass  # a half of a surrogate pair, which JSON can write and UTF-8 cannot
    return json_column(values)


def json_column(values: Sequence[Any]) -> "pa.Array":
    """Values of any kind as a column of JSON."""
    import pyarrow as pa

    texts = [None if value is _ABSENT else json_text(value) for value in values]
    storage = pa.array(texts, pa.string())
    return pa.ExtensionArray.from_storage(pa.json_(), storage)


def _is_encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# --- writing -------------------------------------------------------------------------------------


def json_text(value: Any) -> str:
    """The JSON text of a value of an Arrow array. Times are ISO 8601; a NaN is null.

    Raises `ValueError` for a value that JSON cannot hold.
    """
    match value:
        case None | bool() | int():
            return json.dumps(value)
        case str():
            text = json.dumps(value, ensure_ascii=False)
            return text if _is_encodable(text) else json.dumps(value)
        case _Literal():
            return value.text
        case float():
            if math.isinf(value):
                raise ValueError(f"JSON has no {value}")
            return "null" if math.isnan(value) else json.dumps(value)
        case Decimal():
            return str(value)
        case date() | time():  # a datetime is a date
            return json.dumps(value.isoformat())
        case dict():
            parts = [f"{json_text(str(key))}: {json_text(item)}" for key, item in value.items()]
            return "{" + ", ".join(parts) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(json_text, value)) + "]"
    raise ValueError(f"JSON cannot hold {type(value).__name__}: {value!r:.40}")


def write_json(
    file: TextIO, names: Sequence[str], rows: Iterable[Sequence[str | None]], is_list: bool
) -> None:
    """Write rows of JSON texts as objects: a list of them, or one in each line. None: no key."""
    keys = [json.dumps(name, ensure_ascii=False) for name in names]
    before, between, after = ("[\n", ",\n", "\n]\n") if is_list else ("", "\n", "\n")
    separator = before
    for row in rows:
        pairs = [f"{key}: {cell}" for key, cell in zip(keys, row, strict=True) if cell is not None]
        file.write(separator + "{" + ", ".join(pairs) + "}")
        separator = between
    if separator == between:
        file.write(after)
    elif is_list:
        file.write("[]\n")
