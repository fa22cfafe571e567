"""Turn log-probabilities of labels into answers: temperature, threshold, prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from sentilora.scoring.explain import Explanation

ABSTAIN = "abstain"
TEXTS_AT_ONCE = 4096  # are encoded and scored together; a limit, so that memory stays bounded


@dataclass(frozen=True)
class Scores:
    """Scores of consecutive texts.

    log_probs: log-probabilities of the labels, float64 (texts, labels), before any temperature.
    base_log_probs: the same of the base without its adapter; None if not requested. truncated: bool
    (texts,), whether part of a text was left out to fit `max_length`. left_out: float64 (texts,),
    the most of a text's probability that labels can have which were not scored themselves.
    """

    log_probs: np.ndarray
    base_log_probs: np.ndarray | None
    truncated: np.ndarray
    left_out: np.ndarray


@dataclass(frozen=True)
class Prediction:
    """A classifier's answer to one text.

    label: the most probable label, or "abstain" if its probability is below the classifier's
    threshold; None if the text cannot be classified, and `reason` says why. probabilities:
    {label: probability}, in the classifier's order, with sum 1; empty without a label. truncated:
    whether part of the text was left out to fit `max_length`. explanation: contribution of each
    word, if requested. label_set: labels that hold the true one with a chosen probability, the most
    probable first; None unless requested.
    """

    text: str
    label: str | None
    probabilities: dict[str, float]
    truncated: bool
    explanation: "Explanation | None" = None
    reason: str | None = None
    label_set: tuple[str, ...] | None = None

    @classmethod
    def without_answer(cls, cell: object, reason: str) -> Self:
        """The prediction for a row that cannot be classified. cell: of its text. reason: why."""
        return cls("" if cell is None else str(cell), None, {}, truncated=False, reason=reason)


def at_temperature(log_probs: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities of labels: softmax of log-probabilities (rows, labels) over a temperature.

    Scores become probabilities nowhere else.
    """
    from scipy.special import softmax

    return np.asarray(softmax(np.asarray(log_probs, dtype=np.float64) / temperature, axis=-1))


def with_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (rows, labels) at a temperature, from those at temperature 1."""
    with np.errstate(divide="ignore"):  # log 0 stays 0
        return at_temperature(np.log(probabilities), temperature)


def is_in_set(probabilities: np.ndarray, least_probability: float) -> np.ndarray:
    """Which labels are in each row's set: bool (rows, labels).

    Those with at least this probability, and the most probable one. See `evaluation.label_sets`.
    """
    members = probabilities >= least_probability
    members[np.arange(len(members)), probabilities.argmax(-1)] = True
    return np.asarray(members)


def set_of(
    probabilities: np.ndarray, labels: Sequence[str], least_probability: float
) -> tuple[str, ...]:
    """The labels in the set of one row of probabilities, the most probable first."""
    members = is_in_set(probabilities[None], least_probability)[0]
    return tuple(labels[i] for i in np.argsort(-probabilities, kind="stable") if members[i])


def expected_values(probabilities: np.ndarray, values: Sequence[float]) -> np.ndarray:
    """The labels' values weighted by each row's probabilities (rows, labels): float64 (rows,)."""
    return np.asarray(probabilities, dtype=np.float64) @ np.asarray(values, dtype=np.float64)


def answer(probabilities: np.ndarray, labels: Sequence[str], abstain_below: float) -> str:
    """The most probable label of one row of probabilities, or "abstain" below the threshold."""
    best = int(probabilities.argmax())
    return labels[best] if probabilities[best] >= abstain_below else ABSTAIN
