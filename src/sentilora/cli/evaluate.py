"""`sentilora evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sentilora.cli.options import (
    Adapter,
    AsJson,
    LabelColumn,
    Overrides,
    TextColumn,
    in_options,
    named_values,
    quiet,
    with_runtime_options,
)
from sentilora.errors import SentiloraError, UsageError


@with_runtime_options
def evaluate(
    overrides: Overrides = None,
    adapter: Adapter = None,
    base: Annotated[str | None, typer.Option(help="Score this base, without adapter.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the result there, as JSON.")] = None,
    target_accuracy: Annotated[
        float | None, typer.Option(help="Abstain below the confidence that reaches it, e.g. 0.98.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="New folder for a report to open in a browser.")
    ] = None,
    suite: Annotated[
        bool, typer.Option("--suite", help="Test its behaviour too: negation, sarcasm, typos …")
    ] = False,
    suite_file: Annotated[
        Path | None, typer.Option(help="Test its behaviour with this TOML file.")
    ] = None,
    label_issues: Annotated[
        bool, typer.Option("--label-issues", help="List probable label errors of the test rows.")
    ] = False,
    near_duplicates: Annotated[
        bool,
        typer.Option(
            "--near-duplicates", help="Look for them among more than 200,000 rows too: minutes."
        ),
    ] = False,
    json: AsJson = False,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    **runtime: Any,
) -> None:
    """Measure an adapter, its base without it, and a baseline, on the test rows."""
    from sentilora.config import parse_override
    from sentilora.evaluation.table import as_table
    from sentilora.shipped import SENTIMENT_SUITE
    from sentilora.stages.evaluate import evaluate as run
    from sentilora.stages.predict import check_output

    values = dict(parse_override(item) for item in overrides or ())
    values |= named_values(None, text_column, label_column)
    if suite and suite_file is not None:
        raise UsageError("--suite runs the suite that ships, --suite-file another; give one")
    if output is not None:
        check_output(output)
    quiet()
    failed = None
    try:
        result = run(
            adapter,
            base=base,
            overrides=values,
            target_accuracy=target_accuracy,
            report=report,
            suite=suite_file or (SENTIMENT_SUITE if suite else None),
            label_issues=label_issues,
            near_duplicates=near_duplicates,
            **runtime,
        )
    except SentiloraError as error:
        if error.evaluation is None:
            raise
        result, failed = error.evaluation, error
    print(result.to_json() if json else in_options(as_table(result)), flush=True)
    if output is not None:
        _write(output, result.to_json() + "\n")
    if failed is not None:
        raise failed


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SentiloraError(f"cannot write {path}: {error}") from error
