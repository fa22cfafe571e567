"""Train one recipe several times: with several seeds, or on several numbers of rows.

sentilora train --seeds 5
sentilora train --sizes 100,400,2000

Each run has an adapter folder of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from sentilora.config import CONFIG_FILE, Config, read_config
from sentilora.data.rows import Rows
from sentilora.data.splits import require_every_label, stratified
from sentilora.errors import DataError, Interrupted, UsageError
from sentilora.folders.checkpoints import checkpoints
from sentilora.folders.claim import Claim, claim, contents, empty, require_free
from sentilora.folders.run_folder import (
    PROBABILITIES_FILE,
    Choices,
    DataRecord,
    SplitRecord,
    TrainingResult,
    require_same_rows,
    require_same_settings,
    require_unused,
    require_writable,
)
from sentilora.metrics import compare
from sentilora.models.device import free_memory
from sentilora.progress import is_main_process, say
from sentilora.stages.automatic import fit, fit_data, fit_schedule, lines_of
from sentilora.stages.from_config import (
    count_steps,
    load_rows_of,
    tables_of,
    with_absolute_base,
    with_tables,
)
from sentilora.stages.rate_search import as_searched
from sentilora.stages.train import show_choices, train
from sentilora.training.curves import learning_curve
from sentilora.training.faults import training_errors
from sentilora.training.series import SeedSeries, SizeSeries, seed_series
from sentilora.wording import quoted

LEARNING_CURVE_FILE = "learning_curve.png"
MAX_SEEDS = 100


def train_seeds(
    config: Config, num_seeds: int, *, data: object = None, resume: bool = False
) -> SeedSeries:
    """Train with the seeds `training.seed`, `training.seed` + 1, … on the same rows.

    Each run is in a folder `seed-N` of `config.output_dir`, exactly as `train` writes it with that
    seed. The figures are in `seeds.json`. data: rows in memory, as in `train`. resume: whether to
    keep finished runs and do the rest. Raises the same errors as `train`.
    """
    if not is_whole(num_seeds) or not 2 <= num_seeds <= MAX_SEEDS:
        raise UsageError(
            f"`seeds` is {num_seeds!r:.60}",
            setting="seeds",
            seen=num_seeds,
            remedy=f"a spread needs at least 2 seeds, and {MAX_SEEDS} are plenty",
        )
    tables = tables_of(data, "train")
    fitted = fit(with_absolute_base(with_tables(config, tables)), tables)
    config = fitted.config
    first = config.training.seed
    seeds = range(first, first + num_seeds)
    configs = {seed: _part(config, f"seed-{seed}", {"training.seed": seed}) for seed in seeds}
    folder = Path(config.output_dir)
    with _claimed(folder, resume):
        show_choices(fitted.lines())
        runs = _train_each(config, configs, data, resume)
        series = seed_series(runs)
        if is_main_process():
            with training_errors(folder):
                series.save(folder)
                save_choices(folder, fitted.notes)
        return series


def train_sizes(
    config: Config, sizes: Sequence[int], *, data: object = None, resume: bool = False
) -> SizeSeries:
    """Train once per size, on nested subsets of the training rows that keep the label shares.

    Every size has the same evaluation rows and the same number of optimizer steps: those that the
    recipe takes on the largest. With the same number of epochs instead, the curve would show a lack
    of steps, not of labels (Zhang et al. 2021, Revisiting Few-sample BERT Fine-tuning): on 100 IMDB
    rows the recipe reaches 48.8 % accuracy after its 3 epochs (21 steps), and 87.3 % after 150
    steps, the number for 800 rows. Only the best checkpoint counts, so later overfitting does not.

    Each run is in a folder `size-N` of `config.output_dir`, exactly as `train` writes it with
    `data.num_train_subset=N`. The figures are in `sizes.json` and `learning_curve.png`. data: rows
    in memory, as in `train`. resume: whether to keep finished runs and do the rest. Raises the same
    errors as `train`.
    """
    if not isinstance(sizes, Sequence) or not all(map(is_whole, sizes)):
        raise UsageError(
            f"`sizes` is {sizes!r:.60}",
            setting="sizes",
            seen=sizes,
            remedy="give a list of whole numbers, e.g. 100,400,2000",
        )
    tables = tables_of(data, "train")
    config = with_absolute_base(with_tables(config, tables))
    sizes = sorted(sizes)
    _check_sizes(sizes)
    with _claimed(Path(config.output_dir), resume):
        return _train_sizes(config, sizes, data, resume)


def _train_sizes(config: Config, sizes: Sequence[int], data: object, resume: bool) -> SizeSeries:
    """`train_sizes`, in a folder that this job holds. sizes: in rising order."""
    tables = tables_of(data, "train")
    config, notes = fit_data(config, tables)
    labels = config.prompt.labels
    rows, evaluation = load_rows_of(config.with_values({"data.num_train_subset": 0}), tables)
    _check_subsets(config, rows, sizes)
    config, more = fit_schedule(config, sizes[-1])
    show_choices(lines_of(config, notes | more))
    num_steps = count_steps(config, sizes[-1])
    values = {"training.max_steps": num_steps}
    configs = {
        size: _part(config, f"size-{size}", {**values, "data.num_train_subset": size})
        for size in sizes
    }
    runs = _train_each(config, configs, data, resume)
    before, largest = (
        _correct_rows(Path(configs[size].output_dir), evaluation, labels) for size in sizes[-2:]
    )
    series = SizeSeries(runs, num_steps, compare(largest, before))
    folder = Path(config.output_dir)
    if is_main_process():
        with training_errors(folder):
            series.save(folder)
            save_choices(folder, notes | more)
            metrics = {size: result.metrics for size, result in runs.items()}
            learning_curve(metrics, folder / LEARNING_CURVE_FILE)
    return series


def save_choices(folder: Path, notes: Mapping[str, str]) -> None:
    """Record what was chosen to fit a series' data. notes: reasons; none for a resumed series."""
    if notes:
        Choices(settings=dict(notes)).save(folder)


