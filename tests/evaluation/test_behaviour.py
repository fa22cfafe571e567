"""What a suite finds: each kind's rule on made-up scores, and `evaluate --suite` on real ones."""

import json
import re

import numpy as np
import pytest
from commands import failed, run

from sentilora.errors import UsageError
from sentilora.evaluation.behaviour import MAX_FAILURES, MAX_PRINTED, TOLERANCE, as_lines, judge
from sentilora.evaluation.suite import (
    DIRECTIONAL,
    FUNCTIONALITY,
    INVARIANCE,
    Case,
    Suite,
    load_suite,
)
from sentilora.metrics import wilson_interval
from sentilora.stages.evaluate import evaluate

LABELS = ("positive", "negative")


def suite_of(*cases):
    return Suite("own.toml", cases)


def judged(suite, probability, base=None):
    """The findings when `probability(text)` is the first label's."""
    rows = [np.array([[f(text), 1 - f(text)] for text in suite.texts]) for f in (probability, base)
            if f is not None]  # fmt: skip
    return judge(suite, LABELS, 0.0, *rows)


def passes(case, *probabilities):
    """Whether a case passes when its texts have these probabilities of the first label."""
    texts = [text for text in (case.text, case.changed) if text is not None]
    (finding,) = judged(
        suite_of(case), dict(zip(texts, probabilities, strict=True)).__getitem__
    ).findings
    assert finding.num_passed + len(finding.failures) == 1
    return finding.num_passed == 1


# --- the rule of each kind -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "probability", "passed"),
    [("positive", 0.51, True), ("positive", 0.49, False), ("negative", 0.49, True),
     ("negative", 0.99, False)],
)  # fmt: skip
def test_minimum_functionality_wants_the_label(label, probability, passed):
    assert passes(Case("c", FUNCTIONALITY, "t", label, "a", None), probability) == passed


@pytest.mark.parametrize(
    ("before", "after", "passed"),
    [(0.9, 0.51, True), (0.51, 0.49, False), (0.1, 0.49, True), (0.4, 0.9, False)],
)
def test_invariance_wants_the_same_answer_right_or_wrong(before, after, passed):
    assert passes(Case("c", INVARIANCE, "t", None, "a", "b"), before, after) == passed


@pytest.mark.parametrize(
    ("label", "before", "after", "passed"),
    [
        ("positive", 0.9, 0.95, True),
        ("positive", 0.9, 0.9 - 0.9 * TOLERANCE, True),
        ("positive", 0.9, 0.9 - 1.1 * TOLERANCE, False),
        ("positive", 0.4, 0.41, True),  # the answer is wrong twice, the direction is not
        ("negative", 0.4, 0.41, True),
        ("negative", 0.4, 0.5, False),
        ("negative", 0.4, 0.1, True),
    ],
)
def test_a_direction_is_a_probability_that_does_not_fall(label, before, after, passed):
    assert passes(Case("c", DIRECTIONAL, "t", label, "a", "b"), before, after) == passed


def test_twenty_labels():
    labels = [f"label{i}" for i in range(20)]
    cases = [Case("c", FUNCTIONALITY, f"t{i}", labels[i], f"text {i}", None) for i in range(20)]
    found = judge(suite_of(*cases), labels, 0.0, np.roll(np.eye(20), -5, axis=1))
    assert found.findings[0].num_passed == 0
    assert found.findings[0].failures[0].answers == ["label15"]
    assert "  ✗ label15 0.99, not label0: text 0" in as_lines(found, labels)


# --- what is counted and shown -------------------------------------------------------------------


def test_rates_intervals_and_the_base():
    cases = [Case("c", FUNCTIONALITY, "t", "positive", f"{i}", None) for i in range(10)]
    found = judged(suite_of(*cases), lambda text: float(int(text) < 7), lambda text: 1.0)
    (finding,) = found.findings
    assert (finding.num_cases, finding.num_passed, finding.pass_rate) == (10, 7, 0.7)
    assert finding.interval == wilson_interval(7, 10) and finding.base_pass_rate == 1.0
    assert judged(suite_of(*cases), lambda text: 1.0).findings[0].base_pass_rate is None


