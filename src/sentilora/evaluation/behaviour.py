"""Behavior of a classifier on the cases of a `suite`: pass rates, capability by capability.

The three kinds of test are CheckList's (Ribeiro et al. 2020, "Beyond Accuracy", ACL, section 2.2).
A case fails when

minimum functionality   the likeliest label is not the expected one
invariance              the changed text has another likeliest label than the original
directional             the label's probability falls by more than `TOLERANCE`

Temperature and abstention threshold play no part. A classifier that always gives the same answer
passes every invariance and directional test: read those together with minimum functionality. The
intervals assume independent cases; cases of one template resemble each other, so the true
uncertainty is somewhat larger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from sentilora.evaluation.suite import FUNCTIONALITY, INVARIANCE, Case, Suite
from sentilora.metrics import wilson_interval
from sentilora.wording import as_probability, counted, percent, percent_interval, quoted

# Half precision moves a probability by 0.001 (docs/results.md): this much is not noise.
TOLERANCE = 0.05
MAX_FAILURES = 10  # recorded per capability
MAX_PRINTED = 2  # of them, in the terminal


@dataclass(frozen=True)
class Failure:
    """A case that failed: its text, or its texts before and after the change.

    expected: the label of the case; None for an invariance. answers: the likeliest label of each
    text. probabilities: per text, in the order of the classifier's labels.
    """

    texts: list[str]
    expected: str | None
    answers: list[str]
    probabilities: list[list[float]]


@dataclass(frozen=True)
class Finding:
    """How many cases of one capability passed. interval: 95 % Wilson.

    base_pass_rate: of the base without the adapter; None when there is only one model. failures:
    the worst of each template first, then the others.
    """

    capability: str
    kind: str
    num_cases: int
    num_passed: int
    pass_rate: float
    interval: tuple[float, float]
    base_pass_rate: float | None
    failures: list[Failure]


@dataclass(frozen=True)
class Behaviour:
    """The result of a suite. seconds: for scoring its texts with every model."""

    suite: str
    num_cases: int
    num_texts: int
    seconds: float
    findings: list[Finding]


class _Answers:
    """One model's probabilities for the texts of a suite."""

    def __init__(self, suite: Suite, labels: Sequence[str], probabilities: np.ndarray) -> None:
        self.labels = list(labels)
        self.probabilities = dict(zip(suite.texts, np.asarray(probabilities), strict=True))

    def passes(self, case: Case) -> bool:
        before = self.probabilities[case.text]
        if case.changed is None:  # minimum functionality
            return self.labels[before.argmax()] == case.label
        if case.kind == INVARIANCE:
            return bool(before.argmax() == self.probabilities[case.changed].argmax())
        return self.fall(case) <= TOLERANCE

    def fall(self, case: Case) -> float:
        """How bad a failure is, as a difference of probabilities.

        For one text: the likeliest label's less the expected one's. For a pair: what the expected
        label (of an invariance: the first answer) loses by the change.
        """
        before = self.probabilities[case.text]
        label = before.argmax() if case.label is None else self.labels.index(case.label)
        if case.changed is None:
            return float(before.max() - before[label])
        return float(before[label] - self.probabilities[case.changed][label])

    def failure(self, case: Case) -> Failure:
        texts = [case.text] if case.changed is None else [case.text, case.changed]
        return Failure(
            texts=texts,
            expected=case.label,
            answers=[self.labels[self.probabilities[text].argmax()] for text in texts],
            probabilities=[
                [round(float(p), 6) for p in self.probabilities[text]] for text in texts
            ],
        )


def judge(
    suite: Suite,
    labels: Sequence[str],
    seconds: float,
    probabilities: np.ndarray,
    base_probabilities: np.ndarray | None = None,
) -> Behaviour:
    """Pass rates and failures, from probabilities of `suite.texts`, (texts, labels).

    seconds: that scoring them took. base_probabilities: of the base without the adapter.
    """
    model = _Answers(suite, labels, probabilities)
    base = None
    if base_probabilities is not None:
        base = _Answers(suite, labels, base_probabilities)
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in suite.cases:
        groups.setdefault((case.capability, case.kind), []).append(case)
    findings = [_finding(cases, model, base) for cases in groups.values()]
    return Behaviour(suite.source, len(suite.cases), len(suite.texts), seconds, findings)


