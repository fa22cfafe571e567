"""Guards on the shipped movie reviews: balance, variety, and no cheap shortcut to the label.

Every guard is a helper that raises AssertionError on bad data and returns how many things it
looked at. Each helper is tried on the shipped files and on a made-up case it must reject.
"""

import json
import re
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from sentilora.shipped import reviews_path

FOLDER = reviews_path("train").parent
LABELS = ("positive", "negative")
TAGS = ("negation", "contrast", "sarcasm", "mixed", "plot-first")
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)]*\s+")
PUNCTUATION = ("!", "?", "…", ",", "-", "'", '"')


def load(name):
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def train():
    return load("train")


@pytest.fixture(scope="module")
def test():
    return load("test")


@pytest.fixture(scope="module")
def every(train, test):
    return train + test


def words(text):
    return WORD.findall(text.lower())


def review(text, label="positive", tags=(), number=1):
    return {"id": f"r{number:03d}", "text": text, "label": label, "tags": list(tags)}


# The guards


def check_shape(rows):
    """Four known keys, one id a row, a known label, known tags, no stray white space."""
    for row in rows:
        assert list(row) == ["id", "text", "label", "tags"], row
        assert re.fullmatch(r"r\d{3,4}", row["id"]), row["id"]
        assert row["label"] in LABELS, row["id"]
        assert set(row["tags"]) <= set(TAGS), row["id"]
        assert len(row["tags"]) == len(set(row["tags"])), row["id"]
        assert row["text"] == " ".join(row["text"].split()), row["id"]
    assert len({row["id"] for row in rows}) == len(rows), "an id occurs twice"
    return len(rows)


def check_balance(rows):
    """As many positive rows as negative ones."""
    counts = Counter(row["label"] for row in rows)
    assert counts["positive"] == counts["negative"] > 0, counts
    return sum(counts.values())


def check_lengths(rows, low=20, high=200):
    """Every text has `low` to `high` words, counted between white space."""
    for row in rows:
        count = len(row["text"].split())
        assert low <= count <= high, f"{row['id']} has {count} words"
    return len(rows)


def check_tags(rows, least):
    """Every tag occurs at least `least` times with each label."""
    counts = Counter((tag, row["label"]) for row in rows for tag in row["tags"])
    for tag in TAGS:
        for label in LABELS:
            assert counts[tag, label] >= least, f"{tag}, {label}: {counts[tag, label]}"
    return sum(counts.values())


def check_duplicates(rows):
    """No text occurs twice, whatever its case and punctuation."""
    seen = {}
    for row in rows:
        key = " ".join(words(row["text"]))
        assert key not in seen, f"{row['id']} repeats {seen[key]}"
        seen[key] = row["id"]
    return len(rows)


def check_overlap(rows, limit=1 / 3, size=5):
    """No two texts share `limit` of their 5-grams, measured against the smaller set."""
    grams = []
    for row in rows:
        found = words(row["text"])
        grams.append({tuple(found[at : at + size]) for at in range(len(found) - size + 1)})
        assert grams[-1], f"{row['id']} is too short to compare"
    pairs = 0
    for one, two in combinations(range(len(rows)), 2):
        pairs += 1
        shared = len(grams[one] & grams[two]) / min(len(grams[one]), len(grams[two]))
        assert shared < limit, f"{rows[one]['id']} and {rows[two]['id']} share {shared:.0%}"
    return pairs


def frame(sentence, least_kept=4):
    """The sentence with its content words masked; None if too few function words are left."""
    parts, kept = [], 0
    for word in words(sentence):
        if word in ENGLISH_STOP_WORDS:
            parts.append(word)
            kept += 1
        elif not parts or parts[-1] != "_":
            parts.append("_")
    return " ".join(parts) if kept >= least_kept else None


