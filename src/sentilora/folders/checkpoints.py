"""A run's checkpoint folders: their names, what makes them complete, the one to resume from.

Training saves a checkpoint in a folder aside, writes the SHA-256 of its files next to them, and
renames it then. A checkpoint without that file was never complete. One whose files differ from it
is damaged, or holds files of another session; the run then resumes from the checkpoint before it.
"""

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import model_validator

from sentilora.disk import digest_of, flush, is_plain_name
from sentilora.errors import DataError, UsageError, first_line
from sentilora.folders.records import Record
from sentilora.progress import is_main_process, num_processes, say
from sentilora.wording import quoted

PREFIX = "checkpoint-"
DAMAGED_PREFIX = "damaged-"  # of a checkpoint's name, once a run was resumed from one before it
UNFINISHED = "unfinished-checkpoint"  # in a run's folder, around the checkpoint that is being saved
WEIGHTS_FILE = "adapter_model.safetensors"  # of an adapter, in a run folder and a checkpoint
STATE_FILE = "trainer_state.json"
# What transformers reads when a run is resumed: weights, optimizer, schedule, loss scale, RNG.
RESUMED_FILES = (WEIGHTS_FILE, "adapter_config.json", STATE_FILE, "*.pt", "*.pth")


class Checksums(Record):
    """The SHA-256 of each file that resuming reads, in a run's folder of its adapter.

    step: of the checkpoint.
    """

    FILE: ClassVar[str] = "checksums.json"
    REMEDY: ClassVar[str] = "use another adapter, or remove the file to load this one unchecked"

    step: int
    sha256: dict[str, str]

    @model_validator(mode="after")
    def _names_files(self) -> Self:
        if WEIGHTS_FILE not in self.sha256:
            raise ValueError(f"it has no {WEIGHTS_FILE!r}")
        if others := [name for name in self.sha256 if not is_plain_name(name)]:
            raise ValueError(f"{others[0]!r:.60} is not the name of a file in its folder")
        return self


def checkpoint_folder(run: Path, step: int) -> Path:
    """The folder in which transformers saves the checkpoint of an optimizer step."""
    return run / f"{PREFIX}{step}"


def checkpoints(run: Path) -> dict[int, Path]:
    """{optimizer step: folder} of a run's checkpoints, complete or not, in ascending order."""
    folders = {path.name.removeprefix(PREFIX): path for path in run.glob(f"{PREFIX}*")}
    return {int(step): folders[step] for step in sorted(folders, key=_number) if step.isdecimal()}


def _number(step: str) -> tuple[int, str]:
    return len(step), step


def step_of(checkpoint: Path) -> int:
    """The optimizer step of a checkpoint's folder."""
    return int(checkpoint.name.removeprefix(PREFIX))


def run_of(folder: Path) -> Path:
    """The run folder of an adapter: the adapter's own folder, or for a checkpoint its parent."""
    step = folder.name.removeprefix(PREFIX)
    is_checkpoint = folder.name.startswith(PREFIX) and step.isdecimal()
    return folder.absolute().parent if is_checkpoint else folder


# --- saving --------------------------------------------------------------------------------------


@contextmanager
def saved_aside(run: Path) -> Iterator[Path]:
    """An empty folder in a run's for the checkpoint that is being saved; removed at the end."""
    folder = run / UNFINISHED
    if is_main_process():
        shutil.rmtree(folder, ignore_errors=True)  # of a job that was killed
    try:
        yield folder
    finally:
        if is_main_process():
            shutil.rmtree(folder, ignore_errors=True)


def publish(saved: Path, run: Path, step: int) -> None:
    """Seal a checkpoint that was saved aside, and give it its name in the run's folder."""
    seal(saved, step)
    checkpoint = checkpoint_folder(run, step)
    if checkpoint.is_dir():  # of a run that is resumed from a checkpoint before it
        shutil.rmtree(checkpoint)
    saved.rename(checkpoint)


# --- complete or damaged -------------------------------------------------------------------------


def seal(checkpoint: Path, step: int) -> None:
    """Write the checksums of a checkpoint, or of a finished run's adapter: it is complete then."""
    files = sorted({path for pattern in RESUMED_FILES for path in checkpoint.glob(pattern)})
    for path in files:
        flush(path)  # before an older checkpoint is removed
    Checksums(step=step, sha256={path.name: digest_of(path) for path in files}).save(checkpoint)


def faults_of(checkpoint: Path) -> list[str]:
    """What is missing or damaged in a checkpoint, as sentences; empty if it can be resumed from."""
    path = checkpoint / Checksums.FILE
    if not path.is_file():
        is_saved = (checkpoint / STATE_FILE).is_file()
        return [f"{path if is_saved else checkpoint / STATE_FILE} is missing"]
    try:
        checksums = Checksums.load(checkpoint)
    except DataError:
        return [f"{quoted(path)} is damaged"]
    if str(checksums.step) != checkpoint.name.removeprefix(PREFIX):
        return [f"{quoted(path)} is that of step {checksums.step}"]
    return list(_faults(checkpoint, checksums.sha256))


def faults_of_weights(folder: Path) -> list[str]:
    """Whether an adapter's weights differ from their checksum, as `faults_of`, if there is one."""
    if not (folder / Checksums.FILE).is_file():
        return []
    sha256 = Checksums.load(folder).sha256
    return list(_faults(folder, {WEIGHTS_FILE: sha256[WEIGHTS_FILE]}))


