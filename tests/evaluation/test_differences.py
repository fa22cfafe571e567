"""Bootstrap intervals of differences: exact cases, SciPy's percentiles, and how often they hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from sentilora.evaluation.differences import MAX_GROUPS, differences
from sentilora.metrics import measure_fully

METRICS = ("log_loss", "brier", "expected_calibration_error")


def draw(num_rows, num_labels=2, seed=0, sharpness=(1.0, 0.6)):
    """Two classifiers' probabilities and the truth, drawn from the first one's at temperature 1."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(num_rows, num_labels)) * 1.5
    exact = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    truth = (random.random(num_rows)[:, None] > exact.cumsum(1)).sum(1).clip(0, num_labels - 1)
    both = [np.exp(scores / t) / np.exp(scores / t).sum(1, keepdims=True) for t in sharpness]
    return *both, truth


@given(st.integers(1, 80), st.integers(2, 5), st.integers(0, 1000))
def test_the_differences_are_those_of_the_metrics_and_turn_their_sign(num_rows, num_labels, seed):
    first, second, truth = draw(num_rows, num_labels, seed)
    found = differences(first, second, truth, num_resamples=50)
    turned = differences(second, first, truth, num_resamples=50)
    metrics = [measure_fully(p, truth) for p in (first, second)]
    for name in METRICS:
        values = [getattr(each, name) for each in metrics]
        difference = getattr(found, name)
        assert difference.difference == pytest.approx(values[0] - values[1], abs=1e-12)
        low, high = difference.interval
        assert low <= high and (num_rows > 1 or high - low < 1e-12)
        assert getattr(turned, name).difference == pytest.approx(-difference.difference)
        assert getattr(turned, name).interval == pytest.approx((-high, -low), abs=1e-9)


def test_two_equal_classifiers_do_not_differ():
    first, _, truth = draw(300)
    found = differences(first, first, truth)
    for name in METRICS:
        assert getattr(found, name).difference == 0
        assert getattr(found, name).interval == pytest.approx((0, 0), abs=1e-12)
        assert getattr(found, name).clear in (-1, 0, 1)


def test_one_wrong_row_of_two_has_the_resamples_that_can_be_counted():
    """Of two rows, both, the first twice (a quarter) or the second twice are drawn."""
    first, second = np.array([[0.5, 0.5], [0.5, 0.5]]), np.array([[0.5, 0.5], [0.25, 0.75]])
    found = differences(first, second, [0, 1]).log_loss
    assert found.difference == pytest.approx(np.log(1.5) / 2)  # −ln 0.5 + ln 0.75 in one row of two
    assert found.interval == pytest.approx((0, np.log(1.5)))


def test_means_have_the_intervals_of_scipy():
    first, second, truth = draw(400, 3)
    found = differences(first, second, truth)
    rows = np.arange(400)
    losses = [-np.log(p[rows, truth]) for p in (first, second)]
    squares = [((p - np.eye(3)[truth]) ** 2).sum(1) for p in (first, second)]
    for name, (a, b) in {"log_loss": losses, "brier": squares}.items():
        reference = bootstrap(
            (a, b),
            lambda a, b, axis=-1: a.mean(axis) - b.mean(axis),
            paired=True,
            n_resamples=4000,
            method="percentile",
            rng=1,
        ).confidence_interval
        low, high = getattr(found, name).interval
        width = reference.high - reference.low
        assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.1 * width)


def test_the_calibration_error_has_the_bias_corrected_interval_of_scipy():
    """SciPy's BCa, whose acceleration is small here; only its percentiles are shifted."""
    first, second, truth = draw(250, sharpness=(1.6, 0.6))

    def difference(rows):
        rows = rows.astype(int)
        errors = [
            measure_fully(p[rows], truth[rows]).expected_calibration_error for p in (first, second)
        ]
        return errors[0] - errors[1]

    reference = bootstrap(
        (np.arange(250),), difference, vectorized=False, n_resamples=600, method="BCa", rng=1
    ).confidence_interval
    low, high = differences(first, second, truth).expected_calibration_error.interval
    width = reference.high - reference.low
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.15 * width)


def test_the_seed_decides_and_many_rows_are_drawn_in_groups():
    first, second, truth = draw(3 * MAX_GROUPS)
    found = differences(first, second, truth, num_resamples=300)
    assert found == differences(first, second, truth, num_resamples=300)
    assert found != differences(first, second, truth, num_resamples=300, seed=1)
    losses = [-np.log(p[np.arange(len(truth)), truth]) for p in (first, second)]
    error = (losses[0] - losses[1]).std() / np.sqrt(len(truth))
    low, high = found.log_loss.interval
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert found.log_loss.clear == -1  # the first is what the truth was drawn from


def test_the_intervals_of_log_loss_and_brier_hold_as_often_as_they_say():
    true = {name: [] for name in ("log_loss", "brier")}
    first, second, truth = draw(400_000, seed=99)
    exact = differences(first, second, truth, num_resamples=2)
    for seed in range(150):
        found = differences(*draw(300, seed=seed), num_resamples=300)
        for name, hits in true.items():
            low, high = getattr(found, name).interval
            hits.append(low <= getattr(exact, name).difference <= high)
    for hits in true.values():
        assert 0.88 <= np.mean(hits) <= 1.0
