"""Units of work: consecutive rows of an input, which become one file each.

    units = units_of(num_rows=5000, rows_per_unit=2048)     # three, of 2048, 2048 and 904 rows
    Share.parse("3/16").of(units)                           # the third of sixteen shares

The rows of a unit determine which texts share a pass, so its numbers do not depend on what else was
scored, when, or by which job.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from sentilora.data.streams import Stream
from sentilora.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

# About a minute's work, which is what a kill costs at most: 2,048 film reviews on two CPU cores.
ROWS_PER_UNIT = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Unit:
    """Rows `first` to `first + num_rows` of an input. number: from 0, of `count` units."""

    number: int
    count: int
    first: int
    num_rows: int

    @property
    def name(self) -> str:
        """What its files are called after: "00002-of-00016". Names sort as their rows do."""
        width = max(5, len(str(self.count)))
        return f"{self.number:0{width}}-of-{self.count:0{width}}"


def units_of(num_rows: int, rows_per_unit: int) -> list[Unit]:
    """The units of an input; one without rows for an input without rows."""
    count = max(1, -(-num_rows // rows_per_unit))
    firsts = [number * rows_per_unit for number in range(count)]
    return [
        Unit(number, count, first, min(rows_per_unit, num_rows - first))
        for number, first in enumerate(firsts)
    ]


@dataclass(frozen=True)
class Share:
    """One of `count` shares of the units, for one of as many jobs. number: counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The share in a text such as "3/16". Raises `UsageError` for anything else."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if match and 1 <= int(match[1]) <= int(match[2]):
            return cls(int(match[1]), int(match[2]))
        raise UsageError(
            f"`units` is {text!r:.60}",
            setting="units",
            seen=text,
            remedy="write the share and their number, counted from 1: 3/16",
        )

    def of(self, units: Sequence[Unit]) -> list[Unit]:
        """Its units: consecutive ones, so that the input is read from one place on."""
        first, end = (len(units) * n // self.count for n in (self.number - 1, self.number))
        return list(units[first:end])

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def rows_of(stream: Stream, units: Sequence[Unit]) -> "Iterator[tuple[Unit, pa.Table]]":
    """Each unit with its rows, read in one go. Rows of no unit are read over."""
    import pyarrow as pa

    if not units:
        return
    waiting = list(units)
    start = waiting[0].first
    pieces: list[pa.Table] = []
    while waiting and not waiting[0].num_rows:  # of an input without rows
        yield waiting.pop(0), stream.schema.empty_table()
    for table in stream.tables(start):
        end = start + len(table)
        while waiting and waiting[0].first < end:
            unit = waiting[0]
            begin = max(unit.first, start)
            pieces.append(table.slice(begin - start, unit.first + unit.num_rows - begin))
            if unit.first + unit.num_rows > end:
                break
            yield waiting.pop(0), pa.concat_tables(pieces)
            pieces = []
        start = end
        if not waiting:
            return
