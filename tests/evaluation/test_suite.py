"""Suites of behaviour tests: from a file to cases, the one that ships, and files that are wrong."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.data.sources import read_table
from sentilora.errors import DataError, UsageError
from sentilora.evaluation.suite import (
    DIRECTIONAL,
    FUNCTIONALITY,
    INVARIANCE,
    MAX_FILLINGS,
    MIN_LETTERS,
    load_suite,
    misspell,
)

CAPABILITIES = {
    "negation": FUNCTIONALITY,
    "contrast": FUNCTIONALITY,
    "sarcasm": FUNCTIONALITY,
    "intensifiers": DIRECTIONAL,
    "named entities": INVARIANCE,
    "typos": INVARIANCE,
    "irrelevant sentence": INVARIANCE,
}


@pytest.fixture(scope="module")
def shipped():
    return load_suite()


@pytest.fixture
def suite_of(tmp_path):
    """Loads a suite from its text."""

    def load(text):
        path = tmp_path / "own.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_suite(path)

    return load


def source_of(kind, texts, more="", lists=""):
    return (
        f'[lists]\n{lists}\n[[tests]]\ncapability = "c"\nkind = "{kind}"\n{more}\ntexts = {texts}\n'
    )


# --- the suite that ships ------------------------------------------------------------------------


def test_every_capability_has_its_kind_and_forty_to_a_hundred_cases(shipped):
    assert {(case.capability, case.kind) for case in shipped.cases} == set(CAPABILITIES.items())
    counts = Counter(case.capability for case in shipped.cases)
    assert all(40 <= count <= 100 for count in counts.values()), counts


def test_no_answer_passes_by_being_the_frequent_one(shipped):
    counts = Counter((case.capability, case.label) for case in shipped.cases if case.label)
    assert len(counts) == 8
    for (capability, _), count in counts.items():
        both = counts[capability, "positive"] + counts[capability, "negative"]
        assert 0.45 <= count / both <= 0.55, (capability, counts)


def test_cases_are_filled_whole_and_stand_once(shipped):
    assert len({(c.capability, c.text, c.changed) for c in shipped.cases}) == len(shipped.cases)
    assert len(set(shipped.texts)) == len(shipped.texts) > 400
    for text in shipped.texts:
        assert not re.search(r"[][{}|]|  |\s$|^\s| [.,;:!?]", text), text
        assert text[0].isupper() or text[0] == "“", text
        assert text[-1] in ".!?", text
    for case in shipped.cases:
        assert (case.changed is None) == (case.kind == FUNCTIONALITY)
        assert case.changed != case.text


def test_articles_agree(shipped):
    words = [pair for text in shipped.texts for pair in re.findall(r"\b([Aa]n?) (\w+)", text)]
    assert len(words) > 100
    for article, word in words:
        assert (article.lower() == "an") == (word[0] in "aeiouAEIOU"), (article, word)


def test_a_typo_makes_no_other_word_of_the_suite(shipped):
    known = {word for c in shipped.cases for word in re.findall(r"\w+", c.text.lower())}
    typos = [case for case in shipped.cases if case.capability == "typos"]
    for case in typos:
        before, after = (re.findall(r"\w+", text) for text in (case.text, case.changed))
        changed = [word for old, word in zip(before, after, strict=True) if old != word]
        assert len(changed) == 2 and not known & set(changed), changed


def test_no_text_is_one_of_the_reviews_that_ship(shipped):
    frames = [read_table("embedded", split) for split in ("train", "test")]
    reviews = [text for frame in frames for text in frame["text"].to_pylist()]
    assert len(reviews) > 500
    assert not [text for text in shipped.texts if any(text in review for review in reviews)]


def test_the_cases_are_the_same_in_every_process(shipped):
    code = (
        "import hashlib; from sentilora.evaluation.suite import load_suite;"
        "print(hashlib.sha256(repr(load_suite().cases).encode()).hexdigest())"
    )
    expected = hashlib.sha256(repr(shipped.cases).encode()).hexdigest()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


# --- from a file to cases ------------------------------------------------------------------------


def test_lists_changes_and_a_second_entry(suite_of):
    suite = suite_of(
        source_of(INVARIANCE, '["[{who}|{who2}] ate [the|a] {dish}."]',
                  lists='who = ["Ida", "Bo"]\ndish = ["pie", "fig", "egg", "nut"]')
    )  # fmt: skip
    assert len(suite.cases) == MAX_FILLINGS
    for case in suite.cases:
        first, second = case.text.split(), case.changed.split()
        assert {first[0], second[0]} == {"Ida", "Bo"}
        assert (first[2], second[2]) == ("the", "a") and first[3] == second[3]
    assert len({case.text.split()[3] for case in suite.cases}) == MAX_FILLINGS


def test_a_text_without_places_is_one_case_and_a_copy_is_none(suite_of):
    suite = suite_of(source_of(FUNCTIONALITY, '["So so.", "So so."]', 'label = "x"'))
    assert [(case.text, case.label) for case in suite.cases] == [("So so.", "x")]


def test_another_text_leaves_the_cases_as_they_were(suite_of):
    lists = 'w = ["a", "b", "c", "d", "e"]'
    one = suite_of(source_of(FUNCTIONALITY, '["It is {w}."]', 'label = "x"', lists))
    two = suite_of(source_of(FUNCTIONALITY, '["{w}!", "It is {w}."]', 'label = "x"', lists))
    assert set(one.cases) < set(two.cases)


WORDS = st.text("abcdefghijklmnopqrstuvwxyzäé", min_size=1, max_size=12)


@given(st.lists(WORDS, min_size=1, max_size=12), st.integers(1, 4))
def test_a_typo_keeps_the_ends_of_long_words_and_all_others(words, num_words):
    text = " ".join(words)
    changed = misspell(text, num_words).split(" ")
    assert changed == misspell(text, num_words).split(" ") and len(changed) == len(words)
    differing = [pair for pair in zip(words, changed, strict=True) if pair[0] != pair[1]]
    assert len(differing) == min(num_words, sum(len(word) >= MIN_LETTERS for word in words))
    for old, new in differing:
        assert len(old) >= MIN_LETTERS and (old[0], old[-1]) == (new[0], new[-1])
        assert len(old) - len(new) in (0, 1)
        assert (
            sorted(new) == sorted(old) if len(new) == len(old) else not Counter(new) - Counter(old)
        )


@given(st.text(max_size=80), st.integers(1, 3))
def test_any_text_can_be_misspelt(text, num_words):
    changed = misspell(text, num_words)
    assert len(text) - num_words <= len(changed) <= len(text)


# --- labels --------------------------------------------------------------------------------------


def test_labels_that_the_classifier_lacks_are_named_with_what_to_do(shipped):
    shipped.require_labels(("negative", "positive", "neutral"))
    with pytest.raises(UsageError) as caught:
        shipped.require_labels(("positivo", "negativo"))
    said = str(caught.value)
    assert "expects negative, positive, the classifier answers positivo, negativo; write " in said
    assert "your own labels and texts in a copy of /" in said
    assert said.endswith("/assets/suites/sentiment.toml, and give that file")


def test_invariances_alone_fit_every_classifier(suite_of):
    suite = suite_of(source_of(INVARIANCE, '["Fine.[| It rained.]"]'))
    suite.require_labels(("0", "1", "2"))


# --- files that are wrong ------------------------------------------------------------------------

MFT, X = FUNCTIONALITY, 'label = "x"'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff", "cannot read the suite"),
        ("tests = [", "cannot read the suite"),
        ("", "it has no [[tests]]; for an example see the shipped suite: /"),
        ("tests = []", "tests is empty; fill it or remove it"),
        ("tests = 3", "tests is 3; it should be a valid list"),
        ("[[tests]]\n", "test 1 capability is missing"),
        (source_of("minimal", '["x"]', X), "test 1 kind is 'minimal'; it must be 'minimum functio"),
        (source_of(MFT, "[]", X), "test 1 texts is empty"),
        (source_of(MFT, "[3]", X), "test 1 text 1 is 3; it should be a valid string"),
        (source_of(MFT, '["x"]', X + "\nlable = 1"), "test 1 lable is not a key of a suite"),
        (source_of(MFT, '["x"]', "label = 1"), "test 1 label is 1; it should be a valid string"),
        (source_of(MFT, '["x"]'), "c: a minimum functionality test needs a label"),
        (source_of(DIRECTIONAL, '["[a|b]"]'), "c: a directional test needs a label"),
        (source_of(INVARIANCE, '["[a|b]"]', X), "c: an invariance test takes no label; remove it"),
        (source_of(MFT, '["[a|b]"]', X), "has single texts; remove [before|after] or typos"),
        (source_of(INVARIANCE, '["x"]'), "write the change as [before|after], or set typos"),
        (source_of(INVARIANCE, '["[a|b]"]', "typos = 1"), "write the change as [before|after], "),
        (source_of(INVARIANCE, '["[a|a]"]'), "nothing changes in 'a'"),
        (source_of(INVARIANCE, '["a b"]', "typos = 1"), "nothing changes in 'a b': no word has 6"),
        (source_of(INVARIANCE, '["[|b]"]'), "a text is empty"),
        (source_of(MFT, '["{w}"]', X), "{w} needs a list 'w' of 1 or more entries under [lists], "
         "which has none"),
        (source_of(MFT, '["{w2}"]', X, 'w = ["a", "a"]'), "{w2} needs a list 'w' of 2 or more ent"),
        (source_of(MFT, '["{a b}"]', X), "'{' is left over in '{a b}'"),
        (source_of(INVARIANCE, '["[a|b] [c"]'), "'[' is left over in 'a [c'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(suite_of, text, said):
    with pytest.raises(DataError) as caught:
        suite_of(text)
    assert said in str(caught.value) and "own.toml" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"there is no suite .*; give a TOML file, or take the "):
        load_suite(tmp_path / "none.toml")
    with pytest.raises(DataError, match="cannot read the suite"):
        load_suite(tmp_path)
