"""Workers as actors of a Ray cluster, the one that runs or one of this machine alone.

    with ray_cluster("10.0.0.1:6379") as cluster:
        workers = cluster.workers(assignment, num_workers=8)

Ray waits without a word for CPUs that nobody frees and for an address where nobody answers; both
are looked at before it is asked. An actor is never restarted by Ray: `dispatch` starts another.
"""

import logging
import os
import platform
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sentilora.bulk.dispatch import START_SECONDS, WorkerLost
from sentilora.bulk.worker import Assignment, Worker
from sentilora.data.text import Item
from sentilora.errors import SentiloraError, UsageError, first_line
from sentilora.wording import counted

if TYPE_CHECKING:
    from sentilora.scoring.batching import PassSizes

_CONNECT_SECONDS = 10.0
_FREE_SECONDS = 30.0  # Ray frees what a killed job held within seconds


@contextmanager
def ray_cluster(address: str | None) -> "Iterator[RayCluster]":
    """A connection to a Ray cluster within a `with` block; actors end with it.

    address: "host:port"; None for RAY_ADDRESS, or the cluster that this machine belongs to, or one
    that is started here and ends with the block.

    Raises `UsageError` if Ray is not installed, or the cluster is out of reach or refuses.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "Ray is not installed",
            setting="cluster",
            seen="ray",
            remedy="install it: pip install 'sentilora[ray]'",
        ) from error
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address not in (None, "auto", "local"):
        _require_listener(address)
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "3")  # else 20 refusals of a token
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False)
    except (ray.exceptions.RayError, ConnectionError, RuntimeError, ValueError) as error:
        ray.shutdown()
        raise UsageError(
            f"the Ray cluster does not accept this process: {first_line(error)}",
            setting="address",
            seen=address,
            remedy="set RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token or "
            f"RAY_AUTH_TOKEN, and use its versions of Ray and Python (here {ray.__version__} and "
            f"{platform.python_version()})",
        ) from error
    try:
        yield RayCluster()
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise `UsageError` unless somebody listens at "host:port"."""
    host, _, port = address.rpartition(":")
    try:
        if not port.isdecimal() or "/" in host:
            raise ValueError("it is no host:port")
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS):
            return
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"there is no Ray cluster at {address!r:.80}: {first_line(error)}",
            setting="address",
            seen=address,
            remedy="name host:port of `ray start --head`, which prints it, from a machine of the "
            "cluster",
        ) from error


class RayCluster:
    """The cluster that this process is connected to."""

    def __init__(self) -> None:
        import ray

        self._ray = ray

    def device(self, device: str | None) -> str:
        """The device of its workers, "cuda" or "cpu". device: the user's wish."""
        has_gpus = self._ray.cluster_resources().get("GPU", 0) >= 1
        return "cuda" if device == "cuda" or (device != "cpu" and has_gpus) else "cpu"

    def workers(self, assignment: Assignment, num_workers: int | None) -> "RayWorkers":
        """Workers on its nodes. num_workers: None for as many as there is room for.

        A worker takes a CPU for each of its threads; on a GPU, that GPU and one CPU.

        Raises `UsageError` if there is no room for them, now or at all.
        """
        threads = assignment.threads
        needs = {"CPU": 1.0, "GPU": 1.0} if threads is None else {"CPU": float(threads)}
        each = " and ".join(counted(int(amount), kind) for kind, amount in needs.items())
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = sum(
            min(int(node.get(kind, 0) // amount) for kind, amount in needs.items())
            for node in nodes
        )
        number = num_workers or room
        if not 1 <= number <= room:
            wish = "one needs" if num_workers is None else f"{number} need"
            raise UsageError(
                f"the Ray cluster has room for {counted(room, 'worker')}, and {wish} {each}"
                f"{' each' if num_workers else ''}: it has {counted(len(nodes), 'node')} with "
                f"{', '.join(_listed(node, needs) for node in nodes)}",
                setting="num_workers",
                seen=num_workers,
                remedy="lower `num_workers` or OMP_NUM_THREADS, or add nodes",
            )
        self._wait_for({kind: number * amount for kind, amount in needs.items()}, number)
        actor = self._ray.remote(max_restarts=0, max_task_retries=0)(Worker)
        options = {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0)}
        return RayWorkers(number, self._ray, actor.options(**options), assignment)

    def _wait_for(self, needs: dict[str, float], num_workers: int) -> None:
        """Return once resources are free; another job, just killed, may hold them for a while."""
        end = time.monotonic() + _FREE_SECONDS
        while True:
            free = self._ray.available_resources()
            lacking = [kind for kind, amount in needs.items() if free.get(kind, 0) < amount]
            if not lacking:
                return
            if time.monotonic() > end:
                break
            time.sleep(0.5)
        kind = lacking[0]
        raise UsageError(
            f"other jobs hold the Ray cluster: {counted(num_workers, 'worker')} need "
            f"{needs[kind]:g} {kind}s, and {free.get(kind, 0):g} are free",
            setting="num_workers",
            seen=num_workers,
            remedy="lower `num_workers`, or wait until they end",
        )


def _listed(node: dict[str, float], kinds: dict[str, float]) -> str:
    return " and ".join(counted(int(node.get(kind, 0)), kind) for kind in kinds)


@dataclass
class RayWorkers:
    """Actors that score; see `dispatch.Workers`."""

    num_workers: int
    _ray: Any
    _actor: Any
    _assignment: Assignment

    def start(self) -> tuple[Any, Any]:
        """A new actor, and the call that returns its notices once it has loaded."""
        worker = self._actor.remote(self._assignment)
        return worker, worker.load.remote()

    def computation(self, worker: Any, sizes: "PassSizes | None") -> dict[str, Any]:
        """How an actor computes from here on."""
        call = worker.computation.remote(sizes)
        if not self.wait([call], START_SECONDS):
            raise WorkerLost("it does not answer")
        computation: dict[str, Any] = self.result(call)
        return computation

    def score(self, worker: Any, items: list[Item]) -> Any:
        """The call that returns `Answers`."""
        return worker.score.remote(items)

    def wait(self, calls: Sequence[Any], seconds: float) -> Sequence[Any]:
        """The calls that have ended, waiting at most this long for the first."""
        done: list[Any] = self._ray.wait(list(calls), timeout=seconds)[0]
        return done

    def result(self, call: Any) -> Any:
        """What a call that has ended returned or raised."""
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(call)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None
            raise SentiloraError(first_line(error)) from error
        except exceptions.RayError as error:
            raise WorkerLost(first_line(error)) from error

    def stop(self, worker: Any) -> None:
        """End an actor, whatever it does."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(worker)
