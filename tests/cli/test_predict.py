"""`sentilora predict`: answers to texts, lines and tables, and what it refuses."""

import json
import re
import shutil
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest
from commands import failed, predicted, run
from toy_tokenizers import around_text

from sentilora import Classifier
from sentilora.errors import DataError, UsageError
from sentilora.prompt import PromptFormat
from sentilora.scoring import classifier as scoring
from sentilora.stages import predict_file as stage

TEXTS = ["A lovely film.", "Dull, grey\nand long.", "NA", "One more 🎬"]


@pytest.fixture(scope="module")
def expected(toy_run):
    classifier = Classifier.load(toy_run)
    return classifier.predict(TEXTS), classifier.predict_proba(TEXTS)


def test_predict_writes_a_line_per_text_to_stdout_and_nothing_else(toy_run, expected):
    stdout, _ = predicted(*TEXTS, "--adapter", toy_run)
    lines = stdout.splitlines()
    assert len(lines) == 4
    for line, text, label, row in zip(lines, TEXTS, *expected, strict=True):
        assert line.split() == [label, f"{row.max():.4f}", *text.split()]


def test_predict_writes_json(toy_run, expected):
    long = "word " * 2000
    stdout, _ = predicted(*TEXTS, long, "--adapter", toy_run, "--json")
    found = [json.loads(line) for line in stdout.splitlines()]
    assert [entry["text"] for entry in found] == [*TEXTS, long]
    assert [entry["truncated"] for entry in found] == [False] * 4 + [True]
    for entry, label, row in zip(found, *expected, strict=False):
        assert entry["label"] == label
        assert list(entry["probabilities"]) == ["positive", "negative"]
        np.testing.assert_allclose(list(entry["probabilities"].values()), row, atol=1e-6)


def test_the_library_answers_as_the_command_does(toy_run, expected):
    classifier = Classifier.load(toy_run)
    assert classifier.predict([]) == [] and classifier.predict_proba([]).shape == (0, 2)
    assert classifier.classify([]) == []
    assert classifier.predict(TEXTS) == expected[0] and classifier.labels == (
        "positive",
        "negative",
    )
    assert (classifier.predict_proba(TEXTS) == expected[1]).all()
    with pytest.raises(UsageError, match=r"write \[text\]"):
        classifier.predict("one string")
    with pytest.raises(DataError, match="is None, not a text"):
        classifier.predict([None])


def test_predict_reads_stdin_line_by_line(toy_run):
    stdin = "\ufeffOne.\r\nTwo\u2028with \x85 and \x0c inside.\n\n\n  \nThree 🎬"
    stdout, stderr = predicted("-", "--adapter", toy_run, "--json", input=stdin)
    texts = [json.loads(line)["text"] for line in stdout.split("\n") if line]
    assert texts == ["One.\r", "Two\u2028with \x85 and \x0c inside.", "Three 🎬"]
    assert "skipped empty lines of stdin: 3" in stderr


def test_predict_refuses_what_is_no_text(toy_run):
    adapter = ["--adapter", toy_run]
    failed(3, "stdin is not valid UTF-8 at byte 5", "predict", "-", *adapter, input=b"good \xff\n")
    failed(3, "there is no text to classify: stdin is empty", "predict", "-", *adapter, input="\n")
    failed(3, "text 2 is empty", "predict", "good", " ", *adapter)
    failed(3, "text 1 is empty", "predict", "<br />", *adapter)
    failed(3, "text 1 is not valid Unicode", "predict", "good \udcff", *adapter)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_predict_keeps_order_and_columns_of_a_file(toy_run, tmp_path, kind, expected):
    notes = ["", "NA", "ü", "1.0"]
    frame = pd.DataFrame({"id": ["007", "2", "11", "1.50"], "review": TEXTS, "Notes": notes})
    source, output = tmp_path / f"in.{kind}", tmp_path / f"out.{kind}"
    if kind in ("csv", "tsv"):
        frame.to_csv(source, index=False, sep="," if kind == "csv" else "\t")
    elif kind == "parquet":
        frame.to_parquet(source)
    else:
        frame.to_json(source, orient="records", lines=kind == "jsonl")
    stdout, stderr = predicted("--input", source, "--output", output, "--text-column", "review",
                               "--adapter", toy_run)  # fmt: skip
    assert stdout == "" and f"4 rows written to {output}" in stderr
    if kind in ("csv", "tsv"):
        found = pd.read_csv(output, sep="," if kind == "csv" else "\t", keep_default_na=False,
                            dtype={"id": str, "Notes": str})  # fmt: skip
    elif kind == "parquet":
        found = pd.read_parquet(output)
    else:
        lines = output.read_text(encoding="utf-8")
        records = json.loads(lines) if kind == "json" else map(json.loads, lines.splitlines())
        found = pd.DataFrame(list(records))
    added = ["prediction", "probability_positive", "probability_negative", "truncated"]
    assert list(found.columns) == ["id", "review", "Notes", *added]
    for name in frame.columns:
        assert found[name].tolist() == frame[name].tolist()
    labels, probabilities = expected
    assert found["prediction"].tolist() == labels
    np.testing.assert_allclose(found[added[1:3]].astype(float), probabilities, atol=1e-6)
    assert found["truncated"].astype(str).tolist() == ["False"] * 4


