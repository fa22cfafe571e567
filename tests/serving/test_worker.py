"""The model's process: its scores are the classifier's, and it is started again when it dies."""

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from servers import altered

from sentilora import Classifier, embedded_base, shipped_adapter
from sentilora.errors import DataError, UsageError
from sentilora.scoring.answers import at_temperature
from sentilora.serving.queue import Entry
from sentilora.serving.worker import Unavailable, Worker

TEXTS = ["A lovely film.", "Dull and long. " * 40, "One more 🎬", "No.", "Fine acting. " * 90]
OPTIONS = {"device": "cpu"}


@pytest.fixture(scope="module")
def classifier():
    return Classifier.load(device="cpu")


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory):
    """An adapter on the same base that answers otherwise, and has no probes."""
    folder = altered(shipped_adapter(), tmp_path_factory.mktemp("other") / "adapter")
    (folder / "probes.json").unlink()
    return str(folder)


def with_worker(adapters, action, options=OPTIONS):
    """The result of `action(worker)` on a worker that is started before and stopped after it."""

    async def run():
        worker = Worker(options)
        try:
            await worker.start(adapters)
            return await action(worker)
        finally:
            await worker.stop()

    return asyncio.run(run())


@pytest.fixture(scope="module")
def shared():
    """(worker, function that runs a coroutine on its loop, the number of texts of each pass).

    It serves the shipped adapter as a1.
    """
    sizes = []
    with asyncio.Runner() as runner:
        worker = Worker(OPTIONS, on_pass=lambda texts, *_: sizes.append(texts))
        try:
            runner.run(worker.start([("a1", shipped_adapter())]))
            yield worker, runner.run, sizes
        finally:
            runner.run(worker.stop())


async def scores_of(worker, texts, classifier, alone=False, **group):
    loop = asyncio.get_running_loop()
    entries = [
        Entry(
            classifier.prompter.encode(text).input_ids,
            tuple(group.items()),
            loop.create_future(),
            float("inf"),
            alone=alone,
        )
        for text in texts
    ]
    worker.submit(entries)
    return at_temperature(np.array(await asyncio.gather(*(e.future for e in entries))), 1.0)


def test_scores_are_those_of_the_classifier_alone_to_the_bit(classifier, other_folder, shared):
    worker, run, _ = shared

    async def check():
        assert worker.state == "ready" and "cpu, float32" in worker.computed_on
        together = await scores_of(worker, TEXTS, classifier, key="a1")
        alone = await scores_of(worker, TEXTS, classifier, alone=True, key="a1")
        labels = [tuple(ids) for ids in classifier.prompter.label_ids]
        base = await scores_of(worker, TEXTS, classifier, key=None, label_ids=tuple(labels))
        again = await scores_of(worker, TEXTS, classifier, alone=True, key="a1")
        await worker.add("a2", other_folder)
        other = await scores_of(worker, TEXTS, classifier, alone=True, key="a2")
        first = await scores_of(worker, TEXTS, classifier, alone=True, key="a1")
        await worker.drop("a1")
        last = await scores_of(worker, TEXTS, classifier, alone=True, key="a2")
        with pytest.raises(DataError, match="no adapter folder"):
            await worker.add("a3", "no-such-folder")
        await worker.add("a1", shipped_adapter())
        await worker.drop("a2")
        return together, alone, base, again, other, first, last

    together, alone, base, again, other, first, last = run(check())
    expected = np.concatenate([classifier.predict_proba([text]) for text in TEXTS])
    np.testing.assert_allclose(together, expected, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(alone, expected)
    np.testing.assert_array_equal(again, expected)
    np.testing.assert_array_equal(first, expected)
    with classifier.adapter_disabled():
        np.testing.assert_allclose(base, classifier.predict_proba(TEXTS), atol=1e-5, rtol=0)
    by_itself = Classifier.load(other_folder, device="cpu")
    expected = np.concatenate([by_itself.predict_proba([text]) for text in TEXTS])
    np.testing.assert_array_equal(other, expected)
    np.testing.assert_array_equal(last, expected)
    assert abs(other - alone).max() > 0.01


def test_an_adapter_that_does_not_answer_as_trained_is_refused(classifier, shared, tmp_path, capfd):
    """vLLM #47026, #51594, #55193: served answers are not those of the trained adapter.

    test_lifecycle.py has a server whose only adapter is such a one.
    """
    worker, run, _ = shared
    tampered = str(altered(shipped_adapter(), tmp_path / "tampered"))

    async def check():
        before = await scores_of(worker, TEXTS, classifier, alone=True, key="a1")
        with pytest.raises(DataError, match="does not answer as it was trained"):
            await worker.add("a2", tampered)
        again = await scores_of(worker, TEXTS, classifier, alone=True, key="a1")
        np.testing.assert_array_equal(before, again)
        await worker.add("a2", shipped_adapter())  # the key is free
        second = await scores_of(worker, TEXTS, classifier, alone=True, key="a2")
        np.testing.assert_array_equal(before, second)
        await worker.drop("a2")

    run(check())
    with pytest.raises(DataError, match="does not answer as it was trained"):
        with_worker([("a1", shipped_adapter()), ("a2", tampered)], None)
    assert "probes.json" not in capfd.readouterr().err


def test_a_base_in_place_of_the_named_one_holds_for_every_adapter(other_folder, capfd):
    """The second adapter was refused as one of another base."""

    async def check(worker):
        assert worker.state == "ready"
        await worker.add("a2", shipped_adapter())
        await worker.add("a3", other_folder)

    options = {**OPTIONS, "base": str(embedded_base())}
    with_worker([("a1", other_folder), ("a0", shipped_adapter())], check, options)
    # Those that have no probes are served with a warning, at the start and later.
    assert capfd.readouterr().err.count("has no probes.json") == 2


def copies_of(pid):
    """The copies of a model process."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid):
    """Whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forks copies")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a single core needs no copies")
