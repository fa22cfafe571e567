"""What is piped in, as a file of JSON lines on this machine's disk.

It is read twice, as every input is: checked as a whole, then scored piece by piece.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sentilora.errors import DataError, UsageError
from sentilora.progress import say


@contextmanager
def standard_input(text_column: str) -> Iterator[Path]:
    """A file with the rows of stdin, removed at the end of the `with` block.

    They are JSON lines if the first line that is not empty holds an object, else a text each.

    Raises `UsageError` if stdin is closed, `DataError` if lines of text are not UTF-8.
    """
    if sys.stdin is None:
        raise UsageError(
            "- reads the rows from stdin, but stdin is closed",
            setting="input",
            seen="-",
            remedy="name a file as `input`",
        )
    with tempfile.TemporaryDirectory(prefix="sentilora-") as folder:
        path = Path(folder, "stdin.jsonl")
        with path.open("wb") as file:
            _copy(sys.stdin.buffer, file, text_column)
        yield path


def _copy(source: IO[bytes], file: IO[bytes], text_column: str) -> None:
    line, num_empty, place = b"", 0, 0  # place: of the byte at which the line begins
    for line in source:
        if line.removeprefix(b"\xef\xbb\xbf").strip():
            break
        num_empty, place, line = num_empty + 1, place + len(line), b""
    if _is_object(line):
        file.write(line)
        shutil.copyfileobj(source, file)
        return
    while line:
        try:
            text = line.decode("utf-8-sig").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise DataError(
                f"stdin is not valid UTF-8 at byte {place + error.start}",
                setting="input",
                seen="-",
                remedy="convert it to UTF-8",
            ) from error
        if text.strip():
            file.write(json.dumps({text_column: text}).encode() + b"\n")
        else:
            num_empty += 1
        place += len(line)
        line = source.readline()
    if num_empty:
        say(f"skipped empty lines of stdin: {num_empty:,}")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False
