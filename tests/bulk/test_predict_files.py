"""`predict --input … --output …`: units, folders, shares, what is resumed and what is refused."""

import gzip
import json
import shutil
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import failed, predicted, run

import sentilora
from sentilora.bulk import manifest as manifest_module
from sentilora.bulk import scoring, units
from sentilora.bulk.results import Results
from sentilora.errors import Interrupted, SentiloraError
from sentilora.scoring.classifier import Classifier
from sentilora.stages.predict_file import predict_file

TEXTS = [f"Film {number} is {word}." for number, word in enumerate(["good", "bad", "long"] * 9)]


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setitem(units.ROWS_PER_UNIT, "cpu", 8)


@pytest.fixture
def source(tmp_path):
    """27 rows in four units, of which three have no text."""
    texts = list(TEXTS)
    for row in (3, 8, 26):
        texts[row] = ""
    path = tmp_path / "in.jsonl"
    rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


def contents_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_folder_gets_a_file_per_unit_and_the_rejects_beside_it(toy_run, tmp_path, source):
    output = tmp_path / "out"
    _, stderr = predicted("--input", source, "--output", f"{output}/", "--adapter", toy_run)
    parts = [f"part-0000{n}-of-00004.parquet" for n in range(4)]
    rejects = [f"rejects-0000{n}-of-00004.jsonl" for n in (0, 1, 3)]
    assert files_in(output) == sorted(["manifest.json", *parts, *rejects])
    assert "3 rows without an answer, the first of them row 3 (counted from 0): text is " in stderr
    assert f"24 rows written to {output} in 4 files" in stderr
    found = pa.concat_tables([pq.read_table(output / part) for part in parts]).to_pandas()
    added = ["prediction", "probability_positive", "probability_negative", "truncated"]
    assert list(found) == ["id", "text", *added]
    assert found["id"].tolist() == [n for n in range(27) if n not in (3, 8, 26)]
    written = [(output / name).read_text().splitlines() for name in rejects]
    lines = [json.loads(line) for lines in written for line in lines]
    assert lines == [{"row": row, "reason": "text is empty"} for row in (3, 8, 26)]
    classifier = Classifier.load(toy_run)
    answers = classifier.predict_proba(found["text"])
    assert abs(found[added[1:3]].to_numpy() - answers).max() < 1e-5
    assert found["prediction"].tolist() == classifier.predict(found["text"])


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "parquet", "tsv", "json", "csv.zst"])
def test_one_file_has_what_the_units_have_in_the_input_s_order(toy_run, tmp_path, source, suffix):
    output = tmp_path / f"out.{suffix}"
    answers = sentilora.predict(input=source, output=output, adapter=toy_run)
    assert files_in(tmp_path) == sorted([source.name, output.name])
    assert [p.reason for p in answers].count("text is empty") == 3
    found = pd.read_parquet(output) if suffix == "parquet" else None
    if suffix in ("jsonl", "json"):
        found = pd.read_json(output, lines=suffix == "jsonl", dtype=False)
    elif found is None:
        found = pd.read_csv(output, sep="\t" if suffix == "tsv" else ",", keep_default_na=False)
    assert found["id"].tolist() == list(range(27))
    assert found["reason"].fillna("").tolist() == [p.reason or "" for p in answers]
    assert found["prediction"].fillna("").tolist() == [p.label or "" for p in answers]
    again = tmp_path / f"again.{suffix}"
    sentilora.predict(input=source, output=again, adapter=toy_run)
    assert again.read_bytes() == output.read_bytes()


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_the_files_of_a_folder_have_the_format_asked_for(toy_run, tmp_path, source, format):
    output = tmp_path / "out"
    output.mkdir()
    ask = ["--input", source, "--output", output, "--adapter", toy_run]
    predicted(*ask, "--format", format)
    assert (output / f"part-00003-of-00004.{format}").is_file()
    failed(2, "output.format was", "predict", *ask)
    failed(2, "there is no --format 'xml'", "predict", *ask, "--format", "xml")
    file = [*ask[:3], tmp_path / "a.csv", *ask[4:]]
    failed(2, "--format works only with a folder", "predict", *file, "--format", "csv")
    failed(2, "--units works only with a folder", "predict", *file, "--units", "1/2")


