"""`predict --input … --output …` on input and folders as they come: refused by name, or right."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import failed, predicted

from sentilora.bulk import units

TEXTS = [f"Film {number} is {word}." for number, word in enumerate(["good", "bad", "long"] * 9)]


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setitem(units.ROWS_PER_UNIT, "cpu", 8)


@pytest.fixture
def ask(toy_run, tmp_path):
    """The arguments to classify a file into a folder."""
    return lambda source: ["--input", source, "--adapter", toy_run, "--output", f"{tmp_path}/out/"]


def parts_of(folder):
    return [path.read_bytes() for path in sorted(folder.glob("part-*"))]


@pytest.mark.parametrize(
    "kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_rows_without_an_answer_leave_columns_of_every_type(tmp_path, ask, kind):
    """Arrow has no filter for a view of strings: a traceback after the unit had been scored."""
    source = tmp_path / "in.parquet"
    texts = [None, *TEXTS[:10], ""]
    pq.write_table(pa.table({"text": pa.array(texts).cast(kind)}), source)
    predicted(*ask(source))
    found = [pq.read_table(path) for path in sorted((tmp_path / "out").glob("part-*"))]
    assert [row["text"] for table in found for row in table.to_pylist()] == TEXTS[:10]
    rejects = [path.read_text() for path in sorted((tmp_path / "out").glob("rejects-*"))]
    assert [json.loads(text)["row"] for text in rejects] == [0, 11]


def test_a_column_called_reason_is_kept_where_none_is_added(toy_run, tmp_path, ask):
    source = tmp_path / "in.jsonl"
    rows = [{"text": text, "reason": "late"} for text in ("Good.", "", "Bad.")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predicted(*ask(source))
    (part,) = (tmp_path / "out").glob("part-*")
    assert pq.read_table(part)["reason"].to_pylist() == ["late", "late"]
    file = ["--input", source, "--adapter", toy_run, "--output", tmp_path / "out.csv"]
    failed(3, "the input already has a column 'reason', which --output would add", "predict", *file)


@pytest.mark.parametrize("content", ['{"name": "a web app"}', "no JSON", '{"rows_per_unit": 0}'])
def test_a_folder_with_another_program_s_manifest_is_refused(tmp_path, ask, content):
    source = tmp_path / "in.csv"
    source.write_text("text\nGood.\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.json").write_text(content)
    failed(2, "out holds other files, or damaged ones: ", "predict", *ask(source))
    assert (tmp_path / "out/manifest.json").read_text() == content
    assert len(list((tmp_path / "out").iterdir())) == 1
