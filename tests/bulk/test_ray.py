"""`--cluster ray` on two local nodes: what is killed, and what is left of it."""

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import failed
from nodes import Nodes, kill_group

NUM_ROWS, NUM_UNITS = 1600, 200
WORDS = ["good", "dull", "long", "a film", "actors", "never", "lovely"]
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def nodes():
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # its sockets need a short path
    cluster = Nodes(folder)
    try:
        cluster.add()
        cluster.add()
        yield cluster
    finally:
        cluster.end()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "in.jsonl"
    texts = [
        " ".join(WORDS[(row * 7 + i * i) % len(WORDS)] for i in range(1 + row % 60))
        for row in range(NUM_ROWS)
    ]
    texts[NUM_ROWS // 2] = ""
    lines = [json.dumps({"id": row, "text": text}) for row, text in enumerate(texts)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def ask(source, toy_run):
    return lambda output: ["predict", "--input", source, "--adapter", toy_run,
                           "--output", f"{output}/"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(nodes, ask, tmp_path_factory):
    """What one process writes, by name."""
    folder = tmp_path_factory.mktemp("one") / "out"
    code, stderr = nodes.run(*ask(folder))
    assert code == 0, stderr
    return contents_of(folder)


def contents_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def parts_in(folder):
    return len(list(folder.glob("part-*"))) if folder.exists() else 0


def wait_for_parts(folder, number, job):
    end = time.monotonic() + 180
    while parts_in(folder) < number:
        assert job.poll() is None and time.monotonic() < end, job.communicate()
        time.sleep(0.01)


def finish(job):
    began = time.monotonic()
    _, stderr = job.communicate(timeout=300)
    assert job.returncode == 0, stderr
    return stderr, time.monotonic() - began


@needs_ray
@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="it looks for Ray's processes as Linux has them"
)
def test_whatever_is_killed_every_row_is_written_once(nodes, ask, whole, tmp_path):
    """After a kill, no job hangs, loses rows or has them twice.

    One test, because nodes take long to start: an actor is killed, then the driver, then a node.
    """
    assert len(whole) == NUM_UNITS + 2  # the rejects of one row, and the manifest
    on_ray = ["--cluster", "ray", "--address", nodes.address]

    job = nodes.start(*ask(tmp_path / "actor"), *on_ray)
    wait_for_parts(tmp_path / "actor", 5, job)
    os.kill(nodes.actors()[0], signal.SIGKILL)
    stderr, seconds = finish(job)
    print(f"actor killed: ended {seconds:.1f} s after it")
    assert stderr.count(" was lost: ") == 1, stderr
    assert contents_of(tmp_path / "actor") == whole

    job = nodes.start(*ask(tmp_path / "driver"), *on_ray)
    wait_for_parts(tmp_path / "driver", 5, job)
    kill_group(job)
    num_done = parts_in(tmp_path / "driver")
    assert num_done < NUM_UNITS
    stderr, seconds = finish(nodes.start(*ask(tmp_path / "driver"), *on_ray))
    print(f"driver killed: the second run took {seconds:.1f} s")
    assert f"{num_done:,} of {NUM_UNITS} units done before" in stderr
    assert contents_of(tmp_path / "driver") == whole

    job = nodes.start(*ask(tmp_path / "node"), *on_ray)
    wait_for_parts(tmp_path / "node", 5, job)
    nodes.kill(nodes.groups[1])
    num_done = parts_in(tmp_path / "node")
    stderr, seconds = finish(job)
    print(f"node killed after {num_done} units: ended {seconds:.1f} s after it")
    assert num_done < NUM_UNITS and " was lost" in stderr
    assert contents_of(tmp_path / "node") == whole

    # One node is left, as the cluster knows after some seconds.
    noticed_by = time.monotonic() + 120
    while True:
        code, stderr = nodes.run(*ask(tmp_path / "many"), *on_ray, "--num-workers", 2)
        if "other jobs hold the Ray cluster" not in stderr or time.monotonic() > noticed_by:
            break
    message = "error: the Ray cluster has room for 1 worker, and 2 need 1 CPU each: it has 1 node"
    assert code == 2 and message in stderr
    began = time.monotonic()
    code, stderr = nodes.run(*ask(tmp_path / "many"), *on_ray, RAY_AUTH_TOKEN="f" * 64)
    assert code == 2 and "error: the Ray cluster does not accept this process" in stderr
    assert time.monotonic() - began < 60
    assert not parts_in(tmp_path / "many")


@needs_ray
def test_an_address_where_nobody_listens_is_refused_at_once(toy_run, tmp_path):
    """Ray tries for ten minutes, and prints a line every five seconds."""
    path = tmp_path / "in.csv"
    path.write_text("text\nGood.\n")
    ask = ["predict", "--input", path, "--adapter", toy_run, "--output", f"{tmp_path}/out/"]
    ask += ["--cluster", "ray", "--address"]
    failed(2, "there is no Ray cluster at '127.0.0.1:9'", *ask, "127.0.0.1:9")
    failed(2, "there is no Ray cluster at 'ray://a:1'", *ask, "ray://a:1")
    assert not (tmp_path / "out").exists()


def test_without_ray_the_remedy_is_an_extra(toy_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    path = tmp_path / "in.csv"
    path.write_text("text\nGood.\n")
    ask = ["predict", "--input", path, "--adapter", toy_run, "--output", f"{tmp_path}/out/"]
    message = "Ray is not installed; install it: pip install 'sentilora[ray]'"
    failed(2, message, *ask, "--cluster", "ray")
