"""Sets of labels that hold the true one with a chosen probability: split-conformal prediction.

    at_least = least_probability(eval_probabilities, eval_truth, 0.9)
    is_in_set(probabilities, at_least)            # bool (rows, labels)

The score of a label is 1 − its probability, as in "least ambiguous set-valued classifiers"
(Sadinle, Lei and Wasserman 2019, Journal of the American Statistical Association 114:223), known as
LAC; it gives the smallest sets on average. Its quantile with the correction for few rows is that of
Angelopoulos and Bates 2021 ("A Gentle Introduction to Conformal Prediction", section 1). Then a set
has the true label with at least the chosen probability, if the rows come from where the evaluation
rows came from. That holds over all rows, not for each label or each text. The evaluation rows have
also chosen the checkpoint and the temperature, which makes the sets a little too small: so their
coverage is measured on the test rows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sentilora.metrics import wilson_interval
from sentilora.scoring.answers import is_in_set
from sentilora.wording import percent, percent_interval

TARGETS = (0.8, 0.9, 0.95)
MIN_LABELS = 3  # a set of two labels of two says nothing that an abstention does not


@dataclass(frozen=True)
class LabelSets:
    """Sets for one target, chosen on the evaluation rows and measured on the test rows.

    target: the coverage aimed at. least_probability: a label is in the set from this probability
    on, and the likeliest one always is. coverage: share of the test rows whose set has the true
    label; interval: 95 % Wilson. mean_size: labels in a set. share_single: share of the sets with
    one label. num_evaluation: number of evaluation rows.
    """

    target: float
    least_probability: float
    coverage: float
    interval: tuple[float, float]
    mean_size: float
    share_single: float
    num_evaluation: int


def least_probability(
    probabilities: np.ndarray, truth: Sequence[int] | np.ndarray, target: float
) -> float:
    """The probability from which a label is in the set. Probabilities (evaluation rows, labels).

    The true label's probability is at least this high in ⌈(n + 1) · target⌉ of n rows. 0 if that
    is more than n: then every label is in every set.
    """
    true = np.asarray(truth)
    of_true = np.sort(probabilities[np.arange(len(true)), true])[::-1]
    num = math.ceil(round((len(true) + 1) * target, 9))  # 0.7 · 10 is 7.000000000000001
    return float(of_true[num - 1]) if num <= len(true) else 0.0


def measure_sets(
    at_least: Sequence[tuple[float, float]],
    probabilities: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    num_evaluation: int,
) -> list[LabelSets]:
    """What the sets are like on the test rows. at_least: (target, least probability) pairs."""
    true = np.asarray(truth)
    table = []
    for target, probability in at_least:
        members = is_in_set(probabilities, probability)
        sizes = members.sum(-1)
        num_right = int(members[np.arange(len(true)), true].sum())
        table.append(
            LabelSets(
                target=target,
                least_probability=probability,
                coverage=num_right / len(true),
                interval=wilson_interval(num_right, len(true)),
                mean_size=float(sizes.mean()),
                share_single=float((sizes == 1).mean()),
                num_evaluation=num_evaluation,
            )
        )
    return table


def as_lines(table: Sequence[LabelSets], num_labels: int, scale: str) -> list[str]:
    """The table for a terminal. scale: of the probabilities, in words."""
    return [
        f"sets of labels that hold the true one (split conformal, chosen on "
        f"{table[0].num_evaluation:,} evaluation rows{scale})",
        f"{'target':<10}{'coverage':>10}  {'95 % Wilson':<18}{'mean size':>10}{'one label':>11}"
        f"{'in the set from':>17}",
        *(
            f"{percent(row.target):<10}{percent(row.coverage, 2):>10}  "
            f"{percent_interval(row.interval, 2):<18}{row.mean_size:>10.2f}"
            f"{percent(row.share_single):>11}{row.least_probability:>17.4f}"
            for row in table
        ),
        f"mean size: of {num_labels:,} labels; one label: share of sets that have only one",
    ]
