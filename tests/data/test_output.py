"""output.py: the columns of an input reach the output with their types, names and values."""

import datetime
import decimal
import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.data.output import encode_table, write_encoded
from sentilora.data.sources import read_table
from sentilora.data.tables import OUTPUT_SUFFIXES
from sentilora.errors import DataError, SentiloraError

FORMATS = ["csv", "tsv", "jsonl", "ndjson", "json", "parquet", "csv.gz", "jsonl.gz"]


def copy(source, target):
    """The target, after what is in the source was written to it."""
    target.unlink(missing_ok=True)
    write_encoded(encode_table(read_table(str(source), "test"), target), target)
    return target


def content(path):
    """The rows of a file, as plain readers have them: [(name, value), …] each."""
    if path.name.endswith(".parquet"):
        table = pq.ParquetFile(path).read()
        columns = [column.to_pylist() for column in table.columns]
        rows = zip(*columns, strict=True)
        return [list(zip(table.column_names, row, strict=True)) for row in rows]
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if ".json" in path.suffixes:
        return [list(row.items()) for row in json.loads(data)]
    return [list(json.loads(line).items()) for line in data.decode().split("\n") if line]


def test_large_integers_with_a_gap_stay_integers(tmp_path):
    """pandas #56678, superset #8225: 9007199254740993 became 9007199254740992.0."""
    ids = [9007199254740993, None, -(2**63)]
    source = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c"], "id": pa.array(ids, pa.int64())}), source)
    table = pq.read_table(copy(source, tmp_path / "out.parquet"))
    assert table["id"].to_pylist() == ids and table.schema.field("id").type == pa.int64()
    assert [row[1][1] for row in content(copy(source, tmp_path / "out.jsonl"))] == ids
    lines = copy(source, tmp_path / "out.csv").read_text().splitlines()
    assert lines == ["text,id", f"a,{ids[0]}", "b,", f"c,{ids[2]}"]


def test_names_of_columns_stay_even_if_empty_or_repeated(tmp_path):
    (tmp_path / "in.csv").write_text(",text,idx,idx\n0,a,007,1e3\n")
    for suffix in ("csv", "tsv"):
        out = copy(tmp_path / "in.csv", tmp_path / f"out.{suffix}")
        assert out.read_text().replace("\t", ",") == ",text,idx,idx\n0,a,007,1e3\n"
    for suffix in ("jsonl", "parquet"):
        with pytest.raises(DataError, match="cannot hold the column 'idx': it occurs twice"):
            copy(tmp_path / "in.csv", tmp_path / f"out.{suffix}")


@pytest.mark.parametrize(
    ("index", "name"),
    [([7, 9], "id"), ([7, 9], None), ([3, 8], None), (["x", "y"], None), (["x", "y"], "key")],
)
def test_an_index_is_no_less_than_a_column(tmp_path, index, name):
    frame = pd.DataFrame({"text": ["a", "b"]}, index=pd.Index(index, name=name))
    frame.to_parquet(tmp_path / "in.parquet")
    again = pd.read_parquet(copy(tmp_path / "in.parquet", tmp_path / "out.parquet"))
    assert again.index.tolist() == index and again.index.name == name
    rows = content(copy(tmp_path / "in.parquet", tmp_path / "out.jsonl"))
    assert [row[1] for row in rows] == [(name or "__index_level_0__", value) for value in index]


def test_an_index_of_numbers_that_pandas_stores_as_a_range_reads_back(tmp_path):
    for name in (None, "step"):
        frame = pd.DataFrame({"text": list("abcdef")}).rename_axis(name).iloc[2:6]
        frame.to_parquet(tmp_path / "in.parquet")
        again = pd.read_parquet(copy(tmp_path / "in.parquet", tmp_path / "out.parquet"))
        pd.testing.assert_frame_equal(again, frame, check_index_type=False)


