"""A server's life: what it refuses at the start, overload, a killed model process, SIGTERM."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
from commands import failed
from servers import Server, altered, running

from sentilora.errors import UsageError
from sentilora.serving.security import is_loopback, require_key
from sentilora.serving.server import listening_socket
from sentilora.stages import serve as stage

TEXT = {"input": "A lovely film."}
LONG = {"input": ["Dull and long. " * 100] * 32}


@pytest.mark.parametrize(
    ("host", "is_local"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.9.9.9", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_another_address_needs_a_key(host, is_local):
    """vLLM #23052: it listens on 0.0.0.0 without a key."""
    assert is_loopback(host) == is_local
    if is_local:
        require_key(host, None, None)
    else:
        with pytest.raises(UsageError, match="no API key"):
            require_key(host, None, None)
    require_key(host, "geheim", None)


@pytest.mark.parametrize("key", ["", " ", "schlüssel"])
def test_a_key_that_is_none_is_refused(key):
    with pytest.raises(UsageError, match="empty or not ASCII"):
        require_key("127.0.0.1", key, None)


def test_what_cannot_be_served_is_refused_at_once(tmp_path):
    failed(2, "there is no API key", "serve", "--host", "0.0.0.0")
    failed(3, "no adapter folder", "serve", "--adapter", tmp_path / "none")
    failed(2, "twice", "serve", "--adapter", "a=x", "--adapter", "a=y")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed(2, "cannot listen", "serve", "--port", port)


def test_connections_send_small_answers_at_once():
    """Without TCP_NODELAY an answer of 30 ms took 75: it waited for a delayed acknowledgment."""
    with listening_socket("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname()):
        connection, _ = sock.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(stage, "PACKAGES", ("orjson", "no_such_package"))
    with pytest.raises(UsageError, match=r"no_such_package; pip install 'sentilora\[serve\]'"):
        stage.serve()


def test_an_adapter_that_the_model_process_refuses_ends_the_server(calibrated_adapter, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(calibrated_adapter, folder)
    record = folder / "classifier.json"
    record.write_text(record.read_text("utf-8").replace("82", "83", 1), "utf-8")
    command = [sys.executable, "-m", "sentilora", "serve", "--port", "0", "--adapter", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "trained with label tokens" in done.stderr and "Traceback" not in done.stderr


def test_an_adapter_that_does_not_answer_as_trained_ends_the_server(calibrated_adapter, tmp_path):
    folder = altered(calibrated_adapter, tmp_path / "tampered")
    command = [sys.executable, "-m", "sentilora", "serve", "--port", "0", "--adapter", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr  # as `predict` does
    assert "does not answer as it was trained" in done.stderr and "Traceback" not in done.stderr
    assert "ready after" not in done.stderr


def test_a_killed_model_process_is_503_until_it_is_back(calibrated_adapter, tmp_path):
    folder = tmp_path / "films"
    shutil.copytree(calibrated_adapter, folder)
    with running(tmp_path, "--adapter", folder) as server:
        before = server.post("/v1/classify", {**TEXT, "deterministic": True}).json()["data"]
        os.kill(server.model_pid(), signal.SIGKILL)
        statuses, end = set(), time.monotonic() + 90
        while time.monotonic() < end:
            response = server.post("/v1/classify", {**TEXT, "deterministic": True})
            statuses.add(response.status_code)
            if response.status_code == 200 and 503 in statuses:
                break
            if response.status_code == 503:
                assert response.headers["retry-after"]
            assert server.client.get("/livez").status_code == 200
            time.sleep(0.1)
        assert statuses == {200, 503} or statuses == {503, 200}
        assert response.json()["data"] == before
        assert "sentilora_model_restarts 1.0" in server.client.get("/metrics").text
        # the same without the adapter's folder, until it is back
        aside = folder.rename(tmp_path / "aside")
        os.kill(server.model_pid(), signal.SIGKILL)
        server.wait_for("did not start: there is no adapter folder")
        for path in ("/v1/classify", "/classify"):
            response = server.post(path, TEXT)
            assert response.status_code == 503 and response.headers["retry-after"]
        assert server.client.get("/readyz").status_code == 503
        assert server.client.get("/livez").status_code == 200
        assert server.client.get("/v1/models").status_code == 200
        aside.rename(folder)
        end = time.monotonic() + 90
        while server.client.get("/readyz").status_code == 503 and time.monotonic() < end:
            time.sleep(0.2)
        response = server.post("/v1/classify", {**TEXT, "deterministic": True})
        assert response.json()["data"] == before


def in_threads(server, number, ask):
    """The results of `ask(client)` in as many threads at once."""
    results = []

    def run():
        with httpx.Client(base_url=server.url, timeout=90) as client:
            results.append(ask(client))

    threads = [threading.Thread(target=run) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads, results


def test_overload_is_refused_slowly_and_sigterm_loses_nothing(calibrated_adapter, tmp_path):
    server = Server(tmp_path, "--adapter", calibrated_adapter, "--max-wait", "1")
    try:
        server.wait_until_ready()
        answers = []

        def insist(client):
            end = time.monotonic() + 6
            while time.monotonic() < end:
                response = client.post("/v1/classify", json=LONG)
                answers.append((response.status_code, response.elapsed.total_seconds()))

        threads, _ = in_threads(server, 16, insist)
        for thread in threads:
            thread.join()
        assert {status for status, _ in answers} == {200, 429}
        assert min(seconds for status, seconds in answers if status == 429) >= 0.2
        # SIGTERM, with requests that have begun
        threads, results = in_threads(
            server, 8, lambda client: client.post("/v1/classify", json=TEXT).status_code
        )
        end = time.monotonic() + 5
        while len(results) < 1 and time.monotonic() < end:
            time.sleep(0.005)
        assert server.stop() == 0
        for thread in threads:
            thread.join()
        assert results and set(results) <= {200, 503}
        log = server.log.read_text()
        assert "SIGTERM: finishing" in log and "Traceback" not in log
        assert json.dumps(TEXT["input"]) not in log
    finally:
        server.process.kill()
