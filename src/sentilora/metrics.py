"""Statistics of a classifier on labeled rows: accuracy, calibration, and paired comparisons.

They come from SciPy and scikit-learn. This module combines them and adds the two that both lack:
the calibration error and the interval of a paired difference.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

ROWS_AT_ONCE = 10_000  # rows vectorized at once: their word counts take more memory than the texts
SIGNIFICANCE = 0.05  # a p-value below it shows a difference
NUM_BINS = 15  # of the reliability diagram


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]  # checked where a file is read
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Metrics:
    """How often the predictions are right, and their log-loss.

    accuracy_interval: 95 % Wilson score interval.
    macro_f1: mean over the labels that occur in rows or predictions; None if all rows have the same
        label, for which a classifier that always answers it would reach 1.
    log_loss: mean of −ln p(true label), with p normalized over the labels; with soft labels, of
        −Σ share · ln p.
    confusion: confusion matrix; rows are true labels, columns are predictions.
    """

    num_rows: Annotated[int, Field(ge=1)]
    accuracy: Share
    accuracy_interval: tuple[Share, Share]
    macro_f1: Share | None
    log_loss: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    confusion: list[list[Count]]


@dataclass(frozen=True)
class FullMetrics(Metrics):
    """`Metrics`, plus those that judge the probabilities: Brier score, ROC-AUC, calibration error.

    brier: mean squared error of the probabilities; of the second of two labels, summed over three
        labels or more.
    roc_auc: of the second of two labels, or the one-vs-rest mean over three labels or more; None
        if the truth lacks a label.
    expected_calibration_error: over the bins of `reliability`.
    """

    brier: float
    roc_auc: float | None
    expected_calibration_error: float


@dataclass(frozen=True)
class Bin:
    """A bin of the reliability diagram: the rows with a confidence in (low, high].

    The confidence of a row is the probability of its likeliest label.
    """

    low: float
    high: float
    num_rows: int
    mean_confidence: float
    accuracy: float


@dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same rows.

    difference: accuracy of the first minus accuracy of the second.
    interval: Newcombe's 95 % interval of the difference.
    p: of the exact McNemar test.
    num_only_first: rows that only the first classifier got right.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    num_only_first: int
    num_only_second: int

    @property
    def clear(self) -> int:
        """1 if the first classifier is better, −1 if the second is, 0 if neither is clearly so.

        The exact McNemar test alone decides, at p < 0.05. The interval is an approximation.
        """
        if self.p >= SIGNIFICANCE:
            return 0
        return 1 if self.num_only_first > self.num_only_second else -1

    @property
    def disagreement(self) -> str:
        """A sentence for when the interval suggests something else than the test; else empty."""
        low, high = self.interval
        excludes_zero = low > 0 or high < 0
        if excludes_zero == (self.clear != 0):
            return ""
        return (
            f"The interval {'excludes' if excludes_zero else 'includes'} zero, and yet the exact "
            f"test is {'not ' if excludes_zero else ''}significant at {SIGNIFICANCE}: the interval "
            "is an approximation, so the test decides."
        )


@dataclass(frozen=True)
class Group:
    """Accuracy on some of the rows. interval: 95 % Wilson score interval."""

    name: str
    num_rows: int
    accuracy: float
    interval: tuple[float, float]


def measure_group(name: str, right: np.ndarray) -> Group:
    """Accuracy of a group. right: for each of its rows, at least one, whether it is right."""
    interval = wilson_interval(int(right.sum()), len(right))
    return Group(name, len(right), float(right.mean()), interval)


def measure(
    probabilities: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    shares: np.ndarray | None = None,
) -> Metrics:
    """Metrics of probabilities of shape (rows, labels). truth: the number of each true label.

    shares: with soft labels, the share of each label, (rows, labels); they decide the log-loss.
    """
    from sklearn.metrics import confusion_matrix

    probabilities = np.asarray(probabilities, dtype=np.float64)
    true = np.asarray(truth)
    predicted = probabilities.argmax(-1)
    labels = range(probabilities.shape[1])
    num_right = int((predicted == true).sum())
    log_probs = np.log(probabilities.clip(np.finfo(np.float64).tiny))
    of_true = log_probs[np.arange(len(true)), true]
    if shares is not None:
        of_true = (shares * log_probs).sum(-1)
    return Metrics(
        num_rows=len(true),
        accuracy=num_right / len(true),
        accuracy_interval=wilson_interval(num_right, len(true)),
        macro_f1=_macro_f1(true, predicted),
        log_loss=float(-of_true.mean()),
        confusion=confusion_matrix(true, predicted, labels=list(labels)).tolist(),
    )


def _macro_f1(true: np.ndarray, predicted: np.ndarray) -> float | None:
    from sklearn.metrics import f1_score

    if len(np.unique(true)) < 2:
        return None
    return float(f1_score(true, predicted, labels=np.union1d(true, predicted), average="macro"))


def measure_fully(probabilities: np.ndarray, truth: Sequence[int] | np.ndarray) -> FullMetrics:
    """`measure`, plus the metrics that judge the probabilities."""
    from sklearn.metrics import brier_score_loss, roc_auc_score

    probabilities, true = np.asarray(probabilities, dtype=np.float64), np.asarray(truth)
    num_labels = probabilities.shape[1]
    roc_auc = None
    if len(np.unique(true)) == num_labels:
        scores = probabilities[:, 1] if num_labels == 2 else probabilities
        roc_auc = float(roc_auc_score(true, scores, multi_class="ovr"))
    bins = reliability(probabilities, true)
    return FullMetrics(
        **vars(measure(probabilities, true)),
        # Halved for two labels, whose squared errors are equal.
        brier=brier_score_loss(
            true, probabilities, labels=range(num_labels), scale_by_half=num_labels == 2
        ),
        roc_auc=roc_auc,
        expected_calibration_error=sum(
            b.num_rows * abs(b.accuracy - b.mean_confidence) for b in bins
        )
        / len(true),
    )


def reliability(
    probabilities: np.ndarray, truth: Sequence[int] | np.ndarray, num_bins: int = NUM_BINS
) -> list[Bin]:
    """The reliability diagram: bins of equal width over the confidence, without empty ones.

    The expected calibration error is the mean distance between a bin's accuracy and its confidence,
    weighted by rows (Guo et al. 2017, section 2).
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    confidence = probabilities.max(-1)
    right = probabilities.argmax(-1) == np.asarray(truth)
    number = bin_numbers(confidence, num_bins)
    bins = []
    for i in np.unique(number):
        rows = number == i
        bins.append(
            Bin(
                low=i / num_bins,
                high=(i + 1) / num_bins,
                num_rows=int(rows.sum()),
                mean_confidence=float(confidence[rows].mean()),
                accuracy=float(right[rows].mean()),
            )
        )
    return bins


