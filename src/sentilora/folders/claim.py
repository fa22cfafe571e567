"""The claim on an output folder: one job at a time works in it.

    with claim(Path("run")):
        ...

The claim is the operating system's lock on a small file in the folder. The kernel releases it when
the process ends, SIGKILL included, so a job that was killed blocks nobody. The file by itself means
nothing; it tells others who holds the lock.
"""

import errno
import os
import shutil
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from socket import gethostname
from types import TracebackType
from typing import ClassVar, Self

from sentilora.errors import DataError, UsageError
from sentilora.folders.records import Record
from sentilora.progress import is_main_process, say
from sentilora.wording import quoted

CLAIM_FILE = ".sentilora-claim"
MAX_VANISHED = 100  # times: a folder that is still not there cannot be made, as under /proc
# Of a file system without locks: some network and cluster file systems.
HELD = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}  # another process holds the lock
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}

if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> None:
        # Windows locks bytes against reading, too: one far beyond the content.
        os.lseek(handle, 2**30, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


class Holder(Record):
    """The job that holds a claim. started: local time at which it claimed the folder."""

    FILE: ClassVar[str] = CLAIM_FILE
    REMEDY: ClassVar[str] = "end the job that holds it"

    pid: int
    host: str
    started: str

    @classmethod
    def this_process(cls) -> Self:
        """This process, from now on."""
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(pid=os.getpid(), host=gethostname(), started=now)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started}"


class Claim:
    """A claimed folder. Leaving the context releases it and removes the file.

    handle: the locked file, open; None in the other processes of a launcher, which claim nothing.
    new_folders: folders that did not exist before the claim, the innermost first. Those that are
    still empty at the end are removed.
    """

    def __init__(self, folder: Path, handle: int | None, new_folders: list[Path]) -> None:
        self._path = folder / CLAIM_FILE
        self._handle = handle
        self._new_folders = new_folders

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def release(self) -> None:
        """Remove the claim file, let go of the lock, and remove new folders that are empty."""
        if self._handle is None:
            return
        # Removed while it is locked: a job that has opened it already sees that it is gone.
        # Windows removes no open file, but another job that has opened it keeps it there, too.
        if sys.platform != "win32":
            self._remove_file()
        os.close(self._handle)
        if sys.platform == "win32":
            self._remove_file()
        for folder in self._new_folders:
            try:
                folder.rmdir()
            except OSError:  # in use
                break

    def _remove_file(self) -> None:
        with suppress(OSError):  # a file that stays is no claim
            self._path.unlink()


def claim(folder: Path) -> Claim:
    """Claim an output folder for this job; the folder is created if it is missing.

    Only the main process of a launcher claims. Raises `UsageError` when another job holds the
    folder or one above it, as a series does, and `OSError` when it cannot be written to.
    """
    if not is_main_process():
        return Claim(folder, None, [])
    for above in folder.resolve().parents:
        require_free(above)
    path = folder / CLAIM_FILE
    parents = [folder, *folder.parents]
    new_folders = [parent for parent in parents if not parent.exists()]
    num_vanished = 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the job before has just removed folders that it had created
            num_vanished += 1
            if num_vanished == MAX_VANISHED:
                raise
            continue
        try:
            _lock(handle)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(handle)
                if error.errno not in HELD:
                    raise
                raise _held(folder) from error
            say(
                f"warning: the file system of {quoted(folder)} has no locks: nothing keeps other "
                "jobs out"
            )
        if _is_same_file(handle, path):
            break
        os.close(handle)  # the job before has removed it between opening and locking
    own = Claim(folder, handle, new_folders)
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        content = Holder.this_process().model_dump_json().encode()
        while content:  # a full disk takes a part of it without an error; the rest says why
            content = content[os.write(handle, content) :]
    except OSError:  # a full disk
        own.release()
        raise
    return own


def require_free(folder: Path) -> None:
    """Raise `UsageError` when another job holds a folder. Nothing is created or removed."""
    path = folder / CLAIM_FILE
    if not is_main_process() or not os.access(path, os.R_OK | os.W_OK):
        return
    try:
        handle = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # the job has just ended
        return
    try:
        _lock(handle)
    except OSError as error:  # a file system without locks is reported by `claim`
        if error.errno in HELD and not _is_own(folder):
            raise _held(folder) from error
    finally:
        os.close(handle)


def _is_own(folder: Path) -> bool:
    """Whether it is this process that holds a folder: a series holds its runs' parent."""
    try:
        holder = Holder.load(folder)
    except DataError:  # it has just started, so it is another one
        return False
    return (holder.pid, holder.host) == (os.getpid(), gethostname())


def contents(folder: Path) -> list[Path]:
    """What is in a folder, without the claim file: that of a killed job stays."""
    return [path for path in folder.iterdir() if path.name != CLAIM_FILE]


def empty(folder: Path) -> None:
    """Remove everything in a folder. Raises `UsageError` when a job works in it."""
    with claim(folder):
        if not is_main_process():
            return
        for path in contents(folder):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _held(folder: Path) -> UsageError:
    try:
        holder = str(Holder.load(folder))
    except DataError:  # it has locked the file, but not written to it yet
        holder = "it has just started"
    return UsageError(
        f"another job works in {quoted(folder)} ({holder})",
        setting="output_dir",
        seen=holder,
        remedy="wait until it ends, or choose another `output_dir`",
    )


def _is_same_file(handle: int, path: Path) -> bool:
    """Whether the open file is still the one at this path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
