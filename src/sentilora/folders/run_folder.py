"""A run folder: its files (hashes of the rows, results), and whether a run may use it.

A folder in use is never overwritten, and a run is resumed only with the recipe and the rows that it
started with. Settings are `{"section.key": value}`, as in the run's recipe.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from sentilora.data.rows import Rows, row_hash
from sentilora.errors import DataError, UsageError, first_line
from sentilora.folders.checkpoints import checkpoints
from sentilora.folders.claim import contents, require_free
from sentilora.folders.classifier_file import may_stand_for
from sentilora.folders.records import STRICT, Record
from sentilora.metrics import Metrics
from sentilora.progress import is_main_process, say
from sentilora.wording import quoted

METRICS_FILE = "metrics.jsonl"
PROBABILITIES_FILE = "evaluation_probabilities.npy"  # (rows, labels), the rows as in data.json
# Settings that may change when a run is resumed: they do not affect its result.
FREE_ON_RESUME = {"output_dir", "training.report_to", "training.per_device_eval_batch_size"}

Measured = Annotated[float, Field(ge=0, allow_inf_nan=False)]

_METRICS_REMEDY = "repair it, or move the file away to do without the training curve"

# --- records -------------------------------------------------------------------------------------


@dataclass(frozen=True, config=STRICT)
class SplitRecord:
    """The rows of one split: their SHA-256 hashes in order, and one hash over all of them.

    sha256: over the hashes, and over the rows' shares if their labels are soft.
    """

    source: str
    num_rows: int
    sha256: str
    rows: list[str]

    @classmethod
    def of(cls, rows: Rows) -> "SplitRecord":
        """The record of a split's rows."""
        hashes = list(rows.hashes())
        digest = hash_of([*hashes, *map(repr, rows.shares)])
        return cls(rows.source, len(hashes), digest, hashes)


class DataRecord(Record):
    """The rows that a run is trained and evaluated on. A split is None if it is not recorded.

    test: test rows that were held out of the training source; None for others.
    """

    FILE: ClassVar[str] = "data.json"
    REMEDY: ClassVar[str] = "restore it, or remove it"
    MAX_BYTES: ClassVar[int] = 2**31  # 69 bytes per row

    train: SplitRecord | None = None
    evaluation: SplitRecord | None = None
    test: SplitRecord | None = None

    @classmethod
    def of(cls, train: Rows, evaluation: Rows, test: Rows | None = None) -> Self:
        """The record of a run on these rows. test: if held out of the training source."""
        return cls(
            train=SplitRecord.of(train),
            evaluation=SplitRecord.of(evaluation),
            test=None if test is None else SplitRecord.of(test),
        )

    def content(self) -> dict[str, Any]:
        """The values to write, without splits that are not recorded."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def splits(self) -> dict[str, SplitRecord]:
        """{name: record} of the splits that training sees, as far as they are recorded."""
        splits = {"train": self.train, "evaluation": self.evaluation}
        return {name: split for name, split in splits.items() if split is not None}


class Choices(Record):
    """What was chosen to fit a run's or a series' data.

    settings: each automatic value's setting with its reason. learning_rates: log-loss at each rate
    of a search, None where training diverged.
    """

    FILE: ClassVar[str] = "choices.json"
    REMEDY: ClassVar[str] = "remove it"

    settings: dict[str, str] = Field(default_factory=dict)
    learning_rates: dict[str, Measured | None] = Field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The record in a folder, or an empty one if the folder has none."""
        return cls.load(folder) if (folder / cls.FILE).is_file() else cls()


