"""Precision and recall of each label, the majority, and the model that gives one answer for all."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from sentilora.evaluation.label_figures import (
    Confusion,
    majority_of,
    most_frequent_confusions,
    one_answer,
    one_answer_warning,
    per_label,
    weakest_first,
)
from sentilora.metrics import measure, wilson_interval

LABELS = ("a", "b", "c", "d")


def test_the_figures_of_each_label_are_scikit_learns():
    random = np.random.default_rng(3)
    probabilities, truth = random.dirichlet(np.ones(4), 200), random.integers(0, 4, 200)
    figures = per_label(LABELS, measure(probabilities, truth).confusion)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, probabilities.argmax(-1), labels=range(4)
    )
    assert [x.label for x in figures] == list(LABELS)
    assert [x.precision for x in figures] == pytest.approx(precision)
    assert [x.recall for x in figures] == pytest.approx(recall)
    assert [x.f1 for x in figures] == pytest.approx(f1)
    assert [x.num_rows for x in figures] == support.tolist()


def test_what_has_no_rows_or_answers_is_not_defined():
    """A label that never occurs has no figures, rather than zeros that look like failures."""
    a, b, c, d = per_label(LABELS, [[5, 0, 2, 0], [3, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert (a.recall, a.confused_with, a.num_confused) == (5 / 7, "c", 2)
    assert a.recall_interval == wilson_interval(5, 7)
    assert (b.precision, b.recall, b.f1, b.confused_with) == (None, 0.0, 0.0, "a")
    assert (c.precision, c.recall, c.recall_interval, c.f1) == (0.0, None, None, 0.0)
    assert (d.precision, d.recall, d.f1, d.confused_with) == (None, None, None, None)
    assert [x.label for x in weakest_first([a, b, c, d])] == ["b", "a"]


def test_the_most_frequent_confusions_come_first():
    confusion = [[50, 1, 0], [7, 9, 0], [2, 0, 3]]
    assert most_frequent_confusions("xyz", confusion, 2) == [
        Confusion("y", "x", 7), Confusion("z", "x", 2),
    ]  # fmt: skip
    assert len(most_frequent_confusions("xyz", confusion, 20)) == 3
    assert most_frequent_confusions("xy", [[3, 0], [0, 3]], 20) == []


def test_the_majority_is_that_of_the_training_rows_where_they_are_known():
    truth = np.array([0, 0, 0, 1])
    known = majority_of("xy", truth, np.array([1, 1, 0]))
    assert (known.label, known.counted_in, known.accuracy) == ("y", "training", 0.25)
    assert known.interval == wilson_interval(1, 4)
    unknown = majority_of("xy", truth, None)
    assert (unknown.label, unknown.counted_in, unknown.accuracy) == ("x", "test", 0.75)


@pytest.mark.parametrize(
    ("confusion", "label"),
    [
        ([[50, 0], [50, 0]], "x"),  # all
        ([[150, 1], [149, 0]], "x"),  # nearly all
        ([[0, 50], [0, 50]], "y"),
        ([[0, 19], [0, 0]], "y"),  # the wrong one
        ([[0, 4], [0, 5]], None),  # so few rows have one answer by chance
        ([[140, 10], [140, 10]], None),
        ([[999, 0], [1, 0]], "x"),  # rare or not: the other label is never found
        ([[995, 0], [0, 5]], None),  # rare, and found
        ([[19, 0], [0, 0]], None),  # all rows have this label: right
    ],
)
def test_one_answer_for_all_is_noticed(confusion, label):
    """Issue: the test rows had 28 % with every answer "other", and nothing said so."""
    figures = per_label("xy", confusion)
    found = one_answer(figures)
    assert (found and found.label) == label
    warning = one_answer_warning(figures, is_trained=True)
    assert (warning is None) == (label is None)
    if warning:
        assert warning.endswith("Train it again, longer or with another learning rate.")
        assert one_answer_warning(figures, is_trained=False).endswith("Train an adapter on it.")
        assert f"answered {label}" in warning and "not learned to tell" in warning
