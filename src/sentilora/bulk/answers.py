"""The rows of a table as predictions, and predictions as columns of a table."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sentilora.data.columns import items_of
from sentilora.data.soft_labels import PREDICTION, PREFIX
from sentilora.data.tables import python_values
from sentilora.data.text import Item
from sentilora.errors import DataError
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier

if TYPE_CHECKING:
    import pyarrow as pa

LABEL_SET = "label_set"  # column with the labels that hold the true one, if they are requested
REASON = "reason"  # column with the reason why a row has no answer


def classify_rows(
    classifier: Classifier,
    table: "pa.Table",
    columns: Sequence[str],
    progress: Callable[[int], object],
) -> list[Prediction]:
    """The predictions for the rows; one without a label for a row that cannot be classified.

    columns: that of the texts, then the others that the prompt shows. progress: called with each
    number of rows that are done.
    """
    text, *others = columns
    items = items_of(table, text, others)
    usable = usable_items(items)
    progress(len(items) - len(usable))
    return predictions_for(table, text, items, classifier.classify(usable, progress))


def usable_items(items: Sequence[Item | DataError]) -> list[Item]:
    """What the prompt shows of the rows that can be classified."""
    return [item for item in items if not isinstance(item, DataError)]


def predictions_for(
    table: "pa.Table",
    text: str,
    items: Sequence[Item | DataError],
    answers: Sequence[Prediction],
) -> list[Prediction]:
    """The predictions for the rows of a table, from the answers to those that are usable.

    items: of the rows, as `items_of` returned them.
    """
    predictions = iter(answers)
    return [
        Prediction.without_answer(cell, item.problem)
        if isinstance(item, DataError)
        else next(predictions)
        for item, cell in zip(items, python_values(table[text]), strict=True)
    ]


def prediction_columns(
    predictions: Sequence[Prediction], labels: Sequence[str], has_sets: bool
) -> "pa.Table":
    """The columns `prediction`, `probability_<label>`, `truncated`, perhaps `label_set`, `reason`.

    All but `reason` are null in a row without an answer, and `reason` in the others.
    """
    import pyarrow as pa

    sets = [p.label_set for p in predictions]
    return pa.table(
        {
            PREDICTION: pa.array([p.label for p in predictions], pa.string()),
            **{
                f"{PREFIX}{label}": pa.array(
                    [p.probabilities.get(label) for p in predictions], pa.float64()
                )
                for label in labels
            },
            "truncated": pa.array(
                [None if p.label is None else p.truncated for p in predictions], pa.bool_()
            ),
            **({LABEL_SET: pa.array(sets, pa.list_(pa.string()))} if has_sets else {}),
            REASON: pa.array([p.reason for p in predictions], pa.string()),
        }
    )


def predictions_of(
    table: "pa.Table", columns: "pa.Table", text: str, labels: Sequence[str]
) -> list[Prediction]:
    """The predictions that `prediction_columns` turned into columns, for the rows of a table."""
    answers = columns.to_pylist()
    return [
        Prediction.without_answer(cell, row[REASON])
        if row["prediction"] is None
        else Prediction(
            cell,
            row["prediction"],
            {label: row[f"{PREFIX}{label}"] for label in labels},
            row["truncated"],
            label_set=tuple(row[LABEL_SET]) if LABEL_SET in row else None,
        )
        for row, cell in zip(answers, python_values(table[text]), strict=True)
    ]