def test_a_capability_of_two_kinds_is_two_findings_and_a_split_one_is_one():
    cases = [
        Case("a", FUNCTIONALITY, "1", "positive", "x", None),
        Case("b", FUNCTIONALITY, "2", "positive", "y", None),
        Case("a", INVARIANCE, "3", None, "x", "y"),
        Case("a", FUNCTIONALITY, "4", "negative", "z", None),
    ]
    found = judged(suite_of(*cases), lambda text: 0.9)
    counts = [(f.capability, f.kind, f.num_passed, f.num_cases) for f in found.findings]
    assert counts == [
        ("a", FUNCTIONALITY, 1, 2), ("b", FUNCTIONALITY, 1, 1), ("a", INVARIANCE, 1, 1),
    ]  # fmt: skip
    assert (found.num_cases, found.num_texts) == (4, 3)


def test_the_worst_failures_come_first_from_as_many_texts_as_there_are():
    cases = [
        Case("c", FUNCTIONALITY, f"t{i % 4}", "positive", f"{i}", None) for i in range(20)
    ]  # the later the worse: 19 is of t3, 18 of t2, …
    (finding,) = judged(suite_of(*cases), lambda text: 0.4 - int(text) / 100).findings
    shown = [failure.texts[0] for failure in finding.failures]
    assert shown == ["19", "18", "17", "16", "15", "14", "13", "12", "11", "10"]
    one = [Case("c", FUNCTIONALITY, "other", "positive", "0", None), *cases[1:]]
    (finding,) = judged(suite_of(*one), lambda text: 0.4 - int(text) / 100).findings
    shown = [failure.texts[0] for failure in finding.failures]
    assert shown[:6] == ["19", "18", "17", "16", "0", "15"] and len(shown) == MAX_FAILURES


def test_what_is_printed_of_each_kind():
    cases = [
        Case("entities", INVARIANCE, "1", None, "Ida ate\nthe pie.", "Bo ate\nthe pie."),
        Case("more", DIRECTIONAL, "2", "negative", "It was bad.", "It was really bad."),
        Case("not", FUNCTIONALITY, "3", "negative", "Not good.", None),
    ]
    probability = {"Ida ate\nthe pie.": 0.9, "Bo ate\nthe pie.": 0.2, "It was bad.": 0.3,
                   "It was really bad.": 0.45, "Not good.": 0.8}  # fmt: skip
    found = judged(suite_of(*cases), probability.__getitem__, lambda text: 1.0)
    lines = as_lines(found, LABELS)
    assert lines[0].startswith(
        "behavior suite own.toml: 3 cases, 5 texts scored in 0.0 s with and without the"
    )
    for said in (
        "  ✗ positive 0.90 → negative 0.80: [Ida|Bo] ate the pie.",
        "  ✗ negative 0.70 → 0.55: It was [|really] bad.",
        "  ✗ positive 0.80, not negative: Not good.",
    ):
        assert said in lines
    assert "100.0%" in lines[3] and lines[-1].startswith(
        "(a model that always gives the same answer passes"
    )
    alone = as_lines(judged(suite_of(cases[2]), lambda text: 0.1), LABELS)
    assert "base" not in alone[2] and not alone[-1].startswith("(")  # nothing of pairs


# --- classifiers of which it is known what they cannot do ----------------------------------------


def rates(found):
    return {finding.capability: finding.pass_rate for finding in found.findings}


def test_always_the_same_answer_passes_what_has_pairs_and_half_of_the_rest():
    found = rates(judged(load_suite(), lambda text: 0.8))
    pairs = {"intensifiers", "named entities", "typos", "irrelevant sentence"}
    assert all(found[name] == 1.0 for name in pairs)
    assert all(0.45 <= rate <= 0.55 for name, rate in found.items() if name not in pairs)


def test_one_that_knows_the_answers_passes_everything():
    suite = load_suite()
    truth = {c.text: c.label for c in suite.cases if c.kind == FUNCTIONALITY}
    found = judged(suite, lambda text: float(truth.get(text, "positive") == "positive"))
    assert set(rates(found).values()) == {1.0}
    assert not any(finding.failures for finding in found.findings)


GOOD = {"good", "enjoyable", "charming", "clever", "memorable", "superb", "wonderful", "brilliant",
        "splendid", "magnificent", "tasty", "delicious", "excellent", "lovely", "triumph", "gem",
        "delight", "treat", "masterpiece", "friendly", "kind", "adored", "loved"}  # fmt: skip
