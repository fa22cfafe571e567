"""The review queue: answers that a person has labeled, kept for the next training. Opt-in."""

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from sentilora.serving.errors import Refusal
from sentilora.serving.routing import ERRORS, FEW_ERRORS, JsonRoute, Services, Strict, reply

_SCHEMA = """
CREATE TABLE IF NOT EXISTS review (
    id INTEGER PRIMARY KEY, time REAL, input TEXT, predicted TEXT, label TEXT, probabilities TEXT
)"""


class ReviewRequest(Strict):
    """A text (or an object of columns), the model's answer, and the label that a person gave."""

    text: str | dict[str, Any]
    predicted: str | None = None
    label: str
    probabilities: dict[str, float] | None = None


class ReviewStore:
    """Labeled texts in a SQLite file. One connection per call, so that any thread may call it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._connect() as connection:
            connection.execute(_SCHEMA)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=10)

    def add(self, item: ReviewRequest) -> int:
        """Keep a labeled text; returns how many there are."""
        values = (
            time.time(),
            json.dumps(item.text, ensure_ascii=False),
            item.predicted,
            item.label,
            json.dumps(item.probabilities or {}),
        )
        connection = self._connect()
        try:
            with connection:
                connection.execute("INSERT INTO review VALUES (NULL, ?, ?, ?, ?, ?)", values)
            count: int = connection.execute("SELECT COUNT(*) FROM review").fetchone()[0]
        finally:
            connection.close()
        return count

    def export(self) -> str:
        """The labeled texts as JSONL that `sentilora train` reads, oldest first."""
        connection = self._connect()
        try:
            rows = connection.execute("SELECT input, label FROM review ORDER BY id").fetchall()
        finally:
            connection.close()
        lines = []
        for text, label in rows:
            item = json.loads(text)
            record = item if isinstance(item, dict) else {"text": item}
            lines.append(json.dumps({**record, "label": label}, ensure_ascii=False) + "\n")
        return "".join(lines)


def router(services: Services) -> APIRouter:
    """The routes; 404 on a server without a store."""
    routes = APIRouter(route_class=JsonRoute, tags=["review"])
    path = services.review_store
    store = None if path is None else ReviewStore(path)

    def require_store() -> ReviewStore:
        if store is None:
            raise Refusal(404, "this server keeps no reviews (`review_store`)")
        return store

    @routes.post("/v1/review", responses=ERRORS)
    async def add(request: ReviewRequest) -> Response:
        """Keep a text with the label that a person gave it."""
        kept = require_store()
        return reply({"count": await asyncio.to_thread(kept.add, request)})

    @routes.get("/v1/review/export", responses=FEW_ERRORS)
    async def export() -> Response:
        """All labeled texts as JSONL, to train on."""
        text = await asyncio.to_thread(require_store().export)
        headers = {"Content-Disposition": 'attachment; filename="review.jsonl"'}
        return Response(text, media_type="application/x-ndjson", headers=headers)

    return routes
