"""Where labelled texts come from: sources read row by row, in order, unchanged and checked.

    rows = load_rows("reviews.csv", "train", columns)

A source is a hub id, the `aclImdb/` folder, a folder with files named train, test or validation,
a CSV, TSV, JSONL or Parquet file, or `embedded`: the reviews that ship with the package. Nothing
here imports torch, so that what is wrong with the data is said within a second.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.errors import DataError, first_line
from sentilora.hub import require_hub
from sentilora.prompt import fault_of

if TYPE_CHECKING:
    import pandas as pd

EMBEDDED = "embedded"
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
RATING_COLUMNS = ("rating", "stars", "score")
MAX_RATINGS = 20  # distinct values; a score of more is none that rows can be grouped by
SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
}


@dataclass(frozen=True)
class Columns:
    """Where text and label stand, and which word each stored label means."""

    text: str = "text"
    label: str = "label"
    label_map: Mapping[str, str] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Labelled texts in the source's order. `labels` holds label words.

    ratings: what the source's own `rating_column` says of each row, None where it says nothing;
    empty when the source has no such column, see `RATING_COLUMNS`.
    numbers: each row's place in the source, counted from 0, however few of its rows these are: of a
    file without its header, of a folder of .txt files in the order in which they are read. Left
    out: the rows are all of the source.
    """

    source: str
    texts: list[str]
    labels: list[str]
    rating_column: str | None = None
    ratings: list[float | None] = field(default_factory=list)
    numbers: Sequence[int] = ()

    def __post_init__(self) -> None:
        if not self.numbers:
            object.__setattr__(self, "numbers", range(len(self.texts)))

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Iterable[int]) -> "Rows":
        """The rows at `indices`, in that order."""
        at = [int(i) for i in indices]
        return Rows(
            self.source,
            [self.texts[i] for i in at],
            [self.labels[i] for i in at],
            self.rating_column,
            [self.ratings[i] for i in at] if self.ratings else [],
            [self.numbers[i] for i in at],
        )

    def hashes(self) -> Iterator[str]:
        """SHA-256 of each text as the source has it, and its label."""
        return (row_hash(*pair) for pair in zip(self.texts, self.labels, strict=True))


def row_hash(text: str, label: str) -> str:
    """SHA-256 of a text as the source has it, and its label."""
    return hashlib.sha256(f"{text}\0{label}".encode()).hexdigest()


def load_rows(source: str, split: str, columns: Columns) -> Rows:
    """The labelled rows of one split of a source. `split`: "train", "test" or "validation".

    Raises `DataError` when the source is missing, unreadable or unreachable, lacks a column, or
    holds an empty text or a label that no word is known for.
    """
    used = {columns.text, columns.label}
    frame = read_table(source, split, columns.text, lambda name: name in used or _may_rate(name))
    if columns.label not in frame.columns:
        frame = read_table(source, split, columns.text)  # with all that the message is to name
        raise DataError(_no_column(source, frame, columns.label, "label"))
    if not len(frame):
        raise DataError(f"{source} has no rows")
    texts, labels = texts_of(source, frame, columns.text), _labels(source, frame, columns)
    return Rows(source, texts, labels, *_ratings(frame, columns))


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
        frame = _read_file(path, wanted, text_column)
    if text_column not in frame.columns:
        if wanted is not None:
            return read_table(source, split, text_column)
        if not len(frame):
            raise DataError(f"{source} has no rows")
        raise DataError(_no_column(source, frame, text_column, "text"))
    return frame


def _no_column(source: str, frame: "pd.DataFrame", column: str, kind: str) -> str:
    names = ", ".join(map(str, frame.columns)) or "none at all"
    remedy = f"Name it with --{kind}-column"
    if len(frame.columns) == 1 and (found := re.search("[;\t|]", names)):
        remedy = (
            f"Its separator seems to be {found[0]!r}: save it with commas, or as .tsv with tabs"
        )
    return f"{source} has no column {column!r}; it has {names}. {remedy}"


def texts_of(source: str, frame: "pd.DataFrame", column: str) -> list[str]:
    """The texts of a column. Raises `DataError` with the row of the first that cannot be used."""
    values = frame[column].tolist()
    faults = {
        row: fault
        for row, (value, missing) in enumerate(zip(values, frame[column].isna(), strict=True))
        if (fault := "missing" if missing else fault_of(value))
    }
    if faults:
        row, fault = next(iter(faults.items()))
        raise DataError(
            f"{source}, {_place(row)}: {column} is {fault}; mend it or drop the row"
            + _more(len(faults) - 1, "row that cannot be used", "rows that cannot be used")
        )
    return values


