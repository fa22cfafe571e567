"""A teacher's probabilities of texts train a student: what is chosen, resumed, reported.

Asked for in txtai #1103 (a trainer that takes a teacher, with temperature and weight).
"""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from commands import failed, run
from preset_bases import write_small
from small_runs import student_settings as settings
from small_runs import texts_file, train_on

import sentilora
from sentilora.config import read_config
from sentilora.data.rows import Rows
from sentilora.errors import DataError, Interrupted, UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.run_folder import Choices
from sentilora.scoring.classifier import Classifier
from sentilora.stages import distill_mixture
from sentilora.stages.distill import PARTS_FOLDER, distill
from sentilora.stages.distill_rows import ScoredTexts, without_repeats
from sentilora.stages.distill_settings import in_tokens_of_base, student_of
from sentilora.training.distillation import UNKNOWN, Distillation, targets_of


def test_targets_are_the_teachers_at_a_temperature_mixed_with_true_labels():
    teacher = np.array([[0.9, 0.1], [0.2, 0.8], [1.0, 0.0]])
    truth = np.array([UNKNOWN, 0, UNKNOWN])
    np.testing.assert_allclose(targets_of(teacher, truth, 1.0, 0.0)[:2], teacher[:2], atol=1e-12)
    mixed = targets_of(teacher, truth, 1.0, 0.5)
    np.testing.assert_allclose(mixed[:2], [[0.9, 0.1], [0.6, 0.4]], atol=1e-12)
    soft = targets_of(teacher, truth, 2.0, 1.0)
    np.testing.assert_allclose(soft[0], [0.75, 0.25])  # 3 : 1, the roots of 9 : 1
    np.testing.assert_allclose(soft[1], [1.0, 0.0])
    np.testing.assert_allclose(soft.sum(1), 1.0)
    assert np.isfinite(soft).all()


@pytest.fixture(scope="module")
def distilled(toy_base, toy_run, tmp_path_factory):
    """A distillation of a teacher into its own base, with true labels for half of the texts."""
    folder = tmp_path_factory.mktemp("distill")
    config = settings(toy_base, folder / "student")
    texts = texts_file(folder, 240, labeled=130)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill_mixture, "MIN_TRIAL_STEPS", 2)
        result = distill(config, teacher=toy_run, texts=texts)
    return folder, result


def test_a_student_is_a_run_like_any_other_and_says_who_taught_it(distilled, toy_run, toy_base):
    folder, result = distilled
    student, teacher = AdapterFolder.open(folder / "student"), AdapterFolder.open(toy_run)
    assert student.classifier.prompt == teacher.classifier.prompt
    assert result.teacher_sha256 == teacher.weights_digest()
    card = (folder / "student" / "README.md").read_text()
    assert card.count("## Distilled") == 1 and teacher.weights_digest() in card
    config = read_config(folder / "student" / "sentilora.toml")
    assert config.data.soft_labels and config.training.max_steps == 4
    evaluation = sentilora.evaluate(folder / "student", device="cpu")
    assert evaluation.num_rows == result.num_test == 26  # a fifth of those with a true label
    assert evaluation.adapter.accuracy == result.student.accuracy
    assert Distillation.load(folder / "student") == result


def test_the_report_has_student_teacher_and_recipe_alone(distilled, toy_run):
    folder, result = distilled
    assert result.are_true and result.num_labeled == 130 - 26 - 13
    assert result.num_texts == 240 - 26 - 13
    lines = result.as_table().splitlines()
    assert [line.split("  ")[0] for line in lines[2:5]] == ["student", "teacher", "recipe alone"]
    assert "p =" not in lines[2]
    assert all(re.search(r"   p [=<] [\d.]+$", line) for line in lines[3:5])
    alone = AdapterFolder.open(folder / "student" / PARTS_FOLDER / "alone")
    assert not read_config(alone.run / "sentilora.toml").data.soft_labels
    assert result.alone is not None and result.alone.p is not None and result.student.p is None
    assert 0 <= result.agreement <= 1
    for row in (result.student, result.teacher):
        assert row.rows_per_second > 0 and row.weight_bytes > 100_000
    teacher = Classifier.load(toy_run, device="cpu")
    rows = read_config(folder / "student" / "sentilora.toml").data.test
    import pyarrow.parquet as pq

    test = pq.read_table(f"{rows}/test.parquet").to_pydict()
    right = np.array(teacher.predict(test["text"])) == np.array(test["label"])
    assert result.teacher.accuracy == right.mean()


