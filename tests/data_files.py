"""What the tests of sources, tables and rows share: files of every format, and how one fails."""

import json

import pandas as pd
import pytest

from sentilora.data.rows import Columns
from sentilora.data.sources import load_rows
from sentilora.errors import DataError

MAP = {"0": "negative", "1": "positive", "neg": "negative", "pos": "positive"}
COLUMNS = Columns(label_map=MAP, labels=("positive", "negative"))
TEXTS = [
    "Good, really good.",
    'She said "no",\nthen yes.',
    "NA",
    "None",
    "null",
    "123",
    "007",
    "nan",
    "true",
    "2024-01-01",
    "  spaces kept  ",
    "Schön 🎬\u2028漢字",
    "'quoted'",
    "back\\slash",
]
LABELS = ["positive", "negative"] * 7


def write(path, texts=TEXTS, labels=LABELS, text="text", label="label", **more):
    """Path of a file in the format that its suffix names."""
    frame = pd.DataFrame({text: texts, label: labels, **more})
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".csv":
            frame.to_csv(path, index=False)
        case ".tsv":
            frame.to_csv(path, index=False, sep="\t")
        case ".parquet":
            frame.to_parquet(path, index=False)
        case ".jsonl" | ".json":
            records = frame.to_dict("records")
            lines = [json.dumps(record, ensure_ascii=False) for record in records]
            joined = "\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]"
            path.write_text(joined, encoding="utf-8")
    return str(path)


def write_reviews(folder, label, texts, first=0):
    """A folder of .txt files for a label, as aclImdb has them, all rated 7."""
    (folder / label).mkdir(parents=True)
    for number, text in enumerate(texts, first):
        (folder / label / f"{number}_7.txt").write_text(text, encoding="utf-8")


def refused(pattern, source, split="train", columns=COLUMNS):
    """The message with which a source is refused: one line that matches the pattern."""
    with pytest.raises(DataError, match=pattern) as error:
        load_rows(str(source), split, columns)
    assert "\n" not in str(error.value)
    return str(error.value)
