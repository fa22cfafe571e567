"""From log-probabilities of labels to answers: temperature, threshold, prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sentilora.scoring.explain import Explanation

ABSTAIN = "abstain"
TEXTS_AT_ONCE = 4096  # encoded and scored together: memory does not grow with their number


@dataclass(frozen=True)
class Prediction:
    """What a classifier answers to one text.

    label: the likeliest, or "abstain" below the classifier's threshold. probabilities: per label,
    in the classifier's order, summing to 1. truncated: whether part of the text was left out to fit
    `max_length`. explanation: which words moved the answer, when that was asked for.
    """

    text: str
    label: str
    probabilities: dict[str, float]
    truncated: bool
    explanation: "Explanation | None" = None


def at_temperature(log_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities over labels from log-probabilities (rows, labels), divided by a temperature.

    The one place where scores become probabilities.
    """
    from scipy.special import softmax

    return np.asarray(softmax(np.asarray(log_probs, dtype=np.float64) / temperature, axis=-1))


def answer(probabilities: np.ndarray, labels: Sequence[str], abstain_below: float) -> str:
    """The likeliest label of one row of probabilities, or "abstain" below the threshold."""
    best = int(probabilities.argmax())
    return labels[best] if probabilities[best] >= abstain_below else ABSTAIN
