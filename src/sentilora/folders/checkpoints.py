"""Checkpoint folders of a run: what they are called, and which one a run resumes from."""

import json
import math
import zipfile
from pathlib import Path

from sentilora.errors import DataError, UsageError
from sentilora.progress import num_processes

PREFIX = "checkpoint-"
STATE_FILE = "trainer_state.json"  # transformers writes it last: a checkpoint with it is complete


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where transformers puts the checkpoint of an optimizer step."""
    return run / f"{PREFIX}{step}"


def checkpoints(run: Path) -> dict[int, Path]:
    """{optimizer step: folder} of a run's checkpoints, rising; complete or not."""
    folders = {path.name.removeprefix(PREFIX): path for path in run.glob(f"{PREFIX}*")}
    return {int(step): folders[step] for step in sorted(folders, key=_number) if step.isdecimal()}


def _number(step: str) -> tuple[int, str]:
    return len(step), step


def run_of(folder: Path) -> Path:
    """The run folder of an adapter: itself, for a checkpoint the one above."""
    return folder.absolute().parent if folder.name.startswith(PREFIX) else folder


def last_checkpoint(run: Path, num_steps: int, patience: int) -> Path:
    """The checkpoint that a run of `num_steps`, or fewer with early stopping, resumes from.

    Raises `UsageError` when it was saved by another number of processes, `DataError` when there is
    none or it is damaged.
    """
    # After the last step, early stopping's too, there is nothing to train: such a run resumes from
    # the checkpoint before, and ends as it would have.
    usable = {
        step: path
        for step, path in checkpoints(run).items()
        if (path / STATE_FILE).is_file()
        and step < num_steps
        and evaluations_in_vain(path) < (patience or math.inf)
    }
    if not usable:
        raise DataError(
            f"{run} has no checkpoint to resume from",
            setting="output_dir",
            seen=str(run),
            remedy="remove it and start again",
        )
    checkpoint = usable[max(usable)]
    for path in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]:
        if not zipfile.is_zipfile(path):  # torch's files are; a truncated one is not
            raise DataError(
                f"{path} is damaged", remedy=f"remove {checkpoint} to go on from the one before"
            )
    before, now = len(list(checkpoint.glob("rng_state*.pth"))), num_processes()
    if before and before != now:  # each leaves one
        raise UsageError(
            f"{checkpoint} was saved by {before} processes, here are {now}: a step would hold "
            "other rows",
            seen=now,
            remedy=f"resume with {before}, or start a new `output_dir`",
        )
    return checkpoint


def evaluations_in_vain(checkpoint: Path) -> int:
    """How many evaluations early stopping has counted since the best one."""
    path = checkpoint / STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))["stateful_callbacks"]
        stopping = state.get("EarlyStoppingCallback") or {"attributes": {}}
        return int(stopping["attributes"].get("early_stopping_patience_counter", 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged", remedy=f"remove {checkpoint} to go on from the one before"
        ) from error
