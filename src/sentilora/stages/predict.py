"""Classify texts or the rows of a file: a label, probabilities, and whether it was truncated.

sentilora predict "A lovely film."
sentilora predict --input reviews.csv --output labeled.csv
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from sentilora.bulk.answers import classify_rows
from sentilora.data.columns import items_of, text_fault, texts_of
from sentilora.data.rows import row_place
from sentilora.data.sources import read_table
from sentilora.data.tables import python_values
from sentilora.data.text import Item, require_text
from sentilora.errors import DataError, UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.models.runtime import RuntimeOverrides
from sentilora.places import path_of
from sentilora.progress import Progress, say
from sentilora.prompt import PromptFormat
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier, format_of, list_of_texts
from sentilora.scoring.explain import explain_each
from sentilora.shipped import shipped_adapter
from sentilora.stages.adapter_rows import belongs_to_adapter, text_column_in, text_column_of
from sentilora.stages.named_base import named_base
from sentilora.stages.predict_cluster import require_cluster
from sentilora.stages.predict_file import (
    names_folder,
    predict_file,
    require_columns,
    require_file,
)
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
    label_sets: float | None = None,
    format: str | None = None,
    units: str | None = None,
    cluster: str | None = None,
    address: str | None = None,
    num_workers: int | None = None,
    **runtime: Unpack[RuntimeOverrides],
) -> list[Prediction]:
    """The predictions for texts or records, or for the rows of a file, in their order.

    texts: strings; where the adapter's prompt shows other columns too, records or a table of them.
    input: CSV, TSV, JSON, JSONL, Parquet or Excel file to classify instead of `texts`, or a folder
    with test rows. A row without a usable text gets a prediction without a label, and its `reason`
    says why.
    text_column: its column of texts, by default that of the adapter's training, or "text", or the
    one that holds texts. output: new file for its rows, unchanged, with the columns `prediction`,
    `probability_<label>`, `truncated`, and, if a row has one, `reason` added; or a folder, which
    gets a file for each unit of rows (see `predict_file`), and then nothing is returned. adapter:
    folder of an adapter; None for the one that ships. cluster, address, num_workers: see
    `predict_file`. explain: whether to find the words that moved each prediction. label_sets: share
    of the texts whose `label_set` is to have the true label, one of those that `evaluate` stored;
    `output` gets the column too. base, quantization, labels, template and the keywords of
    `Runtime`: as in `Classifier.load`. Raises `DataError` and `UsageError`; see `errors`.
    """
    check_request(texts, input, output, text_column, explain, format, units, cluster)
    require_cluster(cluster, address, num_workers)
    keywords: Any = dict(
        base=named_base(base),
        quantization=quantization,
        labels=labels,
        template=template,
        label_sets=label_sets,
        **runtime,
    )
    if input is not None and output is not None:
        options: Any = dict(text_column=text_column, adapter=adapter, format=format, units=units)
        options |= dict(cluster=cluster, address=address, num_workers=num_workers)
        keep = not names_folder(output)
        return predict_file(input, output, **options, **keywords, keep=keep)
    if input is not None:
        require_file(path_of(input))
    folder = AdapterFolder.open(adapter if adapter is not None else shipped_adapter())
    prompt = format_of(folder, labels, template)
    load = partial(Classifier.load, folder, **keywords)
    if input is None:
        items = list_of_texts(texts, prompt.columns)
        check_texts(items, prompt)
        return classify_all(load(), items, explain)
    trained = text_column or text_column_of(folder)
    needed = {trained, *prompt.columns}
    table = read_table(str(input), "test", needed.__contains__)
    if needed - set(table.column_names):
        table = read_table(str(input), "test")  # every column, to choose from and for messages
    if text_column is None:
        text_column = text_column_in(table.column_names, trained, [table])
    columns = [text_column, *prompt.columns]
    with belongs_to_adapter(folder):
        check_input(path_of(input), table, columns)
    return classify_table(load(), table.select(columns), columns, explain)


# --- before a model is loaded --------------------------------------------------------------------


def check_request(
    texts: Sequence[Item] | None,
    input: str | Path | None,
    output: str | Path | None,
    text_column: str | None,
    explain: bool,
    format: str | None = None,
    units: str | None = None,
    cluster: str | None = None,
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
    for name, value in (("format", format), ("units", units)):
        if value is not None and (output is None or not names_folder(output)):
            raise UsageError(
                f"`{name}` works only with a folder as `output`",
                setting=name,
                seen=value,
                remedy="name a folder, with a slash at its end, or leave it out",
            )
    if cluster is not None and output is None:
        raise UsageError(
            "`cluster` works only with `input` and `output`",
            setting="cluster",
            seen=cluster,
            remedy="name a file or a folder as each, or leave it out",
        )
    if str(input) == "-" and output is None:
        raise UsageError(
            "- as `input` works only with `output`",
            setting="input",
            seen="-",
            remedy="pass - alone, without `input`, to print the answers",
        )
    if output is not None and explain:
        raise UsageError(
            "a table has no column for what `explain` finds",
            setting="explain",
            seen=True,
            remedy="leave out `explain` or `output`",
        )


def check_input(source: Path, table: "pa.Table", columns: Sequence[str]) -> None:
    """Raise `DataError` if a table lacks a column, or has no usable text in any row.

    columns: that of the texts, then the others that the prompt shows.
    """
    require_columns(source, table.column_names, columns)
    if not len(table):
        say(f"{quoted(source)} has no rows")
    elif all(map(text_fault, python_values(table[columns[0]]))):
        texts_of(str(source), table, columns[0])


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


def classify_all(classifier: Classifier, items: Sequence[Item], explain: bool) -> list[Prediction]:
    """The predictions for usable items, with explanations if requested."""
    with Progress("classifying", len(items)) as progress:
        predictions = classifier.classify(items, progress.advance)
    return with_explanations(classifier, items, predictions) if explain else predictions


def classify_table(
    classifier: Classifier, table: "pa.Table", columns: Sequence[str], explain: bool
) -> list[Prediction]:
    """The predictions for the rows; one without a label for a row that cannot be classified.

    columns: that of the texts, then the others that the prompt shows. Prints how many rows have no
    answer.
    """
    with Progress("classifying", len(table)) as progress:
        predictions = classify_rows(classifier, table, columns, progress.advance)
    reasons = {row: p.reason for row, p in enumerate(predictions) if p.reason is not None}
    if reasons:
        row, reason = next(iter(reasons.items()))
        first = "" if len(reasons) == 1 else "the first of them "
        say(f"{counted(len(reasons), 'row')} without an answer, {first}{row_place(row)}: {reason}")
    if not explain:
        return predictions
    text, *others = columns
    usable = [i for i in items_of(table, text, others) if not isinstance(i, DataError)]
    answered = [prediction for prediction in predictions if prediction.reason is None]
    explained = iter(with_explanations(classifier, usable, answered))
    return [p if p.reason is not None else next(explained) for p in predictions]


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
