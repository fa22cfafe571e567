"""What `sentilora serve` does under load, beside two naive servers and beside offline scoring.

    python bench/serving.py                                  # every part, the adapter that ships
    python bench/serving.py rates --texts short,160,reviews.parquet --seconds 24
    python bench/serving.py rates agreement --adapter ADAPTER --base BASE --texts reviews.parquet

Parts, one after another, each server in a process of its own (naive_server.py has the others):

    rates       answers per second and latency at 1, 8 and 64 connections; one text at a time with
                `predict_proba`, and `classify` of many, in one process
    overload    ten times the connections that keep the server busy, and ten times as many as
                --max-wait 1 lets in; they ignore Retry-After
    adapters    eight adapters on one base, chosen at random, beside one of them
    agreement   1,000 texts over HTTP and in one process: largest difference, flips, equal bits
    faults      disconnects, slow clients, a model process that is killed, SIGTERM with requests
    soak        memory of both processes over ten minutes of load

The client is this process: each connection sends a request when it has the last one's answer.
"short" texts are the first 15 words of the reviews that ship, "160" about 160 tokens of them; of a
Parquet file the column `text` is taken whole.
Memory is the proportional set size (PSS) of all processes of a server.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from http_load import Connection, Load, answers, disconnect, load, memory_mib, status_of
from training import describe_machine

from sentilora.models.device import spin_briefly

PARTS = ("rates", "overload", "adapters", "agreement", "faults", "soak")
HERE = Path(__file__).parent


def main() -> None:
    from sentilora import embedded_base, shipped_adapter

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--adapter", default=str(shipped_adapter()))
    parser.add_argument("--base", default=str(embedded_base()))
    parser.add_argument("--texts", default="short,160")
    parser.add_argument("--connections", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=24)
    parser.add_argument("--soak-seconds", type=float, default=600)
    parser.add_argument("--servers", default="plain,classifier,ours")
    parser.add_argument("--options", default="", help="more for `serve`, such as --base-matmul=fp8")
    parser.add_argument("--offline", choices=("alone", "many"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    spin_briefly()
    if options.offline:
        return offline(options)
    print(describe_machine(), flush=True)
    for part in options.parts:
        print(f"\n{part}", flush=True)
        globals()[part](options)


# --- texts and servers ---------------------------------------------------------------------------


def texts_of(kind: str) -> list[str]:
    """The texts of the requests."""
    if kind.endswith(".parquet"):
        from pyarrow import parquet

        return parquet.read_table(kind, columns=["text"])["text"].to_pylist()[:2000]
    from sentilora.shipped import reviews_path

    lines = [line for split in ("train", "test") for line in reviews_path(split).open()]
    reviews = [json.loads(line)["text"].split() for line in lines]
    number = {"short": 15, "160": 110}[kind]
    return [" ".join(itertools.islice(itertools.cycle(words), number)) for words in reviews]


def bodies_of(texts: Sequence[str], **more: Any) -> list[bytes]:
    """The requests' bodies."""
    return [json.dumps({"input": text, **more}).encode() for text in texts]


