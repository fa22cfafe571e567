"""memory.py: tables in memory, and what happens to one in place of texts."""

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import sentilora
from sentilora.data.memory import in_memory
from sentilora.data.rows import Columns
from sentilora.data.sources import load_rows
from sentilora.errors import DataError, UsageError
from sentilora.scoring.classifier import list_of_texts

COLUMNS = {"text": ["a", "b"], "label": ["positive", "negative"]}


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame(COLUMNS, index=[7, 9]),
        datasets.Dataset.from_dict(COLUMNS),
        datasets.Dataset.from_dict({k: v[::-1] for k, v in COLUMNS.items()}).select([1, 0]),
        pa.table(COLUMNS),
        pa.table(COLUMNS).to_reader(),
    ],
    ids=lambda table: type(table).__name__,
)
def test_a_table_of_any_kind_is_a_source(table):
    source = in_memory(table, "data")
    rows = load_rows(source, "train", Columns(labels=("positive", "negative")))
    assert (rows.texts, rows.labels) == (COLUMNS["text"], COLUMNS["label"])
    assert rows.source == f"memory:{type(table).__name__}" and list(rows.numbers) == [0, 1]


def test_a_data_set_keeps_the_names_of_its_labels():
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["positive", "neg"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    columns = Columns(label_map={"neg": "negative"}, labels=("positive", "negative"))
    assert load_rows(in_memory(data, "data"), "train", columns).labels == COLUMNS["label"]


def test_what_is_no_table_is_refused():
    stream = datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset()  # ended in AttributeError
    for value in ([1], "reviews.csv", np.zeros(3), pd.Series(["a"]), stream):
        with pytest.raises(UsageError, match=r"`data` is an? .*pass a pandas DataFrame") as error:
            in_memory(value, "data")
        assert error.value.setting == "data"
    for frame in (pd.DataFrame({"text": ["a", 5]}), pd.DataFrame([["a", "b"]], columns=["x", "x"])):
        with pytest.raises(DataError, match="`data` is a DataFrame that is no table of Arrow"):
            in_memory(frame, "data")
    stream = datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset()
    with pytest.raises(UsageError, match="`data` is an IterableDataset, not a table"):
        in_memory(stream, "data")


@pytest.mark.parametrize(
    "table",
    [pd.DataFrame(COLUMNS), datasets.Dataset.from_dict(COLUMNS), pa.table(COLUMNS)],
    ids=lambda table: type(table).__name__,
)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "classify"])
def test_a_table_is_not_classified_by_its_columns_names(table, method, classifier):
    """lightning-flash #846: a DataFrame was iterated over, which gives its columns' names."""
    with pytest.raises(UsageError, match=r"columns text, label; pass .* data\['text'\]"):
        getattr(classifier, method)(table)
    with pytest.raises(UsageError, match=r"data\['text'\]"):
        sentilora.predict(table)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (datasets.Dataset.from_dict(COLUMNS)[:2],
         r"not a dict with the columns text, label; pass its .*, e\.g\. data\['text'\]$"),
        (pa.table({"review": ["a"]}), r"with the column review; pass .*, e\.g\. data\['review'\]$"),
        (pd.DataFrame({"title": ["a"], "review": ["b"]}), "pass its column of texts$"),
        (datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset(), "not an IterableDataset"),
        ({"text": "a"}, "not a dict; pass a list of strings"),
        (7, "not an int; pass a list of strings"),
    ],
    ids=range(6),
)  # fmt: skip
def test_what_is_no_list_of_texts_is_called_by_its_name(texts, said):
    with pytest.raises(UsageError, match=said):
        list_of_texts(texts)


def test_what_is_no_list_of_records_is_told_what_one_is():
    for value, said in (
        (datasets.Dataset.from_dict(COLUMNS)[:2], "a dict with the columns text, label"),
        ({"text": "a", "title": "b"}, "a dict"),
        ("a", "one string"),
    ):
        message = f"a list of records is expected, not {said}; pass a list of records with text, t"
        with pytest.raises(UsageError, match=message):
            list_of_texts(value, ["title"])
    stream = datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset()
    with pytest.raises(UsageError, match="`texts` is an IterableDataset, not a table"):
        list_of_texts(stream, ["title"])


def test_columns_of_every_kind_are_lists_of_texts():
    for texts in (
        pd.Series(COLUMNS["text"], index=[5, 6]),
        pd.Series(COLUMNS["text"], dtype="string"),
        np.array(COLUMNS["text"]),
        datasets.Dataset.from_dict(COLUMNS)["text"],
        tuple(COLUMNS["text"]),
        (text for text in COLUMNS["text"]),
        pa.array(COLUMNS["text"]),
        pa.chunked_array([COLUMNS["text"]]),
    ):
        assert list_of_texts(texts) == COLUMNS["text"]


@pytest.fixture(scope="module")
def classifier():
    return sentilora.Classifier.load()
