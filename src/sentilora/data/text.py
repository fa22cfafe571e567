"""What a usable text is, and when two texts are the same."""

import hashlib
import re
from collections.abc import Mapping
from datetime import date, time, timedelta
from numbers import Number

from sentilora.errors import DataError

# What a prompt shows of a row: its text, or a record of its text ("text") and its other columns.
Item = str | Mapping[str, str]
_LINE_BREAK = re.compile(r"<br\s*/?>|\r\n?", re.IGNORECASE)


def clean_text(text: str) -> str:
    """The text as the prompt shows it: `<br />` and `\\r\\n` become a newline, ends stripped."""
    return _LINE_BREAK.sub("\n", text).strip()


def blank_line_breaks(text: str) -> str:
    """The text with spaces for what `clean_text` turns into newlines; every offset stays valid."""
    return _LINE_BREAK.sub(lambda match: " " * len(match[0]), text)


def require_text(text: object, name: str = "the text") -> None:
    """Raise `DataError` if a value cannot be classified. name: what the message calls the value."""
    if fault := fault_of(text):
        raise DataError(f"{name} is {fault}", seen=text, remedy="give a non-empty string")


def fault_of(text: object) -> str | None:
    """Why a value cannot be classified, worded to follow "is"; None for a usable text."""
    if not isinstance(text, str):
        return f"{text!r}, not a text"
    if not clean_text(text):
        return "empty"
    return _unicode_fault(text)


def _unicode_fault(text: str) -> str | None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"not valid Unicode ({text[error.start]!r} at character {error.start})"
    return None


def as_field(value: object, name: str) -> str:
    """What a prompt shows for a value of a column other than the text's; nothing if it is missing.

    name: what the message calls the value. Raises `DataError` for bytes, lists and the like.
    """
    if isinstance(value, str):
        fault = _unicode_fault(value)
    elif isinstance(value, Number | date | time | timedelta):
        value, fault = "" if value != value else str(value), None  # NaN and NaT equal nothing
    else:
        value, fault = "", None if value is None else f"{value!r:.60}, neither a text nor a number"
    if fault:
        raise DataError(
            f"{name} is {fault}", seen=value, remedy="use a column of texts, numbers or dates"
        )
    return value


def text_of(item: Item) -> str:
    """The text of an item, without its other columns."""
    return item if isinstance(item, str) else item["text"]


def whole_text(item: Item) -> str:
    """The text of an item, and each of its other columns on a line of its own."""
    return item if isinstance(item, str) else "\n".join(item.values())


def normalized(item: Item) -> str:
    """The form in which equal texts are equal: lower case, one space for any run of whitespace.

    Of a record every column counts; each is on a line of its own.
    """
    if not isinstance(item, str):
        return "\n".join(normalized(value) for value in item.values())
    return " ".join(clean_text(item).lower().split())


def digest(normalized_text: str) -> bytes:
    """16 bytes that identify a text, so that sets of texts need not hold the texts again."""
    return hashlib.blake2b(
        normalized_text.encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


def beginning(text: str, length: int) -> str:
    """The first `length` characters of a text on one line, without control characters."""
    start = clean_text(text[: 4 * length])
    line = " ".join("".join(c if c.isprintable() else " " for c in start).split())
    is_cut = len(line) > length or len(text) > 4 * length
    return f"{line[: length - 1]}…" if is_cut else line
