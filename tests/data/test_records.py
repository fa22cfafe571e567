"""Records as trainers of decision models read them: read, refused by their rows, written."""

import json

import pytest

from sentilora.config import load_config
from sentilora.data.records import question_of
from sentilora.data.rows import Columns
from sentilora.data.sources import load_rows, read_labeled
from sentilora.errors import DataError, UsageError
from sentilora.stages.automatic import fit
from sentilora.stages.convert import convert
from sentilora.stages.from_config import load_test_of

LABELS = ("good", "bad")
QUESTION = {
    "type": "choice",
    "instructions": "Which tone?",
    "criteria": {"good": None, "bad": None},
}
SOFT = Columns(labels=LABELS, is_soft=True)
HARD = Columns(labels=LABELS)


def write(path, *answers, question=QUESTION, state=None):
    """A file with a record for each answer: what it has besides state and question."""
    lines = [
        json.dumps({"state": state or f"text {i}", "questions": {"q": question}, **answer})
        for i, answer in enumerate(answers)
    ]
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize("key", ["gold", "expected", "answers", "targets"])
def test_a_hard_answer_is_a_label_under_any_key(tmp_path, key):
    path = write(tmp_path / "x.jsonl", {key: {"q": "bad"}}, {key: {"q": "good"}})
    rows = load_rows(path, "train", HARD)
    assert rows.texts == ["text 0", "text 1"] and rows.labels == ["bad", "good"]
    assert rows.shares == []


@pytest.mark.parametrize("key", ["gold", "expected", "answers", "targets"])
@pytest.mark.parametrize(
    "answer",
    [
        {"good": 0.25, "bad": 0.75},
        {"probabilities": {"good": 0.25, "bad": 0.75}},
        [0.25, 0.75],
        {"good": "0.25", "bad": 0.75},
    ],
)
def test_a_soft_answer_is_shares_under_any_key(tmp_path, key, answer):
    path = write(tmp_path / "x.jsonl", {key: {"q": answer}}, {key: {"q": {"good": 1}}})
    rows = load_rows(path, "train", SOFT)
    assert rows.shares == [(0.25, 0.75), (1.0, 0.0)] and rows.labels == ["bad", "good"]


def test_hard_answers_test_an_adapter_of_soft_labels_as_they_are(tmp_path):
    """Records of one text became one row, where rows of a table with a column of labels stay."""
    answers = [{"gold": {"q": label}} for label in ("good", "bad", "bad")]
    values = {"data.test": write(tmp_path / "x.jsonl", *answers, state="fine")}
    config = load_config("tiny", values={**values, "data.soft_labels": True})
    assert load_test_of(config, LABELS).labels == ["good", "bad", "bad"]
    write(tmp_path / "x.jsonl", *[{"gold": {"q": {"good": 0.25, "bad": 0.75}}}] * 3)
    assert load_test_of(config, LABELS).shares == [(0.25, 0.75)] * 3


def test_a_hard_answer_counts_beside_a_soft_one_if_it_differs_somewhere(tmp_path):
    soft = {"targets": {"q": {"good": 0.25, "bad": 0.75}}}
    same = write(tmp_path / "x.jsonl", {**soft, "gold": {"q": "bad"}})
    assert read_labeled(same, "train").column_names == [
        "text", "probability_good", "probability_bad"]  # fmt: skip
    other = write(tmp_path / "y.jsonl", {**soft, "gold": {"q": "good"}},
                  {**soft, "gold": {"q": "bad"}})  # fmt: skip
    assert load_rows(other, "train", HARD).labels == ["good", "bad"]
    assert load_rows(other, "train", SOFT).labels == ["bad", "bad"]
    mixed = write(tmp_path / "z.jsonl", soft, {"expected": {"q": "good"}})
    assert load_rows(mixed, "train", SOFT).shares == [(0.25, 0.75), (1.0, 0.0)]


