"""Split-conformal sets: the quantile by hand, and the coverage that the theory promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.evaluation.label_sets import least_probability, measure_sets
from sentilora.scoring.answers import is_in_set


def of_true(values):
    """Probabilities of three labels, whose first one is the true label."""
    return np.array([[p, (1 - p) * 0.6, (1 - p) * 0.4] for p in values])


def test_the_quantile_is_that_of_one_row_more():
    """⌈(9 + 1) · 0.8⌉ = 8 of 9 true labels have to be in: the second lowest probability."""
    probabilities = of_true([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4, 0.5])
    assert least_probability(probabilities, [0] * 9, 0.8) == 0.2
    assert least_probability(probabilities, [0] * 9, 0.9) == 0.1
    assert least_probability(probabilities, [0] * 9, 0.7) == pytest.approx(0.3)  # not 8 of 9
    assert least_probability(probabilities, [0] * 9, 0.91) == 0.0  # 10 of 9 rows: every label


def test_the_likeliest_label_is_always_in_the_set():
    probabilities = np.array([[0.4, 0.35, 0.25], [0.9, 0.06, 0.04]])
    assert is_in_set(probabilities, 0.95).tolist() == [[True, False, False], [True, False, False]]
    assert is_in_set(probabilities, 0.3).tolist() == [[True, True, False], [True, False, False]]
    assert is_in_set(probabilities, 0.0).all()


def test_the_table_counts_the_sets():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.8, 0.1, 0.1], [0.4, 0.35, 0.25], [0.6, 0.3, 0.1]])
    (row,) = measure_sets([(0.9, 0.3)], probabilities, [1, 1, 0, 0], 500)
    # Sets: the first two labels, the first, the first two, the first two; the second row is missed.
    assert (row.target, row.least_probability, row.num_evaluation) == (0.9, 0.3, 500)
    assert (row.coverage, row.mean_size, row.share_single) == (0.75, 1.75, 0.25)
    assert row.interval[0] < 0.75 < row.interval[1]


@given(st.integers(1, 60), st.sampled_from([0.5, 0.8, 0.9, 0.95]), st.integers(0, 1000))
def test_enough_true_labels_of_the_evaluation_rows_are_in(num_rows, target, seed):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([0.5] * 4, num_rows)
    truth = random.integers(0, 4, num_rows)
    least = least_probability(probabilities, truth, target)
    is_in = probabilities[np.arange(num_rows), truth] >= least
    assert is_in.sum() >= min(num_rows, np.ceil((num_rows + 1) * target - 1e-9))


@pytest.mark.parametrize("target", [0.8, 0.9])
def test_new_rows_are_covered_as_often_as_promised(target):
    """The mean over calibrations is between the target and the target + 1 / (n + 1)."""
    random = np.random.default_rng(5)
    covered = []
    for _ in range(400):
        probabilities = random.dirichlet([0.6] * 5, 199 + 100)
        truth = random.integers(0, 5, len(probabilities))  # says nothing about the probabilities
        least = least_probability(probabilities[:199], truth[:199], target)
        of_true = probabilities[np.arange(199, 299), truth[199:]]
        covered.append((of_true >= least).mean())  # without the likeliest label, which adds to it
    margin = 4 * np.std(covered) / np.sqrt(len(covered))
    assert target - margin <= np.mean(covered) <= target + 1 / 200 + margin
