"""`sentilora predict`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sentilora.cli.options import Adapter, AsJson, BaseMatmul, BatchSize, Device, TextColumn, quiet
from sentilora.errors import DataError, UsageError
from sentilora.wording import counted


def predict(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; - reads one a line from stdin.")
    ] = None,
    adapter: Adapter = None,
    input: Annotated[Path | None, typer.Option(help="CSV, TSV, JSONL or Parquet file.")] = None,
    output: Annotated[Path | None, typer.Option(help="File to write, its columns kept.")] = None,
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
    batch_size: BatchSize = 16,
    base_matmul: BaseMatmul = "exact",
    device: Device = "auto",
) -> None:
    """Classify texts."""
    import sentilora.stages.predict as stage
    from sentilora.data.tables import write_table

    if (input is None) == (not texts):
        raise UsageError("give texts as arguments, - for stdin, or --input FILE")
    if texts and "-" in texts and len(texts) > 1:
        raise UsageError("- reads the texts from stdin and stands alone; here are others beside it")
    if output is not None and input is None:
        raise UsageError("--output goes with --input")
    if text_column is not None and input is None:
        raise UsageError("--text-column goes with --input")
    if output is not None and explain:
        raise UsageError(
            "--explain prints, a table has no place for it; instead of --output keep what --json "
            "prints"
        )
    quiet()
    frame = None
    if input is not None:
        stage.check_files(input, output)
        column = text_column or "text"
        frame = stage.read_input(input, column)
        chosen = frame[column].tolist()
    else:
        chosen = _stdin_lines() if texts == ["-"] else list(texts or ())
        stage.check_texts(chosen)

    from sentilora.scoring.classifier import Classifier

    classifier = Classifier.load(
        adapter,
        device=device,
        batch_size=batch_size,
        labels=[label.strip() for label in labels.split(",")] if labels else None,
        template=_template(template),
        base_matmul=base_matmul,
    )
    if frame is not None and output is not None:
        stage.check_columns(frame, classifier.labels)
    predictions = stage.predict(classifier, chosen)
    if frame is not None and output is not None:
        write_table(stage.add_predictions(frame, predictions), output)
        print(f"{counted(len(predictions), 'row')} in {output}", file=sys.stderr)
        return
    words = stage.explain(classifier, chosen) if explain else [None] * len(chosen)
    for text, prediction, found in zip(chosen, predictions, words, strict=True):
        if json:
            print(stage.as_json(text, prediction, found))
            continue
        print(stage.as_line(text, prediction))
        if found is not None:
            print(stage.as_words(text, found))


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
    if texts and len(texts) < len(lines):
        print(f"left out empty lines of stdin: {len(lines) - len(texts):,}", file=sys.stderr)
    return texts