def test_what_was_chosen_is_recorded_with_its_reason(distilled):
    folder, result = distilled
    choices = Choices.load(folder / "student").settings
    assert "13 evaluation rows are too few" in choices["distillation.temperature"]
    assert choices["distillation.weight"].startswith(f"{result.weight:g}: the student's log-loss")
    assert "prompt.labels" not in choices  # the teacher's


def test_what_a_distillation_decides_is_printed(toy_base, toy_run, tmp_path, capsys):
    """It took all texts, whatever data.num_train was, and the teacher's prompt without a word."""
    instruction = {"prompt.instruction": "Good or bad?"}
    config = settings(toy_base, tmp_path / "student", **instruction)
    distill(config, teacher=toy_run, texts=texts_file(tmp_path, 80))
    printed = capsys.readouterr().err
    assert "\nprompt and labels: the teacher's, but for prompt.instruction\n" in f"\n{printed}"
    sizes = "held out of all: too few have a true label"
    assert f"\n56 texts to train on, 8 to evaluate and 16 to test, {sizes}\n" in printed
    own, student = config.flat(), read_config(tmp_path / "student" / "sentilora.toml").flat()
    data = {name for name in own if name.startswith("data.") and own[name] != student[name]}
    _, lines = printed.split("decided by the distillation:\n  ")
    lines = lines.partition("\n2 of 4")[0].split("\n  ")
    assert {re.match(r"[\w.]+", line)[0] for line in lines} == data - {"data.test"}
    assert "data.num_train=0: the student trains on all texts that are not held out" in lines


def test_without_true_labels_the_teachers_answers_count(toy_base, toy_run, tmp_path, capsys):
    result = distill(
        settings(toy_base, tmp_path / "student"), teacher=toy_run, texts=texts_file(tmp_path, 80)
    )
    assert not result.are_true and result.alone is None and result.num_labeled == 0
    assert result.teacher.accuracy == 1.0 and result.agreement == result.student.accuracy
    assert (result.temperature, result.weight) == (1.0, 0.0)
    assert "rows whose label is unsup count as unlabeled" in capsys.readouterr().err
    assert "labeled by the teacher" in result.as_table()


def test_a_teachers_answers_to_itself_are_no_unseen_text(toy_base, tmp_path, capsys):
    """It warned that the teacher had seen the test rows, whose labels were its own answers."""
    rows = [{"text": f"text {i}", "label": ("positive", "negative")[i % 2]} for i in range(60)]
    (tmp_path / "teacher").mkdir()
    teacher = train_on(rows, toy_base, tmp_path / "teacher")
    (tmp_path / "texts.csv").write_text("text\n" + "\n".join(row["text"] for row in rows))
    config = settings(toy_base, tmp_path / "student", **{"training.max_steps": 1})
    distill(config, teacher=teacher, texts=tmp_path / "texts.csv")
    assert "about the teacher" not in capsys.readouterr().err


def test_a_student_ends_its_answers_as_its_base_can(toy_base, tmp_path, capsys):
    """A Gemma teacher's {label}<end_of_turn> was refused on any other base but Gemma."""
    write_small("gemma-3-1b", tmp_path / "gemma")
    rows = [{"text": f"A {w} film, part {i}.", "label": x} for i in range(30)
            for w, x in (("lovely", "positive"), ("dull", "negative"))]  # fmt: skip
    teacher = train_on(rows, tmp_path / "gemma", tmp_path, **{"prompt.template": "chat"})
    prompt = AdapterFolder.open(teacher).classifier.prompt
    assert prompt.answer == "{label}<end_of_turn>"
    texts = texts_file(tmp_path, 40)
    distill(settings(toy_base, tmp_path / "student"), teacher=teacher, texts=texts)
    assert "base has no <end_of_turn>, which ends the teacher's" in capsys.readouterr().err
    student = AdapterFolder.open(tmp_path / "student").classifier
    assert student.prompt == replace(prompt, answer="{label}")
    assert {ids[-1] for ids in student.label_ids} == {2}  # EOS
    # With a base that has it the answer stays, and with a template of the student's own it goes.
    own = {"own": {"prompt.template": "{text}\n"}, "gemma": {}}
    kept = {
        name: student_of(AdapterFolder.open(teacher), settings(tmp_path / "gemma", "x", **values))
        for name, values in own.items()
    }
    assert in_tokens_of_base(kept["gemma"], False).prompt.answer == "{label}<end_of_turn>"
    assert kept["own"].prompt.answer == "{label}"
    set_by_hand = {"prompt.answer": "{label}<end_of_turn>"}
    with pytest.raises(UsageError, match="not a special token of this base"):
        distill(settings(toy_base, tmp_path / "other", **set_by_hand), teacher=teacher, texts=texts)