def _faults(checkpoint: Path, sha256: dict[str, str]) -> Iterator[str]:
    for name, digest in sha256.items():
        path = checkpoint / name
        try:
            if digest_of(path) != digest:
                yield f"{quoted(path)} is damaged"
        except FileNotFoundError:
            yield f"{quoted(path)} is missing"
        except OSError as error:
            yield f"{quoted(path)} is damaged ({error.strerror})"


def require_intact(checkpoint: Path) -> None:
    """Raise `DataError` when a run's best checkpoint is damaged by the time it is loaded."""
    if faults := faults_of(checkpoint):
        raise DataError(
            f"the run's best checkpoint is damaged: {', '.join(faults)}",
            setting="output_dir",
            seen=str(checkpoint),
            remedy="continue with `resume`, which repeats the steps since the checkpoint before it",
        )


# --- resuming ------------------------------------------------------------------------------------


def last_checkpoint(run: Path, num_steps: int, patience: int) -> Path:
    """The newest checkpoint from which a run can be resumed; damaged ones are reported.

    They are renamed, so that they do not count as the run's newest any more. num_steps: planned
    length of the run in optimizer steps. patience: evaluations without improvement after which
    early stopping ends the run; 0 switches it off. Raises `UsageError` when another number of
    processes saved the checkpoint, `DataError` when there is none.
    """
    if (run / UNFINISHED).is_dir():
        say(f"{quoted(run / UNFINISHED)} is incomplete: the run ended while it was saved; left out")
    damage: dict[Path, str] = {}  # what is wrong, by checkpoint
    last: Path | None = None  # an intact one from which nothing is left to train
    for step, checkpoint in reversed(checkpoints(run).items()):
        if faults := faults_of(checkpoint):
            damage[checkpoint] = ", ".join(faults)
            continue
        _require_same_processes(checkpoint)
        best_step, num_since_best = _evaluations(checkpoint)
        # After the run's last step, planned or by early stopping, nothing is left to train. Such a
        # run resumes from the checkpoint before that step, and ends the same way again.
        if step >= num_steps or num_since_best >= (patience or math.inf):
            last = last or checkpoint
            continue
        if best_step not in (None, step):  # the end of the run loads that one
            best = checkpoint_folder(run, best_step)
            if faults := faults_of(best):
                damage[best] = ", ".join(faults)
                continue
        for folder, problem in damage.items():
            say(f"warning: {problem}{_set_aside(folder)}: resuming from {quoted(checkpoint)}")
        return checkpoint
    raise _nothing_to_resume(run, damage, last)


def _nothing_to_resume(run: Path, damage: dict[Path, str], last: Path | None) -> DataError:
    """The error for a run without a checkpoint to resume from.

    damage: what is wrong, by checkpoint. last: an intact checkpoint of the run's last step.
    """
    reasons = list(damage.values())
    remedies = ["remove it and train again"]
    if damage:
        remedies = [
            f"remove {quoted(run)} and train again, or restore {quoted(next(iter(damage)))}"
        ]
    if last is not None:
        reasons.append(f"{quoted(last)} is that of the last step")
        remedies.insert(0, f"use {quoted(last)} as the adapter, with the weights of that step")
    return DataError(
        f"{quoted(run)} has no checkpoint to resume from{': ' if reasons else ''}"
        f"{', '.join(reasons)}",
        setting="output_dir",
        seen=str(run),
        remedy=", or ".join(remedies),
    )


def _set_aside(checkpoint: Path) -> str:
    """Rename a damaged checkpoint, unless one of that name is there; a clause about it."""
    aside = checkpoint.with_name(f"{DAMAGED_PREFIX}{checkpoint.name}")
    if not is_main_process() or not checkpoint.is_dir() or aside.exists():
        return ""
    checkpoint.rename(aside)
    return f" ({checkpoint.name} is now {aside.name})"


def _require_same_processes(checkpoint: Path) -> None:
    """Raise `UsageError` when another number of processes saved a checkpoint."""
    states = [name for name in Checksums.load(checkpoint).sha256 if name.startswith("rng_state")]
    before, now = len(states), num_processes()
    if before != now:
        raise UsageError(
            f"the number of processes was {before} in {quoted(checkpoint)} and is {now} now, so a "
            "step would hold different rows",
            setting="num_processes",
            seen=now,
            remedy=f"resume with {before}, or choose a new `output_dir`",
        )


def _evaluations(checkpoint: Path) -> tuple[Any, int]:
    """The step of the best evaluation, and the number of evaluations since, for early stopping."""
    path = checkpoint / STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        stopping = state["stateful_callbacks"].get("EarlyStoppingCallback") or {"attributes": {}}
        count = int(stopping["attributes"].get("early_stopping_patience_counter", 0))
        best = state.get("best_global_step")
        if not isinstance(best, int | None):
            raise ValueError(f"best_global_step is {best!r:.60}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{quoted(path)} is not what transformers writes: {first_line(error)}",
            setting="output_dir",
            seen=str(path),
            remedy=f"remove {quoted(checkpoint)} and continue with `resume`",
        ) from error
    return best, count