@pytest.mark.parametrize(
    ("faulty", "fault"),
    [
        ({"good": -0.2, "bad": 0.25}, "probability_good is -0.2"),
        ({"bad": 0.25}, "its probabilities add up to 0.25, not to 1"),
        ({"good": 25, "bad": 75}, "its probabilities add up to 100, not to 1"),
    ],
)
def test_a_faulty_soft_answer_does_not_make_all_answers_hard(tmp_path, faulty, fault):
    """One such record among 60 soft ones, and the label beside each of them was taken."""
    sound = {"targets": {"q": {"good": 0.9, "bad": 0.1}}, "expected": {"q": "good"}}
    wrong = {"targets": {"q": faulty}, "expected": {"q": "good"}}
    path = write(tmp_path / "x.jsonl", sound, wrong)
    assert "label" not in read_labeled(path, "train").column_names
    with pytest.raises(DataError, match=rf"row 1 \(counted from 0\): {fault}"):
        load_rows(path, "train", SOFT)


def test_the_question_is_instruction_and_labels(tmp_path):
    criteria = {"good": "the writer liked it", "bad": None}
    question = {"type": "choice", "instructions": " Which tone? ", "criteria": criteria}
    answers = [{"gold": {"q": LABELS[i % 2]}} for i in range(40)]
    path = write(tmp_path / "x.jsonl", *answers, question=question)
    config = fit(load_config("tiny", values={"data.train": path}), {}).config
    assert config.prompt.labels == LABELS  # in the criteria's order
    assert config.prompt.instruction == "Which tone?\n- good: the writer liked it"
    question = {**question, "criteria": ["bad", "good"], "instructions": None}
    table = read_labeled(write(tmp_path / "y.jsonl", *answers, question=question), "train")
    assert question_of(table).labels == ("bad", "good") and question_of(table).instructions == ""


def test_a_state_of_several_columns_is_those_columns(tmp_path):
    state = {"text": "It was.", "title": "A film"}
    path = write(tmp_path / "x.jsonl", {"gold": {"q": "bad"}}, state=state)
    rows = load_rows(path, "train", Columns(labels=LABELS, others=("title",)))
    assert rows.texts == ["It was."] and rows.fields == [{"title": "A film"}]


@pytest.mark.parametrize(
    ("answer", "question", "message"),
    [
        ({"gold": {"q": "ugly"}}, QUESTION, "gold is 'ugly', which is not one of the criteria"),
        ({"gold": {"q": {"ugly": 1}}}, QUESTION, "gold is 'ugly', which is not one of the"),
        ({"gold": {"q": [1.0]}}, QUESTION, "gold has 1 probabilities for 2 labels"),
        ({"gold": {"q": "bad"}, "expected": {"q": "good"}}, QUESTION, "has two answers"),
        ({}, QUESTION, "has no answer to question 'q'"),
        ({"gold": {"other": "bad"}}, QUESTION, "has no answer to question 'q'"),
        ({"gold": {"q": "bad"}}, {**QUESTION, "type": "noul"}, "is of type 'noul'"),
        ({"gold": {"q": "bad"}}, {**QUESTION, "criteria": ["bad"]}, "the criteria of question"),
        ({"gold": {"q": "bad"}}, {**QUESTION, "instructions": "?"}, "is not that of the first"),
    ],
)
def test_a_record_that_cannot_be_used_is_refused_by_its_row(tmp_path, answer, question, message):
    good = {"state": "x", "questions": {"q": QUESTION}, "gold": {"q": "good"}}
    bad = {"state": "y", "questions": {"q": question}, **answer}
    path = tmp_path / "x.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    with pytest.raises(DataError, match=rf"row 1 \(counted from 0\).*{message}"):
        load_rows(str(path), "train", SOFT)


