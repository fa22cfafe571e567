"""Files written whole or not at all, whatever ends the job; and read as if a stranger wrote them.

with written_aside(path) as partial:
    partial.write_text(text)
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sentilora.errors import SentiloraError
from sentilora.places import is_remote, uploaded
from sentilora.wording import quoted


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path to write to within a `with` block; at its end the file is on the disk as `path`.

    Nothing stays of a file that cannot be completed. Raises `SentiloraError` when it cannot be
    written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        if is_remote(path):
            with uploaded(path) as local:
                yield local
            return
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


def digest_of(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# --- of strangers --------------------------------------------------------------------------------


def read_limited(path: Path, max_bytes: int) -> str:
    """The text of a file. Raises `ValueError`, and reads nothing, if the file is larger."""
    size = path.stat().st_size
    if size > max_bytes:
        most = f"{max_bytes / 2**20:,.0f} MiB"
        raise ValueError(f"it has {size / 2**20:,.0f} MiB, and {most} is the most")
    return path.read_text(encoding="utf-8-sig")


def is_plain_name(name: str) -> bool:
    """Whether a name is that of a file in the folder at hand, not a path that leads elsewhere."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")
