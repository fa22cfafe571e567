"""An evaluation as text for a terminal."""

from collections.abc import Callable

from sentilora.data.label_order import values_of
from sentilora.evaluation.behaviour import as_lines
from sentilora.evaluation.calibration import Temperature
from sentilora.evaluation.differences import Difference
from sentilora.evaluation.findings import (
    Abstention,
    ErrorExplanations,
    Evaluation,
    Leakage,
    Ratings,
    Requirement,
    temperature_of,
)
from sentilora.evaluation.label_figures import (
    Majority,
    most_frequent_confusions,
    weakest_first,
)
from sentilora.evaluation.label_issues import as_lines as issue_lines
from sentilora.evaluation.label_sets import as_lines as set_lines
from sentilora.evaluation.ordered import as_lines as ordered_lines
from sentilora.evaluation.survivors import as_lines as survivor_lines
from sentilora.metrics import FullMetrics
from sentilora.wording import (
    as_metric,
    as_p,
    as_probability,
    counted,
    percent,
    percent_interval,
    quoted,
    signed,
)

AGAINST = {"base": "base", "baseline": "TF-IDF"}
MODELS = {"adapter": "adapter", **AGAINST}
MANY_LABELS = 12  # more make a confusion matrix too wide for a terminal
NUM_PRINTED = 10  # of many labels, the weakest; and the most frequent confusions


def as_table(result: Evaluation, as_message: Callable[[str], str] = str) -> str:
    """A line per model, comparisons, verdict, figures per label, optional parts, what to do next.

    as_message: applied to the sentences that name keywords of `evaluate`, and to none that show
    texts, or labels without quotes.
    """
    rows = f"{counted(result.num_rows, 'row')} of {quoted(result.test)}"
    scale = _scale(result)
    lines = [
        f"{rows}, {result.num_truncated:,} truncated",
        *_left_out_lines(result.left_out),
        *([f"warning: {result.warning}"] if result.warning else []),
        "",
        *_model_lines(result),
        *_comparison_lines(result),
        *_difference_lines(result),
        *([result.verdict] if result.verdict else []),
        *_temperature_lines(result),
        *_abstention_lines(result.abstention, result),
        *map(as_message, _leakage_lines(result.leakage)),
        *(as_message(f"note: {note}") for note in result.missing),
        "",
        *_label_lines(result),
        "",
        *_confusion_lines(result),
    ]
    if result.ordered:
        models = {MODELS[name]: figures for name, figures in result.ordered.items()}
        lines += ["", *ordered_lines(models, result.labels, values_of(result.labels))]
    if result.survivors:
        num_wrong = result.num_rows - sum(x.num_rows * (x.recall or 0) for x in result.per_label)
        lines += ["", *survivor_lines(result.survivors, round(num_wrong), scale)]
    if result.label_sets:
        lines += ["", *set_lines(result.label_sets, len(result.labels), scale)]
    if result.ratings is not None:
        lines += ["", *_rating_lines(result.ratings)]
    if result.label_issues is not None:
        lines += ["", *issue_lines(result.label_issues, as_message)]
    if result.behaviour is not None:
        lines += ["", *as_lines(result.behaviour, result.labels)]
    if result.explained is not None:
        lines += ["", *_explanation_lines(result.explained)]
    if result.next_steps:
        steps = enumerate(map(as_message, result.next_steps), 1)
        lines += ["", "what to do next", *(f"{number}. {step}" for number, step in steps)]
    if result.required:
        lines += ["", *_requirement_lines(result.required)]
    return "\n".join(lines)


def _scale(result: Evaluation) -> str:
    """Which probabilities a table is about, after its title; empty for those of the model."""
    temperature = temperature_of(result)
    return "" if temperature is None else f", at temperature {temperature:.3f} as predict has it"


def _left_out_lines(left_out: float) -> list[str]:
    if not left_out:
        return []
    return [
        f"labels not scored because they cannot matter: at most {left_out:.1g} of a probability"
    ]


