"""Three labels in an order from end to end: figures, sets, names of all figures, and gates."""

import json
import random
import shutil

import numpy as np
import pandas as pd
import pytest
from commands import failed, predicted, run
from small_runs import BRIEF

from sentilora.config import load_config, read_config
from sentilora.errors import RequirementError, UsageError
from sentilora.evaluation.label_sets import least_probability
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import ClassifierFile
from sentilora.scoring.classifier import Classifier
from sentilora.stages.automatic import fit_data
from sentilora.stages.evaluate import evaluate
from sentilora.stages.from_config import load_rows_of
from sentilora.stages.predict import predict
from sentilora.stages.train import train

LABELS = ("bad", "so so", "good")
SUITE = """
[[tests]]
capability = "plain. words"
kind = "minimum functionality"
label = "good"
texts = ["A lovely film.", "A dull film."]
"""
ROWS = {"twins", "issues", "failures", "rows", "required"}  # single rows, not figures


def make_table(num_rows, seed):
    source = random.Random(seed)
    rows = []
    for number in range(num_rows):
        label = source.choice(LABELS)
        word = {"bad": "dull", "so so": "fair", "good": "lovely"}[label]
        word = word if source.random() < 0.8 else source.choice(["dull", "fair", "lovely"])
        text = f"film plot {word} actor scene number{seed}x{number}"
        rows.append({"text": text, "label": label, "rating": source.randint(1, 3)})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def ordered_run(toy_base, tmp_path_factory):
    """A run with three labels in an order and 310 evaluation rows."""
    folder = tmp_path_factory.mktemp("ordered")
    make_table(400, 1).to_csv(folder / "train.csv", index=False)
    make_table(60, 2).to_csv(folder / "test.csv", index=False)
    (folder / "suite.toml").write_text(SUITE)
    values = {
        "base.name": str(toy_base),
        "output_dir": str(folder / "run"),
        "data.train": str(folder / "train.csv"),
        "data.test": str(folder / "test.csv"),
        "data.num_train": 40,
        "data.num_evaluation": 310,
        "prompt.labels": list(LABELS),
        "prompt.ordered": True,
        "training.max_steps": 4,
        "training.eval_steps": 4,
        "training.save_steps": 4,
        "training.warmup_steps": 1,
    }
    train(load_config("tiny", overrides=BRIEF, values=values))
    return folder / "run"


@pytest.fixture(scope="module")
def full(ordered_run):
    """Every part of an evaluation that can be requested, with its report."""
    return evaluate(
        ordered_run,
        target_accuracy=0.3,
        suite=ordered_run.parent / "suite.toml",
        label_issues=True,
        report=ordered_run.parent / "report",
    )


def named(value, name="", labels=()):
    """(name, value) of each number in a result's JSON, by the rules in the guide."""
    if isinstance(value, bool | str) or value is None:
        return
    if isinstance(value, int | float):
        yield name, value
    elif isinstance(value, dict):
        before = None
        for key, inner in value.items():
            if key == "interval" or key.endswith("_interval"):
                figure = before if key == "interval" else key.removesuffix("_interval")
                for end, bound in zip(("low", "high"), inner or (), strict=False):
                    yield f"{name}.{figure}.{end}", bound
            elif key not in ROWS:
                yield from named(inner, f"{name}.{key}".lstrip("."), labels)
            before = key
    elif value and isinstance(value[0], dict):
        for entry in value:
            key = next(iter(entry.values()))
            yield from named(
                entry, f"{name}.{key:g}" if isinstance(key, float) else f"{name}.{key}"
            )
    elif value and not isinstance(value[0], str):
        for label, entry in zip(labels, value, strict=True):
            yield from named(entry, f"{name}.{label}", labels)


