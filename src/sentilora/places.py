"""Files and folders wherever they are: on this machine, or behind a URL that fsspec knows.

    path_of("s3://bucket/reviews/")     # has the methods of a pathlib.Path
    path_of("reviews")                  # is one

The one file that knows the difference. A URL is a path of `universal_pathlib`; its storage needs
the package that fsspec has for it, such as s3fs or gcsfs.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from sentilora.errors import UsageError, first_line


def is_url(name: object) -> bool:
    """Whether a name is a URL: "s3://bucket/key", or one of file://."""
    return re.match(r"[A-Za-z][\w+.-]*://", str(name)) is not None


def path_of(name: str | Path) -> Path:
    """The path that a name stands for.

    Raises `UsageError` for a URL whose storage is unknown, or out of reach.
    """
    if not is_url(name):
        return Path(name)
    if str(name).startswith("file://"):
        return Path(url2pathname(urlsplit(str(name)).path))
    from upath import UPath

    try:
        path = UPath(str(name))
        path.exists()  # the first contact; each storage has errors of its own
    except Exception as error:
        raise UsageError(
            f"cannot reach {str(name)!r:.200}: {first_line(error)}",
            seen=str(name),
            remedy="install the package that fsspec names for it (s3fs, gcsfs, adlfs …) and give "
            "this machine its credentials",
        ) from error
    return cast(Path, path)


def is_remote(path: object) -> bool:
    """Whether a path is not one of this machine's file systems."""
    return not isinstance(path, Path)


def native(path: Path) -> Any:
    """What other packages open a file by: its name, or the open file behind a URL."""
    return path.open("rb") if is_remote(path) else str(path)


@contextmanager
def uploaded(path: Any) -> Iterator[Path]:
    """A file of this machine to write to within a `with` block, which then is at a remote `path`.

    It is sent under another name and moved: a rename where the storage has one. An object store
    copies the complete object, and shows it whole or not at all.
    """
    with tempfile.TemporaryDirectory(prefix="sentilora-") as folder:
        partial = Path(folder, path.name)
        yield partial
        aside = path.with_name(f".{path.name}.partial")
        path.fs.put_file(str(partial), aside.path)
        path.fs.mv(aside.path, path.path)


def create(path: Any, content: str) -> None:
    """Write a remote file that does not exist. Raises `FileExistsError` if it does."""
    path.fs.pipe_file(path.path, content.encode(), mode="create")
