"""overview.py: what is counted in rows and examples, and how it is worded."""

from sentilora.data.overview import label_warnings, look_over
from sentilora.data.rows import Rows
from sentilora.prompt import Example
from sentilora.training.lengths import look_over_lengths
from sentilora.wording import (
    as_metric,
    as_probability,
    counted,
    listed,
    percent,
    percent_interval,
    quoted,
)


def test_duplicates_conflicts_and_imbalance_are_counted():
    texts = ["One.", "one. ", "ONE.<br />", "Two.", "Three.", *"12345"]
    train = Rows("a", texts, ["positive"] * 3 + ["negative"] + ["positive"] * 6)
    test = Rows("b", ["two.", "Two.", "Four."], ["negative", "positive", "positive"])
    result = look_over({"train": train, "test": test})
    assert result.num_rows == {"train": 10, "test": 3}
    assert result.balance["train"] == {"negative": 1, "positive": 9}
    assert result.duplicates == {"train": 2, "test": 1}
    assert result.shared == {"train / test": 2}
    assert result.conflicts == 1
    assert result.warnings == [
        "train: 9 to 1 rows per label, more uneven than 4:1; "
        "data.balance=weights or sample evens it out",
        "rows of test that also occur in train: 2",
        "texts that occur with different labels in train and test: 1, such as row 3 of train is "
        "negative, row 1 of test is positive (counted from 0): correct the labels, or remove these "
        "rows; data.soft_labels=true takes them as shares of one row",
    ]
    test = Rows("b", ["two."], ["positive"], shares=[(0.6, 0.4)])
    assert (
        look_over({"train": train, "test": test})
        .warnings[-1]
        .endswith("correct the labels, or remove these rows")
    )


def test_four_to_one_is_no_imbalance_yet():
    labels = ["positive"] * 4 + ["negative"]
    assert look_over({"train": Rows("a", list("abcde"), labels)}).warnings == []


def test_labels_that_a_split_lacks_are_named():
    """keras #796, LightGBM #4626."""
    labels = ("good", "bad", "so so")
    splits = {
        "train": Rows("a", ["1", "2"], ["good", "bad"], notes=("a note",)),
        "evaluation": Rows("b", ["3", "4"], ["good", "so so"]),
        "test": Rows("c", ["5"], ["good"]),
    }
    assert look_over(splits, labels).warnings == [
        "a note",
        "no training row is labeled 'so so': the adapter does not learn it",
        "no evaluation row is labeled bad: macro-F1 is the mean over the labels that occur in rows "
        "or answers",
        "no test row is labeled bad or 'so so': there is no macro-F1 for rows of a single label",
    ]


def test_a_split_is_described_in_a_line():
    rows = Rows("a.csv", ["One.", "one.", "Two.", *map(str, range(1200))], ["b", "b", "a"] * 401)
    assert look_over({"train": rows}).describe("train") == (
        "1,203 rows of a.csv: 401 a, 802 b; 1 exact duplicate"
    )


def test_lengths_are_counted_by_range():
    lengths = [1, 64, 65, 128, 300, 2048, 2049, 9000]
    examples = [Example([7] * n, [7] * n, truncated=n > 2000) for n in lengths]
    result = look_over_lengths(examples)
    assert result.tokens == "≤64: 2, 65–128: 2, 257–512: 1, 1025–2048: 1, >2048: 2; mean 1707"
    assert result.truncated == "3 of 8 (37.5%)"
    assert look_over_lengths(examples[:4]).tokens == "≤64: 2, 65–128: 2; mean 64"


def test_one_is_not_counted_as_several():
    assert [counted(n, "row") for n in (0, 1, 2, 1200)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "1,200 rows",
    ]
    assert look_over({"train": Rows("a.csv", ["One."], ["b"])}).describe("train") == (
        "1 row of a.csv: 1 b; 0 exact duplicates"
    )


def test_nearly_all_is_not_all():
    assert [percent(x) for x in (1.0, 0.9999, 0.9991, 0.5, 0.0)] == [
        "100.0%",
        "99.9%",
        "99.9%",
        "50.0%",
        "0.0%",
    ]
    assert percent_interval((0.9999, 1.0), 2) == "99.99% – 100.00%"
    # A probability that is stored as 1 was rounded.
    assert [as_probability(x) for x in (1.0, 0.99996, 0.9123, 0.0)] == [
        "0.9999",
        "0.9999",
        "0.9123",
        "0.0000",
    ]


def test_a_metric_that_does_not_exist_is_a_dash():
    assert [as_metric(value) for value in (0.91234, 0.0, None)] == ["0.9123", "0.0000", "–"]


def test_names_whose_ends_are_unclear_are_quoted():
    for clear in ("my.csv", "../ünï/日本.csv", "a-b_c", "very,good", "C:\\x"):
        assert quoted(clear) == clear
    for unclear in ("my file.csv", "", " x", "it's", 'a"b', "`base`", "a\nb", "zero\u200bwidth"):
        assert quoted(unclear) == repr(unclear)
    assert listed(["good", "so so"]) == "good, 'so so'"


def test_many_labels_are_listed_up_to_ten():
    """Sixty labels filled four lines."""
    labels = [f"label{i:02}" for i in range(60)]
    rows = Rows("x", [str(i) for i in range(120)], (labels + labels[:1] * 60)[:120])
    text = look_over({"train": rows}).describe("train")
    assert text.startswith("120 rows of x: 61 label00, 1 label01, ")
    assert text.endswith("1 label09, and 50 more labels with 1 or fewer; 0 exact duplicates")
    [warning] = label_warnings("train", rows.take([0, 1]), labels)
    assert warning.startswith("no training row is labeled label02, label03, ")
    assert "label11 or one of 48 more: the adapter does not learn them" in warning
