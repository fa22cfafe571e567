"""What an evaluation measures, of rows and of a loaded classifier: the parts of `evaluate`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sentilora.data.rows import Rows
from sentilora.evaluation.behaviour import judge
from sentilora.evaluation.calibration import MIN_ROWS, choose_temperature, choose_threshold
from sentilora.evaluation.findings import (
    Abstention,
    Calibrated,
    Evaluation,
    Explained,
    Leakage,
    RowScores,
    surest_errors,
    verdict,
)
from sentilora.evaluation.label_issues import look_for_label_issues
from sentilora.evaluation.leakage import TwinIndex
from sentilora.evaluation.suite import Suite
from sentilora.metrics import compare, measure_fully, tfidf_baseline
from sentilora.progress import Progress, say
from sentilora.scoring.answers import at_temperature
from sentilora.scoring.classifier import Classifier
from sentilora.scoring.explain import deletion_test, explain_each
from sentilora.wording import counted

MAX_EXPLAINED = 50  # errors, in a report: half a minute to two and a half on two CPU cores
# Near-duplicates among more are looked for only when asked: a text of 230 words takes 0.36 ms and,
# when it was trained on, 6.2 KiB (CPU, 10,000 texts, 2026-11-25).
MAX_ROWS_NEAR = 200_000


@dataclass(frozen=True)
class Scores:
    """Log-probabilities of the labels, (rows, labels), and which rows were cut to fit."""

    adapter: np.ndarray | None
    base: np.ndarray
    truncated: np.ndarray


def measure_rows(
    classifier: Classifier,
    rows: Rows,
    adapter_path: str | None = None,
    known: tuple[Rows, Rows] | None = None,
    target_accuracy: float | None = None,
    near_duplicates: bool = False,
) -> tuple[Evaluation, RowScores]:
    """Score rows with a loaded classifier: adapter on, then (if it has one) off.

    known: the adapter's training and evaluation rows.
    """
    truth = numbers_of(rows, classifier.labels)
    scores = score(classifier, rows, "scoring", adapter_path is not None)
    of_base = at_temperature(scores.base, 1.0)
    of_rows = RowScores(truth, None, of_base, None, scores.truncated)
    result = Evaluation(
        test=rows.source,
        num_rows=len(rows),
        num_truncated=int(scores.truncated.sum()),
        labels=classifier.labels,
        adapter_path=adapter_path,
        base_name=classifier.reference.name,
        base=measure_fully(of_base, truth),
    )
    if scores.adapter is None:
        return result, of_rows
    probabilities = at_temperature(scores.adapter, 1.0)
    right = probabilities.argmax(-1) == truth
    result = replace(result, adapter=measure_fully(probabilities, truth))
    result.comparisons["base"] = compare(right, scores.base.argmax(-1) == truth)
    of_rows = replace(of_rows, adapter=probabilities)
    if known is None:
        return replace(result, verdict=verdict(result)), of_rows
    train, evaluation = known
    guessed = tfidf_baseline(
        train.texts, numbers_of(train, classifier.labels), rows.texts, len(classifier.labels)
    )
    result.comparisons["baseline"] = compare(right, guessed.argmax(-1) == truth)
    result = replace(result, baseline=measure_fully(guessed, truth))
    seen = len(set(evaluation.hashes()).intersection(rows.hashes()))
    if seen > len(evaluation) / 2:
        calibrated, abstention = None, None
        total = counted(len(evaluation), "evaluation row")
        reasons = [f"no calibration: the test rows hold {seen:,} of {total}"]
    else:
        calibrated, abstention, reasons = calibrate(
            classifier, evaluation, scores.adapter, truth, target_accuracy
        )
    result = replace(
        result,
        calibrated=calibrated,
        abstention=abstention,
        leakage=look_for_leakage(rows, known, probabilities, truth, near_duplicates),
        missing=reasons,
    )
    return replace(result, verdict=verdict(result)), replace(of_rows, baseline=guessed)


def numbers_of(rows: Rows, labels: Sequence[str]) -> np.ndarray:
    """The rows' labels as numbers."""
    numbers = {label: number for number, label in enumerate(labels)}
    return np.array([numbers[label] for label in rows.labels])


def score(classifier: Classifier, rows: Rows, description: str, has_adapter: bool) -> Scores:
    """One forward pass per row and model; `has_adapter`: with it and without it."""
    with Progress(description, len(rows) * (1 + has_adapter)) as progress:
        pieces = list(classifier.score(rows.texts, progress.advance, with_base=has_adapter))
    log_probs = np.concatenate([piece.log_probs for piece in pieces])
    truncated = np.concatenate([piece.truncated for piece in pieces])
    if not has_adapter:
        return Scores(None, log_probs, truncated)
    of_base = [piece.base_log_probs for piece in pieces if piece.base_log_probs is not None]
    return Scores(log_probs, np.concatenate(of_base), truncated)