def test_every_number_of_the_results_can_be_required_by_its_name(full, ordered_run):
    content = json.loads(full.to_json())
    figures = dict(named(content, labels=content["labels"]))
    assert len(figures) > 150 and len(figures) == len(list(named(content, labels=LABELS)))
    beginnings = {name.split(".")[0] for name in figures}
    assert beginnings == {
        "num_rows", "num_truncated", "base", "adapter", "baseline", "comparisons", "differences",
        "calibrated", "abstention", "survivors", "label_sets", "ordered", "leakage", "ratings",
        "behaviour", "explained", "majority", "per_label", "left_out", "label_issues",
    } - ({"label_issues"} if full.label_issues is None else set())  # fmt: skip
    suite = ordered_run.parent / "suite.toml"
    steady = {name: value for name, value in figures.items() if not name.endswith("seconds")}
    bounds = [f"{name}=={value!r}" for name, value in steady.items()]
    again = evaluate(
        ordered_run, target_accuracy=0.3, suite=suite, label_issues=True,
        report=ordered_run.parent / "again", require=bounds,
    )  # fmt: skip
    assert [each.value for each in again.required] == list(steady.values())
    assert all(each.is_met for each in again.required)


def test_figures_of_labels_in_an_order_are_everywhere(full, ordered_run):
    assert ClassifierFile.load(ordered_run).prompt.ordered
    frame = pd.read_parquet(ordered_run.parent / "report/predictions.parquet")
    places = {label: place for place, label in enumerate(LABELS, 1)}
    true = frame["label"].map(places)
    for name, prefix in {"adapter": "", "base": "base_", "baseline": "tfidf_"}.items():
        found = full.ordered[name]
        error = (frame[f"{prefix}prediction"].map(places) - true).abs().mean()
        assert found.mean_absolute_error == pytest.approx(error)
        expected = sum(place * frame[f"{prefix}probability_{x}"] for x, place in places.items())
        assert found.mean_expected_value == pytest.approx(expected.mean())
        if name == "adapter":
            assert np.allclose(frame["expected_value"], expected)
        assert found.expected_value_error == pytest.approx((expected - true).abs().mean())
    _, stdout, _ = run("evaluate", "--adapter", ordered_run)
    assert "in order       MAE" in stdout and "from 1 (bad) to 3 (good)" in stdout
    _, stdout, _ = run("evaluate", "--adapter", ordered_run, "prompt.ordered=false")
    assert "in order" not in stdout


def test_an_order_by_the_alphabet_is_said_to_be_one(toy_base, tmp_path):
    """train refuses words whose order is unknown; evaluate took the alphabet's without a word."""
    words = ("low", "medium", "high")
    rows = [f"{i},text {i},{words[i % 3]}" for i in range(60)]
    (tmp_path / "my.csv").write_text("id,text,label\n" + "\n".join(rows))
    values = {
        "base.name": str(toy_base), "base.device": "cpu", "output_dir": str(tmp_path / "run"),
        "data.train": str(tmp_path / "my.csv"), "training.max_steps": 2,
    }  # fmt: skip
    train(load_config("tiny", overrides=BRIEF, values=values))
    evaluate = ["evaluate", "--adapter", tmp_path / "run"]
    said = "in the order high, low, medium, which training chose by the alphabet"
    assert said in run(*evaluate, "prompt.ordered=true")[2]
    assert said not in run(*evaluate)[2]


