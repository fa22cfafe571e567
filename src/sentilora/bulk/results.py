"""The files of a folder of units, and the one file that they are joined to where one was named.

    part-00002-of-00016.parquet       the rows of a unit, with their predictions
    rejects-00002-of-00016.jsonl      number and reason of those without an answer, if there are any

A unit is done when its part exists: each file is written aside, put on the disk and renamed. Where
one file is made of the units, rows without an answer stay in place, and the parts are streams of
Arrow, which hold any schema as it is.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sentilora.bulk.answers import REASON, prediction_columns
from sentilora.bulk.units import Unit
from sentilora.data.columns import items_of
from sentilora.data.output import Encoding, encode_table, write_encoded, write_pieces
from sentilora.disk import written_aside
from sentilora.errors import DataError, SentiloraError
from sentilora.scoring.answers import Prediction
from sentilora.wording import counted, quoted

if TYPE_CHECKING:
    import pyarrow as pa

_STREAM = ".arrow"
JOINED = ".joined"  # in the folder of the units, once the file that is made of them is complete


class Reject(NamedTuple):
    """A row without an answer: its number in the input, counted from 0, and why."""

    row: int
    reason: str


@dataclass(frozen=True)
class Results:
    """The units in a folder. encoding: of the input's columns. labels: of the classifier.

    whole: the file that is made of the units; None where they are the result. has_sets: whether
    predictions have sets of labels.
    """

    folder: Path
    encoding: Encoding
    labels: Sequence[str]
    suffix: str
    whole: Path | None = None
    has_sets: bool = False

    def part(self, unit: Unit) -> Path:
        """The file with a unit's rows."""
        suffix = self.suffix if self.whole is None else _STREAM
        return self.folder / f"part-{unit.name}{suffix}"

    def is_done(self, unit: Unit) -> bool:
        """Whether a unit has been scored and written."""
        return self.part(unit).exists()

    def write(self, unit: Unit, table: "pa.Table", predictions: Sequence[Prediction]) -> None:
        """Write a unit. table: its rows.

        Raises `SentiloraError` if there are not as many predictions as rows in the unit.
        """
        import pyarrow as pa

        if not unit.num_rows == len(table) == len(predictions):
            raise SentiloraError(
                f"unit {unit.name} has {counted(unit.num_rows, 'row')}, of which {len(table):,} "
                f"were read and {len(predictions):,} answered"
            )
        rejects = [
            Reject(unit.first + place, prediction.reason)
            for place, prediction in enumerate(predictions)
            if prediction.reason is not None
        ]
        self._write_rejects(unit, rejects)
        answers = prediction_columns(predictions, self.labels, self.has_sets)
        if self.whole is not None:
            with written_aside(self.part(unit)) as partial:
                joined_rows = _beside(self.encoding.encode(table), answers)
                with pa.ipc.new_stream(str(partial), joined_rows.schema) as writer:
                    writer.write_table(joined_rows)
            return
        # What the format cannot hold may be why a row has no answer: half of a surrogate pair.
        unanswered = [reject.row - unit.first for reject in rejects]
        rows = self.encoding.encode(_without(table, unanswered))
        kept = _without(answers.drop_columns([REASON]), unanswered)
        write_encoded(_beside(rows, encode_table(kept, self.part(unit))), self.part(unit))

    def reject(self, unit: Unit, reason: str) -> None:
        """Write every row of a unit to its rejects. The unit is not done: another job may do it."""
        rows = range(unit.first, unit.first + unit.num_rows)
        self._write_rejects(unit, [Reject(row, reason) for row in rows])

    def _write_rejects(self, unit: Unit, rejects: Sequence[Reject]) -> None:
        if not rejects:
            self._rejects(unit).unlink(missing_ok=True)  # of a job in which the unit failed
            return
        with written_aside(self._rejects(unit)) as partial:
            lines = [json.dumps(reject._asdict(), ensure_ascii=True) for reject in rejects]
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def rejects(self, units: Sequence[Unit]) -> Iterator[Reject]:
        """The rows of units without an answer."""
        for unit in units:
            if self._rejects(unit).exists():
                for line in self._rejects(unit).read_text(encoding="utf-8").splitlines():
                    yield Reject(**json.loads(line))

    @property
    def rejects_glob(self) -> Path:
        """A pattern for the files of rows without an answer."""
        return self.folder / "rejects-*.jsonl"

    def _rejects(self, unit: Unit) -> Path:
        return self.folder / f"rejects-{unit.name}.jsonl"

    def answers(self, unit: Unit) -> "pa.Table":
        """The columns of a unit's predictions, where one file is made of the units."""
        table = self._read(unit)
        return table.select(range(table.num_columns - self._num_added, table.num_columns))

    def join(self, units: Sequence[Unit]) -> None:
        """Make one file of all units. The column `reason` is in it if a row has no answer.

        Raises `SentiloraError` if a unit has other rows than it should.
        """
        has_reasons = any(self._rejects(unit).exists() for unit in units)
        pieces = (self._piece(unit, has_reasons) for unit in units)
        first = next(pieces)
        if self.whole is not None:
            write_pieces(first.schema, _with_first(first, pieces), self.whole)

    def note_joined(self) -> None:
        """Record that the whole file is complete, before the first unit is removed."""
        (self.folder / JOINED).touch()

    @property
    def is_joined(self) -> bool:
        """Whether the single file is complete. Some of its units may have been removed since."""
        return self.whole is not None and self.whole.exists() and (self.folder / JOINED).exists()

    def _piece(self, unit: Unit, has_reasons: bool) -> "pa.Table":
        """The rows of a unit as the whole file holds them."""
        table = self._read(unit)
        if len(table) != unit.num_rows:
            raise SentiloraError(
                f"{quoted(self.part(unit))} has {counted(len(table), 'row')} instead of "
                f"{unit.num_rows:,}",
                remedy="remove it and start again: the other units are kept",
            )
        num_columns = table.num_columns - self._num_added
        answers = self.answers(unit) if has_reasons else self.answers(unit).drop_columns([REASON])
        rows = table.select(range(num_columns))
        return _beside(rows, encode_table(answers, self.encoding.path))

    @property
    def _num_added(self) -> int:
        return len(prediction_columns([], self.labels, self.has_sets).column_names)

    def _read(self, unit: Unit) -> "pa.Table":
        import pyarrow as pa

        with self.part(unit).open("rb") as file, pa.ipc.open_stream(file) as reader:
            return reader.read_all()


def _beside(table: "pa.Table", columns: "pa.Table") -> "pa.Table":
    for name in columns.column_names:
        table = table.append_column(name, columns[name])
    return table


def answerable(table: "pa.Table", columns: Sequence[str]) -> "pa.Table":
    """The rows that can be classified. columns: of the texts, then the others of the prompt."""
    text, *others = columns
    items = items_of(table, text, others)
    faulty = [place for place, item in enumerate(items) if isinstance(item, DataError)]
    return _without(table, faulty) if faulty else table


def _without(table: "pa.Table", places: Sequence[int]) -> "pa.Table":
    """The table without the rows at these places. Arrow cannot filter columns of every type."""
    import pyarrow as pa

    starts, ends = [0, *(place + 1 for place in places)], [*places, len(table)]
    pairs = zip(starts, ends, strict=True)
    return pa.concat_tables([table.slice(start, end - start) for start, end in pairs])


def _with_first(first: "pa.Table", others: "Iterator[pa.Table]") -> "Iterator[pa.Table]":
    yield first
    yield from others
