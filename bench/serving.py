"""Answers per second over HTTP: a naive server, the same route without batching, and ours.

    python bench/serving.py                                      # short texts, 1, 8, 64 connections
    python bench/serving.py --texts 160 --connections 1 64 --seconds 24
    python bench/serving.py --file reviews.parquet               # its column `text`, whole

All run one after another on this machine, each in a process of its own, with the adapter that
ships. P0 is FastAPI over transformers and PEFT with a forward per request under one lock. P1 is
the same over `Classifier`. Each line: answers per second, p50 and p99 in milliseconds, statuses.
"""

import argparse
import asyncio
import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np

SHORT = "The acting is fine, the story is not, and the end comes {n} minutes too late."
SERVERS = ("P0", "P1", "ours")


def texts_of(options: argparse.Namespace) -> list[str]:
    """The texts of the requests."""
    if options.file:
        import pyarrow.parquet as pq

        return pq.read_table(options.file, columns=["text"])["text"].to_pylist()[:2000]
    repeats = {"short": 1, "160": 6}[options.texts]
    return [" ".join([SHORT.format(n=n)] * repeats) for n in range(200)]


def naive_server(kind: str, port: int) -> None:
    """Serve P0 or P1 in this process."""
    import threading

    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Text(BaseModel):
        input: str

    app, lock = FastAPI(), threading.Lock()
    predict = plain_forward() if kind == "P0" else classifier_forward()

    @app.post("/v1/classify")
    def classify(text: Text) -> dict[str, list[float]]:
        with lock:
            return {"probs": predict(text.input)}

    uvicorn.run(app, port=port, log_level="error")


def plain_forward():
    """A forward of transformers and PEFT per label: what a first server looks like."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sentilora import Classifier, embedded_base, shipped_adapter

    prompter = Classifier.load(device="cpu").prompter
    tokenizer = AutoTokenizer.from_pretrained(embedded_base())
    base = AutoModelForCausalLM.from_pretrained(embedded_base(), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, shipped_adapter()).eval()
    pad = tokenizer.eos_token_id
    longest = max(map(len, prompter.label_ids))

    @torch.inference_mode()
    def predict(text: str) -> list[float]:
        ids = prompter.encode(text).input_ids
        rows = [ids + label + [pad] * (longest - len(label)) for label in prompter.label_ids]
        logits = model(input_ids=torch.tensor(rows)).logits.log_softmax(-1)
        scores = [
            sum(logits[row, len(ids) - 1 + i, token] for i, token in enumerate(label))
            for row, label in enumerate(prompter.label_ids)
        ]
        return torch.stack(scores).double().softmax(0).tolist()

    return predict


def classifier_forward():
    """`Classifier.predict_proba` of one text."""
    from sentilora import Classifier

    classifier = Classifier.load(device="cpu")
    classifier.scorer.settle()
    return lambda text: classifier.predict_proba([text])[0].tolist()


async def load(url: str, texts: list[str], connections: int, seconds: float) -> str:
    """What this many clients get, each with one request at a time."""
    numbers = itertools.count()
    times: list[float] = []
    statuses: Counter[int] = Counter()
    end = time.perf_counter() + seconds

    async def client(session: httpx.AsyncClient) -> None:
        while time.perf_counter() < end:
            body = json.dumps({"input": texts[next(numbers) % len(texts)]})
            started = time.perf_counter()
            response = await session.post(
                "/v1/classify", content=body, headers={"content-type": "application/json"}
            )
            statuses[response.status_code] += 1
            if response.status_code == 200 and time.perf_counter() < end:
                times.append(time.perf_counter() - started)

    limits = httpx.Limits(max_connections=connections)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as session:
        await asyncio.gather(*(client(session) for _ in range(connections)))
    if not times:
        return f"no answer, statuses {dict(statuses)}"
    p50, p99 = 1000 * np.quantile(times, [0.5, 0.99])
    return f"{len(times) / seconds:8.1f}/s  p50 {p50:7.1f}  p99 {p99:7.1f}  {dict(statuses)}"


def start(kind: str, port: int) -> subprocess.Popen[bytes]:
    """A server in a process of its own."""
    if kind == "ours":
        command = ["-m", "sentilora", "serve", "--device", "cpu", "--max-wait", "60"]
    else:
        command = [__file__, "--serve", kind]
    return subprocess.Popen([sys.executable, *command, "--port", str(port)])


def measure(kind: str, texts: list[str], options: argparse.Namespace) -> None:
    """Print a line per number of connections."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = start(kind, port)
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if httpx.post(f"{url}/v1/classify", json={"input": texts[0]}).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            if process.poll() is not None:
                raise SystemExit(f"{kind} did not start")
            time.sleep(0.5)
        for connections in options.connections:
            asyncio.run(load(url, texts, connections, 2))
            line = asyncio.run(load(url, texts, connections, options.seconds))
            print(f"{kind:<5}{connections:>4} connections {line}", flush=True)
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    """Measure, or serve P0 or P1 for a measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", choices=("short", "160"), default="short")
    parser.add_argument("--file", type=Path, help="Parquet file with a column `text`")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=24)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=SERVERS)
    parser.add_argument("--serve", choices=SERVERS[:2], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch is imported
    if options.serve:
        naive_server(options.serve, options.port)
        return
    texts = texts_of(options)
    for kind in options.servers:
        measure(kind, texts, options)


if __name__ == "__main__":
    main()
