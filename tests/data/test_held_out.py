"""held_out.py: one file becomes three splits that share no text."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.data.held_out import hold_out
from sentilora.data.near_duplicates import groups_of
from sentilora.data.rows import Rows
from sentilora.errors import DataError


def make(labels, texts=None):
    texts = texts or [
        f"{i} {i * 7919 % 1009} words of text number {i * i}" for i in range(len(labels))
    ]
    return Rows("x.csv", texts, list(labels))


@given(st.lists(st.sampled_from("abc"), min_size=10, max_size=120), st.integers(0, 5))
def test_the_parts_are_disjoint_and_the_test_rows_depend_on_the_seed_alone(labels, seed):
    rows = make(labels)
    train, evaluation, test = hold_out(rows, 0, seed)
    numbers = [*train.numbers, *evaluation.numbers, *test.numbers]
    assert sorted(numbers) == list(range(len(rows)))
    assert abs(len(test) - len(rows) / 5) <= 1 and abs(len(evaluation) - len(rows) / 10) <= 1
    other = hold_out(rows, 2, seed)
    assert len(other[1]) == 2 and other[2] == test
    assert hold_out(rows, 0, seed, with_evaluation=False)[2] == test


def test_every_label_is_everywhere_in_its_share():
    train, evaluation, test = hold_out(make("a" * 300 + "b" * 80 + "c" * 20), 0, 42)
    assert Counter(test.labels) == {"a": 60, "b": 16, "c": 4}
    assert Counter(evaluation.labels) == {"a": 30, "b": 8, "c": 2}
    assert Counter(train.labels) == {"a": 210, "b": 56, "c": 14}


def test_near_duplicates_stay_on_one_side():
    texts = [
        f"My parcel {i // 4} with the red ribbon did not arrive before the party of my aunt in "
        f"June, please send it to number {i // 4} again{'!' * (i % 4)}"
        for i in range(80)
    ]
    parts = hold_out(make("ab" * 40, texts), 0, 1)
    sides = [{text.split()[2] for text in part.texts} for part in parts]
    assert len(set.union(*sides)) == 20 and sum(map(len, sides)) == 20
    assert parts[1].notes == (
        "80 of 80 rows nearly repeat another: each such group is on one side of the split",
    )


def test_texts_that_are_all_alike_are_split_all_the_same():
    train, evaluation, test = hold_out(
        make("ab" * 20, ["the same words again and again"] * 40), 0, 1
    )
    assert len(train) and len(evaluation) and len(test)


def test_groups_are_transitive():
    words = [f"w{i}" for i in range(40)]
    texts = [" ".join(words[i : i + 36]) for i in range(5)]
    assert groups_of(texts) == [0] * 5
    assert groups_of(["a b c", "x y z", "a b c"]) == [0, 1, 0]


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match=r"x.csv has 9 rows, too few to hold out test and"):
        hold_out(make("ab" * 4 + "a"), 0, 1)
    with pytest.raises(DataError, match=r"data.num_evaluation=16 leaves no training rows: x.csv"):
        hold_out(make("ab" * 10), 16, 1)