def _finding(cases: Sequence[Case], model: _Answers, base: _Answers | None) -> Finding:
    """The finding on the cases of one capability and kind."""
    failures = [case for case in cases if not model.passes(case)]
    num_passed = len(cases) - len(failures)
    failures.sort(key=model.fall, reverse=True)
    return Finding(
        capability=cases[0].capability,
        kind=cases[0].kind,
        num_cases=len(cases),
        num_passed=num_passed,
        pass_rate=num_passed / len(cases),
        interval=wilson_interval(num_passed, len(cases)),
        base_pass_rate=sum(map(base.passes, cases)) / len(cases) if base else None,
        failures=[model.failure(case) for case in _varied(failures)],
    )


def _varied(cases: Sequence[Case]) -> list[Case]:
    """Up to `MAX_FAILURES` cases: the first of each template, then the others."""
    first = {case.template: case for case in reversed(cases)}
    leading = [case for case in cases if first[case.template] is case]
    return (leading + [case for case in cases if first[case.template] is not case])[:MAX_FAILURES]


# --- for a terminal ------------------------------------------------------------------------------


def as_lines(behavior: Behaviour, labels: Sequence[str]) -> list[str]:
    """A line per capability, with its worst failures below it."""
    findings = behavior.findings
    width = max(len(finding.capability) for finding in findings) + 2
    has_base = findings[0].base_pass_rate is not None
    lines = [
        f"behavior suite {quoted(behavior.suite)}: {counted(behavior.num_cases, 'case')}, "
        f"{counted(behavior.num_texts, 'text')} scored in {behavior.seconds:.1f} s"
        f"{' with and without the adapter' if has_base else ''}",
        "",
        f"{'':<{width}}{'kind':<23}{'passed':>11}{'rate':>8}  {'95 % Wilson':<16}"
        + (f"{'base':>7}" if has_base else ""),
    ]
    for finding in findings:
        base = "" if finding.base_pass_rate is None else f"{percent(finding.base_pass_rate):>7}"
        lines.append(
            f"{finding.capability:<{width}}{finding.kind:<23}"
            f"{f'{finding.num_passed:,} of {finding.num_cases:,}':>11}"
            f"{percent(finding.pass_rate):>8}  {percent_interval(finding.interval):<16}{base}"
        )
        for failure in finding.failures[:MAX_PRINTED]:
            lines.append(f"  ✗ {_as_line(failure, labels)}")
    if any(finding.kind != FUNCTIONALITY for finding in findings):
        lines.append(
            "(a model that always gives the same answer passes every invariance and directional "
            "test)"
        )
    return lines


def _as_line(failure: Failure, labels: Sequence[str]) -> str:
    """The answers, or the expected label's probabilities, and the texts."""
    pairs = zip(failure.answers, failure.probabilities, strict=True)
    answers = [f"{answer} {as_probability(max(row), 2)}" for answer, row in pairs]
    if failure.expected is None:
        outcome = " → ".join(answers)
    elif len(failure.texts) == 1:
        outcome = f"{answers[0]}, not {failure.expected}"
    else:
        at = labels.index(failure.expected)
        before, after = (as_probability(row[at], 2) for row in failure.probabilities)
        outcome = f"{failure.expected} {before} → {after}"
    return f"{outcome}: {_one_line(failure.texts)}"


def _one_line(texts: Sequence[str]) -> str:
    """The text; of two, one with the change as [before|after], as a suite writes it."""
    words = [text.split() for text in texts]
    if len(words) == 1:
        return " ".join(words[0])
    before, after = words
    start = _num_alike(before, after)
    end = _num_alike(before[start:][::-1], after[start:][::-1])
    change = "|".join(" ".join(part[start : len(part) - end]) for part in words)
    return " ".join([*before[:start], f"[{change}]", *before[len(before) - end :]])


def _num_alike(first: Sequence[str], second: Sequence[str]) -> int:
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    )
