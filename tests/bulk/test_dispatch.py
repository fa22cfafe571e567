"""Units on a cluster whose workers fail as told: returned, given up, written once.

The cluster is a stand-in within this process; its workers are the real ones. `test_ray` has Ray's.
"""

import itertools
import json
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from commands import failed, predicted, run

from sentilora.bulk import dispatch, units
from sentilora.bulk import worker as worker_module
from sentilora.bulk.dispatch import WorkerLost
from sentilora.bulk.worker import Worker
from sentilora.errors import DataError
from sentilora.stages import predict_cluster

TEXTS = [f"Film {number} is {word}." for number, word in enumerate(["good", "bad", "long"] * 9)]


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setitem(units.ROWS_PER_UNIT, "cpu", 8)


class Cluster:
    """Two workers in this process. fate(worker, texts, attempt): raises what befalls a call."""

    def __init__(self, clock):
        self.clock, self.num_workers = clock, 2
        self.fate = lambda worker, texts, attempt: None
        self.attempts, self.calls, self.stopped, self.started = Counter(), {}, [], 0
        self.numbers = itertools.count()
        self.hangs = lambda worker, texts: False
        self.at_start = lambda worker: None

    def device(self, device):
        return "cpu"

    def workers(self, assignment, num_workers):
        self.assignment = assignment
        self.num_workers = num_workers or self.num_workers
        return self

    def start(self):
        self.started += 1
        worker = SimpleNamespace(number=self.started, real=Worker(self.assignment))
        self.calls[f"load {self.started}"] = (worker, None)
        return worker, f"load {self.started}"

    def computation(self, worker, sizes):
        return worker.real.computation(sizes)

    def score(self, worker, items):
        assert worker.number not in self.stopped
        in_flight = [other for other, texts in self.calls.values() if texts is not None]
        assert worker not in in_flight  # one unit at a time
        call = f"score {next(self.numbers)}"
        self.calls[call] = (worker, items)
        return call

    def wait(self, calls, seconds):
        assert set(calls) <= set(self.calls)
        ended = [call for call in calls if not self._hangs(call)]
        self.clock.now += 5 if ended else seconds
        return ended[:1]

    def _hangs(self, call):
        worker, texts = self.calls[call]
        return texts is not None and self.hangs(worker.number, texts)

    def result(self, call):
        worker, texts = self.calls.pop(call)
        if texts is None:
            self.at_start(worker.number)
            return worker.real.load()
        self.attempts[tuple(texts)] += 1
        self.fate(worker.number, texts, self.attempts[tuple(texts)])
        return worker.real.score(texts)

    def stop(self, worker):
        self.stopped.append(worker.number)
        self.calls = {c: pair for c, pair in self.calls.items() if pair[0] is not worker}