BAD = {"bad", "boring", "clumsy", "weak", "tedious", "lifeless", "awful", "dreadful", "terrible",
       "atrocious", "abysmal", "failure", "mess", "bore", "waste", "disaster", "rude", "bland",
       "tasteless", "horrible", "disappointing", "loathed", "hated", "useless"}  # fmt: skip


def count_words(text):
    """One that counts words with a verdict: it hears no negation, no contrast and no irony."""
    words = re.findall(r"\w+", text.lower())
    balance = sum(word in GOOD for word in words) - sum(word in BAD for word in words)
    return 1 / (1 + np.exp(-balance - 0.1))


def test_one_that_counts_words_fails_what_it_should_and_nothing_else():
    found = rates(judged(load_suite(), count_words))
    assert found["named entities"] == found["irrelevant sentence"] == found["intensifiers"] == 1.0
    assert found["typos"] < 1.0  # a misspelt word is not counted
    assert found["negation"] < 0.3 and found["sarcasm"] < 0.5 and found["contrast"] < 0.75


# --- evaluate ------------------------------------------------------------------------------------


def test_evaluate_runs_the_suite_of_the_adapter_and_of_its_base(toy_run, tmp_path):
    code, stdout, stderr = run(
        "evaluate", "--adapter", toy_run, "--suite", "data.num_test=4", "--report", tmp_path / "r"
    )
    assert code == 0, stderr
    suite = load_suite()
    assert f"behavior suite sentiment: {len(suite.cases)} cases, {len(suite.texts)} texts" in stdout
    for finding in ("negation ", "contrast ", "intensifiers ", "named entities ", "typos ",
                    "irrelevant sentence ", "sarcasm "):  # fmt: skip
        assert f"\n{finding}" in stdout
    assert stdout.count("✗") <= MAX_PRINTED * 7
    figures = json.loads((tmp_path / "r" / "report.json").read_text(encoding="utf-8"))
    found = figures["evaluation"]["behaviour"]
    assert found["num_cases"] == len(suite.cases) and found["seconds"] > 0
    assert len(found["findings"]) == 7
    for finding in found["findings"]:
        assert finding["base_pass_rate"] is not None
        failed = finding["num_cases"] - finding["num_passed"]
        assert len(finding["failures"]) == min(MAX_FAILURES, failed)


def test_a_base_alone_has_one_column_and_without_suite_there_is_none(toy_base):
    result = evaluate(base=str(toy_base), overrides={"data.num_test": 4}, suite="sentiment")
    assert {finding.base_pass_rate for finding in result.behaviour.findings} == {None}
    assert evaluate(base=str(toy_base), overrides={"data.num_test": 4}).behaviour is None


OWN = """
[[tests]]
capability = "mine"
kind = "minimum functionality"
label = "{label}"
texts = ["A lovely film."]
"""


def test_a_suite_of_ones_own_is_refused_before_anything_is_loaded(toy_run, tmp_path):
    path = tmp_path / "own.toml"
    ask = ("evaluate", "--adapter", toy_run, "--suite-file", path)
    failed(
        3,
        f"there is no suite {path}; give a TOML file, or take the shipped suite with --suite",
        *ask,
    )
    path.write_text("tests = [", encoding="utf-8")
    failed(3, f"cannot read the suite {path}", *ask)
    path.write_text(OWN.format(label="lobend"), encoding="utf-8")
    failed(
        2,
        "expects lobend, the classifier answers positive, negative; write your own labels ",
        *ask,
    )
    with pytest.raises(UsageError):
        evaluate(toy_run, suite=path)
    path.write_text(OWN.format(label="positive"), encoding="utf-8")
    code, stdout, _ = run(*ask, "data.num_test=4", "--json")
    assert code == 0 and json.loads(stdout)["behaviour"]["num_cases"] == 1


def test_a_text_that_is_cut_is_told_of(toy_base, tmp_path, capsys):
    path = tmp_path / "own.toml"
    text = OWN.format(label="positive").replace("film.", f"{'long ' * 3000}film.")
    path.write_text(text, encoding="utf-8")
    evaluate(base=str(toy_base), overrides={"data.num_test": 4}, suite=path)
    said = capsys.readouterr().err
    assert f"warning: 1 text of the suite {path} truncated to fit" in said and "shorten" in said
