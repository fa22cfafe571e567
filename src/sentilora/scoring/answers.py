"""From log-probabilities of labels to answers: temperature, threshold, prediction."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """label: the likeliest, or "abstain" below the classifier's threshold.

    probabilities: per label, in the classifier's order, summing to 1. truncated: whether part of
    the text was left out to fit `max_length`.
    """

    label: str
    probabilities: dict[str, float]
    truncated: bool


ABSTAIN = "abstain"


def at_temperature(log_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities over labels from log-probabilities (rows, labels), divided by a temperature."""
    from scipy.special import softmax

    return np.asarray(softmax(np.asarray(log_probs, dtype=np.float64) / temperature, axis=-1))
