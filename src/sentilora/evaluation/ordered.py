"""Figures of labels that have an order, such as one to five stars.

measure_ordered(probabilities, truth, values).quadratic_kappa
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sentilora.scoring.answers import expected_values
from sentilora.wording import as_metric


@dataclass(frozen=True)
class OrderedFigures:
    """How far answers are from the true labels, which have an order and thereby values.

    mean_absolute_error: of the answers' values. expected_value_error: mean absolute error of the
    expected values, the labels' values weighted by their probabilities. mean_expected_value: over
    the rows; mean_value: of the true labels. quadratic_kappa: Cohen's kappa of answers and true
    labels with quadratic weights (Cohen 1968), over the labels' places; 1 is best, 0 is chance;
    None if it is undefined, because all rows and answers have the same label.
    """

    mean_absolute_error: float
    expected_value_error: float
    mean_expected_value: float
    mean_value: float
    quadratic_kappa: float | None


def measure_ordered(
    probabilities: np.ndarray, truth: Sequence[int] | np.ndarray, values: Sequence[float]
) -> OrderedFigures:
    """The figures of probabilities (rows, labels). values: of the labels, in their order."""
    from sklearn.metrics import cohen_kappa_score

    true, of_label = np.asarray(truth), np.asarray(values, dtype=np.float64)
    answers = np.asarray(probabilities).argmax(-1)
    expected = expected_values(probabilities, values)
    kappa = None
    if len(np.union1d(true, answers)) > 1:
        places = list(range(len(of_label)))
        kappa = float(cohen_kappa_score(true, answers, labels=places, weights="quadratic"))
    return OrderedFigures(
        mean_absolute_error=float(abs(of_label[answers] - of_label[true]).mean()),
        expected_value_error=float(abs(expected - of_label[true]).mean()),
        mean_expected_value=float(expected.mean()),
        mean_value=float(of_label[true].mean()),
        quadratic_kappa=kappa,
    )


def as_lines(
    figures: Mapping[str, OrderedFigures], labels: Sequence[str], values: Sequence[float]
) -> list[str]:
    """The figures for a terminal, a line per model. figures: by the model's name."""
    first = next(iter(figures.values()))
    return [
        f"{'in order':<10}{'MAE':>8}{'expected MAE':>14}{'mean expected':>15}"
        f"{'quadratic kappa':>17}",
        *(
            f"{name:<10}{x.mean_absolute_error:>8.4f}{x.expected_value_error:>14.4f}"
            f"{x.mean_expected_value:>15.4f}{as_metric(x.quadratic_kappa):>17}"
            for name, x in figures.items()
        ),
        f"from {values[0]:g} ({labels[0]}) to {values[-1]:g} ({labels[-1]}); mean of the true "
        f"labels {first.mean_value:.4f}",
    ]