def test_label_sets_come_from_the_evaluation_rows(full, ordered_run):
    _, evaluation = load_rows_of(read_config(ordered_run / "sentilora.toml"))
    frame = pd.read_parquet(ordered_run.parent / "report/predictions.parquet")
    columns = [f"probability_{label}" for label in LABELS]
    if full.calibrated.temperature.helps:
        columns = [f"calibrated_{column}" for column in columns]
    probabilities = frame[columns].to_numpy()
    true = frame["label"].map({label: number for number, label in enumerate(LABELS)}).to_numpy()
    assert [row.target for row in full.label_sets] == [0.8, 0.9, 0.95]
    for row in full.label_sets:
        assert row.num_evaluation == 310
        is_in = (probabilities >= row.least_probability) | (
            probabilities == probabilities.max(1, keepdims=True)
        )
        assert row.mean_size == pytest.approx(is_in.sum(1).mean())
        assert row.share_single == pytest.approx((is_in.sum(1) == 1).mean())
        assert row.coverage == pytest.approx(is_in[np.arange(60), true].mean())
    # The classifier, whose temperature is stored by now, gives what the threshold was taken from.
    predictions = Classifier.load(ordered_run).classify(evaluation.texts)
    every = np.array([[p.probabilities[x] for x in LABELS] for p in predictions])
    truth = [LABELS.index(label) for label in evaluation.labels]
    for row in full.label_sets:
        least = least_probability(every, truth, row.target)
        assert row.least_probability == pytest.approx(least, abs=1e-7)


def test_predict_gives_the_sets_that_evaluate_stored(full, ordered_run, tmp_path):
    """`predict` wrote none: what `evaluate` took from the evaluation rows was not stored."""
    stored = json.loads((ordered_run / "classifier.json").read_text())["calibration"]["label_sets"]
    assert stored == {f"{row.target:g}": row.least_probability for row in full.label_sets}
    test = pd.read_csv(ordered_run.parent / "test.csv")
    test.to_json(tmp_path / "in.jsonl", orient="records", lines=True)
    ask = ["--adapter", ordered_run, "--input", tmp_path / "in.jsonl"]
    for row in full.label_sets:
        output = tmp_path / f"{row.target:g}.parquet"
        predicted(*ask, "--output", output, "--label-sets", row.target)
        frame = pd.read_parquet(output)
        assert list(frame)[-2:] == ["truncated", "label_set"]
        sets = frame["label_set"].map(list)
        assert sets.map(len).mean() == pytest.approx(row.mean_size)
        is_right = [label in labels for label, labels in zip(frame["label"], sets, strict=True)]
        assert np.mean(is_right) == pytest.approx(row.coverage)
        probabilities = frame[[f"probability_{label}" for label in LABELS]].to_numpy()
        likeliest = [LABELS[place] for place in probabilities.argmax(1)]
        assert [labels[0] for labels in sets] == likeliest
    classifier = Classifier.load(ordered_run, label_sets=0.95)
    assert [list(p.label_set) for p in classifier.classify(test["text"].tolist())] == list(sets)
    lines, _ = predicted(*ask, "--json", "--label-sets", "0.95")
    assert [json.loads(line)["label_set"] for line in lines.splitlines()] == list(sets)
    line, _ = predicted("--adapter", ordered_run, test["text"][0], "--label-sets", "0.95")
    assert f"  {{{', '.join(sets[0])}}}  film plot" in line


def test_sets_are_in_every_kind_of_output_and_only_if_requested(full, ordered_run, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text('text\nfilm plot lovely\n""\nfilm plot dull\n')
    ask = ["--adapter", ordered_run, "--input", source, "--label-sets", "0.8", "--output"]
    kept = predict(input=source, output=tmp_path / "a.csv", adapter=ordered_run, label_sets=0.8)
    expected = [None if p.label_set is None else list(p.label_set) for p in kept]
    assert expected[1] is None and expected[0][0] == kept[0].label
    cells = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)["label_set"]
    assert [json.loads(cell) if cell else None for cell in cells] == expected
    folder = [f"{tmp_path}/folder/", "--format", "jsonl"]
    predicted(*ask, *folder)
    (part,) = (tmp_path / "folder").glob("part-*")
    rows = [json.loads(line) for line in part.read_text().splitlines()]
    assert [row["label_set"] for row in rows] == [expected[0], expected[2]]
    without = [each for each in ask if each not in ("--label-sets", "0.8")]
    failed(2, "adapter.least_probability was 0.", "predict", *without, *folder)
    predicted(*without, tmp_path / "b.csv")
    assert "label_set" not in (tmp_path / "b.csv").read_text()
    source.write_text("text,label_set\na film,x\n")
    failed(3, "already has a column 'label_set'", "predict", *ask, tmp_path / "c.csv")


