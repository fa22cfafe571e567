"""`sentilora.predict` from Python: texts or a file in, predictions and a file out."""

import json
import shutil

import datasets
import pandas as pd
import pyarrow as pa
import pytest

import sentilora
from sentilora.data.output import encode_table, write_encoded
from sentilora.errors import DataError, UsageError

TEXTS = ["A lovely film.", "Dull and far too long."]


def test_texts_are_answered_in_order(toy_run):
    predictions = sentilora.predict(TEXTS, adapter=toy_run)
    assert [prediction.text for prediction in predictions] == TEXTS
    classifier = sentilora.Classifier.load(toy_run)
    assert predictions == classifier.classify(TEXTS)
    assert all(prediction.explanation is None for prediction in predictions)


def test_a_file_is_classified_and_written(toy_run, tmp_path):
    source, output = tmp_path / "in.csv", tmp_path / "out.parquet"
    pd.DataFrame({"id": ["007", "8"], "review": TEXTS}).to_csv(source, index=False)
    predictions = sentilora.predict(
        input=source, output=output, text_column="review", adapter=toy_run, batch_size=1
    )
    table = pd.read_parquet(output)
    assert list(table) == ["id", "review", "prediction", "probability_positive",
                           "probability_negative", "truncated"]  # fmt: skip
    assert table["id"].tolist() == ["007", "8"]
    assert table["prediction"].tolist() == [prediction.label for prediction in predictions]


def test_explanations_come_with_the_predictions(toy_run):
    (prediction,) = sentilora.predict(TEXTS[:1], adapter=toy_run, explain=True)
    words = prediction.explanation.words
    assert [prediction.text[word.start : word.end] for word in words] == TEXTS[0].split()


def test_what_does_not_go_together_names_the_keyword(tmp_path):
    refused = [
        ({}, "input"),
        ({"texts": TEXTS, "input": "x.csv"}, "input"),
        ({"texts": TEXTS, "output": "y.csv"}, "output"),
        ({"texts": TEXTS, "text_column": "text"}, "text_column"),
        ({"input": "x.csv", "output": "y.csv", "explain": True}, "explain"),
    ]
    for keywords, setting in refused:
        with pytest.raises(UsageError) as error:
            sentilora.predict(**keywords)
        assert error.value.setting == setting, keywords
    with pytest.raises(DataError, match="there is no file") as error:
        sentilora.predict(input=tmp_path / "none.csv")
    assert error.value.setting == "input" and error.value.seen == str(tmp_path / "none.csv")
    with pytest.raises(TypeError, match="bach_size"):
        sentilora.predict(TEXTS, bach_size=3)


def test_one_string_is_not_taken_for_its_letters(toy_run):
    for texts in ("Great", {"a": 1}, 3):
        with pytest.raises(UsageError, match="a list of texts is expected"):
            sentilora.predict(texts, adapter=toy_run)


def test_a_column_of_a_table_is_a_list_of_texts(toy_run):
    column = pd.Series(TEXTS)
    assert sentilora.predict(column, adapter=toy_run) == sentilora.predict(TEXTS, adapter=toy_run)
    assert sentilora.predict([], adapter=toy_run) == []


def test_a_row_without_a_text_has_no_answer_and_a_reason(toy_run, tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    texts = [TEXTS[0], "", None, 5, " <br /> ", TEXTS[1]]
    source.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    output = tmp_path / "out.jsonl"
    predictions = sentilora.predict(input=source, output=output, adapter=toy_run)
    reasons = ["empty", "missing", "5, not a text", "empty"]
    faults = [None, *(f"text is {reason}" for reason in reasons), None]
    assert [prediction.reason for prediction in predictions] == faults
    answered = sentilora.predict(TEXTS, adapter=toy_run)
    assert [predictions[0], predictions[5]] == answered
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["text"] for row in rows] == texts and [row["reason"] for row in rows] == faults
    assert rows[1]["prediction"] is rows[1]["probability_positive"] is rows[1]["truncated"] is None
    said = capsys.readouterr().err
    assert (
        "4 rows without an answer, the first of them row 1 (counted from 0): text is empty" in said
    )
    assert "6 rows written to" in said
    (tmp_path / "none.csv").write_text('text\n""\n" "\n')
    with pytest.raises(DataError, match=r"row 0 .*text is missing \(and 1 more unusable row: 1\)"):
        sentilora.predict(input=tmp_path / "none.csv", adapter=toy_run)


def test_a_value_that_the_output_cannot_hold_is_seen_before_a_model_is_loaded(
    toy_run, tmp_path, monkeypatch
):
    monkeypatch.delattr("sentilora.models.bases.load_base")
    monkeypatch.delattr("sentilora.scoring.classifier.load_base")
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "a", "id": 10**30}))
    output = tmp_path / "out.parquet"
    with pytest.raises(DataError, match=r"cannot hold the column 'id'.*64 bits"):
        sentilora.predict(input=tmp_path / "in.jsonl", output=output, adapter=toy_run)
    assert not output.exists()


