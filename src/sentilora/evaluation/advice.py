"""What to do next, derived from the figures of an evaluation.

for step in next_steps(evaluation): ...
"""

from sentilora.evaluation.findings import Evaluation, obstacle_to_verdict, temperature_of
from sentilora.evaluation.label_figures import LabelFigures, one_answer, weakest_first
from sentilora.shipped import EMBEDDED, EMBEDDED_KNOWS, REAL_BASE
from sentilora.wording import as_probability, percent, quoted

MAX_STEPS = 4
MAX_LABELS = 3  # named in one step
SUFFICIENT = 0.99  # accuracy of TF-IDF: what is left to gain is less than most labels' own errors
MIN_ROWS = 5  # of a label: fewer say little about its recall


def next_steps(result: Evaluation) -> list[str]:
    """One to four steps, the most urgent first."""
    steps = [
        *_rows_that_compare_nothing(result),
        *_learning(result),
        *_comparison(result),
        *_duplicates(result),
        *_label_issues(result),
        *_weak_labels(result),
        *_unreached_target(result),
    ]
    if result.adapter is None:
        steps = ["Train an adapter on this base, and compare it with these figures.", *steps]
    elif _is_usable(result):
        steps = [*steps[: MAX_STEPS - 1], _use(result)]
    return steps[:MAX_STEPS]


def _is_usable(result: Evaluation) -> bool:
    """Whether an adapter is worth using: it has learned, and no simpler model is ahead."""
    if _learning(result) or _obstacle(result):
        return False
    return all(comparison.clear >= 0 for comparison in result.comparisons.values())


def _obstacle(result: Evaluation) -> str | None:
    return obstacle_to_verdict(result.labels, result.base, result.leakage)


def _rows_that_compare_nothing(result: Evaluation) -> list[str]:
    if (obstacle := _obstacle(result)) is None:
        return []
    return [f"Evaluate on other test rows (data.test): {obstacle}."]


def _learning(result: Evaluation) -> list[str]:
    """What to do when the adapter gives one answer, or is not clearly better than that."""
    majority = result.majority
    if result.adapter is None or majority is None or _obstacle(result):
        return []
    if one_answer(result.per_label) is not None:
        problem = "Train again"
    elif result.adapter.accuracy_interval[0] <= majority.accuracy:
        problem = (
            f"Train again, because accuracy is not clearly above that of always answering "
            f"{quoted(majority.label)} ({percent(majority.accuracy)}):"
        )
    else:
        return []
    return [
        f"{problem} with training.learning_rate=search, which tries three rates, or for twice as "
        "long (training.num_train_epochs)."
    ]


def _comparison(result: Evaluation) -> list[str]:
    """What to do when the adapter is not clearly better than TF-IDF, or than its base."""
    if _obstacle(result):
        return []
    base = result.comparisons.get("base")
    more_labels = []
    if base is not None and base.clear <= 0:
        more_labels = ["Label more rows: the adapter is not clearly better than its base alone."]
    if (against := result.comparisons.get("baseline")) is None:
        return more_labels
    larger = "Take a larger base (base.name)"
    if result.base_name == EMBEDDED:
        larger = f"Take a real base, with {REAL_BASE} (the embedded base {EMBEDDED_KNOWS})"
    if against.clear <= 0 and (
        result.baseline is not None and result.baseline.accuracy >= SUFFICIENT
    ):
        return [
            f"Consider TF-IDF + logistic regression instead: it is right on "
            f"{percent(result.baseline.accuracy)} of these test rows and already suffices; no base "
            "can get clearly ahead of it."
        ]
    if against.clear < 0:
        return [f"{larger}, and label more rows. Until then, TF-IDF is the better classifier."]
    if against.clear == 0:
        return [
            f"Evaluate on more test rows: {result.num_rows:,} cannot tell the adapter from TF-IDF. "
            f"To get ahead of it: {larger[0].lower()}{larger[1:]}, or label more rows."
        ]
    return more_labels


def _duplicates(result: Evaluation) -> list[str]:
    if result.leakage is None or not (num := len(result.leakage.twins)):
        return []
    without = result.leakage.without
    figure = "" if without is None else f" Without them accuracy is {percent(without.accuracy)}."
    rows = "1 test row repeats" if num == 1 else f"{num:,} test rows repeat"
    if num > result.num_rows / 2:
        return []  # other test rows are needed
    return [
        f"Look at the duplicates: {rows} training or evaluation rows.{figure} Remove them from one "
        "of the splits."
    ]


def _label_issues(result: Evaluation) -> list[str]:
    if result.label_issues is None or not (num := len(result.label_issues.issues)):
        return []
    return [
        f"Look at {'the row whose label is' if num == 1 else f'the {num:,} rows whose labels are'} "
        "probably wrong. Correct the wrong ones, and look for the same mistakes in the training "
        "rows."
    ]


def _weak_labels(result: Evaluation) -> list[str]:
    """The labels whose recall is clearly below the accuracy, with what they are confused with."""
    if one_answer(result.per_label) is not None:
        return []
    accuracy = (result.adapter or result.base).accuracy
    weak = [
        figure
        for figure in weakest_first(result.per_label)
        if figure.num_rows >= MIN_ROWS
        and figure.recall_interval is not None
        and figure.recall_interval[1] < accuracy
    ]
    if not weak:
        return []
    weak = sorted(weak, key=lambda figure: figure.recall or 0.0)
    more = f" (and {len(weak) - MAX_LABELS:,} more)" if len(weak) > MAX_LABELS else ""
    return [
        f"Look at the errors of the weakest labels: {', '.join(map(_weak, weak[:MAX_LABELS]))}"
        f"{more}. Are they told apart in the same way by everyone who labels? If so, label more "
        "rows of them."
    ]


def _weak(figure: LabelFigures) -> str:
    confused = (
        ""
        if figure.confused_with is None
        else f", most often taken for {quoted(figure.confused_with)}"
    )
    return f"{quoted(figure.label)} (recall {percent(figure.recall or 0.0)}{confused})"


def _unreached_target(result: Evaluation) -> list[str]:
    """What to do about a target accuracy that no threshold reaches."""
    if result.abstention is None or result.abstention.is_reached:
        return []
    target = percent(result.abstention.threshold.target_accuracy)
    return [
        f"Set a lower `target_accuracy`, or more evaluation rows (data.num_evaluation): no "
        f"threshold is certain to reach {target}."
    ]


def _use(result: Evaluation) -> str:
    temperature, abstention = temperature_of(result), result.abstention
    use = "Classify new texts with `sentilora predict`"
    if abstention is not None and abstention.is_reached and abstention.threshold.confidence:
        least = as_probability(abstention.threshold.confidence)
        share = percent(1 - abstention.num_covered / result.num_rows)
        return (
            f"{use}: it answers `abstain` below a probability of {least}, as for {share} of these "
            "test rows. Have a person read those texts."
        )
    if temperature is not None:
        return (
            f"{use}: its probabilities are divided by the temperature first, and can be read as "
            "how often such an answer is right."
        )
    return f"{use}, and have a person read the texts whose probability is low."
