"""Rows whose label is probably wrong: confident learning, through cleanlab.

(Northcutt, Jiang & Chuang 2021, JAIR 70, section 3.) A label's threshold is the mean probability
that rows of this label give it; a row is an issue when the likeliest label among those whose
threshold it reaches is another than its own.
The probabilities must be of rows that the model was not trained on: such a model has learned the
errors too.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from sentilora.data.rows import Rows
from sentilora.data.text import beginning
from sentilora.wording import as_probability, counted

NUM_PRINTED = 20
NEARLY = 0.95  # of the other labels' rows that get one answer: the model knows little else
CAUTION = "A probable label error is a place to look, not a verdict: the model may be what is wrong"


@dataclass(frozen=True)
class LabelIssue:
    """A row: the label it has, the likelier one, and what the model gives both.

    number: its place in the source, see `Rows`. begin: of its text, on one line.
    """

    number: int
    given: str
    suggested: str
    probability_given: float
    probability_suggested: float
    begin: str


@dataclass(frozen=True)
class LabelIssues:
    """Probable label errors, the likeliest first, among `num_rows` rows.

    num_seen: rows left out, as they stand among those trained or chosen on; None when it is not
    known which do.
    """

    issues: list[LabelIssue]
    num_rows: int
    num_seen: int | None


def look_for_label_issues(
    probabilities: np.ndarray,
    truth: np.ndarray,
    labels: Sequence[str],
    rows: Rows,
    seen: Collection[int] | None,
) -> LabelIssues | str:
    """Probable label errors of rows with probabilities (rows, labels) and label numbers `truth`.

    Ranked by normalized margin: the given label's probability less that of the likeliest other.
    seen: numbers of the rows to leave out. Or why none can be told: those that are left have fewer
    than two labels, and there is nothing to confuse one with, or the model has one answer for
    nearly all.
    """
    left = np.flatnonzero(~np.isin(rows.numbers, list(seen or ())))
    if len(np.unique(truth[left])) < 2:
        return "the rows that were not trained on have one label, or are none"
    answers = probabilities[left].argmax(-1)
    usual = int(np.bincount(answers).argmax())
    others = answers[truth[left] != usual]
    if (num := int((others == usual).sum())) >= NEARLY * len(others):
        return (
            f"the model nearly always answers {labels[usual]}, on {num:,} of the {len(others):,} "
            "rows with another label too; the list would be its own errors"
        )
    from cleanlab.filter import find_label_issues

    found = find_label_issues(
        truth[left],
        probabilities[left],
        filter_by="confident_learning",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,  # 0.1 s for 100,000 rows; processes of its own would take longer to start
    )
    issues = []
    for i in left[found]:
        suggested = int(probabilities[i].argmax())
        issues.append(
            LabelIssue(
                number=rows.numbers[i],
                given=labels[truth[i]],
                suggested=labels[suggested],
                probability_given=float(probabilities[i, truth[i]]),
                probability_suggested=float(probabilities[i, suggested]),
                begin=beginning(rows.texts[i], 60),
            )
        )
    return LabelIssues(issues, len(left), None if seen is None else len(truth) - len(left))


def as_lines(found: LabelIssues) -> list[str]:
    """How many there are, what that means, and the likeliest of them."""
    if found.num_seen is None:
        seen = "; which rows were trained on is not known, and errors among those are not seen"
    else:
        seen = f"; left out, as trained or chosen on: {found.num_seen:,}"
    rows = counted(found.num_rows, "row")
    lines = [f"labels to look at: {len(found.issues):,} of {rows}{seen}"]
    if not found.issues:
        return lines
    shown = found.issues[:NUM_PRINTED]
    lines.append(f"{CAUTION}. Rows are numbered as their source has them, from 0")
    width = max(8, *(len(label) + 2 for x in shown for label in (x.given, x.suggested)))
    lines.append(f"{'row':>9}  {'label':<{width}}{'likelier':<{width + 2}}{'p':<8}text")
    lines += [
        f"{x.number:>9,}  {x.given:<{width}}{x.suggested:<{width + 2}}"
        f"{as_probability(x.probability_suggested):<8}{x.begin}"
        for x in shown
    ]
    if len(found.issues) > NUM_PRINTED:
        lines.append(f"… and {len(found.issues) - NUM_PRINTED:,} more: `report` and `output` list")
    return lines
