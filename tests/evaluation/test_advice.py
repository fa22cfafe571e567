"""What to do next follows from the figures."""

from dataclasses import replace

import numpy as np
import pytest

from sentilora.evaluation.advice import next_steps
from sentilora.evaluation.calibration import Temperature, Threshold
from sentilora.evaluation.findings import Abstention, Evaluation, TemperatureScaling, verdict
from sentilora.evaluation.label_figures import majority_of, per_label
from sentilora.evaluation.label_issues import LabelIssue, LabelIssues
from sentilora.evaluation.leakage import Leakage, Twin
from sentilora.metrics import compare, measure_fully

LABELS = ("good", "bad", "odd")


def answers(truth, num_wrong, wrong=None):
    """Answers with the first `num_wrong` rows wrong: all `wrong`, or the next label."""
    given = truth.copy()
    given[:num_wrong] = (truth[:num_wrong] + 1) % len(LABELS) if wrong is None else wrong
    return given


def evaluation(adapter, base=200, tfidf=60, truth=None, **more):
    """An evaluation of 300 rows. adapter: wrong rows, or answers; base, tfidf: wrong rows."""
    truth = np.arange(300) % len(LABELS) if truth is None else truth
    models = [adapter if isinstance(adapter, np.ndarray) else answers(truth, adapter)]
    models += [answers(truth, num_wrong) for num_wrong in (base, tfidf) if num_wrong is not None]
    metrics = [measure_fully(np.eye(3)[given] * 0.7 + 0.1, truth) for given in models]
    right = [given == truth for given in models]
    names = [name for name, n in (("base", base), ("baseline", tfidf)) if n is not None]
    pairs = zip(names, right[1:], strict=True)
    result = Evaluation(
        test="rows.csv", num_rows=len(truth), num_truncated=0, labels=LABELS,
        adapter_path="run", base_name="embedded", adapter=metrics[0], base=metrics[1],
        baseline=metrics[2] if tfidf is not None else None,
        comparisons={name: compare(right[0], other) for name, other in pairs},
        majority=majority_of(LABELS, truth, None),
        per_label=per_label(LABELS, metrics[0].confusion),
    )  # fmt: skip
    return replace(result, **more)


def test_a_good_model_is_to_be_used():
    assert next_steps(evaluation(10)) == [
        "Classify new texts with `sentilora predict`, and have a person read the texts whose "
        "probability is low."
    ]


def test_temperature_and_threshold_are_explained_where_there_are_any():
    result = evaluation(10)
    scaling = TemperatureScaling(Temperature(1.5, 0.9, 0.8), 400, result.adapter)
    assert "divided by the temperature" in next_steps(replace(result, calibrated=scaling))[-1]
    reached = Abstention(Threshold(0.9, 0.98, 0.981, 300, 400), 240, 0.99)
    use = next_steps(replace(result, calibrated=scaling, abstention=reached))[-1]
    assert "answers `abstain` below a probability of 0.9000, as for 20.0% of these" in use
    missed = Abstention(Threshold(0.9, 0.98, 0.95, 300, 400), 240, 0.99)
    steps = next_steps(replace(result, abstention=missed))
    assert (
        "`target_accuracy`" in steps[0] and "reach 98.0%" in steps[0] and "abstain" not in steps[1]
    )


@pytest.mark.parametrize(
    ("base_name", "remedy"),
    [("embedded", "Take a real base, with the preset smollm2-135m"), ("x/y", "Take a larger base")],
)
def test_a_model_that_word_counts_beat_needs_a_better_base(base_name, remedy):
    steps = next_steps(evaluation(100, tfidf=20, base_name=base_name))
    assert steps[0].startswith(remedy) and "TF-IDF is the better classifier" in steps[0]
    assert not any("predict" in step for step in steps)
    equal = next_steps(evaluation(60, tfidf=60, base_name=base_name))
    assert equal[0].startswith(
        "Evaluate on more test rows: 300 cannot tell the adapter from TF-IDF"
    )
    assert remedy[1:] in equal[0] and "predict" in equal[-1]


