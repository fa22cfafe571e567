"""Where labeled texts come from: sources read row by row, in order, unchanged and checked.

    rows = load_rows("reviews.csv", "train", columns)

A source is a hub id, the `aclImdb/` folder, a folder with files named train, test or validation,
a CSV, TSV, JSONL or Parquet file, or `embedded`: the reviews that ship with the package. Nothing
here imports torch, so that a fault in the data is reported within a second.
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
    """The labeled rows of one split of a source. `split`: "train", "test" or "validation".

    Raises `DataError` if the source is missing, unreadable or unreachable, lacks a column, or
    holds an empty text or an unknown label.
    """
    names = {columns.text, columns.label}
    frame = read_table(source, split, columns.text, lambda name: name in names or may_rate(name))
    if columns.label not in frame.columns:
        frame = read_table(source, split, columns.text)  # with every column, for the message
        raise missing_column(source, frame, columns.label, "label_column")
    if not len(frame):
        raise DataError(f"{source} has no rows", seen=source)
    texts, labels = texts_of(source, frame, columns.text), labels_of(source, frame, columns)
    return Rows(source, texts, labels, *ratings_of(frame, columns))


def read_table(
    source: str, split: str, text_column: str, is_needed: Callable[[str], bool] | None = None
) -> "pd.DataFrame":
    """One split of a source as a table that has the text column.

    is_needed: whether a column of this name is needed; None keeps every column. The other columns
        of a Parquet or JSONL file are never held in memory: they may be larger than the texts.

    Raises `DataError` if the source is missing, unreadable or unreachable, or has no such column.
    """
    path = _local_path(source, split)
    if path is None:
        frame = _read_hub(source, split)
    elif path.is_dir():
        frame = _read_class_folders(path)
    else:
        frame = read_file(path, is_needed, text_column)
    if text_column not in frame.columns:
        if is_needed is not None:
            return read_table(source, split, text_column)  # with every column, for the message
        if not len(frame):
            raise DataError(f"{source} has no rows", seen=source)
        raise missing_column(source, frame, text_column, "text_column")
    return frame


# --- sources -------------------------------------------------------------------------------------


def _local_path(source: str, split: str) -> Path | None:
    """The file or class folder of a split on this machine, or None for a hub id."""
    if source == EMBEDDED:
        # The embedded reviews have no validation file: validation rows come out of train.
        return reviews_path("test" if split == "test" else "train")
    path = Path(os.path.expanduser(source))
    if os.path.isfile(path):  # not Path.is_file: it raises for a name that no file can have
        return path
    if os.path.isdir(path):
        return _split_in_folder(path, split)
    if looks_like_hub_id(source) and not source.endswith(SUFFIXES):
        return None
    raise DataError(f"there is no file or folder {source}", seen=source)


def _split_in_folder(folder: Path, split: str) -> Path:
    """The file or class folder of one split in a folder of splits."""
    names = SPLIT_NAMES[split]
    for name in names:
        for suffix in SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
        # aclImdb/train/pos/0_9.txt: a folder for each label
        if (folder / name).is_dir() and _class_folders(folder / name):
            return folder / name
    content = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise DataError(
        f"{folder} has no {split} data; it holds {content}",
        seen=str(folder),
        remedy=f"add {names[0]}.csv, .tsv, .jsonl or .parquet, or {names[0]}/ with a folder of "
        ".txt files for each label",
    )


def _class_folders(folder: Path) -> list[Path]:
    # aclImdb/train/unsup has no labels.
    return sorted(p for p in folder.iterdir() if p.name != "unsup" and any(p.glob("*.txt")))


def _read_class_folders(folder: Path) -> "pd.DataFrame":
    """The .txt files of a folder per label, in the order of their numbers."""
    import pandas as pd

    records = []
    for label in _class_folders(folder):
        for file in sorted(label.glob("*.txt"), key=_review_number):
            try:
                text = file.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"cannot read {file}: {error}", seen=str(file)) from error
            record = {"text": text, "label": label.name, "file": file.name}
            if rating := re.fullmatch(r"\d+_(\d+)", file.stem):  # IMDB's: number_rating.txt
                record["rating"] = rating[1]
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
        # datasets raises a dozen unrelated types here; the user needs the message of each.
        raise DataError(
            f"cannot load {source!r} ({split}) from the hub: {first_line(error)}", seen=source
        ) from error
