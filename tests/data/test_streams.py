"""streams.py: a source in pieces is the source as a whole, in values, types and refusals."""

import gzip
import itertools
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sentilora.data import delimited, json_tables, streams
from sentilora.data.output import Encoding, encode_table, write_encoded, write_pieces
from sentilora.data.sources import read_table
from sentilora.data.streams import open_stream
from sentilora.data.tables import OUTPUT_SUFFIXES
from sentilora.errors import DataError


@pytest.fixture
def few_rows(monkeypatch):
    """Pieces of three rows, so that a short file has several."""
    for module in (delimited, json_tables, streams):
        monkeypatch.setattr(module, "_ROWS_AT_ONCE", 3)


def whole_of(stream, first=0):
    return pa.concat_tables([stream.schema.empty_table(), *stream.tables(first)])


def ends_of(stream, first):
    """Where the pieces end: wherever reading starts, at the same rows."""
    return list(itertools.accumulate(map(len, stream.tables(first)), initial=first))[1:]


def same(source):
    """Checks that stream and table are alike; returns the stream."""
    stream, table = open_stream(str(source), "test"), read_table(str(source), "test")
    assert stream.schema.equals(table.schema, check_metadata=True)
    assert stream.num_rows == len(table)
    ends = ends_of(stream, 0)
    for first in range(0, len(table) + 1, 2):
        rest = whole_of(stream, first)
        assert ends_of(stream, first) == [end for end in ends if end > first]
        assert [c.to_pylist() for c in rest.columns] == [
            c.to_pylist() for c in table.slice(first).columns
        ]
    return stream


CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), CELLS, st.lists(CELLS, max_size=2))


@settings(max_examples=40)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=10), st.sampled_from(OUTPUT_SUFFIXES))
def test_a_stream_is_the_table_in_every_format(tmp_path_factory, rows, suffix):
    with pytest.MonkeyPatch.context() as patch:
        for module in (delimited, json_tables, streams):
            patch.setattr(module, "_ROWS_AT_ONCE", 3)
        path = tmp_path_factory.getbasetemp() / f"stream{suffix}"
        table = pa.table({"text": [a for a, _ in rows], "b": [b for _, b in rows]},
                         pa.schema([("text", pa.string()), ("b", pa.string())]))  # fmt: skip
        write_encoded(encode_table(table, path), path)
        same(path)


def refusals(table, path):
    """What is said of each column that a format cannot hold."""
    said = set()
    for name in table.column_names:
        try:
            encode_table(table.select([name]), path)
        except DataError as error:
            said.add(str(error))
    return said


