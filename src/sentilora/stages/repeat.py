"""Train the same recipe again: with other seeds, or on fewer rows. Each run is an adapter folder.

sentilora train --seeds 5
sentilora train --sizes 100,400,2000
"""

import gc
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from sentilora.config import CONFIG_FILE, Config, read_config
from sentilora.data.rows import Rows
from sentilora.data.splits import require_every_label, stratified
from sentilora.errors import DataError, Interrupted, UsageError
from sentilora.folders.checkpoints import checkpoints
from sentilora.folders.run_folder import (
    PROBABILITIES_FILE,
    DataRecord,
    SplitRecord,
    TrainingResult,
    require_same_rows,
    require_same_settings,
    require_unused,
)
from sentilora.metrics import compare
from sentilora.progress import is_main_process, say
from sentilora.stages.from_config import count_steps, load_rows_of
from sentilora.stages.train import train
from sentilora.training.curves import learning_curve
from sentilora.training.faults import training_errors
from sentilora.training.series import SeedSeries, SizeSeries, seed_series

LEARNING_CURVE_FILE = "learning_curve.png"
MAX_SEEDS = 100


def train_seeds(config: Config, num_seeds: int, *, resume: bool = False) -> SeedSeries:
    """Train with the seeds `training.seed`, `training.seed` + 1, … on the same rows.

    The runs lie in `seed-N` below `config.output_dir`, each what `train` leaves with that seed, and
    the figures in `seeds.json`. resume: keep what is finished and go on. Raises what `train` does.
    """
    if num_seeds < 2:
        raise UsageError(f"`seeds` is {num_seeds}; a spread needs 2 seeds at least")
    if num_seeds > MAX_SEEDS:
        raise UsageError(f"`seeds` is {num_seeds:,}; {MAX_SEEDS} tell as much as anybody needs")
    first = config.training.seed
    seeds = range(first, first + num_seeds)
    configs = {seed: _part(config, f"seed-{seed}", {"training.seed": seed}) for seed in seeds}
    runs = _train_each(config, configs, resume)
    series = seed_series(runs)
    folder = Path(config.output_dir)
    if is_main_process():
        with training_errors(folder):
            series.save(folder)
    return series


def train_sizes(config: Config, sizes: Sequence[int], *, resume: bool = False) -> SizeSeries:
    """Train on so many of the training rows each, label shares kept, the smaller in the larger.

    Evaluation rows and optimizer steps are the same for every size: as many steps as the recipe
    takes on the largest. With as many epochs instead, the curve would show the want of steps, not
    of labels (Zhang et al. 2021, Revisiting Few-sample BERT Fine-tuning): the recipe on 100 IMDB
    rows has 48.8 % after its 3 epochs, 21 steps, and 87.3 % after the 150 steps of 800 rows. The
    best checkpoint is kept, so that what overfits is not measured.

    The runs lie in `size-N` below `config.output_dir`, each what `train` leaves with
    `data.num_train_subset=N`, the figures in `sizes.json` and `learning_curve.png`. resume: keep
    what is finished and go on. Raises what `train` does.
    """
    sizes = sorted(sizes)
    _check_sizes(sizes, len(config.prompt.labels))
    rows, evaluation = load_rows_of(config.with_values({"data.num_train_subset": 0}))
    if sizes[-1] > len(rows):
        raise DataError(
            f"`sizes` asks for {sizes[-1]:,} training rows, there are {len(rows):,} "
            f"(data.num_train={config.data.num_train} of {rows.source}); raise data.num_train, or "
            "leave that size out"
        )
    for size in sizes:
        require_every_label(stratified(rows, size), config.prompt.labels)
    num_steps = count_steps(config, sizes[-1])
    configs = {
        size: _part(
            config,
            f"size-{size}",
            {"data.num_train_subset": size, "training.max_steps": num_steps},
        )
        for size in sizes
    }
    runs = _train_each(config, configs, resume)
    before, largest = (
        _answered_right(Path(configs[size].output_dir), evaluation, config.prompt.labels)
        for size in sizes[-2:]
    )
    series = SizeSeries(runs, num_steps, compare(largest, before))
    folder = Path(config.output_dir)
    if is_main_process():
        with training_errors(folder):
            series.save(folder)
            learning_curve(
                {size: result.metrics for size, result in runs.items()},
                folder / LEARNING_CURVE_FILE,
            )
    return series