def _place(row: int) -> str:
    """A row's number as `Rows` has it, which is that of reports and of pandas."""
    return f"row {row} (counted from 0)"


def _more(count: int, one: str, several: str) -> str:
    """How much of the same there is, so that it can be mended in one go."""
    return f" (and {count:,} more {one if count == 1 else several})" if count else ""


def _labels(source: str, frame: "pd.DataFrame", columns: Columns) -> list[str]:
    column = frame[columns.label]
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax())
        raise DataError(
            f"{source}, {_place(row)}: {columns.label} is missing; fill it or drop the row"
            + _more(int(column.isna().sum()) - 1, "row without", "rows without")
        )
    label_map = dict(columns.label_map or {})
    words: dict[Any, str] = {}
    unknown: dict[str, int] = {}
    for value, row in _first_rows(source, column.tolist()).items():
        keys = _label_keys(value, len(columns.labels))
        # A label that the map leads to no label of the prompt may itself be one: the labels 0 … 9.
        candidates = [label_map[key] for key in keys if key in label_map] + keys
        word = next((c for c in candidates if c in columns.labels), None)
        if word is None:
            unknown[keys[0]] = row
        else:
            words[value] = word
    if unknown:
        known = ", ".join(columns.labels)
        mapped = ", ".join(f"{k} = {v}" for k, v in label_map.items()) or "empty"
        found, row = next(iter(unknown.items()))
        raise DataError(
            f"{source}, {_place(row)}: {columns.label} is {found!r:.60}, which is no label of the "
            f"prompt ({known}) and is mapped to none (data.label_map: {mapped}); extend "
            "data.label_map or prompt.labels"
            + _more(len(unknown) - 1, "unknown label", "unknown labels")
        )
    return [words[value] for value in column.tolist()]


def _ratings(frame: "pd.DataFrame", columns: Columns) -> tuple[str | None, list[float | None]]:
    """Name and values of the first column of numbers that rates the rows; missing ones are None."""
    import numpy as np
    import pandas as pd

    for name in frame.columns:
        if not _may_rate(name) or name in (columns.text, columns.label):
            continue
        try:
            values = pd.to_numeric(frame[name], errors="coerce").astype(float)
        except OverflowError:
            continue  # no rating is a number of 300 digits
        no_number = (values.isna() & frame[name].notna()) | np.isinf(values)
        if not no_number.any() and 1 <= values.nunique() <= MAX_RATINGS:
            return str(name), [None if value != value else value for value in values.tolist()]
    return None, []


def _may_rate(name: Any) -> bool:
    return str(name).lower() in RATING_COLUMNS


def _label_keys(value: Any, num_labels: int) -> list[str]:
    """How a stored label may be called: 1.0, which a column with gaps makes of 1, is also "1".

    True, which files spell in three ways, is also "true", and of two labels the one called "1".
    """
    keys = [str(value)]
    if (word := keys[0].lower()) in ("true", "false"):
        number = "1" if word == "true" else "0"
        return [*keys, word, number] if num_labels == 2 else [*keys, word]
    whole = re.fullmatch(r"([+-]?\d+)\.0+", keys[0])
    return [*keys, whole[1]] if whole else keys


def _first_rows(source: str, values: Sequence[Any]) -> dict[Any, int]:
    """Each distinct value with the number of the first row that holds it."""
    first: dict[Any, int] = {}
    for row, value in enumerate(values):
        try:
            first.setdefault(value, row)
        except TypeError as error:
            raise DataError(
                f"{source}, {_place(row)}: the label is {value!r}; one value is expected"
            ) from error
    return first


# --- sources -------------------------------------------------------------------------------------


def _local_path(source: str, split: str) -> Path | None:
    """The file or class folder behind a source, or None for a hub id."""
    if source == EMBEDDED:
        # The embedded reviews have no validation file: it is carved out of train.
        name = "test" if split == "test" else "train"
        return Path(
            str(resources.files("sentilora").joinpath("assets", "reviews", f"{name}.jsonl"))
        )
    path = Path(os.path.expanduser(source))
    if os.path.isfile(path):  # os.path says False to a name that no file can have, Path raises
        return path
    if os.path.isdir(path):
        return _split_in_folder(path, split)
    if looks_like_hub_id(source):
        return None
    raise DataError(f"there is no file or folder {source}")