@pytest.fixture
def cluster(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(dispatch, "time", clock)
    fake = Cluster(clock)

    @contextmanager
    def connected(address):
        yield fake

    monkeypatch.setattr(predict_cluster, "ray_cluster", connected)
    return fake


@pytest.fixture
def ask(toy_run, tmp_path):
    """Arguments that classify 27 rows, three without a text, into a folder or a file."""
    texts = list(TEXTS)
    for row in (3, 8, 26):
        texts[row] = ""
    path = tmp_path / "in.jsonl"
    rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--input", path, "--adapter", toy_run, "--output"]
    return lambda output, *more: [*arguments, f"{tmp_path}/{output}", *more]


def contents_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_cluster_writes_what_one_process_writes(cluster, ask, tmp_path):
    predicted(*ask("one/"))
    _, stderr = predicted(*ask("many/", "--cluster", "ray", "--num-workers", "3"))
    assert contents_of(tmp_path / "many") == contents_of(tmp_path / "one")
    assert cluster.started == 3 and "24 rows written to" in stderr
    predicted(*ask("many.csv", "--cluster", "ray"))
    predicted(*ask("one.csv"))
    assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def test_the_unit_of_a_lost_worker_goes_to_another(cluster, ask, tmp_path):
    def fate(worker, texts, attempt):
        if worker == 1:
            raise WorkerLost("its node died")

    cluster.fate = fate
    _, stderr = predicted(*ask("many/", "--cluster", "ray"))
    assert stderr.count("the worker of unit 0000") == 1 and "was lost: its node died" in stderr
    assert cluster.started == 3 and sorted(cluster.attempts.values()) == [1, 1, 1, 2]
    predicted(*ask("one/"))
    assert contents_of(tmp_path / "many") == contents_of(tmp_path / "one")


def test_a_unit_past_its_deadline_is_taken_from_its_worker(cluster, ask, tmp_path):
    """A GPU that fell off the bus hangs, and never says so."""
    cluster.hangs = lambda worker, texts: worker == 1 and cluster.attempts.total() >= 1
    _, stderr = predicted(*ask("many/", "--cluster", "ray"))
    assert cluster.stopped == [1] and "was lost: it took too long" in stderr
    assert dispatch.MIN_DEADLINE_SECONDS < cluster.clock.now < 2 * dispatch.MIN_DEADLINE_SECONDS
    predicted(*ask("one/"))
    assert contents_of(tmp_path / "many") == contents_of(tmp_path / "one")


def test_the_deadline_is_ten_times_the_median_of_slow_units(cluster, ask, monkeypatch):
    monkeypatch.setattr(dispatch, "MIN_DEADLINE_SECONDS", 1.0)
    cluster.hangs = lambda worker, texts: worker == 1 and cluster.attempts.total() >= 2
    predicted(*ask("many/", "--cluster", "ray"))
    assert cluster.stopped == [1]
    assert 50 <= cluster.clock.now <= 300  # a unit takes 5 to 20 s here


@pytest.mark.parametrize("output", ["many/", "many.csv"])
def test_a_unit_that_fails_three_times_is_in_the_rejects_and_the_job_fails(
    cluster, ask, tmp_path, output
):
    def fate(worker, texts, attempt):
        if "Film 9 is bad." in str(texts) or "Film 9" in str(texts):
            raise ValueError("a poisonous row\nand more")

    cluster.fate = fate
    request = ask(output, "--cluster", "ray")
    code, stdout, stderr = run("predict", *request)
    last = stderr.splitlines()[-1]
    assert (code, stdout) == (1, "")
    assert last == "error: 1 unit failed: 00001-of-00004; the same command tries again"
    assert "not scored in 3 attempts; the last: ValueError: a poisonous row" in stderr
    assert max(cluster.attempts.values()) == 3 and sorted(cluster.attempts.values()) == [1, 1, 1, 3]
    folder = tmp_path / ("many" if output == "many/" else ".many.csv.units")
    rejects = [
        json.loads(line)["row"]
        for path in sorted(folder.glob("rejects-*"))
        for line in path.read_text().splitlines()
    ]
    assert rejects == [3, *range(8, 16), 26]
    assert len(list(folder.glob("part-*"))) == 3 and not (tmp_path / "many.csv").exists()
    cluster.fate = lambda *_: None
    predicted(*request)
    predicted(*ask(output.replace("many", "one")))
    if output == "many/":
        assert contents_of(tmp_path / "many") == contents_of(tmp_path / "one")
    else:
        assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()


def test_when_no_worker_starts_the_job_says_so(cluster, ask):
    def lost(worker):
        raise WorkerLost("no module named sentilora")

    cluster.at_start = lost
    code, _, stderr = run("predict", *ask("many/", "--cluster", "ray"))
    assert code == 1 and "error: no worker is left: no module named sentilora" in stderr
    assert cluster.started <= 5


def test_a_worker_that_cannot_load_ends_the_job(cluster, ask):
    def fault(worker):
        raise DataError("on node-2: there is no adapter folder 'x'", remedy="bring it there")

    cluster.at_start = fault
    message = "on node-2: there is no adapter folder 'x'; bring it there"
    failed(3, message, "predict", *ask("many/", "--cluster", "ray"))


def test_a_worker_with_another_adapter_is_refused(cluster, ask, monkeypatch):
    record = worker_module.adapter_record
    other = {"weights_sha256": "0" * 64}
    monkeypatch.setattr(worker_module, "adapter_record", lambda *args: record(*args) | other)
    message = "the adapter is another one than where the job was started: weights_sha256 is '0000"
    assert "error: on " in failed(3, message, "predict", *ask("many/", "--cluster", "ray"))


def test_workers_that_compute_differently_are_refused(cluster, ask):
    """One GPU of another kind changes the last digits of every unit that it scores."""

    def computation(worker, sizes):
        return worker.real.computation(sizes) | {"device": f"GPU {worker.number}"}

    cluster.computation = computation
    message = "the workers compute differently: device is 'GPU 1' for one and 'GPU 2' for another"
    failed(2, message, "predict", *ask("many/", "--cluster", "ray"))


def test_keywords_of_a_cluster_need_one(ask):
    failed(2, "there is no --cluster 'slurm'", "predict", *ask("x/", "--cluster", "slurm"))
    failed(2, "--num-workers works only with --cluster", "predict", *ask("x/", "--num-workers", 2))
    failed(2, "--address works only with --cluster", "predict", *ask("x/", "--address", "a:1"))
    failed(2, "works only with --input and --output", "predict", "a", "--cluster", "ray")
