"""Does a classifier behave? Judged on the cases of a `suite`, capability by capability.

The three kinds of test are CheckList's (Ribeiro et al. 2020, "Beyond Accuracy", ACL, section 2.2).
What fails:

minimum functionality   the likeliest label is not the expected one
invariance              the changed text has another likeliest label than the text before
directional             the label's probability falls by more than `TOLERANCE`

A threshold to abstain below and a temperature play no part. A classifier that always gives the same
answer passes every invariance and directional test: read them beside minimum functionality. Cases
of one text resemble each other, so an interval, which takes them for independent, is rather narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from sentilora.evaluation.suite import FUNCTIONALITY, INVARIANCE, Case, Suite
from sentilora.metrics import wilson_interval
from sentilora.wording import as_probability, counted, percent, percent_interval

# Half precision moves a probability by 0.001 (docs/results.md): this is no noise any more.
TOLERANCE = 0.05
MAX_FAILURES = 10  # kept of a capability
MAX_PRINTED = 2  # of them in the terminal


@dataclass(frozen=True)
class Failure:
    """A case that failed: its text, or its texts before and after the change.

    expected: the label of the case, None for an invariance. answers: the likeliest label of each
    text. probabilities: each text's, in the order of the classifier's labels.
    """

    texts: list[str]
    expected: str | None
    answers: list[str]
    probabilities: list[list[float]]


@dataclass(frozen=True)
class Finding:
    """How many cases of one capability passed. interval: 95 % Wilson.

    base_pass_rate: of the base without the adapter; None when there is only one model.
    failures: the worst first, from as many different texts of the suite as there are.
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
    """What a suite found. seconds: for scoring its texts with every model."""

    suite: str
    num_cases: int
    num_texts: int
    seconds: float
    findings: list[Finding]


class _Answers:
    """One model's probabilities of a suite's texts."""

    def __init__(self, suite: Suite, labels: Sequence[str], probabilities: np.ndarray) -> None:
        self.labels = list(labels)
        self.of = dict(zip(suite.texts, np.asarray(probabilities), strict=True))

    def passes(self, case: Case) -> bool:
        before = self.of[case.text]
        if case.kind == FUNCTIONALITY:
            return self.labels[before.argmax()] == case.label
        assert case.changed is not None
        if case.kind == INVARIANCE:
            return bool(before.argmax() == self.of[case.changed].argmax())
        return self.fall(case) <= TOLERANCE

    def fall(self, case: Case) -> float:
        """How much probability is missing: the measure by which failures are sorted.

        Of one text, from the expected label to the likeliest one; of a pair, what the expected
        label, or the first answer, loses.
        """
        before = self.of[case.text]
        watched = before.argmax() if case.label is None else self.labels.index(case.label)
        if case.changed is None:
            return float(before.max() - before[watched])
        return float(before[watched] - self.of[case.changed][watched])

    def failure(self, case: Case) -> Failure:
        texts = [case.text] if case.changed is None else [case.text, case.changed]
        return Failure(
            texts=texts,
            expected=case.label,
            answers=[self.labels[self.of[text].argmax()] for text in texts],
            probabilities=[[round(float(p), 6) for p in self.of[text]] for text in texts],
        )


def judge(
    suite: Suite,
    labels: Sequence[str],
    seconds: float,
    probabilities: np.ndarray,
    base_probabilities: np.ndarray | None = None,
) -> Behaviour:
    """What fails, from probabilities of `suite.texts`: (texts, labels), and the base's likewise."""
    model = _Answers(suite, labels, probabilities)
    base = None
    if base_probabilities is not None:
        base = _Answers(suite, labels, base_probabilities)
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in suite.cases:
        groups.setdefault((case.capability, case.kind), []).append(case)
    findings = []
    for (capability, kind), cases in groups.items():
        failed = [case for case in cases if not model.passes(case)]
        num_passed = len(cases) - len(failed)
        findings.append(
            Finding(
                capability=capability,
                kind=kind,
                num_cases=len(cases),
                num_passed=num_passed,
                pass_rate=num_passed / len(cases),
                interval=wilson_interval(num_passed, len(cases)),
                base_pass_rate=sum(map(base.passes, cases)) / len(cases) if base else None,
                failures=[
                    model.failure(case)
                    for case in _varied(sorted(failed, key=model.fall, reverse=True))
                ],
            )
        )
    return Behaviour(suite.source, len(suite.cases), len(suite.texts), seconds, findings)


def _varied(cases: Sequence[Case]) -> list[Case]:
    """The first of each text of the suite, then the others; `MAX_FAILURES` of them."""
    first = {case.template: case for case in reversed(cases)}
    leading = [case for case in cases if first[case.template] is case]
    return (leading + [case for case in cases if first[case.template] is not case])[:MAX_FAILURES]


# --- for a terminal ------------------------------------------------------------------------------


def as_lines(found: Behaviour, labels: Sequence[str]) -> list[str]:
    """A line per capability, its worst failures below."""
    width = max(len(finding.capability) for finding in found.findings) + 2
    has_base = found.findings[0].base_pass_rate is not None
    lines = [
        f"behaviour suite {found.suite}: {counted(found.num_cases, 'case')}, "
        f"{counted(found.num_texts, 'text')} scored in {found.seconds:.1f} s"
        f"{' with the adapter and without it' if has_base else ''}",
        "",
        f"{'':<{width}}{'kind':<23}{'passed':>11}{'rate':>8}  {'95 % Wilson':<16}"
        + (f"{'base':>7}" if has_base else ""),
    ]
    for finding in found.findings:
        base = "" if finding.base_pass_rate is None else f"{percent(finding.base_pass_rate):>7}"
        lines.append(
            f"{finding.capability:<{width}}{finding.kind:<23}"
            f"{f'{finding.num_passed:,} of {finding.num_cases:,}':>11}"
            f"{percent(finding.pass_rate):>8}  {percent_interval(finding.interval):<16}{base}"
        )
        for failure in finding.failures[:MAX_PRINTED]:
            lines.append(f"  ✗ {_as_line(failure, labels)}")
    if any(finding.kind != FUNCTIONALITY for finding in found.findings):
        lines.append("(always the same answer would pass every invariance and directional test)")
    return lines


def _as_line(failure: Failure, labels: Sequence[str]) -> str:
    """What was answered, and to what."""
    pairs = zip(failure.answers, failure.probabilities, strict=True)
    answered = [f"{answer} {as_probability(max(row), 2)}" for answer, row in pairs]
    if failure.expected is None:
        said = " → ".join(answered)
    elif len(failure.texts) == 1:
        said = f"{answered[0]}, not {failure.expected}"
    else:
        at = labels.index(failure.expected)
        before, after = (as_probability(row[at], 2) for row in failure.probabilities)
        said = f"{failure.expected} {before} → {after}"
    return f"{said}: {_marked(failure.texts)}"


def _marked(texts: Sequence[str]) -> str:
    """One text; of two what changes in [before|after], as the suite has it."""
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
