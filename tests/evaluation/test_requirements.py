"""Requirements: which figures have a name, which bounds hold, and what is refused at once."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sentilora.errors import RequirementError, UsageError
from sentilora.evaluation.findings import Evaluation
from sentilora.evaluation.label_figures import per_label
from sentilora.evaluation.requirements import (
    figures_of,
    judged,
    names,
    read_requirements,
    require_measured,
    require_met,
)
from sentilora.metrics import measure_fully

LABEL = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)


def result_of(labels=("positive", "negative"), num_right=9, num_rows=10, **more):
    """An evaluation of an adapter that gets this many rows right, each with probability 0.8."""
    truth = np.arange(num_rows) % len(labels)
    answers = truth.copy()
    answers[num_right:] = (truth[num_right:] + 1) % len(labels)
    rest = 0.2 / (len(labels) - 1)
    metrics = measure_fully(np.eye(len(labels))[answers] * (0.8 - rest) + rest, truth)
    return Evaluation(
        "test.csv", num_rows, 0, labels, "my-adapter", "embedded", metrics, adapter=metrics,
        per_label=per_label(labels, metrics.confusion), **more,
    )  # fmt: skip


def judge(text, result=None, absent=()):
    (requirement,) = judged(result or result_of(), read_requirements([text], dict(absent))).required
    return requirement


@pytest.mark.parametrize(
    "text, is_met",
    [
        ("accuracy>=0.9", True), ("accuracy > 0.9", False), ("accuracy<=0.9", True),
        ("accuracy<0.9", False), ("accuracy == 0.9", True), (" accuracy >= 9e-1 ", True),
        ("adapter.accuracy>=0.9", True), ("base.accuracy>=0.91", False),
        ("accuracy.low>=0.59", True), ("accuracy.low>=0.6", False), ("accuracy.high<=0.983", True),
        ("ece<=0.1001", True), ("expected_calibration_error>=0.0999", True), ("ece<=0.05", False),
        ("num_rows==10", True), ("per_label.negative.recall>=0.8", True),
        ("per_label.negative.recall>=0.81", False), ("confusion.negative.positive<=1", True),
        ("adapter.confusion.positive.negative==0", True), ("left_out<=0", True),
    ],
)  # fmt: skip
def test_bounds_hold_or_not(text, is_met):
    """9 of 10 right at a confidence of 0.8; Wilson's interval is 0.5958 to 0.9821."""
    assert judge(text).is_met is is_met


def test_the_value_seen_is_not_rounded_across_the_bound():
    close = judge("accuracy>=0.9000001")
    assert (close.is_met, close.value, close.finding) == (False, 0.9, "it is 0.9")
    third = judge("accuracy>=0.3333333334", result_of(num_right=1, num_rows=3))
    assert not third.is_met and third.finding == "it is 0.3333"
    barely = judge("accuracy>0.6666", result_of(num_right=2, num_rows=3))
    assert barely.is_met and barely.finding == "it is 0.6667"
    below = judge("accuracy>=0.66667", result_of(num_right=2, num_rows=3))
    assert not below.is_met and below.finding == "it is 0.666667"


def test_a_figure_without_a_value_meets_nothing():
    """The baseline of an adapter whose training rows are gone, and macro-F1 of a single label."""
    for text in ("baseline.accuracy>=0", "comparisons.baseline.difference>=-1"):
        assert judge(text).finding == "it has no value here" and not judge(text).is_met
    alone = result_of(num_right=1, num_rows=1)
    assert alone.adapter.macro_f1 is None
    assert judge("macro_f1>=0", alone).value is None
    assert judge("macro_f1<=1", alone).is_met is False


def test_the_error_carries_what_failed():
    texts = ["accuracy>=0.95", "accuracy>=0.5", "ece<=0.05"]
    result = judged(result_of(), read_requirements(texts, {}))
    with pytest.raises(RequirementError) as error:
        require_met(result)
    assert str(error.value) == (
        "2 of 3 requirements not met: accuracy>=0.95: it is 0.9; ece<=0.05: it is 0.1"
    )
    assert [each.bound for each in error.value.failed] == ["accuracy>=0.95", "ece<=0.05"]
    assert [each.value for each in error.value.failed] == pytest.approx([0.9, 0.1])
    assert error.value.evaluation is result and error.value.exit_code == 4
    assert isinstance(error.value, AssertionError) and isinstance(error.value, RuntimeError)
    require_met(judged(result_of(), read_requirements(texts[1:2], {})))
    require_met(result_of())