def _model_lines(result: Evaluation) -> list[str]:
    header = (
        f"{'':<10}{'accuracy':>10}  {'95 % Wilson':<18}{'macro-F1':>9}{'log-loss':>10}{'Brier':>8}"
        f"{'ROC-AUC':>9}{'ECE':>8}"
    )
    models = {"adapter": result.adapter, "base": result.base, "TF-IDF": result.baseline}
    lines = [header, *(_model_line(name, m) for name, m in models.items() if m is not None)]
    return lines if result.majority is None else [*lines, *_majority_lines(result.majority)]


def _model_line(name: str, metrics: FullMetrics) -> str:
    return (
        f"{name:<10}{percent(metrics.accuracy, 2):>10}  "
        f"{percent_interval(metrics.accuracy_interval, 2):<18}"
        f"{as_metric(metrics.macro_f1):>9}{metrics.log_loss:>10.4f}{metrics.brier:>8.4f}"
        f"{as_metric(metrics.roc_auc):>9}{metrics.expected_calibration_error:>8.4f}"
    )


def _majority_lines(majority: Majority) -> list[str]:
    return [
        f"{'majority':<10}{percent(majority.accuracy, 2):>10}  "
        f"{percent_interval(majority.interval, 2):<18}"
        f"always {quoted(majority.label)}, most frequent in the {majority.counted_in} rows"
    ]


def _comparison_lines(result: Evaluation) -> list[str]:
    lines = [""] if result.comparisons else []
    for name, comparison in result.comparisons.items():
        low, high = comparison.interval
        lines.append(
            f"adapter against {AGAINST[name]}: {signed(100 * comparison.difference, 2)} points "
            f"(95 % {signed(100 * low, 2)} to {signed(100 * high, 2)}), exact McNemar: "
            f"{as_p(comparison.p)}"
        )
    return lines


def _difference_lines(result: Evaluation) -> list[str]:
    """The differences of the probabilities' quality, a line per model."""
    if not result.differences:
        return []
    lines = [
        f"{'':<24}{'log-loss':<30}{'Brier':<30}ECE",
        *(
            f"{f'adapter − {AGAINST[name]}':<24}"
            + "".join(
                f"{_with_interval(x):<30}"
                for x in (each.log_loss, each.brier, each.expected_calibration_error)
            ).rstrip()
            for name, each in result.differences.items()
        ),
        "below zero the adapter's probabilities are better; 95 % intervals by paired bootstrap",
    ]
    return lines


def _with_interval(difference: Difference) -> str:
    low, high = difference.interval
    return f"{signed(difference.difference, 4)} ({signed(low, 4)} to {signed(high, 4)})"


def _requirement_lines(required: list[Requirement]) -> list[str]:
    width = max(len(each.bound) for each in required) + 2
    return [
        "required",
        *(
            f"{each.bound:<{width}}{'met' if each.is_met else 'not met'}: {each.finding}"
            for each in required
        ),
    ]


def _label_lines(result: Evaluation) -> list[str]:
    """Precision, recall and F1 of each label; of many, the weakest."""
    figures, title = result.per_label, "by label"
    if len(figures) > MANY_LABELS:
        figures = weakest_first(figures)[:NUM_PRINTED]
        title = f"weakest {len(figures)} of {len(result.labels):,} labels"
    width = max(len(title), *(len(figure.label) for figure in figures)) + 2
    return [
        f"{title:<{width}}{'rows':>8}{'answers':>9}{'precision':>11}{'recall':>9}{'F1':>9}",
        *(
            f"{x.label:<{width}}{x.num_rows:>8,}{x.num_answers:>9,}{_share(x.precision):>11}"
            f"{_share(x.recall):>9}{as_metric(x.f1):>9}"
            for x in figures
        ),
    ]


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _confusion_lines(result: Evaluation) -> list[str]:
    """The confusion matrix; of many labels, the most frequent confusions."""
    confusion = (result.adapter or result.base).confusion
    if len(result.labels) > MANY_LABELS:
        pairs = most_frequent_confusions(result.labels, confusion, NUM_PRINTED)
        return [
            f"most frequent confusions{'' if pairs else ': none'}",
            *(
                f"{pair.num_rows:>6,}  {quoted(pair.truth)} answered {quoted(pair.answer)}"
                for pair in pairs
            ),
        ]
    width = max(12, *(len(label) + 2 for label in result.labels))
    header = "true \\ predicted".ljust(width + 4) + "".join(f"{x:>{width}}" for x in result.labels)
    rows = zip(result.labels, confusion, strict=True)
    return [
        header,
        *(f"{label:<{width + 4}}" + "".join(f"{n:>{width},}" for n in row) for label, row in rows),
    ]


