"""JSON and JSONL files: objects read as a table, values kept as they are, and written.

A column of strings is one of Arrow strings. Any other column has Arrow's type for JSON: each cell
is the text of its value, and a key that an object lacks is a null.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    import pyarrow as pa


_ROWS_AT_ONCE = 8192


class _Absent:
    """Stands for the value of a key that an object lacks."""


_ABSENT = _Absent()


# --- reading -------------------------------------------------------------------------------------


def read_json(
    file: TextIO, may_be_list: bool, is_needed: Callable[[str], bool] | None
) -> "pa.Table":
    """The needed keys of objects, as columns in the order in which they first occur.

    may_be_list: whether the file may hold a list of objects instead of one in each line.

    Raises `ValueError`, with the place of the fault, for what is no list or sequence of objects.
    """
    import pyarrow as pa

    columns: dict[str, _Column] = {}
    number = 0
    for place, item in _items(file, may_be_list):
        if not isinstance(item, dict):
            raise ValueError(f"{place} is {item!r:.60}; an object is expected")
        for name, value in item.items():
            if is_needed is None or is_needed(name):
                columns.setdefault(name, _Column()).append(number, value)
        number += 1
    if number and not columns and is_needed is None:
        raise ValueError("its objects have no keys")
    arrays = [column.finish(number) for column in columns.values()]
    return pa.Table.from_arrays(arrays, names=list(columns))


class _Column:
    """Collects the values of a key. Only `_ROWS_AT_ONCE` of them are Python objects at a time."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.chunks: list[pa.Array] = []
        self.num_rows = 0

    def append(self, row: int, value: Any) -> None:
        if row > self.num_rows:
            self._fill(row)
        self.values.append(value)
        self.num_rows += 1
        if len(self.values) == _ROWS_AT_ONCE:
            self._store()

    def finish(self, num_rows: int) -> "pa.ChunkedArray":
        import pyarrow as pa

        self._fill(num_rows)
        self._store()
        if any(chunk.type != pa.string() for chunk in self.chunks):
            self.chunks = [
                chunk if chunk.type != pa.string() else json_column(chunk.to_pylist())
                for chunk in self.chunks
            ]
        return pa.chunked_array(self.chunks)

    def _fill(self, num_rows: int) -> None:
        self.values += [_ABSENT] * (num_rows - self.num_rows)
        self.num_rows = num_rows

    def _store(self) -> None:
        if self.values or not self.chunks:
            self.chunks.append(_to_arrow(self.values))
            self.values = []


def _items(file: TextIO, may_be_list: bool) -> Iterator[tuple[str, Any]]:
    """Each value with its place: "line 3", or "item 3" of a list."""
    if may_be_list and _starts_list(file):
        yield from ((f"item {number}", item) for number, item in enumerate(_parse(file.read()), 1))
        return
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", _parse(line)
        except ValueError as error:
            if number == 1 and line.strip() in ("{", "["):
                raise ValueError(
                    "it is one object over several lines; a list of objects, or one object in each "
                    "line, is expected"
                ) from error
            raise ValueError(f"line {number}: {getattr(error, 'msg', error)}") from error


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


def _starts_list(file: TextIO) -> bool:
    while (character := file.read(1)).isspace():
        pass
    file.seek(0)
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
