"""Where labeled texts come from: sources read row by row, in order, unchanged and checked.

    rows = load_rows("reviews.csv", "train", columns)

A source is a hub id, a folder (see `layouts`), a CSV, TSV, JSON, JSONL, Parquet or Excel file,
`embedded`, which are the reviews that ship with the package, or a table in memory. Nothing here
imports torch, so that a fault in the data is reported within a second.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.data.columns import (
    fields_of,
    may_rate,
    missing_columns,
    ratings_of,
    texts_of,
    unknown_placeholder,
)
from sentilora.data.descriptions import features_beside, stored_names
from sentilora.data.label_words import labels_of
from sentilora.data.layouts import is_saved, paths_of_split, read_class_folders
from sentilora.data.memory import InMemory, require_passed
from sentilora.data.records import are_records, table_of_records
from sentilora.data.rows import Columns, Rows
from sentilora.data.soft_labels import (
    PREDICTION,
    is_probability,
    one_hot,
    probability_columns,
    shares_of,
    with_shares,
)
from sentilora.data.tables import SUFFIXES, concatenated, python_values, read_file
from sentilora.disk import is_plain_name
from sentilora.errors import DataError, first_line
from sentilora.hub import looks_like_hub_id, require_hub
from sentilora.places import is_remote, path_of
from sentilora.shipped import EMBEDDED, reviews_path
from sentilora.wording import listed, quoted

if TYPE_CHECKING:
    import pyarrow as pa

Source = str | InMemory


def load_rows(source: Source, split: str, columns: Columns) -> Rows:
    """The labeled rows of one split of a source. `split`: "train", "test" or "validation".

    Raises `DataError` if the source is missing, unreadable or unreachable, lacks a column, or
    holds an empty text or an unknown label.
    """
    name = _place(source, split)
    table = _labeled_table(name, source, split, columns)
    try:
        texts = texts_of(name, table, columns.text)
    except DataError as error:
        if other := _fault_of_labels(name, table, columns):
            raise DataError(f"{error}; {other}", setting=error.setting, seen=error.seen) from error
        raise
    labels, meanings, shares, origin = _answers(name, table, columns)
    others = {column: python_values(table[column]) for column in columns.others}
    fields = fields_of(name, others)
    ratings = ratings_of(table, columns)
    notes: tuple[str, ...] = ()
    if columns.is_soft and PREDICTION in table.column_names:
        notes = (
            f"the labels of {name} are a model's answers, for it has a column {PREDICTION!r}: "
            "accuracy on such rows is agreement with that model",
        )
    rows = Rows(str(source), texts, labels, *ratings, meanings=meanings, fields=fields, notes=notes)
    return with_shares(rows, shares, columns.labels, origin) if columns.is_soft else rows


def _answers(
    name: str, table: "pa.Table", columns: Columns
) -> tuple[list[str], Mapping[str, tuple[str, int]], list[tuple[float, ...]], str]:
    """Labels with their meanings, as `labels_of` has them, and shares with their origin.

    The labels of columns of probabilities follow from their shares; there are no shares without
    soft labels.
    """
    if columns.is_soft and (stored := probability_columns(table.column_names)):
        shares = shares_of(name, table, columns)
        labels = [columns.labels[0]] * len(shares)
        return labels, {}, shares, f"probabilities in {listed(stored.values())}"
    labels, meanings = labels_of(name, table, columns)
    shares = one_hot(labels, columns.labels) if columns.is_soft else []
    return labels, meanings, shares, f"shares of the labels in column {quoted(columns.label)}"


def _labeled_table(name: str, source: Source, split: str, columns: Columns) -> "pa.Table":
    """The columns that rows are made of. name: of the source, for messages.

    Raises `DataError` for a missing column, and for a table without rows.
    """
    needed = {columns.text, columns.label, *columns.others}

    def is_needed(column: str) -> bool:
        return column in needed or may_rate(column) or (columns.is_soft and is_probability(column))

    table = read_table(source, split, is_needed)
    if needed - set(table.column_names):
        table = read_labeled(source, split)  # with every column, for messages too
        every = table.column_names
        # Without a column of labels, that of the texts stands for it: probabilities are enough.
        is_enough = columns.is_soft and probability_columns(every)
        label = columns.text if is_enough else columns.label
        if every and (error := missing_columns(name, every, columns.text, label)):
            raise error
        for column in columns.others:
            if every and column not in every:
                raise unknown_placeholder(name, every, column)
    if not len(table):
        raise DataError(f"{name} has no rows", seen=name)
    return table


def has_column(source: Source, split: str, column: str) -> bool:
    """Whether a split of a source has a column of this name, records as the table they become.

    Nothing else of it is held in memory if it has.
    """
    names = read_table(source, split, column.__eq__).column_names
    return column in (names or read_labeled(source, split).column_names)


def read_labeled(source: Source, split: str) -> "pa.Table":
    """`read_table` with every column; of records with a question, those of its answers."""
    table = read_table(source, split)
    return table_of_records(str(source), table) if are_records(table) else table


def _fault_of_labels(source: str, table: "pa.Table", columns: Columns) -> DataError | None:
    """What is wrong with the labels, for a table whose texts are refused; None for nothing."""
    try:
        _answers(source, table, columns)
    except DataError as error:
        return error
    return None


def _place(source: Source, split: str) -> str:
    """What messages about the rows of a split name: of a folder, the file that holds them."""
    if isinstance(source, str) and os.path.isdir(os.path.expanduser(source)):
        paths = local_paths(source, split)
        if paths is not None and len(paths) == 1:
            return str(paths[0])
    return str(source)


def read_table(
    source: Source, split: str, is_needed: Callable[[str], bool] | None = None
) -> "pa.Table":
    """One split of a source as a table.

    is_needed: whether a column of this name is needed; None keeps every column. The other columns
        are not held in memory: they may be larger than the texts.

    Raises `DataError` if the source is missing, unreadable or unreachable.
    """
    if isinstance(source, InMemory):
        return source.table
    paths = local_paths(source, split)
    if paths is None:
        return _read_hub(source, split)
    if len(paths) == 1 and paths[0].is_dir():
        return _read_saved(paths[0]) if is_saved(paths[0]) else read_class_folders(paths[0])
    tables = [read_file(path, is_needed) for path in paths]
    return describe(join_tables(source, paths, tables), source, paths[0])


def local_paths(source: str, split: str) -> list[Path] | None:
    """The files or the folder of a split on this machine, or None for a hub id."""
    if source == EMBEDDED:
        # The embedded reviews have no validation file: validation rows come out of train.
        return [reviews_path("test" if split == "test" else "train")]
    path = path_of(os.path.expanduser(source))
    if not is_remote(path):
        require_passed(source)
        if os.path.isfile(path):  # not Path.is_file: it raises for a name that no file can have
            return [path]
        if os.path.isdir(path):
            return paths_of_split(path, split)
    elif path.is_file():
        return [path]
    elif path.is_dir():
        return paths_of_split(path, split)
    if looks_like_hub_id(source) and not source.endswith(SUFFIXES):
        return None
    raise DataError(f"there is no file or folder {quoted(source)}", seen=source)


def is_on_hub(source: str) -> bool:
    """Whether a source is read from the hub: an id that names nothing on this machine."""
    return local_paths(source, "train") is None


def hub_splits(source: str) -> list[str]:
    """The splits that a source on the hub has. Raises `DataError` if it is unreachable."""
    require_hub(source, "name a folder or a file to read local data")
    import datasets

    try:
        return [str(split) for split in datasets.get_dataset_split_names(source)]
    except Exception as error:
        raise DataError(
            f"cannot list the splits of {source!r} on the hub: {first_line(error)}", seen=source
        ) from error


def join_tables(source: str, paths: Sequence[Path], tables: Sequence["pa.Table"]) -> "pa.Table":
    """The tables one after the other. Raises `DataError` if columns or names of labels differ."""
    try:
        whole = concatenated(tables)
    except ValueError as error:
        raise _misfit(source, paths, tables) from error
    first = tables[0]
    names = {column: stored_names(first, column) for column in first.column_names}
    for path, table in zip(paths[1:], tables[1:], strict=True):
        if {column: stored_names(table, column) for column in names} != names:
            raise DataError(
                f"{quoted(path.name)} names its labels differently from {quoted(paths[0].name)}",
                seen=source,
                remedy="give the files of a split the same names in the same order",
            )
    return whole


def _misfit(source: str, paths: Sequence[Path], tables: Sequence["pa.Table"]) -> DataError:
    """The error for the first table that does not fit the first of all."""
    for place in range(1, len(tables)):
        try:
            concatenated([tables[0], tables[place]])
        except ValueError:
            break
    return DataError(
        f"{quoted(paths[place].name)} has other columns than {quoted(paths[0].name)} in "
        f"{quoted(source)}: {_columns(tables[place])}; {_columns(tables[0])}",
        seen=source,
        remedy="give the files of a split the same columns, with the same types",
    )


def _columns(table: "pa.Table") -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in table.schema)


# --- what `datasets` knows of the data -----------------------------------------------------------


def describe(table: "pa.Table", source: str, path: Path) -> "pa.Table":
    """The table with the names of its labels, if a file beside it, as the hub has it, names them.

    The names go where `datasets` puts them in a Parquet file. Raises `DataError` if other names are
    there already.
    """
    folder = Path(os.path.expanduser(source))
    for place in dict.fromkeys([path.parent, *([folder] if folder.is_dir() else [])]):
        features = features_beside(place)
        if features is None:
            continue
        named = _with_features(table, features)
        for name in table.column_names:
            own, beside = stored_names(table, name), stored_names(named, name)
            if own and beside and own != beside:
                raise DataError(
                    f"{quoted(path)} names the labels of {quoted(name)} {listed(own)}, the "
                    f"description in {quoted(place)} {listed(beside)}",
                    seen=str(path),
                    remedy="remove the description that is wrong",
                )
        if b"huggingface" not in (table.schema.metadata or {}):
            return named
    return table


def _with_features(table: "pa.Table", features: object) -> "pa.Table":
    description = json.dumps({"info": {"features": features}}).encode()
    return table.replace_schema_metadata(
        {**(table.schema.metadata or {}), b"huggingface": description}
    )


def _read_saved(folder: Path) -> "pa.Table":
    """A folder that `datasets.Dataset.save_to_disk` wrote."""
    import datasets

    from sentilora.data.memory import table_of

    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        for file in state["_data_files"]:
            if not is_plain_name(file["filename"]):
                raise ValueError(f"{file['filename']!r:.60} is not in its folder")
        return table_of(datasets.load_from_disk(str(folder)))
    except Exception as error:
        # datasets raises a dozen unrelated types here; the user needs the message of each.
        raise DataError(
            f"cannot read {quoted(folder)}: {first_line(error)}", seen=str(folder)
        ) from error


def _read_hub(source: str, split: str) -> "pa.Table":
    require_hub(source, "name a folder or a file to read local data")
    import datasets

    from sentilora.data.memory import table_of

    try:
        return table_of(datasets.load_dataset(source, split=split))
    except Exception as error:
        raise DataError(
            f"cannot load {source!r} ({split}) from the hub: {first_line(error)}", seen=source
        ) from error
