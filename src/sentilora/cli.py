"""The command line: a verb per function. Heavy imports happen inside the verb.

Results go to stdout, notices and progress to stderr. Exit codes: 0, 1 (broke while working),
2 (usage, configuration, device), 3 (data or adapter), 130 (Ctrl-C).
"""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.core import TyperGroup

from sentilora.errors import DataError, SentiloraError, UsageError, is_out_of_memory
from sentilora.models.device import spin_shortly
from sentilora.progress import is_main_process, say
from sentilora.wording import counted, percent, percent_interval


class Verbs(TyperGroup):
    """Ends errors raised on purpose with one line and their exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # a full disk is told of here, not behind the end
            return result
        except (
            SentiloraError
        ) as error:  # here: Typer would swallow Interrupted, a KeyboardInterrupt
            kind = "" if error.exit_code == 130 else "error: "  # Ctrl-C that went well is no error
            _fail(str(error), error.exit_code, kind)
        except KeyboardInterrupt:
            _fail("interrupted", 130)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            _fail("out of memory; lower --batch-size, or prompt.max_length when training", 1)
        except BrokenPipeError:
            # The reader has gone, as `head` does: nobody is left to be told.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from None  # as a shell has it: 128 + SIGPIPE
        except OSError as error:
            _fail(f"cannot read or write: {error}", 1)


app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    rich_markup_mode=None,  # importing Rich would double the time of --help
    pretty_exceptions_enable=False,
    help="Fine-tune a causal language model in 4 bits with LoRA to classify text.",
    epilog="Settings: section.key=value; every one stands in the preset mistral-7b, commented.",
)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]…", show_default=False)
]
Preset = Annotated[
    str | None, typer.Option(help="Recipe to start from: tiny (default) or mistral-7b.")
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file laid over the preset.")
]
OutputDir = Annotated[str | None, typer.Option(help="Folder for adapter and checkpoints.")]
Adapter = Annotated[
    Path | None, typer.Option(help="Adapter folder; else the one that ships: English film reviews.")
]
TextColumn = Annotated[str | None, typer.Option(help="Column that holds the text.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column that holds the label.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Texts scored at once.")]
Device = Annotated[Literal["auto", "cuda", "cpu"], typer.Option(help="Where to compute.")]
BaseMatmul = Annotated[
    Literal["exact", "fp8"],
    typer.Option(help="fp8: 8-bit products, on Ada and Hopper GPUs: faster, not exact."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from sentilora.version import __version__

        print(f"sentilora {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None: ...


@app.command()
def train(
    overrides: Overrides = None,
    preset: Preset = None,
    config: ConfigFile = None,
    output_dir: OutputDir = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    adapter: Annotated[Path | None, typer.Option(help="Start from this adapter's weights.")] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Train with so many seeds: mean and spread.")
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(help="Train on so many rows each, e.g. 100,400,2000: would more labels help?"),
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Fine-tune a base and save the best adapter."""
    from sentilora.stages.train import train as run

    chosen_sizes = None if sizes is None else _whole_numbers("--sizes", sizes)
    if seeds is not None and sizes is not None:
        raise UsageError("--seeds and --sizes are two series; give one, then the other")
    series = seeds is not None or sizes is not None
    if series and adapter is not None:
        raise UsageError("--adapter goes with a single run, not with --seeds or --sizes")
    values = _values(output_dir, text_column, label_column)
    settings = _config(preset, config, overrides, values, resume)
    _quiet()
    if series:
        _series(settings, seeds, chosen_sizes, resume)
        return
    result = run(settings, resume=resume, adapter=adapter)
    if not is_main_process():
        return
    metrics = result.metrics
    print(
        f"best of {counted(result.num_steps, 'step')}: {result.best_step}, "
        f"in {result.train_seconds:.0f} s\n"
        f"evaluation, {counted(metrics.num_rows, 'row')}, scored again after reloading: accuracy "
        f"{percent(metrics.accuracy, 2)} ({percent_interval(metrics.accuracy_interval, 2)}), "
        f"macro-F1 {metrics.macro_f1:.4f}, log-loss {metrics.log_loss:.4f}\n"
        f"adapter in {result.output_dir}; next: sentilora evaluate --adapter {result.output_dir}"
    )


@app.command()
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
    batch_size: BatchSize = 16,
    base_matmul: BaseMatmul = "exact",
    device: Device = "auto",
) -> None:
    """Measure an adapter, its base without it, and a baseline, on the test rows."""
    from sentilora.config import parse_override
    from sentilora.evaluation.table import as_table
    from sentilora.shipped import SENTIMENT_SUITE
    from sentilora.stages.evaluate import evaluate as run
    from sentilora.stages.predict import check_output

    values = dict(parse_override(item) for item in overrides or ())
    values |= _values(None, text_column, label_column)
    if suite and suite_file is not None:
        raise UsageError("--suite runs the suite that ships, --suite-file another; give one")
    if output is not None:
        check_output(output)
    _quiet()
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
            device=device,
            batch_size=batch_size,
            base_matmul=base_matmul,
        )
    except SentiloraError as error:
        if error.evaluation is None:
            raise
        result, failed = error.evaluation, error
    print(result.to_json() if json else as_table(result), flush=True)
    if output is not None:
        _write(output, result.to_json() + "\n")
    if failed is not None:
        raise failed


