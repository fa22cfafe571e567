"""How a folder holds its splits: named files, shards, a hub repository, classes of text files.

Hidden files and folders are never data.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.data.tables import suffix_of
from sentilora.errors import DataError
from sentilora.progress import say_once
from sentilora.wording import counted, listed, quoted

if TYPE_CHECKING:
    import pyarrow as pa


SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
}
_NO_LABELS = ("unsup",)  # aclImdb/train/unsup


def paths_of_split(folder: Path, split: str) -> list[Path]:
    """Where a folder has the rows of a split: files in order, or one folder that holds rows.

    split: "train", "test" or "validation".

    A folder of rows is one of class folders or one that `datasets` saved. The files of a split are
    train.csv, train-00000-of-00002.parquet and so on, all the files in train/, or any of these one
    level down, in data/ for example.

    Raises `DataError` if there is no such data or several candidates.
    """
    if is_saved(folder):
        return [folder]
    candidates = _candidates(folder, split)
    if len(candidates) > 1:
        names = [str(paths[0].relative_to(folder)) for paths in candidates]
        raise DataError(
            f"{quoted(folder)} has {split} data in {listed(names)}",
            seen=str(folder),
            remedy=f"name one of them, e.g. {quoted(folder / names[0])}, or remove the others",
        )
    if candidates:
        return candidates[0]
    content = listed(path.name for path in _visible(folder)[:8]) or "nothing"
    name = SPLIT_NAMES[split][0]
    splits = {name for names in SPLIT_NAMES.values() for name in names}
    files = [
        path
        for path in _visible(folder)
        if path.is_file() and suffix_of(path) and path.name.lower().split(".")[0] not in splits
    ]
    this = f"name a file, e.g. {quoted(files[0])}, or " if files else ""
    raise DataError(
        f"{quoted(folder)} has no {split} data; it holds {content}",
        seen=str(folder),
        remedy=f"{this}add {name}.csv, .tsv, .jsonl or .parquet, or {name}/ with a folder of "
        ".txt files for each label",
    )


def has_split(source: str, split: str) -> bool:
    """Whether a source on this machine is a folder that has this split of its own.

    Raises `DataError` for a split that lacks parts.
    """
    folder = Path(os.path.expanduser(source))
    return os.path.isdir(folder) and not is_saved(folder) and bool(_candidates(folder, split))


def _candidates(folder: Path, split: str) -> list[list[Path]]:
    """Each set of files, or folder of rows, that holds a split in `folder` or one level down."""
    candidates = list(_in_folder(folder, split))
    used = {path for paths in candidates for path in paths}
    for child in _folders(folder):
        if child not in used and not any(child in path.parents for path in used):
            candidates += _in_folder(child, split)
    return candidates


def _in_folder(folder: Path, split: str) -> Iterator[list[Path]]:
    """Each set of files, or folder of rows, that holds a split directly in `folder`."""
    for path in _visible(folder):
        name = path.name.lower()
        if path.is_dir() and name in SPLIT_NAMES[split]:
            if is_saved(path) or class_folders(path):  # aclImdb/train/pos/0_9.txt
                yield [path]
            elif files := _files_of_one_format(path):
                yield files
        elif path.is_file() and suffix_of(path) and name.split(".")[0] in SPLIT_NAMES[split]:
            yield [path]
    for name in SPLIT_NAMES[split]:
        if shards := _shards(folder, name):
            yield shards


def _shards(folder: Path, name: str) -> list[Path]:
    """The files of a split that was written in parts: train-00000-of-00002.parquet."""
    pattern = re.compile(rf"{name}-(\d+)-of-(\d+)(-[0-9a-f]+)?\.", re.IGNORECASE)
    shards = [
        (int(match[1]), int(match[2]), path)
        for path in _visible(folder)
        if (match := pattern.match(path.name)) and suffix_of(path)
    ]
    if shards:
        total = shards[0][1]
        missing = sorted(set(range(total)) - {number for number, _, _ in shards})
        if missing or len(shards) != total:
            fault = f"part {missing[0]} is missing" if missing else "parts of several writes"
            raise DataError(
                f"{quoted(folder)} has {len(shards)} of the {total} parts of {name}: {fault}",
                seen=str(folder),
                remedy="complete the parts or remove those that do not belong",
            )
    return [path for _, _, path in sorted(shards)]


def _files_of_one_format(folder: Path) -> list[Path]:
    files = [path for path in _visible(folder) if path.is_file() and suffix_of(path)]
    formats = sorted({suffix_of(path) for path in files})
    if len(formats) > 1:
        raise DataError(
            f"{quoted(folder)} holds files of several formats: {', '.join(formats)}",
            seen=str(folder),
            remedy="keep one of them, or name a file",
        )
    return files


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, without hidden names and those of macOS archives."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name != "__MACOSX"
    )


def _folders(folder: Path) -> Iterator[Path]:
    return (path for path in _visible(folder) if path.is_dir())


# --- folders that hold rows ----------------------------------------------------------------------


def is_saved(folder: Path) -> bool:
    """Whether `datasets.Dataset.save_to_disk` wrote the folder."""
    return (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()


def class_folders(folder: Path) -> list[Path]:
    """The folders of .txt files in a folder, one for each label."""
    return [path for path in _folders(folder) if path.name not in _NO_LABELS and _texts(path)]


def _texts(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.suffix.lower() == ".txt"]


def read_class_folders(folder: Path) -> "pa.Table":
    """The .txt files of a folder per label, in the order of their numbers.

    Prints which other files and folders are left out.
    """
    import pyarrow as pa

    records = []
    labels = class_folders(folder)
    no_labels = [p.name for p in _folders(folder) if p not in labels and p.name not in _NO_LABELS]
    if no_labels:
        say_once(f"{quoted(folder)}: left out, without .txt files: {listed(no_labels)}")
    for label in labels:
        texts = _texts(label)
        if others := [path.name for path in _visible(label) if path not in texts]:
            say_once(f"{quoted(label)}: left out, no .txt files: {counted(len(others), 'file')}, "
                f"{listed(others[:3])}{', …' if len(others) > 3 else ''}")  # fmt: skip
        for file in sorted(texts, key=_review_number):
            try:
                text = file.read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"cannot read {quoted(file)}: {error}", seen=str(file)) from error
            rating = re.fullmatch(r"\d+_(\d+)", file.stem)  # IMDB's: number_rating.txt
            records.append(
                {
                    "text": text,
                    "label": label.name,
                    "file": file.name,
                    "rating": rating[1] if rating else None,
                }
            )
    return pa.Table.from_pylist(records)


def _review_number(file: Path) -> tuple[int, str]:
    number = file.stem.split("_")[0]
    return (int(number) if number.isdecimal() else 0, file.name)