def test_the_shares_of_several_jobs_are_the_whole(toy_run, tmp_path, source):
    ask = ["--input", source, "--adapter", toy_run, "--output"]
    predicted(*ask, f"{tmp_path}/whole/")
    for number in (3, 1, 2):
        _, stderr = predicted(*ask, f"{tmp_path}/shares/", "--units", f"{number}/3")
        assert f"share {number}/3: " in stderr
    assert contents_of(tmp_path / "shares") == contents_of(tmp_path / "whole")
    assert files_in(tmp_path / "shares") == files_in(tmp_path / "whole")


def test_what_is_done_is_not_scored_again(toy_run, tmp_path, source, monkeypatch):
    output = tmp_path / "out"
    ask = ["--input", source, "--adapter", toy_run, "--output", f"{output}/"]
    predicted(*ask)
    before = contents_of(output)
    (output / "part-00001-of-00004.parquet").unlink()
    _, stderr = predicted(*ask)
    assert "3 of 4 units done before" in stderr and contents_of(output) == before
    monkeypatch.setattr(Classifier, "load", lambda *_, **__: pytest.fail("loaded"))
    _, stderr = predicted(*ask)
    assert "4 of 4 units done before" in stderr and contents_of(output) == before


def test_what_a_killed_share_left_is_removed_by_the_whole(toy_run, tmp_path, source):
    left = tmp_path / "out/.share-1-of-2/.sentilora-claim"
    left.parent.mkdir(parents=True)
    left.write_text("")
    predicted("--input", source, "--output", f"{tmp_path}/out/", "--adapter", toy_run)
    assert not left.parent.exists()


@pytest.mark.parametrize(
    ("value", "suffix"), [("\\ud800", "csv"), ("\\ud800", "parquet")], ids=["csv", "parquet"]
)
def test_what_a_format_cannot_hold_is_refused_in_every_unit_before_the_first_is_scored(
    toy_run, tmp_path, source, value, suffix, monkeypatch
):
    monkeypatch.setattr(Classifier, "load", lambda *_, **__: pytest.fail("loaded"))
    source.write_text(source.read_text() + f'{{"id": 27, "text": "a", "note": "{value}"}}\n')
    for output in (f"{tmp_path}/out.{suffix}", f"{tmp_path}/out/"):
        options = ["--format", suffix] if output.endswith("/") else []
        failed(3, "cannot hold the column 'note': it has half of a surrogate pair", "predict",
               "--input", source, "--output", output, "--adapter", toy_run, *options)  # fmt: skip
    assert files_in(tmp_path) == ["in.jsonl"]


@pytest.mark.parametrize("output", ["out/", "out.csv"])
def test_after_ctrl_c_no_temporary_file_remains(toy_run, tmp_path, source, monkeypatch, output):
    calls = []

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return classify_rows(*args)

    classify_rows = scoring.classify_rows
    monkeypatch.setattr(scoring, "classify_rows", interrupt)
    request = {"input": source, "output": f"{tmp_path}/{output}", "adapter": toy_run}
    with pytest.raises(Interrupted, match="2 of 4 units done; the same command goes on"):
        sentilora.predict(**request)
    left = files_in(tmp_path)
    assert sum(name.startswith("part-") for name in left) == 2
    assert not any("partial" in name or "claim" in name for name in left)
    sentilora.predict(**request)
    assert len(calls) == 5  # a whole unit was lost, no more
    monkeypatch.setattr(scoring, "classify_rows", classify_rows)
    sentilora.predict(**{**request, "output": f"{tmp_path}/other-{output}"})
    if output == "out.csv":
        assert (tmp_path / output).read_bytes() == (tmp_path / "other-out.csv").read_bytes()
        assert files_in(tmp_path) == ["in.jsonl", "other-out.csv", "out.csv"]
    else:
        assert contents_of(tmp_path / "out") == contents_of(tmp_path / "other-out")


def test_nothing_stays_of_one_file_that_was_not_begun(toy_run, tmp_path, source, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "classify_rows", interrupt)
    with pytest.raises(Interrupted):
        sentilora.predict(input=source, output=tmp_path / "out.csv", adapter=toy_run)
    assert files_in(tmp_path) == ["in.jsonl"]


def test_a_job_that_was_killed_after_it_had_written_the_file_is_complete(
    toy_run, tmp_path, source, monkeypatch
):
    output = tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "_clear", lambda folder: None)
        sentilora.predict(input=source, output=output, adapter=toy_run)
    before = output.read_bytes()
    assert (tmp_path / ".out.csv.units").is_dir()
    sentilora.predict(input=source, output=output, adapter=toy_run)
    assert files_in(tmp_path) == ["in.jsonl", "out.csv"] and output.read_bytes() == before


