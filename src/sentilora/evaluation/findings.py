"""What an evaluation finds, as data, and the verdict that follows from it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from sentilora.evaluation.behaviour import Behaviour
from sentilora.evaluation.calibration import Temperature, Threshold
from sentilora.evaluation.differences import Differences
from sentilora.evaluation.label_figures import LabelFigures, Majority
from sentilora.evaluation.label_issues import LabelIssues
from sentilora.evaluation.label_sets import LabelSets
from sentilora.evaluation.leakage import Leakage
from sentilora.evaluation.ordered import OrderedFigures
from sentilora.evaluation.survivors import Survivors
from sentilora.metrics import Comparison, FullMetrics, Group, measure_group
from sentilora.scoring.explain import DeletionTest, Explanation
from sentilora.wording import alternatives, as_p, counted, percent, signed


@dataclass(frozen=True)
class TemperatureScaling:
    """A temperature fitted on the evaluation rows, and the test rows' metrics at it.

    num_evaluation: number of evaluation rows it was fitted on.
    """

    temperature: Temperature
    num_evaluation: int
    test: FullMetrics


@dataclass(frozen=True)
class Abstention:
    """A threshold chosen on the evaluation rows, applied to the test rows.

    num_covered: test rows that are answered. accuracy: of those answers; None when there are none.
    """

    threshold: Threshold
    num_covered: int
    accuracy: float | None

    @property
    def is_reached(self) -> bool:
        """Whether some threshold reaches the target accuracy on the evaluation rows."""
        return self.threshold.bound >= self.threshold.target_accuracy


@dataclass(frozen=True)
class Ratings:
    """Accuracy by the ratings in a column of the data. num_without: rows without a rating."""

    column: str
    groups: list[Group]
    num_without: int


@dataclass(frozen=True)
class ErrorExplanations:
    """Explanations of the surest errors, and a deletion test of whether to rely on them.

    rows: explanation by row number, with the words that the model saw. num_errors: of all test
    rows. deletion: None when no text has two words. seconds: for scoring the texts without some of
    their words, on top of the evaluation's own time.
    """

    rows: dict[int, Explanation]
    num_errors: int
    deletion: DeletionTest | None
    seconds: float


@dataclass(frozen=True)
class Requirement:
    """A requirement such as "accuracy>=0.9", and whether the figure meets it.

    value: of the figure; None if it has none here. finding: the value in words.
    """

    bound: str
    value: float | None
    is_met: bool
    finding: str


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on the test rows.

    adapter: metrics; None when a base was evaluated alone. baseline: TF-IDF + logistic regression
    on the adapter's training rows. comparisons: the adapter against "base" and "baseline".
    differences: of log-loss, Brier score and calibration error, against the same two. survivors:
    wrong answers at each confidence. label_sets: empty for two labels, and without evaluation rows.
    ordered: by model; empty unless the labels are in an order. required: empty unless requested.
    calibrated, abstention: what the evaluation rows say about temperature and threshold. ratings:
    None when the data has none. behaviour, label_issues: None unless requested. explained: of the
    surest errors; None without a report to show them in. majority: always giving the most frequent
    label. per_label: of the adapter, or of a base alone, in the order of `labels`. warning: that
    nearly all answers are the same; None when they are not. next_steps: what to do next, in
    sentences. missing: notes on what could not be measured, and why. left_out: the most of a text's
    probability, over all texts, in labels that were not scored because they cannot matter.
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
    differences: dict[str, Differences] = field(default_factory=dict)
    verdict: str | None = None
    calibrated: TemperatureScaling | None = None
    abstention: Abstention | None = None
    survivors: list[Survivors] = field(default_factory=list)
    label_sets: list[LabelSets] = field(default_factory=list)
    ordered: dict[str, OrderedFigures] = field(default_factory=dict)
    leakage: Leakage | None = None
    ratings: Ratings | None = None
    behaviour: Behaviour | None = None
    label_issues: LabelIssues | None = None
    explained: ErrorExplanations | None = None
    majority: Majority | None = None
    per_label: list[LabelFigures] = field(default_factory=list)
    warning: str | None = None
    next_steps: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    left_out: float = 0.0
    required: list[Requirement] = field(default_factory=list)

    def to_json(self) -> str:
        """The whole evaluation as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class RowScores:
    """Label numbers, each model's probabilities (rows, labels), and which texts were truncated.

    adapter, baseline: None where there is no such model. left_out: as in `Evaluation`.
    """

    truth: np.ndarray
    adapter: np.ndarray | None
    base: np.ndarray
    baseline: np.ndarray | None
    truncated: np.ndarray
    left_out: float = 0.0

    @property
    def best(self) -> np.ndarray:
        """Probabilities of the model under evaluation: the adapter, or a base alone."""
        return self.base if self.adapter is None else self.adapter

    @property
    def correct(self) -> np.ndarray:
        """Whether the model under evaluation answers each row correctly: bool (rows,)."""
        return np.asarray(self.best.argmax(-1) == self.truth)


