"""An input of any size, scored unit by unit: what is done stays done, whatever happens then.

score_input(job, partial(score_here, load), Share.parse("3/16"))
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.bulk.answers import classify_rows, predictions_of
from sentilora.bulk.manifest import Manifest, computation_of
from sentilora.bulk.results import JOINED, Results
from sentilora.bulk.units import Share, Unit, rows_of, units_of
from sentilora.data.rows import row_place
from sentilora.data.streams import Stream
from sentilora.errors import DataError, Interrupted, SentiloraError, UsageError
from sentilora.folders.claim import claim, contents, require_free
from sentilora.places import is_remote
from sentilora.progress import Progress, say
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier
from sentilora.wording import counted, quoted

if TYPE_CHECKING:
    import pyarrow as pa

    from sentilora.scoring.batching import PassSizes


@dataclass(frozen=True)
class Job:
    """What is to be scored, and where to.

    columns: that of the texts, then the others that the prompt shows. manifest: of now, without
    what is known only once the model is loaded.
    """

    stream: Stream
    columns: Sequence[str]
    results: Results
    manifest: Manifest

    def units(self) -> list[Unit]:
        """All units of the input."""
        return units_of(self.stream.num_rows, self.manifest.rows_per_unit)

    def write(self, unit: Unit, table: "pa.Table", predictions: Sequence[Prediction]) -> None:
        """Write a unit. table: its rows. A row that could not be read has this as its reason."""
        faults = self.stream.faults
        if faults:
            predictions = [
                Prediction.without_answer(None, faults[row]) if row in faults else prediction
                for row, prediction in enumerate(predictions, unit.first)
            ]
        self.results.write(unit, table, predictions)


# Scores units that are not done, given the manifest that the folder had, and returns those that
# failed: all their rows are in the rejects.
Score = Callable[[Job, Manifest | None, Sequence[Unit]], Sequence[Unit]]


def score_input(
    job: Job, score: Score, share: Share | None = None, *, keep: bool = False
) -> list[Prediction]:
    """Score the units that are not done yet, all or those of a share.

    score: called unless nothing is left to do. Returns the predictions of all rows if `keep`, where
    one file is made of the units; else none, because they may be more than memory holds.

    Raises `UsageError` when the folder holds units of another manifest, or another job works there,
    `Interrupted` when the user pressed Ctrl-C, `SentiloraError` when units failed.
    """
    results, units = job.results, job.units()
    mine = units if share is None else share.of(units)
    with _claimed(results, share):
        recorded = recorded_manifest(results.folder)
        if recorded is not None:
            recorded.require_same(job.manifest, results.folder)
        # Of a job that was killed while it removed its units, the file itself is complete.
        is_over = results.is_joined and not keep
        pending = [unit for unit in mine if not (is_over or results.is_done(unit))]
        if len(pending) < len(mine):
            say(f"{len(mine) - len(pending):,} of {counted(len(mine), 'unit')} done before")
        if pending:
            require_new(results.whole)
            with _interruptible(results, mine):
                failed = score(job, recorded, pending)
            if failed:
                _report(job, mine, share, failed)
                raise _failure(failed)
        predictions = _kept(job, units) if keep else []
        if results.whole is not None and not results.whole.exists():
            results.join(units)
            results.note_joined()
        _report(job, mine, share)
        if results.whole is not None:
            _clear(results.folder)
    return predictions


def score_here(
    load: Callable[[], Classifier], job: Job, recorded: Manifest | None, pending: Sequence[Unit]
) -> Sequence[Unit]:
    """Score units in this process. load: loads the classifier."""
    classifier = load()
    settle(job, recorded, lambda sizes: computation_of(classifier, sizes))
    with Progress("classifying", sum(unit.num_rows for unit in pending)) as progress:
        for unit, table in rows_of(job.stream, pending):
            predictions = classify_rows(classifier, table, job.columns, progress.advance)
            if classifier.scorer.restore_passes():
                warn_of_smaller_passes(unit)
            job.write(unit, table, predictions)
    return []


def warn_of_smaller_passes(unit: Unit) -> None:
    """Print that the last digits of a unit depend on the memory that was free."""
    say(
        f"warning: unit {unit.name} was scored in smaller passes, because memory "
        "ran out; the last digits of its probabilities may differ in another run"
    )


def settle(
    job: Job,
    recorded: Manifest | None,
    compute: "Callable[[PassSizes | None], dict[str, Any]]",
) -> Manifest:
    """Compute as recorded, or record how; returns what is recorded then.

    compute: makes a loaded classifier compute in passes of these sizes, or of its own, and returns
    how it computes. Raises `UsageError` if it is not as recorded.
    """
    sizes = None if recorded is None else recorded.pass_sizes
    now = job.manifest.model_copy(update={"computation": compute(sizes)})
    if recorded is None:
        recorded = now.create(job.results.folder)
        if recorded.pass_sizes != now.pass_sizes:  # another share was first
            now = now.model_copy(update={"computation": compute(recorded.pass_sizes)})
    recorded.require_same(now, job.results.folder)
    return recorded


@contextmanager
def _interruptible(results: Results, mine: Sequence[Unit]) -> Iterator[None]:
    """Within a `with` block, Ctrl-C is an orderly end, because what is done is kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        num_done = sum(map(results.is_done, mine))
        raise Interrupted(
            f"interrupted: {num_done:,} of {counted(len(mine), 'unit')} done",
            remedy="the same command goes on from there",
        ) from error


