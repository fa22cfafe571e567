"""The jobs that bench/kills.py kills, and what must be true after each kill and at the end."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentilora.bulk import units
from sentilora.exporting.certificate import Certificate
from sentilora.folders.adapter_folder import AdapterFolder, PeftConfig
from sentilora.folders.checkpoints import checkpoints, faults_of
from sentilora.folders.records import Record
from sentilora.folders.run_folder import Choices, DataRecord, TrainingResult

SAVE_STEPS, STEPS, NUM_ROWS = 3, 9, 96
RECIPE = [
    f"training.max_steps={STEPS}", f"training.eval_steps={SAVE_STEPS}", "data.num_train=48",
    f"training.save_steps={SAVE_STEPS}", "training.logging_steps=1", "data.num_evaluation=8",
    "training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=1",
    "prompt.max_length=128",
]  # fmt: skip
AT_ANY_TIME = "any time"


@dataclass(frozen=True)
class Job:
    """A command that is killed, in a folder of its own, which `{out}` stands for.

    again: the command after a kill. phases: what its kills aim at. prepare: called with the folder
    before the first attempt. is_complete: whether a kill came after all was written, so that the
    command would find nothing to do. left: raises if what a kill left in the folder is damaged.
    complete: raises unless a folder has what the undisturbed job left in its own, the second one.
    """

    name: str
    first: list[str]
    again: list[str]
    phases: tuple[str, ...]
    left: Callable[[Path], None]
    complete: Callable[[Path, Path], None]
    prepare: Callable[[Path], None] = lambda folder: None
    is_complete: Callable[[Path], bool] = lambda folder: False


def jobs(adapter: Path, rows: Path) -> list[Job]:
    """The jobs. adapter: scores the file of rows, and is evaluated as a copy."""
    training = ["train", *RECIPE, "--output-dir", "{out}/run"]
    evaluating = ["evaluate", "--adapter", "{out}/adapter", "data.num_test=8", "--report",
                  "{out}/report"]  # fmt: skip
    exporting = ["export", "merged", "{out}/export", "--dtype", "float32", "--adapter",
                 str(adapter)]  # fmt: skip
    bulk = ["predict", "--input", str(rows), "--adapter", str(adapter), "--output"]
    return [
        Job(
            "training",
            training,
            [*training, "--resume"],
            (AT_ANY_TIME, "step", "evaluation", "checkpoint", "checkpoint", "end of the run"),
            whole_run_folder,
            same_run,
            is_complete=lambda out: (out / "run" / TrainingResult.FILE).exists(),
        ),
        Job(
            "evaluating",
            evaluating,
            evaluating,
            (AT_ANY_TIME, "report", "calibration"),
            lambda out: opened(out / "adapter"),
            functools.partial(same_files, "report/predictions.parquet", "adapter/classifier.json"),
            lambda out: copied(adapter, out / "adapter"),
            is_complete=lambda out: (out / "report").exists(),
        ),
        Job(
            "exporting",
            exporting,
            exporting,
            (AT_ANY_TIME, "scoring", "writing weights", "certifying", "card"),
            nothing_or_certified,
            same_files,
            is_complete=lambda out: (out / "export").exists(),
        ),
        *(
            Job(
                f"bulk to {name}",
                [*bulk, f"{{out}}/{name}"],
                [*bulk, f"{{out}}/{name}"],
                (AT_ANY_TIME, "unit", "writing", *(("joining",) if name != "units/" else ())),
                no_half_file,
                same_files,
                is_complete=is_labeled,
            )
            for name in ("units/", "labeled.csv")
        ),
    ]


# --- what is checked -----------------------------------------------------------------------------


def whole_run_folder(out: Path) -> None:
    """Raise if a checkpoint, a record or the adapter of a run is damaged."""
    run = out / "run"
    for checkpoint in checkpoints(run).values():
        assert not faults_of(checkpoint), faults_of(checkpoint)
    kinds: list[type[Record]] = [Choices, DataRecord, TrainingResult]
    for kind in kinds:
        if (run / kind.FILE).exists():
            kind.load(run)
    if (run / PeftConfig.FILE).exists():
        opened(run)


def opened(folder: Path) -> None:
    """Raise unless the folder holds an adapter that is not damaged."""
    AdapterFolder.open(folder)


def copied(source: Path, target: Path) -> None:
    """Copy an adapter."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint-*"))


def same_run(out: Path, whole: Path) -> None:
    """Raise unless two runs left the same adapter, probabilities, probes and checkpoints."""
    names = ["adapter_model.safetensors", "evaluation_probabilities.npy", "probes.json"]
    names += [f"checkpoint-{step}/adapter_model.safetensors" for step in checkpoints(whole / "run")]
    for name in names:
        assert (out / "run" / name).read_bytes() == (whole / "run" / name).read_bytes(), name
    assert visible(out / "run") == visible(whole / "run")


def same_files(*arguments: Any) -> None:
    """Raise unless the files of two folders, all or those of these names, have the same bytes."""
    *names, out, whole = arguments
    if not names:
        assert visible(out) == visible(whole)
    for name in names or visible(whole):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name


def nothing_or_certified(out: Path) -> None:
    """Raise if an export is there under its name and is not what its certificate says."""
    if (out / "export").exists():
        Certificate.of(out / "export")


def no_half_file(out: Path) -> None:
    """Raise if a table has another number of lines or rows than it should."""
    import pyarrow.parquet as pq

    for path in out.rglob("[!.]*"):
        if path.suffix == ".parquet":
            assert len(pq.read_table(path)) == units.ROWS_PER_UNIT["cpu"], path
        elif path.suffix == ".csv":
            assert path.read_text().count("\n") == 1 + NUM_ROWS, path


def is_labeled(out: Path) -> bool:
    """Whether the one file was written, and its units were removed."""
    units_left = out.glob(".labeled.csv.units/part-*"), out.glob(".labeled.csv.units/.joined")
    return (out / "labeled.csv").exists() and not any(map(any, units_left))


def visible(folder: Path) -> set[str]:
    """The names of the files in a folder, without hidden ones."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in paths if not any(part[0] == "." for part in path.parts)}