def test_sets_that_are_not_stored_are_refused(full, ordered_run, toy_run, tmp_path):
    """Two labels have none, nor has an adapter that was not evaluated since its training."""
    ask = ["predict", "a film", "--label-sets", "0.9", "--adapter"]
    failed(2, "has no label sets; run evaluate on it, which stores them for three", *ask, toy_run)
    other = [*ask[:3], "0.7", "--adapter", ordered_run]
    failed(2, "has no label sets for 0.7; choose 0.8, 0.9, 0.95", *other)
    output = ["--output", tmp_path / "out.csv"]
    source = ordered_run.parent / "test.csv"
    failed(2, "for 0.7", "predict", "--input", source, *output, *other[2:])
    plain = shutil.copytree(ordered_run, tmp_path / "plain")
    (plain / "classifier.json").unlink()
    prompt = ["--labels", "bad,so so,good", "--template", "{text} "]
    failed(2, "has no classifier.json with its labels", *ask, plain, *prompt)
    file = ClassifierFile.load(toy_run)
    assert file.calibration.label_sets == {} and "label_sets" not in json.dumps(file.content())
    with pytest.raises(UsageError, match="for 'x'; choose"):
        Classifier.load(ordered_run, label_sets="x")


def test_requirements_end_with_their_own_code_and_everything_is_written(ordered_run, tmp_path):
    output, report = tmp_path / "result.json", tmp_path / "report"
    ask = ["evaluate", "--adapter", ordered_run, "--require", "mae<=2"]
    bounds = ["--require", "accuracy>=0.99", "--require", "accuracy.low>=0.98"]
    code, stdout, stderr = run(*ask, *bounds, "--output", output, "--report", report)
    result = json.loads(output.read_text())
    seen = f"{result['adapter']['accuracy']:.4g}"
    low = f"{result['adapter']['accuracy_interval'][0]:.4g}"
    assert code == 4
    assert stderr.splitlines()[-1] == (
        f"error: 2 of 3 requirements not met: accuracy>=0.99: it is {seen}; "
        f"accuracy.low>=0.98: it is {low}"
    )
    assert f"\naccuracy>=0.99      not met: it is {seen}\n" in stdout
    assert "\nmae<=2              met: it is " in stdout
    assert [each["is_met"] for each in result["required"]] == [True, False, False]
    written = json.loads((report / "report.json").read_text())["evaluation"]["required"]
    assert written == result["required"]
    assert (report / "report.html").exists() and (report / "predictions.parquet").exists()
    code, stdout, _ = run(*ask, "--json")
    assert code == 0 and json.loads(stdout)["required"][0]["bound"] == "mae<=2"
    code, stdout, _ = run(*ask, "--json", *bounds)
    assert code == 4 and json.loads(stdout)["required"] == result["required"]


def test_a_requirement_that_cannot_be_is_refused_before_anything_is_read(tmp_path):
    ask = ["evaluate", "--adapter", tmp_path / "no-such-adapter"]
    failed(3, "no-such-adapter", *ask)
    line = failed(2, "did you mean accuracy? (docs/reference/", *ask, "--require", "acuracy>=0.9")
    assert line.startswith("error: no figure is named acuracy, which --require has in 'acuracy>=0")
    failed(2, "cannot read 'accuracy=0.9' in --require", *ask, "--require", "accuracy=0.9")
    failed(2, "give --suite too", *ask, "--require", "behaviour.findings.x.pass_rate>=1")
    failed(2, "give --target-accuracy too", *ask, "--require", "abstention.accuracy>=1")
    failed(2, "give --report too", *ask, "--require", "explained.num_errors<=1")
    of_base = ["evaluate", "--base", "embedded", "--require"]
    failed(2, "give --adapter too", *of_base, "baseline.accuracy>=0.5")


