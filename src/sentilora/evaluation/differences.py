"""How far two classifiers' probabilities differ in quality: differences with bootstrap intervals.

    difference = differences(adapter, base, truth).log_loss
    difference.difference, difference.interval

McNemar's test and Newcombe's interval, in `metrics`, compare answers. These compare probabilities.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sentilora.metrics import NUM_BINS, bin_numbers

NUM_RESAMPLES = 2000
# More rows are resampled in this many groups. 2,000 resamples of 10,000 rows take a second on a CPU
# core, and more rows take no longer.
MAX_GROUPS = 10_000
GROUPS_AT_ONCE = 4_000_000  # drawn together: 32 MB


@dataclass(frozen=True)
class Difference:
    """A metric of the first classifier minus that of the second. interval: 95 % bootstrap."""

    difference: float
    interval: tuple[float, float]

    @property
    def clear(self) -> int:
        """1 if the first has the larger value, −1 if the second has, 0 if the interval has zero."""
        low, high = self.interval
        return int(low > 0) - int(high < 0)


@dataclass(frozen=True)
class Differences:
    """Two classifiers on the same rows. Below zero, the probabilities of the first are better."""

    log_loss: Difference
    brier: Difference
    expected_calibration_error: Difference


def differences(
    first: np.ndarray,
    second: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Differences:
    """The differences of log-loss, Brier score and calibration error. Probabilities (rows, labels).

    Rows are drawn with replacement, the same ones for both classifiers (a paired bootstrap). The
    intervals are bias-corrected percentiles (Efron and Tibshirani 1993, An Introduction to the
    Bootstrap, section 14.3, without acceleration): the calibration error of a resample is biased
    upwards, and plain percentiles shift its interval. SciPy's `bootstrap` corrects a bias only
    together with acceleration, which takes one more evaluation for every row. More than 10,000 rows
    are put into that many groups at random, and the groups are drawn, which bounds the time.

    The interval of the calibration error is the roughest: the figure itself is too large on few
    rows, above all for a calibrated model, and only a part of that can be corrected. On 300 to
    2,000 drawn rows it held the true difference in 86 to 95 % of 200 repetitions where neither
    model was calibrated, and in 55 to 61 % where one was perfectly (plain percentiles: 18 to 33 %).
    """
    true = np.asarray(truth)
    random = np.random.default_rng(seed)
    num_groups = min(len(true), MAX_GROUPS)
    group = np.arange(len(true))
    if num_groups < len(true):
        group = random.permutation(group % num_groups)
    sums = [_sums(np.asarray(p, dtype=np.float64), true, group) for p in (first, second)]
    observed = _metrics(np.ones((1, num_groups)), sums, group)[0]
    resampled = np.concatenate(
        [_metrics(counts, sums, group) for counts in _draws(random, num_resamples, num_groups)]
    )
    return Differences(
        *(
            Difference(float(value), _interval(value, values))
            for value, values in zip(observed, resampled.T, strict=True)
        )
    )


def _sums(probabilities: np.ndarray, true: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Sums over each group (groups, 2 + bins): log-loss, Brier score, and by bin the accuracy
    minus the confidence."""
    of_true = probabilities[np.arange(len(true)), true]
    losses = -np.log(of_true.clip(np.finfo(np.float64).tiny))
    squares = (probabilities**2).sum(-1) - 2 * of_true + 1
    if probabilities.shape[1] == 2:
        squares /= 2  # as in `metrics`: of the second of two labels
    confidence = probabilities.max(-1)
    gaps = (probabilities.argmax(-1) == true) - confidence
    num_groups = int(group.max()) + 1
    place = group * NUM_BINS + bin_numbers(confidence)
    by_bin = np.bincount(place, gaps, num_groups * NUM_BINS).reshape(num_groups, NUM_BINS)
    return np.column_stack([np.bincount(group, losses), np.bincount(group, squares), by_bin])


def _draws(
    random: np.random.Generator, num_resamples: int, num_groups: int
) -> Iterator[np.ndarray]:
    """How often each group is drawn (resamples, groups), piece by piece."""
    at_once = max(1, GROUPS_AT_ONCE // num_groups)
    for start in range(0, num_resamples, at_once):
        num = min(at_once, num_resamples - start)
        drawn = random.integers(num_groups, size=(num, num_groups))
        drawn += np.arange(num)[:, None] * num_groups
        counts = np.bincount(drawn.ravel(), minlength=num * num_groups)
        yield counts.reshape(num, num_groups).astype(np.float64)


def _metrics(counts: np.ndarray, sums: Sequence[np.ndarray], group: np.ndarray) -> np.ndarray:
    """The three differences of each resample (resamples, 3). counts: how often groups are in it."""
    num_rows = counts @ np.bincount(group)
    first, second = (counts @ part / num_rows[:, None] for part in sums)
    errors = [abs(part[:, 2:]).sum(-1) for part in (first, second)]
    return np.column_stack([first[:, :2] - second[:, :2], errors[0] - errors[1]])


def _interval(observed: float, resampled: np.ndarray) -> tuple[float, float]:
    from scipy.stats import norm

    below = ((resampled < observed).mean() + (resampled <= observed).mean()) / 2
    least = 0.5 / len(resampled)
    bias = norm.ppf(np.clip(below, least, 1 - least))
    low, high = np.quantile(resampled, norm.cdf(2 * bias + norm.ppf([0.025, 0.975])))
    return float(low), float(high)
