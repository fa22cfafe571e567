"""What `evaluate` measures with a loaded classifier, part by part.

measurement = measure_rows(classifier, rows, adapter_path, known)
measurement.as_evaluation().verdict
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from sentilora.data.label_order import values_of
from sentilora.data.rows import Rows
from sentilora.data.text import Item, whole_text
from sentilora.evaluation.advice import next_steps
from sentilora.evaluation.behaviour import Behaviour, judge
from sentilora.evaluation.calibration import MIN_ROWS, choose_temperature, choose_threshold
from sentilora.evaluation.differences import Differences, differences
from sentilora.evaluation.findings import (
    Abstention,
    ErrorExplanations,
    Evaluation,
    RowScores,
    TemperatureScaling,
    by_rating,
    surest_errors,
    verdict,
)
from sentilora.evaluation.label_figures import (
    Majority,
    majority_of,
    one_answer_warning,
    per_label,
)
from sentilora.evaluation.label_issues import LabelIssues, look_for_label_issues
from sentilora.evaluation.label_sets import (
    MIN_LABELS,
    TARGETS,
    LabelSets,
    least_probability,
    measure_sets,
)
from sentilora.evaluation.leakage import Leakage, look_for_leakage
from sentilora.evaluation.ordered import OrderedFigures, measure_ordered
from sentilora.evaluation.suite import Suite
from sentilora.evaluation.survivors import survivors
from sentilora.metrics import (
    Comparison,
    FullMetrics,
    compare,
    measure_fully,
    tfidf_baseline,
)
from sentilora.progress import Progress, say
from sentilora.scoring.answers import at_temperature, with_temperature
from sentilora.scoring.classifier import Classifier
from sentilora.scoring.explain import deletion_test, explain_each
from sentilora.wording import counted, quoted

MAX_EXPLAINED = 50  # errors, in a report: half a minute to two and a half on two CPU cores


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities of the labels, (rows, labels), and which texts were truncated.

    adapter: None for a base without one. left_out: as in `Evaluation`.
    """

    adapter: np.ndarray | None
    base: np.ndarray
    truncated: np.ndarray
    left_out: float


@dataclass(frozen=True)
class Measurement:
    """What scoring the test rows yields; `as_evaluation` puts the figures together.

    scaling, abstention, leakage: None for a base, and when the adapter's training rows are
    unavailable; then label_sets is empty too. values: of labels in an order, else none. notes: what
    else could not be measured, and why.
    """

    rows: Rows
    labels: tuple[str, ...]
    adapter_path: str | None
    base_name: str
    scores: RowScores
    majority: Majority
    values: Sequence[float] = ()
    scaling: TemperatureScaling | None = None
    abstention: Abstention | None = None
    label_sets: Sequence[LabelSets] = ()
    leakage: Leakage | None = None
    notes: Sequence[str] = ()

    def as_evaluation(
        self,
        notes: Sequence[str] = (),
        label_issues: LabelIssues | str | None = None,
        behaviour: Behaviour | None = None,
    ) -> Evaluation:
        """The evaluation. notes: to put before its own. label_issues: or why there are none."""
        rows, scores = self.rows, self.scores
        notes = [*notes, *self.notes]
        if isinstance(label_issues, str):
            notes, label_issues = [*notes, f"no label issues: {label_issues}"], None
        base = measure_fully(scores.base, scores.truth)
        adapter = _metrics(scores.adapter, scores.truth)
        comparisons = _comparisons(scores)
        figures = per_label(self.labels, (adapter or base).confusion)
        divisor = 1.0 if self.scaling is None else self.scaling.temperature.divisor
        result = Evaluation(
            test=rows.source,
            num_rows=len(rows),
            num_truncated=int(scores.truncated.sum()),
            labels=self.labels,
            adapter_path=self.adapter_path,
            base_name=self.base_name,
            base=base,
            adapter=adapter,
            baseline=_metrics(scores.baseline, scores.truth),
            comparisons=comparisons,
            differences=_differences(scores),
            verdict=verdict(self.labels, base, comparisons, self.leakage) if comparisons else None,
            calibrated=self.scaling,
            abstention=self.abstention,
            survivors=survivors(with_temperature(scores.best, divisor), scores.truth),
            label_sets=list(self.label_sets),
            ordered=_ordered(scores, self.values),
            leakage=self.leakage,
            ratings=by_rating(rows.rating_column, rows.ratings, scores.correct),
            behaviour=behaviour,
            label_issues=label_issues,
            majority=self.majority,
            per_label=figures,
            warning=one_answer_warning(figures, adapter is not None),
            missing=notes,
            left_out=scores.left_out,
        )
        return replace(result, next_steps=next_steps(result))


