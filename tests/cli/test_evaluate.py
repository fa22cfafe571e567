"""`sentilora evaluate`: its options, what it prints and what it warns of."""

import json
import re
import resource
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from commands import failed, run

from sentilora.config import read_config
from sentilora.errors import SentiloraError
from sentilora.stages.from_config import load_rows_of


def test_evaluate_hands_on_what_is_asked_for(monkeypatch):
    asked = []

    def stop(adapter, **options):
        asked.append((options["label_issues"], options["near_duplicates"]))
        raise SentiloraError("stop")

    monkeypatch.setattr("sentilora.stages.evaluate.evaluate", stop)
    for options in ([], ["--label-issues"], ["--near-duplicates"]):
        run("evaluate", *options)
    assert asked == [(False, False), (True, False), (False, True)]


def test_nothing_stays_of_a_result_that_cannot_be_written(monkeypatch, tmp_path):
    """On a full disk the beginning of --output stayed, which looked like a result."""
    result = SimpleNamespace(to_json=lambda: json.dumps("x" * 10_000))
    monkeypatch.setattr("sentilora.stages.evaluate.evaluate", lambda *_, **__: result)
    monkeypatch.setattr("sentilora.evaluation.table.as_table", lambda *_: "")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        code, _, stderr = run("evaluate", "--output", tmp_path / "result.json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1 and "cannot write" in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("--suite", "--suite-file", "own.toml"), "give one"),
        (("--base", "embedded", "--near-duplicates"), "needs an adapter"),
        (("--base", "embedded", "--target-accuracy", "0.9"), "needs an adapter"),
    ],
)
def test_options_of_evaluate_that_do_not_go_together(arguments, said):
    code, _, stderr = run("evaluate", *arguments)
    assert code == 2 and said in stderr


def test_evaluate_reports_adapter_and_base(toy_run, tmp_path):
    output = tmp_path / "result.json"
    ask = ["evaluate", "--adapter", toy_run, "data.num_test=24"]
    code, stdout, _ = run(*ask, "--output", output)
    assert code == 0
    assert "24 rows of embedded" in stdout and "95 % Wilson" in stdout and "McNemar" in stdout
    written = json.loads(output.read_text())
    code, stdout, _ = run(*ask, "--json")
    assert json.loads(stdout) == written
    assert written["num_rows"] == 24 and written["labels"] == ["positive", "negative"]
    for name in ("adapter", "base"):
        assert np.sum(written[name]["confusion"]) == 24
    assert 0 < written["comparisons"]["base"]["p"] <= 1
    failed(2, "exists; remove it", *ask, "--output", output)
    failed(2, "there is no folder", *ask, "--output", tmp_path / "no" / "result.json")
    failed(2, "did you mean 'data.test'?", *ask, "data.tset=x")
    failed(3, "data.num_test asks for 999 rows", *ask, "data.num_test=999")


@pytest.mark.parametrize(
    ("part", "error", "code", "said"),
    [
        ("write_report", OSError(28, "No space left"), 1, "error: cannot write the report to {}: "),
        ("explain_errors", KeyboardInterrupt(), 130, "interrupted: there is no report in {}"),
    ],
)
def test_the_figures_are_printed_when_only_the_report_failed(
    toy_run, tmp_path, monkeypatch, part, error, code, said
):
    def fail(*args):
        raise error

    monkeypatch.setattr(f"sentilora.stages.evaluate.{part}", fail)
    ask = ["evaluate", "--adapter", toy_run, "data.num_test=24"]
    ended, stdout, stderr = run(
        *ask, "--report", tmp_path / "report", "--output", tmp_path / "result.json"
    )
    assert ended == code and stderr.splitlines()[-1].startswith(said.format(tmp_path / "report"))
    assert stdout == run(*ask)[1] and "24 rows of embedded" in stdout
    assert json.loads((tmp_path / "result.json").read_text())["num_rows"] == 24


