"""Classify texts or the rows of a file: a label, probabilities, and whether it was truncated.

sentilora predict "A lovely film."
sentilora predict --input reviews.csv --output labeled.csv
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from sentilora.data.columns import missing_column, text_fault, texts_of
from sentilora.data.output import encode_table, write_encoded
from sentilora.data.rows import row_place
from sentilora.data.sources import read_table
from sentilora.data.tables import OUTPUT_SUFFIXES, python_values, suffix_of
from sentilora.data.text import require_text
from sentilora.errors import DataError, UsageError
from sentilora.models.runtime import RuntimeOverrides
from sentilora.progress import Progress, say
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier, list_of_texts
from sentilora.scoring.explain import explain_each
from sentilora.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa


def predict(
    texts: Sequence[str] | None = None,
    *,
    input: str | Path | None = None,
    output: str | Path | None = None,
    text_column: str | None = None,
    adapter: str | Path | None = None,
    labels: Sequence[str] | None = None,
    template: str | None = None,
    explain: bool = False,
    **runtime: Unpack[RuntimeOverrides],
) -> list[Prediction]:
    """The predictions for texts, or for the rows of a file, in their order.

    input: CSV, TSV, JSON, JSONL, Parquet or Excel file to classify instead of `texts`. A row
    without a usable text gets a prediction without a label, with the reason as its `fault`.
    text_column: its column of texts, "text" by default. output: new file for its rows, unchanged,
    with the columns `prediction`, `probability_<label>`, `truncated`, and, if a row has one,
    `fault` added. adapter: folder of an adapter; None for the one that ships. explain: whether to
    find the words that moved each prediction. labels, template and the keywords of `Runtime`: as
    in `Classifier.load`. Raises `DataError` and `UsageError`; see `errors`.
    """
    check_request(texts, input, output, text_column, explain)
    if input is None:
        texts = list_of_texts(texts)
        check_texts(texts)
        classifier = Classifier.load(adapter, labels=labels, template=template, **runtime)
        return classify_all(classifier, texts, explain)
    path = None if output is None else Path(output)
    check_files(Path(input), path)
    table = read_input(Path(input), text_column or "text", every_column=path is not None)
    encoded = None if path is None else encode_table(table, path)
    cells = python_values(table[text_column or "text"])
    classifier = Classifier.load(adapter, labels=labels, template=template, **runtime)
    if path is not None:
        check_columns(table, classifier.labels)
    predictions = classify_usable(classifier, cells, explain)
    if encoded is not None and path is not None:
        columns = encode_table(prediction_columns(predictions, classifier.labels), path)
        for name in columns.column_names:
            encoded = encoded.append_column(name, columns[name])
        write_encoded(encoded, path)
        say(f"{counted(len(predictions), 'row')} written to {path}")
    return predictions


# --- before a model is loaded --------------------------------------------------------------------


def check_request(
    texts: Sequence[str] | None,
    input: str | Path | None,
    output: str | Path | None,
    text_column: str | None,
    explain: bool,
) -> None:
    """Raise `UsageError` for keywords that exclude or require each other."""
    if (input is None) == (texts is None):
        both = "neither texts nor `input`" if texts is None else "both texts and `input`"
        raise UsageError(
            f"the request has {both}",
            setting="input",
            seen=None if input is None else str(input),
            remedy="pass either texts or a file",
        )
    for name, value in (("output", output), ("text_column", text_column)):
        if value is not None and input is None:
            raise UsageError(
                f"`{name}` works only with `input`",
                setting=name,
                seen=str(value),
                remedy="pass a file as `input`, or leave it out",
            )
    if output is not None and explain:
        raise UsageError(
            "a table has no column for what `explain` finds",
            setting="explain",
            seen=True,
            remedy="leave out `explain` or `output`",
        )


def check_files(source: Path, output: Path | None) -> None:
    """Raise `DataError` for an input file, `UsageError` for an output file that cannot be used."""
    if not source.is_file():
        raise DataError(
            f"{source} is a folder" if source.is_dir() else f"there is no file {source}",
            setting="input",
            seen=str(source),
            remedy="name a file as `input`",
        )
    if output is None:
        return
    if suffix_of(output) not in OUTPUT_SUFFIXES:
        raise UsageError(
            f"cannot tell the format of {output.name} from its name",
            setting="output",
            seen=str(output),
            remedy=f"use one of {', '.join(OUTPUT_SUFFIXES)}",
        )
    check_output(output)


def check_output(output: Path) -> None:
    """Raise `UsageError` if a file to write exists already, or its folder cannot be written to."""
    folder = output.absolute().parent
    remedy = "choose another file as `output`"
    if output.exists():
        problem, remedy = f"{output} exists", f"remove it, or {remedy}"
    elif not folder.is_dir():
        problem = f"there is no folder {folder} to write {output.name} to"
    elif not os.access(folder, os.W_OK):
        problem = f"the folder {folder} is not writable"
    else:
        return
    raise UsageError(problem, setting="output", seen=str(output), remedy=remedy)


def read_input(source: Path, text_column: str, every_column: bool) -> "pa.Table":
    """The table to classify. every_column: whether to keep columns other than that of the texts.

    Raises `DataError` if the file has no such column, or no usable text in any of its rows.
    """
    table = read_table(str(source), "test", None if every_column else text_column.__eq__)
    if text_column not in table.column_names:
        names = table.column_names or read_table(str(source), "test").column_names
        raise missing_column(str(source), names, text_column, "text_column")
    if table.column_names.count(text_column) > 1:
        raise DataError(
            f"{source} has more than one column {text_column!r}",
            setting="text_column",
            seen=text_column,
            remedy="rename or remove all but one",
        )
    if not len(table):
        say(f"{source} has no rows")
    elif all(map(text_fault, python_values(table[text_column]))):
        texts_of(str(source), table, text_column)
    return table


def check_texts(texts: Sequence[str]) -> None:
    """Raise `DataError` for the first text that cannot be classified, counting from 1."""
    for number, text in enumerate(texts, 1):
        require_text(text, f"text {number}")


# --- with a model --------------------------------------------------------------------------------


def check_columns(table: "pa.Table", labels: Sequence[str]) -> None:
    """Raise `DataError` if the table already has a column that predictions would be written to."""
    columns = [*prediction_columns([], labels).column_names, "fault"]
    conflicts = [name for name in columns if name in table.column_names]
    if conflicts:
        raise DataError(
            f"the input already has a column {conflicts[0]!r}, which `output` would add",
            setting="input",
            seen=conflicts[0],
            remedy="rename that column",
        )


def classify_all(classifier: Classifier, texts: Sequence[str], explain: bool) -> list[Prediction]:
    """The predictions for usable texts, with explanations if requested."""
    with Progress("classifying", len(texts)) as progress:
        predictions = classifier.classify(texts, progress.advance)
    return with_explanations(classifier, predictions) if explain else predictions


def classify_usable(
    classifier: Classifier, cells: Sequence[object], explain: bool
) -> list[Prediction]:
    """The predictions for cells of a table; one without a label where a cell has no usable text.

    Prints how many those are.
    """
    faults = [text_fault(cell) for cell in cells]
    usable = [str(cell) for cell, fault in zip(cells, faults, strict=True) if fault is None]
    predictions = iter(classify_all(classifier, usable, explain))
    if len(usable) < len(cells):
        first = next(row for row, fault in enumerate(faults) if fault)
        say(
            f"{counted(len(cells) - len(usable), 'row')} without an answer, the first of them "
            f"{row_place(first)}: its text is {faults[first]}"
        )
    return [
        next(predictions) if fault is None else Prediction.without_answer(cell, fault)
        for cell, fault in zip(cells, faults, strict=True)
    ]


def with_explanations(
    classifier: Classifier, predictions: Sequence[Prediction]
) -> list[Prediction]:
    """The predictions with the words that moved each likeliest label. Prints the time it took."""
    started = time.perf_counter()
    texts = [prediction.text for prediction in predictions]
    explanations = explain_each(
        classifier.scorer,
        classifier.prompter,
        texts,
        [None] * len(texts),
        "explaining",
        classifier.calibration.temperature,
    )
    seconds = time.perf_counter() - started
    say(f"explained {counted(len(texts), 'text')} in {seconds:.1f} s")
    pairs = zip(predictions, explanations, strict=True)
    return [replace(prediction, explanation=explanation) for prediction, explanation in pairs]


def prediction_columns(predictions: Sequence[Prediction], labels: Sequence[str]) -> "pa.Table":
    """The columns `prediction`, `probability_<label>`, `truncated`, and `fault` if a row has one.

    All but `fault` are null in a row without an answer.
    """
    import pyarrow as pa

    columns = {
        "prediction": pa.array([p.label for p in predictions], pa.string()),
        **{
            f"probability_{label}": pa.array(
                [p.probabilities.get(label) for p in predictions], pa.float64()
            )
            for label in labels
        },
        "truncated": pa.array(
            [None if p.label is None else p.truncated for p in predictions], pa.bool_()
        ),
    }
    if any(p.fault for p in predictions):
        columns["fault"] = pa.array([p.fault for p in predictions], pa.string())
    return pa.table(columns)
