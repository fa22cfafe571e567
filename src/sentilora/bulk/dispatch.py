"""Units handed to workers that may die at any moment: each unit is written once.

    failed = score_on(workers, job, recorded, pending)

Reading and writing happen here, in one process, so that no two workers write one file. A worker has
one unit at a time. A unit goes back when its worker is lost or takes too long, and fails for good
the third time: its rows are in the rejects, and the others go on.
"""

import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sentilora.bulk.answers import predictions_for, usable_items
from sentilora.bulk.manifest import Manifest
from sentilora.bulk.scoring import Job, settle, warn_of_smaller_passes
from sentilora.bulk.units import Unit, rows_of
from sentilora.bulk.worker import Answers
from sentilora.data.columns import items_of
from sentilora.data.text import Item
from sentilora.errors import DataError, SentiloraError, UsageError, first_line
from sentilora.progress import Progress, say, say_once
from sentilora.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa

    from sentilora.scoring.batching import PassSizes

MAX_ATTEMPTS = 3
# A unit is about a minute's work, so ten minutes are ten times as long as it should take.
TIMES_MEDIAN = 10
MIN_DEADLINE_SECONDS = 600.0
FIRST_DEADLINE_SECONDS = 6000.0  # of the first units: no median yet, and the machine may be slow
START_SECONDS = 600.0  # to load the base, which may have to be downloaded
_POLL_SECONDS = 1.0
_NUM_TIMED = 100  # the latest units, whose median counts


class WorkerLost(Exception):
    """A worker has ended or is out of reach."""


class Workers(Protocol):
    """Workers of a cluster. A worker and a call are whatever the cluster names them by.

    num_workers: how many to have at a time.
    """

    num_workers: int

    def start(self) -> tuple[Any, Any]:
        """A new worker, and the call that returns its notices once it has loaded."""

    def computation(self, worker: Any, sizes: "PassSizes | None") -> dict[str, Any]:
        """How a worker computes from here on. Raises `WorkerLost`."""

    def score(self, worker: Any, items: list[Item]) -> Any:
        """The call that returns `Answers`."""

    def wait(self, calls: Sequence[Any], seconds: float) -> Sequence[Any]:
        """The calls that have ended, waiting at most this long for the first."""

    def result(self, call: Any) -> Any:
        """What a call that has ended returned or raised. Raises `WorkerLost` if it was cut off."""

    def stop(self, worker: Any) -> None:
        """End a worker, whatever it does."""


class _Work(NamedTuple):
    """A unit with its rows. items: what the prompt shows of them, or why one is unusable."""

    unit: Unit
    table: "pa.Table"
    items: list[Item | DataError]


@dataclass
class _Running:
    """A call in flight. work: None while the worker loads."""

    worker: Any
    work: _Work | None
    started: float


def score_on(
    workers: Workers, job: Job, recorded: Manifest | None, pending: Sequence[Unit]
) -> Sequence[Unit]:
    """Score units on the workers of a cluster; returns those that failed.

    recorded: the manifest in the folder, None if this job begins it. Raises `SentiloraError` when
    no worker is left, and what a worker raises that cannot load the classifier.
    """
    with Progress("classifying", sum(unit.num_rows for unit in pending)) as progress:
        return _Dispatch(workers, job, recorded, pending, progress).run()


