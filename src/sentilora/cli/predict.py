"""`sentilora predict`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sentilora.cli.options import (
    Adapter,
    AsJson,
    AttnImplementation,
    BaseMatmul,
    BatchSize,
    ComputeDtype,
    Device,
    Engine,
    MaxMemoryGib,
    TextColumn,
    quiet,
)
from sentilora.errors import DataError, UsageError
from sentilora.wording import as_probability, counted, signed

if TYPE_CHECKING:
    from sentilora.scoring.answers import Prediction
    from sentilora.scoring.explain import Explanation

NUM_WORDS = 5  # shown for an answer, and against it


def predict(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; - reads one per line from stdin.")
    ] = None,
    adapter: Adapter = None,
    input: Annotated[
        Path | None, typer.Option(help="CSV, TSV, JSONL or Parquet file to classify.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="New file for the rows of --input, with the answers added.")
    ] = None,
    text_column: TextColumn = None,
    labels: Annotated[
        str | None, typer.Option(help="For a plain PEFT adapter: labels, comma-separated.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="For a plain PEFT adapter: prompt with {text}, or a file.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show the words that moved each answer.")
    ] = False,
    json: AsJson = False,
    device: Device = None,
    compute_dtype: ComputeDtype = None,
    attn_implementation: AttnImplementation = None,
    engine: Engine = None,
    base_matmul: BaseMatmul = None,
    batch_size: BatchSize = None,
    max_memory_gib: MaxMemoryGib = None,
) -> None:
    """Classify texts."""
    from sentilora.stages.predict import predict as run

    if texts and "-" in texts and len(texts) > 1:
        raise UsageError("- reads the texts from stdin and must be the only argument")
    if not texts and input is None:
        raise UsageError("give texts as arguments, - for stdin, or --input FILE")
    quiet()
    predictions = run(
        _stdin_lines() if texts == ["-"] else texts,
        input=input,
        output=output,
        text_column=text_column,
        adapter=adapter,
        labels=[label.strip() for label in labels.split(",")] if labels else None,
        template=_template(template),
        explain=explain,
        device=device,
        compute_dtype=compute_dtype,
        attn_implementation=attn_implementation,
        engine=engine,
        base_matmul=base_matmul,
        batch_size=batch_size,
        max_memory_gib=max_memory_gib,
    )
    for prediction in predictions if output is None else ():
        print(as_json(prediction) if json else as_line(prediction))
        if prediction.explanation is not None and not json:
            print(as_words(prediction.text, prediction.explanation))


def as_json(prediction: "Prediction") -> str:
    """One line of JSON: text, label, probabilities, truncated, and the words, if explained."""
    text, explanation = prediction.text, prediction.explanation
    import json

    content: dict[str, Any] = {
        "text": text,
        "label": prediction.label,
        "probabilities": prediction.probabilities,
        "truncated": prediction.truncated,
    }
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
    """One line for a reader: label, its probability, the beginning of the text."""
    begin = " ".join(prediction.text.split())
    begin = begin if len(begin) <= width else begin[: width - 1] + "…"
    cut = "  (truncated)" if prediction.truncated else ""
    probability = max(prediction.probabilities.values())
    longest = max(map(len, (*prediction.probabilities, prediction.label)))
    return f"{prediction.label:<{longest}}  {as_probability(probability)}  {begin}{cut}"


def as_words(text: str, explanation: "Explanation") -> str:
    """Lines for a reader: the words that weigh most for the answer and against it, in log-odds."""
    weighed = [
        (round(word.contribution, 2), text[word.start : word.end])
        for word in explanation.words
        if word.alone and word.contribution is not None
    ]
    weighed.sort(key=lambda pair: -abs(pair[0]))
    lines = []
    for name, sign in (("for", 1), ("against", -1)):
        chosen = [pair for pair in weighed if sign * pair[0] > 0][:NUM_WORDS]
        said = "  ".join(f"{word} {signed(value, 2)}" for value, word in chosen)
        lines.append(f"    {name} {explanation.label}: {said or 'no word'}")
    num_unseen = sum(word.contribution is None for word in explanation.words)
    if num_unseen:
        words = counted(len(explanation.words), "word")
        lines.append(f"    not seen: {num_unseen:,} of {words} (cut)")
    return "\n".join(lines)


def _template(template: str | None) -> str | None:
    if template is None or "{text}" in template:
        return template
    if not os.path.isfile(template):
        begin = template if len(template) <= 60 else f"{template[:59]}…"
        raise UsageError(
            f"there is no template file {begin}; a prompt given in its place must hold {{text}} "
            "exactly once"
        )
    try:
        return Path(template).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the template {template}: {error}") from error


def _stdin_lines() -> list[str]:
    if sys.stdin is None:
        raise UsageError("- reads the texts from stdin, and stdin is closed")
    try:
        # Not splitlines: a text may hold one of the eight other characters that it splits at.
        lines = sys.stdin.buffer.read().decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"stdin is not valid UTF-8 at byte {error.start}; send it as UTF-8"
        ) from error
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise DataError("there is no text to classify; stdin was empty")
    if len(texts) < len(lines):
        print(f"left out empty lines of stdin: {len(lines) - len(texts):,}", file=sys.stderr)
    return texts
