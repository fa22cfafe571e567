"""A template that shows several columns: what is filled in and refused, from file to answer."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from commands import failed, predicted, run
from hypothesis import given
from hypothesis import strategies as st

import sentilora
from sentilora.config import load_config
from sentilora.data.columns import fields_of
from sentilora.data.overview import look_over
from sentilora.data.rows import Columns, Rows, row_hash
from sentilora.data.sources import load_rows
from sentilora.data.splits import carve
from sentilora.errors import DataError, UsageError
from sentilora.evaluation.leakage import TwinIndex
from sentilora.folders.run_folder import PROBABILITIES_FILE
from sentilora.prompt import TRUNCATIONS, Prompter, PromptFormat
from sentilora.scoring.explain import explain
from sentilora.stages.from_config import load_rows_of

TEMPLATE = "Title: {title}\nStars: {stars}\n{text}\n\nA:\n"
FORMAT = PromptFormat(TEMPLATE, "", max_length=64)
RECORD = {"title": "A <br> film", "text": " Good. ", "stars": 4, "more": [1]}
LABELS = ("positive", "negative")
COLUMNS = Columns(labels=LABELS, others=("title", "stars"))


@pytest.fixture(scope="module")
def prompter(toy_tokenizer):
    return Prompter(toy_tokenizer, FORMAT)


# --- prompts


def test_every_column_of_the_template_is_filled_in(prompter):
    """A `{title}` in a template stayed as it was."""
    assert FORMAT.columns == ("title", "stars")
    prompt = prompter.encode(RECORD)
    assert prompt.string == "Title: A \n film\nStars: 4\nGood.\n\nA:\n"
    assert prompt.spans == ((0, 5),) and not prompt.truncated
    missing = prompter.encode({"title": None, "text": "Good.", "stars": float("nan")})
    assert missing.string == "Title: \nStars: \nGood.\n\nA:\n"


def test_an_instruction_can_name_columns_too(toy_tokenizer):
    format = PromptFormat("{instruction}\n{text}\n", "Of {title}: {labels}?", LABELS, 64)
    prompt = Prompter(toy_tokenizer, format).encode({"text": "Good.", "title": "It"})
    assert prompt.string == "Of It: positive or negative?\nGood.\n"


def test_what_is_filled_in_is_not_read_for_placeholders(toy_tokenizer):
    braces = "{text}{title}{instruction}{labels}{stars}"
    format = PromptFormat("{instruction}|{title}|{text}|\n", "{labels}", ("{title}", "{text}"))
    prompt = Prompter(toy_tokenizer, format).encode({"text": braces, "title": braces})
    assert prompt.string == f"{{title}} or {{text}}|{braces}|{braces}|\n"


def test_other_braces_are_literal(toy_tokenizer):
    template = '{"a": {}, "b": { title }}\n{text}\n{1}\n'
    format = PromptFormat(template)
    assert format.columns == ()
    string = Prompter(toy_tokenizer, format).encode("Good.").string
    assert string == template.replace("{text}", "Good.")


@given(st.text(min_size=1, max_size=300), st.text(max_size=30), st.sampled_from(TRUNCATIONS))
def test_only_the_text_is_cut(toy_tokenizer, text, title, truncation):
    text, title = (part.replace("\r", " ").strip() or "x" for part in (text, title))
    format = PromptFormat("{title}\n\n{text}\n\n{title}\nA:\n", "", LABELS, 160, truncation)
    prompter = Prompter(toy_tokenizer, format)
    item = {"text": text, "title": title}
    try:
        prompt = prompter.encode(item)
    except DataError as error:
        assert "leave no room" in str(error)
        return
    longest = max(map(len, prompter.label_ids))
    assert len(prompt.input_ids) + longest <= 160
    assert prompt.string.startswith(f"{title}\n\n") and prompt.string.endswith(f"\n\n{title}\nA:\n")
    parts = [text[start:end] for start, end in prompt.spans]
    assert prompter.encode_parts(parts, format.read(item)) == prompt.input_ids


def test_columns_that_leave_no_room_for_the_text_are_refused(prompter):
    record = {"text": "Good film.", "title": "long " * 60, "stars": 1}
    with pytest.raises(DataError, match=r"title, stars of the text 'Good film\.' leave no room"):
        prompter.encode(record)
    with pytest.raises(DataError, match=r"need \d+ tokens, and prompt\.max_length allows \d+; rai"):
        prompter.encode_example(record, "positive")


@pytest.mark.parametrize(
    ("value", "kind", "pattern"),
    [
        ("Good.", UsageError, r"is 'Good\.', but the prompt also shows title, stars; pass records"),
        ({"text": "Good.", "title": "x"}, DataError, r"has no 'stars'; it has text, title"),
        ({"title": "x", "stars": 1}, DataError, r"has no 'text'; it has title, stars"),
        ({**RECORD, "text": " "}, DataError, "the text is empty"),
        ({**RECORD, "title": b"x"}, DataError, r"title of the text is b'x', neither a text nor a"),
        ({**RECORD, "title": ["x"]}, DataError, r"title of the text is \['x'\], neither"),
        ({**RECORD, "title": "\ud800"}, DataError, "title of the text is not valid Unicode"),
    ],
)
def test_what_is_no_record_of_these_columns_is_refused(prompter, value, kind, pattern):
    with pytest.raises(kind, match=pattern):
        prompter.encode(value)


def test_a_record_is_refused_where_the_template_shows_only_the_text(toy_tokenizer):
    with pytest.raises(DataError, match="not a text"):
        Prompter(toy_tokenizer, PromptFormat()).encode({"text": "Good."})


@pytest.mark.parametrize("name", ["text", "instruction"])
def test_an_instruction_cannot_hold_the_text(name):
    with pytest.raises(UsageError, match=rf"prompt\.instruction holds \{{{name}\}}; put it into"):
        PromptFormat(instruction=f"Read {{{name}}}.")


def test_an_explanation_is_of_the_words_of_the_text(prompter):
    class Scorer:
        """Gives the second label more, the longer the prompt."""

        def log_probs(self, prompts):
            assert all(ids[:9] == prompts[0][:9] for ids in prompts)  # title and stars stay
            return [[0.0, 0.1 * len(ids)] for ids in prompts]

    explanation = explain(Scorer(), prompter, {**RECORD, "text": "Good <br>film {title}"})
    assert [(word.start, word.end) for word in explanation.words] == [(0, 4), (9, 13), (14, 21)]
    assert all(word.contribution > 0 for word in explanation.words)


@pytest.mark.parametrize("key", ["template", "instruction"])
def test_a_byte_order_mark_is_left_out(key):
    """A template from a file that some editors write began with U+FEFF."""
    marked = {key: "\ufeff" + getattr(PromptFormat(), key)}
    assert PromptFormat(**marked) == PromptFormat()
    values = {f"prompt.{name}": value for name, value in marked.items()}
    assert load_config(values=values).prompt == load_config().prompt


def test_a_byte_order_mark_is_left_out_of_labels():
    marked = ["\ufeffpositive", "negative"]
    assert PromptFormat(labels=marked).labels == LABELS
    assert load_config(values={"prompt.labels": marked}).prompt.labels == LABELS


def test_a_byte_order_mark_is_left_out_of_a_template_file(toy_run, tmp_path):
    """It stayed in the prompt, in front of the template's first word."""
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(toy_run / name, tmp_path / name)
    outputs = set()
    for mark in ("", "\ufeff"):
        (tmp_path / "prompt.txt").write_text(f"{mark}{{text}}\n\nA:\n", encoding="utf-8")
        outputs.add(predicted("A film.", "--json", "--adapter", tmp_path, "--template",
                              tmp_path / "prompt.txt", "--labels", f"{mark}yes,no")[0])  # fmt: skip
    assert len(outputs) == 1