class TrainingResult(Record):
    """Where the adapter is, and its metrics on the evaluation rows after it was reloaded.

    step_seconds: median time of an optimizer step, without evaluation and saving. peak_memory_gib:
    peak of allocated GPU memory; None on a CPU. reload_difference: largest difference between a
    probability after reloading and the same one in training. chosen: settings that were chosen to
    fit the data, each with its reason. learning_rates: log-loss at each rate of a search, None
    where training diverged. shortfall: why the metrics show no learning, None if they do. remedies:
    what to try then, in order. A run with this file is finished.
    """

    FILE: ClassVar[str] = "train_results.json"
    REMEDY: ClassVar[str] = "remove the file and finish the run with `resume`, or train again"

    output_dir: str
    metrics: Metrics
    best_step: Annotated[int, Field(ge=0)]
    num_steps: Annotated[int, Field(ge=1)]
    train_seconds: Measured
    step_seconds: Measured
    peak_memory_gib: Measured | None
    reload_difference: Measured
    chosen: dict[str, str] = Field(default_factory=dict)
    learning_rates: dict[str, Measured | None] = Field(default_factory=dict)
    shortfall: str | None = None
    remedies: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _figures_agree(self) -> Self:
        metrics = self.metrics
        num_right = sum(row[i] for i, row in enumerate(metrics.confusion) if i < len(row))
        if sum(map(sum, metrics.confusion)) != metrics.num_rows:
            raise ValueError("its 'confusion' does not add up to its 'num_rows'")
        if abs(num_right / metrics.num_rows - metrics.accuracy) > 1e-9:
            raise ValueError("its 'accuracy' is not that of its 'confusion'")
        return self


class Divergence(Record):
    """Left in a run's folder by a run that diverged. problem: how that showed, as a sentence."""

    FILE: ClassVar[str] = "divergence.json"
    REMEDY: ClassVar[str] = "remove it"

    problem: str

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """The record in a run's folder; None if the run did not diverge."""
        return cls.load(folder) if (folder / cls.FILE).is_file() else None


def hash_of(hashes: Iterable[str]) -> str:
    """SHA-256 over the hashes of rows, in order: one hash for all the rows."""
    digest = hashlib.sha256()
    for row in hashes:
        digest.update(row.encode())
    return digest.hexdigest()


# --- before a run --------------------------------------------------------------------------------


def require_unused(
    folder: Path,
    keyword: str = "output_dir",
    alternative: str = ", or remove it",
) -> None:
    """Raise `UsageError` when a folder is in use or cannot be written to.

    keyword: the keyword that sets the folder. alternative: other remedies.
    """
    if not _is_in_use(folder):
        require_writable(folder, keyword)
    elif is_main_process():
        require_free(folder)
        use, resuming = _use_of(folder)
        raise UsageError(
            f"{quoted(folder)} {use}",
            setting=keyword,
            seen=str(folder),
            remedy=f"choose another `{keyword}`{alternative and resuming}{alternative}",
        )


def _use_of(folder: Path) -> tuple[str, str]:
    """What a folder is in use for, and how to resume that if it is possible, as clauses."""
    if (folder / TrainingResult.FILE).is_file():
        return "holds a finished run", ""
    if (folder / DataRecord.FILE).is_file():
        if checkpoints(folder):
            return "holds a run that is not finished", ", resume that run with `resume`"
        return "holds a run that has no checkpoint", ""
    if kind := _kind_of_series(folder):
        return "holds a series of runs", f", resume it with `resume` and `{kind}s`"
    return "is in use", ""


def _is_in_use(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or bool(contents(folder)))


def require_writable(folder: Path, keyword: str = "output_dir") -> None:
    """Raise `UsageError` when a folder cannot be created, or cannot be written to.

    keyword: the keyword that sets the folder.
    """
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        reason = "may not be written to" if parent.is_dir() else "is not a folder"
        failed = "" if parent == folder else f"cannot create {quoted(folder)}: "
        raise UsageError(
            f"{failed}{quoted(parent)} {reason}",
            setting=keyword,
            seen=str(folder),
            remedy=f"choose another `{keyword}`",
        )