def by_rating(
    column: str | None, ratings: Sequence[float | None], correct: np.ndarray
) -> Ratings | None:
    """Accuracy for each rating, from the lowest; None when there are no ratings."""
    if column is None:
        return None
    values = np.array(ratings, dtype=np.float64)  # None becomes NaN
    distinct = np.unique(values[~np.isnan(values)])
    groups = [measure_group(f"{value:g}", correct[values == value]) for value in distinct]
    return Ratings(column, groups, int(np.isnan(values).sum())) if groups else None


def surest_errors(scores: RowScores) -> np.ndarray:
    """Indices of the rows with a wrong answer, the surest answers first."""
    errors = np.flatnonzero(~scores.correct)
    return errors[np.argsort(-scores.best.max(-1)[errors], kind="stable")]


def obstacle_to_verdict(
    labels: Sequence[str], base: FullMetrics, leakage: Leakage | None
) -> str | None:
    """Why comparisons on these test rows say nothing; None when they do. base: see `verdict`."""
    counts = zip(labels, base.confusion, strict=True)
    absent = [label for label, answers in counts if not sum(answers)]
    if len(absent) >= len(labels) - 1:  # one answer for all would be perfect, or all wrong
        return f"no test row is labeled {alternatives(absent)}"
    num_twins = 0 if leakage is None else len(leakage.twins)
    if num_twins > base.num_rows / 2:  # TF-IDF was trained on them too
        return (
            f"{num_twins:,} of the {counted(base.num_rows, 'test row')} are duplicates of rows "
            "that the adapter was trained or selected on"
        )
    return None


def verdict(
    labels: Sequence[str],
    base: FullMetrics,
    comparisons: Mapping[str, Comparison],
    leakage: Leakage | None,
) -> str:
    """Whether the language model was worth it, in a sentence.

    The exact McNemar test decides. More sentences explain an interval that disagrees, and say
    where the base is as good without its adapter. base: metrics on the test rows; its confusion
    matrix has their true labels.
    """
    if obstacle := obstacle_to_verdict(labels, base, leakage):
        return f"No verdict: {obstacle}."
    against = comparisons.get("baseline")
    name = "TF-IDF + logistic regression on the same labels"
    if against is None:
        against, name = comparisons["base"], "its base without the adapter"
    points = 100 * abs(against.difference)
    low, high = (100 * bound for bound in against.interval)
    rows = f"on these {base.num_rows:,} rows"
    bounds = (-high, -low) if against.clear < 0 else (low, high)  # of what the sentence is about
    interval = " to ".join(map(signed, bounds))
    figures = f"(95 % interval {interval}, exact McNemar {as_p(against.p)})"
    if against.clear > 0:
        answer = f"It was worth it: {points:.1f} points more accurate than {name} {figures}."
    elif against.clear < 0:
        answer = f"It was not worth it: {name} is {points:.1f} points more accurate {figures}."
    else:
        answer = f"No difference from {name} can be shown {rows} {figures}."
    sentences = [answer, against.disagreement]
    if against.clear > 0 and (without := comparisons.get("base")) is not None:
        sentences.append(_as_good_without(without, base))
    return " ".join(filter(None, sentences))


def _as_good_without(against: Comparison, base: FullMetrics) -> str:
    """A sentence about a base that is as accurate without the adapter; empty if it is not."""
    if against.clear > 0:
        return ""
    figures = f"({percent(base.accuracy)}, exact McNemar {as_p(against.p)})"
    if against.clear < 0:
        return f"But its base is more accurate without the adapter {figures}."
    return f"But no difference from its base without the adapter can be shown {figures}."


def temperature_of(result: Evaluation) -> float | None:
    """The temperature that `predict` divides scores by; None when it does not."""
    if result.calibrated is None or not result.calibrated.temperature.helps:
        return None
    return result.calibrated.temperature.value