def check_frames(rows, most=3):
    """No sentence frame occurs more than `most` times."""
    counts = Counter()
    for row in rows:
        for sentence in SENTENCE_END.split(row["text"]):
            masked = frame(sentence)
            if masked is not None:
                counts[masked] += 1
    for masked, count in counts.most_common(1):
        assert count <= most, f"{count} times: {masked}"
    return sum(counts.values())


def surface_features(rows):
    """Length, punctuation and the first word: what the label must not follow from."""
    first_words = sorted({words(row["text"])[0] for row in rows})
    column = {word: at for at, word in enumerate(first_words)}
    numbers = np.zeros((len(rows), 3 + len(PUNCTUATION)))
    one_hot = np.zeros((len(rows), len(first_words)))
    for at, row in enumerate(rows):
        text = row["text"]
        split = text.split()
        shouted = sum(1 for word in split if len(word) > 1 and word.isupper())
        marks = [text.count(mark) for mark in PUNCTUATION]
        numbers[at] = [len(split), len(text), shouted, *marks]
        one_hot[at, column[words(text)[0]]] = 1
    return np.hstack([numbers, one_hot])


def surface_accuracy(rows):
    """5-fold accuracy of a logistic regression on the surface features alone."""
    features = surface_features(rows)
    labels = np.array([row["label"] == "positive" for row in rows])
    model = make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=2000))
    folds = StratifiedKFold(n_splits=5, shuffle=True, random_state=0)
    return float(cross_val_score(model, features, labels, cv=folds).mean())


def check_surface(rows, most=0.60):
    """The surface features predict at most `most` of the labels."""
    accuracy = surface_accuracy(rows)
    assert accuracy <= most, f"surface features alone reach {accuracy:.3f}"
    return len(rows)