def test_several_questions_of_a_record_are_refused(tmp_path):
    record = {"state": "x", "questions": {"q": QUESTION, "r": QUESTION}, "gold": {"q": "good"}}
    (tmp_path / "x.jsonl").write_text(json.dumps(record))
    with pytest.raises(DataError, match="2 questions, and exactly one is expected"):
        load_rows(str(tmp_path / "x.jsonl"), "train", SOFT)


def test_columns_that_are_no_records_stay_columns(tmp_path):
    """A census has states and numbers of questions."""
    path = tmp_path / "x.jsonl"
    row = {"state": "Ohio", "questions": 3, "text": "A.", "label": "good"}
    path.write_text(f"{json.dumps(row)}\n{json.dumps(row)}")
    assert read_labeled(str(path), "train").column_names == list(row)
    assert load_rows(str(path), "train", HARD).labels == ["good", "good"]


# --- written -------------------------------------------------------------------------------------


def content(config):
    """What of a source trains: instruction, labels, rows."""
    fitted = fit(config, {})
    prompt, rows = fitted.config.prompt, fitted.rows
    words = " or ".join(prompt.labels)
    return (prompt.instruction.replace("{labels}", words), prompt.labels, rows.texts, rows.labels,
            rows.shares)  # fmt: skip


@pytest.mark.parametrize("soft_key", ["targets", "gold"])
@pytest.mark.parametrize("kind", ["hard", "soft", "annotators"])
def test_what_was_written_is_read_back_equal(tmp_path, kind, soft_key):
    lines = ["text,label"] + [f'"line {i},\nnext é 漢",{LABELS[i % 2]}' for i in range(40)]
    if kind == "soft":
        lines = ["text,probability_good,probability_bad"]
        lines += [f"text {i},{i / 41!r},{1 - i / 41!r}" for i in range(40)]
    elif kind == "annotators":
        lines += [f'"line {i},\nnext é 漢",{LABELS[i % 3 == 0]}' for i in range(40)] * 2
    (tmp_path / "x.csv").write_text("\n".join(lines), encoding="utf-8")
    values = {"data.train": str(tmp_path / "x.csv")}
    if kind == "annotators":
        values["data.soft_labels"] = True
    config = load_config("tiny", values=values)
    assert convert(config, tmp_path / "y.jsonl", soft_key=soft_key) == 40
    again = load_config("tiny", values={"data.train": str(tmp_path / "y.jsonl")})
    assert content(again) == content(config)
    assert bool(content(again)[-1]) == (kind != "hard")
    assert convert(again, tmp_path / "z.jsonl", soft_key=soft_key) == 40
    assert (tmp_path / "z.jsonl").read_bytes() == (tmp_path / "y.jsonl").read_bytes()


def test_the_keys_are_those_that_other_trainers_read(tmp_path):
    """sysone 0.5.2 refuses a record with both `expected` and `gold`, and takes soft labels in
    `gold`; decisionformer 0.2.0 takes them in `targets`, and a dict in `gold` is an error there."""
    path = write(tmp_path / "x.jsonl", *[{"gold": {"q": [0.25, 0.75]}}] * 40)
    config = load_config("tiny", values={"data.train": path})
    for key, keys in {"gold": {"gold"}, "targets": {"targets", "expected"}}.items():
        convert(config, tmp_path / f"{key}.jsonl", soft_key=key)
        record = json.loads((tmp_path / f"{key}.jsonl").read_text().splitlines()[0])
        assert record.keys() == {"state", "questions", *keys}
        assert record["questions"] == {"q": QUESTION}
        assert record[key] == {"q": {"good": 0.25, "bad": 0.75}}


def test_a_file_is_neither_overwritten_nor_of_another_format(tmp_path):
    path = write(tmp_path / "x.jsonl", *[{"gold": {"q": "bad"}}] * 4)
    config = load_config("tiny", values={"data.train": path})
    with pytest.raises(UsageError, match="exists"):
        convert(config, path)
    with pytest.raises(UsageError, match="not named as a file of JSON"):
        convert(config, tmp_path / "y.csv")
