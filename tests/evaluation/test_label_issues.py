"""Probable label errors: found where labels were flipped, not where they are right."""

from dataclasses import replace

import numpy as np
import pytest

from sentilora.data.rows import Rows
from sentilora.data.text import beginning
from sentilora.evaluation.label_issues import LabelIssue, LabelIssues, as_lines
from sentilora.evaluation.label_issues import look_for_label_issues as look


def make_rows(num_rows, num_labels=2, flipped=0.1, strength=4.0, seed=0):
    """Labels of which some are wrong, probabilities that do not know them, and which are wrong."""
    source = np.random.default_rng(seed)
    true = source.integers(0, num_labels, num_rows)
    scores = source.normal(size=(num_rows, num_labels)) + strength * np.eye(num_labels)[true]
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    wrong = source.random(num_rows) < flipped
    given = np.where(wrong, (true + source.integers(1, num_labels, num_rows)) % num_labels, true)
    return given, probabilities, wrong


def rows_of(texts):
    texts = list(texts)
    return Rows("made up", texts, ["any"] * len(texts))  # the labels are given as numbers


def names(num_labels):
    return tuple(f"label{i}" for i in range(num_labels))


@pytest.mark.parametrize(
    ("num_rows", "num_labels", "strength"), [(1000, 2, 4.0), (1000, 2, 2.0), (2000, 20, 5.0)]
)
def test_flipped_labels_are_found(num_rows, num_labels, strength):
    given, probabilities, wrong = make_rows(num_rows, num_labels, strength=strength)
    found = look(probabilities, given, names(num_labels), rows_of(["text"] * num_rows), set())
    hits = sum(wrong[issue.number] for issue in found.issues)
    # As many rows drawn at random would hit one time in ten, and find a tenth of what is wrong.
    assert hits / len(found.issues) > (0.55 if strength == 2 else 0.95)
    assert hits / wrong.sum() > 0.6
    assert found.num_rows == num_rows and found.num_seen == 0
    for issue in found.issues:
        row = probabilities[issue.number]
        assert issue.given == f"label{given[issue.number]}" != issue.suggested
        assert issue.suggested == f"label{row.argmax()}"
        assert issue.probability_suggested == row.max() > issue.probability_given
    margins = [issue.probability_given - issue.probability_suggested for issue in found.issues]
    assert margins == pytest.approx(sorted(margins))  # the likeliest first


def test_right_labels_are_left_alone():
    given, probabilities, _ = make_rows(1000, flipped=0.0, strength=20.0)
    found = look(probabilities, given, names(2), rows_of(["text"] * 1000), set())
    assert found == LabelIssues([], 1000, 0)
    assert as_lines(found) == [
        "probable label errors: 0 of 1,000 rows; left out as seen in training or model selection: 0"
    ]


def test_rows_that_were_seen_are_left_out_and_numbers_stay():
    given, probabilities, _ = make_rows(400)
    rows = rows_of(f"text {i}" for i in range(400))
    whole = look(probabilities, given, names(2), rows, None)
    assert whole.num_seen is None and "trained on is unknown" in as_lines(whole)[0]
    seen = {whole.issues[0].number, 3}
    rest = look(probabilities, given, names(2), rows, seen)
    assert (rest.num_rows, rest.num_seen) == (398, 2) and len(rest.issues) > 10
    assert not seen & {issue.number for issue in rest.issues}
    assert all(issue.begin == f"text {issue.number}" for issue in rest.issues)
    # Every other row of a source of 800: the same rows are found, by the numbers they have there.
    some = rows_of(f"text {i // 2}" for i in range(800)).take(range(0, 800, 2))
    found = look(probabilities, given, names(2), some, {2 * number for number in seen})
    assert found.issues == [replace(issue, number=2 * issue.number) for issue in rest.issues]


def test_one_label_or_no_row_has_nothing_to_be_confused_with():
    probabilities = np.full((4, 3), 1 / 3)
    for truth, seen in (([0, 0, 0, 0], set()), ([0, 0, 0, 1], {3}), ([0, 1, 2, 0], {0, 1, 2, 3})):
        found = look(probabilities, np.array(truth), names(3), rows_of(["x"] * 4), seen)
        assert found == "the rows that the model was not trained on have fewer than two labels"


@pytest.mark.parametrize("num_labels", [2, 20])
def test_a_model_with_one_answer_has_errors_of_its_own_and_no_list(num_labels):
    given, probabilities, _ = make_rows(1000, num_labels)
    rows = rows_of(["text"] * 1000)
    probabilities[:, 1] += 9  # one answer, more and less sure
    probabilities /= probabilities.sum(1, keepdims=True)
    others = np.flatnonzero(given != 1)
    told = look(probabilities, given, names(num_labels), rows, set())
    assert told == (
        f"the model nearly always answers label1, also on {len(others)} of the {len(others)} rows "
        "with another label; a list would show its own errors"
    )
    few, more = len(others) // 25, len(others) // 15
    probabilities[others[:few]] = np.eye(num_labels)[given[others[:few]]]
    told = look(probabilities, given, names(num_labels), rows, set())
    assert f"on {len(others) - few} of the {len(others)} rows" in told
    probabilities[others[:more]] = np.eye(num_labels)[given[others[:more]]]
    assert isinstance(look(probabilities, given, names(num_labels), rows, set()), LabelIssues)


def test_a_label_that_nearly_all_rows_have_may_be_nearly_every_answer():
    given, probabilities, _ = make_rows(2000, strength=20.0, flipped=0.0)
    chosen = np.concatenate([np.flatnonzero(given == 0), np.flatnonzero(given == 1)[:20]])
    given, probabilities = given[chosen], probabilities[chosen]
    given[:5] = 1  # of 1,000, rightly answered 0
    found = look(probabilities, given, names(2), rows_of(["text"] * len(given)), set())
    assert {issue.number for issue in found.issues} == set(range(5))


@pytest.mark.parametrize("num_labels", [2, 20])
@pytest.mark.parametrize("num_rows", [2, 3, 7])
def test_few_rows_and_labels_that_none_of_them_has(num_rows, num_labels):
    given, probabilities, _ = make_rows(num_rows, num_labels, flipped=0.0, strength=9.0)
    given[:2] = 0, 1
    found = look(probabilities, given, names(num_labels), rows_of(["x"] * num_rows), set())
    answers = probabilities.argmax(-1)
    if isinstance(found, str):
        assert "nearly always" in found
        return
    assert all(answers[issue.number] != given[issue.number] for issue in found.issues)


def test_the_list_is_short_and_a_terminal_obeys_no_text():
    assert beginning("one\n\x1b[31mtwo<br /><br />  <b>", 60) == "one [31mtwo <b>"
    assert beginning("x" * 61, 60) == "x" * 59 + "…" and beginning("x" * 60, 60) == "x" * 60
    assert beginning(" " * 300 + "end", 60) == "…"
    issues = [LabelIssue(i, "positive", "negative", 0.1, 0.9, "A film") for i in range(1233, 1258)]
    lines = as_lines(LabelIssues(issues, 5000, 1))
    assert lines[0] == (
        "probable label errors: 25 of 5,000 rows; left out as seen in training or model selection: "
        "1"
    )
    assert "worth a look, not a verdict" in lines[1]
    assert lines[3] == "    1,233  positive  negative    0.9000  A film"
    assert len(lines) == 24 and lines[-1] == "… and 5 more, listed by `report` and `output`"
