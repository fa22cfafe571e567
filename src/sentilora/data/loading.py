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
from sentilora.errors import UsageError

HELD_OUT = "train"  # as data.test: a part of data.train; as data.evaluation too


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
) -> tuple[Rows, Rows]:
    """Training and evaluation rows. The arguments are the settings of the `data` section.

    If test rows are held out of the training source, `num_train` is the most rows to take, because
    near-duplicates stay together.

    Raises `DataError` if a source cannot be used or has too few rows, and if all training rows have
    the same label.
    """
    require_test_rows(evaluation, test)
    rows = load_rows(train, "train", columns)
    if test == HELD_OUT:
        rows, held_out, _ = hold_out(rows, num_evaluation, seed, evaluation == HELD_OUT)
        if num_train > len(rows):
            num_train = 0
    if test == evaluation == HELD_OUT:
        train_rows, evaluation_rows = _training_rows(rows, num_train, seed, balance), held_out
    elif evaluation == HELD_OUT:
        train_rows, evaluation_rows = carve(rows, num_train, num_evaluation, seed, balance)
    else:
        source, split = (test, "test") if evaluation == "test" else (evaluation, "validation")
        train_rows = _training_rows(rows, num_train, seed, balance)
        other = load_rows(source, split, columns)
        evaluation_rows = sample(other, num_evaluation, seed, "data.num_evaluation")
    if num_train_subset:
        train_rows = stratified(train_rows, num_train_subset)
    require_every_label(train_rows, columns.labels)
    return train_rows, evaluation_rows


def require_test_rows(evaluation: Source, test: Source) -> None:
    """Raise `UsageError` if the evaluation rows are test rows, and those are held out."""
    if evaluation == "test" and test == HELD_OUT:
        raise UsageError(
            "data.evaluation=test takes evaluation rows out of data.test, and there are no test "
            "rows but those held out",
            setting="data.evaluation",
            seen="test",
            remedy="name test rows with data.test=…, or leave out data.evaluation",
        )


def _training_rows(rows: Rows, num_train: int, seed: int, balance: str) -> Rows:
    """The training rows of a source of their own."""
    if balance == "sample":
        return rows.take(balanced(rows, shuffled(len(rows), seed), num_train))
    return sample(rows, num_train, seed, "data.num_train")


def load_test(test: Source, train: Source, columns: Columns, num_test: int, seed: int) -> Rows:
    """The test rows: all in the source's order, or the first `num_test` of the shuffle."""
    if test == HELD_OUT:
        rows = hold_out(load_rows(train, "train", columns), 0, seed, with_evaluation=False)[2]
    else:
        rows = load_rows(test, "test", columns)
    return sample(rows, num_test, seed, "data.num_test") if num_test else rows
