"""What every request passes before and after its route: key, body, error, client gone, metrics.

An ASGI application around the other. It reads the whole body, so that it can watch for a client
that leaves, and cancel the work for it.
"""

import asyncio
import sys
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from sentilora.serving.body import check_type, parsed, too_large, unpacked
from sentilora.serving.errors import Refusal, body_of, headers_of
from sentilora.serving.metrics import Metrics
from sentilora.serving.security import OPEN_FOLDER, Keys, require_own_page

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

READ_SECONDS = 30.0  # for a whole body
# Read and dropped of a body that is too large: a client that is still sending would see a broken
# connection instead of the 413.
MAX_DISCARDED_BYTES = 64 * 2**20
CSP = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_ECHOED = (b"traceparent",)
# What is posted to these is no text that waits with all others for a pass.
_UNQUEUED = {"/v1/explain", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/review"}


class Gate:
    """The application `app`, with keys, limits and error bodies around it.

    admit: raises `Refusal` when no more texts can wait. It is asked before a body is parsed, as a
    refusal that costs little leaves more of the CPU to the answers.
    """

    def __init__(
        self,
        app: Any,
        keys: Keys,
        metrics: Metrics,
        max_body_bytes: int,
        admit: Callable[[], Awaitable[None]],
    ) -> None:
        self._app = app
        self._admit = admit
        self._keys = keys
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        started = time.perf_counter()
        try:
            await self._answer(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.observe(route, answer.status, time.perf_counter() - started)

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        headers = dict(scope["headers"])
        try:
            self._keys.check(scope["path"], headers)
            if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
                require_own_page(headers)
            body = b""
            if scope["method"] not in ("GET", "HEAD", "OPTIONS"):
                body = await self._body(headers, receive)
            await _until_client_leaves(self._admitted, scope, body, receive, answer)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except _ClientLeft:
            answer.status = 499
        except Exception as error:
            print(f"request {answer.id}: {where(error)}", file=sys.stderr, flush=True)
            await answer.refuse(Refusal(500, f"internal error (request {answer.id})"))

    async def _admitted(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """The application's answer, unless too many texts wait or the body is no JSON."""
        if scope["method"] == "POST" and scope["path"] not in _UNQUEUED:
            await self._admit()
        state = scope.setdefault("state", {})
        if body:
            check_type(dict(scope["headers"]))
            state["json"] = parsed(body)
        await self._app(scope, receive, send)

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self._max_body_bytes
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit + MAX_DISCARDED_BYTES:
            raise too_large(limit)
        parts, size = [], 0
        try:
            async with asyncio.timeout(READ_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientLeft
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limit + MAX_DISCARDED_BYTES:
                        raise too_large(limit)
                    if size <= limit:
                        parts.append(part)
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise Refusal(400, f"the body did not come within {READ_SECONDS:.0f} s") from None
        if size > limit:
            raise too_large(limit)
        return unpacked(b"".join(parts), headers.get(b"content-encoding", b""), limit)


class _ClientLeft(Exception):
    """The client closed its connection before it had its answer."""


async def _until_client_leaves(
    app: Any, scope: Scope, body: bytes, receive: Receive, send: "_Answer"
) -> None:
    """Run the application; cancel it when the client leaves."""
    is_read = asyncio.Event()

    async def replay() -> Message:
        if is_read.is_set():
            await asyncio.Event().wait()  # a disconnect cancels the application instead
        is_read.set()
        return {"type": "http.request", "body": body, "more_body": False}

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    work = asyncio.ensure_future(app(scope, body, replay, send))
    leaving = asyncio.ensure_future(watch())
    try:
        await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
        # A whole answer is followed by a disconnect, too; its file may still have to be closed.
        if not work.done() and not send.is_complete:
            raise _ClientLeft
        await work
    finally:
        leaving.cancel()
        work.cancel()


class _Answer:
    """The way back to the client, with the headers that every answer has."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._path = scope["path"]
        headers = dict(scope["headers"])
        asked = headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = asked if 0 < len(asked) <= 64 and _is_plain(asked) else uuid.uuid4().hex
        self._echoed = [(name, headers[name]) for name in _ECHOED if name in headers]
        self.status = 0
        self.is_complete = False

    async def __call__(self, message: Message) -> None:
        """Send an ASGI message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], *self._echoed, (b"x-request-id", self.id.encode())]
            headers.append((b"x-content-type-options", b"nosniff"))
            if self._path in ("/", "/docs") or self._path.startswith(OPEN_FOLDER):
                headers.append((b"content-security-policy", CSP.encode()))
                headers.append((b"cache-control", b"no-cache"))  # another version has other files
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self.is_complete = not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Send an error, unless an answer has begun."""
        if self.status:
            return
        content = orjson.dumps(body_of(self._path, refusal))
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content))}
        headers |= headers_of(refusal)
        if refusal.status_code in (413, 415) or refusal.status_code == 401:
            headers["Connection"] = "close"  # the rest of the body is not read
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        start = {"type": "http.response.start", "status": refusal.status_code, "headers": pairs}
        await self(start)
        await self({"type": "http.response.body", "body": content})


def _is_plain(text: str) -> bool:
    return text.isascii() and all(c.isalnum() or c in "-_.:" for c in text)


def where(error: BaseException) -> str:
    """The class of an error and the lines it came from, without any of its values."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames))
    return f"{type(error).__name__} in {places}"
