"""tools/teach_tiny.py: teachers are averaged, misspelled texts mean what the right ones do."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "teach_tiny.py"
KINDS = ["sentence", "pair", "negation", "contrast", "review", "passage", "training", "evaluation"]


def run(*words, fails=False):
    done = subprocess.run([sys.executable, TOOL, *map(str, words)], capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


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


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    folder = tmp_path_factory.mktemp("taught")
    texts = [f"Wonderful acting throughout number {number}" for number in range(64)]
    for name, shares in (("a", [0.25] * 64), ("b", [0.75 - i / 128 for i in range(64)])):
        (folder / name).mkdir()
        table = table_of(texts, shares)
        pq.write_table(table.slice(0, 40), folder / name / "part-00000.parquet")
        pq.write_table(table.slice(40), folder / name / "part-00001.parquet")
    run("mean", folder / "a", folder / "b", "--out", folder / "taught")
    return folder / "taught"


def test_the_target_is_the_teachers_mean_or_the_label(taught):
    rows = pq.read_table(taught / "train.parquet").to_pylist()
    assert len(rows) == 56
    for row in rows:
        number = int(row["text"].split()[-1])
        mean = (0.25 + 0.75 - number / 128) / 2
        if row["kind"] == "training":
            mean = float(number % 32 != 6)
        assert row["probability_positive"] == pytest.approx(mean)
        assert row["probability_positive"] + row["probability_negative"] == pytest.approx(1)
    measured = pq.read_table(taught / "validation.parquet")
    assert set(measured["kind"].to_pylist()) == {"evaluation"} and len(measured) == 8


def test_a_misspelled_text_keeps_the_probabilities_of_the_right_one(taught, tmp_path):
    run("misspell", taught, "--out", tmp_path / "rows", "--num-rows", 40)
    before = {row["text"]: row for row in pq.read_table(taught / "train.parquet").to_pylist()}
    rows = pq.read_table(tmp_path / "rows" / "train.parquet").to_pylist()
    wrong = [row for row in rows if row["kind"] == "misspelled"]
    assert len(wrong) == 20 and len(rows) > 40  # and the reviews that ship
    for row in wrong:
        end = row["text"].split()[-1]  # digits are left alone
        right = next(text for text in before if text.split()[-1] == end)
        words, others = row["text"].split(), right.split()
        assert 1 <= sum(a != b for a, b in zip(words, others, strict=True)) <= 3
        for label in ("positive", "negative"):
            name = f"probability_{label}"
            assert row[name] == before[right][name]
    assert (tmp_path / "rows" / "validation.parquet").read_bytes() == (
        taught / "validation.parquet"
    ).read_bytes()


def test_a_base_is_taught_once(taught):
    shipped = TOOL.parents[1] / "src" / "sentilora" / "assets" / "tiny"
    message = run("train", taught, "--base", shipped, fails=True)
    assert "was taught before; name the base as it was pre-trained" in message