def test_passes_side_by_side_have_the_scores_of_one_and_copies_come_and_go_with_it(
    classifier, other_folder, monkeypatch
):
    """When one of them is killed, all are started again. test_lifecycle.py has a lone process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    many = [f"{text} {number}" for number in range(12) for text in TEXTS]

    async def check(worker):
        copies = copies_of(worker.pid)
        assert len(copies) == worker.queue.num_side_by_side == 2
        scores = await scores_of(worker, many, classifier, key="a1")
        np.testing.assert_allclose(scores, classifier.predict_proba(many), atol=1e-5, rtol=0)
        await worker.add("a2", other_folder)  # copies that know it take their place
        assert not any(map(is_running, copies))
        other = await scores_of(worker, many, classifier, key="a2")
        assert abs(other - scores).max() > 0.01
        before = await scores_of(worker, TEXTS[:1], classifier, alone=True, key="a1")
        for num_restarts, number in enumerate((-1, 0), 1):  # a copy, then the process
            pid = worker.pid
            everybody = [pid, *copies_of(pid)]
            os.kill(everybody[number], signal.SIGKILL)
            with pytest.raises(Unavailable):
                while True:  # the first ones may still reach the dead pipe
                    await scores_of(worker, many, classifier, key="a1")
            async with asyncio.timeout(60):
                while worker.state != "ready" or any(map(is_running, everybody)):
                    await asyncio.sleep(0.05)
            assert worker.pid != pid and worker.num_restarts == num_restarts
            again = await scores_of(worker, many, classifier, key="a1")
            np.testing.assert_allclose(again, scores, atol=1e-5, rtol=0)
            after = await scores_of(worker, TEXTS[:1], classifier, alone=True, key="a1")
            np.testing.assert_array_equal(before, after)
        return [worker.pid, *copies_of(worker.pid)]

    everybody = with_worker([("a1", shipped_adapter())], check)
    assert not any(map(is_running, everybody))


def test_clients_that_are_gone_cost_no_pass_and_later_ones_are_served(classifier, shared):
    """ray #41057, #42593: cancelled requests hang the batcher."""
    worker, run, sizes = shared

    async def check():
        async def leave():
            await scores_of(worker, TEXTS, classifier, key="a1")

        leaving = [asyncio.create_task(leave()) for _ in range(100)]
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await scores_of(worker, TEXTS[:1], classifier, key="a1")

    sizes.clear()
    run(check())
    assert sum(sizes) < 110  # of 501; a few passes were under way


def test_an_adapter_of_other_label_tokens_is_refused(shared, tmp_path):
    """test_lifecycle.py has one that a server begins with, reported as by the classifier."""
    worker, run, _ = shared
    folder = tmp_path / "adapter"
    shutil.copytree(shipped_adapter(), folder)
    record = folder / "classifier.json"
    record.write_text(record.read_text("utf-8").replace("82", "83", 1), "utf-8")
    with pytest.raises(UsageError, match="was trained with other label tokens"):
        run(worker.add("a2", str(folder)))