def test_word_counts_that_are_right_on_nearly_all_rows_suffice():
    """More test rows and a real base "to get ahead of" 100 % were advised."""
    for wrong in (0, 3, 30):
        steps = next_steps(evaluation(wrong, tfidf=min(wrong, 2)))
        assert steps[0].startswith("Consider TF-IDF + logistic regression instead: it is right on ")
        assert "already suffices" in steps[0] and not any("real base" in step for step in steps)
    assert "suffices" not in next_steps(evaluation(60, tfidf=60))[0]


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        (12, "But no difference from its base without the adapter can be shown (96.0%, exact "),
        (2, "But its base is more accurate without the adapter (99.3%, exact "),
        (40, None),
    ],
)
def test_a_base_that_is_as_good_alone_is_said_beside_the_verdict(base, sentence):
    """The demo's report said "It was worth it", with 83.0 % against the base's own 82.0 %."""
    result = evaluation(10 if base != 2 else 20, base=base, tfidf=60)
    said = verdict(result.labels, result.base, result.comparisons, None)
    advice = "Label more rows: the adapter is not clearly better than its base alone."
    assert said.startswith("It was worth it: ")
    assert (sentence is None or sentence in said) and ("But " in said) == (sentence is not None)
    assert (advice in next_steps(result)) == (sentence is not None)


def test_a_model_with_one_answer_is_trained_again():
    """Issue: after a run that learned nothing, "next: sentilora evaluate" as after a success."""
    steps = next_steps(evaluation(np.zeros(300, int)))
    assert steps[0].startswith("Train again with training.learning_rate=search")
    assert not any("predict" in step or "weakest" in step for step in steps)


def test_a_model_no_better_than_the_majority_is_trained_again():
    truth = np.array([0] * 240 + [1] * 30 + [2] * 30)
    steps = next_steps(evaluation(50, truth=truth))
    assert "not clearly above that of always answering good (80.0%): with training." in steps[0]
    assert not any("predict" in step for step in steps)


def test_without_the_training_rows_the_base_is_what_to_beat():
    steps = next_steps(evaluation(100, base=100, tfidf=None))
    assert steps[0] == "Label more rows: the adapter is not clearly better than its base alone."
    assert len(next_steps(evaluation(10, tfidf=None))) == 1


def test_duplicates_and_label_issues_are_to_be_looked_at():
    result = evaluation(10)
    twins = [Twin(i, "train", i, 1.0, True) for i in range(7)]
    issues = LabelIssues([LabelIssue(1, "good", "bad", 0.1, 0.9, "text")], 300, 0)
    leakage = Leakage(twins, 7, 0, True, result.adapter, 0, 0)
    steps = next_steps(replace(result, leakage=leakage, label_issues=issues))
    assert "7 test rows repeat training or evaluation rows. Without them accuracy is" in steps[0]
    assert steps[1].startswith("Look at the row whose label is probably wrong")
    assert len(steps) == 3 and "predict" in steps[2]


def test_the_weakest_labels_are_named_with_what_they_are_taken_for():
    truth = np.arange(300) % 3
    given = truth.copy()
    given[np.flatnonzero(truth == 2)[:60]] = 1
    steps = next_steps(evaluation(given, tfidf=150))
    assert "odd (recall 40.0%, most often taken for bad)." in steps[0] and "good" not in steps[0]
    assert len(steps) == 2


def test_test_rows_that_compare_nothing_are_to_be_replaced():
    truth = np.zeros(300, int)
    steps = next_steps(evaluation(np.zeros(300, int), truth=truth, labels=LABELS))
    assert steps == ["Evaluate on other test rows (data.test): no test row is labeled bad or odd."]


def test_a_base_alone_is_to_be_trained_and_no_more_than_four_steps_are_named():
    result = evaluation(10)
    alone = replace(result, adapter=None, adapter_path=None, baseline=None, comparisons={})
    assert next_steps(alone)[0].startswith("Train an adapter on this base")
    twins = [Twin(i, "train", i, 1.0, True) for i in range(7)]
    given = (np.arange(300) % 3 == 0).astype(int)
    missed = Abstention(Threshold(0.9, 0.98, 0.95, 300, 400), 240, 0.99)
    issues = LabelIssues([LabelIssue(i, "good", "bad", 0.1, 0.9, "text") for i in (1, 2)], 300, 0)
    crowded = evaluation(
        given, tfidf=10, abstention=missed, label_issues=issues,
        leakage=Leakage(twins, 7, 0, True, result.adapter, 0, 0),
    )  # fmt: skip
    assert len(next_steps(crowded)) == 4
