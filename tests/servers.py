"""A server in a process of its own, and one without a model whose routes answer at once."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.models.bases import load_tokenizer
from sentilora.serving.answering import Answering, Limits
from sentilora.serving.app import create_app, gated
from sentilora.serving.metrics import Metrics
from sentilora.serving.queue import PassQueue
from sentilora.serving.routing import Services
from sentilora.serving.security import Keys
from sentilora.serving.served import Registry
from sentilora.serving.worker import Unavailable


class Server:
    """A server in a process. url: where it listens. log: file of its stderr."""

    def __init__(self, folder, *arguments, **environment):
        self.log = Path(folder) / "stderr.txt"
        command = [sys.executable, "-m", "sentilora", "serve", "--port", "0", "--device", "cpu"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *map(str, arguments)],
                stderr=log,
                stdout=log,
                env={**os.environ, **environment},
            )
        self.url = self.wait_for(r"listening on (http://\S+),")[1]
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def wait_for(self, pattern, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if match := re.search(pattern, self.log.read_text()):
                return match
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"no {pattern} within {seconds} s: {self.log.read_text()}")

    def wait_until_ready(self):
        self.wait_for("ready after")
        return self

    def post(self, path, content, **options):
        return self.client.post(path, json=content, **options)

    def model_pid(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(children.read_text().split()[0])

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        finally:
            self.process.kill()
            self.client.close()
        return code


@contextmanager
def running(folder, *arguments, **environment):
    server = Server(folder, *arguments, **environment)
    try:
        yield server.wait_until_ready()
    finally:
        server.stop()


def altered(source, folder):
    """A copy of an adapter with weights four times as strong, and the probes of its training."""
    shutil.copytree(source, folder)
    weights = folder / "adapter_model.safetensors"
    tensors = {k: v * 4 if "lora_B" in k else v for k, v in load_file(weights).items()}
    save_file(tensors, weights, {"format": "pt"})
    return folder


class FakeWorker:
    """A worker whose scores follow from the prompts' lengths. What it is told to fail, fails."""

    def __init__(self):
        self.queue = PassQueue(4096)
        self.state, self.computed_on, self.num_restarts = "ready", "nothing", 0
        self.failure = None
        self.groups = []

    def submit(self, entries):
        if self.state != "ready":
            raise Unavailable
        for entry in entries:
            group = dict(entry.group)
            self.groups.append((group, entry.alone))
            n = len(group.get("label_ids", (0, 0)))
            if self.failure is not None:
                entry.future.set_exception(self.failure)
            else:
                rest = np.log(np.full(n - 1, 0.3 / (n - 1)))
                entry.future.set_result([np.log(0.6), *rest])


class Fake:
    """The application in this process, without a model."""

    def __init__(
        self, folder, *, api_key=None, admin_key=None, max_body=100_000, page="no-page", **options
    ):
        registry = Registry(load_tokenizer("embedded"), "embedded")
        registry.put(registry.read("films", AdapterFolder.open(folder)))
        self.worker = FakeWorker()
        self.metrics = Metrics()
        self.answering = Answering(self.worker, Limits(max_texts=8), self.metrics.observe_answer)
        self.services = Services(registry, self.answering, self.metrics, **options)
        self.app = create_app(self.services, Path(page))
        self.gate = gated(self.app, self.services, Keys(api_key, admin_key), max_body)
        self.client = TestClient(self.gate, base_url="http://localhost")

    def post(self, path, content=None, **options):
        return self.client.post(path, json=content, **options)
