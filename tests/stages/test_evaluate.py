"""evaluate from end to end on a toy run: comparisons, calibration, abstention, duplicates."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sentilora.config import load_config, read_config
from sentilora.data.rows import Columns
from sentilora.data.sources import load_rows
from sentilora.errors import DataError, UsageError
from sentilora.evaluation.calibration import Temperature, Threshold
from sentilora.evaluation.leakage import look_for_leakage
from sentilora.evaluation.table import as_table
from sentilora.folders.classifier_file import Calibration, ClassifierFile
from sentilora.folders.run_folder import read_metrics
from sentilora.scoring.classifier import Classifier
from sentilora.stages.evaluate import evaluate
from sentilora.stages.from_config import load_rows_of
from sentilora.stages.train import train

COLUMNS = Columns(labels=("positive", "negative"))
WORDS = ["film", "plot", "actor", "scene", "music", "story", "ending", "camera", "light", "cut"]


def make_table(num_rows, seed):
    """Texts of ten words with one that gives the label away in nine of ten rows."""
    source = random.Random(seed)
    rows = []
    for number in range(num_rows):
        label = source.choice(["positive", "negative"])
        told = label if source.random() < 0.9 else source.choice(["positive", "negative"])
        words = [source.choice(WORDS) for _ in range(10)]
        words[3] = {"positive": "lovely", "negative": "dull"}[told]
        rows.append({"text": " ".join([*words, f"number{seed}x{number}"]), "label": label})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def run_folder(toy_base, tmp_path_factory):
    """A run on 40 rows, with 320 evaluation rows."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_table(420, 1).to_csv(folder / "train.csv", index=False)
    make_table(60, 2).to_csv(folder / "test.csv", index=False)
    values = {
        "base.name": str(toy_base),
        "output_dir": str(folder / "run"),
        "data.train": str(folder / "train.csv"),
        "data.test": str(folder / "test.csv"),
        "data.num_train": 40,
        "data.num_evaluation": 320,
        "training.max_steps": 4,
        "training.eval_steps": 4,
        "training.save_steps": 4,
        "training.warmup_steps": 1,
    }
    train(load_config("tiny", values=values))
    return folder / "run"


@pytest.fixture
def one_answer_is_enough(monkeypatch):
    """Four steps on a random base teach one answer, of which label issues are not told."""
    monkeypatch.setattr("sentilora.evaluation.label_issues.NEARLY", 2)


@pytest.fixture
def run_copy(run_folder, tmp_path):
    return shutil.copytree(run_folder, tmp_path / "run")


def test_the_adapter_is_compared_with_its_base_and_with_word_counts(run_copy):
    result = evaluate(run_copy)
    assert result.num_rows == 60 and result.missing == []
    for metrics in (result.adapter, result.base, result.baseline):
        assert metrics.num_rows == 60 and 0 < metrics.brier < 1
        assert 0 <= metrics.expected_calibration_error <= 1
    assert result.baseline.accuracy > 0.8  # one word tells it
    assert set(result.comparisons) == {"base", "baseline"}
    difference = result.adapter.accuracy - result.baseline.accuracy
    assert result.comparisons["baseline"].difference == pytest.approx(difference)
    # A random base learns nothing in four steps.
    assert result.verdict.startswith(
        "It was not worth it: TF-IDF + logistic regression on the same"
    )
    assert "interval +" in result.verdict  # of what TF-IDF has more
    assert json.loads(result.to_json())["verdict"] == result.verdict


