"""Files that appear whole or not at all, whatever ends the job that writes them.

with written_aside(path) as partial:
    partial.write_text(text)
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sentilora.errors import SentiloraError
from sentilora.wording import quoted


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path to write to within a `with` block; at its end the file is on the disk as `path`.

    Nothing stays of a file that cannot be completed. Raises `SentiloraError` when it cannot be
    written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        try:
            yield partial
            flush(partial)
            partial.replace(path)
            if os.name == "posix":  # elsewhere a folder cannot be opened
                flush(path.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise SentiloraError(f"cannot write {quoted(path)}: {error}", seen=str(path)) from error


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one step, with the permissions of an ordinary write.

    Several jobs may replace the same file. Raises `OSError` when it cannot be written.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