def _metrics(probabilities: np.ndarray | None, truth: np.ndarray) -> FullMetrics | None:
    return None if probabilities is None else measure_fully(probabilities, truth)


def _comparisons(scores: RowScores) -> dict[str, Comparison]:
    """The adapter against its base and against the baseline, where it has one."""
    correct = scores.correct.tolist()
    return {
        name: compare(correct, other.argmax(-1) == scores.truth)
        for name, other in _others(scores).items()
    }


def _differences(scores: RowScores) -> dict[str, Differences]:
    """The same comparisons, of the probabilities."""
    return {
        name: differences(scores.best, other, scores.truth)
        for name, other in _others(scores).items()
    }


def _others(scores: RowScores) -> dict[str, np.ndarray]:
    """Probabilities of the models that the adapter is compared with; none for a base alone."""
    others = {"base": scores.base, "baseline": scores.baseline}
    if scores.adapter is None:
        return {}
    return {name: other for name, other in others.items() if other is not None}


def _ordered(scores: RowScores, values: Sequence[float]) -> dict[str, OrderedFigures]:
    """Figures of labels in an order, by model. values: of the labels; none if there is no order."""
    models = {"adapter": scores.adapter, "base": scores.base, "baseline": scores.baseline}
    return {
        name: measure_ordered(probabilities, scores.truth, values)
        for name, probabilities in models.items()
        if values and probabilities is not None
    }


# --- scoring -------------------------------------------------------------------------------------


def measure_rows(
    classifier: Classifier,
    rows: Rows,
    adapter_path: str | None = None,
    known: tuple[Rows, Rows] | None = None,
    target_accuracy: float | None = None,
    near_duplicates: bool = False,
    is_ordered: bool = False,
) -> Measurement:
    """Score rows with the adapter, its base and the baseline; fit temperature and threshold.

    adapter_path: None for a base without adapter. known: the adapter's training and evaluation
    rows; None when they are unavailable. target_accuracy, near_duplicates: as in `evaluate`.
    is_ordered: whether the labels are in an order.
    """
    labels = classifier.labels
    values = values_of(labels) if is_ordered else ()
    truth = numbers_of(rows, labels)
    log_probs = score_texts(classifier, rows.inputs, "scoring", adapter_path is not None)
    scores = RowScores(
        truth=truth,
        adapter=None if log_probs.adapter is None else at_temperature(log_probs.adapter, 1.0),
        base=at_temperature(log_probs.base, 1.0),
        baseline=None if known is None else _baseline(known[0], rows, labels),
        truncated=log_probs.truncated,
        left_out=log_probs.left_out,
    )
    majority = majority_of(labels, truth, None if known is None else numbers_of(known[0], labels))
    measurement = partial(
        Measurement, rows, labels, adapter_path, classifier.reference.name, scores, majority, values
    )
    if log_probs.adapter is None or known is None:
        return measurement()
    scaling, abstention, label_sets, notes = calibrate(
        classifier, known[1], rows, log_probs.adapter, target_accuracy
    )
    leakage = look_for_leakage(rows, known, scores.best, truth, near_duplicates)
    return measurement(scaling, abstention, label_sets, leakage, notes)


def numbers_of(rows: Rows, labels: Sequence[str]) -> np.ndarray:
    """The rows' labels as numbers."""
    numbers = {label: number for number, label in enumerate(labels)}
    return np.array([numbers[label] for label in rows.labels])


def score_texts(
    classifier: Classifier, texts: Sequence[Item], description: str, has_adapter: bool
) -> LogProbs:
    """Scores of texts, with the adapter and with it switched off where there is one."""
    with Progress(description, len(texts) * (1 + has_adapter)) as progress:
        pieces = list(classifier.score(texts, progress.advance, with_base=has_adapter))
    log_probs = np.concatenate([piece.log_probs for piece in pieces])
    truncated = np.concatenate([piece.truncated for piece in pieces])
    left_out = max((float(piece.left_out.max()) for piece in pieces), default=0.0)
    if not has_adapter:
        return LogProbs(None, log_probs, truncated, left_out)
    of_base = [piece.base_log_probs for piece in pieces if piece.base_log_probs is not None]
    return LogProbs(log_probs, np.concatenate(of_base), truncated, left_out)


def _baseline(train: Rows, rows: Rows, labels: Sequence[str]) -> np.ndarray:
    """Probabilities (rows, labels) of TF-IDF + logistic regression on the training rows."""
    known, new = ([whole_text(item) for item in part.inputs] for part in (train, rows))
    return tfidf_baseline(known, numbers_of(train, labels), new, len(labels))