def test_the_majority_and_one_answer_for_all_stand_in_the_evaluation(run_copy):
    """Issue: 28 % on the test rows with every answer "other", and nothing said so."""
    result = evaluate(run_copy, report=run_copy / "report")
    train_rows, _ = load_rows_of(read_config(run_copy / "sentilora.toml"))
    most = max(result.labels, key=train_rows.labels.count)
    assert (result.majority.label, result.majority.counted_in) == (most, "training")
    share = next(x.num_rows for x in result.per_label if x.label == most) / 60
    assert result.majority.accuracy == share
    table = as_table(result)
    assert f"always {most}, most frequent in the training rows" in table
    assert f"\nwarning: {result.warning}\n" in table
    assert result.warning.startswith("One answer for all rows: 60 of 60 are answered ")
    assert f"\nwhat to do next\n1. {result.next_steps[0]}\n" in table
    assert result.next_steps[0].startswith("Train again with training.learning_rate")
    text = (run_copy / "report/report.json").read_text(encoding="utf-8")
    written = json.loads(text)["evaluation"]
    for name in ("majority", "per_label", "warning", "next_steps"):
        assert written[name] == json.loads(result.to_json())[name]
    assert [x["label"] for x in written["per_label"]] == list(result.labels)
    unknown = evaluate(run_copy, overrides={"data.train": "gone.csv"})
    assert unknown.majority.counted_in == "test"


def test_a_temperature_that_helps_is_stored_and_used(run_copy, monkeypatch):
    found = Temperature(2.5, 0.9, 0.8)
    monkeypatch.setattr("sentilora.evaluation.measuring.choose_temperature", lambda *rows: found)
    before = Classifier.load(run_copy)
    texts = WORDS[:5]
    raw = before.predict_proba(texts)
    result = evaluate(run_copy)
    stored = ClassifierFile.load(run_copy).calibration
    assert stored == Calibration(2.5, 0.0)
    assert result.calibrated.num_evaluation == 320
    assert result.calibrated.test.accuracy == result.adapter.accuracy
    after = Classifier.load(run_copy).predict_proba(texts)
    expected = np.exp(np.log(raw) / stored.temperature)
    assert after == pytest.approx(expected / expected.sum(1, keepdims=True))
    # Evaluated again it is the same: what is measured are the raw scores.
    again = evaluate(run_copy)
    assert again.to_json() == result.to_json()


def test_what_was_left_out_stands_in_the_evaluation(run_copy):
    """The table shows how much probability was left out; with few labels, nothing is."""
    result = evaluate(run_copy)
    assert result.left_out == 0.0 and "not scored" not in as_table(result)
    some = replace(result, left_out=4.2e-7)
    assert "labels not scored because they cannot matter: at most 4e-07 of a pr" in as_table(some)
    assert json.loads(some.to_json())["left_out"] == 4.2e-7


@pytest.mark.parametrize("helps", [True, False])
def test_a_temperature_at_its_bound_is_told_and_never_stored(run_copy, monkeypatch, helps):
    found = Temperature(20.0, 0.9, 0.8 if helps else 1.0, "the fit ran into its upper bound")
    monkeypatch.setattr("sentilora.evaluation.measuring.choose_temperature", lambda *rows: found)
    result = evaluate(run_copy)
    assert "\nthe fit ran into its upper bound\n" in as_table(result)
    assert json.loads(result.to_json())["calibrated"]["temperature"]["caution"] == found.caution
    assert "evaluation rows, is not used there" in as_table(result)
    assert ClassifierFile.load(run_copy).calibration.temperature == 1.0


def test_a_target_that_all_answers_reach_leaves_none_out(run_copy):
    result = evaluate(run_copy, target_accuracy=0.3)
    threshold = result.abstention.threshold
    assert result.abstention.is_reached and threshold.bound >= 0.3
    assert result.abstention.num_covered == result.num_rows == 60
    assert "answers of any confidence are at least 30.0% accurate" in as_table(result)
    stored = ClassifierFile.load(run_copy).calibration
    assert stored.abstain_below == threshold.confidence == 0


def test_every_row_is_told_as_predict_tells_it(run_copy, monkeypatch):
    found, threshold = Temperature(2.5, 0.9, 0.8), Threshold(0.6, 0.7, 0.71, 100, 320)
    monkeypatch.setattr("sentilora.evaluation.measuring.choose_temperature", lambda *rows: found)
    monkeypatch.setattr("sentilora.evaluation.measuring.choose_threshold", lambda *rows: threshold)
    result = evaluate(run_copy, target_accuracy=0.7, report=run_copy / "report")
    assert (
        "answers with a probability of at least 0.6000 at temperature 2.500, as predict gives "
        "them, are at least 70.0% accurate"
    ) in as_table(result)
    frame = pd.read_parquet(run_copy / "report/predictions.parquet")
    predicted = Classifier.load(run_copy).classify(frame["text"].tolist())
    for label in result.labels:
        expected = [prediction.probabilities[label] for prediction in predicted]
        assert frame[f"calibrated_probability_{label}"].to_numpy() == pytest.approx(expected)
    assert [p.label == "abstain" for p in predicted] == frame["abstained"].tolist()
    assert frame["abstained"].sum() == result.num_rows - result.abstention.num_covered


