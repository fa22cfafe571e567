"""What the files of routes share: JSON parsed by the gate, replies, their documentation."""

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict

from sentilora.serving.answering import Answer, Answering
from sentilora.serving.metrics import Metrics
from sentilora.serving.served import Registry, Served

# What every route may answer besides 200, for the documentation. Table: `errors`.
_MEANINGS = {
    400: "Not JSON, or an empty list",
    401: "No key, or a wrong one",
    404: "Unknown model",
    413: "Body or number of texts over the limit",
    415: "Content-Type is not JSON",
    422: "Wrong type, empty text, choices that are no labels",
    429: "Too busy; see Retry-After",
    500: "A fault of the server's",
    503: "Starting, shutting down, or the model is restarting; see Retry-After",
    504: "Deadline passed in the queue",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text} for status, text in _MEANINGS.items()
}
FEW_ERRORS: dict[int | str, dict[str, Any]] = {401: ERRORS[401], 404: ERRORS[404], 503: ERRORS[503]}


class Strict(BaseModel):
    """A part of a request. A field that this server would ignore could change the answer."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Services:
    """What routes work with. adapter_root: below it the admin routes load adapters."""

    registry: Registry
    answering: Answering
    metrics: Metrics
    adapter_root: Path | None = None
    review_store: Path | None = None


class _ParsedRequest(Request):
    async def json(self) -> Any:
        """The body's JSON, as the gate has read it."""
        return self.scope["state"]["json"]


class JsonRoute(APIRoute):
    """A route that takes the body's JSON from the gate instead of parsing it again."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function that answers a request."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_ParsedRequest(request.scope, request.receive))

        return handle


def reply(
    content: Mapping[str, Any] | list[Any], headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON response."""
    return Response(
        orjson.dumps(content), media_type="application/json", headers=dict(headers or {})
    )


def headers_for(model: Served, answers: list[Answer]) -> dict[str, str]:
    """Headers of every answer: which weights gave it, and how many of its texts were cut."""
    headers = {"X-Sentilora-Truncated": str(sum(answer.truncated for answer in answers))}
    if model.digest is not None:
        headers["X-Model-Digest"] = model.digest
    return headers
