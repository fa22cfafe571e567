"""A stand-in for the server, for the tests of the page: made-up answers, and faults on demand.

PYTHONPATH=src python tests/page_server.py 8123        # to look at the page
"""

import json
import re
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import sentilora

ASSETS = Path(sentilora.__file__).parent / "assets" / "page"
POLICY = "default-src 'self'"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
WEIGHTS = {"great": 2.0, "loved": 1.6, "good": 1.0, "dull": -1.4, "bad": -1.2, "awful": -2.4}
LABELS = ["positive", "negative"]
EXAMPLES = [
    "A great film, I loved every minute of it.",
    "Two awful hours: a dull story and bad acting.",
    "The first half is good, the second one is dull.",
]


def adapter(name="default", **more):
    """An adapter as /v1/models lists it."""
    return {"id": name, "type": "adapter", "labels": LABELS, "base": "tiny", "abstain_below": 0.8,
            "columns": [], "examples": EXAMPLES, **more}  # fmt: skip


@dataclass
class State:
    """What the server answers from now on, and what it was asked."""

    models: list = field(
        default_factory=lambda: [adapter(), {"id": "tiny", "type": "base", "labels": LABELS}]
    )
    review: bool = False
    key: str | None = None
    seconds: float = 0.0  # each answer takes this long
    faults: list = field(default_factory=list)  # (status, headers) of the next POST answers
    longest: int = 20_000  # characters a request may have
    posted: list = field(default_factory=list)  # (path, body)
    stored: list = field(default_factory=list)


def words_of(text):
    return [
        (m.start(), m.end(), WEIGHTS.get(m.group().lower(), 0.05))
        for m in re.finditer(r"\w+", text)
    ]


def score(text, labels, strength):
    """{label: probability}: the words' weights decide between the first two labels."""
    total = strength * sum(weight for _, _, weight in words_of(text))
    logits = [total, -total, *(-1.5 - i / 10 for i in range(len(labels) - 2))]
    powers = [2.718281828 ** max(-30, min(30, logit)) for logit in logits]
    return {label: power / sum(powers) for label, power in zip(labels, powers, strict=True)}


class Handler(BaseHTTPRequestHandler):
    """The routes that the page uses."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, body, kind="application/json", headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(data))), *headers):
            self.send_header(name, value)
        if kind == "text/html":
            self.send_header("Content-Security-Policy", POLICY)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message, headers=()):
        error = {"message": message, "type": "Error", "param": None, "code": status}
        self.reply(status, {"error": error}, headers=headers)

    def is_refused(self):
        state = self.server.state
        if state.key is None or self.headers.get("Authorization") == f"Bearer {state.key}":
            return False
        self.reply(401, {"error": "Unauthorized"})
        return True

    def do_GET(self):
        state = self.server.state
        name = "index.html" if self.path == "/" else self.path.removeprefix("/page/")
        if self.path == "/" or self.path.startswith("/page/"):
            path = ASSETS / name
            return self.reply(200, path.read_bytes(), TYPES[path.suffix])
        if self.is_refused():
            return None
        if self.path == "/v1/models":
            return self.reply(200, {"object": "list", "data": state.models, "review": state.review})
        if self.path == "/v1/review/export" and state.review:
            lines = [
                json.dumps({"text": row["text"], "label": row["label"]}) for row in state.stored
            ]
            return self.reply(200, ("\n".join(lines) + "\n").encode(), "application/jsonl")
        return self.refuse(404, "no such route")

    def do_POST(self):
        state = self.server.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.is_refused():
            return None
        fault = state.faults.pop(0) if state.faults else None
        time.sleep(state.seconds)
        if fault is not None:
            return self.refuse(fault[0], "a made-up fault", fault[1])
        state.posted.append((self.path, body))
        if self.path == "/v1/review" and state.review:
            state.stored.append(body)
            return self.reply(200, {"stored": len(state.stored)})
        model = next((m for m in state.models if m["id"] == body["model"]), None)
        if model is None:
            return self.refuse(404, "unknown model")
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        texts = [text if isinstance(text, str) else " ".join(text.values()) for text in texts]
        if sum(map(len, texts)) > state.longest:
            return self.refuse(413, "too long")
        if any("unclassifiable" in text for text in texts):
            return self.refuse(422, "the text has no usable words")
        if self.path == "/v1/explain":
            return self.reply(200, self.explanation(body["input"], model))
        items = [self.item(i, text, model) for i, text in enumerate(texts)]
        return self.reply(200, {"object": "list", "model": model["id"], "data": items, "usage": {}})

    def item(self, index, text, model):
        p = score(text, model["labels"], 0.3 if model["type"] == "base" else 1.0)
        best = max(p, key=p.get)
        threshold = model.get("abstain_below")
        return {"index": index, "label": best, "probs": list(p.values()), "probabilities": p,
                "abstained": threshold is not None and p[best] < threshold,
                "truncated": len(text) > 4000, "tokens": len(text) // 4 + 1}  # fmt: skip

    def explanation(self, value, model):
        columns = {None: value} if isinstance(value, str) else value
        p = score(" ".join(columns.values()), model["labels"], 1.0)
        best = max(p, key=p.get)
        sign = 1 if best == model["labels"][0] else -1
        words = [
            {"start": start, "end": end, "contribution": sign * weight}
            | ({} if column is None else {"column": column})
            for column, text in columns.items()
            for start, end, weight in words_of(text)
        ]
        return {"label": best, "probability": p[best], "words": words}


class PageServer(ThreadingHTTPServer):
    """The stand-in on a free port, or the one asked for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.state = State()
        self.url = f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request, client_address):
        """Nothing: a page that cancels a request closes its connection."""

    def start(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self


if __name__ == "__main__":
    server = PageServer(int(sys.argv[1]))
    print(server.url)
    server.serve_forever()
