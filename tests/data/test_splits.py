"""splits.py: which rows train and which measure, none in both, the same for the same seed."""

from collections import Counter

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.data.rows import Columns, Rows
from sentilora.data.sources import load_rows
from sentilora.data.splits import (
    carve,
    label_weights,
    load_splits,
    load_test,
    require_every_label,
    sample,
    shuffled,
    stratified,
)
from sentilora.data.text import normalized
from sentilora.errors import DataError

COLUMNS = Columns(label_map={"neg": "negative", "pos": "positive"}, labels=("positive", "negative"))
TEXTS = [f"text {i}" for i in range(14)]
LABELS = ["positive", "negative"] * 7


def write(path, texts, labels):
    pd.DataFrame({"text": texts, "label": labels}).to_csv(path, index=False)
    return str(path)


def rows_of(num_rows, labels=("positive", "negative"), source="made up"):
    return Rows(source, [f"text {i}" for i in range(num_rows)],
                [labels[i % len(labels)] for i in range(num_rows)])  # fmt: skip


@given(st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_the_shuffle_is_the_one_of_datasets(num_rows, seed):
    import datasets

    table = datasets.Dataset.from_dict({"number": list(range(num_rows))})
    assert shuffled(num_rows, seed) == table.shuffle(seed)["number"][:]


def test_a_sample_is_the_beginning_of_the_shuffle():
    rows = rows_of(50)
    assert sample(rows, 8, 42, "data.num_test").texts == [
        rows.texts[i] for i in shuffled(50, 42)[:8]
    ]
    assert sorted(sample(rows, 0, 42, "data.num_test").texts) == sorted(rows.texts)
    with pytest.raises(DataError, match=r"data\.num_test asks for 51 rows, made up has 50; set "
                       r"data\.num_test=50 or less \(0 takes all\)"):  # fmt: skip
        sample(rows, 51, 42, "data.num_test")


def test_chosen_rows_keep_the_numbers_that_they_have_in_the_source():
    source = rows_of(60)
    assert source.numbers == range(60)
    train, held_out = carve(source, 20, 10, seed=42, balance="sample")
    for chosen in (sample(source, 7, 1, "x"), train, held_out, stratified(train, 6)):
        assert len(chosen.numbers) == len(chosen) < 60
        assert [source.texts[i] for i in chosen.numbers] == chosen.texts
        assert [source.labels[i] for i in chosen.numbers] == chosen.labels


def test_evaluation_rows_are_the_next_of_the_shuffle():
    rows = rows_of(50)
    train, held_out = carve(rows, 20, 10, seed=42)
    order = [rows.texts[i] for i in shuffled(50, 42)]
    assert (train.texts, held_out.texts) == (order[:20], order[20:30])


@given(st.lists(st.integers(0, 9), min_size=8, max_size=60), st.integers(0, 99), st.data())
def test_no_evaluation_text_is_a_training_text(numbers, seed, data):
    texts = [data.draw(st.sampled_from([f"Text {n}", f"text  {n}<br />", f" TEXT {n}"]))
             for n in numbers]  # fmt: skip
    rows = Rows("made up", texts, ["positive"] * len(texts))
    num_train = data.draw(st.integers(1, len(texts)))
    try:
        train, held_out = carve(rows, num_train, 0, seed)
    except DataError:
        taken = {normalized(texts[i]) for i in shuffled(len(texts), seed)[:num_train]}
        assert all(normalized(text) in taken for text in texts)
        return
    assert train.texts == [texts[i] for i in shuffled(len(texts), seed)[:num_train]]
    trained = {normalized(text) for text in train.texts}
    assert not trained & {normalized(text) for text in held_out.texts}
    left_out = len(texts) - len(train) - len(held_out)
    rest = [texts[i] for i in shuffled(len(texts), seed)[num_train:]]
    assert left_out == sum(normalized(text) in trained for text in rest)


@pytest.mark.parametrize(
    ("num_train", "num_evaluation"), [(60, 5), (45, 7), (50, 0), (0, 50), (0, 60), (2000, 400)]
)
@pytest.mark.parametrize("balance", ["none", "sample"])
def test_more_rows_than_there_are_is_refused(num_train, num_evaluation, balance):
    with pytest.raises(DataError, match=rf"made up has .*50|data\.num_train={num_train} and .*50"):
        carve(rows_of(50), num_train, num_evaluation, 1, balance)


def test_zero_takes_all_but_the_evaluation_rows():
    train, held_out = carve(rows_of(50), 0, 0, seed=1)
    assert (len(train), len(held_out)) == (40, 10)
    train, held_out = carve(rows_of(50), 0, 15, seed=1)
    assert (len(train), len(held_out)) == (35, 15)


def test_a_balanced_sample_has_as_many_of_each_label():
    rows = rows_of(120, ("positive", "positive", "positive", "negative"))
    train, held_out = carve(rows, 40, 20, 42, balance="sample")
    assert Counter(train.labels) == {"positive": 20, "negative": 20}
    assert len(held_out) == 20 and not set(train.texts) & set(held_out.texts)
    with pytest.raises(DataError, match="needs 50 rows of each label, made up has 30 of 'negative'"
                       r"; lower data\.num_train to 60 or use data\.balance=weights"):  # fmt: skip
        carve(rows, 100, 10, 42, balance="sample")
    train, held_out = carve(rows, 0, 20, 42, balance="sample")
    assert len(set(Counter(train.labels).values())) == 1 and 40 <= len(train) <= 60


def test_a_balanced_sample_of_a_source_of_its_own_takes_the_rarest_label_whole(tmp_path):
    texts = [f"text {i}" for i in range(40)]
    path = write(tmp_path / "x.csv", texts, ["pos", "pos", "pos", "neg"] * 10)
    train, _ = load_splits(
        train=path, evaluation="test", test="embedded", columns=COLUMNS, num_train=0,
        num_evaluation=10, seed=1, balance="sample",
    )  # fmt: skip
    assert Counter(train.labels) == {"positive": 10, "negative": 10}


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=99))
def test_weights_make_every_label_weigh_the_same(labels):
    weights = label_weights(labels)
    sums = Counter()
    for label in labels:
        sums[label] += weights[label]
    assert list(sums.values()) == pytest.approx([len(labels) / len(sums)] * len(sums))


