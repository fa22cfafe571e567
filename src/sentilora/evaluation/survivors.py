"""Wrong answers that survive a confidence: how many errors a threshold would still let through.

survivors(probabilities, truth)[0].share_of_wrong
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sentilora.wording import percent

CONFIDENCES = (0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Survivors:
    """What is left when only answers of at least this confidence are given.

    coverage: share of the rows that are answered. share_wrong: share of these answers that are
    wrong; None without any. share_of_wrong: share of all wrong answers that are among them; None
    when no answer is wrong.
    """

    confidence: float
    num_answered: int
    coverage: float
    num_wrong: int
    share_wrong: float | None
    share_of_wrong: float | None


def survivors(
    probabilities: np.ndarray,
    truth: Sequence[int] | np.ndarray,
    confidences: Sequence[float] = CONFIDENCES,
) -> list[Survivors]:
    """What is left at each confidence. probabilities: (rows, labels), as `predict` gives them."""
    confidence = probabilities.max(-1)
    wrong = probabilities.argmax(-1) != np.asarray(truth)
    table = []
    for least in confidences:
        is_answered = confidence >= least
        num_answered, num_wrong = int(is_answered.sum()), int(wrong[is_answered].sum())
        table.append(
            Survivors(
                confidence=least,
                num_answered=num_answered,
                coverage=num_answered / len(wrong),
                num_wrong=num_wrong,
                share_wrong=num_wrong / num_answered if num_answered else None,
                share_of_wrong=num_wrong / int(wrong.sum()) if wrong.any() else None,
            )
        )
    return table


def as_lines(table: Sequence[Survivors], num_wrong: int, scale: str) -> list[str]:
    """The table for a terminal. num_wrong: of all answers. scale: of the probabilities."""
    title = f"wrong answers that survive a confidence (of {num_wrong:,}){scale}"
    return [
        title,
        f"{'at least':<10}{'answered':>10}{'coverage':>10}{'wrong':>8}{'of answers':>12}"
        f"{'of all wrong':>14}",
        *(
            f"{row.confidence:<10g}{row.num_answered:>10,}{percent(row.coverage):>10}"
            f"{row.num_wrong:>8,}{_share(row.share_wrong, 2):>12}{_share(row.share_of_wrong):>14}"
            for row in table
        ),
    ]


def _share(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else percent(value, digits)
