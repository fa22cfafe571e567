"""An evaluation as text for a terminal."""

from sentilora.evaluation.behaviour import as_lines
from sentilora.evaluation.calibration import Temperature
from sentilora.evaluation.findings import Evaluation, Explained, Ratings, temperature_of
from sentilora.evaluation.label_issues import as_lines as issue_lines
from sentilora.wording import as_p, as_probability, counted, percent, percent_interval, signed


def as_table(result: Evaluation) -> str:
    """A line per model, what follows from them, and the confusion matrix."""
    lines = [
        f"{counted(result.num_rows, 'row')} of {result.test}, {result.num_truncated:,} truncated",
        "",
        f"{'':<10}{'accuracy':>10}  {'95 % Wilson':<18}{'macro-F1':>9}{'log-loss':>10}{'Brier':>8}"
        f"{'ROC-AUC':>9}{'ECE':>8}",
    ]
    named = {"adapter": result.adapter, "base": result.base, "TF-IDF": result.baseline}
    for name, metrics in named.items():
        if metrics is not None:
            auc = "–" if metrics.roc_auc is None else f"{metrics.roc_auc:.4f}"
            lines.append(
                f"{name:<10}{percent(metrics.accuracy, 2):>10}  "
                f"{percent_interval(metrics.accuracy_interval, 2):<18}"
                f"{metrics.macro_f1:>9.4f}{metrics.log_loss:>10.4f}{metrics.brier:>8.4f}{auc:>9}"
                f"{metrics.expected_calibration_error:>8.4f}"
            )
    if result.comparisons:
        lines.append("")
    for name, found in result.comparisons.items():
        low, high = found.interval
        against = {"base": "base", "baseline": "TF-IDF"}[name]
        lines.append(
            f"adapter against {against}: {signed(100 * found.difference, 2)} points (95 % "
            f"{signed(100 * low, 2)} to {signed(100 * high, 2)}), exact McNemar: {as_p(found.p)}"
        )
    lines += [part for part in (result.verdict, *_calibration_lines(result)) if part]
    lines += [f"note: {reason}" for reason in result.missing]
    best = result.adapter or result.base
    width = max(12, *(len(label) + 2 for label in result.labels))
    lines += [
        "",
        "true \\ predicted".ljust(width + 4) + "".join(f"{x:>{width}}" for x in result.labels),
    ]
    for label, counts in zip(result.labels, best.confusion, strict=True):
        lines.append(f"{label:<{width + 4}}" + "".join(f"{count:>{width},}" for count in counts))
    if result.ratings is not None:
        lines += ["", *_rating_lines(result.ratings)]
    if result.label_issues is not None:
        lines += ["", *issue_lines(result.label_issues)]
    if result.behaviour is not None:
        lines += ["", *as_lines(result.behaviour, result.labels)]
    if result.explained is not None:
        lines += ["", *_explained_lines(result.explained)]
    return "\n".join(lines)


def _rating_lines(ratings: Ratings) -> list[str]:
    width = max(len(ratings.column) + 3, *(len(group.name) + 2 for group in ratings.groups))
    lines = [f"{f'by {ratings.column}':<{width}}{'rows':>8}{'right':>10}  95 % Wilson"]
    for group in ratings.groups:
        lines.append(
            f"{group.name:<{width}}{group.num_rows:>8,}{percent(group.accuracy, 2):>10}  "
            f"{percent_interval(group.interval, 2)}"
        )
    if ratings.num_without:
        lines.append(f"rows without {ratings.column}: {ratings.num_without:,}")
    return lines


def _what_it_does(found: Temperature) -> str:
    if found.caution is not None:
        return "is not used"
    return "helps" if found.helps else "does not help"


def _explained_lines(found: Explained) -> list[str]:
    if not found.rows:
        return ["no error to explain"]
    lines = [
        f"explained the {len(found.rows):,} surest of {counted(found.num_errors, 'error')} in "
        f"{found.seconds:.1f} s, beyond the evaluation; which words moved them is in the report"
    ]
    if found.deletion is not None:
        lines.append(found.deletion.sentence)
    return lines


def _calibration_lines(result: Evaluation) -> list[str]:
    lines = []
    if result.calibrated is not None and result.adapter is not None:
        found, after = result.calibrated.temperature, result.calibrated.test
        lines.append(
            f"temperature {found.value:.3f}, fitted on {result.calibrated.num_evaluation:,} "
            f"evaluation rows, {_what_it_does(found)} there (5 folds: "
            f"log-loss {found.log_loss_before:.4f} → {found.log_loss_after:.4f}); on the test rows "
            f"log-loss {result.adapter.log_loss:.4f} → {after.log_loss:.4f}, ECE "
            f"{result.adapter.expected_calibration_error:.4f} → "
            f"{after.expected_calibration_error:.4f}"
        )
        if found.caution is not None:
            lines.append(found.caution)
    if result.abstention is not None:
        found_t, temperature = result.abstention.threshold, temperature_of(result)
        share = result.abstention.num_covered / result.num_rows
        if result.abstention.reached:
            accuracy = result.abstention.accuracy
            which = "answers of any confidence"
            if found_t.confidence:
                which = f"answers of at least {as_probability(found_t.confidence)}"
                if temperature is not None:
                    which += f" at temperature {temperature:.3f}, as predict has them,"
            lines.append(
                f"{which} are {percent(found_t.target_accuracy)} accurate (95 % bound "
                f"{percent(found_t.bound, 2)}, for this threshold alone, on "
                f"{found_t.num_covered:,} of {found_t.num_rows:,} evaluation rows); on the "
                f"test rows {percent(share)} are answered, "
                f"{'none' if accuracy is None else percent(accuracy, 2)} of them right"
            )
        else:
            lines.append(
                f"no threshold makes {percent(found_t.target_accuracy)} certain: the highest bound "
                f"is {percent(found_t.bound, 2)}, for the {found_t.num_covered:,} surest of "
                f"{found_t.num_rows:,} evaluation rows; no threshold was stored"
            )
    if result.leakage is not None:
        leak = result.leakage
        near = (
            f"{leak.num_near:,} near"
            if leak.near_looked_for
            else "near ones not looked for (`near_duplicates` does)"
        )
        text = f"duplicates of rows trained or chosen on: {leak.num_exact:,} exact, {near}"
        if leak.twins and leak.without is not None:
            text += f"; accuracy without them {percent(leak.without.accuracy, 2)}"
        if leak.num_evaluation_twins:
            text += (
                "; evaluation rows that are duplicates of training rows: "
                f"{leak.num_evaluation_exact:,} exact"
            )
            if leak.near_looked_for:
                text += f", {leak.num_evaluation_twins - leak.num_evaluation_exact:,} near"
        lines.append(text)
    return lines
