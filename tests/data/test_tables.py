"""tables.py: every file format, cells as they are written, and faults with their place."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import COLUMNS, LABELS, MAP, TEXTS, refused, write
from hypothesis import given
from hypothesis import strategies as st

from sentilora.data.rows import Columns, Rows
from sentilora.data.sources import load_rows, read_table
from sentilora.data.text import fault_of
from sentilora.errors import DataError


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_file_format_gives_the_rows_as_they_are(tmp_path, suffix):
    rows = load_rows(write(tmp_path / f"my reviews.{suffix}"), "train", COLUMNS)
    assert (rows.texts, rows.labels) == (TEXTS, LABELS)
    assert len(rows) == 14 and rows.source.endswith(suffix)


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
            str(tmp_path / name), ["Good."], ["positive"], meanings={"pos": ("positive", 1)}
        )


def test_cells_that_look_like_numbers_stay_as_they_are_written(tmp_path):
    (tmp_path / "x.csv").write_text("text,label,id\n007,1,1e3\n1.50,0,08\n")
    assert load_rows(str(tmp_path / "x.csv"), "train", COLUMNS).texts == ["007", "1.50"]
    assert read_table(str(tmp_path / "x.csv"), "test")["id"].to_pylist() == ["1e3", "08"]


def test_quoted_newlines_and_commas_stay_in_a_csv(tmp_path):
    (tmp_path / "x.csv").write_text('label,text\npos,"One, two.\n\n""Three"" four."\nneg,Five.\n')
    rows = load_rows(str(tmp_path / "x.csv"), "train", COLUMNS)
    assert rows.texts == ['One, two.\n\n"Three" four.', "Five."]


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


def test_a_named_parquet_index_is_a_column(tmp_path):
    frame = pd.DataFrame({"id": [7, 9], "text": ["a", "b"], "label": ["positive"] * 2})
    frame.set_index("id").to_parquet(tmp_path / "index.parquet")
    result = read_table(str(tmp_path / "index.parquet"), "train")
    assert result["id"].to_pylist() == [7, 9]


def test_a_parquet_name_with_a_dot_is_no_field_of_another_column(tmp_path):
    columns = [[{"a": 1}], ["flat"], ["positive"]]
    pq.write_table(pa.table(columns, names=["n", "n.a", "label"]), tmp_path / "dot.parquet")
    result = Columns(text="n.a", label_map=MAP, labels=("positive", "negative"))
    assert load_rows(str(tmp_path / "dot.parquet"), "train", result).texts == ["flat"]


# --- what is wrong with a file


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("x.txt", b"words", "cannot tell the format of x.txt; use one of .csv, .tsv, .jsonl"),
        ("x.csv", b"", "x.csv is empty; a header and rows are expected"),
        ("x.csv", b"text,label\n", "x.csv has no rows"),
        (
            "x.csv",
            b"text,label\nGood, really good,pos\n",
            r"x.csv, row 0 \(counted from 0\): 3 cells, but the header has 2; .*double quotes",
        ),
        (
            "x.csv",
            b'text,label\n"Good.\nSo good.",pos\nFine, good,neg\n',
            r"x.csv, row 1 \(counted from 0\): 3 cells, but the header has 2",
        ),
        (
            "x.csv",
            b'text,label\n"Good.,pos\n',
            r"row 0 \(counted from 0\): a cell opens a double quote and never closes it; put",
        ),
        (
            "x.csv",
            b'"text,label\nGood.,pos\n',
            "x.csv, header: a cell opens a double quote and never closes it",
        ),
        ("x.json", b"[" * 100_000, "cannot read .*x.json: maximum recursion"),
        (
            "x.csv",
            b"text,label\nGood.\n",
            r"row 0 \(counted from 0\): 1 cell, but the header has 2; .*line break.*empty cells",
        ),
        (
            "x.csv",
            b"text,label\nGood.,pos\n,neg\n",
            r"row 1 \(counted from 0\): text is missing; fix the text or drop the row$",
        ),
        (
            "x.csv",
            b"text,label\n,pos\nFine.,neg\n ,neg\n,neg\n",
            r"row 0 \(counted from 0\): text is missing \(and 2 more unusable rows: 2, 3\); fix",
        ),
        (
            "x.csv",
            b"text,label\nGood.,\nFine.,neg\nBad.,\n",
            r"row 0 \(counted from 0\): label is missing \(and 1 more missing label: 2\); fill in",
        ),
        (
            "x.csv",
            b"text,label\nGood.,pos\nFine.,meh\nBad.,bof\nFine.,meh\n",
            r"row 1 \(counted from 0\): label is 'meh', .*: 3 rows in all; "
            "so is 1 other label: bof; map it, e.g. data.label_map",
        ),
        (
            "x.csv",
            b"text,label\n,pos\nFine.,\n" + b",neg\n" * 6,
            r"row 0 .*: text is missing \(and 6 more unusable rows: 2, 3, 4, 5, …\); fix the text "
            r"or drop the row; .*row 1 \(counted from 0\): label is missing; fill in the label",
        ),
        ("x.csv", b'text,label\n" ",neg\n', r"row 0 \(counted from 0\): text is empty"),
        ("x.csv", b"text,label\n<br />,neg\n", r"row 0 \(counted from 0\): text is empty"),
        (
            "x.csv",
            b"text,label\nGood.,pos\nBad.,meh\n",
            r"row 1 \(counted from 0\): label is 'meh', which is not one of the "
            r"labels \(positive, negative\).*0 = negative, 1 = positive.*map it, e\.g\. data",
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
        ("x.tsv", b"text\tlabel\nGood\tyes\tpos\n", "row 0 .*: 3 cells, but the header has 2"),
        ("x.jsonl", b"", "x.jsonl has no rows"),
        ("x.json", b"[]", "x.json has no rows"),
        ("x.jsonl", b"{}\n", "its objects have no keys"),
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
            r"x.jsonl, row 0 \(counted from 0\): the label is \[1\]; a single value",
        ),
        (
            "x.jsonl",
            b'{"text": "a", "label": 2}\n',
            r"row 0 \(counted from 0\): label is '2', which is not one of the labels",
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
        ("x.json", b'{\n"text": "a",\n"label": 1}', "it is one object over several lines; a list"),
        ("x.json", b"[1, 2]", "item 1 is 1; an object is expected"),
        ("x.json", b"5", "cannot read .*line 1 is 5; an object is expected"),
        ("x.parquet", b"PAR1 and then nothing", "cannot read .*x.parquet"),
        ("x.parquet", b"", "cannot read .*x.parquet"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_place(tmp_path, name, content, pattern):
    (tmp_path / name).write_bytes(content)
    assert name in refused(pattern, tmp_path / name)


def test_a_file_without_read_permission_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "x.parquet"
    write(path)

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pyarrow.parquet.ParquetFile", denied)
    refused("cannot read .*x.parquet: .*Permission denied", path)


def test_a_parquet_column_that_occurs_twice_is_refused(tmp_path):
    table = pa.table([["a", "b"], ["c", "d"], ["positive"] * 2], names=["text", "text", "label"])
    pq.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(DataError, match="more than one column 'text'"):
        load_rows(str(tmp_path / "twice.parquet"), "train", COLUMNS)


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_a_needed_column_that_occurs_twice_is_refused(tmp_path, form):
    path, comma = tmp_path / f"twice.{form}", "," if form == "csv" else "\t"
    for header in (["label", "text", "label"], ["\ufeff\n\ntext", '"label"', "label"]):
        path.write_text(f"{comma.join(header)}\n{comma.join(['positive'] * 3)}\n", encoding="utf-8")
        with pytest.raises(DataError, match="more than one column 'label'"):
            load_rows(str(path), "train", COLUMNS)
        assert len(read_table(str(path), "test", "text".__eq__)) == 1  # predict needs no label
        with pytest.raises(DataError, match="more than one column 'label'"):
            read_table(str(path), "test", "label".__eq__)
    header = comma.join(["text", "label", "text.1", "id", "id"])
    path.write_text(f"{header}\n{comma.join(['positive'] * 5)}\n", encoding="utf-8")
    assert load_rows(str(path), "train", COLUMNS).texts == ["positive"]
