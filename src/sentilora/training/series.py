"""What a series of training runs found, for a reader: a table, and how far to trust its figures.

Two series: the same recipe with several seeds, and with fewer and fewer training rows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, stdev

from sentilora.folders.records import write_atomically
from sentilora.folders.run_folder import TrainingResult
from sentilora.metrics import Comparison
from sentilora.wording import as_p, counted, percent, percent_interval, signed

SEEDS_FILE, SIZES_FILE = "seeds.json", "sizes.json"


@dataclass(frozen=True)
class Spread:
    """One figure of several runs. standard_deviation: of the sample, with n − 1."""

    mean: float
    standard_deviation: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class SeedSeries:
    """The same recipe and rows with several seeds: results by seed, and how they spread.

    seed_limit: two single runs whose accuracies differ by less may differ by their seeds alone,
    95 % (the repeatability limit of ISO 5725-6, t · √2 · standard deviation, with Student's t for
    the runs there are).
    """

    runs: dict[int, TrainingResult]
    accuracy: Spread
    macro_f1: Spread
    log_loss: Spread
    seed_limit: float

    def save(self, folder: Path) -> None:
        """Write `seeds.json`."""
        _save(folder / SEEDS_FILE, "seed", self)


@dataclass(frozen=True)
class SizeSeries:
    """The same recipe on more and more training rows: results by their number, rising.

    comparison: the largest against the one before, on the same evaluation rows.
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
    """Of two values at least."""
    return Spread(mean(values), stdev(values), min(values), max(values))


def seed_series(runs: Mapping[int, TrainingResult]) -> SeedSeries:
    """The figures of two runs at least, by seed."""
    from scipy.stats import t

    figures = [result.metrics for result in runs.values()]
    accuracy = spread([m.accuracy for m in figures])
    quantile = float(t.ppf(0.975, len(figures) - 1))
    return SeedSeries(
        runs=dict(runs),
        accuracy=accuracy,
        macro_f1=spread([m.macro_f1 for m in figures]),
        log_loss=spread([m.log_loss for m in figures]),
        seed_limit=quantile * 2**0.5 * accuracy.standard_deviation,
    )


# --- in words ------------------------------------------------------------------------------------


def seeds_as_table(series: SeedSeries) -> str:
    """A line per seed, mean and spread, and what they say about the noise."""
    a, f, loss = series.accuracy, series.macro_f1, series.log_loss
    rows = [
        ("mean", percent(a.mean, 2), "", f"{f.mean:.4f}", f"{loss.mean:.4f}"),
        (
            "sd",
            f"{100 * a.standard_deviation:.2f} points",
            "",
            f"{f.standard_deviation:.4f}",
            f"{loss.standard_deviation:.4f}",
        ),
        ("min", percent(a.minimum, 2), "", f"{f.minimum:.4f}", f"{loss.minimum:.4f}"),
        ("max", percent(a.maximum, 2), "", f"{f.maximum:.4f}", f"{loss.maximum:.4f}"),
    ]
    lines = [*_runs_as_lines("seed", series.runs), ""]
    lines += [f"{n:<8}{acc:>12}  {i:<18}{f1:>9}{ll:>10}" for n, acc, i, f1, ll in rows]
    return "\n".join([*lines, "", *_noise(series)])


def _noise(series: SeedSeries) -> list[str]:
    num = len(series.runs)
    num_rows = next(iter(series.runs.values())).metrics.num_rows
    half = _mean_half_width(series.runs)
    seeds = (
        f"two single runs that differ by less than {_points(series.seed_limit)} points may differ "
        f"by their seeds alone (95 %, estimated from {num} runs on the same rows"
        f"{'' if num >= 5 else '; from so few it is wide'})."
    )
    if series.accuracy.standard_deviation == 0:
        seeds = f"{num} runs are equally often right; on these rows no effect of the seed shows."
    elif series.seed_limit >= 0.5:
        seeds = f"{num} runs are too few to say how much a seed changes here; take 5 or more."
    return [
        f"Seeds: {seeds}",
        f"Rows: on {counted(num_rows, 'evaluation row')} a run's accuracy is known to "
        f"± {_points(half)} points (95 % Wilson), whatever the seed; more seeds do not narrow "
        "that, more rows do.",
        "Report the mean. The best of these seeds, chosen by this accuracy, looks better than it "
        "is; `sentilora evaluate` measures a run on test rows that chose nothing.",
    ]


def sizes_as_table(series: SizeSeries) -> str:
    """A line per size, and whether more labels would help."""
    return "\n".join([*_runs_as_lines("labels", series.runs), "", more_labels(series)])


def more_labels(series: SizeSeries) -> str:
    """Would more labels help? From the last step of the curve."""
    before, largest = list(series.runs)[-2:]
    found = series.comparison
    low, high = (100 * bound for bound in found.interval)
    step = (
        f"from {before:,} to {largest:,} labels {signed(100 * found.difference)} points (95 % "
        f"{signed(low)} to {signed(high)}, exact McNemar {as_p(found.p)})"
    )
    num_rows = series.runs[largest].metrics.num_rows
    if found.clear > 0:
        answer = f"More labels still help: {step}."
    elif found.clear < 0:
        answer = f"More labels did not help, they hurt: {step}; look at those that were added."
    else:
        answer = (
            f"It cannot be told on {counted(num_rows, 'evaluation row')} whether more labels "
            f"help: {step}; a step of less than about {(high - low) / 2:.1f} points does "
            "not show on so few (data.num_evaluation)."
        )
    return (
        f"{answer} Every size took {counted(series.num_steps, 'step')}, with one seed: `seeds` "
        "says how much another one changes."
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
            f"{metrics.macro_f1:>9.4f}{metrics.log_loss:>10.4f}{result.best_step:>11,}"
            f"{result.train_seconds:>9,.0f}"
        )
    return lines


def _mean_half_width(runs: Mapping[int, TrainingResult]) -> float:
    widths = [high - low for low, high in (r.metrics.accuracy_interval for r in runs.values())]
    return mean(widths) / 2


def _points(share: float) -> str:
    return f"{100 * share:.1f}"
