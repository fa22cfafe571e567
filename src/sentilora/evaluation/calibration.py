"""Calibration: a temperature for the probabilities, and a threshold below which to abstain.

Both are fitted on evaluation rows, never on test rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_ROWS = 300  # with fewer, a temperature and a bound of 98 % are guesses
LOWEST, HIGHEST = 1 / 20, 20.0  # the range of temperatures that is searched
_STOPPED = "the temperature fit stopped at its"
CAUTIONS = {  # what it means when the best temperature lies outside the range
    LOWEST: f"{_STOPPED} lower bound, {LOWEST:g}: the answers are right far more often than their "
    "probabilities say",
    HIGHEST: f"{_STOPPED} upper bound, {HIGHEST:g}: the probabilities say almost nothing about "
    "which answers are right",
}


@dataclass(frozen=True)
class Temperature:
    """A divisor of scores, and the log-loss before and after it (5-fold cross-validation).

    caution: what it means that the fit stopped at a bound of its range; None when it did not.
    """

    value: float
    log_loss_before: float
    log_loss_after: float
    caution: str | None = None

    @property
    def helps(self) -> bool:
        """Whether the fit stayed within its range and lowers the log-loss."""
        return self.caution is None and self.log_loss_after < self.log_loss_before

    @property
    def divisor(self) -> float:
        """What `predict` divides scores by: the value as it is stored when it helps, else 1."""
        return round(self.value, 4) if self.helps else 1.0


@dataclass(frozen=True)
class Threshold:
    """The lowest confidence with which a text is answered; 0 answers every text.

    bound: one-sided 95 % lower bound on the accuracy of the answers, of which there are num_covered
    among num_rows evaluation rows.
    """

    confidence: float
    target_accuracy: float
    bound: float
    num_covered: int
    num_rows: int


def fit_temperature(log_probs: np.ndarray, truth: Sequence[int] | np.ndarray) -> float:
    """The temperature with the lowest log-loss (Guo et al. 2017, section 4.2), within bounds."""
    from scipy.optimize import minimize_scalar

    log_probs, true = np.asarray(log_probs, dtype=np.float64), np.asarray(truth)

    def loss(temperature: float) -> float:
        return round(_log_loss(log_probs, true, temperature), 12)

    fit = minimize_scalar(
        lambda log_t: _log_loss(log_probs, true, np.exp(log_t)),
        bounds=(np.log(LOWEST), np.log(HIGHEST)),
        method="bounded",
    )
    # The search never tries the bounds, and stops anywhere when several temperatures tie.
    return min(1.0, LOWEST, HIGHEST, float(np.exp(fit.x)), key=loss)


def choose_temperature(
    log_probs: np.ndarray, truth: Sequence[int] | np.ndarray, seed: int = 0
) -> Temperature:
    """A temperature fitted on all rows, with its log-loss from five-fold cross-validation.

    truth: the number of each row's label, or with soft labels the share of each label.
    """
    from sklearn.model_selection import KFold

    log_probs, true = np.asarray(log_probs, dtype=np.float64), np.asarray(truth)
    after = 0.0
    for train, test in KFold(5, shuffle=True, random_state=seed).split(log_probs):
        temperature = fit_temperature(log_probs[train], true[train])
        after += len(test) * _log_loss(log_probs[test], true[test], temperature)
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
    if true.ndim == 2:
        return float(-(true * scaled).sum(-1).mean())
    return float(-scaled[np.arange(len(true)), true].mean())


def choose_threshold(
    probabilities: np.ndarray, truth: Sequence[int] | np.ndarray, target_accuracy: float
) -> Threshold:
    """The lowest threshold at which a 95 % lower bound on accuracy reaches the target.

    The bound is one-sided, of Clopper and Pearson (1934), on the rows at or above the threshold. It
    holds for a threshold chosen in advance; this one is picked among many, and the luckiest of
    those just below the target may pass. When no threshold reaches the target, the result is the
    one with the highest bound.
    """
    from scipy.stats import beta

    from sentilora.metrics import coverage_curve

    confidence, accuracy = coverage_curve(probabilities, truth)
    num = np.arange(1, len(confidence) + 1)
    num_correct = np.rint(accuracy * num)
    bounds = np.where(num_correct > 0, beta.ppf(0.05, num_correct, num - num_correct + 1), 0.0)
    # Rows with the same confidence are covered together.
    is_last = np.append(confidence[1:] < confidence[:-1], True)
    hits = np.flatnonzero(is_last & (bounds >= target_accuracy))
    best = hits[-1] if len(hits) else int(np.argmax(np.where(is_last, bounds, -1.0)))
    is_all = len(hits) > 0 and best == len(num) - 1
    return Threshold(
        confidence=0.0 if is_all else float(confidence[best]),
        target_accuracy=target_accuracy,
        bound=float(bounds[best]),
        num_covered=int(num[best]),
        num_rows=len(num),
    )