def looks_like_hub_id(name: str) -> bool:
    """Whether a name that is no local path can be a repository on the hub."""
    return bool(re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name)) and not name.endswith(SUFFIXES)


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


# --- file formats --------------------------------------------------------------------------------


def _read_file(
    path: Path, wanted: Callable[[str], bool] | None, text_column: str
) -> "pd.DataFrame":
    import pandas as pd

    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"cannot tell the format of {path.name}; use one of {', '.join(SUFFIXES)}")
    try:
        match path.suffix.lower():
            case ".parquet":
                if wanted is not None:
                    return _read_parquet(path, wanted)
                frame = pd.read_parquet(path)
                # An index with a name was a column to whoever wrote it.
                return frame.reset_index() if any(frame.index.names) else frame
            case ".jsonl" | ".json":
                return pd.DataFrame(_read_json(path, wanted), dtype=object)
            case suffix:
                separator = "\t" if suffix == ".tsv" else ","
                return _read_csv(path, separator, wanted or text_column.__eq__)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not valid UTF-8{_bad_byte(path)}; save it as UTF-8") from error
    except (OSError, ValueError, ImportError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path}: {first_line(error)}") from error


def _read_parquet(path: Path, wanted: Callable[[str], bool]) -> "pd.DataFrame":
    """Some of the columns, a piece at a time: whole, the texts would be held three times."""
    import pandas as pd
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if wanted(name)]
        _require_once(path, names)
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for batch in file.iter_batches(8192, columns=list(columns)):
            for name in columns:
                columns[name] += batch.column(name).to_pylist()
    return pd.DataFrame(columns, dtype=object)


def _require_once(path: Path, names: Sequence[str]) -> None:
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path} has more than one column {twice[0]!r}")


def _read_json(path: Path, wanted: Callable[[str], bool] | None) -> list[dict[str, Any]]:
    """The objects of a JSONL file or of a JSON list, their values as they are written."""
    records = []
    for place, value in _json_items(path):
        if not isinstance(value, dict):
            raise ValueError(f"{place} is {value!r:.60}; an object is expected")
        records.append(
            value if wanted is None else {key: value[key] for key in value if wanted(key)}
        )
    return records


def _json_items(path: Path) -> Iterator[tuple[str, Any]]:
    """Each value with its place: "line 3" of a JSONL file, "item 3" of a list."""
    # Lines end at \n only: a JSON string may hold one of the others that Python would split at.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        if path.suffix.lower() == ".json":
            items = json.load(file)
            if not isinstance(items, list):
                raise ValueError("a list of objects is expected")
            yield from ((f"item {number}", item) for number, item in enumerate(items, 1))
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error.msg}") from error


def _read_csv(path: Path, separator: str, used: Callable[[str], bool]) -> "pd.DataFrame":
    import pandas as pd

    # Cells stay as they are written: "007" is no 7, and only an empty cell is missing, since "None"
    # and "NA" are words a review may consist of.
    read = partial(
        pd.read_csv, path, sep=separator, dtype=str, keep_default_na=False, na_values=[""]
    )
    with warnings.catch_warnings():
        # A first row with more cells than the header has names: a comma outside quotes. Later rows
        # raise by themselves.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            # With a header pandas calls the second "text" "text.1".
            names = read(header=None, nrows=1).iloc[0].dropna()
            _require_once(path, [name for name in names if used(name)])
            return read(index_col=False)
        except pd.errors.EmptyDataError as error:
            raise DataError(f"{path} is empty; a header and rows are expected") from error
        except (pd.errors.ParserWarning, pd.errors.ParserError) as error:
            if "EOF inside string" in str(error):
                raise DataError(
                    f"{path} opens a double quote{_csv_place(error, 'row')} and never closes it; "
                    'within a text in quotes, write "" for a quote'
                ) from error
            raise DataError(
                f"{path} has more cells{_csv_place(error, 'line') or ' in its rows'} than in its "
                f"header; put texts that hold a {separator!r} in double quotes"
            ) from error


def _csv_place(error: Exception, unit: str) -> str:
    """Which row pandas means: the header is its row 0 and its line 1, a text of many lines one.

    A blank line counts as one, which it is not once the file can be read; such files are rare.
    """
    found = re.search(rf"{unit} (\d+)", str(error))
    if found is None:
        return ""
    row = int(found[1]) - {"row": 1, "line": 2}[unit]
    return f" in {_place(row)}" if row >= 0 else " in its header"


def _bad_byte(path: Path) -> str:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return f": byte {error.object[error.start]:#04x} in line {line}"
    return ""
