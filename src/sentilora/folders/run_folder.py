"""What a run folder holds: hashes of the rows, checkpoints, results; and whether a run may use it.

A folder in use is never overwritten, and a run goes on only with the recipe and the rows that it
was started with. Settings are `{"section.key": value}`, as in the run's recipe.
"""

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.data.rows import Rows, row_hash
from sentilora.errors import DataError, UsageError, first_line
from sentilora.progress import is_main_process, num_processes, say

if TYPE_CHECKING:
    from sentilora.metrics import Metrics


DATA_FILE = "data.json"
RESULTS_FILE = "train_results.json"
METRICS_FILE = "metrics.jsonl"
PROBABILITIES_FILE = "evaluation_probabilities.npy"  # (rows, labels), the rows as in data.json
# What may differ between a run and its continuation without changing the result.
FREE_ON_RESUME = {"output_dir", "training.report_to", "training.per_device_eval_batch_size"}


# --- before training -----------------------------------------------------------------------------


def require_unused(
    folder: Path, option: str = "--output-dir", other: str = "go on there with --resume, "
) -> None:
    """Raise `UsageError` when one would write among what is there, or cannot write at all.

    option: that names the folder. other: what else could be done.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    in_use = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if not in_use and not (there.is_dir() and os.access(there, os.W_OK)):
        reason = "may not be written to" if there.is_dir() else "is no folder"
        vain = "" if there == folder else f"cannot make {folder}: "
        raise UsageError(f"{vain}{there} {reason}; choose another {option}")
    if in_use and is_main_process():
        raise UsageError(f"{folder} is in use; choose another with {option}, {other}or remove it")


def require_same_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `UsageError` naming the first setting that differs from the run in `folder`."""
    for key in sorted(now.keys() | before.keys()):
        if key not in FREE_ON_RESUME and before.get(key) != now.get(key):
            raise UsageError(
                f"{key} was {before.get(key)!r} in {folder} and is {now.get(key)!r} now; resume "
                "with the same recipe, or start a new --output-dir"
            )


def data_record(splits: Mapping[str, Rows]) -> dict[str, Any]:
    """Hashes of the chosen rows, in order: what `data.json` holds."""
    hashes = {name: list(rows.hashes()) for name, rows in splits.items()}
    return {
        name: {
            "source": splits[name].source,
            "num_rows": len(found),
            "sha256": hash_of(found),
            "rows": found,
        }
        for name, found in hashes.items()
    }


def hash_of(hashes: Iterable[str]) -> str:
    """SHA-256 of rows' hashes, in order: stands for all the rows."""
    whole = hashlib.sha256()
    for found in hashes:
        whole.update(found.encode())
    return whole.hexdigest()