def test_another_student_is_refused_where_one_is_trained_already(distilled, toy_run, tmp_path):
    """A student that had finished was measured and reported, although --base named another."""
    before, _ = distilled
    folder = tmp_path / "student"
    shutil.copytree(before / "student", folder)
    (folder / Distillation.FILE).unlink()  # as if it had stopped after the training
    ask = ["distill", "--teacher", toy_run, "--texts", before / "texts.jsonl", "--resume"]
    quick = ["training.max_steps=4", "training.eval_steps=2", "training.save_steps=2"]
    ask += ["base.device=cpu", *quick, "--output-dir", folder]
    line = failed(
        2, "and is 'embedded' now; resume with the same recipe, or", *ask, "--base", "embedded"
    )
    assert line.startswith("error: base.name was ") and line.endswith("choose a new --output-dir")
    assert not (folder / Distillation.FILE).exists()


def test_what_cannot_be_is_refused_before_the_teacher_is_loaded(toy_base, toy_run, tmp_path):
    texts = texts_file(tmp_path, 40)
    cases = {
        "teacher's labels are": {"prompt.labels": ["a", "b"]},
        "data.evaluation is set": {"data.evaluation": str(texts)},
        "does not search": {"training.learning_rate": "search"},
        "prompt.max_length is 12, but template": {"prompt.max_length": 12},
        "not a special token of this base": {"prompt.answer": "{label}<end_of_turn>"},
        "prompt.answer is 'x'": {"prompt.answer": "x"},
    }
    for message, values in cases.items():
        with pytest.raises(UsageError, match=message):
            distill(settings(toy_base, tmp_path / "s", **values), teacher=toy_run, texts=texts)
    for setting, value in {
        "data.train": str(texts), "data.num_train": 20, "data.num_train_subset": 20,
        "data.num_evaluation": 4, "data.num_test": 4, "data.soft_labels": False,
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=f"{setting} is set, and .*; leave it out") as error:
            distill(
                settings(toy_base, tmp_path / "s", **{setting: value}), teacher=toy_run, texts=texts
            )
        assert (error.value.setting, error.value.seen) == (setting, value)
    with pytest.raises(DataError, match=r"no file .*none.csv; name a file or a folder as `texts`"):
        distill(settings(toy_base, tmp_path / "s"), teacher=toy_run, texts=tmp_path / "none.csv")
    with pytest.raises(UsageError, match="holds no distillation"):
        distill(settings(toy_base, tmp_path / "s"), teacher=toy_run, texts=texts, resume=True)
    assert not (tmp_path / "s").exists()


def stop_after_the_teacher(monkeypatch):
    """Ends a distillation when the teacher has scored the texts."""

    def stop(*_):
        raise Interrupted("stopped")

    monkeypatch.setattr("sentilora.stages.distill.choose", stop)


def scored_by_teacher(folder):
    """The rows in a student's folder that the teacher has scored."""
    import pandas as pd

    return pd.concat(map(pd.read_parquet, sorted(folder.glob("distillation/teacher/*.parquet"))))


