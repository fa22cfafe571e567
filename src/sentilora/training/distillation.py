"""Distillation in figures: what a student is taught, and how it does beside its teacher.

    targets = targets_of(probabilities, truth, temperature=1.4, weight=0.5)

The teacher's probabilities p become p^(1/T), normalized. Where a row has a true label, `weight` of
its target is that label, and the rest is the teacher's (Hinton et al. 2015, Distilling the
Knowledge in a Neural Network).
"""

from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from sentilora.folders.records import STRICT, Record
from sentilora.metrics import FullMetrics
from sentilora.scoring.answers import at_temperature
from sentilora.wording import as_p, counted, percent, percent_interval

UNKNOWN = -1  # as the number of a label: the row has no true one
LOWEST = 1e-9  # of a probability, so that its logarithm is finite
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class Contender:
    """A classifier on the test rows, and what it costs.

    weight_bytes: of its base and its adapter, as they are loaded. p: of the exact McNemar test that
    it is as accurate as the student; None for the student.
    """

    num_right: Count
    accuracy: Share
    accuracy_interval: tuple[Share, Share]
    log_loss: Annotated[float, Field(ge=0)]
    expected_calibration_error: Share
    rows_per_second: Positive
    weight_bytes: Count
    p: Share | None = None

    @classmethod
    def of(cls, metrics: FullMetrics, rows_per_second: float, weight_bytes: int) -> "Contender":
        """The contender with these metrics."""
        return cls(
            num_right=round(metrics.accuracy * metrics.num_rows),
            accuracy=metrics.accuracy,
            accuracy_interval=metrics.accuracy_interval,
            log_loss=metrics.log_loss,
            expected_calibration_error=metrics.expected_calibration_error,
            rows_per_second=rows_per_second,
            weight_bytes=weight_bytes,
        )


class Mixture(Record):
    """How a teacher's probabilities and true labels become targets, with the reason for each."""

    FILE: ClassVar[str] = "mixture.json"
    REMEDY: ClassVar[str] = "remove it, and they are chosen again"

    temperature: Positive
    weight: Share
    reasons: dict[str, str]


class Distillation(Record):
    """How a student was distilled, and how it does. A distillation with this file is finished.

    texts: file that the teacher scored. teacher_sha256: of its adapter's weights. temperature: of
    its probabilities. weight: of true labels in the rows that have one. num_texts: that train;
    num_labeled: of them, with a true label. are_true: whether the test rows' labels are true ones;
    else the teacher's answers. agreement: share of the test rows to which student and teacher give
    the same answer. alone: the same student trained on the true labels only; None with too few of
    them. chosen: each automatic value's reason.
    """

    FILE: ClassVar[str] = "distillation.json"
    REMEDY: ClassVar[str] = "remove the file and finish the distillation with `resume`"

    output_dir: str
    texts: str
    teacher_name: str
    teacher_sha256: str
    temperature: Positive
    weight: Share
    num_texts: Count
    num_labeled: Count
    num_test: Annotated[int, Field(ge=1)]
    are_true: bool
    agreement: Share
    student: Contender
    teacher: Contender
    alone: Contender | None
    chosen: dict[str, str]

    def as_table(self) -> str:
        """Student, teacher and recipe alone, a line each, ready to print."""
        rows = {"student": self.student, "teacher": self.teacher, "recipe alone": self.alone}
        truth = "" if self.are_true else ", labeled by the teacher"
        lines = [
            f"on {counted(self.num_test, 'test row')}{truth}:",
            f"{'':<14}{'accuracy':<26}{'log-loss':<10}{'ECE':<8}{'rows/s':>9}{'MB':>9}",
        ]
        for name, row in rows.items():
            if row is None:
                continue
            accuracy = f"{percent(row.accuracy)} ({percent_interval(row.accuracy_interval)})"
            test = "" if row.p is None else f"   {as_p(row.p)}"
            lines.append(
                f"{name:<14}{accuracy:<26}{row.log_loss:<10.4f}"
                f"{row.expected_calibration_error:<8.3f}{row.rows_per_second:>9,.1f}"
                f"{row.weight_bytes / 1e6:>9,.1f}{test}"
            )
        lines.append(f"student and teacher agree on {percent(self.agreement)}")
        return "\n".join(lines)

    def for_card(self) -> str:
        """The section of the student's model card."""
        share = (
            f", with weight {self.weight:g} for the true label in the {self.num_labeled:,} "
            "that have one"
            if self.num_labeled
            else ""
        )
        return (
            f"## Distilled\n\nTaught by `{self.teacher_name}` (SHA-256 of its adapter's weights: "
            f"`{self.teacher_sha256}`): the targets of {counted(self.num_texts, 'text')} are its "
            f"probabilities at temperature {self.temperature:g}{share}.\n\n```text\n"
            f"{self.as_table()}\n```\n"
        )


def targets_of(
    probabilities: np.ndarray, truth: np.ndarray, temperature: float, weight: float
) -> np.ndarray:
    """The targets (rows, labels) of a student.

    probabilities: the teacher's. truth: the number of each row's true label, or `UNKNOWN`.
    """
    targets = at_temperature(log_of(probabilities), temperature)
    labeled = np.flatnonzero(truth != UNKNOWN)
    targets[labeled] *= 1 - weight
    targets[labeled, truth[labeled]] += weight
    return targets


def log_of(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, all of them finite."""
    return np.log(np.asarray(probabilities, dtype=np.float64).clip(LOWEST))
