"""Classify texts or the rows of a file: a label, probabilities, and whether it was truncated.

sentilora predict "A lovely film."
sentilora predict --input reviews.csv --output labeled.csv
"""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from sentilora.data.rows import texts_of
from sentilora.data.sources import read_table
from sentilora.data.tables import SUFFIXES, write_table
from sentilora.data.text import require_text
from sentilora.errors import DataError, UsageError
from sentilora.models.runtime import RuntimeOverrides
from sentilora.progress import Progress, say
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier, list_of_texts
from sentilora.scoring.explain import explain_each
from sentilora.wording import counted

if TYPE_CHECKING:
    import pandas as pd


def predict(
    texts: Sequence[str] | None = None,
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
    """The predictions for texts, or for the rows of a file, in their order.

    input: CSV, TSV, JSONL or Parquet file to classify instead of `texts`. text_column: its column
    of texts, "text" by default. output: new file for its rows, with the columns `prediction`,
    `probability_<label>` and `truncated` added. adapter: folder of an adapter; None for the one
    that ships. explain: whether to find the words that moved each prediction. base, quantization,
    labels, template and the keywords of `Runtime`: as in `Classifier.load`. Raises `DataError` and
    `UsageError`; see `errors`.
    """
    check_request(texts, input, output, text_column, explain)
    table = None
    if input is not None:
        check_files(Path(input), None if output is None else Path(output))
        column = text_column or "text"
        table = read_input(Path(input), column)
        texts = table[column].tolist()
    else:
        texts = list_of_texts(texts)
        check_texts(texts)
    classifier = Classifier.load(
        adapter,
        base=base,
        quantization=quantization,
        labels=labels,
        template=template,
        **runtime,
    )
    if table is not None and output is not None:
        check_columns(table, classifier.labels)
    with Progress("classifying", len(texts)) as progress:
        predictions = classifier.classify(texts, progress.advance)
    if explain:
        predictions = with_explanations(classifier, predictions)
    if table is not None and output is not None:
        write_table(add_predictions(table, predictions), Path(output))
        say(f"{counted(len(predictions), 'row')} written to {output}")
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
            f"there is no file {source}",
            setting="input",
            seen=str(source),
            remedy="check the path in `input`",
        )
    if output is None:
        return
    if output.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"cannot tell the format of {output.name} from its name",
            setting="output",
            seen=str(output),
            remedy=f"use one of {', '.join(SUFFIXES)}",
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


def read_input(source: Path, text_column: str) -> "pd.DataFrame":
    """The table to classify, with all columns in the file's order. Its texts are checked."""
    table = read_table(str(source), "test", text_column)
    texts_of(str(source), table, text_column)
    return table


def check_texts(texts: Sequence[str]) -> None:
    """Raise `DataError` for the first text that cannot be classified, counting from 1."""
    for number, text in enumerate(texts, 1):
        require_text(text, f"text {number}")


# --- with a model --------------------------------------------------------------------------------


def check_columns(table: "pd.DataFrame", labels: Sequence[str]) -> None:
    """Raise `DataError` if the table already has a column that predictions would be written to."""
    columns = ["prediction", *(f"probability_{label}" for label in labels), "truncated"]
    conflicts = [name for name in columns if name in table.columns]
    if conflicts:
        raise DataError(
            f"the input already has a column {conflicts[0]!r}, which `output` would add",
            setting="input",
            seen=conflicts[0],
            remedy="rename that column",
        )


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


def add_predictions(table: "pd.DataFrame", predictions: Sequence[Prediction]) -> "pd.DataFrame":
    """The table with the columns `prediction`, `probability_<label>` and `truncated` added."""
    columns: dict[str, list[Any]] = {"prediction": [p.label for p in predictions]}
    labels = list(predictions[0].probabilities) if predictions else []
    columns |= {
        f"probability_{name}": [p.probabilities[name] for p in predictions] for name in labels
    }
    columns["truncated"] = [p.truncated for p in predictions]
    return table.assign(**columns)
