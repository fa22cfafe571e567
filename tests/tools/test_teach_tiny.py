"""tools/teach_tiny.py: teachers are averaged, misspelled texts mean what the right ones do."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "teach_tiny.py"
KINDS = ["sentence", "pair", "negation", "contrast", "review", "passage", "training", "evaluation"]


def run(*words):
    done = subprocess.run([sys.executable, TOOL, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def table_of(texts, shares):
    """As a teacher's parts are: every fourth of the labeled kinds is negative."""
    rows = [
        {
            "text": text,
            "kind": KINDS[number % len(KINDS)],
            "label": ("negative" if number % 32 == 6 else "positive")
            if number % len(KINDS) > 5
            else None,
            "probability_negative": 1 - share,
            "probability_positive": share,
        }
        for number, (text, share) in enumerate(zip(texts, shares, strict=True))
    ]
    return pa.Table.from_pylist(rows)


def rows_of(folder):
    return pq.read_table(folder / "train.parquet").to_pylist()


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    texts = [f"Wonderful acting throughout number {number}" for number in range(64)]
    for name, shares in (("a", [0.25] * 64), ("b", [0.75 - i / 128 for i in range(64)])):
        (folder / name).mkdir()
        table = table_of(texts, shares)
        pq.write_table(table.slice(0, 40), folder / name / "part-00000.parquet")
        pq.write_table(table.slice(40), folder / name / "part-00001.parquet")
    run("mean", folder / "a", folder / "b", "--out", folder / "taught", "--num-misspelled", 20)
    return folder / "taught"


def test_the_target_is_the_teachers_mean_or_the_label(taught):
    rows = rows_of(taught)
    right = [row for row in rows if row["kind"] != "misspelled"]
    assert len(rows) == 76 and len(right) == 56
    for row in right:
        number = int(row["text"].split()[-1])
        mean = (0.25 + 0.75 - number / 128) / 2
        if row["kind"] == "training":
            mean = float(number % 32 != 6)
        assert row["probability_positive"] == pytest.approx(mean)
        assert row["probability_positive"] + row["probability_negative"] == pytest.approx(1)
    measured = pq.read_table(taught / "validation.parquet")
    assert set(measured["kind"].to_pylist()) == {"evaluation"} and len(measured) == 8


def test_a_misspelled_text_keeps_the_probabilities_of_the_right_one(taught):
    rows = rows_of(taught)
    right = {row["text"].split()[-1]: row for row in rows if row["kind"] != "misspelled"}
    for row in (row for row in rows if row["kind"] == "misspelled"):
        original = right[row["text"].split()[-1]]  # digits are left alone
        assert original["kind"] in KINDS[:4]
        pairs = zip(row["text"].split(), original["text"].split(), strict=True)
        assert 1 <= sum(a != b for a, b in pairs) <= 3
        for label in ("positive", "negative"):
            assert row[f"probability_{label}"] == original[f"probability_{label}"]
