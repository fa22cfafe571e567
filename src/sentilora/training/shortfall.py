"""A run that has not learned its task: how that shows, and what to try, in order."""

from collections.abc import Sequence

from sentilora.metrics import Metrics
from sentilora.shipped import EMBEDDED_KNOWS, REAL_BASE
from sentilora.wording import counted, percent

FEW_ROWS = 50  # evaluation rows that can show only large differences
TOO_FEW_ROWS = 15  # that can show next to nothing: of 14, even 12 right are no more than 60 to 96 %


def shortfall_of(metrics: Metrics, labels: Sequence[str]) -> str | None:
    """Why metrics on the evaluation rows show no learning, as a clause; None if they do.

    A classifier has learned if the 95 % interval of its accuracy is above the share of the most
    frequent label, which one answer for all texts reaches.
    """
    truth = [sum(row) for row in metrics.confusion]
    answers = [sum(column) for column in zip(*metrics.confusion, strict=True)]
    largest = max(range(len(truth)), key=truth.__getitem__)
    share = truth[largest] / metrics.num_rows
    rows = counted(metrics.num_rows, "evaluation row")
    if metrics.num_rows == 1:
        return "a single evaluation row cannot show that it has"
    if max(answers) == metrics.num_rows:
        return f"it answers {labels[answers.index(metrics.num_rows)]!r} to all {rows}"
    if metrics.accuracy_interval[0] <= share:
        low, high = metrics.accuracy_interval
        return (
            f"its accuracy on {rows}, {percent(metrics.accuracy)} (95 % interval {percent(low)} to "
            f"{percent(high)}), is not clearly above the {percent(share)} of always answering "
            f"{labels[largest]!r}"
        )
    return None


def remedies_for(
    metrics: Metrics,
    *,
    are_ids: bool,
    is_embedded: bool,
    is_searched: bool,
    is_past_best: bool,
    num_epochs: float,
    max_steps: int,
) -> list[str]:
    """What to try after a run that has not learned, the most promising first.

    are_ids: whether the texts look like ids or numbers; then nothing else helps.
    is_embedded: whether its base is the one that ships. is_searched: whether its learning rate was
    the best of several. is_past_best: whether the log-loss rose after its best step, so that more
    steps are no help. num_epochs, max_steps: of training; steps of 0 leave it to the epochs.
    """
    if are_ids:
        return [
            "the right column of texts, data.text_column: these look like ids or numbers, from "
            "which no model learns much"
        ]
    remedies = []
    if metrics.num_rows < TOO_FEW_ROWS:
        show = "shows" if metrics.num_rows == 1 else "show"
        rows = counted(metrics.num_rows, "evaluation row")
        remedies.append(f"more labeled rows: {rows} {show} next to nothing")
    if is_embedded:
        remedies.append(f"a real language model: {REAL_BASE}; the embedded base {EMBEDDED_KNOWS}")
    if not is_searched:
        remedies.append("training.learning_rate=search, which tries three rates")
    if not is_past_best:
        steps = (
            f"max_steps={2 * max_steps}" if max_steps else f"num_train_epochs={2 * num_epochs:g}"
        )
        remedies.append(f"more steps: training.{steps}")
    remedies.append(
        "`sentilora check`, which shows what TF-IDF reaches on the same rows; if that is little "
        "too, look at the labels"
    )
    if TOO_FEW_ROWS <= metrics.num_rows < FEW_ROWS:
        remedies.append(f"more rows: {metrics.num_rows} evaluation rows show large effects only")
    return remedies
