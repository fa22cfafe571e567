"""HTTP clients that cost little themselves, and a server's memory. `serving.py` has more."""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np


async def status_of(port: int, path: str) -> int:
    """The status of a GET; 0 if nobody listens."""
    try:
        connection = await Connection.open(port)
    except OSError:
        return 0
    return (await connection.request("GET", path))[0]


class Connection:
    """An HTTP/1.1 connection that costs little to use."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def send(self, method: str, path: str, body: bytes = b"") -> None:
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer."""
        self.send(method, path, body)
        return await self.answer()

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of an answer; status 0 if the server has closed the connection."""
        try:
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
            return int(head.split()[1]), await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, b""


class Load:
    """What many clients got: seconds of each good answer, and statuses."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.seconds = 0.0

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return len(self.times) / self.seconds

    def __str__(self) -> str:
        if not self.times:
            return f"no answer, statuses {dict(self.statuses)}"
        p50, p99 = 1000 * np.quantile(self.times, [0.5, 0.99])
        line = f"{self.rate:8.1f}/s  p50 {p50:8.1f} ms  p99 {p99:8.1f} ms"
        return line if set(self.statuses) == {200} else f"{line}  {dict(self.statuses)}"


async def load(port: int, bodies: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Each connection sends the next body when it has an answer, until the time is over."""
    numbers, result = itertools.count(), Load()
    started = time.perf_counter()
    end = started + seconds

    async def client() -> None:
        connection = await Connection.open(port)
        while (sent := time.perf_counter()) < end:
            status, _ = await connection.request(
                "POST", "/v1/classify", bodies[next(numbers) % len(bodies)]
            )
            result.statuses[status] += 1
            now = time.perf_counter()
            if status == 200 and now < end:
                result.times.append(now - sent)
            if status == 0:
                connection = await Connection.open(port)
        connection.writer.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    result.seconds = seconds
    return result


def memory_mib(pid: int) -> float:
    """Proportional set size of a process and its children."""
    import psutil

    process = psutil.Process(pid)
    every = [process, *process.children(recursive=True)]
    return sum(one.memory_full_info().pss for one in every) / 2**20


async def answers(port: int, bodies: Sequence[bytes], connections: int) -> np.ndarray:
    """The probabilities (bodies, labels) that the server sends."""
    result: list[Any] = [None] * len(bodies)
    numbers = iter(range(len(bodies)))

    async def client() -> None:
        connection = await Connection.open(port)
        for number in numbers:
            _, body = await connection.request("POST", "/v1/classify", bodies[number])
            result[number] = json.loads(body)["data"][0]["probs"]

    await asyncio.gather(*(client() for _ in range(connections)))
    return np.array(result)


async def disconnect(port: int, bodies: Sequence[bytes], number: int) -> None:
    for start in range(0, number, 100):
        opened = await asyncio.gather(*(Connection.open(port) for _ in range(100)))
        for n, connection in enumerate(opened, start):
            connection.send("POST", "/v1/classify", bodies[n % len(bodies)])
            await connection.writer.drain()
        for connection in opened:
            connection.writer.transport.abort()
