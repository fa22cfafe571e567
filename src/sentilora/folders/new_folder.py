"""A folder written aside, and under its name only when it is complete: an export, a report."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sentilora.errors import UsageError
from sentilora.folders.claim import claim, contents
from sentilora.wording import quoted


def require_new(out: Path) -> None:
    """Raise `UsageError` unless a folder can be made at this path, or is there and empty."""
    parent = next((path for path in out.absolute().parents if path.exists()), out)
    fault = ""
    if out.is_dir():
        if any(out.iterdir()):
            fault, remedy = f"{quoted(out)} is in use", "name a new folder, or empty this one"
    elif out.exists() or out.is_symlink():
        fault, remedy = f"{quoted(out)} is not a folder", "name a new folder"
    if not fault and not parent.is_dir():
        fault, remedy = f"{quoted(parent)} is not a folder", "name a new folder elsewhere"
    elif not fault and not os.access(parent, os.W_OK):
        fault, remedy = f"{quoted(parent)} may not be written to", "name a new folder elsewhere"
    if fault:
        raise UsageError(fault, setting="out", seen=str(out), remedy=remedy)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that takes its place at the end, and vanishes after an error.

    What a killed job left there is removed. Raises `UsageError` when another job writes to `out`.
    """
    aside = out.absolute().parent / f".{out.absolute().name}-unfinished"
    try:
        claimed = claim(aside)
    except UsageError as error:
        error.remedy = "wait until it ends, or name another folder"
        raise
    try:
        with claimed:
            for path in contents(aside):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield aside
            _as_ordinary(aside)
        os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _as_ordinary(folder: Path) -> None:
    """Give a folder and its files the permissions of an ordinary write, not those of a secret."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
    folder.chmod(0o777 & ~umask)