def test_evaluate_on_one_class_reports(toy_run, tmp_path):
    """keras #796, LightGBM #4626: "macro-F1 1.0" on rows of one label."""
    path = tmp_path / "one.csv"
    path.write_text("review,stars\nGood film.,pos\nFine film.,pos\n")
    columns = ["--text-column", "review", "--label-column", "stars"]
    code, stdout, stderr = run(
        "evaluate", "--adapter", toy_run, f"data.test={path}", *columns, "--json"
    )
    assert code == 0, stderr
    assert "warning: no test row is labeled negative" in stderr
    result = json.loads(stdout)
    assert result["num_rows"] == 2 and result["adapter"]["confusion"][1] == [0, 0]
    assert result["adapter"]["macro_f1"] is None and result["base"]["macro_f1"] is None
    assert "negative: there is no macro-F1 for rows of a single label" in stderr
    code, stdout, _ = run("evaluate", "--adapter", toy_run, f"data.test={path}", *columns)
    line = next(line for line in stdout.splitlines() if line.startswith("adapter "))
    assert code == 0 and len(re.findall(r" –(?= )", line)) == 3  # interval, macro-F1, ROC-AUC


def test_output_and_report_do_not_overwrite_each_other(toy_run, tmp_path):
    ask = ["evaluate", "--adapter", toy_run, "--report", tmp_path / "report", "--output"]
    failed(2, "is the report's folder or in it; choose", *ask, tmp_path / "report")
    (tmp_path / "report").mkdir()
    failed(2, "is the report's folder or in it", *ask, tmp_path / "report" / "report.json")
    assert list((tmp_path / "report").iterdir()) == []


def test_texts_and_labels_that_look_like_keywords_are_shown_as_they_are(toy_run, tmp_path):
    """`in_options` is for our messages: it made --base of a label `base`."""
    (tmp_path / "a `report`.csv").write_text("text,label\nGood film.,pos\nBad film.,neg\n")
    tests = (f'[[tests]]\ncapability = "c"\nkind = "minimum functionality"\nlabel = "{label}"\n'
             'texts = ["The `base` of it."]\n' for label in ("positive", "negative"))  # fmt: skip
    (tmp_path / "suite.toml").write_text("".join(tests))  # one of the two fails
    code, stdout, stderr = run("evaluate", "--adapter", toy_run, "--suite-file",
                               tmp_path / "suite.toml",
                               f"data.test={tmp_path / 'a `report`.csv'}")  # fmt: skip
    assert code == 0, stderr
    assert "--base" not in stdout and "--output" not in stdout and "--report" not in stdout
    assert f"2 rows of '{tmp_path}/a `report`.csv'" in stdout
    assert "✗" in stdout and ": The `base` of it." in stdout


def test_evaluate_warns_of_rows_that_were_trained_on(toy_run, tmp_path):
    train_rows, eval_rows = load_rows_of(read_config(toy_run / "sentilora.toml"))
    other = {"positive": "negative", "negative": "positive"}
    rows = [  # the label does not matter, nor what is new
        *({"text": text, "label": other[label]} for text, label in
          zip(train_rows.texts[:3], train_rows.labels[:3], strict=True)),
        {"text": eval_rows.texts[0], "label": eval_rows.labels[0]},
        {"text": "Never seen.", "label": "positive"},
        {"text": "Nor this.", "label": "negative"},
    ]  # fmt: skip
    source = tmp_path / "three.csv"
    pd.DataFrame(rows).to_csv(source, index=False)
    for adapter in (toy_run, toy_run / "checkpoint-4"):
        code, _, stderr = run("evaluate", "--adapter", adapter, f"data.test={source}")
        assert code == 0
        assert (
            "warning: of the 6 test rows, the adapter has seen 3 among its training rows and "
            "1 among its evaluation rows: "
        ) in stderr
    pd.DataFrame(rows[4:]).to_csv(source, index=False)
    assert "test rows" not in run("evaluate", "--adapter", toy_run, f"data.test={source}")[2]
    folder = shutil.copytree(toy_run, tmp_path / "damaged")
    for damaged in ("{", "[]", '{"train": 3}'):
        (folder / "data.json").write_text(damaged)
        failed(3, f"{folder / 'data.json'} is damaged", "evaluate", "--adapter", folder)


def test_evaluate_scores_a_base_alone(toy_base):
    code, stdout, stderr = run("evaluate", "--base", toy_base, "data.num_test=8", "--json")
    assert code == 0, stderr
    result = json.loads(stdout)
    assert (result["adapter"], result["adapter_path"], result["comparisons"]) == (None, None, {})
    assert result["base"]["num_rows"] == 8 and result["base_name"] == str(toy_base)
