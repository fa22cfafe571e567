"""What an evaluation found, for a reader: a table, a verdict, what follows for the use."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from sentilora.behaviour import Behaviour, as_lines
from sentilora.calibration import Temperature, Threshold
from sentilora.explain import DeletionTest, Explanation
from sentilora.label_issues import LabelIssues
from sentilora.label_issues import as_lines as issue_lines
from sentilora.leakage import Twin
from sentilora.metrics import Comparison, FullMetrics, Group, measure_group
from sentilora.wording import as_p, as_probability, counted, percent, percent_interval, signed


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


def as_table(result: Evaluation) -> str:
    """A line per model, what follows from them, and the confusion matrix."""
    lines = [
        f"{counted(result.num_rows, 'row')} of {result.test}, {result.num_truncated:,} truncated",
        "",
        f"{'':<10}{'accuracy':>10}  {'95 % Wilson':<18}{'macro-F1':>9}{'log-loss':>10}{'Brier':>8}"
        f"{'ROC-AUC':>9}{'ECE':>8}",
    ]
    named = {"adapter": result.adapter, "base": result.base, "TF-IDF": result.baseline}
    for name, metrics in named.items():
        if metrics is not None:
            auc = "–" if metrics.roc_auc is None else f"{metrics.roc_auc:.4f}"
            lines.append(
                f"{name:<10}{percent(metrics.accuracy, 2):>10}  "
                f"{percent_interval(metrics.accuracy_interval, 2):<18}"
                f"{metrics.macro_f1:>9.4f}{metrics.log_loss:>10.4f}{metrics.brier:>8.4f}{auc:>9}"
                f"{metrics.expected_calibration_error:>8.4f}"
            )
    if result.comparisons:
        lines.append("")
    for name, found in result.comparisons.items():
        low, high = found.interval
        against = {"base": "base", "baseline": "TF-IDF"}[name]
        lines.append(
            f"adapter against {against}: {signed(100 * found.difference, 2)} points (95 % "
            f"{signed(100 * low, 2)} to {signed(100 * high, 2)}), exact McNemar: {as_p(found.p)}"
        )
    lines += [part for part in (result.verdict, *_calibration_lines(result)) if part]
    lines += [f"note: {reason}" for reason in result.missing]
    best = result.adapter or result.base
    width = max(12, *(len(label) + 2 for label in result.labels))
    lines += [
        "",
        "true \\ predicted".ljust(width + 4) + "".join(f"{x:>{width}}" for x in result.labels),
    ]
    for label, counts in zip(result.labels, best.confusion, strict=True):
        lines.append(f"{label:<{width + 4}}" + "".join(f"{count:>{width},}" for count in counts))
    if result.ratings is not None:
        lines += ["", *_rating_lines(result.ratings)]
    if result.label_issues is not None:
        lines += ["", *issue_lines(result.label_issues)]
    if result.behaviour is not None:
        lines += ["", *as_lines(result.behaviour, result.labels)]
    if result.explained is not None:
        lines += ["", *_explained_lines(result.explained)]
    return "\n".join(lines)


def _rating_lines(ratings: Ratings) -> list[str]:
    width = max(len(ratings.column) + 3, *(len(group.name) + 2 for group in ratings.groups))
    lines = [f"{f'by {ratings.column}':<{width}}{'rows':>8}{'right':>10}  95 % Wilson"]
    for group in ratings.groups:
        lines.append(
            f"{group.name:<{width}}{group.num_rows:>8,}{percent(group.accuracy, 2):>10}  "
            f"{percent_interval(group.interval, 2)}"
        )
    if ratings.num_without:
        lines.append(f"rows without {ratings.column}: {ratings.num_without:,}")
    return lines


def temperature_of(result: Evaluation) -> float | None:
    """What `predict` divides scores by, when it does."""
    if result.calibrated is None or not result.calibrated.temperature.helps:
        return None
    return result.calibrated.temperature.value


def _what_it_does(found: Temperature) -> str:
    if found.caution is not None:
        return "is not used"
    return "helps" if found.helps else "does not help"


def _explained_lines(found: Explained) -> list[str]:
    if not found.rows:
        return ["no error to explain"]
    lines = [
        f"explained the {len(found.rows):,} surest of {counted(found.num_errors, 'error')} in "
        f"{found.seconds:.1f} s, beyond the evaluation; which words moved them is in the report"
    ]
    if found.deletion is not None:
        lines.append(found.deletion.sentence)
    return lines


def _calibration_lines(result: Evaluation) -> list[str]:
    lines = []
    if result.calibrated is not None and result.adapter is not None:
        found, after = result.calibrated.temperature, result.calibrated.test
        lines.append(
            f"temperature {found.value:.3f}, fitted on {result.calibrated.num_evaluation:,} "
            f"evaluation rows, {_what_it_does(found)} there (5 folds: "
            f"log-loss {found.log_loss_before:.4f} → {found.log_loss_after:.4f}); on the test rows "
            f"log-loss {result.adapter.log_loss:.4f} → {after.log_loss:.4f}, ECE "
            f"{result.adapter.expected_calibration_error:.4f} → "
            f"{after.expected_calibration_error:.4f}"
        )
        if found.caution is not None:
            lines.append(found.caution)
    if result.abstention is not None:
        found_t, temperature = result.abstention.threshold, temperature_of(result)
        share = result.abstention.num_covered / result.num_rows
        if result.abstention.reached:
            accuracy = result.abstention.accuracy
            which = "answers of any confidence"
            if found_t.confidence:
                which = f"answers of at least {as_probability(found_t.confidence)}"
                if temperature is not None:
                    which += f" at temperature {temperature:.3f}, as predict has them,"
            lines.append(
                f"{which} are {percent(found_t.target_accuracy)} accurate (95 % bound "
                f"{percent(found_t.bound, 2)}, for this threshold alone, on "
                f"{found_t.num_covered:,} of {found_t.num_rows:,} evaluation rows); on the "
                f"test rows {percent(share)} are answered, "
                f"{'none' if accuracy is None else percent(accuracy, 2)} of them right"
            )
        else:
            lines.append(
                f"no threshold makes {percent(found_t.target_accuracy)} certain: the highest bound "
                f"is {percent(found_t.bound, 2)}, for the {found_t.num_covered:,} surest of "
                f"{found_t.num_rows:,} evaluation rows; no threshold was stored"
            )
    if result.leakage is not None:
        leak = result.leakage
        near = (
            f"{leak.num_near:,} near"
            if leak.near_looked_for
            else "near ones not looked for (--near-duplicates does)"
        )
        text = f"duplicates of rows trained or chosen on: {leak.num_exact:,} exact, {near}"
        if leak.twins and leak.without is not None:
            text += f"; accuracy without them {percent(leak.without.accuracy, 2)}"
        if leak.num_evaluation_twins:
            text += (
                "; evaluation rows that are duplicates of training rows: "
                f"{leak.num_evaluation_exact:,} exact"
            )
            if leak.near_looked_for:
                text += f", {leak.num_evaluation_twins - leak.num_evaluation_exact:,} near"
        lines.append(text)
    return lines
