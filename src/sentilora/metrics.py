"""Figures of a classifier on labelled rows: accuracy and its interval, macro-F1, log-loss, McNemar.

The statistics are SciPy's and scikit-learn's; this module only puts them together.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Metrics:
    """accuracy_interval: 95 % Wilson. confusion: rows are true labels, columns the predicted ones.

    log_loss: mean of −ln p(true label), natural logarithm, p normalised over the labels.
    """

    num_rows: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    log_loss: float
    confusion: list[list[int]]


def measure(probabilities: np.ndarray, truth: Sequence[int] | np.ndarray) -> Metrics:
    """Metrics of probabilities (rows, labels) against label numbers."""
    from sklearn.metrics import confusion_matrix, f1_score

    probabilities = np.asarray(probabilities, dtype=np.float64)
    true = np.asarray(truth)
    predicted = probabilities.argmax(-1)
    labels = range(probabilities.shape[1])
    num_right = int((predicted == true).sum())
    of_true = probabilities[np.arange(len(true)), true]
    return Metrics(
        num_rows=len(true),
        accuracy=num_right / len(true),
        accuracy_interval=wilson_interval(num_right, len(true)),
        # Labels that occur neither in the truth nor in the predictions do not count.
        macro_f1=float(
            f1_score(true, predicted, labels=np.union1d(true, predicted), average="macro")
        ),
        log_loss=float(-np.log(of_true.clip(np.finfo(np.float64).tiny)).mean()),
        confusion=confusion_matrix(true, predicted, labels=list(labels)).tolist(),
    )


def wilson_interval(num_right: int, num_rows: int) -> tuple[float, float]:
    """95 % Wilson score interval of a proportion (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(num_right, num_rows).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_p(first_right: Sequence[bool], second_right: Sequence[bool]) -> float:
    """Exact two-sided McNemar p-value: is one of two classifiers better on the same rows?

    The rows on which only one is right are tested against a fair coin (McNemar 1947). 1.0 when
    there is no such row.
    """
    from scipy.stats import binomtest

    first, second = np.asarray(first_right), np.asarray(second_right)
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def tfidf_baseline(
    texts: Sequence[str], labels: Sequence[int], test_texts: Sequence[str]
) -> np.ndarray:
    """Label numbers that TF-IDF (1–2-grams) + logistic regression predict, trained on `texts`."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        # C=10: on 2,000 IMDB rows 86.3 %, with scikit-learn's 1 84.5 % (3,000 other rows).
        LogisticRegression(C=10, max_iter=1000),
    )
    return np.asarray(model.fit(list(texts), list(labels)).predict(list(test_texts)))
