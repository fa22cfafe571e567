"""automatic.py: one command on a file of the user's own; what was set stays as it is.

A new user met five refusals before the first run, then a prompt for film reviews.
"""

import json
import random

import datasets
import pandas as pd
import pytest

import sentilora
from sentilora.config import load_config
from sentilora.data.sources import read_table
from sentilora.errors import DataError, UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.stages.automatic import INSTRUCTION, INSTRUCTION_WITHOUT_LABELS, TEMPLATE, fit

WORDS = ["parcel", "refund", "invoice", "login", "password", "screen", "courier", "blue", "late",
         "early", "broken", "price", "account", "reset", "credit", "card", "missing"]  # fmt: skip
LETTERS = ["a", "b", "c", "d"]  # which the toy base gives some probability without training
LABELS = ["billing", "delivery", "login", "other"]


def texts(num, seed=0):
    shuffle = random.Random(seed)
    return [f"{' '.join(shuffle.choices(WORDS, k=9))} {number}" for number in range(num)]


def write(path, num=48, labels=LABELS, text="text", label="label", seed=0):
    """Path of a CSV file of this many messages, its labels in turn."""
    rows = {text: texts(num, seed), label: [labels[i % len(labels)] for i in range(num)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return str(path)


def fitted(source, *overrides, **values):
    return fit(
        load_config("tiny", overrides=overrides, values={"data.train": source, **values}), {}
    )


# --- labels and columns --------------------------------------------------------------------------


def test_labels_prompt_and_splits_fit_a_file(tmp_path):
    fit = fitted(write(tmp_path / "my.csv"))
    assert fit.config.prompt.labels == tuple(LABELS)
    assert fit.config.prompt.template == TEMPLATE
    assert fit.config.prompt.instruction == INSTRUCTION
    assert fit.config.data.test == "train"
    assert (len(fit.rows), len(fit.evaluation)) == (33, 5)  # and 10 test rows
    lines = "\n".join(fit.lines())
    assert "prompt.labels: 4 labels in column label: billing, delivery, login, other" in lines
    assert "data.test=train: there is no test split: about 10 of 48 rows, held out" in lines
    assert "data.num_train=0: all rows that are not held out" in lines
    assert "training.learning_rate: " not in lines and "training.learning_rate=0.001" in lines


def test_numbers_are_labels_with_a_hint_until_they_are_named(tmp_path):
    source = write(tmp_path / "my.csv", labels=[2, 0, 10])
    fit = fitted(source)
    assert fit.config.prompt.labels == ("0", "2", "10")
    hint = "numbers tell a model little: name them with data.label_map"
    assert fit.notes["prompt.labels"].endswith(hint)
    fit = fitted(source, 'data.label_map={"0" = "no", "2" = "yes", "10" = "maybe"}')
    assert fit.config.prompt.labels == ("no", "yes", "maybe")
    assert hint not in fit.notes["prompt.labels"] and set(fit.rows.labels) == {"no", "yes", "maybe"}


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["Billing", "billing", "BILLING ", "Billing", "Other"], ("Billing", "Other")),
        ([" a", "b ", " c "], ("a", "b", "c")),
        (["re", "return", "returns", "return now"], ("re", "return", "return now", "returns")),
        (["a, b", "c", "d, e"], ("a, b", "c", "d, e")),
        (["a\nb", "c"], ("a\nb", "c")),
        (["\u00e9", "e\u0301", "日本", "😀"], ("é", "日本", "😀")),  # é in one character and two
        (["straße", "strasse"], ("strasse", "straße")),  # `casefold` makes one of them
        ([True, False], ("False", "True")),
        ([0.5, 1.0, 2.0], ("1", "2", "0.5")),
        (["neg", "neg", "Neg", "pos"], ("negative", "positive")),  # the map has words for two
        (["{text}", "<b>", "it's"], ("<b>", "it's", "{text}")),
    ],
)
def test_labels_in_odd_spellings_reach_the_rows(tmp_path, labels, expected):
    fit = fitted(write(tmp_path / "my.csv", 60, labels))
    assert fit.config.prompt.labels == expected
    assert set(fit.rows.labels) == set(expected)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["a"], "all its 48 values are 'a'"),
        ([f"T-{i}" for i in range(48)], "it has 48 values in 48 rows, as ids or texts have"),
        (texts(40), "it has 40 values in 48 rows, as ids or texts have"),
        (["neg", "negative"], "data.label_map leads all its values to 'negative'"),
    ],
)
def test_what_is_no_label_is_refused_with_the_reason(tmp_path, labels, reason):
    source = write(tmp_path / "my.csv", labels=labels)
    with pytest.raises(DataError) as error:
        fitted(source)
    assert f"cannot hold the labels: {reason}; name another column with" in str(error.value)