def calibrate(
    classifier: Classifier,
    evaluation: Rows,
    test_log_probs: np.ndarray,
    truth: np.ndarray,
    target_accuracy: float | None,
) -> tuple[Calibrated | None, Abstention | None, list[str]]:
    """Temperature and threshold of the evaluation rows, on the test rows; or why there is none."""
    if len(evaluation) < MIN_ROWS:
        return None, None, [
            f"no calibration{' and no threshold' if target_accuracy else ''}: "
            f"{counted(len(evaluation), 'evaluation row')}, and fewer than {MIN_ROWS} say too "
            "little; raise data.num_evaluation"
        ]  # fmt: skip
    eval_truth = numbers_of(evaluation, classifier.labels)
    with Progress("scoring evaluation rows", len(evaluation)) as progress:
        pieces = classifier.score(evaluation.texts, progress.advance)
        log_probs = np.concatenate([piece.log_probs for piece in pieces])
    temperature = choose_temperature(log_probs, eval_truth)
    calibrated = Calibrated(
        temperature,
        len(evaluation),
        measure_fully(at_temperature(test_log_probs, temperature.value), truth),
    )
    if target_accuracy is None:
        return calibrated, None, []
    threshold = choose_threshold(
        at_temperature(log_probs, temperature.used), eval_truth, target_accuracy
    )
    probabilities = at_temperature(test_log_probs, temperature.used)
    covered = probabilities.max(-1) >= threshold.confidence
    right = probabilities.argmax(-1) == truth
    abstention = Abstention(
        threshold,
        int(covered.sum()),
        float(right[covered].mean()) if covered.any() else None,
    )
    return calibrated, abstention, []


def look_for_leakage(
    rows: Rows,
    known: tuple[Rows, Rows],
    probabilities: np.ndarray,
    truth: np.ndarray,
    near_duplicates: bool,
) -> Leakage:
    """Twins of the test rows among the rows trained and chosen on, and the score without them."""
    train, evaluation = known
    total = len(train) + len(evaluation) + len(rows)
    near = near_duplicates or total <= MAX_ROWS_NEAR
    if not near:
        say(
            f"near-duplicates are not looked for among more than {MAX_ROWS_NEAR:,} rows (here "
            f"{total:,}): minutes, and 6 KiB of memory a training row; `near_duplicates` does"
        )
    with Progress("looking for duplicates", total + len(evaluation)) as progress:
        index = TwinIndex(near, progress.advance)
        index.add("train", train.texts)
        of_evaluation = index.twins_of(evaluation.texts)
        index.add("evaluation", evaluation.texts)
        twins = index.twins_of(rows.texts)
    alone = np.ones(len(rows), bool)
    alone[[twin.number for twin in twins]] = False
    num_exact = sum(twin.is_exact for twin in twins)
    numbers = {"train": train.numbers, "evaluation": evaluation.numbers}
    return Leakage(
        twins=[
            replace(t, number=rows.numbers[t.number], other=numbers[t.split][t.other])
            for t in twins
        ],
        num_exact=num_exact,
        num_near=len(twins) - num_exact,
        near_looked_for=near,
        without=measure_fully(probabilities[alone], truth[alone]) if alone.any() else None,
        num_evaluation_twins=len(of_evaluation),
        num_evaluation_exact=sum(twin.is_exact for twin in of_evaluation),
    )


def with_label_issues(result: Evaluation, scores: RowScores, rows: Rows) -> Evaluation:
    """The evaluation with its probable label errors, or with why none can be told."""
    seen: set[int] | None = None
    if result.leakage is not None:
        seen = {twin.number for twin in result.leakage.twins}
    elif result.adapter is None:
        seen = set()  # a base was trained on none of our rows
    found = look_for_label_issues(scores.best, scores.truth, result.labels, rows, seen)
    if isinstance(found, str):
        return replace(result, missing=[*result.missing, f"no label issues: {found}"])
    return replace(result, label_issues=found)


def with_behaviour(result: Evaluation, classifier: Classifier, suite: Suite) -> Evaluation:
    """The evaluation with what the suite finds: of the adapter and its base, or of a base alone."""
    started = time.perf_counter()
    rows = Rows(suite.source, suite.texts, [])  # what is right is the cases' business
    scores = score(classifier, rows, "behaviour suite", result.adapter is not None)
    seconds = time.perf_counter() - started
    if scores.truncated.any():
        say(
            f"warning: texts of the suite {suite.source} that were cut to fit prompt.max_length, "
            f"perhaps where they matter: {int(scores.truncated.sum()):,}; shorten them"
        )
    models = [scores.base] if scores.adapter is None else [scores.adapter, scores.base]
    probabilities = [at_temperature(log_probs, 1.0) for log_probs in models]
    return replace(result, behaviour=judge(suite, result.labels, seconds, *probabilities))


def with_explanations(
    result: Evaluation, classifier: Classifier, rows: Rows, scores: RowScores
) -> Evaluation:
    """The evaluation with the words that moved the surest errors, and their deletion test."""
    errors = surest_errors(scores)
    chosen = [int(i) for i in errors[:MAX_EXPLAINED]]
    texts = [rows.texts[i] for i in chosen]
    answered = scores.best[chosen].argmax(-1).tolist()
    asked = classifier.scorer, classifier.prompter, texts
    started = time.perf_counter()
    explanations = explain_each(*asked, answered, "explaining errors")
    deletion = deletion_test(*asked, explanations)
    seconds = time.perf_counter() - started
    of_rows = {
        rows.numbers[i]: replace(
            found, words=[w for w in found.words if w.contribution is not None]
        )
        for i, found in zip(chosen, explanations, strict=True)
    }
    return replace(result, explained=Explained(of_rows, len(errors), deletion, seconds))
