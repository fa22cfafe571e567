"""metrics.py against numbers worked out by hand, published ones, and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    log_loss,
    roc_auc_score,
)

from sentilora.metrics import (
    Comparison,
    compare,
    mcnemar_p,
    measure,
    measure_fully,
    reliability,
    tfidf_baseline,
    wilson_interval,
)

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
    result = measure(probabilities, truth)
    predicted = probabilities.argmax(-1)
    occurring = sorted({*truth, *predicted.tolist()})
    assert result.num_rows == num_rows
    assert result.accuracy == accuracy_score(truth, predicted)
    macro = f1_score(truth, predicted, average="macro", labels=occurring)
    if len(set(truth)) == 1:
        assert result.macro_f1 is None
    else:
        assert result.macro_f1 == pytest.approx(macro, abs=1e-12)
    theirs = log_loss(truth, probabilities, labels=range(num_labels))
    assert result.log_loss == pytest.approx(theirs, rel=1e-9)
    assert np.array(result.confusion).shape == (num_labels, num_labels)
    assert np.trace(result.confusion) == round(result.accuracy * num_rows)
    assert np.sum(result.confusion, -1).tolist() == [truth.count(i) for i in range(num_labels)]


def test_a_small_case_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]])
    result = measure(probabilities, [0, 0, 1, 1])
    assert result.accuracy == 0.5
    assert result.confusion == [[1, 1], [1, 1]]
    assert result.macro_f1 == pytest.approx(0.5)
    assert result.log_loss == pytest.approx(-np.log([0.9, 0.4, 0.3, 0.8]).mean())
    assert result.accuracy_interval == pytest.approx((0.15003, 0.84997), abs=1e-5)


def test_rows_of_a_single_label_have_no_macro_f1():
    """keras #796: accuracy 100 %, macro-F1 1.0 for a classifier that always gives one answer."""
    sure = np.array([[0.9, 0.1], [0.8, 0.2]])
    right = measure(sure, [0, 0])
    assert (right.accuracy, right.macro_f1, right.confusion) == (1.0, None, [[2, 0], [0, 0]])
    assert measure(np.array([[0.9, 0.1], [0.2, 0.8]]), [0, 0]).macro_f1 is None
    assert measure_fully(sure, [0, 0]).macro_f1 is None


def test_macro_f1_is_the_mean_over_the_labels_that_occur():
    three = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0], [0.3, 0.7, 0.0], [0.6, 0.4, 0.0]])
    assert measure(three, [0, 0, 1, 1]).macro_f1 == pytest.approx((0.8 + 2 / 3) / 2)


def test_a_probability_of_zero_gives_a_large_finite_loss():
    result = measure(np.array([[1.0, 0.0]]), [1])
    assert 700 < result.log_loss < 750


def test_the_baseline_learns_words_and_repeats_itself():
    texts = ["lovely warm film", "a lovely time", "dull grey film", "so dull, so long"] * 3
    labels = [0, 0, 1, 1] * 3
    guesses = [
        tfidf_baseline(texts, labels, ["lovely", "dull"]).argmax(-1).tolist() for _ in range(2)
    ]
    assert guesses == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("both", "only_first", "only_second", "none", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:2635, method 10.
    [(36, 12, 2, 0, 0.0569, 0.3404), (20, 12, 2, 16, 0.0562, 0.3292)],
)
def test_the_interval_of_a_paired_difference_has_the_published_bounds(
    both, only_first, only_second, none, low, high
):
    result = compare(*outcomes(both, only_first, only_second, none))
    assert result.difference == pytest.approx(0.2)
    assert result.interval == pytest.approx((low, high), abs=5e-5)
    assert (result.num_only_first, result.num_only_second) == (only_first, only_second)
    assert result.p == mcnemar_p(*outcomes(both, only_first, only_second, none))


COUNTS = st.integers(0, 60)


@given(st.tuples(COUNTS, COUNTS, COUNTS, COUNTS).filter(any))
def test_a_comparison_turned_around_is_its_negative(counts):
    both, only_first, only_second, none = counts
    result = compare(*outcomes(*counts))
    turned = compare(*outcomes(both, only_second, only_first, none))
    assert turned.difference == pytest.approx(-result.difference)
    assert turned.interval == pytest.approx((-result.interval[1], -result.interval[0]))
    low, high = result.interval
    assert -1 - 1e-9 <= low <= result.difference <= high <= 1 + 1e-9