def test_a_row_without_a_label_is_named(tmp_path):
    with pytest.raises(DataError, match=r"row 2 \(counted from 0\): label is missing .*drop the"):
        fitted(write(tmp_path / "my.csv", labels=["a", "b", "", "c"]))
    with pytest.raises(DataError, match=r"row 1 \(counted from 0\): label is missing"):
        fitted(write(tmp_path / "my.csv", labels=[1.0, None, 2.0]))


@pytest.mark.parametrize(
    ("text", "label"), [("Message", "Category"), ("text ", "LABEL"), ("review", "whatever")]
)
def test_columns_are_recognized_by_their_names(tmp_path, text, label):
    fit = fitted(write(tmp_path / "my.csv", text=text, label=label))
    assert (fit.config.data.text_column, fit.config.data.label_column) == (text, label)
    assert fit.notes["data.text_column"].startswith("there is no column 'text' among ")


def test_columns_that_could_be_either_are_asked_for(tmp_path):
    table = {"review": texts(20), "comment": texts(20, 1), "label": ["a", "b"] * 10}
    pd.DataFrame(table).to_csv(tmp_path / "my.csv", index=False)
    with pytest.raises(DataError, match=r"no column 'text'; it has review, comment, label; name"):
        fitted(str(tmp_path / "my.csv"))
    fit = fitted(str(tmp_path / "my.csv"), "data.text_column=comment")
    assert fit.rows.texts[0] in table["comment"]


def test_a_text_column_taken_for_the_labels_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"text of .* cannot hold the labels: it has 48 values"):
        fitted(write(tmp_path / "my.csv"), "data.label_column=text")


# --- splits --------------------------------------------------------------------------------------


def test_a_label_with_one_row_trains(tmp_path):
    """Its only row was held out to test, and the adapter could not learn it."""
    table = {"text": texts(43), "label": ["a", "b"] * 20 + ["c", "d", "d"]}
    pd.DataFrame(table).to_csv(tmp_path / "my.csv", index=False)
    fit = fitted(str(tmp_path / "my.csv"))
    assert set(fit.rows.labels) == {"a", "b", "c", "d"}


@pytest.mark.parametrize("num", [10, 11, 12])
def test_as_few_as_ten_rows_are_split(tmp_path, num):
    fit = fitted(write(tmp_path / "my.csv", num, ["a", "b"]))
    assert len(fit.rows) == num - 3 and len(fit.evaluation) == 1
    with pytest.raises(DataError, match="9 rows, too few to hold out test and evaluation rows"):
        fitted(write(tmp_path / "my.csv", 9, ["a", "b"]))


def test_texts_that_are_repeated_are_on_one_side(tmp_path):
    """Four times each: the evaluation rows were torn off their groups, and the note denied it."""
    table = {"text": texts(12) * 4, "label": ["a", "b"] * 24}
    pd.DataFrame(table).to_csv(tmp_path / "my.csv", index=False)
    fit = fitted(str(tmp_path / "my.csv"))
    assert not set(fit.rows.texts) & set(fit.evaluation.texts)
    alike = {"text": ["the same words again"] * 40, "label": ["a", "b"] * 20}
    pd.DataFrame(alike).to_csv(tmp_path / "my.csv", index=False)
    notes = fitted(str(tmp_path / "my.csv")).evaluation.notes
    assert (
        "40 of 40 rows nearly repeat another: 40 of them are so alike that they are on " in notes[0]
    )


def test_a_folder_has_its_own_splits(tmp_path):
    write(tmp_path / "all/train.csv", 60)
    write(tmp_path / "all/test.csv", 20, seed=1)
    fit = fitted(str(tmp_path / "all"))
    assert fit.config.data.test == str(tmp_path / "all") and fit.config.data.evaluation == "train"
    assert len(fit.rows) == 50 and len(fit.evaluation) == 10
    write(tmp_path / "all/validation.csv", 12, seed=2)
    fit = fitted(str(tmp_path / "all"))
    assert fit.config.data.evaluation == str(tmp_path / "all")
    assert len(fit.rows) == 60 and len(fit.evaluation) == 12


