"""Sources of labelled texts: read, checked, shuffled, split, and looked over for duplicates.

    rows = load_rows("reviews.csv", "train", columns)
    train, evaluation = carve(rows, num_train=2000, num_evaluation=400, seed=42)

A source is a hub id, the `aclImdb/` folder, a folder with files named train, test or validation,
a CSV, TSV, JSONL or Parquet file, or `embedded`: the reviews that ship with the package. Nothing
here imports torch, so that what is wrong with the data is said within a second.
"""

import hashlib
import json
import os
import re
import socket
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from sentilora.errors import DataError
from sentilora.prompt import clean_text, fault_of

if TYPE_CHECKING:
    import pandas as pd

EMBEDDED = "embedded"
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation"),
}
IMBALANCE_LIMIT = 4  # warn when the largest label has more than 4 times the rows of the smallest


@dataclass(frozen=True)
class Columns:
    """Where text and label stand, and which word each stored label means."""

    text: str = "text"
    label: str = "label"
    label_map: Mapping[str, str] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Labelled texts in the source's order. `labels` holds label words."""

    source: str
    texts: list[str]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Iterable[int]) -> "Rows":
        """The rows at `indices`, in that order."""
        at = [int(i) for i in indices]
        return Rows(self.source, [self.texts[i] for i in at], [self.labels[i] for i in at])

    def hashes(self) -> list[str]:
        """SHA-256 of each text as the source has it, and its label."""
        pairs = zip(self.texts, self.labels, strict=True)
        return [hashlib.sha256(f"{t}\0{label}".encode()).hexdigest() for t, label in pairs]


# --- reading -------------------------------------------------------------------------------------


def load_rows(source: str, split: str, columns: Columns) -> Rows:
    """The labelled rows of one split of a source. `split`: "train", "test" or "validation".

    Raises `DataError` when the source is missing, unreadable or unreachable, lacks a column, or
    holds an empty text or a label that no word is known for.
    """
    frame = read_table(source, split, columns.text)
    if columns.label not in frame.columns:
        raise DataError(_no_column(source, frame, columns.label, "label"))
    if not len(frame):
        raise DataError(f"{source} has no rows")
    return Rows(source, texts_of(source, frame, columns.text), _labels(source, frame, columns))


def read_table(source: str, split: str, text_column: str) -> "pd.DataFrame":
    """One split of a source as a table, every column kept. Checks that the text column is there."""
    path = _local_path(source, split)
    if path is None:
        frame = _read_hub(source, split)
    elif path.is_dir():
        frame = _read_class_folders(path)
    else:
        frame = _read_file(path)
    if text_column not in frame.columns:
        raise DataError(_no_column(source, frame, text_column, "text"))
    return frame


def _no_column(source: str, frame: "pd.DataFrame", column: str, kind: str) -> str:
    names = ", ".join(map(str, frame.columns)) or "none at all"
    return f"{source} has no column {column!r}; it has {names}. Name it with --{kind}-column"


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
            records.append({"text": text, "label": label.name, "file": file.name})
    return pd.DataFrame(records)


def _review_number(file: Path) -> tuple[int, str]:
    number = file.stem.split("_")[0]
    return (int(number) if number.isdecimal() else 0, file.name)


def _read_file(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"cannot tell the format of {path.name}; use one of {', '.join(SUFFIXES)}")
    try:
        match path.suffix.lower():
            case ".parquet":
                return pd.read_parquet(path)
            case ".jsonl" | ".json":
                return pd.DataFrame(_read_json(path), dtype=object)
            case suffix:
                return _read_csv(path, "\t" if suffix == ".tsv" else ",")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not valid UTF-8{_bad_byte(path)}; save it as UTF-8") from error
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"cannot read {path}: {reason}") from error


