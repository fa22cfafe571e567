"""Messages on the pipe between the HTTP process and the model's: JSON with its length before it.

No pickle: what comes out of the pipe is data and never runs. Floats survive with all their bits.
"""

import asyncio
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import orjson

MAX_BYTES = 2**30  # of a message; more can only be a broken pipe
_LENGTH = struct.Struct(">I")


class BrokenPipe(RuntimeError):
    """What came out of the pipe is no message: it ended inside one, or its length is impossible."""


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as bytes, its length first."""
    body = orjson.dumps(message)
    return _LENGTH.pack(len(body)) + body


def read(stream: BinaryIO) -> dict[str, Any] | None:
    """The next message; None at the end of the stream. Raises `BrokenPipe`."""
    head = stream.read(_LENGTH.size)
    if not head:
        return None
    body = stream.read(_size(head))
    return _decode(body, head)


async def read_async(stream: asyncio.StreamReader) -> dict[str, Any] | None:
    """`read` from an asyncio stream."""
    try:
        head = await stream.readexactly(_LENGTH.size)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise BrokenPipe("the pipe ended inside a message") from error
        return None
    try:
        return _decode(await stream.readexactly(_size(head)), head)
    except asyncio.IncompleteReadError as error:
        raise BrokenPipe("the pipe ended inside a message") from error


def _size(head: bytes) -> int:
    if len(head) < _LENGTH.size:
        raise BrokenPipe("the pipe ended inside a message")
    size: int = _LENGTH.unpack(head)[0]
    if size > MAX_BYTES:
        raise BrokenPipe(f"a message of {size:,} bytes")
    return size


def _decode(body: bytes, head: bytes) -> dict[str, Any]:
    if len(body) < _size(head):
        raise BrokenPipe("the pipe ended inside a message")
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BrokenPipe("a message is not JSON") from error
    if not isinstance(message, dict):
        raise BrokenPipe("a message is no object")
    return message
