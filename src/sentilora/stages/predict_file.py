"""Classify the rows of a file into another one or into a folder, however many there are.

    predict_file("reviews.parquet", "labeled/")              # a file for each unit of rows
    predict_file("reviews.csv", "labeled.csv")               # one file

Rows are scored in units. Finished units are kept: the same call resumes after them.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from sentilora.bulk.answers import REASON, prediction_columns
from sentilora.bulk.manifest import Manifest, adapter_record, versions
from sentilora.bulk.results import Results, answerable
from sentilora.bulk.scoring import Job, recorded_manifest, require_new, score_input
from sentilora.bulk.standard_input import standard_input
from sentilora.bulk.units import ROWS_PER_UNIT, Share
from sentilora.data.columns import missing_column, text_fault, texts_of, unknown_placeholder
from sentilora.data.output import Encoding
from sentilora.data.streams import Stream, open_stream
from sentilora.data.tables import OUTPUT_SUFFIXES, python_values
from sentilora.errors import DataError, UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.models.runtime import RuntimeOverrides
from sentilora.places import is_remote, path_of
from sentilora.progress import say
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import format_of
from sentilora.shipped import shipped_adapter
from sentilora.stages.adapter_rows import belongs_to_adapter, text_column_in, text_column_of
from sentilora.stages.named_base import named_base
from sentilora.stages.predict_cluster import place_to_score, require_cluster
from sentilora.wording import quoted

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = ("csv", "jsonl", "parquet")


def predict_file(
    input: str | Path,
    output: str | Path,
    *,
    text_column: str | None = None,
    adapter: str | Path | None = None,
    base: str | Path | None = None,
    quantization: Literal["nf4", "none"] | None = None,
    labels: Sequence[str] | None = None,
    template: str | None = None,
    label_sets: float | None = None,
    format: str | None = None,
    units: str | None = None,
    cluster: str | None = None,
    address: str | None = None,
    num_workers: int | None = None,
    split: str = "test",
    keep: bool = False,
    **runtime: Unpack[RuntimeOverrides],
) -> list[Prediction]:
    """Classify the rows of `input` into `output`; returns the predictions if `keep`, else none.

    input: a file or a folder with rows of `split`, also as a URL such as "s3://bucket/reviews.parquet";
    "-" for JSON lines or texts on stdin. output, also as a URL: a new file, or a folder: one that
    exists, or a name that ends with a slash. A folder gets a file of `format`, "parquet" by
    default, for each unit of rows, and the rows without an answer with the reason in
    `rejects-….jsonl`. In a file they stay in place, and their `reason` says why.
    units: the share of the units to score, such as "3/16". cluster: "ray" scores them on the
    workers of a Ray cluster; address: its host:port, if this machine does not belong to it;
    num_workers: how many, by default as many as there is room for. The other keywords: see
    `predict`.

    Raises `DataError` for an input that cannot be used, `UsageError` for an output that cannot be
    written, or whose units were begun with another input, adapter or computer, and for a cluster
    that cannot be used; `SentiloraError` when units failed on it.
    """
    require_cluster(cluster, address, num_workers)
    share = None if units is None else Share.parse(units)
    folder, whole = check_output(output, format)
    suffix = f".{format or 'parquet'}" if whole is None else ""
    opened = AdapterFolder.open(adapter if adapter is not None else shipped_adapter())
    prompt = format_of(opened, labels, template)
    has_sets = opened.least_probability(label_sets) is not None
    trained = text_column_of(opened)
    with _source(input, text_column or trained) as source:
        stream = open_stream(str(source), split, keep_faulty=whole is None)
        text = text_column or text_column_in(stream.schema.names, trained, stream.tables())
        columns = [text, *prompt.columns]
        with belongs_to_adapter(opened):
            added = columns_added(prompt.labels, has_sets, has_reasons=whole is not None)
            check_stream(source, stream, columns, added)
        encoding = encoding_of(stream, whole or Path(f"part{suffix}"), () if whole else columns)
        keywords: Any = dict(
            base=named_base(base),
            quantization=quantization,
            labels=labels,
            template=template,
            label_sets=label_sets,
            **runtime,
        )
        recorded = recorded_manifest(folder)
        with place_to_score(opened, keywords, cluster, address, num_workers) as place:
            manifest = Manifest(
                rows_per_unit=recorded.rows_per_unit if recorded else ROWS_PER_UNIT[place.device],
                input=_input_record(stream, text),
                output={"format": suffix or "".join(path_of(output).suffixes)},
                adapter=adapter_record(opened, prompt, quantization, label_sets),
                versions=versions(),
            )
            results = Results(folder, encoding, prompt.labels, suffix, whole, has_sets)
            job = Job(stream, columns, results, manifest)
            return score_input(job, place.score, share, keep=keep)


def _input_record(stream: Stream, text_column: str) -> dict[str, Any]:
    """What is read, for the manifest."""
    return {
        "sha256": stream.sha256,
        "num_rows": stream.num_rows,
        "columns": {field.name: str(field.type) for field in stream.schema},
        "text_column": text_column,
    }


@contextmanager
def _source(input: str | Path, text_column: str) -> Iterator[Path]:
    """The file or folder to read: `input`, or for "-" a file with what is piped in."""
    if str(input) == "-":
        with standard_input(text_column) as path:
            yield path
        return
    source = path_of(input)
    require_file(source)
    yield source


def require_file(source: Path) -> None:
    """Raise `DataError` if there is no file or folder of this name."""
    if not source.exists():
        raise DataError(
            f"there is no file {quoted(source)}",
            setting="input",
            seen=str(source),
            remedy="name a file or a folder as `input`",
        )


def names_folder(output: str | Path) -> bool:
    """Whether `output` names a folder: one that exists, or a name that ends with a slash."""
    return str(output).endswith(("/", os.sep)) or path_of(output).is_dir()


def check_output(output: str | Path, format: str | None) -> tuple[Path, Path | None]:
    """The folder of the units, and the file that is made of them, None if they are the result.

    Raises `UsageError` for a file of unknown format, one that exists, and where it cannot be.
    """
    path = path_of(output)
    if names_folder(output):
        if format is not None and format not in FORMATS:
            raise UsageError(
                f"there is no `format` {format!r:.60}",
                setting="format",
                seen=format,
                remedy=f"choose {', '.join(FORMATS[:-1])} or {FORMATS[-1]}",
            )
        if path.exists() and not path.is_dir():
            require_new(path)
        return path, None
    if not path.name.lower().endswith(OUTPUT_SUFFIXES):
        raise UsageError(
            f"cannot tell the format of {path.name} from its name",
            setting="output",
            seen=str(output),
            remedy=f"use one of {', '.join(OUTPUT_SUFFIXES)}, or name a folder, with a slash at "
            "its end",
        )
    folder = path.with_name(f".{path.name}.units")
    if not folder.is_dir():  # else the job was killed when it had written the file
        check_new_file(path)
    return folder, path


def check_new_file(output: Path) -> None:
    """Raise `UsageError` if a file to write exists already, or its folder cannot be written to."""
    require_new(output)
    if is_remote(output):  # folders there need not exist, and who may write shows later
        return
    folder = output.absolute().parent
    if not folder.is_dir():
        problem = f"there is no folder {quoted(folder)} to write {output.name} to"
    elif not os.access(folder, os.W_OK):
        problem = f"the folder {quoted(folder)} is not writable"
    else:
        return
    raise UsageError(
        problem,
        setting="output",
        seen=str(output),
        remedy="choose another file",
    )


def require_columns(source: Path, names: Sequence[str], columns: Sequence[str]) -> None:
    """Raise `DataError` if a table lacks one of its columns or has it twice. names: all of them."""
    text = columns[0]
    for name in columns:
        if name not in names:
            if name == text:
                raise missing_column(str(source), names, text, "text_column")
            raise unknown_placeholder(str(source), names, name)
        if list(names).count(name) > 1:
            raise DataError(
                f"{quoted(source)} has more than one column {name!r}",
                setting="input",
                seen=name,
                remedy="rename or remove all but one",
            )


def columns_added(labels: Sequence[str], has_sets: bool, has_reasons: bool) -> list[str]:
    """The columns that the output may have beside the input's. A folder has reasons elsewhere."""
    names = prediction_columns([], labels, has_sets).column_names
    return [name for name in names if has_reasons or name != REASON]


