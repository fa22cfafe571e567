"""The rows of a run: which train, which evaluate, which test.

train, evaluation = load_splits(train="reviews.csv", evaluation="train", test="train", …)
"""

from sentilora.data.held_out import hold_out
from sentilora.data.rows import Columns, Rows
from sentilora.data.sources import Source, load_rows
from sentilora.data.splits import (
    balanced,
    carve,
    require_every_label,
    sample,
    shuffled,
    stratified,
)

HELD_OUT = "train"  # as data.test: a part of data.train; as data.evaluation too
EVALUATION_PART = 6  # at most one row in so many evaluates, where counts are limits


def load_splits(
    *,
    train: Source,
    evaluation: Source,
    test: Source,
    columns: Columns,
    num_train: int,
    num_evaluation: int,
    seed: int,
    balance: str,
    num_train_subset: int = 0,
    are_limits: bool = False,
) -> tuple[Rows, Rows]:
    """Training and evaluation rows. The arguments are the settings of the `data` section.

    are_limits: whether the numbers of rows are the most to take, and fewer are no fault.

    Raises `DataError` if a source cannot be used or has too few rows, and if all training rows have
    the same label.
    """
    rows = load_rows(train, "train", columns)
    if test == HELD_OUT:
        rows, evaluation_rows, _ = hold_out(rows, 0, num_evaluation, seed, evaluation == HELD_OUT)
    if evaluation != HELD_OUT:
        source, split = (test, "test") if evaluation == "test" else (evaluation, "validation")
        other = load_rows(source, split, columns)
        limit = min(num_evaluation, len(other)) if are_limits else num_evaluation
        evaluation_rows = sample(other, limit, seed, "data.num_evaluation")
    if evaluation == test == HELD_OUT or evaluation != HELD_OUT:
        limit = min(num_train, len(rows)) if are_limits or test == HELD_OUT else num_train
        if balance == "sample":
            train_rows = rows.take(balanced(rows, shuffled(len(rows), seed), limit))
        else:
            train_rows = sample(rows, limit, seed, "data.num_train")
    else:
        if are_limits:
            num_evaluation = min(num_evaluation, max(1, len(rows) // EVALUATION_PART))
            num_train = min(num_train, max(1, len(rows) - num_evaluation))
        train_rows, evaluation_rows = carve(rows, num_train, num_evaluation, seed, balance)
    if num_train_subset:
        train_rows = stratified(train_rows, num_train_subset)
    require_every_label(train_rows, columns.labels)
    return train_rows, evaluation_rows


def load_test(test: Source, train: Source, columns: Columns, num_test: int, seed: int) -> Rows:
    """The test rows: all in the source's order, or the first `num_test` of the shuffle."""
    if test == HELD_OUT:
        rows = hold_out(load_rows(train, "train", columns), 0, 0, seed)[2]
    else:
        rows = load_rows(test, "test", columns)
    return sample(rows, num_test, seed, "data.num_test") if num_test else rows