def _read_json(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file or of a JSON list, their values as they are written."""
    content = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json":
        items = json.loads(content)
        if not isinstance(items, list):
            raise ValueError("a list of objects is expected")
        numbered = [("item", number, item) for number, item in enumerate(items, 1)]
    else:
        # Not splitlines: a JSON string may hold one of the other characters that it splits at.
        lines = [(n, line) for n, line in enumerate(content.split("\n"), 1) if line.strip()]
        numbered = []
        for number, line in lines:
            try:
                numbered.append(("line", number, json.loads(line)))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error.msg}") from error
    for kind, number, value in numbered:
        if not isinstance(value, dict):
            raise ValueError(f"{kind} {number} is {value!r:.60}; an object is expected")
    return [value for _, _, value in numbered]


def _read_csv(path: Path, separator: str) -> "pd.DataFrame":
    import pandas as pd

    with warnings.catch_warnings():
        # A first row with more cells than the header has names: a comma outside quotes. Later rows
        # raise by themselves.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(
                path,
                sep=separator,
                index_col=False,
                # Cells stay as they are written: "007" is no 7, and only an empty cell is missing,
                # since "None" and "NA" are words a review may consist of.
                dtype=str,
                keep_default_na=False,
                na_values=[""],
            )
        except pd.errors.ParserWarning as error:
            raise DataError(
                f"{path} has rows with more cells than its header; put texts that hold a "
                f"{separator!r} in double quotes"
            ) from error


def _bad_byte(path: Path) -> str:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return f": byte {error.object[error.start]:#04x} in line {line}"
    return ""


def _read_hub(source: str, split: str) -> "pd.DataFrame":
    require_hub(source, "data.train=<folder or file> reads local data")
    import datasets

    try:
        return datasets.load_dataset(source, split=split).to_pandas()
    except Exception as error:
        # datasets raises a dozen unrelated types here; whichever it is, the user needs its words.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"cannot load {source!r} ({split}) from the hub: {reason}") from error


def require_hub(name: str, remedy: str) -> None:
    """Raise `DataError` within seconds when `name` would be downloaded and the hub is out of reach.

    Does nothing when the user works from the cache (`HF_HUB_OFFLINE`) or through a proxy.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return
    if not hub_reachable():
        raise DataError(
            f"{name!r} is no local file or folder, and the hub ({hub_endpoint()}) is not "
            f"reachable; {remedy}, HF_HUB_OFFLINE=1 uses what is cached"
        )


def hub_endpoint() -> str:
    """Address of the hub, as `HF_ENDPOINT` or huggingface_hub has it."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def hub_reachable(timeout_seconds: float = 3.0) -> bool:
    """Whether a connection to the hub can be opened (assumed so behind a proxy)."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY")):
        return True
    url = urlparse(hub_endpoint())
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout_seconds).close()
    except OSError:
        return False
    return True


def texts_of(source: str, frame: "pd.DataFrame", column: str) -> list[str]:
    """The texts of a column. Raises `DataError` with the row of the first that cannot be used."""
    values = frame[column].tolist()
    for row, (value, missing) in enumerate(zip(values, frame[column].isna(), strict=True), 1):
        if fault := "missing" if missing else fault_of(value):
            raise DataError(f"{source}, row {row}: {column} is {fault}; mend it or drop the row")
    return values


def _labels(source: str, frame: "pd.DataFrame", columns: Columns) -> list[str]:
    column = frame[columns.label]
    if column.isna().any():
        row = int(column.isna().to_numpy().argmax()) + 1
        raise DataError(f"{source}, row {row}: {columns.label} is missing; fill it or drop the row")
    label_map = dict(columns.label_map or {})
    words: dict[Any, str] = {}
    for value, row in _first_rows(source, column.tolist()).items():
        keys = _label_keys(value)
        # A label that the map leads to no label of the prompt may itself be one: the labels 0 … 9.
        candidates = [label_map[key] for key in keys if key in label_map] + keys
        word = next((c for c in candidates if c in columns.labels), None)
        if word is None:
            known = ", ".join(columns.labels)
            mapped = ", ".join(f"{k} = {v}" for k, v in label_map.items())
            raise DataError(
                f"{source}, row {row}: {columns.label} is {keys[0]!r}, which is no label of the "
                f"prompt ({known}) and is mapped to none (data.label_map: {mapped}); extend "
                "data.label_map or prompt.labels"
            )
        words[value] = word
    return [words[value] for value in column.tolist()]


