"""Tables on disk: CSV, TSV, JSONL and Parquet files, read and written."""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.data.rows import row_place
from sentilora.errors import DataError, SentiloraError, first_line

if TYPE_CHECKING:
    import pandas as pd


SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


# --- reading -------------------------------------------------------------------------------------


def read_file(
    path: Path, is_needed: Callable[[str], bool] | None, text_column: str
) -> "pd.DataFrame":
    """A file as a table, in the format that its suffix names; cells as they are written.

    is_needed: whether a column of this name is needed; None keeps every column.

    Raises `DataError` for an unknown suffix and for a file that cannot be read.
    """
    import pandas as pd

    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"cannot tell the format of {path.name}",
            seen=str(path),
            remedy=f"use one of {', '.join(SUFFIXES)}",
        )
    try:
        match path.suffix.lower():
            case ".parquet":
                if is_needed is not None:
                    return _read_parquet(path, is_needed)
                frame = pd.read_parquet(path)
                # A named index was a column to whoever wrote it.
                return frame.reset_index() if any(frame.index.names) else frame
            case ".jsonl" | ".json":
                return pd.DataFrame(_read_json(path, is_needed), dtype=object)
            case suffix:
                separator = "\t" if suffix == ".tsv" else ","
                return _read_csv(path, separator, is_needed or text_column.__eq__)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not valid UTF-8{_bad_byte(path)}", seen=str(path), remedy="save it as UTF-8"
        ) from error
    except (OSError, ValueError, ImportError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path}: {first_line(error)}", seen=str(path)) from error


def _read_parquet(path: Path, is_needed: Callable[[str], bool]) -> "pd.DataFrame":
    """Some columns, read a batch at a time: read at once, the texts would be in memory 3 times."""
    import pandas as pd
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if is_needed(name)]
        _require_unique(path, names)
        columns: dict[str, list[Any]] = {name: [] for name in names}
        for batch in file.iter_batches(8192, columns=list(columns)):
            for name in columns:
                columns[name] += batch.column(name).to_pylist()
    return pd.DataFrame(columns, dtype=object)


def _require_unique(path: Path, names: Sequence[str]) -> None:
    if repeats := [name for name in names if names.count(name) > 1]:
        raise DataError(
            f"{path} has more than one column {repeats[0]!r}",
            seen=str(path),
            remedy="rename or remove all but one",
        )


def _read_json(path: Path, is_needed: Callable[[str], bool] | None) -> list[dict[str, Any]]:
    """The objects of a JSONL file or of a JSON list, their values as they are written."""
    records = []
    for place, value in _json_items(path):
        if not isinstance(value, dict):
            raise ValueError(f"{place} is {value!r:.60}; an object is expected")
        records.append(
            value if is_needed is None else {key: value[key] for key in value if is_needed(key)}
        )
    return records


def _json_items(path: Path) -> Iterator[tuple[str, Any]]:
    """Each value with its place: "line 3" of a JSONL file, "item 3" of a list."""
    # Lines end at \n only: a JSON string may hold other characters at which Python splits lines.
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


def _read_csv(path: Path, separator: str, is_needed: Callable[[str], bool]) -> "pd.DataFrame":
    """A CSV or TSV file, every cell as a string. A needed column must occur once."""
    import pandas as pd

    # Cells stay as they are written: "007" is not 7. Only an empty cell is missing, because "None"
    # and "NA" are words that a review may consist of.
    read = partial(
        pd.read_csv, path, sep=separator, dtype=str, keep_default_na=False, na_values=[""]
    )
    with warnings.catch_warnings():
        # pandas only warns when the first row has more cells than the header, which is a comma
        # outside quotes. For a later row it raises.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            # Read without a header, because pandas renames a second "text" to "text.1".
            names = read(header=None, nrows=1).iloc[0].dropna()
            _require_unique(path, [name for name in names if is_needed(name)])
            return read(index_col=False)
        except pd.errors.EmptyDataError as error:
            raise DataError(
                f"{path} is empty", seen=str(path), remedy="a header and rows are expected"
            ) from error
        except (pd.errors.ParserWarning, pd.errors.ParserError) as error:
            raise _csv_fault(path, separator, error) from error


def _csv_fault(path: Path, separator: str, error: Exception) -> DataError:
    """The error for a CSV file that pandas cannot split into cells."""
    if "EOF inside string" in str(error):
        return DataError(
            f"{path} opens a double quote{_csv_place(error, 'row')} and never closes it",
            seen=str(path),
            remedy='within a quoted text, write "" for a quote',
        )
    return DataError(
        f"{path} has more cells{_csv_place(error, 'line') or ' in its rows'} than in its header",
        seen=str(path),
        remedy=f"put texts that hold a {separator!r} in double quotes",
    )


def _csv_place(error: Exception, unit: str) -> str:
    """The row that pandas means: its row 0 and its line 1 are the header, a quoted newline is none.

    pandas counts blank lines, which are not rows once the file can be read; such files are rare.
    """
    number = re.search(rf"{unit} (\d+)", str(error))
    if number is None:
        return ""
    row = int(number[1]) - {"row": 1, "line": 2}[unit]
    return f" in {row_place(row)}" if row >= 0 else " in its header"


def _bad_byte(path: Path) -> str:
    """Where a file stops being UTF-8: ": byte 0xe9 in line 1"."""
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return f": byte {error.object[error.start]:#04x} in line {line}"
    return ""


# --- writing -------------------------------------------------------------------------------------


def write_table(frame: "pd.DataFrame", path: Path) -> None:
    """Write a table in the format that the suffix of `path` names."""
    try:
        match path.suffix.lower():
            case ".parquet":
                frame.to_parquet(path, index=False)
            case ".jsonl" | ".json" as suffix:
                frame.to_json(
                    path,
                    orient="records",
                    lines=suffix == ".jsonl",
                    force_ascii=False,
                    date_format="iso",
                    double_precision=15,
                )
            case suffix:
                frame.to_csv(path, sep="\t" if suffix == ".tsv" else ",", index=False)
    except OSError as error:
        raise SentiloraError(f"cannot write {path}: {error}", seen=str(path)) from error
    except (ValueError, TypeError) as error:  # a column of several types
        raise SentiloraError(
            f"cannot write {path}: {error}", seen=str(path), remedy="try a .jsonl file"
        ) from error
