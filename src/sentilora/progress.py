"""Progress and notices on stderr: a bar with ETA in a terminal, else a line every 30 seconds.

Notices about data, results and what a user may want to change always appear (`say`). How it is
computed, which changes no decision of a user's, appears with --verbose only (`detail`).
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from sentilora.wording import printable

LINE_EVERY_SECONDS = 30.0
_shows_details = False
_is_silent = False
_printed: set[str] | None = None  # by `say_once` within `notices_once`


def is_main_process() -> bool:
    """Whether this process prints: the only one, or rank 0 under a launcher."""
    return int(os.environ.get("RANK", "0")) == 0


def num_processes() -> int:
    """Number of processes that train together, from the launcher's `WORLD_SIZE`."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def say(text: str) -> None:
    """Print a notice on stderr, once for all processes."""
    if is_main_process() and not _is_silent:
        print(printable(text), file=sys.stderr, flush=True)


def say_once(text: str) -> None:
    """Print a notice as `say` does, but only the first time within `notices_once`."""
    if _printed is not None:
        if text in _printed:
            return
        _printed.add(text)
    say(text)


def show_details(is_shown: bool) -> None:
    """Choose whether `detail` prints, as --verbose does."""
    global _shows_details
    _shows_details = is_shown


def detail(text: str) -> None:
    """Print a technical notice as `say` does, but only where details are shown."""
    if _shows_details:
        say(text)


@contextmanager
def without_notices() -> Iterator[None]:
    """Within a `with` block, no notices are printed: of work that is only a part of another."""
    global _is_silent
    before, _is_silent = _is_silent, True
    try:
        yield
    finally:
        _is_silent = before


@contextmanager
def notices_once() -> Iterator[None]:
    """Within a `with` block, `say_once` prints a notice once: a file may be read several times."""
    global _printed
    before, _printed = _printed, set()
    try:
        yield
    finally:
        _printed = before


class Progress:
    """Shows a count up to `total`. Use as a context manager and call `advance`."""

    def __init__(self, description: str, total: int) -> None:
        self.description = description
        self.total = total
        self.done = 0
        self.suffix = ""
        self._bar: Any = None
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        if is_main_process() and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("ETA"),
                progress.TimeRemainingColumn(elapsed_when_finished=False),
                progress.TextColumn("{task.fields[suffix]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self.description, total=self.total, suffix="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int = 1, suffix: str | None = None) -> None:
        """Add `count`. suffix: text after the time; None keeps the last one."""
        self.done += count
        if suffix is not None:
            self.suffix = suffix
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, suffix=self.suffix)
        elif time.monotonic() - self._last_line >= LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            seconds = self._last_line - self._start
            eta_seconds = seconds / max(self.done, 1) * max(self.total - self.done, 0)
            say(
                f"{self.description}: {self.done:,} of {self.total:,}, {seconds:.0f} s, "
                f"ETA {eta_seconds:.0f} s {self.suffix}".rstrip()
            )