def _failure(failed: Sequence[Unit]) -> SentiloraError:
    names = ", ".join(unit.name for unit in failed[:3]) + ", …" * (len(failed) > 3)
    return SentiloraError(
        f"{counted(len(failed), 'unit')} failed: {names}",
        remedy="the same command tries again",
    )


def require_new(path: Path | None) -> None:
    """Raise `UsageError` if a file to write exists already."""
    if path is not None and path.exists():
        raise UsageError(
            f"{quoted(path)} exists",
            setting="output",
            seen=str(path),
            remedy="remove it, or choose another file",
        )


def recorded_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder, if there is one. Raises `UsageError` if it is none of ours."""
    if not (folder / Manifest.FILE).is_file():
        return None
    try:
        return Manifest.load(folder)
    except DataError as error:
        raise UsageError(
            f"the folder {quoted(folder)} holds other files, or damaged ones: {error.problem}",
            setting="output",
            seen=str(folder),
            remedy=error.remedy,
        ) from error


def _kept(job: Job, units: Sequence[Unit]) -> list[Prediction]:
    return [
        prediction
        for unit, table in rows_of(job.stream, units)
        for prediction in predictions_of(
            table, job.results.answers(unit), job.columns[0], job.results.labels
        )
    ]


def _report(
    job: Job, mine: Sequence[Unit], share: Share | None, failed: Sequence[Unit] = ()
) -> None:
    """Print how many rows were written, and where, and how many have no answer."""
    results = job.results
    rejects = results.rejects(mine)
    first = next(rejects, None)
    num_rejects = 0 if first is None else 1 + sum(1 for _ in rejects)
    if first is not None:
        which = "" if num_rejects == 1 else "the first of them "
        where = f" (all in {quoted(results.rejects_glob)})"
        say(
            f"{counted(num_rejects, 'row')} without an answer, {which}{row_place(first.row)}: "
            f"{first.reason}{where if results.whole is None or failed else ''}"
        )
    num_rows = sum(unit.num_rows for unit in mine)
    if results.whole is None:
        of_share = "" if share is None else f"share {share}: "
        say(
            f"{of_share}{counted(num_rows - num_rejects, 'row')} written to "
            f"{quoted(results.folder)} in {counted(len(mine) - len(failed), 'file')}"
        )
    elif not failed:
        say(f"{counted(num_rows, 'row')} written to {quoted(results.whole)}")


@contextmanager
def _claimed(results: Results, share: Share | None) -> Iterator[None]:
    """Within a `with` block, no other job works on these units.

    A job that makes one file and fails before its first unit is done leaves no folder.
    """
    folder = results.folder
    own = folder  # a share claims a folder of its own
    if share is not None and not is_remote(folder):
        own = folder / f".share-{share.number}-of-{share.count}"
    with _claim(own, folder):
        if not _is_ours(folder):
            raise UsageError(
                f"the folder {quoted(folder)} holds other files",
                setting="output",
                seen=str(folder),
                remedy="choose a new or an empty folder as `output`",
            )
        try:
            yield
        except BaseException:
            if results.whole is not None and not any(folder.glob("part-*")):
                _clear(folder)
            raise
    for place in {own, folder} if results.whole is not None else {own} - {folder}:
        with suppress(OSError):  # in use, or removed already
            place.rmdir()


def _claim(own: Path, folder: Path) -> AbstractContextManager[Any]:
    """The claim on a folder of units, or on a share of it. Raises `UsageError` if it is held."""
    if is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)
        say(f"warning: nothing keeps other jobs out of {quoted(folder)}: its storage has no locks")
        return nullcontext()
    try:
        if own == folder:
            for share in folder.glob(".share-*"):
                require_free(share)
                shutil.rmtree(share, ignore_errors=True)  # of a job that was killed
        return claim(own)
    except UsageError as error:
        raise UsageError(
            error.problem,
            setting="output",
            seen=error.seen,
            remedy="wait until it ends, or choose another `output`",
        ) from error


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds units, or nothing that a user put there."""
    is_empty = not folder.exists() or all(path.name.startswith(".") for path in contents(folder))
    return is_empty or (folder / Manifest.FILE).is_file()


def _clear(folder: Path) -> None:
    """Remove the files in a folder, the manifest last: without it the others are no units."""
    last = {JOINED: 1, Manifest.FILE: 2}
    for path in sorted(contents(folder), key=lambda path: last.get(path.name, 0)):
        if path.is_file():
            path.unlink()
