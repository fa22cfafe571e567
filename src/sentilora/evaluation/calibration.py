"""How far probabilities can be taken at their word, and below which a classifier should abstain.

Both are fitted on evaluation rows, never on test rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_ROWS = 300  # below, a temperature and a bound of 98 % are guesses
LOWEST, HIGHEST = 1 / 20, 20.0  # temperatures that are looked at
_RAN = "the fit of the temperature ran into its"
CAUTIONS = {  # what a temperature says that would rather be beyond them
    LOWEST: f"{_RAN} lower bound, {LOWEST:g}: the answers are right far more often than their "
    "probabilities say",
    HIGHEST: f"{_RAN} upper bound, {HIGHEST:g}: the probabilities say almost nothing about which "
    "answers are right",
}


@dataclass(frozen=True)
class Temperature:
    """What scores are divided by, and the log-loss on rows that it was not fitted on (5 folds).

    helps: whether that is lower than without, and the fit found a temperature. caution: what it
    means that it ran into a bound; None when it did not.
    """

    value: float
    log_loss_before: float
    log_loss_after: float
    caution: str | None = None

    @property
    def helps(self) -> bool:
        return self.caution is None and self.log_loss_after < self.log_loss_before

    @property
    def used(self) -> float:
        """What `predict` divides scores by: the value where it helps, else 1."""
        return self.value if self.helps else 1.0


@dataclass(frozen=True)
class Threshold:
    """Answers of at least this confidence are given; 0 when all may be.

    bound: one-sided 95 % on their accuracy.
    """

    confidence: float
    target_accuracy: float
    bound: float
    num_covered: int
    num_rows: int


def fit_temperature(log_probs: np.ndarray, truth: Sequence[int] | np.ndarray) -> float:
    """The temperature of the least log-loss (Guo et al. 2017, section 4.2), within bounds."""
    from scipy.optimize import minimize_scalar

    log_probs, true = np.asarray(log_probs, dtype=np.float64), np.asarray(truth)

    def loss(temperature: float) -> float:
        return round(_log_loss(log_probs, true, temperature), 12)

    found = minimize_scalar(
        lambda log_t: _log_loss(log_probs, true, np.exp(log_t)),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
    )
    # It never tries the bounds, and ends somewhere when several do as well.
    return min(1.0, LOWEST, HIGHEST, float(np.exp(found.x)), key=loss)


def choose_temperature(
    log_probs: np.ndarray, truth: Sequence[int] | np.ndarray, seed: int = 0
) -> Temperature:
    """A temperature fitted on all rows, and what five folds say of it."""
    from sklearn.model_selection import KFold

    log_probs, true = np.asarray(log_probs, dtype=np.float64), np.asarray(truth)
    after = 0.0
    for fitted_on, held_out in KFold(5, shuffle=True, random_state=seed).split(log_probs):
        temperature = fit_temperature(log_probs[fitted_on], true[fitted_on])
        after += len(held_out) * _log_loss(log_probs[held_out], true[held_out], temperature)
    value = fit_temperature(log_probs, true)
    return Temperature(
        value=value,
        log_loss_before=_log_loss(log_probs, true, 1.0),
        log_loss_after=after / len(true),
        caution=CAUTIONS.get(value),
    )


def _log_loss(log_probs: np.ndarray, true: np.ndarray, temperature: float) -> float:
    from scipy.special import log_softmax

    scaled = log_softmax(log_probs / temperature, axis=-1)
    return float(-scaled[np.arange(len(true)), true].mean())


def choose_threshold(
    probabilities: np.ndarray, truth: Sequence[int] | np.ndarray, target_accuracy: float
) -> Threshold:
    """The lowest confidence above which accuracy is at least the target, with 95 % confidence.

    The bound is Clopper and Pearson's (1934), one-sided, on the rows that are covered. It holds for
    that confidence alone: of many whose accuracy is just below the target the luckiest is taken.
    When it is reached nowhere, it is the confidence with the highest bound, which is then below the
    target.
    """
    from scipy.stats import beta

    from sentilora.metrics import coverage_curve

    confidence, accuracy = coverage_curve(probabilities, truth)
    num = np.arange(1, len(confidence) + 1)
    num_right = np.rint(accuracy * num)
    bounds = np.where(num_right > 0, beta.ppf(0.05, num_right, num - num_right + 1), 0.0)
    # Rows of one confidence are covered together.
    last = np.append(confidence[1:] < confidence[:-1], True)
    reached = np.flatnonzero(last & (bounds >= target_accuracy))
    best = reached[-1] if len(reached) else int(np.argmax(np.where(last, bounds, -1.0)))
    is_all = len(reached) > 0 and best == len(num) - 1
    return Threshold(
        confidence=0.0 if is_all else float(confidence[best]),
        target_accuracy=target_accuracy,
        bound=float(bounds[best]),
        num_covered=int(num[best]),
        num_rows=len(num),
    )
