"""`sentilora train`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sentilora.cli.options import (
    ConfigFile,
    DataAndOverrides,
    LabelColumn,
    Labels,
    OutputDir,
    Preset,
    TextColumn,
    config_from,
    in_options,
    named_values,
    quiet,
)
from sentilora.errors import Interrupted, UsageError
from sentilora.progress import is_main_process, num_processes
from sentilora.wording import as_metric, counted, listed, percent, percent_interval, quoted

if TYPE_CHECKING:
    from sentilora.config import Config
    from sentilora.folders.run_folder import TrainingResult


Resume = Annotated[bool, typer.Option(help="Resume from the last checkpoint.")]
StartAdapter = Annotated[Path | None, typer.Option(help="Start from this adapter's weights.")]
Seeds = Annotated[
    int | None, typer.Option(help="Train with this many seeds and report mean and spread.")
]
Sizes = Annotated[
    str | None,
    typer.Option(help="Train once per number of rows, e.g. 100,400,2000: would more labels help?"),
]


def train(
    arguments: DataAndOverrides = None,
    preset: Preset = None,
    config: ConfigFile = None,
    output_dir: OutputDir = None,
    resume: Resume = False,
    adapter: StartAdapter = None,
    seeds: Seeds = None,
    sizes: Sizes = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    labels: Labels = None,
) -> None:
    """Fine-tune a base and save the best adapter."""
    chosen_sizes = None if sizes is None else sizes_from(sizes)
    if seeds is not None and sizes is not None:
        raise UsageError(
            "--seeds and --sizes are two different series",
            setting="sizes",
            seen=sizes,
            remedy="run one after the other",
        )
    series = seeds is not None or sizes is not None
    if series and adapter is not None:
        raise UsageError(
            "--adapter works only with a single run",
            setting="adapter",
            seen=str(adapter),
            remedy="leave out --seeds and --sizes",
        )
    values = named_values(output_dir, text_column, label_column, labels)
    settings = config_from(preset, config, arguments, values, resume)
    quiet()
    option = f"--seeds {seeds} " if seeds is not None else ""
    if sizes:
        option = f"--sizes {shlex.quote(sizes)} "
    try:
        if series:
            text = _series(settings, seeds, chosen_sizes, resume)
        else:
            from sentilora.stages.train import train as run

            text = _as_lines(run(settings, resume=resume, adapter=adapter))
    except Interrupted as error:
        if error.remedy:  # there is something to resume
            error.remedy = f"resume with `{_resume_command(settings.output_dir, option)}`"
        raise
    if is_main_process():
        print(text)


def sizes_from(text: str) -> list[int]:
    """The sizes in the value of --sizes: whole numbers separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--sizes is {text!r}",
            setting="sizes",
            seen=text,
            remedy="write whole numbers and commas, e.g. 100,400,2000",
        ) from None


def _resume_command(output_dir: str, series: str) -> str:
    """The command that resumes a run. series: --seeds or --sizes with its value, or nothing."""
    num = num_processes()
    launch = f"accelerate launch --num_processes {num} -m " if num > 1 else ""
    return f"{launch}sentilora train {series}--output-dir {shlex.quote(output_dir)} --resume"


def _as_lines(result: "TrainingResult") -> str:
    """The result of a run, and the command that follows."""
    metrics = result.metrics
    return (
        f"best step: {result.best_step} of {result.num_steps}, trained in "
        f"{result.train_seconds:.0f} s\n"
        f"evaluation after reloading, {counted(metrics.num_rows, 'row')}: accuracy "
        f"{percent(metrics.accuracy, 2)} ({percent_interval(metrics.accuracy_interval, 2)}), "
        f"macro-F1 {as_metric(metrics.macro_f1)}, log-loss {metrics.log_loss:.4f}\n"
        f"{_what_next(result)}"
    )


def _what_next(result: "TrainingResult") -> str:
    """The command that follows a run; for one that has not learned, the reason and what to try."""
    place = f"adapter in {quoted(result.output_dir)}"
    if result.shortfall is None:
        return f"{place}; next: {_evaluate_command(result.output_dir)}"
    warning = f"warning: this run has not learned the task: {result.shortfall}"
    return "\n".join([place, warning, *_what_to_try(result)])


def _what_to_try(result: "TrainingResult") -> list[str]:
    """The lines on what to try after a run that has not learned."""
    steps = [f"  {number}. {remedy}" for number, remedy in enumerate(result.remedies, 1)]
    return ["try, in this order:", *map(in_options, steps)]


def _evaluate_command(folder: str) -> str:
    return f"sentilora evaluate --adapter {shlex.quote(folder)}"


def _series(settings: "Config", seeds: int | None, sizes: list[int] | None, resume: bool) -> str:
    """Train a series; its table, and the command that follows."""
    from sentilora.stages.repeat import LEARNING_CURVE_FILE, train_seeds, train_sizes
    from sentilora.training.series import SEEDS_FILE, SIZES_FILE, seeds_as_table, sizes_as_table

    folder = Path(settings.output_dir)
    if seeds is not None:
        by_seed = train_seeds(settings, seeds, resume=resume)
        text, results = seeds_as_table(by_seed), list(by_seed.runs.values())
        files, run = [SEEDS_FILE], results[0]
    else:
        by_size = train_sizes(settings, sizes or [], resume=resume)
        text, results = sizes_as_table(by_size), list(by_size.runs.values())
        files, run = [SIZES_FILE, LEARNING_CURVE_FILE], results[-1]
    figures = f"figures in {' and '.join(quoted(folder / name) for name in files)}"
    unlearned = [result for result in results if result.shortfall is not None]
    if not unlearned:
        return f"{in_options(text)}\n{figures}; next: {_evaluate_command(run.output_dir)}"
    first, names = unlearned[0], listed(Path(result.output_dir).name for result in unlearned)
    warning = (
        f"warning: {len(unlearned)} of {len(results)} runs have not learned the task ({names})"
    )
    return "\n".join(
        [
            in_options(text),
            figures,
            f"{warning}; {Path(first.output_dir).name}: {first.shortfall}",
            *_what_to_try(first),
        ]
    )