def require_same_settings(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `UsageError` about the first setting that differs from the run in `folder`."""
    for key in sorted(now.keys() | before.keys()):
        if key == "base.name" and may_stand_for(before[key], now[key]):
            continue
        if key not in FREE_ON_RESUME and before.get(key) != now.get(key):
            raise UsageError(
                f"{key} was {before.get(key)!r} in {quoted(folder)} and is {now.get(key)!r} now",
                setting=key,
                seen=now.get(key),
                remedy="resume with the same recipe, or choose a new `output_dir`",
            )


def require_same_rows(folder: Path, record: DataRecord) -> None:
    """Raise `UsageError` about the first split whose rows differ from the run in `folder`.

    Raises `DataError` when the run's own record is missing or damaged.
    """
    remedy = "restore it, or train again in another `output_dir`"
    try:
        before = DataRecord.load(folder).splits
    except DataError as error:
        error.remedy = remedy  # without it nobody knows whether these are the run's rows
        raise
    for name, split in record.splits.items():
        if name not in before:
            raise DataError(
                f"{quoted(folder / DataRecord.FILE)} is damaged: it has no {name!r}",
                setting=DataRecord.FILE,
                remedy=remedy,
            )
        if before[name].sha256 != split.sha256:
            raise UsageError(
                f"the rows of data.{name} have changed since the run in {quoted(folder)} was "
                f"started ({before[name].num_rows:,} rows then, {split.num_rows:,} now; hashes "
                "differ)",
                setting=f"data.{name}",
                remedy="restore them, or train anew in another `output_dir`",
            )


def require_single_run(folder: Path) -> None:
    """Raise `UsageError` when a folder holds a series of runs, each in a subfolder."""
    if kind := _kind_of_series(folder):
        raise UsageError(
            f"{quoted(folder)} holds a series of runs",
            setting="output_dir",
            seen=str(folder),
            remedy=f"resume it with `resume` and `{kind}s`",
        )


def _kind_of_series(folder: Path) -> str | None:
    """What the runs of a series in a folder differ by, "seed" or "size"; None without a series."""
    name = DataRecord.FILE
    if (folder / name).exists():
        return None
    parts = [path.parent.name.partition("-")[0] for path in folder.glob(f"*-*/{name}")]
    return next((kind for kind in ("seed", "size") if kind in parts), None)


# --- after a run ---------------------------------------------------------------------------------


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's `metrics.jsonl`, one per line; empty if there is no such file.

    A run that is killed while writing leaves an incomplete last line. It is left out, with a
    warning. Raises `DataError` when any other line is damaged.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {quoted(path)}: {first_line(error)}",
            setting=METRICS_FILE,
            seen=str(path),
            remedy=_METRICS_REMEDY,
        ) from error
    lines = content.split(b"\n")
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
            if number < len(lines):
                raise DataError(
                    f"{quoted(path)}, line {number} is damaged ({first_line(error)})",
                    setting=METRICS_FILE,
                    seen=line.decode(errors="replace"),
                    remedy=_METRICS_REMEDY,
                ) from error
            say(
                f"warning: {quoted(path)} ends within line {number}, which is left out of the curve"
            )
            continue
        if entry is None:
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
            raise DataError(
                f"{quoted(path)}, line {number} is {line.decode()!r:.60}; an object with a step is "
                "expected",
                setting=METRICS_FILE,
                seen=line.decode(),
                remedy=_METRICS_REMEDY,
            )
        entries.append(entry)
    return entries


def seen_rows(folder: Path, rows: Rows, labels: Sequence[str]) -> dict[str, int]:
    """{split: number of `rows` that are also in this split of the run in `folder`}.

    Labels are ignored, but the text must be identical, as the run records only hashes. Empty if the
    folder does not record its rows.
    """
    if not (folder / DataRecord.FILE).is_file():
        return {}
    splits = {name: set(split.rows) for name, split in DataRecord.load(folder).splits.items()}
    num_seen = dict.fromkeys(splits, 0)
    for item in rows.inputs:
        hashes = [row_hash(item, label) for label in labels]
        for name in splits:
            num_seen[name] += not splits[name].isdisjoint(hashes)
    return num_seen
