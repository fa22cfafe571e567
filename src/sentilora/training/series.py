"""The results of a series of training runs, as figures and as a table with a conclusion.

There are two series: the same recipe with several seeds, and on several numbers of training rows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev

from sentilora.disk import write_atomically
from sentilora.folders.run_folder import TrainingResult
from sentilora.metrics import Comparison
from sentilora.wording import as_metric, as_p, counted, percent, percent_interval, signed

SEEDS_FILE, SIZES_FILE = "seeds.json", "sizes.json"
# The lines below the seeds' own in their table, and the fields of `Spread` that they show.
STATISTICS = {
    "mean": "mean",
    "sd": "standard_deviation",
    "min": "minimum",
    "max": "maximum",
}


@dataclass(frozen=True)
class Spread:
    """One metric over several runs. standard_deviation: of the sample, with n − 1."""

    mean: float
    standard_deviation: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class SeedSeries:
    """The same recipe and rows with several seeds: results by seed, and their spread.

    macro_f1: None if all evaluation rows have the same label.
    seed_limit: how much the accuracies of two single runs can differ because of the seed alone
    (95 %). It is the repeatability limit of ISO 5725-6, t · √2 · standard deviation, with Student's
    t for this number of runs.
    """

    runs: dict[int, TrainingResult]
    accuracy: Spread
    macro_f1: Spread | None
    log_loss: Spread
    seed_limit: float

    def save(self, folder: Path) -> None:
        """Write `seeds.json`."""
        _save(folder / SEEDS_FILE, "seed", self)


@dataclass(frozen=True)
class SizeSeries:
    """The same recipe on several numbers of training rows: results by size, in rising order.

    num_steps: optimizer steps of every run. comparison: the largest size against the second
    largest, on the same evaluation rows.
    """

    runs: dict[int, TrainingResult]
    num_steps: int
    comparison: Comparison

    def save(self, folder: Path) -> None:
        """Write `sizes.json`."""
        _save(folder / SIZES_FILE, "num_train", self)


def _save(path: Path, key: str, series: SeedSeries | SizeSeries) -> None:
    content = asdict(replace(series, runs={}))
    runs = [{key: value, **result.content()} for value, result in series.runs.items()]
    write_atomically(path, json.dumps({**content, "runs": runs}, indent=2) + "\n")


def spread(values: Sequence[float]) -> Spread:
    """The spread of at least two values."""
    return Spread(mean(values), stdev(values), min(values), max(values))


def seed_series(runs: Mapping[int, TrainingResult]) -> SeedSeries:
    """Summarize the results of at least two runs, by seed."""
    from scipy.stats import t

    figures = [result.metrics for result in runs.values()]
    accuracy = spread([m.accuracy for m in figures])
    macro_f1 = [m.macro_f1 for m in figures if m.macro_f1 is not None]
    quantile = float(t.ppf(0.975, len(figures) - 1))
    return SeedSeries(
        runs=dict(runs),
        accuracy=accuracy,
        macro_f1=spread(macro_f1) if len(macro_f1) > 1 else None,
        log_loss=spread([m.log_loss for m in figures]),
        seed_limit=quantile * 2**0.5 * accuracy.standard_deviation,
    )


# --- as text -------------------------------------------------------------------------------------


def seeds_as_table(series: SeedSeries) -> str:
    """A line per seed, mean and spread, and how much of a difference is noise."""
    lines = [*_runs_as_lines("seed", series.runs), ""]
    for name, field in STATISTICS.items():
        accuracy = getattr(series.accuracy, field)
        points = f"{100 * accuracy:.2f} points" if name == "sd" else percent(accuracy, 2)
        macro_f1 = None if series.macro_f1 is None else getattr(series.macro_f1, field)
        log_loss = getattr(series.log_loss, field)
        lines.append(f"{name:<8}{points:>12}  {'':<18}{as_metric(macro_f1):>9}{log_loss:>10.4f}")
    return "\n".join([*lines, "", *_noise(series)])


def _noise(series: SeedSeries) -> list[str]:
    num = len(series.runs)
    num_rows = next(iter(series.runs.values())).metrics.num_rows
    half = _mean_half_width(series.runs)
    seeds = (
        f"the accuracies of two single runs can differ by up to {_points(series.seed_limit)} "
        f"points because of the seed alone (95 %, estimated from {num} runs on the same rows"
        f"{'' if num >= 5 else '; a wide limit, from few runs'})."
    )
    if series.accuracy.standard_deviation == 0:
        seeds = f"the {num} runs have the same accuracy; on these rows the seed has no effect."
    elif series.seed_limit >= 0.5:
        seeds = f"{num} runs are too few to estimate the effect of the seed; train 5 or more."
    return [
        f"Seeds: {seeds}",
        f"Rows: with {counted(num_rows, 'evaluation row')}, a run's accuracy is known only to "
        f"within ± {_points(half)} points (95 % Wilson interval), whatever the seed. More rows "
        "narrow this interval; more seeds do not.",
        "Report the mean. The best of these seeds was chosen by this accuracy, so its accuracy is "
        "too optimistic. `sentilora evaluate` measures a run on test rows that no choice used.",
    ]


def sizes_as_table(series: SizeSeries) -> str:
    """A line per size, and whether more labels would help."""
    return "\n".join([*_runs_as_lines("labels", series.runs), "", more_labels(series)])


def more_labels(series: SizeSeries) -> str:
    """Whether more labels would help, judged by the last segment of the learning curve."""
    before, largest = list(series.runs)[-2:]
    comparison = series.comparison
    low, high = (100 * bound for bound in comparison.interval)
    gain = (
        f"from {before:,} to {largest:,} labels accuracy changed by "
        f"{signed(100 * comparison.difference)} points (95 % interval {signed(low)} to "
        f"{signed(high)}, exact McNemar test {as_p(comparison.p)})"
    )
    num_rows = series.runs[largest].metrics.num_rows
    if comparison.clear > 0:
        answer = f"More labels still help: {gain}."
    elif comparison.clear < 0:
        answer = f"More labels hurt: {gain}. Look at the rows that were added."
    else:
        answer = (
            f"With {counted(num_rows, 'evaluation row')} it is unclear whether more labels help: "
            f"{gain}. To detect a change below about {(high - low) / 2:.1f} points, raise "
            "data.num_evaluation."
        )
    if comparison.disagreement:
        answer += f" {comparison.disagreement}"
    return (
        f"{answer} Every size was trained for {counted(series.num_steps, 'step')} with one seed; "
        "`seeds` measures the effect of the seed."
    )


def _runs_as_lines(name: str, runs: Mapping[int, TrainingResult]) -> list[str]:
    lines = [
        f"{name:<8}{'accuracy':>12}  {'95 % Wilson':<18}{'macro-F1':>9}{'log-loss':>10}"
        f"{'best step':>11}{'seconds':>9}"
    ]
    for value, result in runs.items():
        metrics = result.metrics
        number = f"{value:,}" if name == "labels" else str(value)
        lines.append(
            f"{number:<8}{percent(metrics.accuracy, 2):>12}  "
            f"{percent_interval(metrics.accuracy_interval, 2):<18}"
            f"{as_metric(metrics.macro_f1):>9}{metrics.log_loss:>10.4f}{result.best_step:>11,}"
            f"{result.train_seconds:>9,.0f}"
        )
    return lines


def _mean_half_width(runs: Mapping[int, TrainingResult]) -> float:
    widths = [high - low for low, high in (r.metrics.accuracy_interval for r in runs.values())]
    return mean(widths) / 2


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