# --- rows


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_hold_the_columns_that_the_prompt_shows(tmp_path, suffix):
    path = tmp_path / f"rows.{suffix}"
    path.write_text("")
    frame = pd.DataFrame({"text": ["Good.", "Bad."], "title": ["It", None], "stars": [4, 1],
                          "label": list(LABELS), "more": [1, 2]})  # fmt: skip
    match suffix:
        case "parquet":
            frame.to_parquet(path)
        case "jsonl":
            frame.to_json(path, orient="records", lines=True)
        case _:
            frame.to_csv(path, index=False, sep="\t" if suffix == "tsv" else ",")
    rows = load_rows(str(path), "train", COLUMNS)
    assert rows.fields == [{"title": "It", "stars": "4"}, {"title": "", "stars": "1"}]
    assert rows.inputs[0] == {"text": "Good.", "title": "It", "stars": "4"}
    assert rows.take([1]).inputs == [{"text": "Bad.", "title": "", "stars": "1"}]
    assert list(rows.take([1, 0]).hashes()) == list(rows.hashes())[::-1]


def test_rows_without_other_columns_are_texts_with_the_hashes_of_before():
    rows = Rows("a", ["x"], ["positive"])
    assert rows.inputs == ["x"] and fields_of("a", {}) == []
    assert list(rows.hashes()) == [row_hash("x", "positive")]
    records = [{"text": "x", "a": a, "b": b} for a, b in [("", ""), ("y", ""), ("", "y")]]
    assert len({row_hash(item, "positive") for item in ["x", *records]}) == 4


