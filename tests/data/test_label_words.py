"""label_words.py: what the data say of their labels counts, and nothing is assumed."""

import json

import datasets
import pandas as pd
import pytest
from data_files import refused

from sentilora.config import load_config
from sentilora.data.rows import Columns
from sentilora.data.sources import load_rows

LABELS = ("positive", "negative")
DEFAULT = Columns(label_map=load_config().data.label_map, labels=LABELS)
TEXTS = ["packed with care", "torn and late", "a joy"]


def named(names, values=(0, 1, 0)):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    rows = {"text": TEXTS, "label": list(values)}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("form", ["parquet", "saved", "saved splits", "info", "card"])
def test_names_stored_with_the_data_are_what_numbers_mean(tmp_path, form):
    """fairseq #1082, dotnet/docs #31052: 0 is whatever the writer of the file made it."""
    data, source = named(["positive", "negative"]), tmp_path / "data"
    source.mkdir()
    if form == "parquet":
        source /= "train.parquet"
        data.to_parquet(source)
    elif form == "saved":
        data.save_to_disk(source)
    elif form == "saved splits":
        datasets.DatasetDict({"train": data}).save_to_disk(source)
    else:
        pd.DataFrame({"text": TEXTS, "label": [0, 1, 0]}).to_csv(source / "train.csv", index=False)
        if form == "info":
            info = {"features": data.features.to_dict()}
            (source / "dataset_info.json").write_text(json.dumps(info))
        else:
            lines = ["---", "dataset_info:", "  features:"]
            lines += ["  - name: text", "    dtype: string", "  - name: label"]
            lines += ["    dtype:", "      class_label:", "        names:"]
            lines += ["          '0': positive", "          '1': negative", "---", "# Reviews"]
            (source / "README.md").write_text("\n".join(lines))
    rows = load_rows(str(source), "train", DEFAULT)
    assert rows.labels == ["positive", "negative", "positive"]
    assert rows.meanings == {"0": ("positive", 2), "1": ("negative", 1)}


def test_names_lead_through_the_label_map(tmp_path):
    named(["neg", "pos"]).to_parquet(tmp_path / "imdb.parquet")
    rows = load_rows(str(tmp_path / "imdb.parquet"), "train", DEFAULT)
    assert rows.labels == ["negative", "positive", "negative"]
    assert rows.take([0]).meanings == {
        "0 (neg)": ("negative", 2),
        "1 (pos)": ("positive", 1),
    }


def test_numbers_without_names_are_refused_rather_than_assumed(tmp_path):
    pd.DataFrame({"text": TEXTS, "label": [0, 1, 0]}).to_parquet(tmp_path / "x.parquet")
    refused(
        r"label is '0', which is not one of the labels \(positive, negative\).*e\.g\. "
        r"data\.label_map='\{\"0\" = \"negative\", \"1\" = \"positive\"\}' if the numbers",
        tmp_path / "x.parquet",
        columns=DEFAULT,
    )


def test_a_map_that_contradicts_the_names_is_refused(tmp_path):
    named(["positive", "negative"]).to_parquet(tmp_path / "x.parquet")
    columns = Columns(label_map={"0": "negative", "1": "positive"}, labels=LABELS)
    refused(
        "says that label 0 is 'positive', data.label_map that it is 'negative'; remove the numbers",
        tmp_path / "x.parquet",
        columns=columns,
    )


def test_a_map_by_number_that_contradicts_short_names_is_refused(tmp_path):
    named(["neg", "pos"]).to_parquet(tmp_path / "x.parquet")
    columns = Columns(label_map={"0": "positive", "1": "negative"}, labels=LABELS)
    refused(
        "says that label 0 is 'neg', data.label_map that", tmp_path / "x.parquet", columns=columns
    )


def test_names_that_are_numbers_are_names(tmp_path):
    named(["1", "2"]).to_parquet(tmp_path / "x.parquet")
    columns = Columns(label_map={"1": "positive", "2": "negative"}, labels=LABELS)
    rows = load_rows(str(tmp_path / "x.parquet"), "train", columns)
    assert rows.labels == ["positive", "negative", "positive"]


def test_descriptions_of_other_data_and_damaged_ones(tmp_path):
    inner = tmp_path / "project" / "mine"
    inner.mkdir(parents=True)
    pd.DataFrame({"text": TEXTS, "label": [0, 1, 0]}).to_csv(inner / "test.csv", index=False)
    info = {"features": named(["positive", "negative"]).features.to_dict()}
    (inner.parent / "dataset_info.json").write_text(json.dumps(info))
    columns = Columns(label_map={"0": "negative", "1": "positive"}, labels=LABELS)
    rows = load_rows(str(inner / "test.csv"), "test", columns)  # nothing above it describes it
    assert rows.labels == ["negative", "positive", "negative"]
    for text in ('{"ClassLabel"', '["ClassLabel"]', '{"a": "ClassLabel"}'):
        (inner / "dataset_info.json").write_text(text)
        refused("dataset_info.json is damaged: .*restore it, or remove it", inner, "test")
    named(["negative", "positive"]).to_parquet(inner / "train.parquet")
    (inner / "dataset_info.json").write_text(json.dumps(info))
    refused("names the labels of label negative, positive, the description", inner)


def test_names_that_are_unknown_or_missing_are_refused(tmp_path):
    named(["good", "bad"]).to_parquet(tmp_path / "x.parquet")
    refused(
        r"label is '0 \(good\)', which is not one of the labels",
        tmp_path / "x.parquet",
        columns=DEFAULT,
    )
    named(["positive", "negative"], (0, -1, 1)).to_parquet(tmp_path / "y.parquet")
    refused(
        r"row 1 .*label is '-1', which is not one of the labels",
        tmp_path / "y.parquet",
        columns=DEFAULT,
    )
    # Names that say nothing: a map by number is then no contradiction.
    named(["LABEL_0", "LABEL_1"]).to_parquet(tmp_path / "z.parquet")
    columns = Columns(label_map={"0": "negative", "1": "positive"}, labels=LABELS)
    rows = load_rows(str(tmp_path / "z.parquet"), "train", columns)
    assert rows.labels == ["negative", "positive", "negative"]


def test_a_label_is_the_same_in_both_forms_of_unicode(tmp_path):
    (tmp_path / "x.csv").write_text("text,label\na,ne\u0301gatif\nb,positif\n", encoding="utf-8")
    for labels in (("positif", "n\u00e9gatif"), ("positif", "ne\u0301gatif")):
        rows = load_rows(str(tmp_path / "x.csv"), "train", Columns(labels=labels))
        assert rows.labels == [labels[1], "positif"] and rows.meanings == {}
