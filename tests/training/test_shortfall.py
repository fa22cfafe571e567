"""shortfall.py: a run that has not learned says so, and what to try.

A run with every answer "other" ended with "next: sentilora evaluate".
"""

import json

import numpy as np
import pytest
from commands import run

from sentilora.folders.run_folder import TrainingResult
from sentilora.metrics import measure
from sentilora.shipped import reviews_path
from sentilora.training.shortfall import remedies_for, shortfall_of


def metrics(truth, answers, num_labels=3):
    return measure(np.eye(num_labels)[answers] * 0.97 + 0.01, truth)


def reason(truth, answers):
    return shortfall_of(metrics(truth, answers), ("no", "yes", "maybe"))


def test_one_answer_for_all_is_no_learning():
    truth = [0, 1, 2, 1] * 10
    assert reason(truth, [1] * 40) == "it answers 'yes' to all 40 evaluation rows"
    assert reason([1] * 3, [1] * 3) == "it answers 'yes' to all 3 evaluation rows"
    assert reason([1], [1]) == "a single evaluation row cannot show that it has"


def test_nothing_clearly_above_the_majority_is_no_learning():
    truth = [1] * 30 + [0] * 10
    answers = [1] * 29 + [0] * 5 + [1] * 6
    clause = reason(truth, answers)
    assert clause.startswith("its accuracy on 40 evaluation rows, 82.5% (95 % interval 68.1% to")
    assert clause.endswith("is not clearly above the 75.0% of always answering 'yes'")
    below = reason(truth, [0] * 39 + [1])
    assert "is not clearly above the 75.0%" in below


def test_what_has_learned_has_no_shortfall():
    truth = [0, 1, 2, 1] * 10
    assert reason(truth, truth) is None
    assert reason(truth, truth[:30] + [0] * 10) is None
    assert reason([0, 1], [0, 1]) is not None  # two rows show nothing


def test_the_remedies_have_an_order():
    def heads(num_rows=100, **values):
        facts = {
            "are_ids": False,
            "is_embedded": False,
            "is_searched": False,
            "num_epochs": 3.0,
            "max_steps": 0,
            "is_past_best": False,
        }
        remedies = remedies_for(metrics([0, 1] * (num_rows // 2), [0] * num_rows), **facts | values)
        return [remedy.split(",")[0].split(":")[0] for remedy in remedies]

    rest = ["`sentilora check`"]
    search, steps = "training.learning_rate=search", "more steps"
    assert heads() == [search, steps, *rest]
    assert heads(is_searched=True) == [steps, *rest]
    assert heads(is_embedded=True) == ["a real language model", search, steps, *rest]
    assert heads(20) == [search, steps, *rest, "more rows"]
    assert heads(are_ids=True, is_embedded=True) == ["the right column of texts"]
    one = {"are_ids": False, "is_embedded": False, "is_searched": True, "is_past_best": False}
    longer = remedies_for(metrics([0], [0]), **one, num_epochs=2.5, max_steps=0)
    assert longer[0] == "more labeled rows: 1 evaluation row shows next to nothing"
    assert longer[1] == "more steps: training.num_train_epochs=5"
    # "more steps" was advised where the log-loss had risen, and more rows came last.
    assert heads(14) == ["more labeled rows", search, steps, *rest]
    assert heads(is_past_best=True) == [search, *rest]
    assert not any("large effects" in remedy for remedy in longer)
    # Twice the epochs change nothing where the steps are set.
    longer = remedies_for(metrics([0], [0]), **one, num_epochs=2.5, max_steps=40)
    assert longer[1] == "more steps: training.max_steps=80"


def test_results_of_an_older_version_still_load(toy_run, tmp_path):
    content = json.loads((toy_run / TrainingResult.FILE).read_text())
    for name in ("chosen", "learning_rates", "shortfall", "remedies"):
        del content[name]
    (tmp_path / TrainingResult.FILE).write_text(json.dumps(content))
    result = TrainingResult.load(tmp_path)
    assert (result.chosen, result.learning_rates) == ({}, {})
    assert result.shortfall is None and result.remedies == []


@pytest.mark.parametrize("series", [["--seeds", "2"], ["--sizes", "12,24"]])
def test_a_series_names_the_runs_that_have_not_learned(toy_base, tmp_path, series):
    """It ended with "next: sentilora evaluate"."""
    lines = reviews_path("train").read_text(encoding="utf-8").splitlines()[:48]
    (tmp_path / "imdb.jsonl").write_text("\n".join(lines), encoding="utf-8")
    code, stdout, stderr = run(
        "train", tmp_path / "imdb.jsonl", f"base.name={toy_base}", "data.num_train=32",
        "data.num_evaluation=16", "training.max_steps=1", "--output-dir", tmp_path / "x", *series,
    )  # fmt: skip
    assert code == 0, stderr
    names = "seed-42, seed-43" if series[0] == "--seeds" else "size-12, size-24"
    assert "next:" not in stdout
    place, steps = stdout.split("warning: ")
    assert place.rstrip().endswith(".json" if series[0] == "--seeds" else ".png")
    assert steps.startswith(
        f"2 of 2 runs have not learned the task ({names}); {names.split(',')[0]}: it"
    )
    assert steps.splitlines()[1:3] == [
        "try, in this order:",
        "  1. training.learning_rate=search, which tries three rates",
    ]


def test_a_series_that_has_learned_goes_on_with_evaluate(toy_base, tmp_path, monkeypatch):
    monkeypatch.setattr("sentilora.stages.finish.shortfall_of", lambda *args: None)
    lines = reviews_path("train").read_text(encoding="utf-8").splitlines()[:48]
    (tmp_path / "imdb.jsonl").write_text("\n".join(lines), encoding="utf-8")
    code, stdout, stderr = run(
        "train", tmp_path / "imdb.jsonl", f"base.name={toy_base}", "data.num_train=32",
        "data.num_evaluation=16", "training.max_steps=1", "--output-dir", tmp_path / "x",
        "--sizes", "12,24",
    )  # fmt: skip
    assert code == 0, stderr
    assert stdout.rstrip().endswith(f"next: sentilora evaluate --adapter {tmp_path}/x/size-24")
