"""Rows whose label is probably wrong: confident learning, by cleanlab.

(Northcutt, Jiang & Chuang 2021, JAIR 70, section 3.) A label's threshold is the mean probability
that rows with this label give it. A row is an issue when, among the labels whose threshold it
reaches, the likeliest is not its own. The model must not have been trained on the rows: it would
have learned their errors too.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from sentilora.data.rows import Rows
from sentilora.data.text import beginning
from sentilora.wording import as_probability, counted, quoted

NUM_PRINTED = 20
NEARLY = 0.95  # share of the other labels' rows with one answer: the model knows little else
CAUTION = "A listed row is worth a look, not a verdict: the model may be wrong, not the label"


@dataclass(frozen=True)
class LabelIssue:
    """A row with its label, the label suggested instead, and the model's probabilities of both.

    number: its position in the source, see `Rows`. begin: of its text, on one line.
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

    num_seen: rows left out because training or evaluation rows have the same text; None when it is
    unknown which do.
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
    """Probable label errors, or why there is no list.

    probabilities: (rows, labels). truth: label numbers. seen: numbers of the rows to leave out. The
    list is ranked by normalized margin: the probability of the row's label less that of the
    likeliest other. There is none when fewer than two labels are left, and when the model has one
    answer for nearly all rows.
    """
    left = np.flatnonzero(~np.isin(rows.numbers, list(seen or ())))
    if len(np.unique(truth[left])) < 2:
        return "the rows that the model was not trained on have fewer than two labels"
    answers = probabilities[left].argmax(-1)
    usual = int(np.bincount(answers).argmax())
    others = answers[truth[left] != usual]
    if (num := int((others == usual).sum())) >= NEARLY * len(others):
        return (
            f"the model nearly always answers {quoted(labels[usual])}, also on {num:,} of the "
            f"{len(others):,} rows with another label; a list would show its own errors"
        )
    from cleanlab.filter import find_label_issues

    ranked = find_label_issues(
        truth[left],
        probabilities[left],
        filter_by="confident_learning",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,  # 0.1 s for 100,000 rows; processes of its own would take longer to start
    )
    issues = []
    for i in left[ranked]:
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


def as_lines(issues: LabelIssues, as_message: Callable[[str], str] = str) -> list[str]:
    """How many there are, what that means, and the likeliest of them.

    as_message: applied to the sentence that names keywords of `evaluate`.
    """
    if issues.num_seen is None:
        seen = "; which rows were trained on is unknown, and label errors in those go unnoticed"
    else:
        seen = f"; left out as seen in training or model selection: {issues.num_seen:,}"
    rows = counted(issues.num_rows, "row")
    lines = [f"probable label errors: {len(issues.issues):,} of {rows}{seen}"]
    if not issues.issues:
        return lines
    first = issues.issues[:NUM_PRINTED]
    lines.append(f"{CAUTION}. Rows are numbered from 0, as in their source")
    width = max(8, *(len(label) + 2 for x in first for label in (x.given, x.suggested)))
    lines.append(f"{'row':>9}  {'label':<{width}}{'suggested':<{width + 2}}{'p':<8}text")
    lines += [
        f"{x.number:>9,}  {x.given:<{width}}{x.suggested:<{width + 2}}"
        f"{as_probability(x.probability_suggested):<8}{x.begin}"
        for x in first
    ]
    if (num_more := len(issues.issues) - len(first)) > 0:
        lines.append(as_message(f"… and {num_more:,} more, listed by `report` and `output`"))
    return lines