def test_rows_with_the_same_text_and_another_title_are_no_duplicates():
    texts, labels = ["Good film."] * 4, ["positive", "negative"] * 2
    fields = [{"title": title} for title in ("a", "A ", "b", "c")]
    rows = Rows("a", texts, labels, fields=fields)
    overview = look_over({"train": rows})
    assert overview.duplicates == {"train": 1} and overview.conflicts == 1
    train, evaluation = carve(rows, 2, 1, seed=0)
    assert len(evaluation) == 1
    titles = {row["title"].strip().lower() for row in train.fields}
    assert evaluation.fields[0]["title"].strip().lower() not in titles
    index = TwinIndex(near=True)
    index.add("train", rows.take([0, 2]).inputs)
    assert [twin.is_exact for twin in index.twins_of(rows.take([1, 3]).inputs)] == [True]


def test_a_value_that_is_no_text_is_refused_with_its_row():
    with pytest.raises(DataError, match=r"a, row 1 \(counted from 0\): title is \[1\], neither"):
        fields_of("a", {"title": ["x", [1]]})


def test_check_names_a_column_that_the_data_lack(tmp_path, toy_base):
    """An unknown `{titel}` was shown to the model as it stands."""
    path = tmp_path / "my.csv"
    path.write_text("text,title,label\nGood.,It,positive\nBad.,Me,negative\n")
    data = [f"data.train={path}", f"data.test={path}", f"base.name={toy_base}"]
    for verb in ("check", "train"):
        code, stdout, stderr = run(verb, *data, "prompt.template={titel}\n{text}\nA:\n",
                                   f"output_dir={tmp_path / 'out'}")  # fmt: skip
        message = "no such column; it has text, title, label; name one of these"
        assert code == 3 and "the prompt names {titel}" in stdout + stderr
        assert message in " ".join((stdout + stderr).split())
    assert not (tmp_path / "out").exists()
    labels = "the label words belong in prompt.instruction"
    failed(3, labels, "train", *data, "prompt.template={labels}\n{text}\nA:\n")
    failed(2, "which is the label column; leave it out", "train", *data,
           "prompt.template={label}\n{text}\nA:\n")  # fmt: skip
    failed(2, "which is the text column; write {text}", "train", *data, "--text-column", "title",
           "prompt.template={title}\n{text}\nA:\n")  # fmt: skip


# --- from file to answer