def test_rows_named_from_another_folder_say_so(run_copy):
    path = run_copy / "sentilora.toml"
    config = read_config(path)
    path.write_text(path.read_text().replace(f'"{config.data.test}"', '"mine/test.csv"'))
    assert read_config(path).data.test == "mine/test.csv"
    with pytest.raises(DataError, match="from the folder that it was trained in"):
        evaluate(run_copy)
    with pytest.raises(DataError, match=r"test\.csv$"):
        evaluate(run_copy, overrides={"data.test": "mine/test.csv"})


def test_below_its_threshold_it_abstains(run_copy):
    stored = ClassifierFile.load(run_copy).calibration
    file = ClassifierFile.load(run_copy)
    calibration = replace(stored, abstain_below=0.999999)
    file.model_copy(update={"calibration": calibration}).save(run_copy)
    classifier = Classifier.load(run_copy)
    (prediction,) = classifier.classify(["A lovely film."])
    assert prediction.label == "abstain" and sum(
        prediction.probabilities.values()
    ) == pytest.approx(1)
    assert classifier.predict(["A lovely film."]) == ["abstain"]


def test_a_target_out_of_reach_says_what_is_and_stores_nothing(run_copy):
    result = evaluate(run_copy, target_accuracy=0.98)
    assert not result.abstention.is_reached and result.abstention.threshold.bound < 0.98
    assert ClassifierFile.load(run_copy).calibration.abstain_below == 0.0
    assert (
        "no threshold is certain to reach 98.0%: the highest 95 % lower bound on accuracy is"
        in as_table(result)
    )


@pytest.mark.parametrize("target", [0, 1, 1.5, -0.2, float("nan")])
def test_a_target_that_is_no_accuracy_is_refused(run_folder, target):
    with pytest.raises(UsageError, match="give a number such as"):
        evaluate(run_folder, target_accuracy=target)


def test_duplicates_of_training_rows_are_found_and_left_out(
    run_copy, tmp_path, one_answer_is_enough
):
    train_rows, evaluation_rows = load_rows_of(read_config(run_copy / "sentilora.toml"))
    rows = make_table(30, 3)
    rows.loc[0, "text"] = train_rows.texts[5].upper()
    rows.loc[1, "text"] = evaluation_rows.texts[7]
    path = tmp_path / "leaking.csv"
    rows.to_csv(path, index=False)
    result = evaluate(run_copy, overrides={"data.test": str(path)}, label_issues=True)
    assert (result.label_issues.num_rows, result.label_issues.num_seen) == (28, 2)
    leak = result.leakage
    assert (leak.num_exact, leak.num_near, leak.near_looked_for) == (2, 0, True)
    assert [(twin.number, twin.split) for twin in leak.twins] == [(0, "train"), (1, "evaluation")]
    assert leak.without.num_rows == 28 and leak.num_evaluation_twins == 0


