"""inference.py: the labels of a column, and columns that hold none."""

import datasets
import pyarrow as pa
import pytest

from sentilora.data.inference import are_numbers, infer_columns, infer_labels
from sentilora.data.memory import table_of
from sentilora.errors import DataError


def labels(values):
    return infer_labels("x.csv", pa.table({"label": values}), "label")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["spam", "ham", "spam"], ("ham", "spam")),
        (["b", "A", "b ", None], ("A", "b")),
        ([1, 0, 10, 2] * 4, ("0", "1", "2", "10")),
        ([1.0, 0.0, None], ("0", "1")),
        ([True, False], ("False", "True")),
        (["10", "9", "x"], ("9", "10", "x")),
        (["Billing", "billing ", "Billing", "returns"], ("Billing", "returns")),
    ],
)
def test_labels_are_the_values_of_their_column(values, expected):
    assert labels(values) == expected
    assert are_numbers(expected) == all(word.isdigit() for word in expected)


def test_names_stored_with_the_data_are_the_labels():
    features = datasets.Features({"label": datasets.ClassLabel(names=["no", "yes", "maybe"])})
    table = table_of(datasets.Dataset.from_dict({"label": [1, 0]}, features=features))
    assert infer_labels("x", table, "label") == ("no", "yes", "maybe")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (["spam"] * 5, "all its 5 values are 'spam'"),
        ([None, None], "it is empty"),
        ([f"ticket {i}" for i in range(40)], "it has 40 values in 40 rows, as ids or texts have"),
        ([f"label {i}" for i in range(400)] * 3, "it has 400 values, and 300 are the most"),
        (["a long text " * 20, "another"] * 9, "it has 2 texts, such as 'a long text"),
    ],
)
def test_a_column_that_holds_no_labels_is_refused(values, reason):
    with pytest.raises(
        DataError, match=f"label of x.csv cannot hold the labels: {reason}"
    ) as error:
        labels(values)
    assert error.value.setting == "label_column"


def test_values_that_the_map_names_have_its_words():
    table = pa.table({"label": [0, 1, 2, 1]})
    names = {"0": "no", "1": "yes", "pos": "positive"}
    assert infer_labels("x", table, "label", names) == ("no", "yes", "2")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["text", "label"], {}),
        (["id", "Message", "category"], {"text": "Message", "label": "category"}),
        (["text", "anything"], {"label": "anything"}),
        (["anything", "intent"], {"text": "anything", "label": "intent"}),
        (["review", "comment", "label"], {}),  # which one is the text?
        (["a", "b"], {}),
        (["text", "label", "category"], {}),
    ],
)
def test_columns_are_recognized_by_their_names(names, expected):
    assert infer_columns(names, "text", "label") == expected
