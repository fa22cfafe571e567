"""sources.py: every kind of source, in order and unchanged, and what is wrong with one."""

from collections import Counter

import pytest
from data_files import COLUMNS, MAP, TEXTS, refused, write, write_reviews

from sentilora.data.rows import Columns
from sentilora.data.sources import load_rows, read_table
from sentilora.data.tables import SUFFIXES
from sentilora.hub import looks_like_hub_id


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_columns_can_have_other_names(tmp_path, suffix):
    path = write(tmp_path / f"x.{suffix}", text="review", label="sentiment", text2=["x"] * 14)
    columns = Columns("review", "sentiment", MAP, ("positive", "negative"))
    assert load_rows(path, "test", columns).texts == TEXTS
    refused(
        "has neither a column 'text' nor 'label'; it has review, sentiment, text2; "
        "name the right ones with `text_column` and `label_column`$",
        path,
    )
    refused(
        "no column 'label'; it has review, .*`label_column`",
        path,
        columns=Columns("review", "label"),
    )


def test_the_original_folder_has_the_rating_in_its_files_names(tmp_path):
    write_reviews(tmp_path / "train", "pos", ["Good."])
    (tmp_path / "train/pos/1_10.txt").write_text("Great.", encoding="utf-8")
    rows = load_rows(str(tmp_path), "train", COLUMNS)
    assert (rows.texts, rows.ratings) == (["Good.", "Great."], [7, 10])


def test_a_folder_with_named_files_has_splits(tmp_path):
    names = {"train": "train.csv", "test": "testing.jsonl", "validation": "dev.parquet"}
    for number, (split, name) in enumerate(names.items()):
        write(tmp_path / name, [f"{split} text"], ["positive"], number=[number])
    for split in names:
        assert load_rows(str(tmp_path), split, COLUMNS).texts == [f"{split} text"]
    (tmp_path / "dev.parquet").unlink()
    refused(
        r"has no validation data; it holds testing.jsonl, train.csv; add validation.csv, \.tsv",
        tmp_path,
        "validation",
    )


def test_the_acl_imdb_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for split in ("train", "test"):
        write_reviews(tmp_path / split, "pos", [f"{split} pos {i}" for i in range(12)])
        write_reviews(tmp_path / split, "neg", [f"{split} neg {i}" for i in range(12)])
        (tmp_path / split / "urls_pos.txt").write_text("http://x")
    write_reviews(tmp_path / "train", "unsup", ["no label"])
    for split in ("train", "test"):
        rows = load_rows(str(tmp_path), split, COLUMNS)
        order = [f"{split} {label} {i}" for label in ("neg", "pos") for i in range(12)]
        assert rows.texts == order  # 2 comes before 10
        assert Counter(rows.labels) == {"negative": 12, "positive": 12}
    assert len(read_table(str(tmp_path), "train")) == 24


def test_an_acl_imdb_review_that_is_not_utf_8_is_named(tmp_path):
    write_reviews(tmp_path / "train", "pos", ["fine"])
    (tmp_path / "train" / "pos" / "3_1.txt").write_bytes(b"caf\xe9")
    refused(r"cannot read .*3_1\.txt: .*0xe9", tmp_path)


def test_the_embedded_reviews_are_balanced_and_apart():
    train, test = (load_rows("embedded", split, COLUMNS) for split in ("train", "test"))
    assert len(train) >= 1000 and len(test) == 500
    assert set(Counter(train.labels).values()) == {len(train) // 2}
    assert not set(train.texts) & set(test.texts)


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "x.csv")
    assert len(load_rows("~/x.csv", "train", COLUMNS)) == 14


def test_a_source_that_is_not_there_is_refused(tmp_path):
    refused("there is no file or folder .*nowhere.csv", tmp_path / "nowhere.csv")
    refused("there is no file or folder ./nowhere", "./nowhere")
    refused("there is no file or folder ~nobody-of-that-name/x", "~nobody-of-that-name/x")
    refused("there is no file or folder a/b/c", "a/b/c")
    refused("there is no file or folder", "long" * 2000 + ".csv")
    refused("there is no file or folder", "zero\0byte")
    (tmp_path / "empty").mkdir()
    refused("has no train data; it holds nothing; add train.csv", tmp_path / "empty")


def test_a_hub_out_of_reach_is_reported_at_once():
    message = refused(
        "is not a local file or folder, and the hub .* is not reachable", "stanfordnlp/imdb"
    )
    assert "name a folder or a file to read local data" in message and "HF_HUB_OFFLINE=1" in message
    refused("'reviews' is not a local file or folder", "reviews")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_name_that_ends_like_a_data_file_is_no_hub_id(suffix):
    for name in (f"x{suffix}", f"a/x{suffix}"):
        assert looks_like_hub_id(name)
        refused(f"^there is no file or folder {name}$", name)
        refused(f"'{name}x' is not a local file or folder, and the hub", f"{name}x")