def other_input(source, adapter, monkeypatch):
    source.write_text(source.read_text().replace("Film 5", "Film five"))


def other_adapter(source, adapter, monkeypatch):
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    save_file({name: 2 * value for name, value in load_file(path).items()}, path)
    (adapter / "checksums.json").unlink(missing_ok=True)


def other_prompt(source, adapter, monkeypatch):
    path = adapter / "classifier.json"
    path.write_text(path.read_text().replace("Sentiment", "Feeling"))


def other_threshold(source, adapter, monkeypatch):
    path = adapter / "classifier.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "calibration": {"abstain_below": 0.9}}))


def other_version(source, adapter, monkeypatch):
    version = manifest_module.version
    monkeypatch.setattr(
        manifest_module, "version", lambda name: "0" if name == "torch" else version(name)
    )


def other_base(source, adapter, monkeypatch):
    monkeypatch.setattr(manifest_module, "_digest_of_model", lambda model: "another")


def other_plan(source, adapter, monkeypatch):
    path = source.parent / "out/manifest.json"
    record = json.loads(path.read_text())
    record["computation"] |= {"passes": None, "batch_size": 3}
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "options", "named"),
    [
        (other_input, [], "input.sha256 was"),
        (None, ["--text-column", "other"], "input.text_column was 'text'"),
        (other_adapter, [], "adapter.weights_sha256 was"),
        (other_prompt, [], "adapter.prompt_sha256 was"),
        (other_threshold, [], "adapter.abstain_below was 0.0, and is 0.9 now"),
        (None, ["--quantization", "none"], "adapter.quantization was None, and is 'none' now"),
        (other_version, [], "versions.torch was"),
        (None, ["--compute-dtype", "bfloat16"], "computation.dtype was 'float32'"),
        (None, ["--engine", "reference"], "computation.batch_size was None"),
        (None, ["--max-left-out", "0"], "computation.max_left_out was 1e-06, and is 0.0 now"),
        (other_base, [], "computation.model_sha256 was"),
        (other_plan, [], "computation.batch_size was 3"),
    ],
)
def test_units_of_another_manifest_are_refused(
    toy_run, tmp_path, monkeypatch, change, options, named
):
    source, adapter = tmp_path / "in.jsonl", shutil.copytree(toy_run, tmp_path / "adapter")
    source.write_text("".join(json.dumps({"text": t, "other": t}) + "\n" for t in TEXTS))
    ask = ["--input", source, "--output", f"{tmp_path}/out/", "--adapter", adapter]
    predicted(*ask)
    (tmp_path / "out/part-00002-of-00004.parquet").unlink()
    if change is not None:
        change(source, adapter, monkeypatch)
    before = contents_of(tmp_path / "out")
    assert named in failed(2, "were computed with other values: ", "predict", *ask, *options)
    assert contents_of(tmp_path / "out") == before


def test_a_folder_with_other_files_or_another_job_is_refused(
    toy_run, tmp_path, source, monkeypatch
):
    ask = ["predict", "--input", source, "--adapter", toy_run, "--output"]
    failed(2, "holds other files", *ask, tmp_path)
    assert files_in(tmp_path) == ["in.jsonl"]
    (tmp_path / "file").write_text("precious")
    failed(2, "file exists", *ask, f"{tmp_path}/file/")
    with scoring.claim(tmp_path / "out"):
        failed(2, "another job works in", *ask, f"{tmp_path}/out/")
        with monkeypatch.context() as patch:  # this process stands for another
            patch.setattr("sentilora.folders.claim._is_own", lambda folder: False)
            failed(2, "another job works in", *ask, f"{tmp_path}/out/", "--units", "1/2")
    with scoring.claim(tmp_path / "out/.share-1-of-2"):
        with monkeypatch.context() as patch:
            patch.setattr("sentilora.folders.claim._is_own", lambda folder: False)
            failed(2, "another job works in", *ask, f"{tmp_path}/out/")
        predicted(*ask[1:], f"{tmp_path}/out/", "--units", "2/2")