def test_numbers_keep_the_text_they_were_written_as(tmp_path):
    line = '{"text": "a", "p": 0.12345678901234567890123, "q": 1e400, "r": 1.10, "s": [1.0, NaN]}'
    (tmp_path / "in.jsonl").write_text(line)
    assert copy(tmp_path / "in.jsonl", tmp_path / "out.jsonl").read_text() == line + "\n"


def test_a_sheets_numbers_stay_numbers(tmp_path):
    frame = pd.DataFrame({"text": ["a", "b", "c"], "f": [1.0, 2.5, None], "m": [1, "x", 2.5]})
    frame.to_excel(tmp_path / "in.xlsx", index=False)
    rows = content(copy(tmp_path / "in.xlsx", tmp_path / "out.jsonl"))
    assert [dict(row)["f"] for row in rows] == [1.0, 2.5, None]
    assert [dict(row)["m"] for row in rows] == [1, "x", 2.5]


def test_half_a_surrogate_pair_is_named(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "a\\ud83d"}')
    with pytest.raises(
        DataError, match="cannot hold the column 'text': it has half of a surrogate"
    ):
        copy(tmp_path / "in.jsonl", tmp_path / "out.csv")
    assert "\\ud83d" in copy(tmp_path / "in.jsonl", tmp_path / "out.jsonl").read_text()


def test_rows_that_are_only_counted_get_no_column(tmp_path):
    pd.DataFrame({"text": ["a", "b"]}).to_parquet(tmp_path / "in.parquet")
    assert read_table(str(tmp_path / "in.parquet"), "test").column_names == ["text"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), JSON_VALUES).map(lambda d: {"text": "x", **d}),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["jsonl", "json"]),
    st.sampled_from(["jsonl", "json", "jsonl.gz"]),
)
def test_any_json_reaches_json_as_it_is(tmp_path_factory, records, before, after):
    folder = tmp_path_factory.getbasetemp()
    lines = [json.dumps(record) for record in records]
    text = "\n".join(lines) if before == "jsonl" else f"[{','.join(lines)}]"
    (folder / f"in.{before}").write_text(text, encoding="utf-8")
    rows = content(copy(folder / f"in.{before}", folder / f"out.{after}"))
    # Keys may change their order within a row: columns stand in the order of the first row.
    assert [dict(row) for row in rows] == records


