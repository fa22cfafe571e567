"""What counts as a usable text, and when two texts are the same."""

import hashlib
import re

from sentilora.errors import DataError

_LINE_BREAK = re.compile(r"<br\s*/?>|\r\n?", re.IGNORECASE)


def clean_text(text: str) -> str:
    """The text as the prompt shows it: `<br />` and `\\r\\n` become a newline, ends stripped."""
    return _LINE_BREAK.sub("\n", text).strip()


def blank_line_breaks(text: str) -> str:
    """The text with spaces where `clean_text` puts newlines: as long, every character in place."""
    return _LINE_BREAK.sub(lambda found: " " * len(found[0]), text)


def require_text(text: object, name: str = "the text") -> None:
    """Raise `DataError` when a value, called `name`, cannot be classified."""
    if fault := fault_of(text):
        raise DataError(f"{name} is {fault}; give UTF-8 text of at least one character")


def fault_of(text: object) -> str | None:
    """What keeps a value from being classified, to follow "is"; None when it is a usable text."""
    if not isinstance(text, str):
        return f"{text!r}, not a text"
    if not clean_text(text):
        return "empty"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"not valid Unicode ({text[error.start]!r} at character {error.start})"
    return None


def normalized(text: str) -> str:
    """What counts as the same text: line breaks and runs of spaces as one space, lower case."""
    return " ".join(clean_text(text).lower().split())


def digest(normalized_text: str) -> bytes:
    """Stands for a text, which would be held twice."""
    return hashlib.blake2b(
        normalized_text.encode("utf-8", "surrogatepass"), digest_size=16
    ).digest()


def beginning(text: str, length: int) -> str:
    """The first characters of a text on one line, without what a terminal would obey."""
    start = clean_text(text[: 4 * length])
    line = " ".join("".join(c if c.isprintable() else " " for c in start).split())
    cut = len(line) > length or len(text) > 4 * length
    return f"{line[: length - 1]}…" if cut else line