def _temperature_lines(result: Evaluation) -> list[str]:
    if result.calibrated is None or result.adapter is None:
        return []
    temperature, after = result.calibrated.temperature, result.calibrated.test
    line = (
        f"temperature {temperature.value:.3f}, fitted on {result.calibrated.num_evaluation:,} "
        f"evaluation rows, {_effect(temperature)} there (5-fold cross-validation: log-loss "
        f"{temperature.log_loss_before:.4f} → {temperature.log_loss_after:.4f}); on the test rows: "
        f"log-loss {result.adapter.log_loss:.4f} → {after.log_loss:.4f}, ECE "
        f"{result.adapter.expected_calibration_error:.4f} → {after.expected_calibration_error:.4f}"
    )
    return [line] if temperature.caution is None else [line, temperature.caution]


def _effect(temperature: Temperature) -> str:
    if temperature.caution is not None:
        return "is not used"
    return "helps" if temperature.helps else "does not help"


def _abstention_lines(abstention: Abstention | None, result: Evaluation) -> list[str]:
    if abstention is None:
        return []
    threshold, temperature = abstention.threshold, temperature_of(result)
    rows = f"{threshold.num_covered:,} of {threshold.num_rows:,} evaluation rows"
    target, bound = percent(threshold.target_accuracy), percent(threshold.bound, 2)
    if not abstention.is_reached:
        return [
            f"no threshold is certain to reach {target}: the highest 95 % lower bound on accuracy "
            f"is {bound}, for the most confident {rows}; no threshold was stored"
        ]
    which = "answers of any confidence"
    if threshold.confidence:
        which = f"answers with a probability of at least {as_probability(threshold.confidence)}"
        if temperature is not None:
            which += f" at temperature {temperature:.3f}, as predict gives them,"
    share = percent(abstention.num_covered / result.num_rows)
    accuracy = abstention.accuracy
    correct = "" if accuracy is None else f", {percent(accuracy, 2)} of them correctly"
    return [
        f"{which} are at least {target} accurate (95 % lower bound {bound} on {rows}, for this "
        f"threshold alone); of the test rows {share} are answered{correct}"
    ]


def _leakage_lines(leakage: Leakage | None) -> list[str]:
    if leakage is None:
        return []
    text = f"test rows that duplicate training or evaluation rows: {leakage.num_exact:,} exact, "
    text += (
        f"{leakage.num_near:,} near"
        if leakage.near_looked_for
        else "near-duplicates not searched for (`near_duplicates` does so)"
    )
    if leakage.twins and leakage.without is not None:
        text += f"; accuracy without them {percent(leakage.without.accuracy, 2)}"
    if leakage.num_evaluation_twins:
        exact = leakage.num_evaluation_exact
        text += f"; evaluation rows that duplicate training rows: {exact:,} exact"
        if leakage.near_looked_for:
            text += f", {leakage.num_evaluation_twins - exact:,} near"
    return [text]


def _rating_lines(ratings: Ratings) -> list[str]:
    width = max(len(ratings.column) + 3, *(len(group.name) + 2 for group in ratings.groups))
    lines = [f"{f'by {ratings.column}':<{width}}{'rows':>8}{'accuracy':>10}  95 % Wilson"]
    for group in ratings.groups:
        lines.append(
            f"{group.name:<{width}}{group.num_rows:>8,}{percent(group.accuracy, 2):>10}  "
            f"{percent_interval(group.interval, 2)}"
        )
    if ratings.num_without:
        lines.append(f"rows without {ratings.column}: {ratings.num_without:,}")
    return lines


def _explanation_lines(explained: ErrorExplanations) -> list[str]:
    if not explained.rows:
        return ["no errors to explain"]
    num_errors = counted(explained.num_errors, "error")
    lines = [
        f"explained the {len(explained.rows):,} most confident of {num_errors} in "
        f"{explained.seconds:.1f} s, on top of the evaluation; the report marks the words that "
        "moved them"
    ]
    return lines if explained.deletion is None else [*lines, explained.deletion.sentence]