class _Dispatch:
    def __init__(
        self,
        workers: Workers,
        job: Job,
        recorded: Manifest | None,
        pending: Sequence[Unit],
        progress: Progress,
    ) -> None:
        self._workers, self._job, self._recorded = workers, job, recorded
        self._progress = progress
        self._failed: list[Unit] = []
        self._settled: Manifest | None = None  # what all workers compute by
        self._num_left = len(pending)
        self._rows = rows_of(job.stream, pending)
        self._returned: deque[_Work] = deque()
        self._attempts: Counter[Unit] = Counter()
        self._idle: list[Any] = []
        self._running: dict[Any, _Running] = {}
        self._seconds: deque[float] = deque(maxlen=_NUM_TIMED)
        self._num_lost_starts = 0
        self._last_loss = ""

    def run(self) -> list[Unit]:
        """Go on until every unit is done or has failed; returns those that failed."""
        for _ in range(min(self._workers.num_workers, self._num_left)):
            self._start()
        while self._num_left:
            self._hand_out()
            if not self._running:
                raise SentiloraError(
                    f"no worker is left: {self._last_loss}",
                    setting="cluster",
                    remedy="the same command goes on where this one ended",
                )
            for call in self._workers.wait(list(self._running), _POLL_SECONDS):
                self._finish(call)
            for call, running in list(self._running.items()):
                if time.monotonic() - running.started > self._deadline(running):
                    del self._running[call]
                    self._workers.stop(running.worker)
                    self._lose(running, "it took too long", is_late=True)
        return self._failed

    def _deadline(self, running: _Running) -> float:
        if running.work is None:
            return START_SECONDS
        if not self._seconds:
            return FIRST_DEADLINE_SECONDS
        return max(MIN_DEADLINE_SECONDS, TIMES_MEDIAN * median(self._seconds))

    def _start(self) -> None:
        worker, call = self._workers.start()
        self._running[call] = _Running(worker, None, time.monotonic())

    def _hand_out(self) -> None:
        """Give each idle worker a unit, those that came back first."""
        while self._idle:
            work = self._returned.popleft() if self._returned else self._read()
            if work is None:
                return
            worker = self._idle.pop()
            call = self._workers.score(worker, usable_items(work.items))
            self._running[call] = _Running(worker, work, time.monotonic())

    def _read(self) -> _Work | None:
        """The next unit of the input; None at its end."""
        for unit, table in self._rows:
            text, *others = self._job.columns
            return _Work(unit, table, items_of(table, text, others))
        return None

    def _finish(self, call: Any) -> None:
        """Take what a call returned."""
        running = self._running.pop(call)
        worker, work = running.worker, running.work
        try:
            result = self._workers.result(call)
            if work is None:
                self._settle(worker, result)
        except WorkerLost as error:
            self._lose(running, first_line(error))
            return
        except Exception as error:
            if work is None:  # it would be the same on the next attempt
                raise
            self._return(work, f"{type(error).__name__}: {first_line(error)}")
        else:
            if work is None:
                self._num_lost_starts = 0
            else:
                self._seconds.append(time.monotonic() - running.started)
                self._write(work, result)
        self._idle.append(worker)

    def _settle(self, worker: Any, notices: Sequence[str]) -> None:
        """Have a worker compute as recorded, or record how the first one does."""
        for notice in notices:
            say_once(notice)
        compute = partial(self._workers.computation, worker)
        settled = self._settled
        if settled is None:
            self._settled = settle(self._job, self._recorded, compute)
            return
        computation = compute(settled.pass_sizes)
        there = settled.model_copy(update={"computation": computation})
        if names := settled.differences(there):
            key = names[0].removeprefix("computation.")
            raise UsageError(
                f"the workers compute differently: {key} is "
                f"{settled.computation.get(key)!r:.80} for one and "
                f"{computation.get(key)!r:.80} for another",
                setting="cluster",
                seen=key,
                remedy="use machines of one kind, or start a job for each kind with `units`",
            )

    def _write(self, work: _Work, answers: Answers) -> None:
        text = self._job.columns[0]
        if answers.shrank:
            warn_of_smaller_passes(work.unit)
        predictions = predictions_for(work.table, text, work.items, answers.predictions)
        self._job.write(work.unit, work.table, predictions)
        self._end(work.unit)

    def _end(self, unit: Unit) -> None:
        self._num_left -= 1
        self._progress.advance(unit.num_rows)

    def _lose(self, running: _Running, reason: str, is_late: bool = False) -> None:
        """Replace a worker that is lost, and take back its unit."""
        self._last_loss = reason
        work = running.work
        if work is None:
            self._num_lost_starts += 1
            say(f"warning: a worker was lost before it had loaded: {reason}")
        else:
            say(f"warning: the worker of unit {work.unit.name} was lost: {reason}")
        is_hopeless = self._num_lost_starts >= MAX_ATTEMPTS or (work is None and is_late)
        if not is_hopeless:
            self._start()
        if work is not None:
            self._return(work, f"its worker was lost: {reason}")

    def _return(self, work: _Work, reason: str) -> None:
        """Put a unit back, or give it up."""
        self._attempts[work.unit] += 1
        if self._attempts[work.unit] < MAX_ATTEMPTS:
            self._returned.append(work)
            return
        reason = f"not scored in {counted(MAX_ATTEMPTS, 'attempt')}; the last: {reason}"
        say(f"warning: unit {work.unit.name} failed: {reason}")
        self._job.results.reject(work.unit, reason)
        self._failed.append(work.unit)
        self._end(work.unit)