ARROW_COLUMNS = st.sampled_from(
    [
        (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
        (pa.uint64(), st.integers(0, 2**64 - 1)),
        (pa.float64(), st.floats(allow_nan=False, allow_infinity=False)),
        (pa.bool_(), st.booleans()),
        (pa.string(), st.text(st.characters(exclude_categories=["Cs"]), min_size=1)),
        (pa.list_(pa.int64()), st.lists(st.integers(0, 9))),
        (pa.struct({"a": pa.int64()}), st.fixed_dictionaries({"a": st.integers(0, 9)})),
    ]
).flatmap(
    lambda pair: st.lists(st.none() | pair[1], min_size=3, max_size=3).map(
        lambda values: pa.array(values, pair[0])
    )
)


@given(st.lists(ARROW_COLUMNS, min_size=1, max_size=3), st.sampled_from(FORMATS))
def test_any_column_reaches_any_format_as_it_is(tmp_path_factory, columns, suffix):
    folder = tmp_path_factory.getbasetemp()
    names = [f"column {i}" for i in range(len(columns))]
    source = folder / "in.parquet"
    pq.write_table(pa.table([["some text"] * 3, *columns], names=["text", *names]), source)
    target = copy(source, folder / f"out.{suffix}")
    if suffix == "parquet":
        assert pq.read_table(target).equals(pq.read_table(source))
    elif "json" in suffix:
        assert content(target) == content(source)
    else:
        again = read_table(str(target), "test")
        for name, column in zip(names, columns, strict=True):
            for cell, value in zip(again[name].to_pylist(), column.to_pylist(), strict=True):
                if value is None or isinstance(value, str):
                    assert cell == value
                else:
                    assert type(value)(eval(cell)) == value  # 1, 1.5, True, [1], {"a": 1}


def test_times_and_decimals_are_written_in_full(tmp_path):
    moment = datetime.datetime(2026, 11, 28, 12, 0, 0, 1)
    table = pa.table(
        {
            "text": ["a"],
            "at": pa.array([moment], pa.timestamp("us")),
            "day": pa.array([moment.date()]),
            "price": pa.array([decimal.Decimal("12345678901234567890.12")]),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    line = copy(tmp_path / "in.parquet", tmp_path / "out.csv").read_text().splitlines()[1]
    assert line == "a,2026-11-28T12:00:00.000001,2026-11-28,12345678901234567890.12"
    assert (
        '"price": 12345678901234567890.12}'
        in copy(tmp_path / "in.parquet", tmp_path / "out.jsonl").read_text()
    )


@pytest.mark.parametrize(
    ("column", "suffix", "reason"),
    [
        (pa.array([b"\xff"]), "csv", "a text file cannot hold bytes"),
        (pa.array([b"\xff"]), "jsonl", "JSON cannot hold bytes"),
        (pa.array([[b"\xff"]]), "jsonl.gz", "JSON cannot hold bytes"),
        (pa.array([float("inf")]), "jsonl", "JSON has no inf"),
        (pa.array([datetime.timedelta(1)]), "json", "JSON cannot hold timedelta"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_column(tmp_path, column, suffix, reason):
    with pytest.raises(DataError, match=f"cannot hold the column 'odd': {reason}") as error:
        encode_table(pa.table({"text": ["a"], "odd": column}), tmp_path / f"o.{suffix}")
    assert (error.value.setting, error.value.seen) == ("output", "odd")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (10**30, "it has an integer of more than 64 bits"),
        ([{"a": 1}, {"b": 2}], "its objects do not have the same keys"),
        ([1, "a"], "Could not convert"),
    ],
)
def test_json_that_no_type_of_parquet_holds_is_refused(tmp_path, value, reason):
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "a", "odd": value}))
    table = read_table(str(tmp_path / "in.jsonl"), "test")
    with pytest.raises(DataError, match=f"cannot hold the column 'odd': {reason}"):
        encode_table(table, tmp_path / "o.parquet")
    assert len(encode_table(table, tmp_path / "o.csv")) == 1


def test_nothing_stays_of_a_file_that_cannot_be_completed(tmp_path, monkeypatch):
    table = pa.table({"text": ["a" * 10_000] * 10})
    for suffix in OUTPUT_SUFFIXES:
        path = tmp_path / f"out{suffix}"
        encoded = encode_table(table, path)
        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.replace", full_disk)
            with pytest.raises(SentiloraError, match=r"cannot write .*No space left") as error:
                write_encoded(encoded, path)
        assert error.value.exit_code == 1
        assert list(tmp_path.iterdir()) == []
        write_encoded(encoded, path)
        path.unlink()


def full_disk(*args):
    raise OSError(28, "No space left on device")


@given(
    st.lists(
        st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]), min_size=1)] * 2),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(FORMATS),
    st.sampled_from(FORMATS),
)
def test_strings_pass_through_every_pair_of_formats(tmp_path_factory, rows, before, after):
    folder = tmp_path_factory.getbasetemp()
    names = ["text", 'a name, with "quotes"']
    table = pa.table([["some text"] * len(rows), *zip(*rows, strict=True)], names=["id", *names])
    source = folder / f"first.{before}"
    source.unlink(missing_ok=True)
    write_encoded(encode_table(table, source), source)
    again = read_table(str(copy(source, folder / f"second.{after}")), "test")
    assert again.column_names == ["id", *names]
    assert [again[name].to_pylist() for name in names] == [list(x) for x in zip(*rows, strict=True)]
