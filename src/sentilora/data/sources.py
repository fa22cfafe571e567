"""Where labelled texts come from: sources read row by row, in order, unchanged and checked.

    rows = load_rows("reviews.csv", "train", columns)

A source is a hub id, the `aclImdb/` folder, a folder with files named train, test or validation,
a CSV, TSV, JSONL or Parquet file, or `embedded`: the reviews that ship with the package. Nothing
here imports torch, so that what is wrong with the data is said within a second.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.data.rows import (
    Columns,
    Rows,
    labels_of,
    may_rate,
    missing_column,
    ratings_of,
    texts_of,
)
from sentilora.data.tables import SUFFIXES, read_file
from sentilora.errors import DataError, first_line
from sentilora.hub import looks_like_hub_id, require_hub
from sentilora.shipped import EMBEDDED, reviews_path

if TYPE_CHECKING:
    import pandas as pd


SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
}


def load_rows(source: str, split: str, columns: Columns) -> Rows:
    """The labelled rows of one split of a source. `split`: "train", "test" or "validation".

    Raises `DataError` when the source is missing, unreadable or unreachable, lacks a column, or
    holds an empty text or a label that no word is known for.
    """
    used = {columns.text, columns.label}
    frame = read_table(source, split, columns.text, lambda name: name in used or may_rate(name))
    if columns.label not in frame.columns:
        frame = read_table(source, split, columns.text)  # with all that the message is to name
        raise DataError(missing_column(source, frame, columns.label, "label"))
    if not len(frame):
        raise DataError(f"{source} has no rows")
    texts, labels = texts_of(source, frame, columns.text), labels_of(source, frame, columns)
    return Rows(source, texts, labels, *ratings_of(frame, columns))


def read_table(
    source: str, split: str, text_column: str, wanted: Callable[[str], bool] | None = None
) -> "pd.DataFrame":
    """One split of a source as a table. Checks that the text column is there.

    wanted: the columns that are needed, by name; None keeps every one. What a Parquet or JSONL file
    has besides is never held: it may be larger than the texts.
    """
    path = _local_path(source, split)
    if path is None:
        frame = _read_hub(source, split)
    elif path.is_dir():
        frame = _read_class_folders(path)
    else:
        frame = read_file(path, wanted, text_column)
    if text_column not in frame.columns:
        if wanted is not None:
            return read_table(source, split, text_column)
        if not len(frame):
            raise DataError(f"{source} has no rows")
        raise DataError(missing_column(source, frame, text_column, "text"))
    return frame


# --- sources -------------------------------------------------------------------------------------


def _local_path(source: str, split: str) -> Path | None:
    """The file or class folder behind a source, or None for a hub id."""
    if source == EMBEDDED:
        # The embedded reviews have no validation file: it is carved out of train.
        return reviews_path("test" if split == "test" else "train")
    path = Path(os.path.expanduser(source))
    if os.path.isfile(path):  # os.path says False to a name that no file can have, Path raises
        return path
    if os.path.isdir(path):
        return _split_in_folder(path, split)
    if looks_like_hub_id(source) and not source.endswith(SUFFIXES):
        return None
    raise DataError(f"there is no file or folder {source}")


def _split_in_folder(folder: Path, split: str) -> Path:
    names = SPLIT_NAMES[split]
    for name in names:
        for suffix in SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
        # aclImdb/train/pos/0_9.txt: a folder for each label
        if (folder / name).is_dir() and _class_folders(folder / name):
            return folder / name
    seen = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise DataError(
        f"{folder} has no {split} data; expected {names[0]}.csv, .tsv, .jsonl or .parquet, or "
        f"{names[0]}/ with a folder of .txt files for each label; it holds {seen}"
    )


def _class_folders(folder: Path) -> list[Path]:
    # aclImdb/train/unsup holds no labels.
    return sorted(p for p in folder.iterdir() if p.name != "unsup" and any(p.glob("*.txt")))


def _read_class_folders(folder: Path) -> "pd.DataFrame":
    import pandas as pd

    records = []
    for label in _class_folders(folder):
        for file in sorted(label.glob("*.txt"), key=_review_number):
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"cannot read {file}: {error}") from error
            record = {"text": text, "label": label.name, "file": file.name}
            if rated := re.fullmatch(r"\d+_(\d+)", file.stem):  # IMDB's: number_rating.txt
                record["rating"] = rated[1]
            records.append(record)
    return pd.DataFrame(records)


def _review_number(file: Path) -> tuple[int, str]:
    number = file.stem.split("_")[0]
    return (int(number) if number.isdecimal() else 0, file.name)


def _read_hub(source: str, split: str) -> "pd.DataFrame":
    require_hub(source, "name a folder or a file to read local data")
    import datasets

    try:
        return datasets.load_dataset(source, split=split).to_pandas()
    except Exception as error:
        # datasets raises a dozen unrelated types here; whichever it is, the user needs its words.
        raise DataError(
            f"cannot load {source!r} ({split}) from the hub: {first_line(error)}"
        ) from error
