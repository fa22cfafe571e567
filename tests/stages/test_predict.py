"""`sentilora.predict` from Python: texts or a file in, predictions and a file out."""

import json

import pandas as pd
import pytest

import sentilora
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
    faults = [None, "empty", "missing", "5, not a text", "empty", None]
    assert [prediction.fault for prediction in predictions] == faults
    answered = sentilora.predict(TEXTS, adapter=toy_run)
    assert [predictions[0], predictions[5]] == answered
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["text"] for row in rows] == texts and [row["fault"] for row in rows] == faults
    assert rows[1]["prediction"] is rows[1]["probability_positive"] is rows[1]["truncated"] is None
    said = capsys.readouterr().err
    assert "4 rows without an answer, the first of them row 1 (counted from 0): its text is" in said
    assert "6 rows written to" in said
    (tmp_path / "none.csv").write_text('text\n""\n" "\n')
    with pytest.raises(DataError, match=r"row 0 .*text is missing \(and 1 more unusable row\)"):
        sentilora.predict(input=tmp_path / "none.csv", adapter=toy_run)


def test_a_value_that_the_output_cannot_hold_is_seen_before_a_model_is_loaded(tmp_path):
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "a", "id": 10**30}))
    output = tmp_path / "out.parquet"
    with pytest.raises(DataError, match=r"cannot hold the column 'id'.*64 bits"):
        sentilora.predict(input=tmp_path / "in.jsonl", output=output, adapter="no adapter")
    assert not output.exists()


def test_a_file_without_rows_gives_one_without_rows(toy_run, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("id,text\n")
    output = tmp_path / "out.csv"
    assert sentilora.predict(input=tmp_path / "in.csv", output=output, adapter=toy_run) == []
    columns = "id,text,prediction,probability_positive,probability_negative,truncated\n"
    assert output.read_text() == columns
    assert "in.csv has no rows" in capsys.readouterr().err
