"""What a worker of a cluster does: loads the classifier, checks that it is the right one, answers.

A worker gets texts and returns answers. It reads no input and writes no file, so that losing it
loses nothing but the unit in its hands.
"""

from contextlib import redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any, NamedTuple

from sentilora.bulk.manifest import adapter_record, computation_of, versions
from sentilora.data.text import Item
from sentilora.errors import DataError, SentiloraError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.models.device import spin_briefly
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier, format_of

if TYPE_CHECKING:
    from sentilora.scoring.batching import PassSizes


@dataclass(frozen=True)
class Assignment:
    """What a worker loads, and what that must be.

    adapter: its folder on every node. record: what `adapter_record` says of it where the job was
    started; versions: those of the packages there. threads: to compute with on a CPU. keywords:
    of `Classifier.load`.
    """

    adapter: Path
    record: dict[str, Any]
    versions: dict[str, str]
    threads: int | None
    keywords: dict[str, Any] = field(default_factory=dict)


class Answers(NamedTuple):
    """The answers to the texts of a unit, and whether memory ran out on the way to them."""

    predictions: list[Prediction]
    shrank: bool


class Worker:
    """Scores units, one call after the other, in a process of its own."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment

    def load(self) -> list[str]:
        """Load the classifier and check it, its probes included; returns the notices printed.

        Raises `DataError` for an adapter or packages other than where the job was started, and what
        `Classifier.load` raises. The message names the machine.
        """
        spin_briefly()
        notices = StringIO()
        try:
            with redirect_stderr(notices):
                self._load()
        except SentiloraError as error:
            raise type(error)(
                f"on {gethostname()}: {error.problem}",
                setting=error.setting,
                seen=error.seen,
                remedy=error.remedy,
            ) from error
        return notices.getvalue().splitlines()

    def _load(self) -> None:
        import torch

        task = self._assignment
        folder = AdapterFolder.open(task.adapter)
        labels, template = task.keywords.get("labels"), task.keywords.get("template")
        options = task.keywords.get("quantization"), task.keywords.get("label_sets")
        record = adapter_record(folder, format_of(folder, labels, template), *options)
        for name, there, here in (
            ("the adapter", task.record, record),
            ("a package", task.versions, versions()),
        ):
            for key in there:
                if there[key] != here[key]:
                    raise DataError(
                        f"{name} is another one than where the job was started: {key} is "
                        f"{here[key]!r:.80} instead of {there[key]!r:.80}",
                        setting="adapter",
                        seen=here[key],
                        remedy="give every machine the same adapter and the same packages",
                    )
        if task.threads is not None:
            torch.set_num_threads(task.threads)
        self._classifier = Classifier.load(folder, **task.keywords)

    def computation(self, sizes: "PassSizes | None") -> dict[str, Any]:
        """How the classifier computes from here on. sizes: of its passes; None plans them."""
        return computation_of(self._classifier, sizes)

    def score(self, items: list[Item]) -> Answers:
        """The answers to texts or records, all of them usable."""
        with redirect_stderr(StringIO()):
            predictions = self._classifier.classify(items)
        return Answers(predictions, self._classifier.scorer.restore_passes())