def test_near_duplicates_of_many_rows_are_looked_for_only_when_asked(tmp_path, monkeypatch, capsys):
    longer = make_table(420, 1)
    longer["text"] += " and many words that all of these rows share until the very end of it"
    longer.to_csv(tmp_path / "longer.csv", index=False)
    test = longer.iloc[:5].assign(text=longer["text"].iloc[:5] + " now")
    test.to_csv(tmp_path / "test.csv", index=False)
    monkeypatch.setattr("sentilora.evaluation.leakage.MAX_ROWS_NEAR", 400)
    rows = load_rows(str(tmp_path / "test.csv"), "test", COLUMNS)
    splits = load_rows(str(tmp_path / "longer.csv"), "train", COLUMNS)
    known = (splits, splits.take([0, 1, 2]))
    truth = np.zeros(5, int)
    probabilities = np.full((5, 2), 0.5)
    leak = look_for_leakage(rows, known, probabilities, truth, near_duplicates=False)
    assert (leak.num_near, leak.near_looked_for) == (0, False)
    assert leak.num_evaluation_twins == leak.num_evaluation_exact == 3
    said = capsys.readouterr().err
    assert "more than 400 rows (here 428)" in said and "unless requested: it takes minutes" in said
    leak = look_for_leakage(rows, known, probabilities, truth, near_duplicates=True)
    assert (leak.num_near, leak.near_looked_for) == (5, True) and not capsys.readouterr().err


def test_a_model_with_one_answer_lists_none_and_says_so(run_copy):
    result = evaluate(run_copy, label_issues=True, report=run_copy / "report")
    assert result.label_issues is None
    assert "note: no label issues: the model nearly always answers " in as_table(result)
    columns = pd.read_parquet(run_copy / "report/predictions.parquet").columns
    assert "suggested_label" not in columns


def test_probable_label_errors_are_listed(run_copy, one_answer_is_enough):
    assert evaluate(run_copy).label_issues is None
    result = evaluate(run_copy, label_issues=True, report=run_copy / "report")
    found = result.label_issues
    assert (found.num_rows, found.num_seen) == (60, 0)
    assert "probable label errors: " in as_table(result)
    assert json.loads(result.to_json())["label_issues"]["num_rows"] == 60
    frame = pd.read_parquet(run_copy / "report/predictions.parquet")
    marked = frame[frame["suggested_label"].notna()]
    assert set(marked["row"]) == {issue.number for issue in found.issues}
    assert (marked["suggested_label"] != marked["label"]).all()


def test_a_report_says_which_rows_were_evaluated_and_how(run_copy, tmp_path):
    def made(name, overrides=None, **more):
        evaluate(run_copy, report=tmp_path / name, overrides=overrides, **more)
        return json.loads((tmp_path / name / "report.json").read_text(encoding="utf-8"))["made"]

    plain = made("plain")
    test = read_config(run_copy / "sentilora.toml").data.test
    assert (plain["data.test"], plain["data.num_test"]) == (test, "0: all, in the source's order")
    assert plain["data.text_column"] == "text" and plain["batch size"] == "16"
    for name in ("target accuracy", "behaviour suite", "label issues"):
        assert plain[name] == "not requested"
    make_table(30, 3).rename(columns={"text": "body"}).to_csv(tmp_path / "test.csv", index=False)
    overrides = {
        "data.test": str(tmp_path),
        "data.num_test": 20,
        "data.shuffle_seed": 7,
        "data.text_column": "body",
        "data.label_map": {"1": "positive"},
        "data.train": str(tmp_path / "gone.csv"),
    }
    other = made(
        "other", overrides, target_accuracy=0.9, suite="sentiment", label_issues=True, batch_size=4
    )
    assert other["data.test"] == f"{tmp_path}, its test split"
    assert other["data.num_test"] == "20, of the shuffle with data.shuffle_seed=7"
    assert (other["data.text_column"], other["data.label_map"]) == ("body", "1 = positive")
    assert (other["batch size"], other["target accuracy"]) == ("4", "0.9")
    assert (other["behaviour suite"], other["label issues"]) == ("sentiment", "requested")


def test_words_that_were_cut_off_take_no_place_in_a_report(run_copy, tmp_path):
    text = "A dull<br /><br>film, " + "a very long one " * 5000 + "<br>and lovely"
    frame = pd.DataFrame({"text": [text, text], "label": ["positive", "negative"]})
    frame.to_csv(tmp_path / "long.csv", index=False)
    asked = {"data.test": str(tmp_path / "long.csv")}
    result = evaluate(run_copy, overrides=asked, report=tmp_path / "report")
    [found] = result.explained.rows.values()  # one of the two is an error
    assert 0 < len(found.words) < 500 and result.num_truncated == 2
    assert all(word.contribution is not None for word in found.words)
    assert (tmp_path / "report/report.json").stat().st_size < 200_000
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    [shown] = data["evaluation"]["explained"]["rows"].values()
    clean = data["rows"][0]["text"]
    assert [clean[start:end] for start, end, *_ in shown["words"]] == [
        text[word.start : word.end] for word in found.words
    ]


