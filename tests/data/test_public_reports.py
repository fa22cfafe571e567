"""Public reports of other tools, about data files: what each user sees here.

Each test names the report that it comes from. Those about resuming are in training/.
"""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import COLUMNS, refused

from sentilora.data.rows import Columns
from sentilora.data.sources import load_rows, read_table
from sentilora.errors import DataError


def read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    return read_table(str(tmp_path / name), "test")


def test_a_quote_that_is_never_closed_drops_no_rows(tmp_path):
    """apple/turicreate #1692: the bad row and all after it are dropped without a word."""
    with pytest.raises(DataError, match=r"row 1 .*a cell opens a double quote and never closes it"):
        read(tmp_path, "x.csv", 'a,b\n"a","b"\n"c","d\ne,f\n')


def test_a_quote_far_down_joins_no_rows(tmp_path):
    """h2oai/datatable #1036: a single quote beyond the sample, and 200 rows are one cell."""
    with pytest.raises(DataError, match=r"row 100 .*never closes it"):
        read(tmp_path, "x.csv", "A,B,C\n" + "q,f,r\n" * 100 + 'foo,"bar,bza\n' + "a,bb,ccc\n" * 200)


def test_a_space_before_a_quote_does_not_make_it_text(tmp_path, capsys):
    """BurntSushi/rust-csv #337, JoshClose/CsvHelper #204, python/cpython #154744."""
    table = read(tmp_path, "x.csv", 'text, label\n"One, two.", "pos"\nThree., neg\n')
    assert table.to_pydict() == {"text": ["One, two.", "Three."], "label": ["pos", "neg"]}
    assert "x.csv: a space after a separator is no part of a cell" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"row 0 .*a cell has a space before its opening quote"):
        read(tmp_path, "y.csv", 'label,text\npos, "One."\n')
    table = read(tmp_path, "z.csv", 'label,text\npos, He said "no".\n')
    assert table["text"].to_pylist() == [' He said "no".']


def test_a_carriage_return_within_a_text_splits_no_row(tmp_path):
    """pandas #10018 and #22678: `to_csv` left a lone \\r unquoted, and `read_csv` split there."""
    with pytest.raises(DataError, match=r"row 1 .*some rows end with a carriage return, others"):
        read(tmp_path, "x.csv", "text\none\ntwo\rowt\nthree\n")
    with pytest.raises(DataError, match=r"row 1 .*some rows end with a carriage return"):
        read(tmp_path, "y.csv", "a,b\n1,one\n2,two\rowt\n3,three\n")
    table = read(tmp_path, "z.csv", 'a,b\n1,"one\rtwo"\n2,three\n')
    assert table["b"].to_pylist() == ["one\rtwo", "three"]


def test_a_file_of_a_mac_has_its_rows(tmp_path):
    """tidyverse/readr #1236, votingworks/arlo #883: \\r alone ends each line."""
    table = read(tmp_path, "x.csv", "text,label\rGood.,pos\rBad.,neg")
    assert table.to_pydict() == {"text": ["Good.", "Bad."], "label": ["pos", "neg"]}


def test_an_empty_quoted_cell_at_the_end_is_a_cell(tmp_path):
    """osiegmar/FastCSV #20: `"foo",""` had one cell."""
    table = read(tmp_path, "x.csv", 'text,note\n"foo",""\n')
    assert table.to_pydict() == {"text": ["foo"], "note": [None]}


def test_a_short_row_is_refused_with_its_place(tmp_path):
    """inspect_ai #4546: `AttributeError: 'NoneType' object has no attribute 'strip'`."""
    with pytest.raises(DataError, match=r"row 1 .*: 2 cells, but the header has 3"):
        read(tmp_path, "x.csv", "text,label,id\na,pos,1\nb,neg\n")


def test_labels_with_spaces_or_capitals_are_the_same_labels(tmp_path, capsys):
    """apple/turicreate #1531, demisto/content #9341: "Spam", "spam" and "spam " were three."""
    (tmp_path / "x.csv").write_text("text,label\na,Spam\nb,spam \nc,ham\n")
    rows = load_rows(str(tmp_path / "x.csv"), "train", Columns(labels=("spam", "ham")))
    assert rows.labels == ["spam", "spam", "ham"]
    assert rows.meanings == {"Spam": ("spam", 1), "'spam '": ("spam", 1)}
    # Where capitals tell labels apart, they count.
    two = Columns(labels=("Spam", "spam", "ham"))
    assert load_rows(str(tmp_path / "x.csv"), "train", two).labels == ["Spam", "spam", "ham"]
    (tmp_path / "y.csv").write_text("text,label\na,SPAM\n")
    refused("label is 'SPAM', which is not one of the labels", tmp_path / "y.csv", columns=two)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_a_key_that_occurs_twice_is_refused(tmp_path, name):
    """bids-validator #73, cityjson/specs #2: the last value was used, and nobody knew."""
    line = '{"text": "a", "label": "pos", "text": "b"}'
    with pytest.raises(DataError, match="an object has the key 'text' twice"):
        read(tmp_path, name, f"[{line}]" if name == "x.json" else line)
    with pytest.raises(DataError, match="line 2: an object has the key 'a' twice"):
        read(tmp_path, "y.jsonl", '{"text": "a"}\n{"text": "b", "meta": {"a": 1, "a": 2}}\n')


def test_line_breaks_within_quotes_are_no_rows(tmp_path):
    """apple/turicreate #907, label-sleuth #575: the number of rows counted lines."""
    table = read(tmp_path, "x.csv", 'id,title\n11,"this is fine"\n12,"this is \nnot fine!"\n')
    assert table["title"].to_pylist() == ["this is fine", "this is \nnot fine!"]


def test_types_of_arrow_that_hold_texts_are_texts(tmp_path):
    """Dictionaries (pandas' categories), large strings and views, which other writers use."""
    labels = pa.array(["pos", "neg"]).dictionary_encode()
    for kind in (pa.large_string(), pa.string_view()):
        table = pa.table({"text": pa.array(["a", "b"], kind), "label": labels})
        pq.write_table(table, tmp_path / "x.parquet")
        rows = load_rows(str(tmp_path / "x.parquet"), "train", COLUMNS)
        assert (rows.texts, rows.labels) == (["a", "b"], ["positive", "negative"])


def test_a_number_of_any_length_in_another_column_stays(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "a", "label": "pos", "n": 10**400}))
    assert load_rows(str(tmp_path / "x.jsonl"), "train", COLUMNS).texts == ["a"]