@app.command()
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
    from sentilora.data.tables import write_table
    from sentilora.stages import predict as stage

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
    _quiet()
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


@app.command()
def check(
    overrides: Overrides = None,
    preset: Preset = None,
    config: ConfigFile = None,
    output_dir: OutputDir = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Look at data, labels, memory and time before training."""
    from sentilora.stages.check import check as run

    values = _values(output_dir, text_column, label_column)
    settings = _config(preset, config, overrides, values)
    _quiet()
    findings = run(settings)
    for finding in findings:
        mark = {"ok": " ", "note": "!", "problem": "✗"}[finding.level]
        indented = finding.text.replace("\n", "\n" + " " * 22)
        print(f"{mark} {finding.name:<20}{indented}")
    codes = [finding.exit_code for finding in findings if finding.level == "problem"]
    if codes:  # it ends as `train` would, with the first
        sys.stdout.flush()
        _fail(f"{counted(len(codes), 'problem')}, marked ✗ above", codes[0])


@app.command()
def demo(
    overrides: Overrides = None, output_dir: Annotated[str, typer.Option()] = "sentilora-demo"
) -> None:
    """Train, compare and classify on what ships with sentilora: minutes on two CPU cores."""
    from sentilora.config import load_config

    settings = load_config("tiny", overrides=overrides or (), values={"output_dir": output_dir})
    _quiet()
    from rich.console import Console

    from sentilora.stages.demo import as_tables
    from sentilora.stages.demo import demo as run

    result = run(settings)
    console = Console()
    console.print()
    for part in as_tables(result):
        console.print(part, highlight=False, markup=False)


@app.command()
def env() -> None:
    """Print versions, GPU and hub: the text for a bug report."""
    from sentilora.stages.env import environment

    for name, value in environment().items():
        print(f"{name:<22}{value}")


def main() -> None:
    """Run the command line; without arguments it shows the help."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a result is never lost
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="sentilora", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # Click's errors; Typer keeps a Click of its own
            raise
        _fail(f"{error.format_message().rstrip('.')}. `sentilora --help` shows what there is", 2)
    _leave_group()
    raise SystemExit(code)


def _leave_group() -> None:
    if "LOCAL_RANK" in os.environ:  # a launcher started it; then even one process is a group
        from torch import distributed

        if distributed.is_initialized():  # left to the interpreter's end, NCCL warns of it
            distributed.destroy_process_group()


def _fail(message: str, exit_code: int, kind: str = "error: ") -> NoReturn:
    if not is_main_process():  # the main one says the same, unless it is this machine's own trouble
        kind = f"process {os.environ['RANK']}: {kind}"
    print(f"{kind}{' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(exit_code) from None


def _whole_numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{option} is {text!r}; write whole numbers and commas, e.g. 100,400,2000"
        ) from None


def _series(settings: Any, seeds: int | None, sizes: list[int] | None, resume: bool) -> None:
    from sentilora.stages.repeat import LEARNING_CURVE_FILE, train_seeds, train_sizes
    from sentilora.training.series import SEEDS_FILE, SIZES_FILE, seeds_as_table, sizes_as_table

    folder = Path(settings.output_dir)
    if seeds is not None:
        text = seeds_as_table(train_seeds(settings, seeds, resume=resume))
        files, run = str(folder / SEEDS_FILE), f"seed-{settings.training.seed}"
    else:
        text = sizes_as_table(train_sizes(settings, sizes or [], resume=resume))
        files = f"{folder / SIZES_FILE} and {folder / LEARNING_CURVE_FILE}"
        run = f"size-{max(sizes or [])}"
    if is_main_process():
        print(text)
        print(f"figures in {files}; next: sentilora evaluate --adapter {folder / run}")


def _values(
    output_dir: str | None, text_column: str | None, label_column: str | None
) -> dict[str, Any]:
    named = {
        "output_dir": output_dir,
        "data.text_column": text_column,
        "data.label_column": label_column,
    }
    return {key: value for key, value in named.items() if value is not None}


def _config(
    preset: str | None,
    file: Path | None,
    overrides: list[str] | None,
    values: dict[str, Any],
    resume: bool = False,
) -> Any:
    from sentilora.config import (
        CONFIG_FILE,
        DEFAULT_PRESET,
        load_config,
        parse_override,
        read_config,
    )

    if resume and preset is None and file is None and "output_dir" in values:
        path = Path(values["output_dir"]) / CONFIG_FILE
        if path.is_file():  # the run's own recipe, then what is asked for on top
            given = dict(parse_override(item) for item in overrides or ())
            return read_config(path).with_values({**given, **values})
    if preset is None:
        say(f"no --preset given: {DEFAULT_PRESET} (the other one is mistral-7b)")
        preset = DEFAULT_PRESET
    return load_config(preset, file, overrides or (), values)


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


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SentiloraError(f"cannot write {path}: {error}") from error


def _quiet() -> None:
    """Keep third parties' bars and deprecation notices off the screen; errors stay."""
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    spin_shortly()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")
    warnings.filterwarnings("ignore", r"barrier\(\): using the device under current context")
