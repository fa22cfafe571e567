"""Ways to the model's process and to its copies: each carries one message and its answer at a time.

A process dies in several ways that look different from outside; all of them are `Unavailable` here.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any, Self

from sentilora.serving import protocol
from sentilora.serving.copies import MAX_COPIES


class Unavailable(Exception):
    """The model's process is starting, died, or is being stopped."""


class Channel:
    """A way to a process: its messages go to `writer`, its answers come from `reader`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """A way over one end of a socket pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=2**20))

    async def exchange(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a message. Raises `Unavailable` when the process dies before it.

        It must not be cancelled: the answer would be taken for that of the next message.
        """
        try:
            self._writer.write(protocol.encode(message))
            await self._writer.drain()
            answer = await protocol.read_async(self._reader)
        except (OSError, RuntimeError):  # uvloop's for a closed pipe; BrokenPipe is one, too
            raise Unavailable from None
        if answer is None:
            raise Unavailable
        return answer

    def close(self) -> None:
        """Close it, which ends the process at the other end after its pass."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.close()


class Channels:
    """The model's process, and the ways to it and to its copies.

    whole: to the process, which loads adapters and may use every core for a pass. copies: to each
    of its copies, which use one. busy: those that owe an answer.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, whole: Channel, copies: list[Channel]
    ) -> None:
        self.process = process
        self.whole = whole
        self.copies = copies
        self.busy: set[Channel] = set()

    @classmethod
    async def spawn(cls) -> Self:
        """Start the process, which imports torch first."""
        pairs = [socket.socketpair() for _ in range(_most_copies())]
        far = [end.fileno() for _, end in pairs]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "sentilora.serving.model_process", *map(str, far)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**20,
            pass_fds=far,
        )
        for _, end in pairs:
            end.close()
        if process.stdin is None or process.stdout is None:  # not with the pipes asked for
            raise Unavailable
        whole = Channel(process.stdout, process.stdin)
        return cls(process, whole, [await Channel.over(near) for near, _ in pairs])

    def keep(self, num_copies: int) -> None:
        """Close the ways to copies that the process did not make."""
        for unused in self.copies[num_copies:]:
            unused.close()
        del self.copies[num_copies:]

    async def end(self, patience: float) -> None:
        """End the process and its copies. patience: seconds for passes under way."""
        for channel in (self.whole, *self.copies):
            channel.close()
        try:
            await asyncio.wait_for(self.process.wait(), patience)
        except TimeoutError:
            self.kill()
            await self.process.wait()

    def kill(self) -> None:
        """Kill the process, if it is still there."""
        if self.process.returncode is None:
            # Not `process.kill`, which may take the exit status away from whoever waits for it.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)


def _most_copies() -> int:
    """How many copies the process may make of itself: one for each core it may use."""
    if sys.platform != "linux":
        return 0  # elsewhere a fork after torch has computed is not safe, or does not exist
    return min(MAX_COPIES, len(os.sched_getaffinity(0)))