# --- before --------------------------------------------------------------------------------------


def _part(config: Config, name: str, values: Mapping[str, object]) -> Config:
    """One run of the series."""
    return config.with_values({**values, "output_dir": str(Path(config.output_dir) / name)})


def _check_sizes(sizes: Sequence[int], num_labels: int) -> None:
    if len(sizes) < 2:
        raise UsageError("`sizes` needs two numbers of rows at least, e.g. 100,400,2000")
    twice = [size for size, following in pairwise(sizes) if size == following]
    if twice:
        raise UsageError(f"`sizes` names {twice[0]:,} twice")
    if sizes[0] < num_labels:
        raise UsageError(
            f"`sizes` has {sizes[0]}, fewer rows than there are labels ({num_labels}); leave it out"
        )


# --- training ------------------------------------------------------------------------------------


def _train_each(
    config: Config, configs: Mapping[int, Config], resume: bool
) -> dict[int, TrainingResult]:
    """The results of all runs: of those that are finished already, and of those that are not."""
    folder = Path(config.output_dir)
    if resume:
        if not (folder / CONFIG_FILE).is_file():
            raise DataError(f"{folder} holds no series to resume: {CONFIG_FILE} is missing")
        require_same_settings(folder, read_config(folder / CONFIG_FILE).flat(), config.flat())
    else:
        require_unused(folder)
    runs: dict[int, TrainingResult] = {}
    for number, (key, part) in enumerate(configs.items(), 1):
        say(f"run {number} of {len(configs)}: {part.output_dir}")
        with _series_folder(config, part, len(runs), len(configs)):
            runs[key] = _train_one(part, resume)
        _free_memory()
    return runs


def _train_one(config: Config, resume: bool) -> TrainingResult:
    """A run that may be finished, begun, or not begun yet."""
    folder = Path(config.output_dir)
    if not resume or not folder.exists():
        return train(config)
    if (folder / TrainingResult.FILE).is_file():
        require_same_settings(folder, read_config(folder / CONFIG_FILE).flat(), config.flat())
        rows, evaluation = load_rows_of(config)
        record = DataRecord(train=SplitRecord.of(rows), evaluation=SplitRecord.of(evaluation))
        require_same_rows(folder, record)
        say("finished before")
        return TrainingResult.load(folder)
    if checkpoints(folder):
        return train(config, resume=True)
    say("it has no checkpoint and starts again")
    if is_main_process():
        shutil.rmtree(folder)
    return train(config)


@contextmanager
def _series_folder(
    config: Config, part: Config, num_finished: int, num_runs: int
) -> Iterator[None]:
    """Keeps the series' recipe beside its runs, for resuming, and says how to go on after Ctrl-C.

    A series of which not even the first run could begin leaves nothing behind.
    """
    folder, run = Path(config.output_dir), Path(part.output_dir)
    with training_errors(folder):
        if is_main_process() and not (folder / CONFIG_FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            config.save(folder / CONFIG_FILE)
    try:
        yield
    except KeyboardInterrupt as error:
        if num_finished == 0 and not run.exists():
            raise
        raise Interrupted(
            f"stopped in {run}; {num_finished} of {num_runs} runs are finished",
            setting="output_dir",
            seen=str(folder),
            remedy="resume with `resume`, the same series and the same `output_dir`",
        ) from error
    finally:
        if is_main_process() and {path.name for path in folder.iterdir()} == {CONFIG_FILE}:
            (folder / CONFIG_FILE).unlink()
            folder.rmdir()


def _free_memory() -> None:
    """What the last run held: a Trainer and its model refer to each other."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- after ---------------------------------------------------------------------------------------


def _answered_right(folder: Path, evaluation: Rows, labels: Sequence[str]) -> list[bool]:
    """Which evaluation rows the run in `folder` answers rightly."""
    import numpy as np

    require_same_rows(folder, DataRecord(evaluation=SplitRecord.of(evaluation)))
    try:
        predicted = np.load(folder / PROBABILITIES_FILE).argmax(-1)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / PROBABILITIES_FILE} is missing or damaged; remove {folder} and `resume`"
        ) from error
    return [labels[i] == label for i, label in zip(predicted, evaluation.labels, strict=True)]