def save_data_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write `data.json`."""
    (folder / DATA_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def require_same_rows(folder: Path, record: Mapping[str, Any]) -> None:
    """Raise `UsageError` naming the first split whose rows differ from the run in `folder`."""
    try:
        stored = json.loads((folder / DATA_FILE).read_text(encoding="utf-8"))
        changed = [name for name in record if stored[name]["sha256"] != record[name]["sha256"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / DATA_FILE} is missing or damaged; start again") from error
    if changed:
        name = changed[0]
        raise UsageError(
            f"the rows of data.{name} changed since {folder} was started "
            f"({stored[name]['num_rows']:,} rows then, {record[name]['num_rows']:,} now, other "
            "hashes); restore them, or start a new --output-dir"
        )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`; empty when it has none.

    A run that is killed while writing leaves its last line cut off: that one is left out, and told
    of. Raises `DataError` when any other line is damaged.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    lines = content.split(b"\n")
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line) if line.strip() else None
        except ValueError as error:  # of JSON and of UTF-8
            if number < len(lines):
                raise DataError(
                    f"{path}, line {number} is damaged ({first_line(error)}); mend it, or move the "
                    "file away to do without the training curve"
                ) from error
            say(f"warning: {path} ends within line {number}, which is left out of the curve")
            continue
        if entry is None:
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
            raise DataError(
                f"{path}, line {number} is {line.decode()!r:.60}; an object with a step is "
                "expected; mend it, or move the file away to do without the training curve"
            )
        entries.append(entry)
    return entries


def seen_rows(folder: Path, rows: Rows, labels: Sequence[str]) -> dict[str, int]:
    """{split: how many of `rows` are among it, whatever their label}, of the run in `folder`.

    Empty when the folder does not say which rows it was trained on. The text must be the same to
    the letter: what is recorded are hashes.
    """
    path = folder / DATA_FILE
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        known = {name: set(split["rows"]) for name, split in record.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged: it cannot be told which test rows were trained on; restore or "
            "remove it"
        ) from error
    found = dict.fromkeys(known, 0)
    for text in rows.texts:
        hashes = [row_hash(text, label) for label in labels]
        for name in known:
            found[name] += not known[name].isdisjoint(hashes)
    return found


def require_single_run(folder: Path) -> None:
    """Raise `UsageError` when the folder holds a series of runs, each in a folder of its own."""
    parts = [path.parent.name.partition("-")[0] for path in folder.glob(f"*-*/{DATA_FILE}")]
    kind = next((kind for kind in ("seed", "size") if kind in parts), None)
    if kind is not None and not (folder / DATA_FILE).exists():
        raise UsageError(f"{folder} holds a series of runs; go on with --{kind}s … --resume")


def resume_command(folder: Path, option: str = "") -> str:
    """What to type to go on. option: that asks for a series, with its value."""
    num = num_processes()
    launch = f"accelerate launch --num_processes {num} -m " if num > 1 else ""
    series = f"{option} " if option else ""
    return f"{launch}sentilora train {series}--output-dir {folder} --resume"


def last_checkpoint(folder: Path, num_steps: int, patience: int) -> Path:
    """The checkpoint to go on from in a run of `num_steps`, or fewer with early stopping.

    Raises `UsageError` when the run is finished or was another number of processes', `DataError`
    when it has no checkpoint or a damaged one.
    """
    if (folder / RESULTS_FILE).is_file():
        raise UsageError(f"the run in {folder} is finished; there is nothing to resume")
    # A checkpoint is complete once trainer_state.json, which is written last, is there. Behind the
    # last step, early stopping's too, there is nothing to train: such a run goes on from the one
    # before, and ends as it would have.
    found = {
        int(path.parent.name.rpartition("-")[2]): path.parent
        for path in folder.glob("checkpoint-*/trainer_state.json")
        if path.parent.name.rpartition("-")[2].isdecimal()
    }
    found = {
        step: path
        for step, path in found.items()
        if step < num_steps and evaluations_in_vain(path) < (patience or math.inf)
    }
    if not found:
        raise DataError(f"{folder} has no checkpoint to resume from; remove it and start again")
    checkpoint = found[max(found)]
    for path in [*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")]:
        if not zipfile.is_zipfile(path):  # torch's files are; a truncated one is not
            raise DataError(f"{path} is damaged; remove {checkpoint} to go on from the one before")
    before, now = len(list(checkpoint.glob("rng_state*.pth"))), num_processes()
    if before and before != now:  # each leaves one
        raise UsageError(
            f"{checkpoint} was saved by {before} processes, here are {now}: a step would hold "
            f"other rows; resume with {before}, or start a new --output-dir"
        )
    return checkpoint


def evaluations_in_vain(checkpoint: Path) -> int:
    """How many evaluations early stopping has counted since the best one."""
    path = checkpoint / "trainer_state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))["stateful_callbacks"]
        stopping = state.get("EarlyStoppingCallback") or {"attributes": {}}
        return int(stopping["attributes"].get("early_stopping_patience_counter", 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged; remove {checkpoint} to go on from the one before"
        ) from error


# --- after training ------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingResult:
    """Where the adapter lies and how it did on the evaluation rows, after reloading it.

    step_seconds: median time of an optimizer step, without evaluations and saving. peak_memory_gib:
    most GPU memory allocated (None on a CPU). reload_difference: largest difference of a
    probability to the one seen while training.
    """

    output_dir: str
    metrics: "Metrics"
    best_step: int
    num_steps: int
    train_seconds: float
    step_seconds: float
    peak_memory_gib: float | None
    reload_difference: float

    def save(self, folder: Path) -> None:
        """Write `train_results.json`: from then on the run is finished."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / RESULTS_FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "TrainingResult":
        """What `save` wrote."""
        from sentilora.metrics import Metrics

        content = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        return cls(**{**content, "metrics": Metrics(**content["metrics"])})


def run_of(folder: Path) -> Path:
    """The run folder of an adapter: itself, for a checkpoint the one above."""
    return folder.absolute().parent if folder.name.startswith("checkpoint-") else folder