@contextmanager
def serving(options: argparse.Namespace, kind: str, *arguments: str) -> Iterator[tuple[int, int]]:
    """(port, process id) of a server that is ready; prints how long that took."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(HERE / "naive_server.py"), kind, "--adapter", options.adapter]
    if kind == "ours":
        command = ["-m", "sentilora", "serve", "--max-wait", "60", *options.options.split()]
        command += [] if "--adapter" in arguments else ["--adapter", f"one={options.adapter}"]
    command += ["--base", options.base, "--port", str(port), *arguments]
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    os.set_blocking(process.stderr.fileno(), False)
    try:
        path = "/readyz" if kind == "ours" else "/docs"
        while asyncio.run(status_of(port, path)) != 200:
            if process.poll() is not None:
                raise SystemExit(f"{kind} did not start: {process.stderr.read()}")
            time.sleep(0.1)
        print(f"{kind}: ready after {time.perf_counter() - started:.1f} s", flush=True)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(90)


def run_offline(options: argparse.Namespace, way: str) -> dict[str, Any]:
    """What `offline` prints, from a process of its own."""
    command = [__file__, "--offline", way, "--adapter", options.adapter, "--base", options.base]
    command += ["--texts", options.texts, f"--options={options.options}"]
    output = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def offline(options: argparse.Namespace) -> None:
    """Print what a `Classifier` does with each kind of texts in this process."""
    from sentilora import Classifier

    matmul = "fp8" if "fp8" in options.options else "exact"
    classifier = Classifier.load(options.adapter, base=options.base, base_matmul=matmul)
    results: dict[str, Any] = {}
    for kind in options.texts.split(","):
        texts, times = texts_of(kind), []
        if options.offline == "many":
            texts = (texts * 10)[:2000]
            classifier.classify(texts[:256])
            started = time.perf_counter()
            classifier.classify(texts)
            results[kind] = len(texts) / (time.perf_counter() - started)
            continue
        classifier.scorer.settle()
        for number in range(220):
            started = time.perf_counter()
            classifier.predict_proba([texts[number % len(texts)]])
            times.append(time.perf_counter() - started)
        results[kind] = (1000 * np.quantile(times[20:], [0.5, 0.99])).tolist()
    print(json.dumps(results))


# --- parts ---------------------------------------------------------------------------------------


def rates(options: argparse.Namespace) -> None:
    kinds = options.texts.split(",")
    alone, many = run_offline(options, "alone"), run_offline(options, "many")
    for kind in kinds:
        p50, p99 = alone[kind]
        print(f"{kind}: predict_proba of one: p50 {p50:.1f} ms, p99 {p99:.1f} ms; ", end="")
        print(f"classify of 2,000: {many[kind]:.1f}/s", flush=True)
    connections = list(map(int, options.connections.split(",")))
    seen: dict[tuple[str, str], Load] = {}
    for server in options.servers.split(","):
        with serving(options, server) as (port, _):
            for kind, number in itertools.product(kinds, connections):
                bodies = bodies_of(texts_of(kind))
                asyncio.run(load(port, bodies, number, 2))
                result = asyncio.run(load(port, bodies, number, options.seconds))
                seen[kind, server] = result
                print(f"{server:<11}{kind}, {number:>3} connections {result}", flush=True)
    for kind in kinds:
        if (kind, "ours") in seen:
            ours = seen[kind, "ours"].rate
            others = {
                name: seen[kind, name].rate for name in options.servers.split(",") if name != "ours"
            }
            line = ", ".join(f"{ours / rate:.2f}× {name}" for name, rate in others.items())
            print(f"{kind}, {connections[-1]} connections: {line}, {ours / many[kind]:.0%} offline")


def overload(options: argparse.Namespace) -> None:
    bodies = bodies_of(texts_of(options.texts.split(",")[0]))
    for wait, number in ((1, 640), (5, 640), (1, None)):
        with serving(options, "ours", "--max-wait", str(wait)) as (port, pid):
            asyncio.run(load(port, bodies, 64, 3))
            capacity = asyncio.run(load(port, bodies, 64, options.seconds))
            before = memory_mib(pid)
            number = number or int(10 * capacity.rate * wait)
            result = asyncio.run(load(port, bodies, number, options.seconds))
            after = memory_mib(pid)
        print(f"max-wait {wait}: 64 connections {capacity}")
        print(f"{number:,} connections {result}")
        print(f"goodput {result.rate / capacity.rate:.0%}, {before:.0f} → {after:.0f} MiB")


def adapters(options: argparse.Namespace) -> None:
    names = [f"copy{n}" for n in range(8)]
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            shutil.copytree(options.adapter, Path(folder) / name)
        pairs = [x for name in names for x in ("--adapter", f"{name}={folder}/{name}")]
        texts = texts_of(options.texts.split(",")[0])
        one = bodies_of(texts, model=names[0])
        chosen = random.Random(0)
        mixed = [body for text in texts for body in bodies_of([text], model=chosen.choice(names))]
        with serving(options, "ours", *pairs, "--adapter-root", folder) as (port, _):
            rate = {}
            for name, bodies in {"one adapter": one, "eight": mixed}.items():
                asyncio.run(load(port, bodies, 64, 2))
                result = asyncio.run(load(port, bodies, 64, options.seconds))
                rate[name] = result.rate
                print(f"{name}: {result}", flush=True)
            print(f"eight: {rate['eight'] / rate['one adapter']:.2f}× one")
            asyncio.run(swap(port, mixed))


async def swap(port: int, bodies: Sequence[bytes]) -> None:
    """Swap an adapter five times while 16 clients use all of them."""
    clients = asyncio.create_task(load(port, bodies, 16, 10))
    connection, times = await Connection.open(port), []
    for _ in range(5):
        await asyncio.sleep(1)
        started = time.perf_counter()
        request = {"lora_name": "copy3", "lora_path": "copy3", "load_inplace": True}
        status, body = await connection.request(
            "POST", "/v1/load_lora_adapter", json.dumps(request).encode()
        )
        times.append(time.perf_counter() - started)
        if status != 200:
            raise SystemExit(f"swap: {status} {body!r}")
    print(
        f"swaps under load: {max(times):.2f} s at most; statuses {dict((await clients).statuses)}"
    )


def agreement(options: argparse.Namespace) -> None:
    from sentilora import Classifier

    kinds = options.texts.split(",")
    texts = [text for kind in kinds for text in texts_of(kind)[: 1000 // len(kinds)]]
    with serving(options, "ours") as (port, _):
        served = asyncio.run(answers(port, bodies_of(texts), 32))
        alone = asyncio.run(answers(port, bodies_of(texts, deterministic=True), 1))
    matmul = "fp8" if "fp8" in options.options else "exact"
    classifier = Classifier.load(options.adapter, base=options.base, base_matmul=matmul)
    many = classifier.predict_proba(texts)
    classifier.scorer.settle()
    one = np.concatenate([classifier.predict_proba([text]) for text in texts])
    for name, probabilities in {"over HTTP": served, "one at a time": one}.items():
        flips = probabilities.argmax(1) != many.argmax(1)
        margin = np.abs(many - 1 / many.shape[1]).max(1)[flips].max(initial=0)
        print(
            f"{name} against {len(texts):,} at once: ≤ {np.abs(probabilities - many).max():.2g}, "
            f"{flips.sum()} flips (margin ≤ {margin:.2g})"
        )
    print(f"deterministic: {(alone == one).all(1).mean():.1%} equal bits to predict_proba alone")


def faults(options: argparse.Namespace) -> None:
    bodies = bodies_of(texts_of(options.texts.split(",")[0]))
    with serving(options, "ours") as (port, pid):
        asyncio.run(disconnect(port, bodies, 1000))
        print(f"1,000 disconnects, then {asyncio.run(load(port, bodies, 8, 5))}", flush=True)
        print(f"beside 200 slow clients {asyncio.run(beside_slow(port, bodies))}", flush=True)
        import psutil

        for child in psutil.Process(pid).children(recursive=True):
            child.send_signal(signal.SIGKILL)
        killed = time.perf_counter()
        result = asyncio.run(load(port, bodies, 8, 10))
        print(f"model process killed: {result}")
        while asyncio.run(status_of(port, "/readyz")) != 200:
            time.sleep(0.1)
        print(f"ready again within {time.perf_counter() - killed:.1f} s of the kill")
        asyncio.run(end_with(port, pid, bodies[:200]))


async def beside_slow(port: int, bodies: Sequence[bytes]) -> Load:
    """The load of 8 clients beside 200 that send a byte of their head per second."""
    slow = [await Connection.open(port) for _ in range(200)]

    async def trickle(connection: Connection) -> None:
        for byte in b"POST /v1/classify HTTP/1.1\r\n":
            connection.writer.write(bytes([byte]))
            await asyncio.sleep(1)

    tasks = [asyncio.create_task(trickle(connection)) for connection in slow]
    result = await load(port, bodies, 8, 10)
    for task in tasks:
        task.cancel()
    return result


async def end_with(port: int, pid: int, bodies: Sequence[bytes]) -> None:
    """SIGTERM while all of these requests are in flight."""
    connections = [await Connection.open(port) for _ in bodies]
    for connection, body in zip(connections, bodies, strict=True):
        connection.send("POST", "/v1/classify", body)
    await asyncio.sleep(0.2)
    os.kill(pid, signal.SIGTERM)
    started = time.perf_counter()
    got = await asyncio.gather(*(connection.answer() for connection in connections))
    statuses = dict(Counter(status for status, _ in got))
    print(f"SIGTERM, {len(bodies)} in flight: {statuses} in {time.perf_counter() - started:.1f} s")


def soak(options: argparse.Namespace) -> None:
    bodies = [body for kind in options.texts.split(",") for body in bodies_of(texts_of(kind))]
    random.Random(0).shuffle(bodies)
    with serving(options, "ours") as (port, pid):
        print(f"after start {memory_mib(pid):.0f} MiB", flush=True)
        for minute in range(max(1, round(options.soak_seconds / 60))):
            result = asyncio.run(load(port, bodies, 64, min(60, options.soak_seconds)))
            print(f"minute {minute + 1}: {memory_mib(pid):.0f} MiB {result}", flush=True)


if __name__ == "__main__":
    main()