def test_a_file_without_rows_gives_one_without_rows(toy_run, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("id,text\n")
    output = tmp_path / "out.csv"
    assert sentilora.predict(input=tmp_path / "in.csv", output=output, adapter=toy_run) == []
    columns = "id,text,prediction,probability_positive,probability_negative,truncated\n"
    assert output.read_text() == columns
    assert "in.csv has no rows" in capsys.readouterr().err


@pytest.fixture(scope="module")
def titled(toy_run, tmp_path_factory):
    """An adapter whose prompt shows a title besides the text."""
    folder = tmp_path_factory.mktemp("titled") / "adapter"
    shutil.copytree(toy_run, folder)
    record = json.loads((folder / "classifier.json").read_text())
    record["prompt"]["template"] = "### Title:\n{title}\n\n" + record["prompt"]["template"]
    (folder / "classifier.json").write_text(json.dumps(record))
    (folder / "probes.json").unlink()  # of the prompt without it
    return folder


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_of_several_columns_is_read_as_records(titled, tmp_path, suffix):
    records = [{"title": "Rain", "text": TEXTS[0]}, {"title": "", "text": TEXTS[1]}]
    source, output = tmp_path / f"in.{suffix}", tmp_path / "out.jsonl"
    frame = pd.DataFrame({"id": [1, 2], "title": ["Rain", None], "body": TEXTS})
    write_encoded(encode_table(pa.Table.from_pandas(frame), source), source)
    predictions = sentilora.predict(records, adapter=titled)
    for keywords in ({}, {"output": output}):
        assert predictions == sentilora.predict(
            input=source, text_column="body", adapter=titled, **keywords
        )
    assert json.loads(output.read_text().splitlines()[0])["title"] == "Rain"
    frame[["title"]].to_json(tmp_path / "t.jsonl", orient="records", lines=True)
    with pytest.raises(DataError, match="no column 'body'; it has title"):
        sentilora.predict(input=tmp_path / "t.jsonl", text_column="body", adapter=titled)
    frame[["body"]].to_json(tmp_path / "b.jsonl", orient="records", lines=True)
    with pytest.raises(DataError, match=r"the prompt names \{title\}, and .* it has body"):
        sentilora.predict(input=tmp_path / "b.jsonl", text_column="body", adapter=titled)


@pytest.mark.parametrize(
    "table_of", [pd.DataFrame, datasets.Dataset.from_dict, pa.table], ids=["pandas", "hf", "arrow"]
)
def test_a_table_of_several_columns_is_read_as_records(titled, table_of):
    """A table was refused for its column of texts, and that for the table."""
    columns = {"id": [7, 8], "title": ["Rain", None], "text": TEXTS}
    records = [{"title": "Rain", "text": TEXTS[0]}, {"title": "", "text": TEXTS[1]}]
    predictions = sentilora.predict(records, adapter=titled)
    assert sentilora.predict(table_of(columns), adapter=titled) == predictions
    classifier = sentilora.Classifier.load(titled)
    assert classifier.classify(table_of(columns)) == predictions
    assert classifier.predict(table_of(columns)) == [p.label for p in predictions]
    assert (classifier.predict_proba(table_of(columns)) == classifier.predict_proba(records)).all()
    renamed = {"review": columns["text"], "title": columns["title"]}
    with pytest.raises(DataError, match="no column 'text'; it has review, title; the prompt shows"):
        classifier.predict(table_of(renamed))
    with pytest.raises(DataError, match=r"texts\[1\]: text is empty; "):
        sentilora.predict(table_of({**columns, "text": ["Good.", " "]}), adapter=titled)
    with pytest.raises(UsageError, match="pass records with text, title, or a table with these"):
        classifier.predict(TEXTS)


def test_other_columns_of_a_data_frame_may_hold_anything(titled):
    frame = pd.DataFrame({"text": TEXTS, "title": ["a", "b"], "mixed": [1, "x"]})
    assert len(sentilora.predict(frame, adapter=titled)) == 2
    frame.columns = ["text", "title", "title"]
    with pytest.raises(DataError, match="has two columns 'title'"):
        sentilora.predict(frame, adapter=titled)


def test_a_table_is_no_input_file(toy_run):
    with pytest.raises(UsageError, match="`input` is a DataFrame, not the name of a file; pass"):
        sentilora.predict(input=pd.DataFrame({"text": TEXTS}), adapter=toy_run)


def test_a_lacking_column_is_not_blamed_on_the_template_of_an_adapter(titled, tmp_path):
    """The remedy was to change the template, which belongs to the adapter."""
    source = tmp_path / "in.csv"
    pd.DataFrame({"text": TEXTS, "label": ["positive", "negative"]}).to_csv(source, index=False)
    said = r"names \{title\}, .* it has text, label; add this column to the rows: the prompt bel"
    with pytest.raises(DataError, match=said):
        sentilora.predict(input=source, adapter=titled)
    for folder in (titled, shutil.copytree(titled, tmp_path / "moved")):
        with pytest.raises(DataError, match=said):
            sentilora.evaluate(folder, overrides={"data.test": str(source)})


def test_a_text_for_several_columns_is_refused_before_the_base_is_loaded(titled):
    with pytest.raises(
        UsageError, match=r"text 2 is .*title; name a file with the columns text, t"
    ):
        sentilora.predict([{"text": "a", "title": "b"}, "Good."], adapter=titled, base="/none")


def test_one_row_without_an_answer_is_not_the_first_of_several(toy_run, tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("Good.", "")))
    sentilora.predict(input=source, adapter=toy_run)
    said = "1 row without an answer, row 1 (counted from 0): text is empty"
    assert said in capsys.readouterr().err


def test_a_row_whose_other_column_is_no_text_has_no_answer(titled, tmp_path):
    rows = [{"title": ["a", "list"], "text": TEXTS[0]}, {"title": 7, "text": TEXTS[1]}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, second = sentilora.predict(input=tmp_path / "in.jsonl", adapter=titled)
    assert first.reason == "title is ['a', 'list'], neither a text nor a number"
    assert second.label in ("positive", "negative") and second.reason is None