def check_stream(
    source: Path, stream: Stream, columns: Sequence[str], added: Sequence[str]
) -> None:
    """Raise `DataError` for rows that cannot be classified, or have a column that would be added.

    columns: that of the texts, then the others that the prompt shows.
    """
    names = stream.schema.names
    require_columns(source, names, columns)
    if conflicts := [name for name in added if name in names]:
        raise DataError(
            f"the input already has a column {conflicts[0]!r}, which `output` would add",
            setting="input",
            seen=conflicts[0],
            remedy="rename that column",
        )
    if not stream.num_rows:
        say(f"{quoted(source)} has no rows")
        return
    text = columns[0]
    if all(text_fault(value) for table in stream.tables() for value in python_values(table[text])):
        import pyarrow as pa

        texts_of(str(source), pa.concat_tables(t.select([text]) for t in stream.tables()), text)


def encoding_of(stream: Stream, output: Path, columns: Sequence[str]) -> Encoding:
    """How the input's columns enter the output.

    columns: those of the prompt, if only rows that can be classified enter it; else none.

    Raises `DataError` for what its format cannot hold.
    """

    def tables() -> "Iterator[pa.Table]":
        for table in stream.tables():
            yield answerable(table, columns) if columns else table

    encoding = Encoding.of(stream.schema, tables(), output)
    if encoding.may_fail(stream.schema):
        for table in tables():
            encoding.encode(table)
    return encoding