# --- splits as the configuration asks


def splits(**changes):
    settings = {"train": "embedded", "evaluation": "train", "test": "embedded", "columns": COLUMNS,
             "num_train": 320, "num_evaluation": 80, "seed": 42, "balance": "none"}  # fmt: skip
    return load_splits(**{**settings, **changes})


def test_the_embedded_default_is_320_and_80():
    train, held_out = splits()
    assert (len(train), len(held_out)) == (320, 80)
    assert not set(train.texts) & set(held_out.texts)


def test_evaluation_may_come_from_the_test_rows_or_a_source_of_its_own(tmp_path):
    _, held_out = splits(evaluation="test", num_evaluation=0)
    assert sorted(held_out.texts) == sorted(load_rows("embedded", "test", COLUMNS).texts)
    path = write(tmp_path / "validation.csv", TEXTS, LABELS)
    for source in (path, str(tmp_path)):
        _, held_out = splits(evaluation=source, num_evaluation=5)
        assert held_out.texts == [TEXTS[i] for i in shuffled(14, 42)[:5]]
    with pytest.raises(DataError, match=r"data\.num_evaluation asks for 99 rows"):
        splits(evaluation=path, num_evaluation=99)
    with pytest.raises(DataError, match=r"data\.num_train asks for 500 rows"):
        splits(evaluation="test", num_train=500)


def test_one_class_only_is_refused_for_training(tmp_path):
    path = write(tmp_path / "x.csv", TEXTS, ["pos"] * 14)
    with pytest.raises(DataError, match=r"8 training rows of .*x\.csv, all of them 'positive'; "
                       r"training needs rows of at least two of positive, negative"):  # fmt: skip
        splits(train=path, num_train=8, num_evaluation=4)
    require_every_label(rows_of(2), ("positive", "negative"))


def test_test_rows_are_all_in_their_order_or_the_first_of_the_shuffle():
    every = load_test("embedded", COLUMNS, 0, 42)
    assert every.texts == load_rows("embedded", "test", COLUMNS).texts
    some = load_test("embedded", COLUMNS, 7, 42)
    assert some.texts == [every.texts[i] for i in shuffled(100, 42)[:7]]


def test_duplicates_that_leave_too_few_rows_are_named():
    rows = Rows("dups.csv", [f"text {i % 20}" for i in range(160)], ["a", "b"] * 80)
    with pytest.raises(DataError, match="160 rows, but only 0 of them are neither"):
        carve(rows, 64, 20, seed=42)
    with pytest.raises(DataError, match="remove the duplicates"):
        carve(Rows("same.csv", ["one"] * 150, ["a", "b"] * 75), 100, 0, seed=42)
    with pytest.raises(DataError, match="need more rows than"):
        carve(rows, 150, 20, seed=42)


# --- a subset of the training rows


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=80),
    st.integers(1, 80),
    st.integers(1, 80),
)
def test_subsets_are_nested_keep_the_shares_and_the_order(labels, one, other):
    rows = Rows("made up", [str(i) for i in range(len(labels))], labels)
    small, large = sorted((min(one, len(rows)), min(other, len(rows))))
    subset, larger = stratified(rows, small), stratified(rows, large)
    assert len(subset) == small and set(subset.texts) <= set(larger.texts)
    assert [int(text) for text in subset.texts] == sorted(int(text) for text in subset.texts)
    assert [labels[int(text)] for text in subset.texts] == subset.labels
    whole, part = Counter(labels), Counter(subset.labels)
    for label, count in whole.items():
        # Webster's may leave the quota by more than a row only with four labels or more.
        assert abs(part[label] - small * count / len(rows)) < (1 if len(whole) < 4 else 1.5)


def test_all_rows_are_their_own_subset_and_more_are_refused():
    rows = rows_of(20)
    assert stratified(rows, 20) == rows.take(range(20))
    assert Counter(stratified(rows, 10).labels) == {"positive": 5, "negative": 5}
    with pytest.raises(DataError, match="asks for 21 rows, there are 20 training rows of made up"):
        stratified(rows, 21)


def test_a_subset_leaves_the_evaluation_rows_as_they_are(tmp_path):
    path = write(tmp_path / "rows.csv", TEXTS, LABELS)
    settings = dict(train=path, evaluation="train", test="embedded", columns=COLUMNS, num_train=8,
                 num_evaluation=4, seed=42, balance="none")  # fmt: skip
    train, held_out = load_splits(**settings)
    subset, same = load_splits(**settings, num_train_subset=4)
    assert same == held_out and subset == stratified(train, 4) and len(subset) == 4
    assert load_splits(**settings, num_train_subset=0) == (train, held_out)
