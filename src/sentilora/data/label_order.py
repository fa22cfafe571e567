"""Values of labels that are in an order, such as "1" to "5" stars or "very bad" to "very good".

values_of(("bad", "so so", "good"))     # (1.0, 2.0, 3.0)
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from sentilora.errors import UsageError

MIN_LABELS = 3


def values_of(labels: Sequence[str]) -> tuple[float, ...]:
    """The labels' own values if all are numbers, else their places, counted from 1.

    Raises `UsageError` for two labels, whose order says nothing, and for numbers that neither rise
    nor fall.
    """
    if len(labels) < MIN_LABELS:
        raise UsageError(
            f"prompt.ordered is set, but there are only {len(labels)} labels",
            setting="prompt.ordered",
            seen=True,
            remedy="leave it out: an order says something about three labels or more",
        )
    numbers = [_number(label) for label in labels]
    values = [number for number in numbers if number is not None]
    if len(values) < len(labels):
        return tuple(float(place) for place in range(1, len(labels) + 1))
    steps = [after - before for before, after in pairwise(values)]
    if not (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
        raise UsageError(
            f"prompt.ordered is set, but the labels {', '.join(labels)} are numbers that neither "
            "rise nor fall",
            setting="prompt.labels",
            seen=tuple(labels),
            remedy="write prompt.labels in their order",
        )
    return tuple(values)


def _number(label: str) -> float | None:
    try:
        number = float(label)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
