"""data.py: every kind of source, in order and unchanged, and what is wrong with one said by row."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.data.rows import Columns, Rows
from sentilora.data.sources import load_rows, read_table
from sentilora.data.text import fault_of
from sentilora.errors import DataError
from sentilora.hub import looks_like_hub_id

MAP = {"0": "negative", "1": "positive", "neg": "negative", "pos": "positive"}
COLUMNS = Columns(label_map=MAP, labels=("positive", "negative"))
TEXTS = [
    "Good, really good.",
    'She said "no",\nthen yes.',
    "NA",
    "None",
    "null",
    "123",
    "007",
    "nan",
    "true",
    "2024-01-01",
    "  spaces kept  ",
    "Schön 🎬\u2028漢字",
    "'quoted'",
    "back\\slash",
]
LABELS = ["positive", "negative"] * 7


def write(path, texts=TEXTS, labels=LABELS, text="text", label="label", **more):
    """A file of the kind that its name tells."""
    frame = pd.DataFrame({text: texts, label: labels, **more})
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".parquet":
            frame.to_parquet(path, index=False)
        case ".jsonl" | ".json":
            records = frame.to_dict("records")
            lines = [json.dumps(record, ensure_ascii=False) for record in records]
            joined = "\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]"
            path.write_text(joined, encoding="utf-8")
    return str(path)


def write_reviews(folder, label, texts, first=0):
    (folder / label).mkdir(parents=True)
    for number, text in enumerate(texts, first):
        (folder / label / f"{number}_7.txt").write_text(text, encoding="utf-8")


def refused(said, source, split="train", columns=COLUMNS):
    with pytest.raises(DataError, match=said) as error:
        load_rows(str(source), split, columns)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- the data's own rating


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
        patch.setattr("sentilora.data.rows.MAX_RATINGS", 13)
        rows = load_rows(path, "train", COLUMNS)
    assert (rows.rating_column, rows.ratings) == (None, [])
    assert rows.take([1]).ratings == []


def test_the_label_is_no_rating_and_the_first_column_that_can_be_is_taken(tmp_path):
    columns = Columns(label="stars", labels=("1", "5"))
    path = write(tmp_path / "a.csv", labels=[1, 5] * 7, label="stars")
    assert load_rows(path, "train", columns).rating_column is None
    path = write(tmp_path / "b.csv", score=["x"] * 14, rating=[3] * 14)
    assert load_rows(path, "train", COLUMNS).rating_column == "rating"


def test_the_original_folder_has_the_rating_in_its_files_names(tmp_path):
    write_reviews(tmp_path / "train", "pos", ["Good."])
    (tmp_path / "train/pos/1_10.txt").write_text("Great.", encoding="utf-8")
    rows = load_rows(str(tmp_path), "train", COLUMNS)
    assert (rows.texts, rows.ratings) == (["Good.", "Great."], [7, 10])


# --- kinds of sources


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_file_format_gives_the_rows_as_they_are(tmp_path, suffix):
    rows = load_rows(write(tmp_path / f"my reviews.{suffix}"), "train", COLUMNS)
    assert (rows.texts, rows.labels) == (TEXTS, LABELS)
    assert len(rows) == 14 and rows.source.endswith(suffix)


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_other_columns_can_be_named(tmp_path, suffix):
    path = write(tmp_path / f"x.{suffix}", text="review", label="sentiment", text2=["x"] * 14)
    columns = Columns("review", "sentiment", MAP, ("positive", "negative"))
    assert load_rows(path, "test", columns).texts == TEXTS
    refused(
        "has no column 'text'; it has review, sentiment, text2. Name it with --text-column", path
    )
    refused(
        "no column 'label'; it has review, .*--label-column",
        path,
        columns=Columns("review", "label"),
    )


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")).filter(
            lambda text: fault_of(text) is None
        ),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["csv", "tsv", "jsonl", "json", "parquet"]),
)
def test_any_text_comes_back_unchanged(tmp_path_factory, texts, suffix):
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    labels = (["positive", "negative"] * len(texts))[: len(texts)]
    assert load_rows(write(path, texts, labels), "train", COLUMNS).texts == texts


def test_upper_case_suffixes_and_byte_order_marks_are_read(tmp_path):
    for name, content in (
        ("a.CSV", "text,label\nGood.,pos\n"),
        ("b.JSONL", '{"text": "Good.", "label": "pos"}\n\n'),
        ("c.tsv", "text\tlabel\r\nGood.\tpos\r\n"),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert load_rows(str(tmp_path / name), "train", COLUMNS) == Rows(
            str(tmp_path / name), ["Good."], ["positive"]
        )


def test_cells_that_look_like_numbers_stay_as_they_are_written(tmp_path):
    (tmp_path / "x.csv").write_text("text,label,id\n007,1,1e3\n1.50,0,08\n")
    assert load_rows(str(tmp_path / "x.csv"), "train", COLUMNS).texts == ["007", "1.50"]
    assert read_table(str(tmp_path / "x.csv"), "test", "text")["id"].tolist() == ["1e3", "08"]


def test_quoted_newlines_and_commas_stay_in_a_csv(tmp_path):
    (tmp_path / "x.csv").write_text('label,text\npos,"One, two.\n\n""Three"" four."\nneg,Five.\n')
    rows = load_rows(str(tmp_path / "x.csv"), "train", COLUMNS)
    assert rows.texts == ['One, two.\n\n"Three" four.', "Five."]


def test_a_folder_with_named_files_has_splits(tmp_path):
    names = {"train": "train.csv", "test": "testing.jsonl", "validation": "dev.parquet"}
    for number, (split, name) in enumerate(names.items()):
        write(tmp_path / name, [f"{split} text"], ["positive"], number=[number])
    for split in names:
        assert load_rows(str(tmp_path), split, COLUMNS).texts == [f"{split} text"]
    (tmp_path / "dev.parquet").unlink()
    refused(
        r"has no validation data; expected validation.csv, .*; it holds testing.jsonl, train.csv",
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
        assert rows.texts == order  # 2 stands before 10
        assert Counter(rows.labels) == {"negative": 12, "positive": 12}
    assert len(read_table(str(tmp_path), "train", "text")) == 24


def test_an_acl_imdb_review_that_is_no_utf_8_is_named(tmp_path):
    write_reviews(tmp_path / "train", "pos", ["fine"])
    (tmp_path / "train" / "pos" / "3_1.txt").write_bytes(b"caf\xe9")
    refused(r"cannot read .*3_1\.txt: .*0xe9", tmp_path)


def test_the_embedded_reviews_are_at_least_400_and_100():
    train, test = (load_rows("embedded", split, COLUMNS) for split in ("train", "test"))
    assert len(train) >= 400 and len(test) == 100
    assert set(Counter(train.labels).values()) == {len(train) // 2}
    assert not set(train.texts) & set(test.texts)


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "x.csv")
    assert len(load_rows("~/x.csv", "train", COLUMNS)) == 14


# --- labels


@pytest.mark.parametrize(
    "stored",
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
def test_labels_may_be_numbers_or_words(tmp_path, stored, suffix):
    path = write(tmp_path / f"x.{suffix}", ["good", "bad"], pd.Series(stored).tolist()
                 if suffix == "jsonl" else stored)  # fmt: skip
    assert load_rows(path, "train", COLUMNS).labels == ["positive", "negative"]


def test_a_label_map_may_say_anything(tmp_path):
    path = write(tmp_path / "x.jsonl", ["a", "b", "c"], [True, "👍", "5 stars"])
    columns = Columns(label_map={"True": "sì", "👍": "sì", "5 stars": "no"}, labels=("sì", "no"))
    assert load_rows(path, "train", columns).labels == ["sì", "sì", "no"]


def test_true_is_no_number_where_there_are_more_than_two_labels(tmp_path):
    path = write(tmp_path / "x.parquet", ["a", "b"], [True, False])
    three = Columns(label_map=MAP, labels=("positive", "negative", "mixed"))
    refused("label is 'True', which is no label .*extend data.label_map", path, columns=three)
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


# --- what is wrong with a source


def test_a_source_that_is_not_there_is_refused(tmp_path):
    refused("there is no file or folder .*nowhere.csv", tmp_path / "nowhere.csv")
    refused("there is no file or folder ./nowhere", "./nowhere")
    refused("there is no file or folder ~nobody-of-that-name/x", "~nobody-of-that-name/x")
    refused("there is no file or folder a/b/c", "a/b/c")
    refused("there is no file or folder", "long" * 2000 + ".csv")
    refused("there is no file or folder", "zero\0byte")
    (tmp_path / "empty").mkdir()
    refused("has no train data; expected train.csv, .*; it holds nothing", tmp_path / "empty")


def test_a_hub_out_of_reach_is_said_at_once(monkeypatch):
    said = refused(
        "is no local file or folder, and the hub .* is not reachable", "stanfordnlp/imdb"
    )
    assert "name a folder or a file to read local data" in said and "HF_HUB_OFFLINE=1" in said
    refused("'reviews' is no local file or folder", "reviews")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_only_the_columns_that_are_needed_are_kept_and_any_is_named(tmp_path, suffix):
    texts, stars = [f"text {i}" for i in range(9000)], [i % 5 for i in range(9000)]
    file = tmp_path / f"x.{suffix}"
    path = str(write(file, texts, ["pos", "neg"] * 4500, Stars=stars, page="<p>"))
    rows = load_rows(path, "train", COLUMNS)
    assert rows.texts == texts and rows.ratings == stars
    assert rows.labels == ["positive", "negative"] * 4500 and rows.rating_column == "Stars"
    for wrong in (Columns(text="body"), Columns(label="y")):
        with pytest.raises(
            DataError, match=r"no column '(body|y)'; it has text, label, Stars, page"
        ):
            load_rows(path, "train", wrong)


def test_what_looks_like_a_hub_id():
    for name in ("stanfordnlp/imdb", "imdb", "mistralai/Mistral-7B-v0.1", "a_b/c-d.e"):
        assert looks_like_hub_id(name), name
    for name in ("./imdb", "/imdb", "~/imdb", "a/b/c", "x.csv", "a/x.parquet", "a b", "..", ""):
        assert not looks_like_hub_id(name), name


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.txt", b"words", "cannot tell the format of x.txt; use one of .csv, .tsv, .jsonl"),
        ("x.csv", b"", "x.csv is empty; a header and rows are expected"),
        ("x.csv", b"text,label\n", "x.csv has no rows"),
        (
            "x.csv",
            b"text,label\nGood, really good,pos\n",
            "x.csv has more cells in its rows than in its header.*double quotes",
        ),
        (
            "x.csv",
            b'text,label\n"Good.\nSo good.",pos\nFine, good,neg\n',
            r"x.csv has more cells in row 1 \(counted from 0\) than in its header",
        ),
        (
            "x.csv",
            b'text,label\n"Good.,pos\n',
            r"opens a double quote in row 0 \(counted from 0\) and never",
        ),
        ("x.csv", b'"text,label\nGood.,pos\n', "opens a double quote in its header and never"),
        ("x.csv", b"text;label\nGood.;pos\n", "Its separator seems to be ';': save it with"),
        ("x.json", b"[" * 100_000, "cannot read .*x.json: maximum recursion"),
        (
            "x.csv",
            b"text,label\nGood.\n",
            r"row 0 \(counted from 0\): label is missing; fill it or drop the row",
        ),
        (
            "x.csv",
            b"text,label\nGood.,pos\n,neg\n",
            r"row 1 \(counted from 0\): text is missing; mend it or drop the row$",
        ),
        (
            "x.csv",
            b"text,label\n,pos\nFine.,neg\n ,neg\n,neg\n",
            r"row 0 \(counted from 0\): text is missing; .*and 2 more rows that cannot be used",
        ),
        (
            "x.csv",
            b"text,label\nGood.,\nFine.,neg\nBad.,\n",
            r"row 0 \(counted from 0\): label is missing; .* \(and 1 more row without\)$",
        ),
        (
            "x.csv",
            b"text,label\nGood.,pos\nFine.,meh\nBad.,bof\nFine.,meh\n",
            r"row 1 \(counted from 0\): label is 'meh', .* \(and 1 more unknown label\)$",
        ),
        ("x.csv", b'text,label\n" ",neg\n', r"row 0 \(counted from 0\): text is empty"),
        ("x.csv", b"text,label\n<br />,neg\n", r"row 0 \(counted from 0\): text is empty"),
        (
            "x.csv",
            b"text,label\nGood.,pos\nBad.,meh\n",
            r"row 1 \(counted from 0\): label is 'meh', which is no "
            r"label of the prompt \(positive, negative\).*0 = negative, 1 = positive.*extend data",
        ),
        ("x.csv", b"text,label\nGood.,pos\nBad.,\n", r"row 1 \(counted from 0\): label is missing"),
        (
            "x.csv",
            b"text,label\n" + b"Good.,pos\n" * 3000 + b"caf\xe9,pos\n",
            "x.csv is not valid UTF-8: byte 0xe9 in line 3002; save it as UTF-8",
        ),
        (
            "x.csv",
            "text,label\nGood.,pos\n".encode("utf-16"),
            "not valid UTF-8: byte 0xff in line 1",
        ),
        ("x.tsv", b"text\tlabel\nGood\tyes\tpos\n", "more cells in its rows than in its header"),
        ("x.jsonl", b"", "x.jsonl has no rows"),
        ("x.json", b"[]", "x.json has no rows"),
        ("x.jsonl", b"{}\n", "no column 'text'; it has none at all"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"\n', "cannot read .*line 2: Exp"),
        ("x.jsonl", b'{"text": "a", "label": 1}\n["b", 0]\n', r"line 2 is \['b', 0\]; an object"),
        ("x.jsonl", b'{"text": null, "label": 1}\n', r"row 0 \(counted from 0\): text is missing"),
        (
            "x.jsonl",
            b'{"text": 5, "label": 1}\n',
            r"row 0 \(counted from 0\): text is 5, not a text",
        ),
        (
            "x.jsonl",
            b'{"text": ["a"], "label": 1}\n',
            r"row 0 \(counted from 0\): text is \['a'\], not a text",
        ),
        (
            "x.jsonl",
            b'{"text": "a", "label": 1}\n{"text": "b"}\n',
            r"row 1 \(counted from 0\): label is missing",
        ),
        (
            "x.jsonl",
            b'{"text": "a", "label": NaN}\n',
            r"row 0 \(counted from 0\): label is missing",
        ),
        (
            "x.jsonl",
            b'{"text": "a", "label": [1]}\n',
            r"x.jsonl, row 0 \(counted from 0\): the label is \[1\]; one value",
        ),
        (
            "x.jsonl",
            b'{"text": "a", "label": 2}\n',
            r"row 0 \(counted from 0\): label is '2', which is no label",
        ),
        (
            "x.jsonl",
            b'{"text": "a\\ud83d", "label": 1}\n',
            r"row 0 \(counted from 0\): text is not valid Unicode",
        ),
        (
            "x.jsonl",
            b'{"text": "caf\xe9", "label": 1}\n',
            "x.jsonl is not valid UTF-8: byte 0xe9 in line 1",
        ),
        ("x.json", b'{"text": "a", "label": 1}', "cannot read .*a list of objects is expected"),
        ("x.json", b"[1, 2]", "item 1 is 1; an object is expected"),
        ("x.json", b"5", "cannot read .*a list of objects"),
        ("x.parquet", b"PAR1 and then nothing", "cannot read .*x.parquet"),
        ("x.parquet", b"", "cannot read .*x.parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_place(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    assert name in refused(said, tmp_path / name)


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


def test_a_folder_in_the_place_of_a_file_or_one_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    write(path)

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", denied)
    refused("cannot read .*x.parquet: .*Permission denied", path)


# --- hashes


def test_hashes_tell_texts_and_labels_apart():
    rows = Rows("a", ["x", "x", "y", "x\0y"], ["p", "n", "p", "p"])
    assert len(set(rows.hashes())) == 4 and list(rows.hashes()) == list(rows.hashes())
    assert {len(h) for h in rows.hashes()} == {64}


def test_a_parquet_column_that_stands_twice_is_refused(tmp_path):
    table = pa.table([["a", "b"], ["c", "d"], ["positive"] * 2], names=["text", "text", "label"])
    pq.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="more than one column 'text'"):
        load_rows(str(tmp_path / "twice.parquet"), "train", COLUMNS)


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_a_column_of_a_table_that_stands_twice_is_refused_when_it_is_used(tmp_path, form):
    path, comma = tmp_path / f"twice.{form}", "," if form == "csv" else "\t"
    for header in (["label", "text", "label"], ["\ufeff\n\ntext", '"label"', "label"]):
        path.write_text(f"{comma.join(header)}\n{comma.join(['positive'] * 3)}\n", encoding="utf-8")
        with pytest.raises(DataError, match="more than one column 'label'"):
            load_rows(str(path), "train", COLUMNS)
        assert len(read_table(str(path), "test", "text")) == 1  # predict needs no label
        with pytest.raises(DataError, match="more than one column 'label'"):
            read_table(str(path), "test", "label")
    header = comma.join(["text", "label", "text.1", "id", "id"])
    path.write_text(f"{header}\n{comma.join(['positive'] * 5)}\n", encoding="utf-8")
    assert load_rows(str(path), "train", COLUMNS).texts == ["positive"]


def test_a_named_parquet_index_is_a_column(tmp_path):
    frame = pd.DataFrame({"id": [7, 9], "text": ["a", "b"], "label": ["positive"] * 2})
    frame.set_index("id").to_parquet(tmp_path / "index.parquet")
    found = read_table(str(tmp_path / "index.parquet"), "train", "text")
    assert found["id"].tolist() == [7, 9]


def test_a_column_of_enormous_numbers_is_no_rating(tmp_path):
    row = {"text": "a", "label": "positive", "score": 10**400}
    (tmp_path / "large.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert load_rows(str(tmp_path / "large.jsonl"), "train", COLUMNS).rating_column is None


def test_a_parquet_name_with_a_dot_is_no_field_of_another_column(tmp_path):
    columns = [[{"a": 1}], ["flat"], ["positive"]]
    pq.write_table(pa.table(columns, names=["n", "n.a", "label"]), tmp_path / "dot.parquet")
    found = Columns(text="n.a", label_map=MAP, labels=("positive", "negative"))
    assert load_rows(str(tmp_path / "dot.parquet"), "train", found).texts == ["flat"]