def _label_keys(value: Any) -> list[str]:
    """How a stored label may be called: 1.0, which a column with gaps makes of 1, is also "1"."""
    keys = [str(value)]
    whole = re.fullmatch(r"([+-]?\d+)\.0+", keys[0])
    return [*keys, whole[1]] if whole else keys


def _first_rows(source: str, values: Sequence[Any]) -> dict[Any, int]:
    """Each distinct value with the number of the first row that holds it."""
    first: dict[Any, int] = {}
    for row, value in enumerate(values, 1):
        try:
            first.setdefault(value, row)
        except TypeError as error:
            raise DataError(
                f"{source}, row {row}: the label is {value!r}; one value is expected"
            ) from error
    return first


# --- choosing ------------------------------------------------------------------------------------


def shuffled(num_rows: int, seed: int) -> list[int]:
    """Row numbers in the order of `datasets.Dataset.shuffle(seed)` (NumPy's PCG64 permutation)."""
    import numpy as np

    return np.random.default_rng(seed).permutation(num_rows).tolist()


def sample(rows: Rows, num_rows: int, seed: int, setting: str) -> Rows:
    """The first `num_rows` rows of the shuffle; 0 takes all. `setting`: the count's name."""
    if num_rows > len(rows):
        raise DataError(
            f"{setting} asks for {num_rows:,} rows, {rows.source} has {len(rows):,}; "
            f"set {setting}={len(rows)} or less (0 takes all)"
        )
    return rows.take(shuffled(len(rows), seed)[: num_rows or len(rows)])


