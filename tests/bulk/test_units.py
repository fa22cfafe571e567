"""units.py: which rows a unit has, whatever pieces they are read in."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentilora.bulk.units import Share, rows_of, units_of
from sentilora.data.streams import Stream
from sentilora.errors import UsageError


def stream_of(num_rows, piece):
    """Numbers as rows, read from a piece's beginning on as a row group is."""
    table = pa.table({"n": pa.array(range(num_rows), pa.int64())})

    def read(first):
        for start in range(first // piece * piece, num_rows, piece):
            yield start, table.slice(start, piece)

    return Stream(table.schema, num_rows, read, lambda digest: None)


@settings(max_examples=60)
@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5), st.data())
def test_every_row_is_in_one_unit_of_one_share(num_rows, per_unit, piece, count, data):
    units = units_of(num_rows, per_unit)
    assert sum(unit.num_rows for unit in units) == num_rows and units[0].count == len(units)
    shares = [Share(number, count).of(units) for number in range(1, count + 1)]
    assert [unit for share in shares for unit in share] == units
    some = data.draw(st.lists(st.sampled_from(units), unique=True))
    chosen = sorted(some, key=lambda unit: unit.number)
    read = list(rows_of(stream_of(num_rows, piece), chosen))
    assert [unit for unit, _ in read] == chosen
    for unit, table in read:
        assert table["n"].to_pylist() == list(range(unit.first, unit.first + unit.num_rows))


def test_names_of_many_units_sort_as_their_rows_do():
    """A billion rows are 122,071 units of 8,192: part-100000 came before part-99999."""
    names = [unit.name for unit in units_of(10**9, 8192)]
    assert names == sorted(names) and names[-1] == "122070-of-122071"
    assert units_of(80, 10)[2].name == "00002-of-00008"


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "-1/2", "1/2/3", "", "１/２x"])
def test_a_share_is_a_number_of_a_number(text):
    with pytest.raises(UsageError, match=r"`units` is .*3/16") as error:
        Share.parse(text)
    assert error.value.setting == "units"


def test_a_share_has_consecutive_units():
    assert [unit.number for unit in Share.parse("2/3").of(units_of(80, 10))] == [2, 3, 4]
    assert Share.parse("1/16").of(units_of(8, 8)) == []
