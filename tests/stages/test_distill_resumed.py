"""A distillation that stops, at any of its parts, and is resumed: nothing is done twice."""

import pytest
from small_runs import interrupt_in_step, student_settings, texts_file

from sentilora.bulk import scoring, units
from sentilora.errors import Interrupted, UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.scoring.classifier import Classifier
from sentilora.stages.distill import PARTS_FOLDER, distill


def test_a_stopped_distillation_resumes_where_it_was(toy_base, toy_run, tmp_path, monkeypatch):
    """While the student trains: the teacher's units stay, and the weights are the same."""
    texts = texts_file(tmp_path, 80)
    config = student_settings(toy_base, tmp_path / "student")
    interrupt_in_step(monkeypatch, 3)
    with pytest.raises(Interrupted):
        distill(config, teacher=toy_run, texts=texts)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="not finished; go on with `resume`"):
        distill(config, teacher=toy_run, texts=texts)
    parts = {p: p.stat().st_mtime_ns for p in (tmp_path / "student").rglob("part-*.parquet")}
    assert len(parts) == 1
    distill(config, teacher=toy_run, texts=texts, resume=True)
    assert parts == {p: p.stat().st_mtime_ns for p in parts}
    at_once = student_settings(toy_base, tmp_path / "at-once")
    distill(at_once, teacher=toy_run, texts=texts)
    digests = [AdapterFolder.open(tmp_path / x).weights_digest() for x in ("student", "at-once")]
    assert digests[0] == digests[1]
    with pytest.raises(UsageError, match="holds a finished distillation"):
        distill(config, teacher=toy_run, texts=texts, resume=True)


def interrupt_in_unit(monkeypatch, number):
    """Units of 32 rows; Ctrl-C when this one, counted from 1, is scored. Returns the calls."""
    whole, calls = scoring.classify_rows, []

    def classify_rows(*args):
        calls.append(args)
        if len(calls) == number:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setitem(units.ROWS_PER_UNIT, "cpu", 32)
    monkeypatch.setattr(scoring, "classify_rows", classify_rows)
    return calls


def test_a_distillation_that_stops_while_the_teacher_scores_resumes_there(
    toy_base, toy_run, tmp_path, monkeypatch
):
    """It said that the same command goes on; that is refused, and `resume` does."""
    ask = {"teacher": toy_run, "texts": texts_file(tmp_path, 80)}
    config, at_once = (
        student_settings(toy_base, tmp_path / name) for name in ("student", "at-once")
    )
    calls = interrupt_in_unit(monkeypatch, 2)
    message = "1 of 3 units done; continue with `resume` and the same `output_dir`"
    with pytest.raises(Interrupted, match=message):
        distill(config, **ask)
    scored = tmp_path / "student" / PARTS_FOLDER / "teacher"
    (first,) = scored.glob("part-*")
    written = first.stat().st_mtime_ns
    distill(config, **ask, resume=True)
    assert len(calls) == 2 + 2 and first.stat().st_mtime_ns == written
    distill(at_once, **ask)
    whole = tmp_path / "at-once" / PARTS_FOLDER / "teacher"
    parts = [{p.name: p.read_bytes() for p in x.glob("part-*")} for x in (scored, whole)]
    assert len(parts[0]) == 3 and parts[0] == parts[1]
    digests = [AdapterFolder.open(tmp_path / x).weights_digest() for x in ("student", "at-once")]
    assert digests[0] == digests[1]


def test_nothing_stays_of_a_distillation_that_stopped_before_the_teacher_was_loaded(
    toy_base, toy_run, tmp_path, monkeypatch
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "load", interrupt)
    with pytest.raises(Interrupted, match="0 of 1 unit done; the same command goes on from there"):
        distill(
            student_settings(toy_base, tmp_path / "student"),
            teacher=toy_run,
            texts=texts_file(tmp_path, 40),
        )
    assert not (tmp_path / "student").exists()