def carve(
    rows: Rows, num_train: int, num_evaluation: int, seed: int, balance: str = "none"
) -> tuple[Rows, Rows]:
    """Training and evaluation rows out of one split: the first rows of the shuffle, then the next.

    An evaluation row whose normalised text is among the training texts is skipped. With
    `balance="sample"` the training rows hold as many of each label. Raises `DataError` when the
    split has too few rows.
    """
    order = shuffled(len(rows), seed)
    chosen = order[: num_train or max(0, len(rows) - (num_evaluation or len(rows) // 5))]
    if balance == "sample":
        chosen = _balanced(rows, order if num_train else chosen, num_train)
    taken = set(chosen)
    train_texts = {normalised(rows.texts[i]) for i in chosen}
    left = [i for i in order if i not in taken and normalised(rows.texts[i]) not in train_texts]
    if num_train > len(rows) or num_evaluation > len(left) or not left or not chosen:
        raise DataError(
            f"data.num_train={num_train} and data.num_evaluation={num_evaluation} need more rows "
            f"than {rows.source} has ({len(rows):,}); try data.num_train={len(rows) * 4 // 5} "
            f"data.num_evaluation={len(rows) // 5}"
        )
    return rows.take(chosen), rows.take(left[: num_evaluation or len(left)])


def _balanced(rows: Rows, order: list[int], num_rows: int) -> list[int]:
    """The first rows of `order` with as many of each label; 0: as many as the rarest has there."""
    there = Counter(rows.labels[i] for i in order)
    per_label = num_rows // len(there) if num_rows else min(there.values(), default=0)
    counts: Counter[str] = Counter()
    chosen = []
    for i in order:
        if counts[rows.labels[i]] < per_label:
            counts[rows.labels[i]] += 1
            chosen.append(i)
    rarest = min(there, key=there.__getitem__, default="")
    if there[rarest] < per_label:
        raise DataError(
            f"data.balance=sample needs {per_label:,} rows of each label, {rows.source} has "
            f"{there[rarest]:,} of {rarest!r}; lower data.num_train to "
            f"{there[rarest] * len(there)} or use data.balance=weights"
        )
    return chosen


def label_weights(labels: Sequence[str]) -> dict[str, float]:
    """Per label n / (k · count): every label weighs the same in sum, the mean weight is 1."""
    counts = Counter(labels)
    return {label: len(labels) / (len(counts) * count) for label, count in counts.items()}


# --- looking over --------------------------------------------------------------------------------


def normalised(text: str) -> str:
    """What counts as the same text: line breaks and runs of spaces as one space, lower case."""
    return " ".join(clean_text(text).lower().split())


@dataclass(frozen=True)
class Overview:
    """What there is to know of the chosen rows before they are used."""

    num_rows: dict[str, int]
    balance: dict[str, dict[str, int]]
    duplicates: dict[str, int]  # within a split: rows beyond the first of the same text
    shared: dict[str, int]  # between splits: rows of the second whose text is in the first
    conflicts: int  # texts that occur with more than one label
    warnings: list[str]


def look_over(splits: Mapping[str, Rows]) -> Overview:
    """Counts, class balance, exact duplicates inside and across splits, and label conflicts."""
    keys = {name: [normalised(t) for t in rows.texts] for name, rows in splits.items()}
    distinct = {name: set(values) for name, values in keys.items()}
    names = list(splits)
    shared = {
        f"{first} / {second}": sum(key in distinct[first] for key in keys[second])
        for i, first in enumerate(names)
        for second in names[i + 1 :]
    }
    seen_labels: dict[str, set[str]] = defaultdict(set)
    for name, rows in splits.items():
        for key, label in zip(keys[name], rows.labels, strict=True):
            seen_labels[key].add(label)
    balance = {name: dict(sorted(Counter(rows.labels).items())) for name, rows in splits.items()}
    warnings = []
    for name, counts in balance.items():
        if max(counts.values()) > IMBALANCE_LIMIT * min(counts.values()):
            warnings.append(
                f"{name}: {max(counts.values())} to {min(counts.values())} rows per label, beyond "
                f"1:{IMBALANCE_LIMIT}; data.balance=weights or sample evens it out"
            )
    warnings += [f"{n} rows of {pair.split(' / ')[1]} also occur in {pair.split(' / ')[0]}"
                 for pair, n in shared.items() if n]  # fmt: skip
    conflicts = sum(len(found) > 1 for found in seen_labels.values())
    if conflicts:
        warnings.append(f"{conflicts} texts occur with different labels")
    return Overview(
        num_rows={name: len(rows) for name, rows in splits.items()},
        balance=balance,
        duplicates={name: len(keys[name]) - len(distinct[name]) for name in names},
        shared=shared,
        conflicts=conflicts,
        warnings=warnings,
    )


def require_every_label(rows: Rows, labels: Sequence[str]) -> None:
    """Training needs two labels at least; raise `DataError` when the rows hold only one."""
    found = set(rows.labels)
    if len(found) < 2:
        raise DataError(
            f"all {len(rows):,} training rows of {rows.source} are {next(iter(found))!r}; training "
            f"needs rows of at least two of {', '.join(labels)}"
        )


def load_splits(
    *,
    train: str,
    evaluation: str,
    test: str,
    columns: Columns,
    num_train: int,
    num_evaluation: int,
    seed: int,
    balance: str,
) -> tuple[Rows, Rows]:
    """Training and evaluation rows as the configuration's `data` section asks for them."""
    rows = load_rows(train, "train", columns)
    if evaluation == "train":
        chosen, held_out = carve(rows, num_train, num_evaluation, seed, balance)
    else:
        if balance == "sample":
            chosen = rows.take(_balanced(rows, shuffled(len(rows), seed), num_train))
        else:
            chosen = sample(rows, num_train, seed, "data.num_train")
        source, split = (test, "test") if evaluation == "test" else (evaluation, "validation")
        other = load_rows(source, split, columns)
        held_out = sample(other, num_evaluation, seed, "data.num_evaluation")
    require_every_label(chosen, columns.labels)
    return chosen, held_out


def load_test(test: str, columns: Columns, num_test: int, seed: int) -> Rows:
    """The test rows: all in the source's order, or the first `num_test` of the shuffle."""
    rows = load_rows(test, "test", columns)
    return sample(rows, num_test, seed, "data.num_test") if num_test else rows
