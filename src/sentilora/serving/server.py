"""The HTTP server: starts the worker, listens, drains when it is told to stop."""

import asyncio
import signal
import socket
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

import uvicorn

from sentilora.errors import SentiloraError, UsageError
from sentilora.progress import say
from sentilora.serving.answering import Answering

LAST_CALL_SECONDS = 0.5  # after a signal, for requests that were sent before it
KEEP_ALIVE_SECONDS = 75  # longer than a load balancer's 60: a shorter one gives 502s


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `UsageError` when the address cannot be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen on {host}, port {port}: {getattr(error, 'strerror', None) or error}",
            setting="port",
            seen=port,
            remedy="choose another `port` or `host`",
        ) from error
    # Connections inherit it. asyncio sets it only where the socket names its protocol, as this one
    # does not; without it, each answer waits 40 ms for the client's delayed acknowledgment.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Server(uvicorn.Server):
    """uvicorn's server, which answers what it has begun before it ends."""

    def __init__(self, app: Any, answering: Answering, shutdown_timeout: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                lifespan="off",
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=1,
            )
        )
        self._answering = answering
        self._shutdown_timeout = shutdown_timeout
        self._end_by: float | None = None
        self._drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """At the first signal refuse new work and finish the rest; at the second end at once."""
        if self._answering.is_leaving:
            self._answering.is_draining = self.should_exit = self.force_exit = True
            return
        self._answering.is_leaving = True
        name = signal.Signals(sig).name
        say(f"{name}: finishing {self._answering.num_active} requests; a second one ends at once")
        self._end_by = time.monotonic() + self._shutdown_timeout
        self._drain = asyncio.ensure_future(self._finish())

    async def _finish(self) -> None:
        await asyncio.sleep(LAST_CALL_SECONDS)
        self._answering.is_draining = True
        while self._answering.num_active and time.monotonic() < (self._end_by or 0):
            await asyncio.sleep(0.02)
        self.should_exit = True

    async def run_with(self, adapters: Sequence[tuple[str, str]], sock: socket.socket) -> None:
        """Listen, load the adapters, and serve until a signal comes.

        Raises `SentiloraError` when the adapters cannot be loaded.
        """
        worker = self._answering.worker
        starting = asyncio.ensure_future(self._start(adapters))
        try:
            await self.serve(sockets=[sock])
            if starting.done():
                starting.result()
        finally:
            starting.cancel()
            is_late = self._end_by is not None and time.monotonic() > self._end_by
            await worker.stop(0.0 if is_late or self.force_exit else 1.0)

    async def _start(self, adapters: Sequence[tuple[str, str]]) -> None:
        worker = self._answering.worker
        try:
            await worker.start(adapters)
        except SentiloraError:
            self.should_exit = True
            raise
        seconds = time.monotonic() - worker.spawned_at
        say(f"ready after {seconds:.1f} s, on {worker.computed_on}")
