"""Where `predict_file` scores its units: in this process, or on the workers of a cluster."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from sentilora.bulk.dispatch import score_on
from sentilora.bulk.manifest import Manifest
from sentilora.bulk.ray_cluster import RayCluster, ray_cluster
from sentilora.bulk.scoring import Job, Score, score_here
from sentilora.bulk.units import Unit
from sentilora.bulk.worker import Assignment
from sentilora.errors import UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.models.device import choose_device
from sentilora.scoring.classifier import Classifier

CLUSTERS = ("ray",)


class Place(NamedTuple):
    """Where units are scored. device: "cuda" or "cpu", which decides how many rows a unit has."""

    device: str
    score: Score


@contextmanager
def place_to_score(
    adapter: AdapterFolder,
    keywords: dict[str, Any],
    cluster: str | None,
    address: str | None,
    num_workers: int | None,
) -> Iterator[Place]:
    """A place that can be used within a `with` block. keywords: of `Classifier.load`.

    Raises `UsageError` for a cluster that does not exist or cannot be used.
    """
    device = keywords.get("device")
    if cluster is None:
        load = partial(Classifier.load, adapter, **keywords)
        yield Place(choose_device(device or "auto"), partial(score_here, load))
        return
    with ray_cluster(address) as ray:
        device = ray.device(device)
        base = keywords.get("base")
        if base is not None and os.path.exists(base):  # workers start in other folders
            base = os.path.abspath(base)
        keywords = {**keywords, "base": base, "device": device}
        yield Place(device, partial(_score_on_ray, ray, adapter, keywords, num_workers))


def require_cluster(cluster: str | None, address: str | None, num_workers: int | None) -> None:
    """Raise `UsageError` for keywords of a cluster that exclude or require each other."""
    if cluster is not None and cluster not in CLUSTERS:
        raise UsageError(
            f"there is no `cluster` {cluster!r:.60}",
            setting="cluster",
            seen=cluster,
            remedy=f"choose {' or '.join(CLUSTERS)}; docs/guide/cluster.md has recipes for others",
        )
    for name, value in (("address", address), ("num_workers", num_workers)):
        if value is not None and cluster is None:
            raise UsageError(
                f"`{name}` works only with `cluster`",
                setting=name,
                seen=value,
                remedy="leave it out, or add `cluster`",
            )


def _score_on_ray(
    ray: RayCluster,
    adapter: AdapterFolder,
    keywords: dict[str, Any],
    num_workers: int | None,
    job: Job,
    recorded: Manifest | None,
    pending: Sequence[Unit],
) -> Sequence[Unit]:
    threads = None if keywords["device"] == "cuda" else _num_threads(recorded)
    assignment = Assignment(
        adapter.path.absolute(), job.manifest.adapter, job.manifest.versions, threads, keywords
    )
    return score_on(ray.workers(assignment, num_workers), job, recorded, pending)


def _num_threads(recorded: Manifest | None) -> int:
    """Threads of a worker on a CPU: as the units were begun, or OMP_NUM_THREADS, or one."""
    if recorded is not None and recorded.computation.get("threads"):
        return int(recorded.computation["threads"])
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdecimal() and int(threads) else 1
