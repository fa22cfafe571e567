"""Twins between splits: the same text, nearly the same, and neither."""

import pytest

from sentilora.evaluation.leakage import NEAR, TwinIndex


def review(number, words=40):
    return " ".join(f"w{number}x{i}" for i in range(words))


def twins_among(texts, earlier, **options):
    """The twins of `texts` in earlier splits: {name: texts}."""
    index = TwinIndex(**{"near": True, **options})
    for split, others in earlier.items():
        index.add(split, others)
    return index.twins_of(texts)


def test_exact_duplicates_are_the_same_to_spaces_case_and_line_breaks():
    earlier = {"train": ["A lovely film.", review(1)], "evaluation": [review(2)]}
    texts = ["a  LOVELY<br />film.", review(3), review(2).upper(), "A lovely film!"]
    twins = twins_among(texts, earlier)
    assert [(t.number, t.split, t.other, t.similarity, t.is_exact) for t in twins] == [
        (0, "train", 0, 1.0, True),
        (2, "evaluation", 0, 1.0, True),
    ]


@pytest.mark.parametrize(("changed", "found"), [(1, True), (2, True), (20, False), (39, False)])
def test_near_duplicates_share_most_runs_of_words(changed, found):
    words = review(5, 100).split()
    for i in range(changed):
        words[i] = f"other{i}"
    twins = twins_among([" ".join(words)], {"train": [review(4, 100), review(5, 100)]})
    assert bool(twins) == found
    for twin in twins:
        assert (twin.other, twin.is_exact) == (1, False) and NEAR <= twin.similarity < 1
        # Of 96 runs as many are gone as words changed, all at the beginning; as many are new.
        assert twin.similarity == pytest.approx((96 - changed) / (96 + changed))


def test_an_insertion_in_the_middle_is_seen():
    words = review(6, 120).split()
    text = " ".join([*words[:60], "something", "new", *words[60:]])
    (twin,) = twins_among([text], {"train": [review(6, 120)]})
    # 116 runs before, 118 now; the four across the gap are gone, six are new.
    assert twin.similarity == pytest.approx(112 / (116 + 118 - 112))


def test_near_duplicates_are_looked_for_only_when_asked():
    text = review(7) + " end"
    assert twins_among([text], {"train": [review(7)]})
    assert not twins_among([text], {"train": [review(7)]}, near=False)
    assert twins_among([review(7)], {"train": [review(7)]}, near=False)


def test_short_and_strange_texts():
    earlier = {"train": ["x", "two words", "中文 评论", "…"]}
    assert [t.other for t in twins_among(["two  words", "…", "y", "two words more"], earlier)] == [
        1,
        3,
    ]
    assert twins_among([], earlier) == [] and twins_among(["a"], {}) == []


def test_progress_counts_every_text():
    seen = []
    twins_among([review(1)] * 3, {"train": [review(2)] * 2}, progress=seen.append)
    assert sum(seen) == 5


def test_an_index_knows_what_was_put_in_so_far():
    index = TwinIndex(near=True)
    index.add("train", [review(1), review(2)])
    (twin,) = index.twins_of([review(3), review(2) + " end"])
    assert (twin.number, twin.split, twin.other, twin.is_exact) == (1, "train", 1, False)
    index.add("evaluation", [review(3)])
    assert [t.split for t in index.twins_of([review(3), review(2)])] == ["evaluation", "train"]
