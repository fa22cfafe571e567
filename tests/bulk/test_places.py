"""Inputs and outputs behind URLs: `memory://` stands for an object store, `file://` is local."""

import gzip
import json
from importlib.util import find_spec

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import failed, predicted, run
from upath import UPath

from sentilora.bulk import scoring, units
from sentilora.data.sources import read_table
from sentilora.disk import written_aside
from sentilora.errors import SentiloraError
from sentilora.places import path_of

TEXTS = [f"Film {number} is {word}." for number, word in enumerate(["good", "bad", "long"] * 9)]


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setitem(units.ROWS_PER_UNIT, "cpu", 8)


@pytest.fixture
def bucket():
    """A folder in memory that holds an input of 27 rows, two of them without a text."""
    folder = UPath("memory://bucket")
    if folder.exists():
        folder.fs.rm(folder.path, recursive=True)
    texts = [*TEXTS[:20], "", *TEXTS[21:26], ""]
    lines = [json.dumps({"id": number, "text": text}) for number, text in enumerate(texts)]
    folder.mkdir(parents=True)
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    yield folder
    folder.fs.rm(folder.path, recursive=True)


def contents_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("output", ["out/", "out.csv.gz"])
def test_a_url_gets_the_bytes_that_a_local_path_gets(toy_run, tmp_path, bucket, output):
    (tmp_path / "in.jsonl").write_bytes((bucket / "in.jsonl").read_bytes())
    for where in (tmp_path, bucket):
        ask = ["--input", where / "in.jsonl", "--adapter", toy_run]
        _, stderr = predicted(*ask, "--output", f"{where}/{output}")
        assert "2 rows without an answer" in stderr
        assert ("its storage has no locks" in stderr) == (where is bucket)
    if output == "out/":
        here, there = contents_of(tmp_path / "out"), contents_of(bucket / "out")
        assert len(here) == 4 + 2 + 1 and here == there
        (bucket / "out/part-00001-of-00004.parquet").unlink()
        assert "3 of 4 units done before" in predicted(*ask, "--output", f"{bucket}/out/")[1]
        assert contents_of(bucket / "out") == there
    else:
        assert (bucket / output).read_bytes() == (tmp_path / output).read_bytes()
        assert sorted(contents_of(bucket)) == ["in.jsonl", output]
        assert not (bucket / f".{output}.units").exists()
        ask += ["--output", bucket / output]
        failed(2, f"{bucket / output} exists", "predict", *ask)


def test_every_format_is_read_from_a_url(bucket):
    table = pa.table({"text": TEXTS})
    with (bucket / "a.parquet").open("wb") as file:
        pq.write_table(table, file)
    text = "text\n" + "".join(f"{line}\n" for line in TEXTS)
    (bucket / "a.csv").write_text(text, encoding="utf-8")
    (bucket / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    (bucket / "a.tsv.zst").write_bytes(pa.compress(text.encode(), "zstd", asbytes=True))
    for name in ("a.parquet", "a.csv", "a.csv.gz", "a.tsv.zst"):
        assert read_table(f"memory://bucket/{name}", "test")["text"].to_pylist() == TEXTS, name
    shards = bucket / "shards"
    shards.mkdir()
    for number, part in enumerate((table.slice(0, 10), table.slice(10))):
        with (shards / f"test-0000{number}-of-00002.parquet").open("wb") as file:
            pq.write_table(part, file)
    assert read_table("memory://bucket/shards", "test")["text"].to_pylist() == TEXTS


def test_a_job_on_a_url_resumes_where_it_was_ended(toy_run, bucket, monkeypatch):
    calls, classify_rows = [], scoring.classify_rows

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return classify_rows(*args)

    monkeypatch.setattr(scoring, "classify_rows", interrupt)
    ask = ["--input", bucket / "in.jsonl", "--adapter", toy_run, "--output"]
    code, _, stderr = run("predict", *ask, f"{bucket}/out/")
    assert code == 130 and "interrupted: 2 of 4 units done" in stderr
    predicted(*ask, f"{bucket}/out/")
    assert len(calls) == 5
    predicted(*ask, f"{bucket}/whole/")
    assert contents_of(bucket / "out") == contents_of(bucket / "whole")


def test_a_remote_file_appears_whole_or_not_at_all(bucket):
    target = bucket / "a.txt"
    with pytest.raises(ValueError), written_aside(target) as partial:
        partial.write_text("half")
        raise ValueError
    assert sorted(contents_of(bucket)) == ["in.jsonl"]
    with written_aside(target) as partial:
        partial.write_text("whole")
        assert not target.exists()
    assert contents_of(bucket)["a.txt"] == b"whole" and len(contents_of(bucket)) == 2


def test_a_storage_that_refuses_is_one_line(bucket, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(bucket.fs), "put_file", refuse)
    message = r"cannot write .*a\.txt: Access Denied"
    with (
        pytest.raises(SentiloraError, match=message),
        written_aside(bucket / "a.txt") as partial,
    ):
        partial.write_text("x")


def test_a_file_url_is_a_local_path(tmp_path):
    assert path_of(f"file://{tmp_path}/a%20b.csv") == tmp_path / "a b.csv"
    assert path_of("a/b.csv").parts == ("a", "b.csv")


@pytest.mark.parametrize("option", ["--input", "--output"])
def test_a_url_that_nobody_serves_is_one_line(toy_run, tmp_path, option):
    (tmp_path / "in.csv").write_text("text\nGood.\n")
    urls = ["xyz://bucket/in.csv"] if find_spec("s3fs") else ["s3://bucket/a.csv", "xyz://b/a.csv"]
    for url in urls:
        paths = {"--input": tmp_path / "in.csv", "--output": tmp_path / "out.csv", option: url}
        ask = [part for pair in paths.items() for part in pair]
        failed(2, f"cannot reach '{url}': ", "predict", *ask, "--adapter", toy_run)
    url = "memory://bucket/no.csv"
    failed(3, f"there is no file {url}", "predict", "--input", url, "--adapter", toy_run)
