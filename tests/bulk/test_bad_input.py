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


BROKEN = {
    '{"id": 3, "text": "cut of': "broken line: Invalid control character at",
    "5": "broken line: int instead of an object",
    '["a"]': "broken line: list instead of an object",
    '{"text": "a", "text": "b"}': "broken line: an object has the key 'text' twice",
    '{"text": ' + "[" * 100_000: "broken line: ",
    "caf\udce9": "broken line: not valid UTF-8",
    '{"id": 9, "text": ""}': "text is empty",
    '{"id": 9, "text": "\\ud800"}': "text is not valid Unicode",
}


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_a_broken_line_is_a_reject_and_no_reason_to_refuse_the_others(
    tmp_path, ask, monkeypatch, format
):
    """One broken line of a JSONL file refused the whole job."""
    good = [json.dumps({"id": number, "text": text}) for number, text in enumerate(TEXTS)]
    lines = list(good)
    places = dict(zip((1, 4, 8, 9, 15, 16, 23, 34), BROKEN, strict=True))
    for place, line in places.items():
        lines.insert(place, line)
    for blanks in (["", ""], []):  # an empty line is no row
        source = tmp_path / f"in{len(blanks)}.jsonl"
        source.write_text("\n".join([*blanks, *lines]) + "\n", errors="surrogateescape")
        output = tmp_path / f"out{len(blanks)}"
        arguments = [*ask(source)[:-1], f"{output}/", "--format", format]
        _, stderr = predicted(*arguments)
        assert (
            "8 rows without an answer, the first of them row 1 (counted from 0): broken" in stderr
        )
        assert f"27 rows written to {output}" in stderr
        rejects = [
            json.loads(line)
            for path in sorted(output.glob("rejects-*"))
            for line in path.read_text().splitlines()
        ]
        assert [reject["row"] for reject in rejects] == list(places)
        for reject, reason in zip(rejects, BROKEN.values(), strict=True):
            assert reject["reason"].startswith(reason), reject
        before = parts_of(output)
        next(iter(output.glob("part-*"))).unlink()
        predicted(*arguments)
        assert parts_of(output) == before
    if format == "parquet":
        tables = [pq.read_table(path) for path in sorted(output.glob("part-*"))]
        assert [row["text"] for table in tables for row in table.to_pylist()] == TEXTS
        assert {str(table.schema.field("id").type) for table in tables} == {"int64"}


def test_a_broken_line_is_counted_in_its_file_of_several(tmp_path, ask):
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in (0, 1):
        lines = [json.dumps({"text": text}) for text in TEXTS[:5]]
        lines[3] = "broken"
        (folder / f"test-{number}-of-2.jsonl").write_text("\n".join(lines))
    predicted(*ask(folder))
    text = "".join(path.read_text() for path in sorted((tmp_path / "out").glob("rejects-*")))
    assert [json.loads(line)["row"] for line in text.splitlines()] == [3, 8]


def test_a_file_without_a_usable_line_is_refused(tmp_path, ask):
    source = tmp_path / "in.jsonl"
    source.write_text("no\nJSON\n")
    message = "no line of it can be used; the first: broken line: Expecting value"
    failed(3, message, "predict", *ask(source))
    source.write_text('{\n  "text": "a"\n}\n')
    failed(3, "it is one object over several lines", "predict", *ask(source))
    assert not (tmp_path / "out").exists()


def test_one_file_as_output_still_refuses_a_broken_line(toy_run, tmp_path):
    """Its rows stay in place, and what such a row was is unknown."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "Good."}\nbroken\n')
    ask = ["--input", source, "--adapter", toy_run, "--output", tmp_path / "out.csv"]
    failed(3, "line 2: Expecting value", "predict", *ask)