def bag_of_words_accuracy(train_rows, test_rows):
    """Accuracy on test of TF-IDF over 1- and 2-grams and a logistic regression on train."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000)
    )
    model.fit([row["text"] for row in train_rows], [row["label"] for row in train_rows])
    truth = [row["label"] for row in test_rows]
    return float(model.score([row["text"] for row in test_rows], truth))


def check_bag_of_words(train_rows, test_rows, below=0.85):
    """Counting words does not solve the test set."""
    accuracy = bag_of_words_accuracy(train_rows, test_rows)
    assert accuracy < below, f"bag of words reaches {accuracy:.3f}"
    return len(train_rows) + len(test_rows)


# The shipped files


def test_sizes_and_shape(train, test, every):
    assert len(train) >= 1000
    assert len(test) == 500
    assert check_shape(every) == len(train) + len(test)


def test_balance(train, test):
    assert check_balance(train) == len(train) >= 1000
    assert check_balance(test) == 500


def test_lengths(every):
    assert check_lengths(every) >= 500


def test_tags(every, test):
    assert check_tags(every, least=20) >= 200
    assert check_tags(test, least=1) >= 10


def test_the_card_states_the_counts(train, test, every):
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert card.count(f"\n{len(every)} short movie reviews") == 1
    for name, rows in (("train", train), ("test", test)):
        positive, negative = (sum(row["label"] == label for row in rows) for label in LABELS)
        assert f"| `{name}.jsonl` | {len(rows)} | {positive} | {negative} |" in card
    counts = Counter((tag, row["label"]) for row in every for tag in row["tags"] or ["none"])
    for tag in (*TAGS, "none"):
        ends = f"| {counts[tag, 'positive']} | {counts[tag, 'negative']} |"
        (line,) = re.findall(rf"^\| `?{tag}`? \|.*", card, re.MULTILINE)
        assert line.endswith(ends), line
    lengths = [len(row["text"].split()) for row in every]
    words_in_card = f"{min(lengths)} to {max(lengths)} words ({np.mean(lengths):.0f} on average)"
    assert words_in_card in " ".join(card.split())


def test_no_duplicate(every):
    assert check_duplicates(every) >= 500


def test_no_pair_overlaps(every):
    assert check_overlap(every) == len(every) * (len(every) - 1) // 2 >= 124_750


def test_no_sentence_frame_recurs(every):
    assert check_frames(every) >= 2000


def test_surface_does_not_give_the_label_away(every):
    assert check_surface(every) >= 500


def test_bag_of_words_stays_below_the_limit(train, test):
    assert check_bag_of_words(train, test) >= 500


# Each guard can fail


def fillers(count, label=None):
    """Harmless rows, all different, alternating labels unless one is given."""
    rows = []
    for number in range(count):
        text = " ".join(f"w{number}x{at}" for at in range(20 + number % 7))
        rows.append(review(text, label or LABELS[number % 2], number=number))
    return rows


@pytest.mark.parametrize(
    "change",
    [
        {"label": "neutral"},
        {"tags": ["irony"]},
        {"tags": ["mixed", "mixed"]},
        {"id": "r000"},
        {"id": "7"},
        {"text": "two  spaces"},
        {"stars": 4},
    ],
)
def test_shape_guard_can_fail(change):
    rows = fillers(4)
    assert check_shape(rows) == 4
    rows[2] = rows[2] | change
    with pytest.raises(AssertionError):
        check_shape(rows)


def test_balance_guard_can_fail():
    assert check_balance(fillers(4)) == 4
    for rows in ([], fillers(5), fillers(4, "negative")):
        with pytest.raises(AssertionError):
            check_balance(rows)


@pytest.mark.parametrize("count", [19, 201])
def test_length_guard_can_fail(count):
    assert check_lengths([review("word " * 20), review("word " * 200)]) == 2
    with pytest.raises(AssertionError):
        check_lengths([review("word " * count)])


def test_tag_guard_can_fail():
    rows = [review("x", label, TAGS) for label in LABELS]
    assert check_tags(rows, least=1) == 10
    rows[1]["tags"].remove("sarcasm")
    with pytest.raises(AssertionError, match="sarcasm, negative"):
        check_tags(rows, least=1)


def test_duplicate_guard_can_fail():
    rows = fillers(3)
    assert check_duplicates(rows) == 3
    with pytest.raises(AssertionError):
        check_duplicates([*rows, review(rows[1]["text"].upper() + "!")])


def test_overlap_guard_can_fail():
    rows = fillers(4)
    assert check_overlap(rows) == 6
    start = " ".join(rows[2]["text"].split()[:14])
    copied = review(start + " but then it goes on with words of its own for a long while more")
    with pytest.raises(AssertionError, match="share"):
        check_overlap([*rows, copied])


def test_frame_masks_content_words_only():
    assert frame("The acting is superb and the score was not.") == "the _ is _ and the _ was not"
    assert frame("Superb acting, dreadful score.") is None


def test_frame_guard_can_fail():
    pairs = [("plot", "weak"), ("acting", "wooden"), ("score", "lovely"), ("ending", "neat")]
    rows = [review(f"Hm. The {one} of this one is really {two}.") for one, two in pairs]
    assert check_frames(rows[:3]) == 3
    with pytest.raises(AssertionError, match="4 times"):
        check_frames(rows)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + " more and more" * 10,
        lambda text: text + "!",
        lambda text: text + " LOUD",
        lambda text: "Sadly " + text,
    ],
    ids=["length", "punctuation", "upper case", "first word"],
)
def test_surface_guard_can_fail(spoil):
    rows = fillers(100)
    assert check_surface(rows) == 100
    for row in rows:
        if row["label"] == "negative":
            row["text"] = spoil(row["text"])
    with pytest.raises(AssertionError, match="surface"):
        check_surface(rows)


def test_bag_of_words_guard_can_fail():
    rows = fillers(100)
    assert check_bag_of_words(rows[:80], rows[80:]) == 100
    for row in rows:
        row["text"] += " good" if row["label"] == "positive" else " bad"
    with pytest.raises(AssertionError, match="bag of words"):
        check_bag_of_words(rows[:80], rows[80:])