def calibrate(
    classifier: Classifier,
    evaluation: Rows,
    rows: Rows,
    log_probs: np.ndarray,
    target_accuracy: float | None,
) -> tuple[TemperatureScaling | None, Abstention | None, list[LabelSets], list[str]]:
    """Temperature, threshold and label sets from the evaluation rows, applied to the test rows.

    rows, log_probs: the test rows. The last list gives the reasons for what is absent.
    """
    if reason := _obstacle_to_calibration(evaluation, rows, target_accuracy):
        return None, None, [], [reason]
    eval_truth = numbers_of(evaluation, classifier.labels)
    with Progress("scoring evaluation rows", len(evaluation)) as progress:
        pieces = classifier.score(evaluation.inputs, progress.advance)
        eval_log_probs = np.concatenate([piece.log_probs for piece in pieces])
    truth = numbers_of(rows, classifier.labels)
    shares = np.array(evaluation.shares) if evaluation.shares else eval_truth
    temperature = choose_temperature(eval_log_probs, shares)
    metrics = measure_fully(at_temperature(log_probs, temperature.value), truth)
    scaling = TemperatureScaling(temperature, len(evaluation), metrics)
    given = at_temperature(eval_log_probs, temperature.divisor)
    probabilities = at_temperature(log_probs, temperature.divisor)
    label_sets = []
    if len(classifier.labels) >= MIN_LABELS:
        at_least = [(target, least_probability(given, eval_truth, target)) for target in TARGETS]
        label_sets = measure_sets(at_least, probabilities, truth, len(evaluation))
    if target_accuracy is None:
        return scaling, None, label_sets, []
    threshold = choose_threshold(given, eval_truth, target_accuracy)
    is_covered = probabilities.max(-1) >= threshold.confidence
    correct = probabilities.argmax(-1) == truth
    accuracy = float(correct[is_covered].mean()) if is_covered.any() else None
    return scaling, Abstention(threshold, int(is_covered.sum()), accuracy), label_sets, []


def _obstacle_to_calibration(
    evaluation: Rows, rows: Rows, target_accuracy: float | None
) -> str | None:
    num_shared = len(set(evaluation.hashes()).intersection(rows.hashes()))
    num_rows = counted(len(evaluation), "evaluation row")
    if num_shared > len(evaluation) / 2:
        return f"no calibration: {num_shared:,} of the {num_rows} are also test rows"
    if len(evaluation) < MIN_ROWS:
        return (
            f"no calibration{' and no threshold' if target_accuracy else ''}: {num_rows}, at least "
            f"{MIN_ROWS} are needed; raise data.num_evaluation"
        )
    return None


# --- on request ----------------------------------------------------------------------------------


def label_issues_of(measurement: Measurement) -> LabelIssues | str:
    """Probable label errors of the test rows, or why none can be listed."""
    seen: set[int] | None = None
    if measurement.leakage is not None:
        seen = {twin.number for twin in measurement.leakage.twins}
    elif measurement.adapter_path is None:
        seen = set()  # a base was trained on none of our rows
    scores = measurement.scores
    return look_for_label_issues(
        scores.best, scores.truth, measurement.labels, measurement.rows, seen
    )


def run_suite(classifier: Classifier, suite: Suite, has_adapter: bool) -> Behaviour:
    """Pass rates of a suite's tests: of the adapter and its base, or of a base alone."""
    started = time.perf_counter()
    scores = score_texts(classifier, suite.texts, "behavior suite", has_adapter)
    seconds = time.perf_counter() - started
    if num := int(scores.truncated.sum()):
        say(
            f"warning: {counted(num, 'text')} of the suite {quoted(suite.source)} truncated to fit "
            "prompt.max_length, perhaps where it matters; shorten them"
        )
    models = [scores.base] if scores.adapter is None else [scores.adapter, scores.base]
    probabilities = [at_temperature(log_probs, 1.0) for log_probs in models]
    return judge(suite, classifier.labels, seconds, *probabilities)


def explain_errors(classifier: Classifier, measurement: Measurement) -> ErrorExplanations:
    """The words that moved the surest errors, and a deletion test of these explanations."""
    rows, scores = measurement.rows, measurement.scores
    errors = surest_errors(scores)
    indices = [int(i) for i in errors[:MAX_EXPLAINED]]
    inputs = rows.inputs
    texts = [inputs[i] for i in indices]
    answers = scores.best[indices].argmax(-1).tolist()
    model = classifier.scorer, classifier.prompter, texts
    started = time.perf_counter()
    explanations = explain_each(*model, answers, "explaining errors")
    deletion = deletion_test(*model, explanations)
    seconds = time.perf_counter() - started
    of_rows = {}
    for i, explanation in zip(indices, explanations, strict=True):
        words = [word for word in explanation.words if word.contribution is not None]
        of_rows[rows.numbers[i]] = replace(explanation, words=words)
    return ErrorExplanations(of_rows, len(errors), deletion, seconds)
