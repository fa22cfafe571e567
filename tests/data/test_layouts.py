"""layouts.py: how the hub, `datasets` and people lay out splits in a folder."""

import datasets
import pandas as pd
import pytest
from data_files import COLUMNS, refused, write, write_reviews

from sentilora.data.sources import load_rows, read_table


def parts(folder, split, count, suffix="parquet", total=None):
    for i in range(count):
        name = f"{split}-{i:05}-of-{total or count:05}.{suffix}"
        write(folder / name, [f"{split} {i}"], ["positive"])


@pytest.mark.parametrize("inner", ["", "data", "plain_text"])
def test_shards_are_read_in_their_order(tmp_path, inner):
    parts(tmp_path / inner, "train", 12)
    parts(tmp_path / inner, "test", 1)
    (tmp_path / "README.md").write_text("# Reviews")
    assert load_rows(str(tmp_path), "train", COLUMNS).texts == [f"train {i}" for i in range(12)]
    assert load_rows(str(tmp_path), "test", COLUMNS).texts == ["test 0"]


def test_a_missing_shard_is_seen(tmp_path):
    parts(tmp_path, "train", 2, total=3)
    refused("has 2 of the 3 parts of train: part 2 is missing", tmp_path)


def test_shards_with_other_columns_are_refused(tmp_path):
    parts(tmp_path, "train", 2, "csv")
    path = tmp_path / "train-00001-of-00002.csv"
    path.write_text("text,label,rating\na,positive,3\n")
    refused("train-00001-of-00002.csv has other columns than train-00000-of-00002.csv", tmp_path)


def test_all_the_files_in_a_folder_named_after_a_split(tmp_path):
    write(tmp_path / "train" / "b.csv", ["b"], ["positive"])
    write(tmp_path / "train" / "a.csv", ["a"], ["negative"])
    assert load_rows(str(tmp_path), "train", COLUMNS).texts == ["a", "b"]
    write(tmp_path / "train" / "c.jsonl", ["c"], ["positive"])
    refused("holds files of several formats: .csv, .jsonl", tmp_path)


def test_two_candidates_are_not_chosen_from(tmp_path):
    parts(tmp_path / "plain", "train", 1)
    parts(tmp_path / "raw", "train", 1)
    refused("has train data in plain/train.*, raw/train.*; name one of them", tmp_path)
    for other in ("train.parquet", "data/train-00000-of-00001.parquet", "train/a.csv"):
        folder = tmp_path / other.replace("/", "-")
        write(folder / "Train.csv", ["a"], ["positive"])
        assert load_rows(str(folder), "train", COLUMNS).texts == ["a"]
        write(folder / other, ["b"], ["positive"])
        refused("has train data in Train.csv, ", folder)


def test_what_save_to_disk_wrote_is_read(tmp_path):
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["pos", "neg"]})
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=data, test=data.select([1])).save_to_disk(tmp_path / "splits")
    assert load_rows(str(tmp_path / "one"), "train", COLUMNS).texts == ["a", "b"]
    assert load_rows(str(tmp_path / "splits"), "test", COLUMNS).texts == ["b"]
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"")
    refused("cannot read .*one: ", tmp_path / "one")


def test_hidden_files_and_folders_are_no_data(tmp_path):
    write_reviews(tmp_path / "train", "pos", ["Good."])
    write_reviews(tmp_path / "train", "neg", ["Bad."])
    write_reviews(tmp_path / "train", ".ipynb_checkpoints", ["Good."])
    write_reviews(tmp_path / "train", "__MACOSX", ["x"])
    (tmp_path / "train" / "pos" / "._1.txt").write_bytes(b"\0\5\x16\7")
    rows = load_rows(str(tmp_path), "train", COLUMNS)
    assert (rows.texts, rows.labels) == (["Bad.", "Good."], ["negative", "positive"])


def test_what_is_no_text_of_a_class_is_said(tmp_path, capsys):
    write_reviews(tmp_path / "train", "pos", ["Good."])
    write_reviews(tmp_path / "train", "neg", [])
    (tmp_path / "train" / "neg" / "1.TXT").write_text("Bad.")
    (tmp_path / "train" / "pos" / "2.text").write_text("Fine.")
    (tmp_path / "train" / "notes").mkdir()
    assert load_rows(str(tmp_path), "train", COLUMNS).texts == ["Bad.", "Good."]
    said = capsys.readouterr().err
    assert "left out, without .txt files: notes" in said
    assert "left out, no .txt files: 1 file, 2.text" in said


def test_shards_may_differ_in_form(tmp_path):
    a, b = tmp_path / "train-00000-of-00002.jsonl", tmp_path / "train-00001-of-00002.jsonl"
    a.write_text('{"text": "a", "label": "pos", "note": "x"}')
    b.write_text('{"label": "neg", "note": 5, "text": "b"}')
    assert load_rows(str(tmp_path), "train", COLUMNS).texts == ["a", "b"]
    assert read_table(str(tmp_path), "train").column_names == ["text", "label", "note"]
    names = ["positive", "negative"]
    for number, order in enumerate((names, names[::-1])):
        features = datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=order)}
        )
        data = datasets.Dataset.from_dict({"text": ["a"], "label": [0]}, features=features)
        data.to_parquet(tmp_path / f"test-0000{number}-of-00002.parquet")
    refused("test-00001-of-00002.parquet names its labels differently from", tmp_path, "test")


@pytest.mark.parametrize("name", ["x.json", "x.ndjson", "x.jsonl", "x.json.gz", "x.jsonl.gz"])
def test_json_lines_by_any_name(tmp_path, name):
    import gzip

    lines = b'{"text": "Good.", "label": "pos"}\n{"text": "Bad.", "label": "neg"}\n'
    data = gzip.compress(lines) if name.endswith(".gz") else lines
    (tmp_path / name).write_bytes(data)
    assert load_rows(str(tmp_path / name), "train", COLUMNS).texts == ["Good.", "Bad."]


def test_a_packed_file_that_is_cut_is_refused(tmp_path):
    import gzip

    whole = gzip.compress(b"text,label\n" + b"Good.,pos\n" * 5000)
    (tmp_path / "x.csv.gz").write_bytes(whole[: len(whole) // 2])
    refused("cannot read .*x.csv.gz: ", tmp_path / "x.csv.gz")
    (tmp_path / "y.csv.gz").write_bytes(b"text,label\nGood.,pos\n")
    refused("cannot read .*y.csv.gz: ", tmp_path / "y.csv.gz")


def test_a_spreadsheet_is_read(tmp_path, capsys):
    frame = pd.DataFrame({"text": ["Good.", "Bad.", 5], "label": ["pos", "neg", "pos"]})
    with pd.ExcelWriter(tmp_path / "x.xlsx") as writer:
        frame.head(2).to_excel(writer, sheet_name="reviews", index=False)
        frame.to_excel(writer, sheet_name="more")
    assert load_rows(str(tmp_path / "x.xlsx"), "train", COLUMNS).texts == ["Good.", "Bad."]
    assert "x.xlsx: the first of its 2 sheets, 'reviews'" in capsys.readouterr().err
    (tmp_path / "y.xlsx").write_bytes(b"no zip")
    refused("cannot read .*y.xlsx: ", tmp_path / "y.xlsx")


def test_a_spreadsheet_without_its_reader_says_so(tmp_path, monkeypatch):
    pd.DataFrame({"text": ["Good."]}).to_excel(tmp_path / "x.xlsx")
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    refused("openpyxl, which reads it, is not installed; install openpyxl, or", tmp_path / "x.xlsx")
