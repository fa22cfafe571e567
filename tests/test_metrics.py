"""metrics.py against numbers worked out by hand, published ones, and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss

from sentilora.metrics import mcnemar_p, measure, tfidf_baseline, wilson_interval

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [
        # Newcombe 1998, table I, method 3: the score interval without continuity correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_wilson_interval_has_the_published_bounds(right, rows, low, high):
    assert wilson_interval(right, rows) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_is_the_formula(counts):
    right, rows = counts
    share = right / rows
    middle = (share + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
    root = math.sqrt(share * (1 - share) / rows + Z**2 / (4 * rows**2))
    half = Z * root / (1 + Z**2 / rows)
    low, high = wilson_interval(right, rows)
    assert (low, high) == pytest.approx((max(0, middle - half), min(1, middle + half)), abs=1e-9)
    assert 0 <= low <= share <= high <= 1


def outcomes(both, only_first, only_second, none):
    first = [True] * (both + only_first) + [False] * (only_second + none)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * none
    return first, second


@pytest.mark.parametrize(
    ("only_first", "only_second", "p"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 5, 2 * 0.5**5),
        (1, 9, 2 * (1 + 10) / 2**10),
        (8, 2, 2 * (1 + 10 + 45) / 2**10),
        (0, 20, 2 * 0.5**20),
    ],
)
def test_exact_mcnemar_is_a_fair_coin_on_the_rows_where_one_is_right(only_first, only_second, p):
    for both, none in ((0, 1), (70, 10)):
        first, second = outcomes(both, only_first, only_second, none)
        assert mcnemar_p(first, second) == pytest.approx(p, rel=1e-12)
        assert mcnemar_p(second, first) == pytest.approx(p, rel=1e-12)


@given(st.data())
def test_measure_agrees_with_scikit_learn(data):
    num_labels, num_rows = data.draw(st.integers(2, 12)), data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(num_labels), num_rows)
    truth = random.integers(0, num_labels, num_rows).tolist()
    found = measure(probabilities, truth)
    predicted = probabilities.argmax(-1)
    occurring = sorted({*truth, *predicted.tolist()})
    assert found.num_rows == num_rows
    assert found.accuracy == accuracy_score(truth, predicted)
    macro = f1_score(truth, predicted, average="macro", labels=occurring)
    assert found.macro_f1 == pytest.approx(macro, abs=1e-12)
    theirs = log_loss(truth, probabilities, labels=range(num_labels))
    assert found.log_loss == pytest.approx(theirs, rel=1e-9)
    assert np.array(found.confusion).shape == (num_labels, num_labels)
    assert np.trace(found.confusion) == round(found.accuracy * num_rows)
    assert np.sum(found.confusion, -1).tolist() == [truth.count(i) for i in range(num_labels)]


def test_a_small_case_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]])
    found = measure(probabilities, [0, 0, 1, 1])
    assert found.accuracy == 0.5
    assert found.confusion == [[1, 1], [1, 1]]
    assert found.macro_f1 == pytest.approx(0.5)
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.4, 0.3, 0.8]).mean())
    assert found.accuracy_interval == pytest.approx((0.15003, 0.84997), abs=1e-5)


def test_one_class_only_is_measured_over_the_labels_that_occur():
    sure = np.array([[0.9, 0.1], [0.8, 0.2]])
    right = measure(sure, [0, 0])
    assert (right.accuracy, right.macro_f1, right.confusion) == (1.0, 1.0, [[2, 0], [0, 0]])
    half = measure(np.array([[0.9, 0.1], [0.2, 0.8]]), [0, 0])
    assert half.macro_f1 == pytest.approx((2 / 3 + 0) / 2)


def test_a_probability_of_zero_gives_a_large_finite_loss():
    found = measure(np.array([[1.0, 0.0]]), [1])
    assert 700 < found.log_loss < 750


def test_the_baseline_learns_words_and_repeats_itself():
    texts = ["lovely warm film", "a lovely time", "dull grey film", "so dull, so long"] * 3
    labels = [0, 0, 1, 1] * 3
    guesses = [tfidf_baseline(texts, labels, ["lovely", "dull"]).tolist() for _ in range(2)]
    assert guesses == [[0, 1], [0, 1]]