@pytest.mark.parametrize(
    "text",
    ["accuracy", "accuracy=0.9", "accuracy=>0.9", ">=0.9", "accuracy>=", "accuracy>=high",
     "accuracy>=nan", "accuracy>=inf", "accuracy>=90%", "accuracy>=0.9 ece<=0.1", ""],
)  # fmt: skip
def test_what_is_no_requirement_is_refused(text):
    with pytest.raises(UsageError, match=r"^cannot read .* in `require`; write a figure"):
        read_requirements([text], {})


@pytest.mark.parametrize(
    "name, near",
    [("acuracy", "accuracy"), ("log-loss", "log_loss"), ("eec", "ece"), ("f1", "macro_f1"),
     ("accuracy.lower", "accuracy.low"), ("quadratic_kapa", "quadratic_kappa"),
     ("base.acuracy", "base.accuracy")],
)  # fmt: skip
def test_an_unknown_name_gets_the_nearest_one_and_a_few_usual_ones(name, near):
    with pytest.raises(UsageError) as error:
        read_requirements([f"{name}>=0.9"], {})
    text = str(error.value)
    assert text.startswith(f"no figure is named {name}, which `require` has in '{name}>=0.9'; ")
    if near != "macro_f1":  # "f1" is as close to others
        assert f"did you mean {near}? " in text
    assert len(text) < 260 and "docs/reference/figures.md has all names, such as acc" in text


def test_a_name_like_no_other_gets_a_short_list():
    """All 75 names were listed, in 3,000 characters."""
    with pytest.raises(UsageError) as error:
        read_requirements(["nonsense>=0.9"], {})
    assert "did you mean" not in str(error.value) and len(str(error.value)) < 230
    usual = re.search("such as (.*)$", str(error.value))[1].split(", ")
    assert len(usual) == 7
    for name in usual:
        read_requirements([f"{name}>=0.9"], {})


def test_the_page_of_the_figures_has_every_name():
    page = (Path(__file__).parents[2] / "docs/reference/figures.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- `(.*)`$", page, re.MULTILINE)
    assert {"accuracy[.low|.high]", "per_label.*.f1", "comparisons.*.p"} <= set(listed)
    assert len(listed) == len(set(listed)) > 70
    for each in names():  # each is there, with what differs put together
        model = re.sub(
            r"^(ordered\.)?(adapter|baseline|base|calibrated\.test|leakage\.without)\.", "", each
        )
        entry = re.sub(
            r"\.(base|baseline|0\.8|0\.9|0\.95)\.", ".*.", re.sub(r"\.(low|high)$", "", model)
        )
        assert {entry, f"{entry}[.low|.high]"} & set(listed), each


def test_a_string_is_no_list():
    for require in ("accuracy>=0.9", 3):
        with pytest.raises(UsageError, match=r"pass a list such as"):
            read_requirements(require, {})


def test_figures_that_are_not_requested_are_refused():
    absent = {"behaviour": "give `suite` too", "adapter": "give `adapter` too"}
    with pytest.raises(UsageError, match=r"does not measure; give `suite` too$"):
        read_requirements(["behaviour.findings.negation.pass_rate>=0.5"], absent)
    with pytest.raises(UsageError, match=r"does not measure; give `adapter` too$"):
        read_requirements(["adapter.accuracy>=0.5"], absent)
    assert read_requirements(["accuracy>=0.5", "ece<=1"], absent)  # of the base


def test_labels_are_checked_once_they_are_known():
    bounds = read_requirements(["per_label.positve.f1>=0.5"], {})
    with pytest.raises(UsageError, match=r"no figure is named per_label\.positve\.f1"):
        require_measured(bounds, {}, ("positive", "negative"))
    require_measured(bounds, {}, ("positve", "b"))


@example(labels=["mae", "ece"], num_rows=12)
@example(labels=["accuracy", "recall", "p", "low", "adapter"], num_rows=12)
@given(st.lists(LABEL, min_size=2, max_size=5, unique=True), st.integers(1, 12))
def test_every_figure_has_a_name_whatever_the_labels_are(labels, num_rows):
    result = result_of(tuple(labels), num_right=num_rows // 2, num_rows=num_rows)
    figures = figures_of(result)
    known = [name for name in figures if figures[name] is not None and name == name.strip()]
    bounds = read_requirements([f"{name}=={figures[name]!r}" for name in known], {})
    require_measured(bounds, {}, result.labels)
    assert [bound.name for bound in bounds] == known
    required = judged(result, bounds).required
    assert len(required) == len(known) > 10 and all(each.is_met for each in required)
