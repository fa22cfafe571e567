"""Classify texts or the rows of a file: a label, probabilities, and whether it was truncated.

sentilora predict "A lovely film."
sentilora predict --input reviews.csv --output labeled.csv
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

from sentilora.config import CONFIG_FILE, read_config
from sentilora.data.columns import (
    items_of,
    missing_column,
    text_fault,
    texts_of,
    unknown_placeholder,
)
from sentilora.data.output import encode_table, write_encoded
from sentilora.data.rows import row_place
from sentilora.data.sources import read_table
from sentilora.data.tables import OUTPUT_SUFFIXES, python_values, suffix_of
from sentilora.data.text import Item, require_text
from sentilora.errors import DataError, UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.models.runtime import RuntimeOverrides
from sentilora.progress import Progress, say
from sentilora.prompt import PromptFormat
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier, format_of, list_of_texts
from sentilora.scoring.explain import explain_each
from sentilora.shipped import shipped_adapter
from sentilora.stages.adapter_rows import belongs_to_adapter, text_column_in
from sentilora.template import TEXT
from sentilora.wording import counted, listed, quoted, with_article

if TYPE_CHECKING:
    import pyarrow as pa


def predict(
    texts: Sequence[Item] | None = None,
    *,
    input: str | Path | None = None,
    output: str | Path | None = None,
    text_column: str | None = None,
    adapter: str | Path | None = None,
    base: str | Path | None = None,
    quantization: Literal["nf4", "none"] | None = None,
    labels: Sequence[str] | None = None,
    template: str | None = None,
    explain: bool = False,
    **runtime: Unpack[RuntimeOverrides],
) -> list[Prediction]:
    """The predictions for texts or records, or for the rows of a file, in their order.

    texts: strings; where the adapter's prompt shows other columns too, records or a table of them.
    input: CSV, TSV, JSON, JSONL, Parquet or Excel file to classify instead of `texts`, or a folder
    with test rows. A row without a usable text gets a prediction without a label, with the reason
    as its `fault`.
    text_column: its column of texts, by default that of the adapter's training, or "text", or the
    one that holds texts. output:
    new file for its rows, unchanged, with the columns `prediction`, `probability_<label>`,
    `truncated`, and, if a row has one, `fault` added. adapter: folder of an adapter; None for the
    one that ships. explain: whether to find the words that moved each prediction. base,
    quantization, labels, template and the keywords of `Runtime`: as in `Classifier.load`. Raises
    `DataError` and `UsageError`; see `errors`.
    """
    check_request(texts, input, output, text_column, explain)
    load = partial(
        Classifier.load,
        base=base,
        quantization=quantization,
        labels=labels,
        template=template,
        **runtime,
    )
    path = None if output is None else Path(output)
    if input is not None:
        check_files(Path(input), path)
    folder = AdapterFolder.open(adapter if adapter is not None else shipped_adapter())
    format = format_of(folder, labels, template)
    if input is None:
        items = list_of_texts(texts, format.columns)
        check_texts(items, format)
        return classify_all(load(folder), items, explain)
    text = text_column or text_column_in(str(input), text_column_of(folder))
    columns = [text, *format.columns]
    with belongs_to_adapter(folder):
        table = read_input(Path(input), columns, every_column=path is not None)
    return predict_table(partial(load, folder), table, path, columns, explain)


def predict_table(
    load: Callable[[], Classifier],
    table: "pa.Table",
    output: Path | None,
    columns: Sequence[str],
    explain: bool,
) -> list[Prediction]:
    """The predictions for the rows of a table, which are written to `output` if there is one.

    load: loads the classifier. columns: that of the texts, then the others that the prompt shows.
    """
    encoded = None if output is None else encode_table(table, output)
    classifier = load()
    if output is not None:
        check_columns(table, classifier.labels)
    predictions = classify_usable(classifier, table, columns, explain)
    if encoded is not None and output is not None:
        added = encode_table(prediction_columns(predictions, classifier.labels), output)
        for name in added.column_names:
            encoded = encoded.append_column(name, added[name])
        write_encoded(encoded, output)
        say(f"{counted(len(predictions), 'row')} written to {quoted(output)}")
    return predictions


def text_column_of(folder: AdapterFolder) -> str:
    """The column of texts that an adapter was trained on; the usual one if that is not recorded."""
    path = folder.run / CONFIG_FILE
    if not path.is_file():
        return TEXT
    try:
        return read_config(path).data.text_column
    except DataError as error:  # of another version, perhaps: the adapter itself can be read
        say(f"texts are taken from column {TEXT!r}: {error.problem}")
        return TEXT


# --- before a model is loaded --------------------------------------------------------------------


def check_request(
    texts: Sequence[Item] | None,
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
    if input is not None and not isinstance(input, str | Path):
        raise UsageError(
            f"`input` is {with_article(type(input).__name__)}, not the name of a file",
            setting="input",
            seen=type(input).__name__,
            remedy="pass its texts as a list, without `input`; where the prompt shows several "
            "columns, the table itself",
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
    if not source.exists():
        raise DataError(
            f"there is no file {quoted(source)}",
            setting="input",
            seen=str(source),
            remedy="name a file or a folder as `input`",
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
        problem, remedy = f"{quoted(output)} exists", f"remove it, or {remedy}"
    elif not folder.is_dir():
        problem = f"there is no folder {quoted(folder)} to write {output.name} to"
    elif not os.access(folder, os.W_OK):
        problem = f"the folder {quoted(folder)} is not writable"
    else:
        return
    raise UsageError(problem, setting="output", seen=str(output), remedy=remedy)


def read_input(source: Path, columns: Sequence[str], every_column: bool) -> "pa.Table":
    """The table to classify. columns: that of the texts, then the others that the prompt shows.

    every_column: whether to keep more columns than those. Raises `DataError` if the file lacks one
    of them, or has no usable text in any row.
    """
    table = read_table(str(source), "test", None if every_column else columns.__contains__)
    text = columns[0]
    if missing := [name for name in columns if name not in table.column_names]:
        names = read_table(str(source), "test").column_names
        if text in missing:
            raise missing_column(str(source), names, text, "text_column")
        raise unknown_placeholder(str(source), names, missing[0])
    for name in columns:
        if table.column_names.count(name) > 1:
            raise DataError(
                f"{quoted(source)} has more than one column {name!r}",
                setting="input",
                seen=name,
                remedy="rename or remove all but one",
            )
    if not len(table):
        say(f"{quoted(source)} has no rows")
    elif all(map(text_fault, python_values(table[text]))):
        texts_of(str(source), table, text)
    return table


def check_texts(items: Sequence[Item], format: PromptFormat) -> None:
    """Raise an error for the first text or record that cannot be classified, counting from 1."""
    for number, item in enumerate(items, 1):
        if not format.columns:
            require_text(item, f"text {number}")
        elif not isinstance(item, Mapping):
            raise UsageError(
                f"text {number} is {item!r:.60}, but the adapter's prompt also shows "
                f"{listed(format.columns)}",
                setting="texts",
                seen=item,
                remedy=f"name a file with the columns {', '.join((TEXT, *format.columns))} as "
                "`input`, or pass such records from Python",
            )
        else:
            format.read(item, f"texts[{number - 1}]")


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


def classify_all(classifier: Classifier, items: Sequence[Item], explain: bool) -> list[Prediction]:
    """The predictions for usable items, with explanations if requested."""
    with Progress("classifying", len(items)) as progress:
        predictions = classifier.classify(items, progress.advance)
    return with_explanations(classifier, items, predictions) if explain else predictions


def classify_usable(
    classifier: Classifier, table: "pa.Table", columns: Sequence[str], explain: bool
) -> list[Prediction]:
    """The predictions for the rows; one without a label for a row that cannot be classified.

    columns: that of the texts, then the others that the prompt shows. Prints how many rows have no
    answer.
    """
    text, *others = columns
    items = items_of(table, text, others)
    usable = [item for item in items if not isinstance(item, DataError)]
    predictions = iter(classify_all(classifier, usable, explain))
    if len(usable) < len(items):
        faults = {row: item for row, item in enumerate(items) if isinstance(item, DataError)}
        row, error = next(iter(faults.items()))
        first = "" if len(faults) == 1 else "the first of them "
        say(
            f"{counted(len(faults), 'row')} without an answer, {first}{row_place(row)}: "
            f"{error.problem}"
        )
    return [
        Prediction.without_answer(cell, item.problem)
        if isinstance(item, DataError)
        else next(predictions)
        for item, cell in zip(items, python_values(table[text]), strict=True)
    ]


def with_explanations(
    classifier: Classifier, items: Sequence[Item], predictions: Sequence[Prediction]
) -> list[Prediction]:
    """The predictions with the words that moved each likeliest label. Prints the time it took."""
    started = time.perf_counter()
    explanations = explain_each(
        classifier.scorer,
        classifier.prompter,
        items,
        [None] * len(items),
        "explaining",
        classifier.calibration.temperature,
    )
    seconds = time.perf_counter() - started
    say(f"explained {counted(len(items), 'text')} in {seconds:.1f} s")
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
