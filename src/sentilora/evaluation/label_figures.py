"""What the answers say about each label, beside a model that always gives the same one.

figures = per_label(labels, metrics.confusion)      # precision, recall and F1 of each label
majority_of(labels, truth, train).accuracy          # to beat, before anything else
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sentilora.metrics import wilson_interval
from sentilora.wording import percent, quoted

NEARLY_ALL = 0.99  # share of the answers that are the same: one answer for all
MIN_ROWS = 10  # fewer rows have one answer by chance


@dataclass(frozen=True)
class LabelFigures:
    """How well one label is answered.

    num_rows: rows with this true label. num_answers: rows answered with it. precision: share of
    these answers that are right; None without any. recall: share of these rows that are answered
    with it; None without any. recall_interval: 95 % Wilson score interval. f1: harmonic mean of
    precision and recall; None without such rows and answers. confused_with: the other label that
    rows of this one are most often answered with; num_confused: how many are.
    """

    label: str
    num_rows: int
    num_answers: int
    precision: float | None
    recall: float | None
    recall_interval: tuple[float, float] | None
    f1: float | None
    confused_with: str | None
    num_confused: int


def per_label(labels: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[LabelFigures]:
    """The figures of each label. confusion: rows are true labels, columns are predictions."""
    counts = np.asarray(confusion)
    figures = []
    for i, label in enumerate(labels):
        num_rows, num_answers = int(counts[i].sum()), int(counts[:, i].sum())
        num_right, wrong = int(counts[i, i]), counts[i].copy()
        wrong[i] = 0
        most = int(wrong.argmax())
        figures.append(
            LabelFigures(
                label=label,
                num_rows=num_rows,
                num_answers=num_answers,
                precision=num_right / num_answers if num_answers else None,
                recall=num_right / num_rows if num_rows else None,
                recall_interval=wilson_interval(num_right, num_rows) if num_rows else None,
                f1=2 * num_right / (num_rows + num_answers) if num_rows + num_answers else None,
                confused_with=labels[most] if wrong[most] else None,
                num_confused=int(wrong[most]),
            )
        )
    return figures


def weakest_first(figures: Sequence[LabelFigures]) -> list[LabelFigures]:
    """The labels with test rows, the lowest F1 first; the one with more rows where F1 is equal."""
    with_rows = [figure for figure in figures if figure.num_rows]
    return sorted(with_rows, key=lambda figure: (figure.f1 or 0.0, -figure.num_rows))


@dataclass(frozen=True)
class Confusion:
    """How many rows of one label are answered with another."""

    truth: str
    answer: str
    num_rows: int


def most_frequent_confusions(
    labels: Sequence[str], confusion: Sequence[Sequence[int]], limit: int
) -> list[Confusion]:
    """Up to `limit` pairs of a true label and a wrong answer, the most frequent first."""
    counts = np.asarray(confusion).copy()
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:limit]
    pairs = zip(*np.unravel_index(order, counts.shape), strict=True)
    return [Confusion(labels[i], labels[j], int(counts[i, j])) for i, j in pairs if counts[i, j]]


# --- one answer for all --------------------------------------------------------------------------


@dataclass(frozen=True)
class Majority:
    """Always giving the most frequent label.

    counted_in: "training" or "test", the rows in which `label` is the most frequent one.
    interval: 95 % Wilson score interval.
    """

    label: str
    counted_in: str
    accuracy: float
    interval: tuple[float, float]


def majority_of(labels: Sequence[str], truth: np.ndarray, train: np.ndarray | None) -> Majority:
    """The accuracy of the most frequent label.

    truth, train: label numbers of the test rows, and of the training rows; the latter are None when
    they are unknown. The first of two labels that are equally frequent counts.
    """
    most = int(np.bincount(truth if train is None else train).argmax())
    num_right = int((truth == most).sum())
    return Majority(
        label=labels[most],
        counted_in="test" if train is None else "training",
        accuracy=num_right / len(truth),
        interval=wilson_interval(num_right, len(truth)),
    )


def one_answer(figures: Sequence[LabelFigures]) -> LabelFigures | None:
    """The label that nearly all rows are answered with; None when the answers differ enough.

    Where nearly all rows have one label, a good model nearly always answers it. So most rows of the
    other labels must be answered wrongly too.
    """
    num_rows = sum(figure.num_rows for figure in figures)
    usual = max(figures, key=lambda figure: figure.num_answers)
    others = [figure for figure in figures if figure is not usual and figure.num_rows]
    num_others = sum(figure.num_rows for figure in others)
    num_right = sum((figure.recall or 0.0) * figure.num_rows for figure in others)
    if num_rows < MIN_ROWS or usual.num_answers < NEARLY_ALL * num_rows:
        return None
    if num_right >= num_others / 2:
        return None
    return usual


def one_answer_warning(figures: Sequence[LabelFigures], is_trained: bool) -> str | None:
    """What it means that nearly all rows get the same answer, and what to try; None if not so.

    is_trained: whether the model has an adapter.
    """
    if (usual := one_answer(figures)) is None:
        return None
    num_rows = sum(figure.num_rows for figure in figures)
    return (
        f"One answer for {'all' if usual.num_answers == num_rows else 'nearly all'} rows: "
        f"{usual.num_answers:,} of {num_rows:,} are answered {quoted(usual.label)}, the true "
        f"label of {percent(usual.num_rows / num_rows)}. The model has not learned to tell the "
        "labels apart, and its accuracy only shows how frequent that label is. "
        + (
            "Train it again, longer or with another learning rate."
            if is_trained
            else "Train an adapter on it."
        )
    )