# --- before --------------------------------------------------------------------------------------


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def _claimed(folder: Path, resume: bool) -> Claim:
    """The claim on the series' folder. Raises `DataError` when there is no series to resume."""
    if not resume:
        require_writable(folder)
    else:
        require_free(folder)  # a job that has just started has no recipe there yet
    if resume and not (folder / CONFIG_FILE).is_file():
        raise DataError(
            f"{quoted(folder)} holds no series to resume: {CONFIG_FILE} is missing",
            setting="output_dir",
            seen=str(folder),
            remedy="name the folder of a series with `output_dir`, or train without `resume`",
        )
    with training_errors(folder):
        return claim(folder)


def _part(config: Config, name: str, values: Mapping[str, object]) -> Config:
    """The configuration of one run of the series."""
    return config.with_values({**values, "output_dir": str(Path(config.output_dir) / name)})


def _check_sizes(sizes: Sequence[int]) -> None:
    """Raise `UsageError` for sizes, in rising order, that make no learning curve."""
    duplicates = [size for size, following in pairwise(sizes) if size == following]
    if len(sizes) < 2:
        problem = "`sizes` needs at least two numbers of rows"
        remedy = "add another, e.g. 100,400,2000"
    elif duplicates:
        problem, remedy = f"`sizes` has {duplicates[0]:,} twice", "remove one of them"
    else:
        return
    raise UsageError(problem, setting="sizes", seen=list(sizes), remedy=remedy)


def _check_subsets(config: Config, rows: Rows, sizes: Sequence[int]) -> None:
    """Raise an error unless there are enough rows, and each subset has every label."""
    if sizes[0] < (num_labels := len(config.prompt.labels)):
        raise UsageError(
            f"`sizes` has {sizes[0]}, fewer rows than there are labels ({num_labels})",
            setting="sizes",
            seen=list(sizes),
            remedy="remove it",
        )
    if sizes[-1] > len(rows):
        raise DataError(
            f"`sizes` has {sizes[-1]:,}, but there are only {len(rows):,} training rows "
            f"(data.num_train={config.data.num_train} of {quoted(rows.source)})",
            setting="sizes",
            seen=list(sizes),
            remedy="raise data.num_train, or remove that size",
        )
    for size in sizes:
        require_every_label(stratified(rows, size), config.prompt.labels)


# --- training ------------------------------------------------------------------------------------


