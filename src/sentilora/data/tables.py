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


# --- file formats --------------------------------------------------------------------------------


def read_file(path: Path, wanted: Callable[[str], bool] | None, text_column: str) -> "pd.DataFrame":
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
    return f" in {row_place(row)}" if row >= 0 else " in its header"


def _bad_byte(path: Path) -> str:
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return f": byte {error.object[error.start]:#04x} in line {line}"
    return ""


def write_table(frame: "pd.DataFrame", path: Path) -> None:
    """Write a table in the format its name tells."""
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
        raise SentiloraError(f"cannot write {path}: {error}") from error
    except (ValueError, TypeError) as error:  # a column of several kinds
        raise SentiloraError(f"cannot write {path}: {error}; try a .jsonl file") from error