@settings(max_examples=40)
@example(rows=[{"a": None}] * 3 + [{"a": None, "b": 2**63}, {"a": 2**63}])
@given(st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, min_size=1), max_size=10))
def test_objects_of_any_keys_and_values_stream_as_they_are_read(tmp_path_factory, rows):
    with pytest.MonkeyPatch.context() as patch:
        for module in (json_tables, streams):
            patch.setattr(module, "_ROWS_AT_ONCE", 3)
        path = tmp_path_factory.getbasetemp() / "objects.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        stream = same(path)
        for suffix in (".parquet", ".csv", ".jsonl"):
            target = path.with_suffix(f".out{suffix}")
            table = read_table(str(path), "test")
            try:
                expected = encode_table(table, target)
            except DataError as error:
                with pytest.raises(DataError) as refusal:
                    encoding = Encoding.of(stream.schema, stream.tables(), target)
                    pa.concat_tables([encoding.encode(table) for table in stream.tables()])
                # Of several columns that it cannot hold, a stream may meet another one first.
                assert {str(refusal.value), str(error)} <= refusals(table, target)
                continue
            encoding = Encoding.of(stream.schema, stream.tables(), target)
            pieces = [encoding.encode(table) for table in stream.tables()]
            found = pa.concat_tables([expected.schema.empty_table(), *pieces])
            assert found.schema == expected.schema and found.equals(expected)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'text,n\na,1\n"b,1\n'),
        ("b.csv", "text,n\n" + "a,1\n" * 7 + "b\n"),
        ("c.csv", 'text,n\na,1\n"b,1\na",1\n'),
        ("d.csv", ""),
        ("e.jsonl", '{"a": 1}\n' * 7 + "[1]\n"),
        ("f.jsonl", '{"a": 1}\n' * 7 + '{"a": 1, "a": 2}\n'),
        ("g.json", '{\n"a": 1}'),
        ("h.jsonl", "{}\n{}\n"),
        ("i.txt", "text"),
        ("j.csv.gz", "not packed"),
        ("k.csv.zst", "not packed"),
        ("l.csv", b"text\n" + b"a\n" * 9 + b"\xe9\n"),
    ],
)
def test_what_a_table_is_refused_for_a_stream_is_refused_for(tmp_path, few_rows, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as of_table:
        read_table(str(path), "test")
    with pytest.raises(DataError) as of_stream:
        open_stream(str(path), "test")
    assert str(of_stream.value) == str(of_table.value)


def test_quotes_of_a_tsv_file_and_other_separators_are_seen_once(tmp_path, few_rows, capsys):
    (tmp_path / "a.tsv").write_text("text\tn\n" + 'so "good"\t1\n"bad\t2\n' * 4)
    (tmp_path / "b.csv").write_text("sep=;\ntext; n\n" + "a; 1\n" * 8)
    for name, said in (("a.tsv", "read without quoting"), ("b.csv", "its separator is ';'")):
        stream = open_stream(str(tmp_path / name), "test")
        assert capsys.readouterr().err.count(said) == 1
        list(stream.tables())
        assert capsys.readouterr().err == ""
        same(tmp_path / name)


def test_row_groups_indexes_and_types_of_parquet(tmp_path, few_rows):
    frame = pd.DataFrame(
        {"text": list("abcdefgh"), "n": range(8), "c": pd.Categorical(list("xyxyxyzz"))},
        index=pd.RangeIndex(3, 19, 2, name="k"),
    )
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pandas(frame), path, row_group_size=2)
    same(path)


def test_parts_of_a_folder_and_objects_in_memory(tmp_path, few_rows):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "test-00000-of-00002.jsonl").write_text('{"text": "a", "n": "x"}\n' * 5)
    (folder / "test-00001-of-00002.jsonl").write_text('{"n": 1, "text": "b"}\n' * 5)
    same(folder)
    (tmp_path / "list.json").write_text(json.dumps([{"text": str(i)} for i in range(8)]))
    same(tmp_path / "list.json")
    pd.DataFrame({"text": list("abcde")}).to_excel(tmp_path / "a.xlsx", index=False)
    same(tmp_path / "a.xlsx")


def test_the_frames_of_a_packed_file_are_all_read(tmp_path):
    """zstandard's own reader ends after the first frame, and at the end of a file cut short."""
    content = b"text\n" + b"word\n" * 1000
    packed = pa.compress(content, "zstd", asbytes=True)
    path = tmp_path / "a.csv.zst"
    path.write_bytes(packed + pa.compress(b"more\n" * 1000, "zstd", asbytes=True))
    assert same(path).num_rows == 2000
    for cut in (path, tmp_path / "b.csv.gz"):
        cut.write_bytes((packed if cut == path else gzip.compress(content))[:-9])
        with pytest.raises(DataError, match="cannot read"):
            open_stream(str(cut), "test")


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, few_rows):
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "a\n" * 10)
    stream = open_stream(str(path), "test")
    path.write_text("text\n" + "a\n" * 8)
    with pytest.raises(DataError, match="has changed while it was read: 8 rows instead of 10"):
        list(stream.tables())


def test_the_digest_is_of_the_content(tmp_path):
    for name, content in (("a", "text\nx\n"), ("b", "text\nx\n"), ("c", "text\ny\n")):
        (tmp_path / f"{name}.csv").write_text(content)
    a, b, c = (open_stream(str(tmp_path / f"{name}.csv"), "test").sha256 for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_pieces_are_written_as_the_whole(tmp_path, suffix):
    table = pa.table({"text": ["a", 'b"', None, "d"], "n": [1, 2, 3, 4]})
    whole, pieces = tmp_path / f"whole{suffix}", tmp_path / f"pieces{suffix}"
    encoded = encode_table(table, whole)
    write_encoded(encoded, whole)
    write_pieces(encoded.schema, (encoded.slice(i, 1) for i in range(4)), pieces)
    if suffix == ".parquet":
        assert pq.read_table(pieces).equals(pq.read_table(whole))
    else:
        assert pieces.read_bytes() == whole.read_bytes()