def _train_each(
    config: Config, configs: Mapping[int, Config], data: object, resume: bool
) -> dict[int, TrainingResult]:
    """The results of all runs. Those that are not finished yet are trained."""
    folder = Path(config.output_dir)
    if resume:
        require_same_series(folder, configs)
        require_same_settings(folder, read_config(folder / CONFIG_FILE).flat(), config.flat())
    else:
        require_unused(folder)
    runs: dict[int, TrainingResult] = {}
    for number, (key, part) in enumerate(configs.items(), 1):
        say(f"run {number} of {len(configs)}: {quoted(part.output_dir)}")
        with _series_folder(config, part, len(runs), len(configs)):
            runs[key] = _train_one(part, data, resume)
        free_memory()
    return runs


def require_same_series(folder: Path, configs: Mapping[int, Config]) -> None:
    """Raise `UsageError` when a folder holds a single run, or a series of another kind."""
    kind = Path(next(iter(configs.values())).output_dir).name.partition("-")[0]
    other = {"seed": "size", "size": "seed"}[kind]
    if (folder / DataRecord.FILE).is_file():
        problem = f"{quoted(folder)} holds a single run"
    elif any(folder.glob(f"{other}-*/{CONFIG_FILE}")):
        problem = f"{quoted(folder)} holds a series of {other}s"
    else:
        return
    raise UsageError(
        problem,
        setting="output_dir",
        seen=str(folder),
        remedy=f"choose another `output_dir` for a series of {kind}s",
    )


def _train_one(config: Config, data: object, resume: bool) -> TrainingResult:
    """The result of one run: finished before, resumed, or trained from the start."""
    folder = Path(config.output_dir)
    if not resume or not folder.exists():
        return train(config, data=data)
    if (folder / TrainingResult.FILE).is_file():
        before = read_config(folder / CONFIG_FILE)
        require_same_settings(folder, before.flat(), as_searched(config, before).flat())
        rows, evaluation = load_rows_of(config, tables_of(data, "train"))
        record = DataRecord.of(rows, evaluation)
        require_same_rows(folder, record)
        say("already finished")
        return TrainingResult.load(folder)
    if checkpoints(folder):
        return train(config, data=data, resume=True)
    if is_main_process() and contents(folder) and not (folder / CONFIG_FILE).is_file():
        raise UsageError(
            f"{quoted(folder)} is in use, and not by a run",
            setting="output_dir",
            seen=str(folder),
            remedy="remove it, or choose another `output_dir`",
        )
    say("no checkpoint to resume from: training from the start")
    empty(folder)
    return train(config, data=data)


@contextmanager
def _series_folder(
    config: Config, part: Config, num_finished: int, num_runs: int
) -> Iterator[None]:
    """Saves the series' recipe in its folder, and says after Ctrl-C how to resume.

    If not even the first run could start, the recipe is removed again.
    """
    folder, run = Path(config.output_dir), Path(part.output_dir)
    with training_errors(folder):
        if is_main_process() and not (folder / CONFIG_FILE).exists():
            config.save(folder / CONFIG_FILE)
    try:
        yield
    except KeyboardInterrupt as error:
        if num_finished == 0 and not run.exists():
            raise
        raise Interrupted(
            f"stopped in {quoted(run)}; {num_finished} of {num_runs} runs are finished",
            setting="output_dir",
            seen=str(folder),
            remedy="continue with `resume`, the same series and the same `output_dir`",
        ) from error
    finally:
        if is_main_process() and contents(folder) == [folder / CONFIG_FILE]:
            (folder / CONFIG_FILE).unlink()


# --- after ---------------------------------------------------------------------------------------


def _correct_rows(folder: Path, evaluation: Rows, labels: Sequence[str]) -> list[bool]:
    """For each evaluation row, whether the run in `folder` predicts its label."""
    import numpy as np

    require_same_rows(folder, DataRecord(evaluation=SplitRecord.of(evaluation)))
    try:
        probabilities = np.load(folder / PROBABILITIES_FILE)
        if probabilities.shape != (len(evaluation), len(labels)):
            raise ValueError(f"its shape is {probabilities.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{quoted(folder / PROBABILITIES_FILE)} is missing or damaged",
            setting="output_dir",
            seen=str(folder),
            remedy=f"remove {quoted(folder)} and continue with `resume`",
        ) from error
    predicted = probabilities.argmax(-1)
    return [labels[i] == label for i, label in zip(predicted, evaluation.labels, strict=True)]
