"""The FastAPI application: routes, error bodies, and the gate around it all."""

from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from sentilora.serving import (
    admin,
    classify,
    decisions,
    explaining,
    inference_protocol,
    operations,
    review,
    systemone,
    tei,
)
from sentilora.serving.docs import add_docs, add_page
from sentilora.serving.errors import Refusal, body_of, headers_of
from sentilora.serving.gate import Gate
from sentilora.serving.routing import Services
from sentilora.serving.security import Keys
from sentilora.version import __version__

ROUTES = (
    decisions,
    systemone,
    classify,
    tei,
    inference_protocol,
    explaining,
    operations,
    admin,
    review,
)
# pydantic's kinds of faults whose messages hold nothing of the request.
_SAFE = {
    "missing",
    "string_type",
    "list_type",
    "dict_type",
    "bool_type",
    "int_type",
    "extra_forbidden",
}
_SAFE |= {
    "too_short",
    "too_long",
    "string_too_short",
    "literal_error",
    "bool_parsing",
    "int_parsing",
}


def create_app(services: Services, page: Path) -> FastAPI:
    """The application without its gate. page: folder of the static page, served if it exists."""
    app = FastAPI(
        title="sentilora",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        strict_content_type=False,
    )
    for routes in ROUTES:
        app.include_router(routes.router(services))
    add_docs(app)
    if (page / "index.html").is_file():
        add_page(app, page)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    return app


def gated(app: FastAPI, services: Services, keys: Keys, max_body_bytes: int) -> Gate:
    """The application as it is served."""
    return Gate(app, keys, services.metrics, max_body_bytes, services.answering.admit)


async def _refused(request: Request, error: Any) -> Response:
    refusal = error if isinstance(error, Refusal) else Refusal(error.status_code, error.detail)
    headers = {**(getattr(error, "headers", None) or {}), **headers_of(refusal)}
    return Response(
        orjson.dumps(body_of(request.url.path, refusal)),
        refusal.status_code,
        headers,
        media_type="application/json",
    )


async def _failed(request: Request, error: Exception) -> Response:
    """A 500; the gate reports where the error comes from, under the id of the answer's header."""
    return await _refused(request, Refusal(500, "internal error (see X-Request-ID)"))


async def _invalid(request: Request, error: Any) -> Response:
    """A 422 without the values that are wrong."""
    faults = error.errors()
    first = faults[0]
    place = ".".join(_shown(part) for part in first["loc"][1:])
    message = first["msg"] if first["type"] in _SAFE else "the value is of the wrong type"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    refusal = Refusal(422, f"{place or 'body'}: {message}{more}", param=place or None)
    return await _refused(request, refusal)


def _shown(part: object) -> str:
    """A part of a fault's place; a key of the request's own is not shown."""
    names = {
        name
        for routes in ROUTES
        for kind in vars(routes).values()
        if hasattr(kind, "model_fields")
        for name in kind.model_fields
    }
    return str(part) if isinstance(part, int) or part in names else "…"
