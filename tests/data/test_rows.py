"""rows.py: labels, ratings and hashes of rows, and missing values."""

import json

import numpy as np
import pandas as pd
import pytest
from data_files import COLUMNS, MAP, refused, write

from sentilora.data.rows import Columns, Rows
from sentilora.data.sources import load_rows

# --- labels


@pytest.mark.parametrize(
    "values",
    [
        [1, 0],
        [1.0, 0.0],
        ["1", "0"],
        ["1.0", "0.0"],
        ["pos", "neg"],
        ["positive", "negative"],
        [True, False],
        ["TRUE", "false"],
        np.array([1, 0], dtype=np.int8),
        pd.array([1, 0], dtype="Int64"),
        pd.Categorical(["pos", "neg"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_labels_may_be_numbers_or_words(tmp_path, values, suffix):
    path = write(tmp_path / f"x.{suffix}", ["good", "bad"], pd.Series(values).tolist()
                 if suffix == "jsonl" else values)  # fmt: skip
    assert load_rows(path, "train", COLUMNS).labels == ["positive", "negative"]


def test_a_label_map_may_say_anything(tmp_path):
    path = write(tmp_path / "x.jsonl", ["a", "b", "c"], [True, "👍", "5 stars"])
    columns = Columns(label_map={"True": "sì", "👍": "sì", "5 stars": "no"}, labels=("sì", "no"))
    assert load_rows(path, "train", columns).labels == ["sì", "sì", "no"]


def test_true_is_no_number_where_there_are_more_than_two_labels(tmp_path):
    path = write(tmp_path / "x.parquet", ["a", "b"], [True, False])
    three = Columns(label_map=MAP, labels=("positive", "negative", "mixed"))
    refused(
        "label is 'True', which is not one of the labels .*map it, e.g. data.label_map",
        path,
        columns=three,
    )
    named = Columns(label_map={"true": "mixed", "false": "negative"}, labels=("negative", "mixed"))
    assert load_rows(str(path), "train", named).labels == ["mixed", "negative"]


def test_labels_that_are_numbers_are_not_led_astray_by_the_default_map(tmp_path):
    labels = tuple(map(str, range(1, 11)))
    path = write(tmp_path / "x.csv", ["a", "b", "c"], [1, 10, 2])
    columns = Columns(label_map=MAP, labels=labels)
    assert load_rows(path, "train", columns).labels == ["1", "10", "2"]
    swapped = Columns(label_map={"0": "1", "1": "0"}, labels=("0", "1"))
    path = write(tmp_path / "y.csv", ["a", "b"], [0, 1])
    assert load_rows(path, "train", swapped).labels == ["1", "0"]


def test_missing_values_of_every_kind_are_seen(tmp_path):
    for number, missing in enumerate((None, float("nan"), pd.NA, pd.NaT)):
        frame = pd.DataFrame({"text": ["a", "b"], "label": pd.Series(["pos", missing])})
        frame.astype({"label": "string"}).to_parquet(tmp_path / f"{number}.parquet")
        refused(r"row 1 \(counted from 0\): label is missing", tmp_path / f"{number}.parquet")
    frame = pd.DataFrame({"text": pd.array(["a", pd.NA], "string"), "label": [0, 1]})
    frame.to_parquet(tmp_path / "text.parquet")
    refused(r"row 1 \(counted from 0\): text is missing", tmp_path / "text.parquet")
    numbers = pd.DataFrame({"text": ["a", "b"], "label": pd.array([1, pd.NA], "Int64")})
    numbers.to_parquet(tmp_path / "numbers.parquet")
    refused(r"row 1 \(counted from 0\): label is missing", tmp_path / "numbers.parquet")


# --- ratings


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_column_of_few_numbers_rates_the_rows(tmp_path, suffix):
    stars = [1, 2, 4.5, None, *range(1, 11)]
    rows = load_rows(write(tmp_path / f"a.{suffix}", Stars=stars), "train", COLUMNS)
    assert (rows.rating_column, rows.ratings) == ("Stars", stars)
    some = rows.take([3, 0])
    assert (some.rating_column, some.ratings) == ("Stars", [None, 1])
    again = load_rows(write(tmp_path / f"b.{suffix}"), "train", COLUMNS)
    assert list(rows.hashes()) == list(again.hashes())


@pytest.mark.parametrize(
    "values", [["good"] * 13 + ["1"], [None] * 14, ["inf"] * 14, [[1], *[2] * 13], range(14)]
)
def test_what_is_no_rating_is_left_alone(tmp_path, values):
    path = write(tmp_path / "a.jsonl", score=list(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sentilora.data.columns.MAX_RATINGS", 13)
        rows = load_rows(path, "train", COLUMNS)
    assert (rows.rating_column, rows.ratings) == (None, [])
    assert rows.take([1]).ratings == []


def test_the_label_is_no_rating_and_the_first_column_that_can_be_is_taken(tmp_path):
    columns = Columns(label="stars", labels=("1", "5"))
    path = write(tmp_path / "a.csv", labels=[1, 5] * 7, label="stars")
    assert load_rows(path, "train", columns).rating_column is None
    path = write(tmp_path / "b.csv", score=["x"] * 14, rating=[3] * 14)
    assert load_rows(path, "train", COLUMNS).rating_column == "rating"


def test_a_column_of_enormous_numbers_is_no_rating(tmp_path):
    row = {"text": "a", "label": "positive", "score": 10**400}
    (tmp_path / "large.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert load_rows(str(tmp_path / "large.jsonl"), "train", COLUMNS).rating_column is None


# --- hashes


def test_hashes_tell_texts_and_labels_apart():
    rows = Rows("a", ["x", "x", "y", "x\0y"], ["p", "n", "p", "p"])
    assert len(set(rows.hashes())) == 4 and list(rows.hashes()) == list(rows.hashes())
    assert {len(h) for h in rows.hashes()} == {64}
