"""delimited.py: a stray quote joins no rows, and what is written reads back."""

import csv
import io

import pytest
from data_files import refused
from hypothesis import given
from hypothesis import strategies as st

from sentilora.data.delimited import write_delimited
from sentilora.data.sources import read_table
from sentilora.errors import DataError

# pytorch/text #612 and #349, pandas #39857: one quote, and rows are gone without a word.
STRAY_QUOTES = [
    '"Never again, said my aunt.',
    "The tent is dry.",
    "The drill is loud.",
    'He called it "fine"',
    "The lamp is bright.",
]


def read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    return read_table(str(tmp_path / name), "test")


def test_a_quote_in_a_tsv_joins_no_rows(tmp_path, capsys):
    lines = ["text\tlabel", *(f"{text}\tpositive" for text in STRAY_QUOTES)]
    table = read(tmp_path, "m.tsv", "\n".join(lines))
    assert table["text"].to_pylist() == STRAY_QUOTES
    assert table["label"].to_pylist() == ["positive"] * 5
    assert "m.tsv: read without quoting, because its quotes are part of" in capsys.readouterr().err


def test_a_tsv_that_can_be_read_in_two_ways_is_refused(tmp_path):
    content = 'text\tlabel\nGood.\tpos\n"Never again.\tneg\nThe screen has 15"\tpos\n'
    with pytest.raises(DataError, match=r"two ways: row 1 \(counted from 0\) is one quoted row of"):
        read(tmp_path, "m.tsv", content)
    rows = ['"Never again,neg', "Lovely,pos", "Good,pos", 'The TV has 55",neg', "Bright.,pos"]
    with pytest.raises(DataError, match=r"two ways: row 0 \(counted from 0\) is one quoted row of"):
        read(tmp_path, "m.csv", "\n".join(["text,label", *rows]))
    # One line of a quoted text has a comma, too, but none is a row.
    table = read(tmp_path, "n.csv", 'text,label\n"Well, I\nsaid, no.",pos\nBad.,neg\n')
    assert table["text"].to_pylist() == ["Well, I\nsaid, no.", "Bad."]
    # A line break and no separator within the quotes: only one way is left.
    table = read(tmp_path, "m.tsv", 'text\tlabel\n"Good.\nSo good."\tpos\nBad.\tneg\n')
    assert table["text"].to_pylist() == ["Good.\nSo good.", "Bad."]


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (
            'text,label\n"Never, again.,neg\nHe called it "fine",pos\nx,pos\n',
            "row 0 .*goes on after",
        ),
        (
            'text,label\nGood.,pos\n"He said \\"fine\\".",pos\n',
            'row 1 .*goes on after.*write "" for',
        ),
        ('text,label\n"Good." ,pos\n', "row 0 .*goes on after its closing quote"),
        ('text,label\nGood.,pos\n"Bad.,neg\n', "row 1 .*never closes it"),
        ("text,label\nGood.\nSo good.,pos\n", "row 0 .*1 cell, but the header has 2"),
        ("text,label\nGood.,pos\n\nGood, really,pos\n", "row 1 .*3 cells, but the header has 2"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_what_is_out_of_place_is_refused_with_its_row(tmp_path, content, pattern, suffix):
    import gzip

    data = content.encode()
    (tmp_path / f"x.{suffix}").write_bytes(gzip.compress(data) if suffix == "csv.gz" else data)
    refused(pattern, tmp_path / f"x.{suffix}")


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_seen_in_the_header(tmp_path, separator, capsys):
    content = f'text{separator}label\n"Good, and{separator} fine."{separator}pos\n'
    table = read(tmp_path, "export.csv", content)
    assert table.to_pydict() == {"text": [f"Good, and{separator} fine."], "label": ["pos"]}
    assert f"export.csv: its separator is {separator!r}" in capsys.readouterr().err
    table = read(tmp_path, "excel.csv", f"sep={separator}\n{content}")
    assert table.to_pydict() == {"text": [f"Good, and{separator} fine."], "label": ["pos"]}


def test_a_comma_in_the_header_of_a_tsv_is_seen(tmp_path, capsys):
    assert read(tmp_path, "x.tsv", "text,label\nGood.,pos\n").column_names == ["text", "label"]
    assert "x.tsv: its separator is ','" in capsys.readouterr().err
    assert read(tmp_path, "y.csv", '"text;label"\nGood.\n').column_names == ["text;label"]


def test_a_cell_may_be_long_and_the_modules_own_limit_stays(tmp_path):
    limit = csv.field_size_limit()
    assert len(read(tmp_path, "x.csv", f"text\n{'a' * 300_000}\n")["text"][0].as_py()) == 300_000
    assert csv.field_size_limit() == limit


CELLS = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=6)
    ),
    st.sampled_from([",", ";"]),
)
def test_what_is_written_is_read_by_a_strict_reader(rows, separator):
    file = io.StringIO(newline="")
    write_delimited(file, rows[0], rows[1:], separator)
    again = csv.reader(io.StringIO(file.getvalue(), newline=""), delimiter=separator, strict=True)
    assert list(again) == rows
