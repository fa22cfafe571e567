"""`sentilora predict`."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sentilora.cli.options import (
    Adapter,
    AsJson,
    Quantization,
    TextColumn,
    json_for,
    name_shipped_adapter,
    quiet,
    with_runtime_options,
)
from sentilora.errors import DataError, UsageError
from sentilora.wording import as_probability, counted, quoted, signed

if TYPE_CHECKING:
    from sentilora.scoring.answers import Prediction
    from sentilora.scoring.explain import Explanation

NUM_WORDS = 5  # words shown for the predicted label, and as many against it


Texts = Annotated[
    list[str] | None, typer.Argument(help="Texts to classify; - reads one per line from stdin.")
]
Input = Annotated[
    str | None,
    typer.Option(
        help="CSV, TSV, JSON, JSONL, Parquet or Excel file to classify, or a folder with test "
        "rows; also a URL such as s3://bucket/file.parquet. - reads JSON lines or texts from "
        "stdin."
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        help="New file for the rows of --input with their predictions, or a folder, with a slash "
        "at its end, for a file per unit of rows; also a URL. The same command again goes on where "
        "a job was ended.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(help="Format of the files in a folder: parquet (the default), csv or jsonl."),
]
Units = Annotated[
    str | None,
    typer.Option(
        help="Score only this share of the units, for one of several jobs: 3/16 is the third of "
        "sixteen."
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(help="Score the units on the workers of a cluster: ray.", metavar="KIND"),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="host:port of the cluster.",
        show_default="RAY_ADDRESS, this machine's cluster, or this machine alone",
    ),
]
NumWorkers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Number of workers on the cluster: each takes a GPU, or a CPU for each of its "
        "OMP_NUM_THREADS threads.",
        show_default="as many as there is room for",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        help="Where the adapter's base is now: a folder, a .gguf file, a hub id or a preset's name."
    ),
]
Labels = Annotated[
    str | None, typer.Option(help="Labels of a plain PEFT adapter, separated by commas.")
]
Template = Annotated[
    str | None, typer.Option(help="Prompt of a plain PEFT adapter with {text}, or its file.")
]
Explain = Annotated[
    bool, typer.Option("--explain", help="Show the words that moved each prediction.")
]
LabelSets = Annotated[
    float | None,
    typer.Option(
        help="Also give each text a set of labels, which has the true one in this share of the "
        "texts: 0.8, 0.9 or 0.95, as evaluate stored it.",
        metavar="SHARE",
    ),
]


@with_runtime_options
def predict(
    texts: Texts = None,
    adapter: Adapter = None,
    input: Input = None,
    output: Output = None,
    text_column: TextColumn = None,
    base: Base = None,
    quantization: Quantization = None,
    labels: Labels = None,
    template: Template = None,
    explain: Explain = False,
    label_sets: LabelSets = None,
    format: Format = None,
    units: Units = None,
    cluster: Cluster = None,
    address: Address = None,
    num_workers: NumWorkers = None,
    json: AsJson = False,
    **runtime: Any,
) -> None:
    """Classify texts from arguments, stdin or a file."""
    from sentilora.stages.predict import check_request
    from sentilora.stages.predict import predict as run
    from sentilora.stages.predict_cluster import require_cluster
    from sentilora.stages.predict_file import predict_file

    if texts and "-" in texts and len(texts) > 1:
        raise UsageError(
            "- reads the texts from stdin, so it must be the only argument",
            setting="texts",
            seen=texts,
            remedy="pass either - or texts",
        )
    if not texts and input is None:
        raise UsageError(
            "there is no text to classify",
            setting="texts",
            remedy="pass texts as arguments, - for stdin, or --input FILE",
        )
    _refuse_settings(texts or ())
    if adapter is None:
        name_shipped_adapter()
    quiet()
    runtime |= {
        "text_column": text_column,
        "adapter": adapter,
        "base": base,
        "quantization": quantization,
        "labels": [label.strip() for label in labels.split(",")] if labels else None,
        "template": _template(template),
        "label_sets": label_sets,
    }
    items = _stdin_lines() if texts == ["-"] else texts
    check_request(items, input, output, text_column, explain, format, units, cluster)
    on: Any = {"cluster": cluster, "address": address, "num_workers": num_workers}
    require_cluster(**on)
    if input is not None and output is not None:
        predict_file(input, output, format=format, units=units, **on, **runtime)
        return
    for prediction in run(items, input=input, explain=explain, **runtime):
        if json:
            print(json_for(sys.stdout.encoding, as_json(prediction)))
            continue
        print(as_line(prediction))
        if prediction.explanation is not None:
            print(as_words(prediction.text, prediction.explanation))


def _refuse_settings(texts: Sequence[str]) -> None:
    """Raise `UsageError` for an argument that is a setting, which only other verbs take."""
    from sentilora.config import keyword_for, setting_in

    for text in texts:
        if (setting := setting_in(text)) is None:
            continue
        remedy = keyword_for(text) or "leave it out: prompt and base belong to the adapter"
        raise UsageError(
            f"predict takes texts, and {text!r:.60} is the setting {setting}",
            setting=setting,
            seen=text,
            remedy=f"{remedy} (to classify it as a text, pass - and write it to stdin)",
        )


def as_json(prediction: "Prediction") -> str:
    """One line of JSON: text, label, probabilities, truncated; set, reason, explanation, if any."""
    text, explanation = prediction.text, prediction.explanation
    import json

    content: dict[str, Any] = {
        "text": text,
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        "truncated": prediction.truncated,
    }
    if prediction.label_set is not None:
        content["label_set"] = list(prediction.label_set)
    if prediction.reason is not None:
        content["reason"] = prediction.reason
    if explanation is not None:
        content["explanation"] = {
            "label": explanation.label,
            "words": [
                {"word": text[word.start : word.end], **word._asdict()}
                for word in explanation.words
            ],
        }
    return json.dumps(content, ensure_ascii=False)


def as_line(prediction: "Prediction", width: int = 60) -> str:
    """One line for the terminal: label, probability, set if any, and the beginning of the text."""
    if prediction.label is None:
        return f"no answer: {prediction.reason}"
    begin = " ".join(prediction.text.split())
    begin = begin if len(begin) <= width else begin[: width - 1] + "…"
    cut = "  (truncated)" if prediction.truncated else ""
    probability = max(prediction.probabilities.values())
    longest = max(map(len, (*prediction.probabilities, prediction.label)))
    members = prediction.label_set
    among = "" if members is None else f"{{{', '.join(members)}}}  "
    return f"{prediction.label:<{longest}}  {as_probability(probability)}  {among}{begin}{cut}"


def as_words(text: str, explanation: "Explanation") -> str:
    """Lines for the terminal: the words with the largest log-odds for and against the label."""
    weighed = [
        (round(word.contribution, 2), text[word.start : word.end])
        for word in explanation.words
        if word.alone and word.contribution is not None
    ]
    weighed.sort(key=lambda pair: -abs(pair[0]))
    lines = []
    for name, sign in (("for", 1), ("against", -1)):
        chosen = [pair for pair in weighed if sign * pair[0] > 0][:NUM_WORDS]
        words = "  ".join(f"{word} {signed(value, 2)}" for value, word in chosen)
        lines.append(f"    {name} {explanation.label}: {words or 'no word'}")
    num_unseen = sum(word.contribution is None for word in explanation.words)
    if num_unseen:
        lines.append(
            f"    truncated: {num_unseen:,} of {counted(len(explanation.words), 'word')} not scored"
        )
    return "\n".join(lines)


def _template(template: str | None) -> str | None:
    """The prompt in the value of --template: the value itself, or the content of its file."""
    if template is None:
        return None
    if "{text}" in template:
        return template.removeprefix("\ufeff")  # of a file whose content the shell put here
    if not os.path.isfile(template):
        begin = template if len(template) <= 60 else f"{template[:59]}…"
        raise UsageError(
            f"there is no template file {quoted(begin)}",
            setting="template",
            seen=template,
            remedy="name a file, or write a prompt that contains {text} exactly once",
        )
    try:
        return Path(template).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the template {quoted(template)}: {error}",
            setting="template",
            seen=template,
            remedy="check that it is a readable UTF-8 file",
        ) from error


def _stdin_lines() -> list[str]:
    """The texts on stdin, one per line, without the empty lines."""
    if sys.stdin is None:
        raise UsageError(
            "- reads the texts from stdin, but stdin is closed",
            setting="texts",
            seen="-",
            remedy="pass the texts as arguments",
        )
    try:
        # splitlines() would also split at eight other characters, which can occur within a text.
        lines = sys.stdin.buffer.read().decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"stdin is not valid UTF-8 at byte {error.start}",
            setting="texts",
            seen="-",
            remedy="convert it to UTF-8",
        ) from error
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise DataError(
            "there is no text to classify: stdin is empty",
            setting="texts",
            seen="-",
            remedy="write one text per line",
        )
    if len(texts) < len(lines):
        print(f"skipped empty lines of stdin: {len(lines) - len(texts):,}", file=sys.stderr)
    return texts
