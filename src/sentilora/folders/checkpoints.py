"""A run's checkpoint folders: their names, and the one to resume from."""

import json
import math
import zipfile
from pathlib import Path

from sentilora.errors import DataError, UsageError
from sentilora.progress import num_processes
from sentilora.wording import quoted

PREFIX = "checkpoint-"
WEIGHTS_FILE = "adapter_model.safetensors"  # of an adapter, in a run folder and a checkpoint
STATE_FILE = (
    "trainer_state.json"  # transformers writes it last, so a checkpoint with it is complete
)


def checkpoint_folder(run: Path, step: int) -> Path:
    """The folder in which transformers saves the checkpoint of an optimizer step."""
    return run / f"{PREFIX}{step}"


def checkpoints(run: Path) -> dict[int, Path]:
    """{optimizer step: folder} of a run's checkpoints, complete or not, in ascending order."""
    folders = {path.name.removeprefix(PREFIX): path for path in run.glob(f"{PREFIX}*")}
    return {int(step): folders[step] for step in sorted(folders, key=_number) if step.isdecimal()}


def _number(step: str) -> tuple[int, str]:
    return len(step), step


def run_of(folder: Path) -> Path:
    """The run folder of an adapter: the adapter's own folder, or for a checkpoint its parent."""
    step = folder.name.removeprefix(PREFIX)
    is_checkpoint = folder.name.startswith(PREFIX) and step.isdecimal()
    return folder.absolute().parent if is_checkpoint else folder


def last_checkpoint(run: Path, num_steps: int, patience: int) -> Path:
    """The checkpoint from which a run resumes.

    num_steps: planned length of the run in optimizer steps. patience: evaluations without
    improvement after which early stopping ends the run; 0 switches it off. Raises `UsageError` when
    another number of processes saved the checkpoint, `DataError` when it is missing or damaged.
    """
    # After the run's last step, planned or by early stopping, nothing is left to train. Such a run
    # resumes from the checkpoint before that step, and ends the same way again.
    usable = {
        step: path
        for step, path in checkpoints(run).items()
        if (path / STATE_FILE).is_file()
        and step < num_steps
        and evaluations_since_best(path) < (patience or math.inf)
    }
    if not usable:
        raise DataError(
            f"{quoted(run)} has no checkpoint to resume from",
            setting="output_dir",
            seen=str(run),
            remedy="remove it and train again",
        )
    checkpoint = usable[max(usable)]
    for name in ("optimizer.pt", "scheduler.pt", WEIGHTS_FILE):
        if not (checkpoint / name).is_file():  # resumed without it, the run would be another one
            raise DataError(
                f"{quoted(checkpoint / name)} is missing",
                setting="output_dir",
                seen=str(checkpoint),
                remedy=f"remove {quoted(checkpoint)} to resume from the checkpoint before it",
            )
    for path in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]:
        if not zipfile.is_zipfile(path):  # torch writes zip files; a truncated one is none
            raise _damaged(path, checkpoint)
    before, now = len(list(checkpoint.glob("rng_state*.pth"))), num_processes()
    if before and before != now:  # each process saves one
        raise UsageError(
            f"the number of processes was {before} in {quoted(checkpoint)} and is {now} now, so a "
            "step would hold different rows",
            setting="num_processes",
            seen=now,
            remedy=f"resume with {before}, or choose a new `output_dir`",
        )
    return checkpoint


def evaluations_since_best(checkpoint: Path) -> int:
    """The number of evaluations since the best one, as early stopping has counted them.

    Raises `DataError` when the checkpoint is damaged.
    """
    path = checkpoint / STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))["stateful_callbacks"]
        stopping = state.get("EarlyStoppingCallback") or {"attributes": {}}
        return int(stopping["attributes"].get("early_stopping_patience_counter", 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, checkpoint) from error


def _damaged(path: Path, checkpoint: Path) -> DataError:
    return DataError(
        f"{quoted(path)} is damaged",
        setting="output_dir",
        seen=str(checkpoint.parent),
        remedy=f"remove {quoted(checkpoint)} to resume from the checkpoint before it",
    )