@pytest.mark.parametrize("bound", ["accuracy>=90", "per_label.good.recall.low>=50", "ece<=-1"])
def test_a_share_is_not_required_as_a_percentage(bound):
    """`accuracy>=90` was evaluated in full, and never met."""
    line = failed(2, "is between 0 and 1; write a share such as 0.9, not a percentage",
                  "evaluate", "--require", bound)  # fmt: skip
    assert f"--require has '{bound}'" in line


def test_labels_are_checked_before_a_model_is_loaded(toy_run, monkeypatch):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("sentilora.stages.evaluate.load_classifier", load)
    for require, said in {
        "per_label.postive.f1>=0.5": "no figure is named per_label.postive.f1",
        "quadratic_kappa>=0.5": "set prompt.ordered=true",
        "label_sets.0.9.coverage>=0.5": "there are fewer than 3 labels",
    }.items():
        failed(2, said, "evaluate", "--adapter", toy_run, "--require", require)
    failed(2, "only 2 labels", "evaluate", "--adapter", toy_run, "prompt.ordered=true")


def test_from_python_the_error_has_the_figures(toy_run):
    few = {"data.num_test": 24}
    with pytest.raises(RequirementError) as error:
        evaluate(toy_run, overrides=few, require=["accuracy>1", "accuracy>=0"])
    (requirement,) = error.value.failed
    assert requirement.bound == "accuracy>1"
    assert requirement.value == error.value.evaluation.adapter.accuracy
    assert len(error.value.evaluation.required) == 2
    result = evaluate(toy_run, overrides=few, require=(x for x in ["accuracy>=0"]))
    assert [each.is_met for each in result.required] == [True]
    with pytest.raises(UsageError, match="pass a list"):
        evaluate(toy_run, overrides=few, require="accuracy>=0")


def test_figures_of_a_base_alone_are_its_own():
    overrides = {"data.test": "embedded", "data.num_test": 12}
    result = evaluate(base="embedded", overrides=overrides, require=["accuracy>=0"])
    assert result.required[0].value == result.base.accuracy and result.adapter is None
    assert result.survivors and not result.differences


def test_an_adapter_to_start_from_brings_its_order(ordered_run):
    train_rows = str(ordered_run.parent / "train.csv")
    config = load_config("tiny", values={"data.train": train_rows, "prompt.ordered": True})
    with pytest.raises(UsageError, match="whose order is unknown"):
        fit_data(config, {})
    fitted, _ = fit_data(config, {}, AdapterFolder.open(ordered_run))
    assert fitted.prompt.labels == LABELS and fitted.prompt.ordered
    unset = load_config("tiny", values={"data.train": train_rows})
    fitted, _ = fit_data(unset, {}, AdapterFolder.open(ordered_run))
    assert fitted.prompt.labels == LABELS and fitted.prompt.ordered


def test_words_whose_order_is_unknown_are_refused(tmp_path, toy_base):
    """The data's words come by the alphabet: negative, neutral, positive, very negative, …"""
    make_table(60, 3).to_csv(tmp_path / "words.csv", index=False)
    table = make_table(60, 3)
    table["label"] = table["label"].map({"bad": 1, "so so": 2, "good": 3})
    table.to_csv(tmp_path / "numbers.csv", index=False)
    ask = ["check", "--preset", "tiny", f"base.name={toy_base}", "prompt.ordered=true"]
    code, stdout, stderr = run(*ask, tmp_path / "words.csv")
    assert code == 2 and "name them in their order with prompt.labels" in stdout + stderr
    code, stdout, stderr = run(*ask, tmp_path / "words.csv", 'prompt.labels=["bad","so so","good"]')
    assert code == 0, stdout + stderr
    code, stdout, stderr = run(*ask, tmp_path / "numbers.csv")
    assert code == 0, stdout + stderr