def bin_numbers(confidence: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """The number of each confidence's bin in the reliability diagram, counted from 0."""
    return np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)


def coverage_curve(
    probabilities: np.ndarray, truth: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The coverage–accuracy curve: confidence thresholds in falling order, and accuracies.

    Entry n − 1 stands for the n most confident rows. Its threshold is the lowest confidence among
    them, its accuracy is theirs.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    confidence = probabilities.max(-1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(-1) == np.asarray(truth))[order]
    return confidence[order], np.cumsum(right) / np.arange(1, len(right) + 1)


def wilson_interval(num_right: int, num_rows: int) -> tuple[float, float]:
    """95 % Wilson score interval of the proportion num_right / num_rows (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(num_right, num_rows).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_p(first_right: Sequence[bool], second_right: Sequence[bool]) -> float:
    """Exact two-sided p-value of McNemar's test that two classifiers are equally accurate.

    A binomial test with probability ½ on the rows that only one of them got right (McNemar 1947).
    1.0 if there is no such row.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(first_right), np.asarray(second_right)
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def compare(first_right: Sequence[bool], second_right: Sequence[bool]) -> Comparison:
    """The difference in accuracy of two classifiers on the same rows, with interval and test.

    The interval combines the Wilson intervals of both accuracies and accounts for the correlation
    of the rows (Newcombe 1998, Statistics in Medicine 17:2635, method 10).
    """
    first, second = np.asarray(first_right, bool), np.asarray(second_right, bool)
    num = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    p_1, p_2 = float(first.mean()), float(second.mean())
    low_1, high_1 = wilson_interval(int(first.sum()), num)
    low_2, high_2 = wilson_interval(int(second.sum()), num)
    margins = p_1 * (1 - p_1) * p_2 * (1 - p_2) * num**4
    product = float(both * neither - only_first * only_second)
    if product > 0:
        product = max(product - num / 2, 0)
    correlation = product / margins**0.5 if margins else 0.0

    def width(a: float, b: float) -> float:
        return float(max(a * a - 2 * correlation * a * b + b * b, 0.0) ** 0.5)

    difference = p_1 - p_2
    return Comparison(
        difference=difference,
        interval=(
            difference - width(p_1 - low_1, high_2 - p_2),
            difference + width(high_1 - p_1, p_2 - low_2),
        ),
        p=mcnemar_p(first_right, second_right),
        num_only_first=only_first,
        num_only_second=only_second,
    )


def tfidf_baseline(
    texts: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    test_texts: Sequence[str],
    num_labels: int = 2,
) -> np.ndarray:
    """Probabilities (rows, labels) of TF-IDF (1–2-grams) + logistic regression, trained on `texts`.

    A label without training texts has probability 0. If no training text has a word of two letters,
    or all have the same label, the probabilities are the labels' shares.
    """
    has_words = any(re.search(r"\b\w\w", text) for text in texts)  # `TfidfVectorizer` needs some
    if not has_words or len(set(labels)) == 1:
        shares = np.bincount(labels, minlength=num_labels) / len(labels)
        return np.tile(shares, (len(test_texts), 1))
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from threadpoolctl import threadpool_limits

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        # C=10: 86.3 % after training on 2,000 IMDB rows; 84.5 % with scikit-learn's default C=1
        # (measured on 3,000 other rows).
        LogisticRegression(C=10, max_iter=1000),
    )
    # BLAS's threads mostly wait for each other here: beside other programs on the same two cores,
    # 5,000 rows of SST-5 took 38 s with two threads and 9 s with one.
    with threadpool_limits(1, "blas"):
        model.fit(list(texts), list(labels))
    probabilities = np.zeros((len(test_texts), num_labels))
    for start in range(0, len(test_texts), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        probabilities[part, model.classes_] = model.predict_proba(test_texts[part])
    return probabilities
