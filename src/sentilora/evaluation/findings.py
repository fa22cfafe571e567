"""What an evaluation can find, as data, and the verdict that follows from it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from sentilora.evaluation.behaviour import Behaviour
from sentilora.evaluation.calibration import Temperature, Threshold
from sentilora.evaluation.label_issues import LabelIssues
from sentilora.evaluation.leakage import Twin
from sentilora.metrics import Comparison, FullMetrics, Group, measure_group
from sentilora.scoring.explain import DeletionTest, Explanation
from sentilora.wording import as_p, counted, signed


@dataclass(frozen=True)
class Calibrated:
    """What a temperature fitted on evaluation rows does to the test rows' probabilities."""

    temperature: Temperature
    num_evaluation: int
    test: FullMetrics


@dataclass(frozen=True)
class Abstention:
    """A threshold chosen on evaluation rows, and what the test rows say of it.

    accuracy: of the answers given, None when there is none.
    """

    threshold: Threshold
    num_covered: int
    accuracy: float | None

    @property
    def reached(self) -> bool:
        return self.threshold.bound >= self.threshold.target_accuracy


@dataclass(frozen=True)
class Leakage:
    """Test rows that stand, or nearly stand, among the rows trained or chosen on.

    without: the adapter's metrics on the other test rows; None when none is left.
    num_evaluation_twins: evaluation rows that stand, or nearly stand, among those trained on;
    num_evaluation_exact of them stand there exactly.
    """

    twins: list[Twin]
    num_exact: int
    num_near: int
    near_looked_for: bool
    without: FullMetrics | None
    num_evaluation_twins: int
    num_evaluation_exact: int


@dataclass(frozen=True)
class Ratings:
    """How often rows are right by what a column of the data rates them. num_without: not rated."""

    column: str
    groups: list[Group]
    num_without: int


@dataclass(frozen=True)
class Explained:
    """Which words moved the surest errors' answers, by row number, and whether that holds.

    rows: with the words that the model saw, none of those cut off. num_errors: all there are.
    deletion: None when no text has two words. seconds: for scoring the texts without some of their
    words, beyond the evaluation's own time.
    """

    rows: dict[int, Explanation]
    num_errors: int
    deletion: DeletionTest | None
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on the test rows.

    adapter is None when a base was evaluated alone. baseline: TF-IDF + logistic regression on the
    adapter's training rows. comparisons: the adapter against "base" and "baseline". missing: what
    could not be measured, and why. ratings: where the data has any. behaviour, label_issues: when
    asked for. explained: of the surest errors, when there is a report to show them in.
    """

    test: str
    num_rows: int
    num_truncated: int
    labels: tuple[str, ...]
    adapter_path: str | None
    base_name: str
    base: FullMetrics
    adapter: FullMetrics | None = None
    baseline: FullMetrics | None = None
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    verdict: str | None = None
    calibrated: Calibrated | None = None
    abstention: Abstention | None = None
    leakage: Leakage | None = None
    ratings: Ratings | None = None
    behaviour: Behaviour | None = None
    label_issues: LabelIssues | None = None
    explained: Explained | None = None
    missing: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """The whole evaluation as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class RowScores:
    """Of every test row: true label number, each model's probabilities, whether it was cut."""

    truth: np.ndarray
    adapter: np.ndarray | None
    base: np.ndarray
    baseline: np.ndarray | None
    truncated: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The probabilities that the evaluation is about: the adapter's, or a base's alone."""
        return self.base if self.adapter is None else self.adapter


def by_rating(
    column: str | None, ratings: Sequence[float | None], right: np.ndarray
) -> Ratings | None:
    """How often rows are right for each rating, from the lowest; None when there are no ratings."""
    if column is None:
        return None
    values = np.array(ratings, dtype=np.float64)  # None becomes NaN
    found = np.unique(values[~np.isnan(values)])
    groups = [measure_group(f"{value:g}", right[values == value]) for value in found]
    return Ratings(column, groups, int(np.isnan(values).sum())) if groups else None


def surest_errors(scores: RowScores) -> np.ndarray:
    """Indices of the rows answered wrongly, those with the surest answers first."""
    errors = np.flatnonzero(scores.best.argmax(-1) != scores.truth)
    return errors[np.argsort(-scores.best.max(-1)[errors], kind="stable")]


def verdict(result: Evaluation) -> str:
    """Whether the language model was worth it, in a sentence."""
    counts = zip(result.labels, result.base.confusion, strict=True)
    absent = [label for label, answers in counts if not sum(answers)]
    if len(absent) >= len(result.labels) - 1:  # one answer for all would be perfect, or all wrong
        return f"No verdict: no test row is {', '.join(absent)}."
    leak = result.leakage
    if leak is not None and len(leak.twins) > result.num_rows / 2:  # TF-IDF was trained on them too
        return (
            f"No verdict: {len(leak.twins):,} of the {counted(result.num_rows, 'test row')} are "
            "duplicates of rows trained or chosen on."
        )
    against = result.comparisons.get("baseline")
    name = "TF-IDF + logistic regression on the same labels"
    if against is None:
        against, name = result.comparisons["base"], "its base without the adapter"
    points = 100 * abs(against.difference)
    low, high = (100 * bound for bound in against.interval)
    rows = f"on these {result.num_rows:,} rows"
    bounds = (-high, -low) if against.clear < 0 else (low, high)  # of what the sentence is about
    interval = " to ".join(map(signed, bounds))
    figures = f"(95 % interval {interval}, exact McNemar {as_p(against.p)})"
    if against.clear > 0:
        return f"It was worth it: {points:.1f} points more are right than with {name} {figures}."
    if against.clear < 0:
        return f"It was not worth it: {name} has {points:.1f} points more {figures}."
    return f"It cannot be told from {name} {rows} {figures}."


def temperature_of(result: Evaluation) -> float | None:
    """What `predict` divides scores by, when it does."""
    if result.calibrated is None or not result.calibrated.temperature.helps:
        return None
    return result.calibrated.temperature.value