def test_a_folder_with_validation_rows_and_no_test_rows(tmp_path):
    write(tmp_path / "my/train.csv", 60)
    write(tmp_path / "my/dev.csv", 12, seed=2)
    fit = fitted(str(tmp_path / "my"))
    assert fit.config.data.test == "train" and len(fit.evaluation) == 12 and len(fit.rows) == 48


def test_test_rows_that_are_there_twice_are_not_overlooked(tmp_path):
    write(tmp_path / "my/train.csv", 60)
    write(tmp_path / "my/test.csv")
    write(tmp_path / "my/val.csv", 12)
    write(tmp_path / "my/validation.csv", 12)
    with pytest.raises(DataError, match=r"has validation data in val.csv, validation.csv"):
        fitted(str(tmp_path / "my"))


def test_a_folder_of_two_files_asks_for_one(tmp_path):
    write(tmp_path / "my/a.csv")
    write(tmp_path / "my/b.csv")
    with pytest.raises(DataError, match=r"holds a.csv, b.csv; name a file, e.g. .*a.csv, or"):
        fitted(str(tmp_path / "my"))


@pytest.mark.parametrize(
    ("splits", "test", "evaluation"),
    [
        (["train", "test"], "me/mine", "train"),
        (["train", "validation", "test"], "me/mine", "me/mine"),
        (["train"], "train", "train"),
    ],
)
def test_a_data_set_on_the_hub(monkeypatch, splits, test, evaluation):
    def load_dataset(source, split):
        assert source == "me/mine" and split in splits
        rows = {"text": texts(60, splits.index(split)), "label": LABELS * 15}
        return datasets.Dataset.from_dict(rows)

    monkeypatch.setattr("sentilora.data.sources.require_hub", lambda *args: None)
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda source: splits)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    fit = fitted("me/mine")
    assert (fit.config.data.test, fit.config.data.evaluation) == (test, evaluation)
    assert fit.config.prompt.labels == tuple(LABELS)


def test_counts_of_the_user_are_respected(tmp_path):
    source = write(tmp_path / "my.csv", 200)
    fit = fitted(source, "data.num_train=50", "data.num_evaluation=30")
    assert (len(fit.rows), len(fit.evaluation)) == (50, 30)
    with pytest.raises(DataError, match=r"data.num_evaluation=300 leaves no training rows"):
        fitted(source, "data.num_evaluation=300")
    other = write(tmp_path / "test.csv", 40, seed=1)
    fit = fitted(source, f"data.test={other}", "data.num_train=50")
    assert (len(fit.rows), len(fit.evaluation)) == (50, 150)
    fit = fitted(source, f"data.test={other}")
    assert (len(fit.rows), len(fit.evaluation)) == (167, 33)
    fit = fitted(source, f"data.evaluation={other}")
    assert (len(fit.rows), len(fit.evaluation)) == (160, 40)  # 40 more are test rows


def test_evaluation_on_test_rows_needs_some(tmp_path):
    """It was said that there is no file "train"."""
    with pytest.raises(UsageError, match=r"no test rows but those held out; name test rows with"):
        fitted(write(tmp_path / "my.csv"), "data.evaluation=test")


# --- prompt --------------------------------------------------------------------------------------


def test_many_labels_are_left_out_of_the_prompt(tmp_path):
    labels = [f"label number {i}" for i in range(60)]
    fit = fitted(write(tmp_path / "my.csv", 240, labels))
    assert fit.config.prompt.instruction == INSTRUCTION_WITHOUT_LABELS
    assert "without the 60 labels: they would fill the prompt" in fit.notes["prompt.instruction"]
    assert "and 50 more" in fit.notes["prompt.labels"] and len(fit.config.prompt.labels) == 60


def test_film_reviews_keep_the_recipe_to_the_byte(tmp_path):
    table = read_table("embedded", "train").select(["text", "label"]).slice(0, 80)
    table.to_pandas().to_csv(tmp_path / "imdb.csv", index=False)
    few = {"data.num_train": 60, "data.num_evaluation": 20}
    for source, values in (("embedded", {}), (str(tmp_path / "imdb.csv"), few)):
        config = load_config("tiny", values={"data.train": source, **values})
        fitted = fit(config, {})
        assert fitted.config == config and fitted.notes == {} and fitted.lines() == []
        for place, one in (("before", config), ("after", fitted.config)):
            one.save(tmp_path / place)
        assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


