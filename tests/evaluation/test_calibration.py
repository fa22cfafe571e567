"""calibration.py on models whose calibration is known, and on bounds of SciPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from sentilora.evaluation.calibration import choose_temperature, choose_threshold, fit_temperature
from sentilora.metrics import coverage_curve, measure_fully, reliability
from sentilora.scoring.answers import at_temperature


def draw(num_rows, num_labels=2, seed=0, spread=2.0):
    """Log-probabilities of a perfectly calibrated model: the truth is drawn from them."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=(num_rows, num_labels)) * spread
    probabilities = at_temperature(scores, 1.0)
    truth = (probabilities.cumsum(1) > random.random((num_rows, 1))).argmax(1)
    return np.log(probabilities), truth


@pytest.mark.parametrize("num_labels", [2, 5])
def test_a_calibrated_model_keeps_its_temperature(num_labels):
    log_probs, truth = draw(20_000, num_labels)
    assert fit_temperature(log_probs, truth) == pytest.approx(1.0, abs=0.05)
    metrics = measure_fully(at_temperature(log_probs, 1.0), truth)
    assert metrics.expected_calibration_error < 0.015
    assert len(reliability(at_temperature(log_probs, 1.0), truth)) > 7


@pytest.mark.parametrize("factor", [0.4, 4.0])
def test_a_model_too_sure_or_not_sure_enough_is_put_right(factor):
    log_probs, truth = draw(20_000)
    found = choose_temperature(log_probs * factor, truth)
    assert found.value == pytest.approx(factor, rel=0.05) and found.helps
    before = measure_fully(at_temperature(log_probs * factor, 1.0), truth)
    after = measure_fully(at_temperature(log_probs * factor, found.value), truth)
    assert before.expected_calibration_error > 0.08 > 0.015 > after.expected_calibration_error
    assert after.accuracy == before.accuracy  # no answer changes
    assert found.log_loss_before == pytest.approx(before.log_loss)
    assert found.log_loss_after == pytest.approx(after.log_loss, abs=2e-3)


def test_a_temperature_that_only_fits_the_noise_does_not_help():
    helped = [choose_temperature(*draw(300, seed=seed), seed=seed).helps for seed in range(40)]
    assert sum(helped) <= 20  # by chance it is off by a little, sometimes to the good


def test_a_fit_that_runs_into_its_bound_says_what_that_means():
    right = np.log([[0.9, 0.1]] * 50)
    found = choose_temperature(right, [0] * 50)  # never wrong
    assert found.value == 0.05 and not found.helps  # nothing says how far down it would go
    assert found.log_loss_after < found.log_loss_before
    assert "at its lower bound, 0.05: the answers are right far more often" in found.caution
    found = choose_temperature(right, [1] * 50)  # never right
    assert found.value == 20 and not found.helps
    assert "at its upper bound, 20: the probabilities say almost nothing" in found.caution


@pytest.mark.parametrize("scores", [[-0.7, -0.7], [0.0, -1e4]])
def test_scores_that_no_temperature_makes_better_run_into_nothing(scores):
    found = choose_temperature(np.array([scores] * 50), [0] * 50)
    assert found.value == 1 and not found.helps and found.caution is None
    assert choose_temperature(*draw(2000)).caution is None


@given(
    st.lists(st.tuples(st.integers(50, 100), st.booleans()), min_size=1, max_size=60),
    st.floats(0.5, 0.99),
)
def test_the_threshold_is_the_lowest_whose_bound_reaches_the_target(rows, target):
    """Against SciPy's interval, threshold by threshold."""
    confidence = np.array([percent / 100 for percent, _ in rows])
    probabilities = np.stack([confidence, 1 - confidence], 1)
    truth = np.array(
        [0 if right or c == 0.5 else 1 for c, (_, right) in zip(confidence, rows, strict=True)]
    )
    bounds = {}
    for threshold in sorted(set(confidence)):
        covered = confidence >= threshold
        num_right = int((truth[covered] == 0).sum())
        test = binomtest(num_right, int(covered.sum()), alternative="greater")
        bounds[threshold] = test.proportion_ci(0.95, method="exact").low
    found = choose_threshold(probabilities, truth, target)
    reached = [threshold for threshold, bound in bounds.items() if bound >= target]
    if reached:  # by all rows: then every answer may be given, less sure ones too
        lowest = min(reached)
        assert found.confidence == (0 if lowest == min(bounds) else lowest)
        assert found.bound == pytest.approx(bounds[lowest]) and found.bound >= target
    else:
        assert found.bound == pytest.approx(max(bounds.values()))
        assert found.bound == pytest.approx(bounds[found.confidence])
    assert found.num_covered == (confidence >= found.confidence).sum()
    assert (found.num_rows, found.target_accuracy) == (len(rows), target)


def test_the_surest_answers_are_the_most_accurate():
    log_probs, truth = draw(5000)
    threshold, accuracy = coverage_curve(np.exp(log_probs), truth)
    assert (np.diff(threshold) <= 0).all() and len(threshold) == 5000
    assert accuracy[499] > accuracy[2499] > accuracy[4999]
    assert accuracy[4999] == measure_fully(np.exp(log_probs), truth).accuracy