def test_the_exact_test_alone_decides_and_an_interval_that_disagrees_is_explained():
    for outcome, clear in [((36, 12, 2, 0), 1), ((36, 2, 12, 0), -1), ((36, 2, 2, 9), 0)]:
        result = compare(*outcomes(*outcome))
        assert (result.clear, result.disagreement) == (clear, "")
    result = compare(*outcomes(17, 14, 5, 4))
    assert result.interval[0] > 0 and result.p > 0.05 and result.clear == 0
    assert result.disagreement.startswith(
        "The interval excludes zero, and yet the exact test is not significant at 0.05"
    )
    # The interval may include zero: the test still decides.
    result = Comparison(-0.1, (-0.21, 0.01), 0.04, 5, 15)
    assert result.clear == -1 and "includes zero, and yet the exact test is sig" in (
        result.disagreement
    )


@pytest.mark.parametrize("num_labels", [2, 4])
def test_full_metrics_are_scikit_learns(num_labels):
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(num_labels), 300)
    truth = random.integers(0, num_labels, 300)
    result = measure_fully(probabilities, truth)
    one_hot = np.eye(num_labels)[truth]
    if num_labels == 2:
        assert result.roc_auc == pytest.approx(roc_auc_score(truth, probabilities[:, 1]))
    else:
        assert result.roc_auc == pytest.approx(
            np.mean([roc_auc_score(one_hot[:, i], probabilities[:, i]) for i in range(num_labels)])
        )
    assert vars(measure(probabilities, truth)).items() <= vars(result).items()


@pytest.mark.parametrize("num_labels", [2, 3, 10])
@pytest.mark.parametrize("num_true", [1, 2, 10])  # labels that occur in the truth
def test_the_brier_score_is_the_squared_error(num_labels, num_true):
    """Of the second of two labels; summed over more."""
    random = np.random.default_rng(2)
    probabilities = random.dirichlet(np.full(num_labels, 0.3), 300)
    truth = random.integers(0, min(num_true, num_labels), 300)
    squared = (probabilities - np.eye(num_labels)[truth]) ** 2
    expected = (squared[:, 1] if num_labels == 2 else squared.sum(1)).mean()
    assert measure_fully(probabilities, truth).brier == pytest.approx(expected, abs=1e-12)


def test_the_calibration_error_by_hand():
    """Ten rows at 0.95, of which 7 are right; four at 0.55, of which 3 are."""
    probabilities = np.array([[0.95, 0.05]] * 10 + [[0.45, 0.55]] * 4)
    truth = [0] * 7 + [1] * 3 + [1] * 3 + [0]
    first, second = reliability(probabilities, truth)
    assert (first.num_rows, first.accuracy, first.mean_confidence) == (4, 0.75, pytest.approx(0.55))
    assert (second.num_rows, second.accuracy, second.mean_confidence) == (
        10,
        0.7,
        pytest.approx(0.95),
    )
    result = measure_fully(probabilities, truth).expected_calibration_error
    assert result == pytest.approx((4 * 0.2 + 10 * 0.25) / 14)


def test_bins_are_closed_above():
    probabilities = np.array([[0.6, 0.4], [1.0, 0.0], [0.5, 0.5]])
    bins = reliability(probabilities, [0, 0, 0], num_bins=5)
    assert [(b.low, b.high, b.num_rows) for b in bins] == [(0.4, 0.6, 2), (0.8, 1.0, 1)]


def test_one_label_in_the_truth_has_no_roc_auc():
    result = measure_fully(np.array([[0.9, 0.1], [0.4, 0.6]]), [0, 0])
    assert result.roc_auc is None and result.accuracy == 0.5


def test_training_texts_of_one_label_have_a_baseline_too():
    """A teacher that gives one answer to all of them made `evaluate` end in a traceback."""
    result = tfidf_baseline(["good", "bad"], [1, 1], ["fine", "dull", "new"])
    assert result.tolist() == [[0, 1]] * 3


def test_a_label_that_training_texts_lack_is_never_guessed():
    result = tfidf_baseline(["good", "bad", "good", "bad"], [0, 2, 0, 2], ["good", "bad"], 3)
    assert result.shape == (2, 3) and not result[:, 1].any()
    assert result.argmax(-1).tolist() == [0, 2] and result.sum(-1) == pytest.approx([1, 1])
