"""Plots: the curve of a training run, and accuracy by number of labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentilora.disk import written_aside
from sentilora.metrics import Metrics
from sentilora.wording import counted

TRAINING, EVALUATION, ACCURACY = "#888888", "#1f4e9c", "#c8501e"


def training_curve(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot training loss, evaluation log-loss and accuracy by step, as a PNG.

    history: the entries of `log_history` in `trainer_state.json`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    def series(key: str) -> tuple[list[int], list[float]]:
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        return [step for step, _ in points], [value for _, value in points]

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    left.plot(*series("loss"), color=TRAINING, label="training loss")
    left.plot(*series("eval_log_loss"), color=EVALUATION, marker="o", label="evaluation log-loss")
    right.plot(*series("eval_accuracy"), color=ACCURACY, marker="s", label="evaluation accuracy")
    steps, losses = series("eval_log_loss")
    if losses:
        best = steps[losses.index(min(losses))]
        left.axvline(best, color=EVALUATION, linestyle=":", label=f"best: step {best}")
    left.set_xlabel("optimizer step")
    left.set_ylabel("loss, log-loss (nats)", color=EVALUATION)
    right.set_ylabel("accuracy", color=ACCURACY)
    left.set_yscale("log")  # from about 9 to 0.05: a linear axis would flatten the end
    left.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    handles = [h for axes in (left, right) for h in axes.get_legend_handles_labels()[0]]
    names = [str(handle.get_label()) for handle in handles]
    figure.legend(handles, names, loc="outside upper center", ncols=4, fontsize="small")
    left.grid(alpha=0.3)
    with written_aside(path) as partial:
        figure.savefig(partial, format="png", dpi=150)


def learning_curve(results: Mapping[int, Metrics], path: Path) -> None:
    """Plot accuracy with its 95 % interval, and log-loss, by number of training rows, as a PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

    sizes, figures = list(results), list(results.values())
    accuracies = [metrics.accuracy for metrics in figures]
    errors = [
        [metrics.accuracy - metrics.accuracy_interval[0] for metrics in figures],
        [metrics.accuracy_interval[1] - metrics.accuracy for metrics in figures],
    ]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    rows = counted(figures[0].num_rows, "evaluation row")
    left.errorbar(
        sizes,
        accuracies,
        errors,
        color=ACCURACY,
        marker="s",
        capsize=4,
        label=f"accuracy, 95 % Wilson interval on {rows}",
    )
    right.plot(
        sizes,
        [metrics.log_loss for metrics in figures],
        color=EVALUATION,
        marker="o",
        linestyle="--",
        label="log-loss",
    )
    left.set_xscale("log")
    left.xaxis.set_major_locator(FixedLocator(sizes))
    left.xaxis.set_minor_locator(NullLocator())
    left.xaxis.set_major_formatter(lambda size, _: f"{size:,.0f}")
    left.yaxis.set_major_formatter(PercentFormatter(1.0))
    left.set_xlabel("labeled training rows")
    left.set_ylabel("accuracy", color=ACCURACY)
    right.set_ylabel("log-loss (nats)", color=EVALUATION)
    handles = [h for axes in (left, right) for h in axes.get_legend_handles_labels()[0]]
    figure.legend(
        handles,
        [str(handle.get_label()) for handle in handles],
        loc="outside upper center",
        ncols=2,
        fontsize="small",
    )
    left.grid(alpha=0.3)
    with written_aside(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