def test_an_adapter_to_start_from_keeps_its_prompt_if_its_labels_fit(toy_run, tmp_path):
    start = AdapterFolder.open(toy_run)
    source = write(tmp_path / "my.csv", labels=["positive", "negative"])
    config = load_config("tiny", values={"data.train": source})
    fitted = fit(config, {}, start)
    kept = start.classifier.prompt
    assert fitted.config.prompt.template == kept.template
    assert fitted.config.prompt.instruction == kept.instruction
    assert fitted.config.prompt.labels == kept.labels
    other = load_config("tiny", values={"data.train": write(tmp_path / "other.csv")})
    assert fit(other, {}, start).config.prompt.template == TEMPLATE


# --- schedule ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num", "epochs", "eval_steps", "patience"),
    [(50, 20.0, 7, 3), (240, 14.0, 19, 3), (2000, 3.0, 33, 0), (4000, 3.0, 46, 0)],
)
def test_the_schedule_fits_the_number_of_rows(tmp_path, num, epochs, eval_steps, patience):
    recipe = fitted(write(tmp_path / "my.csv", num)).config.training
    assert recipe.num_train_epochs == epochs and recipe.early_stopping_patience == patience
    assert recipe.eval_steps == recipe.save_steps == eval_steps
    assert recipe.warmup_ratio == 0.13 and recipe.learning_rate == 1e-3


SET = {
    "data.text_column": "text",
    "data.label_column": "label",
    "data.test": "embedded",
    "data.evaluation": "embedded",
    "data.num_train": 20,
    "data.num_evaluation": 7,
    "prompt.template": "{text}\n",
    "prompt.instruction": "Which one?",
    "prompt.labels": ["other", "delivery", "login", "billing", "more"],
    "training.num_train_epochs": 1.0,
    "training.early_stopping_patience": 9,
    "training.eval_steps": 3,
    "training.save_steps": 6,
    "training.logging_steps": 4,
    "training.warmup_ratio": 0.5,
    "training.warmup_steps": 2,
    "training.learning_rate": 5e-4,
}


@pytest.mark.parametrize("setting", SET)
def test_what_was_set_stays(tmp_path, setting):
    values = {setting: SET[setting]}
    if setting == "data.evaluation":
        values = {setting: write(tmp_path / "other.csv", 8)}
    fit = fitted(write(tmp_path / "my.csv"), **values)
    assert fit.config.flat()[setting] == next(iter(values.values()))
    assert setting not in fit.notes
    if setting == "training.warmup_steps":
        assert fit.config.training.warmup_ratio == 0.0


def test_the_rate_for_own_data_is_that_of_the_base(tmp_path, toy_base):
    """Named in full, the preset's own base lost it; another base has the recipe's."""
    source = write(tmp_path / "my.csv")
    assert fitted(source).config.training.learning_rate == 1e-3
    assert fitted(source, "base.name=embedded").config.training.learning_rate == 1e-3
    assert fitted(source, **{"base.name": str(toy_base)}).config.training.learning_rate == 2e-4


# --- check, train, evaluate ----------------------------------------------------------------------


@pytest.fixture
def config(toy_base, tmp_path):
    values = {"base.name": str(toy_base), "output_dir": str(tmp_path / "run")}
    return load_config("tiny", overrides=["training.max_steps=2"], values=values)


def test_check_prints_the_choices_of_train_and_train_records_them(config, tmp_path):
    config = config.with_values({"data.train": write(tmp_path / "my.csv", labels=LETTERS)})
    chosen = [finding.text for finding in sentilora.check(config) if finding.name == "chosen"]
    sentilora.train(config)
    results = json.loads((tmp_path / "run/train_results.json").read_text())
    fitted = fit(config, {})
    assert results["chosen"] == fitted.notes and chosen == fitted.lines()


def test_a_table_in_memory_with_labels_of_its_own(config, tmp_path):
    frame = pd.DataFrame({"message": texts(48), "queue": LETTERS * 12})
    result = sentilora.train(config, data=frame)
    assert "prompt.labels" in result.chosen
    evaluation = sentilora.evaluate(tmp_path / "run", data={"train": frame})
    assert evaluation.labels == tuple(LETTERS)
    assert evaluation.adapter.num_rows == 10 and evaluation.baseline is not None
    assert evaluation.missing == [
        "no calibration: 5 evaluation rows, at least 300 are needed; raise data.num_evaluation"
    ]