def test_of_a_folder_the_training_rows_are_taken(toy_base, toy_run, tmp_path, monkeypatch):
    """It was the test rows: a student of aclImdb/ trained on what it is measured with later."""
    for split, word in (("train", "lovely"), ("test", "dull")):
        rows = [{"text": f"A {word} film, scene {i}."} for i in range(20)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    stop_after_the_teacher(monkeypatch)
    with pytest.raises(Interrupted):
        distill(settings(toy_base, tmp_path / "student"), teacher=toy_run, texts=tmp_path)
    texts = scored_by_teacher(tmp_path / "student")["text"]
    assert len(texts) == 20 and texts.str.contains("lovely").all()


def test_texts_and_labels_are_found_as_elsewhere(toy_base, toy_run, tmp_path, monkeypatch, capsys):
    """A column of another name, and records with answers, were refused."""
    stop_after_the_teacher(monkeypatch)
    rows = [{"review": f"A dull film, scene {i}.", "label": "pos"} for i in range(20)]
    (tmp_path / "named.jsonl").write_text("\n".join(map(json.dumps, rows)))
    question = {"type": "choice", "instructions": "?", "criteria": {"pos": None, "neg": None}}
    records = [
        {"state": row["review"], "questions": {"q": question}, "expected": {"q": row["label"]}}
        for row in rows
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(map(json.dumps, records)))
    for name, column in (("named", "review"), ("records", "state")):
        config = settings(toy_base, tmp_path / f"by-{name}")
        with pytest.raises(Interrupted):
            distill(config, teacher=toy_run, texts=tmp_path / f"{name}.jsonl")
        messages = capsys.readouterr().err
        assert f"texts are taken from column {column}" in messages
        assert "20 texts of 20 have a true label" in messages


def test_a_column_of_labels_that_was_named_is_not_left_out(toy_base, toy_run, tmp_path):
    """The texts counted as unlabeled, without a word."""
    config = settings(toy_base, tmp_path / "s", **{"data.label_column": "stars"})
    with pytest.raises(DataError, match=r"has no column 'stars'; it has text, label"):
        distill(config, teacher=toy_run, texts=texts_file(tmp_path, 40))
    assert not (tmp_path / "s").exists()


def test_the_students_base_is_taken_by_its_presets_name(toy_run, tmp_path):
    """The guide says so of every `--base`; here it was looked up on the hub."""
    code, _, stderr = run("distill", "--teacher", toy_run, "--texts", texts_file(tmp_path, 40),
                          "--base", "smollm2-135m", "--output-dir", tmp_path / "s")  # fmt: skip
    assert code == 3 and "base: HuggingFaceTB/SmolLM2-135M-Instruct, of the preset" in stderr


def test_too_few_texts_do_not_block_the_folder(toy_base, toy_run, tmp_path, monkeypatch):
    """Neither the same command with more texts nor --resume could use it."""
    (tmp_path / "few.csv").write_text("text\nA dull film.\n")
    config = settings(toy_base, tmp_path / "s")
    with pytest.raises(DataError, match="give 10 texts or more"):
        distill(config, teacher=toy_run, texts=tmp_path / "few.csv")
    stop_after_the_teacher(monkeypatch)
    with pytest.raises(Interrupted):
        distill(config, teacher=toy_run, texts=texts_file(tmp_path, 40))


def test_faults_of_the_texts_are_worded_for_a_distillation(
    toy_base, toy_run, tmp_path, monkeypatch
):
    """They named --input, --output and data.evaluation, which a distillation does not take."""
    (tmp_path / "few.csv").write_text("text\nA dull film.\nA lovely film.\n")
    with pytest.raises(DataError, match=r"2 usable texts, too few .*; give 10 texts or more"):
        distill(settings(toy_base, tmp_path / "a"), teacher=toy_run, texts=tmp_path / "few.csv")
    (tmp_path / "scored.csv").write_text("text,prediction\nA dull film.,neg\n")
    message = "column 'prediction', which the teacher's answer would add; rename that column"
    with pytest.raises(DataError, match=message):
        distill(settings(toy_base, tmp_path / "b"), teacher=toy_run, texts=tmp_path / "scored.csv")
    texts = texts_file(tmp_path, 40)
    stop_after_the_teacher(monkeypatch)
    with pytest.raises(Interrupted):
        distill(settings(toy_base, tmp_path / "a"), teacher=toy_run, texts=texts)
    texts.write_text(texts.read_text().replace("lovely", "fine"))
    with pytest.raises(UsageError, match="choose another `output_dir`, or remove that folder"):
        distill(settings(toy_base, tmp_path / "a"), teacher=toy_run, texts=texts, resume=True)


def test_a_repeated_text_counts_once(capsys):
    """40 texts, three times each, were "120 texts" with a true label, and 24 rows to test."""
    words = [f"Film number {number} was fine." for number in range(40)]
    truth = np.array([number % 2 for number in range(40)] * 3)
    truth[0] = UNKNOWN  # of a text that has a label elsewhere
    truth[-1] = 0  # of a text that has the other label elsewhere
    rows = Rows("t.csv", words * 3, ["positive"] * 120)
    once = without_repeats(ScoredTexts(rows, np.tile([0.7, 0.3], (120, 1)), truth))
    assert sorted(once.rows.texts) == sorted([*words, words[-1]])
    assert list(once.rows.numbers) == list(range(41)) and once.num_labeled == 41
    assert "79 repeated texts left out" in capsys.readouterr().err