def test_counts_that_do_not_add_up_are_an_error(toy_run, tmp_path, source, monkeypatch):
    monkeypatch.setattr(scoring, "classify_rows", lambda *_: [])
    with pytest.raises(SentiloraError, match="8 rows, of which 8 were read and 0 answered"):
        sentilora.predict(input=source, output=f"{tmp_path}/out/", adapter=toy_run)
    monkeypatch.undo()
    monkeypatch.setitem(units.ROWS_PER_UNIT, "cpu", 8)
    read = Results._read
    monkeypatch.setattr(Results, "_read", lambda self, unit: read(self, unit).slice(1))
    with pytest.raises(SentiloraError, match="has 7 rows instead of 8; remove it"):
        predict_file(source, f"{tmp_path}/out.csv", adapter=toy_run)


def test_packed_files_and_stdin_are_read(toy_run, tmp_path):
    frame = pd.DataFrame({"text": TEXTS})
    plain = tmp_path / "in.csv"
    frame.to_csv(plain, index=False)
    (tmp_path / "in.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    packed = pa.compress(plain.read_bytes(), "zstd", asbytes=True)
    (tmp_path / "in.csv.zst").write_bytes(packed)
    lines = "\n".join(["", *TEXTS[:5], "", *TEXTS[5:]])
    objects = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    outputs = []
    for number, (name, stdin) in enumerate(
        [("in.csv", None), ("in.csv.gz", None), ("in.csv.zst", None), ("-", lines), ("-", objects)]
    ):
        output = tmp_path / f"out{number}.csv"
        name = name if name == "-" else tmp_path / name
        _, stderr = predicted(
            "--input", name, "--output", output, "--adapter", toy_run, input=stdin
        )
        assert ("skipped empty lines of stdin: 2" in stderr) == (stdin == lines)
        outputs.append(output.read_text())
    assert len(set(outputs)) == 1
    ask = ["predict", "--input", "-", "--adapter", toy_run]
    failed(2, "- as --input works only with --output", *ask, input="a")
    out = ["--output", tmp_path / "x.csv"]
    failed(3, "stdin is not valid UTF-8 at byte 4", *ask, *out, input=b"a\n\nb\xe9\n")
    failed(3, "line 2", *ask, *out, input='{"text": "a"}\n{"text": \n')


def test_less_memory_than_before_changes_one_unit_and_is_said(
    toy_run, tmp_path, source, monkeypatch, capsys
):
    """A pass that found no memory was followed by smaller ones to the end, and nothing said so."""
    classify_rows, sizes = scoring.classify_rows, []

    def short_of_memory(classifier, *args):
        sizes.append(classifier.scorer.engine.max_score_tokens)
        if len(sizes) == 2:
            classifier.scorer.engine.limit_scoring(sizes[0] // 2)
        return classify_rows(classifier, *args)

    monkeypatch.setattr(scoring, "classify_rows", short_of_memory)
    sentilora.predict(input=source, output=f"{tmp_path}/out/", adapter=toy_run)
    assert len(set(sizes)) == 1 and len(sizes) == 4
    assert capsys.readouterr().err.count("unit 00001-of-00004 was scored in smaller passes") == 1


def test_passes_are_those_of_the_manifest(toy_run, tmp_path, source, monkeypatch):
    output = tmp_path / "out"
    request = {"input": source, "output": f"{output}/", "adapter": toy_run}
    sentilora.predict(**request)
    record = json.loads((output / "manifest.json").read_text())
    record["computation"]["passes"]["max_score_tokens"] = 77
    (output / "manifest.json").write_text(json.dumps(record))
    (output / "part-00000-of-00004.parquet").unlink()
    classify_rows, sizes = scoring.classify_rows, []

    def noting(classifier, *args):
        sizes.append(classifier.scorer.engine.max_score_tokens)
        return classify_rows(classifier, *args)

    monkeypatch.setattr(scoring, "classify_rows", noting)
    sentilora.predict(**request)
    assert sizes == [77]


def test_a_row_beside_its_answer_is_the_one_that_was_asked(toy_run, tmp_path, source):
    """Python's answers are read back from the units, those that were done before included."""
    output = tmp_path / "out.jsonl"
    answers = sentilora.predict(input=source, output=output, adapter=toy_run)
    direct = sentilora.predict(input=source, adapter=toy_run)
    assert [replace(p, probabilities={}) for p in answers] == [
        replace(p, probabilities={}) for p in direct
    ]
    code, stdout, _ = run("predict", "--input", source, "--adapter", toy_run)
    assert code == 0 and len(stdout.splitlines()) == 27