def test_predict_turns_one_format_into_another(toy_run, tmp_path):
    records = [{"text": "a", "n": 1, "tags": ["x"]}, {"text": "b", "n": None, "tags": []}]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    predicted("--input", source, "--output", tmp_path / "out.parquet", "--adapter", toy_run)
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found["text"].tolist() == ["a", "b"] and found["n"].iloc[0] == 1
    stdout, _ = predicted("--input", source, "--adapter", toy_run)
    assert len(stdout.splitlines()) == 2


def test_predict_refuses_files_before_it_works(toy_run, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("text,prediction\nGood.,x\n")
    ask = ["predict", "--adapter", toy_run, "--input", source]
    (tmp_path / "there.csv").write_text("precious")
    failed(2, "exists; remove it, or choose another file", *ask, "--output", tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_text() == "precious"
    failed(2, "cannot tell the format of out.xlsx", *ask, "--output", tmp_path / "out.xlsx")
    failed(2, "there is no folder", *ask, "--output", tmp_path / "no" / "out.csv")
    failed(3, "has no column 'review'; it has text, prediction", *ask, "--text-column", "review")
    failed(3, "the input already has a column 'prediction'", *ask, "--output", tmp_path / "o.csv")
    failed(3, "there is no file", "predict", "--input", tmp_path / "none.csv")
    empty = tmp_path / "empty"
    empty.mkdir()
    failed(3, "has no test data; it holds nothing", "predict", "--input", empty)
    source.write_text('text\n<br>\n" "\n')
    failed(3, "row 0 (counted from 0): text is empty (and 1 more unusable row: 1)", *ask)


def test_predict_reads_the_folders_that_training_reads(toy_run, tmp_path):
    """--input took files only, though every other source may be a folder."""
    rows = pd.DataFrame({"text": ["A lovely film.", "Dull."]})
    parts, saved, classes = (tmp_path / name for name in ("parts", "saved", "classes"))
    parts.mkdir()
    for number in (0, 1):
        part = parts / f"test-0000{number}-of-00002.parquet"
        rows[number : number + 1].to_parquet(part, index=False)
    datasets.Dataset.from_pandas(rows).save_to_disk(saved)
    for label, text in zip(("pos", "neg"), rows["text"], strict=True):
        (classes / "test" / label).mkdir(parents=True)
        (classes / "test" / label / "0.txt").write_text(text)
    answers = []
    for folder in (parts, saved, classes):
        stdout, _ = predicted("--input", folder, "--adapter", toy_run)
        answers.append(sorted(stdout.splitlines()))
    assert len(answers[0]) == 2 and answers[0] == answers[1] == answers[2]
    output = tmp_path / "out.csv"
    predicted("--input", parts, "--adapter", toy_run, "--output", output)
    assert pd.read_csv(output)["text"].tolist() == rows["text"].tolist()


def test_a_remedy_quotes_the_value_for_the_shell(toy_run):
    """`use --base=moved base` was two arguments."""
    for verb, text in (("predict", ["Good."]), ("evaluate", [])):
        failed(2, "use --base='moved base'", verb, "--adapter", toy_run, "base.name=moved base",
               *text)  # fmt: skip


def test_a_plain_peft_adapter_needs_labels_and_template(toy_run, tmp_path, expected):
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(toy_run / name, plain / name)
    before, after = around_text(PromptFormat())
    template = before + "{text}" + after
    ask = ["predict", *TEXTS, "--json", "--adapter", plain]
    failed(2, "--labels and --template", *ask)
    failed(2, "--labels and --template", *ask, "--labels", "positive,negative")
    (tmp_path / "template.txt").write_text(template)
    labels = ["--labels", "positive, negative"]
    outputs = {
        predicted(*ask[1:], *labels, "--template", given)[0]
        for given in (template, tmp_path / "template.txt")
    }
    assert len(outputs) == 1
    found = [json.loads(line) for line in outputs.pop().splitlines()]
    assert [entry["label"] for entry in found] == expected[0]
    for given in ("nofile.txt", tmp_path, "no place", "long " * 2000):
        shown = f"'{given}"[:50] if " " in str(given) else str(given)[:50]
        failed(2, f"there is no template file {shown}", *ask, *labels, "--template", given)
    (tmp_path / "no text.txt").write_text("no place")
    failed(2, "{text} exactly once", *ask, *labels, "--template", tmp_path / "no text.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    failed(3, "cannot read the template", *ask, *labels, "--template", tmp_path / "latin.txt")
    failed(2, "needs at least 2 labels", *ask, "--labels", "one", "--template", template)
    failed(2, "has its labels and template in", "predict", "x", "--adapter", toy_run, *labels)
    failed(2, "has no classifier.json with its labels", "evaluate", "--adapter", plain)


def test_the_device_asked_for_is_there_or_refused(toy_run, monkeypatch):
    monkeypatch.setattr("sentilora.models.device.cuda_driver_present", lambda: False)
    failed(2, "a CUDA GPU was requested", "predict", "x", "--adapter", toy_run,
           "--device", "cuda")  # fmt: skip


@pytest.mark.parametrize("verb", [["predict", "x"], ["evaluate"]])
def test_8_bit_products_are_refused_before_anything_is_loaded(toy_run, verb, monkeypatch):
    monkeypatch.setattr(scoring, "load_base", lambda *_, **__: pytest.fail("loaded"))
    failed(2, "base_matmul=fp8 needs a GPU of compute capability 8.9 or above", *verb,
           "--adapter", toy_run, "--base-matmul", "fp8", "--device", "cpu")  # fmt: skip


def test_predict_looks_at_columns_and_folder_before_it_scores(toy_run, tmp_path, monkeypatch):
    monkeypatch.setattr(Classifier, "classify", lambda *_: pytest.fail("scored"))
    path = tmp_path / "twice.csv"
    path.write_text("text,prediction\nA film.,positive\n")
    ask = ["predict", "--adapter", toy_run, "--input", path, "--output"]
    failed(3, "already has a column 'prediction'", *ask, tmp_path / "out.csv")
    monkeypatch.setattr(stage, "os", SimpleNamespace(access=lambda *_: False, W_OK=2, sep="/"))
    failed(2, "is not writable", *ask, tmp_path / "out.csv")


@pytest.mark.parametrize("texts", [None, 5, {"a": 1}])
def test_predict_takes_a_list_only(toy_run, texts):
    with pytest.raises(UsageError, match="a list of texts is expected"):
        Classifier.load(toy_run).predict(texts)


def test_a_text_that_cannot_be_classified_is_named_by_its_place(toy_run):
    with pytest.raises(DataError, match=re.escape("texts[2] is empty")):
        Classifier.load(toy_run).predict(["A film.", "Another.", " "])


def test_a_review_of_100_000_words_is_classified(toy_run):
    stdout, _ = predicted("what a film " * 33_334, "--adapter", toy_run)
    assert stdout.rstrip().endswith("(truncated)") and len(stdout) < 120


def test_predict_and_evaluate_say_which_adapter_answers(toy_run):
    """Nothing said that a bank's messages were answered by a film critic."""
    line = "adapter: the one that ships, for English film reviews (positive or negative)"
    stdout, stderr = predicted("A lovely film.", "--json")
    assert stderr.count(line) == 1 and json.loads(stdout)["label"] == "positive"
    code, stdout, stderr = run("evaluate", "data.num_test=4", "--json")
    assert code == 0 and stderr.count(line) == 1 and json.loads(stdout)["adapter"]
    for verb, text in (("predict", "A film."), ("evaluate", "data.num_test=4")):
        code, _, stderr = run(verb, text, "--adapter", toy_run)
        assert code == 0 and line not in stderr


def test_a_base_alone_is_not_taken_for_the_adapter_that_ships(toy_base):
    code, _, stderr = run("evaluate", "--base", toy_base, "data.num_test=4")
    assert code == 0 and "the one that ships" not in stderr
