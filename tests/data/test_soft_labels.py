"""Labels that are shares: columns of probabilities, several annotators, and what is refused."""

import json
import math
import re

import pandas as pd
import pytest
from commands import run

import sentilora
from sentilora.config import load_config
from sentilora.data.overview import label_warnings, look_over
from sentilora.data.rows import Columns
from sentilora.data.soft_labels import TOLERANCE
from sentilora.data.sources import load_rows
from sentilora.errors import DataError
from sentilora.folders.run_folder import SplitRecord
from sentilora.stages.adapter_rows import load_test
from sentilora.stages.automatic import fit, fit_data, lines_of
from sentilora.stages.from_config import tables_of, with_tables

SOFT = Columns(labels=("positive", "negative"), label_map={"pos": "positive"}, is_soft=True)
TEXTS = ["Good.", "Bad.", "So so."]


def write(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return str(path)


def probabilities(path, positive, negative, texts=TEXTS, **more):
    return write(path, text=texts, probability_positive=positive, probability_negative=negative,
                 **more)  # fmt: skip


def test_columns_of_probabilities_are_shares_and_their_largest_is_the_label(tmp_path):
    path = probabilities(tmp_path / "x.csv", [0.9, 0.2, 0.5], [0.1, 0.8, 0.5])
    rows = load_rows(path, "train", SOFT)
    assert rows.shares == [(0.9, 0.1), (0.2, 0.8), (0.5, 0.5)]
    assert rows.labels == ["positive", "negative", "positive"]  # the first of equals
    assert rows.take([2, 0]).shares == [(0.5, 0.5), (0.9, 0.1)]
    assert "probability_positive" in rows.shares_from


def test_sums_are_normalized_within_a_tolerance(tmp_path):
    path = probabilities(tmp_path / "x.csv", [0.99, 0.34, 0.5], [0.02, 0.65, 0.5])
    rows = load_rows(path, "train", SOFT)
    assert all(math.isclose(sum(row), 1, abs_tol=1e-12) for row in rows.shares)
    assert rows.shares[0] == (0.99 / 1.01, 0.02 / 1.01)
    path = probabilities(tmp_path / "y.csv", [0.9, 0.3, 0.5], [0.1, 0.6, 0.5])
    assert TOLERANCE < 0.1
    with pytest.raises(DataError, match=r"row 1 .*probabilities add up to 0.9, not to 1"):
        load_rows(path, "train", SOFT)


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        ("", "probability_negative is missing"),
        ("nan", "probability_negative is missing"),
        ("-0.1", "probability_negative is -0.1"),
        ("inf", "probability_negative is inf"),
        ("high", "probability_negative is 'high', no number"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_share_that_is_none_is_refused_by_its_row(tmp_path, cell, fault, suffix):
    path = tmp_path / f"x.{suffix}"
    positive, negative = [0.9, 0.2, 0.5], ["0.1", cell, "0.5"]
    if suffix == "csv":
        probabilities(path, positive, negative)
    else:
        rows = zip(TEXTS, positive, negative, strict=True)
        names = ("text", "probability_positive", "probability_negative")
        path.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    with pytest.raises(DataError, match=rf"row 1 \(counted from 0\): {fault}"):
        load_rows(str(path), "train", SOFT)


def test_capitals_in_the_name_of_a_column_do_not_count(tmp_path):
    """As in labels: Probability_Positive was no column of probabilities, without a word."""
    path = write(tmp_path / "x.csv", text=TEXTS, Probability_Positive=[0.9, 0.2, 0.5],
                 PROBABILITY_negative=[0.1, 0.8, 0.5])  # fmt: skip
    rows = load_rows(path, "train", SOFT)
    assert rows.shares == [(0.9, 0.1), (0.2, 0.8), (0.5, 0.5)]
    path = write(tmp_path / "y.csv", text=[f"Text {i}." for i in range(40)],
                 Probability_Yes=[0.9, 0.2] * 20, Probability_No=[0.1, 0.8] * 20)  # fmt: skip
    fit_ = fitted(path)
    assert fit_.config.data.soft_labels and fit_.config.prompt.labels == ("Yes", "No")
    assert fit_.rows.shares


def test_columns_and_labels_that_do_not_belong_together_are_refused(tmp_path):
    path = write(tmp_path / "x.csv", text=TEXTS, probability_positive=[1, 0, 1],
                 probability_unsure=[0, 1, 0])  # fmt: skip
    with pytest.raises(DataError, match="'probability_unsure', and 'unsure' is not one of"):
        load_rows(path, "train", SOFT)
    path = write(tmp_path / "y.csv", text=TEXTS, probability_pos=[1, 0, 1],
                 probability_positive=[0, 1, 0])  # fmt: skip
    with pytest.raises(DataError, match="no column 'probability_negative' for the label"):
        load_rows(path, "train", SOFT)


def test_rows_of_several_annotators_become_shares(tmp_path):
    """Three people labeled each text: today's contradictions are the shares of one row."""
    texts = ["Good.", "good. ", "Good.", "Bad.", "Good."]
    path = write(tmp_path / "x.csv", text=texts, label=["pos", "pos", "negative", "negative",
                                                        "pos"])  # fmt: skip
    rows = load_rows(path, "train", SOFT)
    assert rows.texts == ["Good.", "Bad."]
    assert rows.shares == [(0.75, 0.25), (0.0, 1.0)] and rows.labels == ["positive", "negative"]
    assert list(rows.numbers) == [0, 3]
    assert rows.shares_from.endswith("; 4 rows of 1 text became one row each")
    hard = Columns(labels=SOFT.labels, label_map=SOFT.label_map)
    before = load_rows(path, "train", hard)  # as ever
    assert len(before) == 5 and before.shares == []
    path = probabilities(tmp_path / "y.csv", [1, 0.5, 0.25], [0, 0.5, 0.75], ["a", "A", "b"])
    assert load_rows(path, "train", SOFT).shares == [(0.75, 0.25), (0.25, 0.75)]


def test_a_source_without_probabilities_has_the_shares_of_its_labels(tmp_path):
    path = write(tmp_path / "x.csv", text=TEXTS, label=["pos", "negative", "pos"])
    rows = load_rows(path, "test", SOFT)
    assert rows.shares == [(1.0, 0.0), (0.0, 1.0), (1.0, 0.0)]


def test_other_shares_are_other_rows(tmp_path):
    """A run on other probabilities is not resumed, even where the likeliest labels stay."""
    one = load_rows(probabilities(tmp_path / "x.csv", [0.9, 0.2, 0.6], [0.1, 0.8, 0.4]), "train",
                    SOFT)  # fmt: skip
    other = load_rows(probabilities(tmp_path / "y.csv", [0.8, 0.2, 0.6], [0.2, 0.8, 0.4]), "train",
                      SOFT)  # fmt: skip
    assert one.labels == other.labels
    assert SplitRecord.of(one).sha256 != SplitRecord.of(other).sha256


# --- which labels are used -----------------------------------------------------------------------


def many(path, **more):
    texts = [f"text number {i}" for i in range(40)]
    positive = [0.9, 0.2] * 20
    return probabilities(path, positive, [1 - p for p in positive], texts, **more)


def fitted(source, **values):
    return fit(load_config("tiny", values={"data.train": source, **values}), {})


def test_probabilities_are_the_labels_where_there_are_no_others(tmp_path):
    source = many(tmp_path / "x.csv", prediction=["positive", "negative"] * 20)
    fit_ = fitted(source)
    assert fit_.config.data.soft_labels
    assert fit_.config.prompt.labels == ("positive", "negative")
    assert fit_.notes["data.soft_labels"] == (
        "there is no column of labels; probability_positive, probability_negative are the labels"
    )
    assert fit_.rows.shares and fit_.evaluation.shares


def test_a_column_of_labels_goes_first_unless_probabilities_are_asked_for(tmp_path):
    source = many(tmp_path / "x.csv", label=["negative", "positive"] * 20)
    fit_ = fitted(source)
    assert not fit_.config.data.soft_labels and fit_.rows.shares == []
    assert fit_.notes["data.soft_labels"] == (
        "column label holds the labels; true would take probability_positive, probability_negative"
    )
    asked = fitted(source, **{"data.soft_labels": True})
    assert asked.rows.shares and "data.soft_labels" not in asked.notes
    findings = sentilora.check(load_config("tiny", values={
        "data.train": source, "data.soft_labels": True, "output_dir": str(tmp_path / "run"),
        "base.name": "nowhere"}))  # fmt: skip
    texts = [finding.text for finding in findings if finding.name == "labels"]
    assert texts == ["train: soft, probabilities in probability_positive, probability_negative"]


@pytest.mark.parametrize("name", ["imdb.csv", "imdb/train.csv"])
def test_film_reviews_keep_the_recipe_but_for_their_labels(tmp_path, name):
    """Named after IMDB, which is what the recipe was made for, with a model's answers."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    many(tmp_path / name)
    source = str(tmp_path / name.split("/")[0])
    fit_ = fitted(source, **{"data.num_train": 30, "data.num_evaluation": 10})
    assert list(fit_.notes) == ["data.soft_labels"]
    assert fit_.rows.shares and "{labels}" in fit_.config.prompt.instruction
    assert "Review" in fit_.config.prompt.template


def test_texts_are_counted_once_when_annotators_share_them(tmp_path):
    """60 rows of 20 texts: splits are of 20."""
    texts = [f"text number {i % 20}" for i in range(60)]
    labels = [("a", "b")[i % 3 == 0 or i % 2] for i in range(60)]
    source = write(tmp_path / "x.csv", text=texts, label=labels)
    fit_ = fitted(source, **{"data.soft_labels": True})
    assert len(fit_.rows) + len(fit_.evaluation) == 20 - 4  # a fifth is held out to test


def test_a_label_is_learned_from_rows_with_a_share_of_it(tmp_path):
    """`check` said "the adapter does not learn it" of labels that are no row's likeliest."""
    path = probabilities(tmp_path / "x.csv", [0.9, 0.8, 0.7], [0.1, 0.2, 0.3])
    rows = load_rows(path, "train", SOFT)
    assert label_warnings("train", rows, SOFT.labels) == []
    [warning] = label_warnings("test", rows, SOFT.labels)
    assert warning.startswith("no test row is likeliest to be negative: there is no macro-F1")
    path = probabilities(tmp_path / "y.csv", [1, 1, 1], [0, 0, 0])
    [warning] = label_warnings("train", load_rows(path, "train", SOFT), SOFT.labels)
    assert warning == "no training row has a share of negative: the adapter does not learn it"


@pytest.mark.parametrize("values", [[0.9, 0.1, 0.9] * 5, [1.0] * 15])
def test_probabilities_of_one_label_alone_are_not_taken_for_labels(tmp_path, values):
    """0.9 and 0.1 became two labels, because the file has two columns."""
    texts = [f"Text {i}." for i in range(15)]
    path = write(tmp_path / "x.csv", text=texts, probability_positive=values)
    with pytest.raises(DataError, match=r"probabilities of one, in probability_positive; add a"):
        fit(load_config(values={"data.train": path}), {})
    path = write(tmp_path / "y.csv", text=texts, sentiment=["a", "b", "c"] * 5,
                 probability_positive=values)  # fmt: skip
    assert fit(load_config(values={"data.train": path}), {}).config.prompt.labels == ("a", "b", "c")


def test_rows_that_a_model_labeled_are_named_as_such(tmp_path):
    """What `predict --output` wrote evaluated the same adapter with 100 %, without a word."""
    path = probabilities(tmp_path / "x.csv", [0.9, 0.2, 0.5], [0.1, 0.8, 0.5],
                         prediction=["positive", "negative", "positive"])  # fmt: skip
    rows = load_rows(path, "test", SOFT)
    [warning] = label_warnings("test", rows, SOFT.labels)
    assert "a model's answers" in warning and "is agreement with that model" in warning
    splits = {"train": rows, "test": rows.take([0, 1])}
    assert look_over(splits, SOFT.labels).warnings.count(warning) == 1


def test_an_adapter_of_soft_labels_is_tested_on_hard_ones_as_they_are(tmp_path):
    """Two reviewers of one text are two rows of IMDB's test split, not shares of one row."""
    config = load_config("tiny", values={"data.soft_labels": True})
    source = write(tmp_path / "t.csv", text=["fine", "fine", "dull"], label=["pos", "neg", "neg"])
    chosen = {"data.test": source, "data.label_map": {"pos": "positive", "neg": "negative"}}
    labels = ("positive", "negative")
    rows = load_test(config.with_values(chosen), labels, {}, chosen)
    assert rows.labels == ["positive", "negative", "negative"] and rows.shares == []
    asked = chosen | {"data.soft_labels": True}
    assert len(load_test(config.with_values(asked), labels, {}, asked)) == 2
    shares = probabilities(tmp_path / "p.csv", [0.9, 0.2], [0.1, 0.8], texts=["fine", "dull"])
    soft = chosen | {"data.test": str(shares)}
    assert load_test(config.with_values(soft), labels, {}, soft).shares


def test_test_rows_of_the_training_have_the_labels_that_the_same_rows_named_now_have(tmp_path):
    """`evaluate` merged equal texts of the run's `data.test`, and of rows in memory."""
    frame = pd.DataFrame({"text": ["fine", "fine", "dull"], "label": ["pos", "neg", "neg"]})
    frame.to_csv(path := tmp_path / "t.csv", index=False)
    labels = ("positive", "negative")
    values = {"data.soft_labels": True, "data.label_map": {"pos": "positive", "neg": "negative"}}
    config = load_config("tiny", values=values | {"data.test": str(path)})
    tables = tables_of(frame, "test")
    passed = with_tables(config, tables)
    for rows in (load_test(config, labels, {}, {}), load_test(passed, labels, tables, {})):
        assert rows.labels == ["positive", "negative", "negative"] and rows.shares == []
    kept = {"data.soft_labels": True}  # set now: it counts
    assert len(load_test(config, labels, {}, kept)) == 2
    _, stdout, _ = run("check", f"data.train={path}", f"data.test={path}", "data.soft_labels=true")
    assert re.search(r"^ +test +3 rows of ", stdout, re.MULTILINE)


def test_columns_that_differ_in_capitals_only_are_one_label(tmp_path):
    """They were two labels, each the other's opposite; a column of labels takes them for one."""
    path = write(tmp_path / "x.csv", text=TEXTS, probability_good=[0.5, 0.2, 0.6],
                 probability_Good=[0.4, 0.1, 0.2], probability_bad=[0.1, 0.7, 0.2])  # fmt: skip
    config, _ = fit_data(load_config("tiny", values={"data.train": path}), {})
    assert config.prompt.labels == ("good", "bad")
    columns = Columns(labels=("good", "bad"), is_soft=True)
    assert load_rows(path, "train", columns).shares[0] == pytest.approx((0.9, 0.1))
    path = write(tmp_path / "y.csv", text=TEXTS, probability_good=[0.5, 0.2, 0.6],
                 probability_Good=[0.5, 0.8, 0.4])  # fmt: skip
    with pytest.raises(
        DataError, match=r"probability_good, probability_Good .* of one label: good"
    ):
        fit_data(load_config("tiny", values={"data.train": path}), {})


@pytest.mark.parametrize(
    ("positive", "negative"), [([90, 20, 50], [10, 80, 50]), (["90%", "20%"] * 2, ["10%"] * 4)]
)
def test_percentages_are_named_as_such(tmp_path, positive, negative):
    """The remedy was to fix the probabilities or to drop the row: each of them."""
    path = probabilities(tmp_path / "x.csv", positive, negative, [*TEXTS, "."][: len(positive)])
    with pytest.raises(
        DataError, match=r"write shares of 1, such as 0\.15, instead of percentages"
    ):
        load_rows(path, "train", SOFT)


def test_a_wrong_sum_names_the_columns_that_were_added(tmp_path):
    """A column such as probability_of_rain is one of them, and nothing said so."""
    path = probabilities(tmp_path / "x.csv", [0.9, 0.2, 0.5], [0.1, 0.8, 0.5],
                         probability_of_rain=[0.3] * 3)  # fmt: skip
    columns = Columns(labels=("positive", "negative", "of_rain"), is_soft=True)
    with pytest.raises(DataError, match=r"1\.3, not to 1 \(.*negative, probability_of_rain\)"):
        load_rows(path, "train", columns)


def test_what_is_chosen_is_written_as_it_can_be_typed(tmp_path):
    """It was data.soft_labels=True, and a list in Python's form."""
    path = write(tmp_path / "x.csv", text=TEXTS, probability_good=[0.5, 0.2, 0.6],
                 probability_bad=[0.5, 0.8, 0.4])  # fmt: skip
    lines = lines_of(*fit_data(load_config("tiny", values={"data.train": path}), {}))
    assert any(line.startswith("data.soft_labels=true: ") for line in lines)
    assert any(line.startswith("prompt.labels=good,bad: ") for line in lines)


def test_a_missing_column_of_texts_is_named_once(tmp_path):
    """It said "neither a column 'text' nor 'text'": probabilities need no column of labels."""
    path = write(tmp_path / "x.csv", probability_positive=[0.9], probability_negative=[0.1],
                 body=["Good."])  # fmt: skip
    with pytest.raises(DataError, match=r"x\.csv has no column 'text'; it has probability_p"):
        load_rows(path, "train", SOFT)
