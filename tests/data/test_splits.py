"""splits.py: which rows train and which measure, none in both, the same for the same seed."""

from collections import Counter

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.data.loading import load_splits, load_test
from sentilora.data.rows import Columns, Rows
from sentilora.data.sources import load_rows
from sentilora.data.splits import (
    carve,
    label_weights,
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
    with pytest.raises(DataError, match=r"data\.num_test asks for 51 rows, 'made up' has 50; set "
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
    with pytest.raises(
        DataError, match=rf"'made up' has .*50|data\.num_train={num_train} and .*50"
    ):
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
    said = "needs 50 rows of each label, 'made up' has 30 of 'negative'; "
    remedy = r"lower data\.num_train to 60 or use data\.balance=weights"
    with pytest.raises(DataError, match=said + remedy):
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
             "num_train": 240, "num_evaluation": 60, "seed": 42, "balance": "none"}  # fmt: skip
    return load_splits(**{**settings, **changes})


def test_the_embedded_default_is_240_and_60():
    train, held_out = splits()
    assert (len(train), len(held_out)) == (240, 60)
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
    with pytest.raises(DataError, match=r"data\.num_train asks for 5,000 rows"):
        splits(evaluation="test", num_train=5000)


def test_one_class_only_is_refused_for_training(tmp_path):
    path = write(tmp_path / "x.csv", TEXTS, ["pos"] * 14)
    with pytest.raises(DataError, match=r"8 training rows of .*x\.csv, all of them 'positive'; "
                       r"training needs rows of at least two of positive, negative"):  # fmt: skip
        splits(train=path, num_train=8, num_evaluation=4)
    require_every_label(rows_of(2), ("positive", "negative"))


def test_test_rows_are_all_in_their_order_or_the_first_of_the_shuffle():
    every = load_test("embedded", "embedded", COLUMNS, 0, 42)
    assert every.texts == load_rows("embedded", "test", COLUMNS).texts
    some = load_test("embedded", "embedded", COLUMNS, 7, 42)
    assert some.texts == [every.texts[i] for i in shuffled(len(every), 42)[:7]]


def test_duplicates_that_leave_too_few_rows_are_named():
    rows = Rows("dups.csv", [f"text {i % 20}" for i in range(160)], ["a", "b"] * 80)
    with pytest.raises(DataError, match="160 rows, but only 0 of them are neither"):
        carve(rows, 64, 20, seed=42)
    with pytest.raises(DataError, match="remove the duplicates"):
        carve(Rows("same.csv", ["one"] * 150, ["a", "b"] * 75), 100, 0, seed=42)
    with pytest.raises(DataError, match="need more rows than"):
        carve(rows, 150, 20, seed=42)


# --- every label in every split (keras #796, evalml #760)


def pool(labels, texts=None):
    return Rows("pool", texts or [f"text {i}" for i in range(len(labels))], list(labels))


def plain(rows, num_train, num_evaluation, seed):
    """Training and evaluation rows as the plain shuffle has them."""
    order = shuffled(len(rows), seed)
    indices = order[: num_train or max(0, len(rows) - (num_evaluation or len(rows) // 5))]
    train = rows.take(indices)
    texts = {normalized(text) for text in train.texts}
    rest = [i for i in order if i not in set(indices) and normalized(rows.texts[i]) not in texts]
    return train, rows.take(rest[: num_evaluation or len(rest)])


@given(st.lists(st.sampled_from("aaaaabbc"), min_size=6, max_size=60), st.integers(0, 99),
       st.data())  # fmt: skip
def test_every_label_is_in_both_splits_when_it_can_be(labels, seed, data):
    """And the plain draw stays where it holds every label."""
    rows = pool(labels)
    num_train = data.draw(st.integers(0, len(rows) - 1))
    num_evaluation = data.draw(st.integers(0, len(rows) - max(1, num_train)))
    train, evaluation = carve(rows, num_train, num_evaluation, seed)
    before = plain(rows, num_train, num_evaluation, seed)
    assert (len(train), len(evaluation)) == tuple(map(len, before))
    assert not set(train.texts) & set(evaluation.texts)
    if all(set(split.labels) == set(labels) for split in before):
        assert (train, evaluation) == before
    counts, num_labels = Counter(labels), len(set(labels))
    if min(counts.values()) >= 2 and min(len(train), len(evaluation)) >= num_labels:
        assert set(train.labels) == set(evaluation.labels) == set(labels)
    order = [rows.texts[i] for i in shuffled(len(rows), seed)]
    for split in (train, evaluation):  # either way in the order of the shuffle
        assert sorted(split.texts, key=order.index) == split.texts


def test_evaluation_rows_alone_are_stratified_if_that_is_enough():
    rows = pool("a" * 95 + "b" * 15)
    seed = next(s for s in range(999) if set(plain(rows, 80, 6, s)[1].labels) == {"a"})
    train, evaluation = carve(rows, 80, 6, seed)
    assert train == plain(rows, 80, 6, seed)[0] and train.notes == ()
    assert Counter(evaluation.labels) == {"a": 5, "b": 1}
    assert evaluation.notes == (
        "evaluation rows are stratified by label: those of the plain shuffle have no b",
    )


def test_training_rows_give_up_a_row_of_a_rare_label():
    """All rows of the rare label would train: the evaluation rows cannot have one of them."""
    rows = pool("a" * 98 + "bb")
    seed = next(s for s in range(999) if set(plain(rows, 0, 20, s)[1].labels) == {"a"})
    train, evaluation = carve(rows, 0, 20, seed)
    assert Counter(train.labels) == {"a": 79, "b": 1}
    assert Counter(evaluation.labels) == {"a": 19, "b": 1}
    assert evaluation.notes[0].startswith("training and evaluation rows are stratified")
    single = pool("a" * 98 + "bb", [f"text {i}" for i in range(98)] + ["Same.", "same. "])
    train, evaluation = carve(single, 0, 20, seed)  # texts that are the same stay together
    assert Counter(train.labels)["b"] * Counter(evaluation.labels)["b"] == 0
    assert evaluation.notes == ()


def test_training_rows_of_one_label_are_drawn_again_if_there_are_others(tmp_path):
    rows = pool("a" * 60 + "b" * 6)
    seed = next(s for s in range(999) if set(plain(rows, 10, 10, s)[0].labels) == {"a"})
    train, _ = carve(rows, 10, 10, seed)
    assert Counter(train.labels) == {"a": 9, "b": 1}
    path = write(tmp_path / "x.csv", rows.texts, rows.labels)
    columns = Columns(labels=("a", "b"))
    train, evaluation = load_splits(
        train=path, evaluation=path, test="embedded", columns=columns, num_train=10,
        num_evaluation=10, seed=seed, balance="none",
    )  # fmt: skip
    assert set(train.labels) == set(evaluation.labels) == {"a", "b"}
    assert train.notes[0].startswith("training rows are stratified by label: those of the plain")


def test_a_sample_of_test_rows_has_every_label(tmp_path):
    rows = pool("a" * 60 + "b" * 3 + "c" * 30)
    path = write(tmp_path / "x.csv", rows.texts, rows.labels)
    columns = Columns(labels=("a", "b", "c"))
    plainly = {s: sample(rows, 12, s, "data.num_test") for s in range(40)}
    assert {tuple(sorted(set(some.labels))) for some in plainly.values()} == {("a", "b", "c")}
    first = {s: [rows.texts[i] for i in shuffled(93, s)[:12]] for s in plainly}
    changed = [s for s, some in plainly.items() if some.notes]
    assert changed and len(changed) < 40
    for seed, some in plainly.items():
        assert load_test(path, path, columns, 12, seed).texts == some.texts
        assert (some.texts == first[seed]) == (seed not in changed)
        assert not some.notes or "test rows are stratified by label: those" in some.notes[0]


def test_a_balanced_sample_needs_a_row_of_each_label(tmp_path):
    rows = pool("aaabbbccc")
    path = write(tmp_path / "x.csv", rows.texts, rows.labels)
    with pytest.raises(DataError, match=r"data\.num_train=2 is too few rows for 3 labels with "
                       r"data\.balance=sample; set data\.num_train=3 or more"):  # fmt: skip
        load_splits(
            train=path, evaluation=path, test=path, columns=Columns(labels=("a", "b", "c")),
            num_train=2, num_evaluation=0, seed=1, balance="sample",
        )  # fmt: skip


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
    # A label that is too rare for a row of its own has one all the same, if there is room for all.
    assert len(part) == min(len(whole), small)
    if any(small * count < len(rows) for count in whole.values()):
        return
    for label, count in whole.items():
        # Webster's may leave the quota by more than a row only with four labels or more.
        assert abs(part[label] - small * count / len(rows)) < (1 if len(whole) < 4 else 1.5)


def test_all_rows_are_their_own_subset_and_more_are_refused():
    rows = rows_of(20)
    assert stratified(rows, 20) == rows.take(range(20))
    assert Counter(stratified(rows, 10).labels) == {"positive": 5, "negative": 5}
    with pytest.raises(
        DataError, match="asks for 21 rows, there are 20 training rows of 'made up'"
    ):
        stratified(rows, 21)


def test_a_label_too_rare_for_a_subset_has_a_row_in_it_all_the_same():
    rows = pool("a" * 95 + "b" * 4 + "c")
    subset = stratified(rows, 5)
    assert Counter(subset.labels) == {"a": 3, "b": 1, "c": 1}
    assert subset.notes == (
        "the subset of 5 training rows has a row of each rare label (b, c), more than its share",
    )
    assert Counter(stratified(rows, 2).labels) == {"a": 1, "b": 1}
    assert stratified(rows, 60).notes == ()  # c has its row by its share


def test_a_subset_leaves_the_evaluation_rows_as_they_are(tmp_path):
    path = write(tmp_path / "rows.csv", TEXTS, LABELS)
    settings = dict(train=path, evaluation="train", test="embedded", columns=COLUMNS, num_train=8,
                 num_evaluation=4, seed=42, balance="none")  # fmt: skip
    train, held_out = load_splits(**settings)
    subset, same = load_splits(**settings, num_train_subset=4)
    assert same == held_out and subset == stratified(train, 4) and len(subset) == 4
    assert load_splits(**settings, num_train_subset=0) == (train, held_out)


def test_all_rows_but_the_evaluation_rows_train_in_spite_of_duplicates():
    """TREC's 5,452 rows have some twice: `data.num_train=0` was refused for want of 9 rows."""
    texts = [f"text {i % 45}" for i in range(60)]  # fifteen twice
    rows = Rows("x", texts, ["a", "b"] * 30)
    for seed in range(20):
        train, evaluation = carve(rows, 0, 10, seed)
        assert len(evaluation) == 10 and len(train) >= 30
        assert not set(train.texts) & set(evaluation.texts)
    with pytest.raises(DataError, match="has 60 rows, but only"):
        carve(Rows("x", ["same"] * 60, ["a", "b"] * 30), 0, 10, 1)
