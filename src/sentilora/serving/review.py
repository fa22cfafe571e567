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

# A text has one label of each model's: a later one replaces it.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS review (
    model TEXT, input TEXT, time REAL, predicted TEXT, label TEXT, probabilities TEXT,
    PRIMARY KEY (model, input)
)"""


class ReviewRequest(Strict):
    """A text (or an object of columns), the model's answer, and the label that a person gave."""

    model: str | None = None
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

    def add(self, model: str, item: ReviewRequest) -> int:
        """Keep a labeled text; returns how many there are."""
        values = (
            model,
            json.dumps(item.text, ensure_ascii=False),
            time.time(),
            item.predicted,
            item.label,
            json.dumps(item.probabilities or {}),
        )
        connection = self._connect()
        try:
            with connection:
                connection.execute("REPLACE INTO review VALUES (?, ?, ?, ?, ?, ?)", values)
            count: int = connection.execute("SELECT COUNT(*) FROM review").fetchone()[0]
        finally:
            connection.close()
        return count

    def export(self, model: str) -> str:
        """The texts labeled for a model as JSONL that `sentilora train` reads, oldest first."""
        query = "SELECT input, label FROM review WHERE model = ? ORDER BY time"
        connection = self._connect()
        try:
            rows = connection.execute(query, (model,)).fetchall()
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
        """Keep a text with the label that a person gave it, in place of an earlier one."""
        reviews, model = require_store(), services.registry.find(request.model)
        if request.label not in model.labels:
            raise Refusal(422, f"the labels are {', '.join(model.labels)}", param="label")
        return reply({"count": await asyncio.to_thread(reviews.add, model.name, request)})

    @routes.get("/v1/review/export", responses=FEW_ERRORS)
    async def export(model: str | None = None) -> Response:
        """The texts labeled for a model as JSONL, to train on."""
        reviews, name = require_store(), services.registry.find(model).name
        text = await asyncio.to_thread(reviews.export, name)
        headers = {"Content-Disposition": 'attachment; filename="review.jsonl"'}
        return Response(text, media_type="application/x-ndjson", headers=headers)

    return routes
