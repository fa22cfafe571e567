"""`sentilora evaluate`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sentilora.cli.options import (
    Adapter,
    AsJson,
    DataAndOverrides,
    LabelColumn,
    Quantization,
    TextColumn,
    data_and_overrides,
    in_options,
    json_for,
    name_shipped_adapter,
    named_values,
    quiet,
    with_runtime_options,
)
from sentilora.disk import write_atomically
from sentilora.errors import SentiloraError, UsageError
from sentilora.wording import quoted

Base = Annotated[
    str | None,
    typer.Option(
        help="With --adapter: where its base is now. Alone: measure this base, without an adapter. "
        "A folder, a .gguf file, a hub id or a preset's name, whose prompt and data are then used."
    ),
]
Output = Annotated[Path | None, typer.Option(help="New file for the result, as JSON.")]
TargetAccuracy = Annotated[
    float | None,
    typer.Option(help="Choose an abstention threshold that reaches this accuracy, such as 0.98."),
]
Report = Annotated[Path | None, typer.Option(help="New folder for a report to open in a browser.")]
Suite = Annotated[
    bool,
    typer.Option("--suite", help="Run the shipped behavior tests: negation, sarcasm, typos …"),
]
SuiteFile = Annotated[Path | None, typer.Option(help="Run the behavior tests of this TOML file.")]
LabelIssues = Annotated[
    bool, typer.Option("--label-issues", help="List test rows whose label is probably wrong.")
]
NearDuplicates = Annotated[
    bool,
    typer.Option(
        "--near-duplicates",
        help="Search for near-duplicates beyond 200,000 rows too (takes minutes).",
    ),
]
Require = Annotated[
    list[str] | None,
    typer.Option(
        help='End with exit code 4 unless this holds: "accuracy>=0.9", "ece<=0.05", '
        '"accuracy.low>=0.9" for the end of its interval; any figure of --json. Repeatable.',
        metavar="BOUND",
    ),
]
ContentFree = Annotated[
    bool,
    typer.Option(
        "--content-free",
        help="A base alone: divide out its answers to texts without content.",
    ),
]


@with_runtime_options
def evaluate(
    arguments: DataAndOverrides = None,
    adapter: Adapter = None,
    base: Base = None,
    quantization: Quantization = None,
    output: Output = None,
    target_accuracy: TargetAccuracy = None,
    report: Report = None,
    suite: Suite = False,
    suite_file: SuiteFile = None,
    label_issues: LabelIssues = False,
    near_duplicates: NearDuplicates = False,
    require: Require = None,
    content_free: ContentFree = False,
    json: AsJson = False,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    **runtime: Any,
) -> None:
    """Measure an adapter, its base without it, and a baseline, on the test rows."""
    from sentilora.evaluation.table import as_table
    from sentilora.shipped import SENTIMENT_SUITE
    from sentilora.stages.evaluate import evaluate as run

    values = data_and_overrides(arguments, "data.test")
    values |= named_values(None, text_column, label_column)
    _check_suite(suite, suite_file)
    if output is not None:
        _check_output(output, report)
    if adapter is None and base is None:
        name_shipped_adapter()
    quiet()
    failure = None
    try:
        result = run(
            adapter,
            base=base,
            quantization=quantization,
            overrides=values,
            target_accuracy=target_accuracy,
            report=report,
            suite=suite_file or (SENTIMENT_SUITE if suite else None),
            label_issues=label_issues,
            near_duplicates=near_duplicates,
            require=require or (),
            content_free=content_free,
            **runtime,
        )
    except SentiloraError as error:
        if error.evaluation is None:
            raise
        result, failure = error.evaluation, error
    as_json = json_for(sys.stdout.encoding, result.to_json())
    print(as_json if json else as_table(result, in_options), flush=True)
    if output is not None:
        _write(output, json_for("utf-8", result.to_json()) + "\n")
    if failure is not None:
        raise failure


def _check_suite(suite: bool, suite_file: Path | None) -> None:
    """Raise `UsageError` for two suites."""
    if suite and suite_file is not None:
        raise UsageError(
            "--suite runs the shipped behavior tests and --suite-file those of a file",
            setting="suite_file",
            seen=str(suite_file),
            remedy="give one of the two",
        )


def _check_output(output: Path, report: Path | None) -> None:
    """Raise `UsageError` for an output file that cannot be written, or that the report would be."""
    from sentilora.stages.predict_file import check_new_file

    check_new_file(output)
    if report is not None and output.resolve().is_relative_to(report.resolve()):
        raise UsageError(
            f"--output {quoted(output)} is the report's folder or in it",
            setting="output",
            seen=str(output),
            remedy="choose another file: the report has its own report.json",
        )


def _write(path: Path, text: str) -> None:
    try:
        write_atomically(path, text)
    except OSError as error:
        raise SentiloraError(
            f"cannot write {quoted(path)}: {error}", setting="output", seen=str(path)
        ) from error