@pytest.fixture(scope="module")
def trained(toy_base, tmp_path_factory):
    """(folder, configuration) of a run whose prompt shows a title and a number of stars."""
    folder = tmp_path_factory.mktemp("columns")
    for split, num_rows, first in (("train", 60, 0), ("test", 24, 60)):
        frame = pd.DataFrame({
            "review": ["A film."] * num_rows,
            "title": ["Lovely" if i % 2 else "Dull" for i in range(num_rows)],
            "stars": [None if i == 3 else first + i for i in range(num_rows)],
            "label": ["positive" if i % 2 else "negative" for i in range(num_rows)],
        })  # fmt: skip
        frame["stars"] = frame["stars"].astype("Int64")
        frame.to_json(folder / f"{split}.jsonl", orient="records", lines=True)
    values = {
        "base.name": str(toy_base), "base.device": "cpu", "output_dir": str(folder / "run"),
        "data.train": str(folder / "train.jsonl"), "data.test": str(folder / "test.jsonl"),
        "data.text_column": "review", "data.num_train": 40, "data.num_evaluation": 20,
        "prompt.template": f"<s>{TEMPLATE}", "training.max_steps": 2, "training.eval_steps": 2,
        "training.save_steps": 2,
    }  # fmt: skip
    config = load_config("tiny", values=values)
    sentilora.train(config)
    return folder / "run", config


def test_an_adapter_of_several_columns_classifies_records(trained):
    folder, config = trained
    _, evaluation = load_rows_of(config)
    classifier = sentilora.Classifier.load(folder)
    probabilities = classifier.predict_proba(evaluation.inputs)
    assert np.array_equal(probabilities, np.load(folder / PROBABILITIES_FILE))
    records = [{"text": "A film.", "title": title, "stars": 3} for title in ("Lovely", "Dull")]
    one, other = classifier.predict_proba(records)
    assert not np.array_equal(one, other)  # the title counts
    [prediction] = sentilora.predict(records[:1], adapter=folder, explain=True)
    assert prediction.text == "A film." and len(prediction.explanation.words) == 2
    assert list(prediction.probabilities.values()) == pytest.approx(one)


def test_the_model_card_shows_a_record_that_the_adapter_takes(trained):
    folder, _ = trained
    card = (folder / "README.md").read_text(encoding="utf-8")
    record = json.loads(re.search(r"\.predict\(\[(.*)\]\)", card)[1])
    assert list(record) == ["text", "title", "stars"]
    assert sentilora.Classifier.load(folder).predict([record])[0] in LABELS


def test_texts_are_refused_by_an_adapter_of_several_columns(trained):
    folder, _ = trained
    failed(2, "also shows title, stars; name a file with the columns text, title, stars as "
           "--input, or pass such records from Python", "predict", "A film.", "--adapter",
           folder, "--base", "/none")  # fmt: skip
    with pytest.raises(DataError, match=r"texts\[0\] has no 'title'; it has text"):
        sentilora.predict([{"text": "A film."}], adapter=folder)
    failed(2, "a suite holds only texts; leave out --suite", "evaluate", "--adapter", folder,
           "--suite")  # fmt: skip


def test_evaluate_measures_with_every_column(trained, tmp_path):
    folder, _ = trained
    evaluation = sentilora.evaluate(folder, report=tmp_path / "report")
    assert evaluation.num_rows == 24 and evaluation.num_truncated == 0
    assert evaluation.baseline.accuracy == 1  # only the title tells
    assert evaluation.explained is not None
    figures = json.loads((tmp_path / "report/report.json").read_text(encoding="utf-8"))
    assert figures["evaluation"]["num_rows"] == 24
    assert evaluation.leakage.num_exact == 1  # by its title and no stars; all texts are equal


def test_check_shows_the_prompt_with_its_columns(trained):
    _, config = trained
    findings = {finding.name: finding.text for finding in sentilora.check(config)}
    assert "Title: " in findings["example"] and "{title}" not in findings["example"]
    assert findings["special tokens"] == "in the template: <s>"


def test_the_demo_has_only_texts():
    config = load_config("tiny", values={"prompt.template": TEMPLATE})
    with pytest.raises(UsageError, match="the demo's reviews are texts alone"):
        sentilora.demo(config)