def test_rows_are_named_by_their_place_in_the_file(run_copy, tmp_path, one_answer_is_enough):
    config = read_config(run_copy / "sentilora.toml")
    train_rows, evaluation_rows = load_rows_of(config)
    rows = make_table(90, 3)
    rows["text"] += [f" and text number {i} of this table" for i in range(90)]
    rows.loc[::3, "text"] = train_rows.texts[:30]
    rows.loc[1::3, "text"] = [f"{text} now" for text in evaluation_rows.texts[:30]]
    path, report = tmp_path / "some.csv", tmp_path / "report"
    rows.to_csv(path, index=False)
    asked = {"data.test": str(path), "data.num_test": 50}
    result = evaluate(run_copy, overrides=asked, label_issues=True, report=report)
    train = pd.read_csv(config.data.train)
    file = {"train": train, "evaluation": train}
    frame = pd.read_parquet(report / "predictions.parquet")
    assert len(frame) == 50 and sorted(frame["row"]) != list(range(50))
    assert rows["text"].iloc[frame["row"]].tolist() == frame["text"].tolist()
    assert result.leakage.twins and result.label_issues.issues and result.explained.rows
    for twin in result.leakage.twins:
        other = file[twin.split]["text"][twin.other]
        assert rows["text"][twin.number] == (other if twin.is_exact else f"{other} now")
    for issue in result.label_issues.issues:
        assert rows["label"][issue.number] == issue.given
        assert rows["text"][issue.number].startswith(issue.begin[:59])
    assert not {t.number for t in result.leakage.twins} & {
        issue.number for issue in result.label_issues.issues
    }
    for number, found in result.explained.rows.items():
        assert found.words[-1].end == len(rows["text"][number])
    twins = frame[frame["twin_row"].notna()]
    assert dict(zip(twins["row"], twins["twin_row"], strict=True)) == {
        twin.number: twin.other for twin in result.leakage.twins
    }
    marked = frame[frame["suggested_label"].notna()]
    assert set(marked["row"]) == {issue.number for issue in result.label_issues.issues}
    page = (report / "report.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    for row in data["rows"]:
        assert row["text"] == rows["text"][row["number"]]
    for number, begin in data["begins"]["test"].items():
        assert rows["text"][int(number)].startswith(begin)
    assert data["begins"]["evaluation"] == {
        str(twin.other): train["text"][twin.other]
        for twin in result.leakage.twins
        if not twin.is_exact
    }


def test_rows_of_one_label_have_no_label_issues_and_it_is_said(run_copy, tmp_path):
    path = tmp_path / "one.csv"
    make_table(40, 8).query("label == 'positive'").to_csv(path, index=False)
    result = evaluate(run_copy, label_issues=True, overrides={"data.test": str(path)})
    assert result.label_issues is None and result.missing[-1].startswith("no label issues: ")


def test_accuracy_by_the_data_s_own_rating(run_copy, tmp_path):
    rows = make_table(40, 8).assign(rating=[1, 9, 10, 1] * 10)
    rows.loc[0, "rating"] = None
    path = tmp_path / "rated.csv"
    rows.to_csv(path, index=False)
    result = evaluate(run_copy, overrides={"data.test": str(path)}, report=tmp_path / "report")
    groups = result.ratings.groups
    assert [(group.name, group.num_rows) for group in groups] == [("1", 19), ("9", 10), ("10", 10)]
    assert (result.ratings.column, result.ratings.num_without) == ("rating", 1)
    frame = pd.read_parquet(tmp_path / "report/predictions.parquet")
    right = frame["prediction"] == frame["label"]
    for group, rating in zip(groups, (1, 9, 10), strict=True):
        assert group.accuracy == right[rows["rating"] == rating].mean()
        low, high = group.interval
        assert low <= group.accuracy <= high
    table = as_table(result)
    assert "by rating" in table and "rows without rating: 1" in table
    assert evaluate(run_copy).ratings is None


def test_a_curve_that_is_damaged_is_told_of_before_anything_is_scored(
    run_copy, monkeypatch, capsys
):
    path = run_copy / "metrics.jsonl"
    whole = path.read_bytes()
    entries = read_metrics(run_copy)
    assert len(entries) >= 2 and not capsys.readouterr().err
    path.write_bytes(whole[:-20])
    assert read_metrics(run_copy) == entries[:-1]
    assert f"ends within line {len(entries)}, which is left out" in capsys.readouterr().err
    path.write_bytes(whole + b'{"step": 9, "note": "\xe6')  # cut off within a character
    assert read_metrics(run_copy) == entries
    path.unlink()
    assert read_metrics(run_copy) == []

    def score(*args):
        raise AssertionError("scored")

    monkeypatch.setattr("sentilora.stages.evaluate.measure_rows", score)
    for damage, said in [
        (b'{"step": 1, "loss\n', "line 1 is damaged"),
        (b"[1]\n", "an object with a step is expected"),
        (b'{"loss": 1.0}\n', "an object with a step is expected"),
    ]:
        path.write_bytes(damage + whole)
        with pytest.raises(DataError, match=said):
            evaluate(run_copy, report=run_copy / "report")
        assert not (run_copy / "report").exists()
        with pytest.raises(AssertionError, match="scored"):  # without a report nobody reads it
            evaluate(run_copy)


def test_what_cannot_be_measured_is_said(run_copy, tmp_path):
    overrides = {"data.train": str(tmp_path / "gone.csv")}
    result = evaluate(run_copy, overrides=overrides)
    assert result.baseline is None and result.calibrated is None
    assert "there is no file or folder" in result.missing[0]
    assert "base without the adapter" in result.verdict
    (run_copy / "data.json").unlink()
    assert "does not say which rows" in evaluate(run_copy).missing[0]


def test_few_evaluation_rows_are_no_ground_for_calibration(toy_run):
    result = evaluate(toy_run, overrides={"data.num_test": 12}, target_accuracy=0.9)
    assert result.calibrated is None and result.abstention is None
    assert (
        "no calibration and no threshold: 16 evaluation rows, at least 300 are" in result.missing[0]
    )
    assert result.baseline is not None and result.leakage is not None


def test_evaluation_rows_that_are_test_rows_calibrate_nothing(run_copy):
    evaluation_rows = load_rows_of(read_config(run_copy / "sentilora.toml"))[1]
    path = run_copy / "same.csv"
    pd.DataFrame({"text": evaluation_rows.texts, "label": evaluation_rows.labels}).to_csv(
        path, index=False
    )
    result = evaluate(run_copy, overrides={"data.test": str(path)})
    assert result.calibrated is None and len(result.leakage.twins) == 320
    seen = "of the 320 test rows, the adapter has seen 320 among its evaluation rows"
    assert seen in result.missing[0]
    assert result.verdict.startswith("No verdict: 320 of the 320 test rows are duplicates of rows")
    assert (
        "320 of the 320 evaluation rows are also test rows" in result.missing[1]
        and result.leakage.without is None
    )


def test_one_row(run_copy, tmp_path):
    path = tmp_path / "one.csv"
    make_table(1, 9).to_csv(path, index=False)
    result = evaluate(run_copy, overrides={"data.test": str(path)})
    assert result.num_rows == 1 and result.adapter.roc_auc is None
    assert result.verdict == "No verdict: no test row is labeled positive."


@pytest.mark.parametrize(
    "calibration",
    [
        {"temperature": 0},
        {"temperature": "1"},
        {"abstain_below": None},
        {"abstain_below": float("nan")},
        {"abstain_below": 2},
        {"temperature": -1},
        "x",
        [1],
    ],
)
def test_a_damaged_calibration_is_one_line(run_copy, calibration):
    path = run_copy / "classifier.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "calibration": calibration}))
    with pytest.raises(DataError, match="is damaged"):
        Classifier.load(run_copy)
