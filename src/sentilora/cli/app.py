"""The command line as a whole: its verbs, and how errors become messages and exit codes.

Results go to stdout, notices and progress to stderr. Exit codes: 0, 1 (failed while working),
2 (usage, configuration, device), 3 (data or adapter), 4 (a requirement is not met), 130 (Ctrl-C).
Heavy imports happen inside a verb, so that --help is fast.
"""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sentilora.cli.check import check
from sentilora.cli.convert import convert
from sentilora.cli.demo import demo
from sentilora.cli.distill import distill
from sentilora.cli.env import env
from sentilora.cli.evaluate import evaluate
from sentilora.cli.export import export
from sentilora.cli.options import fail
from sentilora.cli.predict import predict
from sentilora.cli.serve import serve
from sentilora.cli.train import train
from sentilora.cli.verify import verify
from sentilora.errors import SentiloraError, is_out_of_memory, write_failure
from sentilora.progress import notices_once, show_details


class Verbs(TyperGroup):
    """The verbs. An error raised on purpose ends in one line on stderr and its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # report a full disk now, not at interpreter exit
            return result
        # Caught here, because Typer would swallow Interrupted, which is a KeyboardInterrupt.
        except SentiloraError as error:
            kind = "" if error.exit_code == 130 else "error: "  # an orderly stop is not an error
            fail(str(error), error.exit_code, kind)
        except KeyboardInterrupt:
            fail("interrupted", 130)
        except BrokenPipeError:
            # The reader closed the pipe, as `head` does: nothing to report, and nobody to read it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from None  # 128 + SIGPIPE, as in a shell
        except OSError as error:
            fail(f"cannot read or write: {error}", 1)
        except Exception as error:
            if is_out_of_memory(error):
                fail("out of memory; lower --batch-size, or prompt.max_length when training", 1)
            if reason := write_failure(error):
                fail(f"cannot write: {reason}", 1)
            raise


app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    rich_markup_mode=None,  # importing Rich would double the time of --help
    pretty_exceptions_enable=False,
    help="Fine-tune a causal language model in 4 bits with LoRA to classify text.",
    epilog="Settings are written section.key=value; docs/reference/settings.md has all of them.",
)
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print technical details of the start too.")
]


def with_verbose(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with the option --verbose, which decides whether `progress.detail` prints."""

    @functools.wraps(verb)
    def with_details(*, verbose: bool, **options: Any) -> None:
        show_details(verbose)
        with notices_once():
            verb(**options)

    signature = inspect.signature(verb)
    option = inspect.Parameter(
        "verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose
    )
    whole = signature.replace(parameters=[*signature.parameters.values(), option])
    with_details.__signature__ = whole  # type: ignore[attr-defined]  # what Typer reads
    return with_details


for verb in (train, evaluate, predict, serve, export, verify, check, convert, distill, demo):
    app.command()(with_verbose(verb))
app.command()(env)


def print_version(is_set: bool) -> None:
    """Print the version and exit, if --version is set."""
    if is_set:
        from sentilora.version import __version__

        print(f"sentilora {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=print_version, help="Print the version."),
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line. Without arguments, print the help."""
    # So that a result is printed whatever the encoding of the terminal.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="sentilora", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # Click's errors have it; Typer hides their class
            raise
        fail(of_usage(error), 2)
    _leave_group()
    raise SystemExit(code)


def of_usage(error: Any) -> str:
    """One of Click's errors as a line, with the verb whose help to see.

    Typer reads values with pydantic, whose sentences are about an "input" and do not show it.
    """
    message = error.format_message().rstrip(".").replace("Value error, ", "")
    if hasattr(error.__cause__, "errors"):
        fault = error.__cause__.errors()[0]
        kind = fault["msg"].removeprefix("Input should be ").split(", ")[0]
        message = message.replace(fault["msg"], f"{fault['input']!r:.60} is not {kind}")
    verb = error.ctx.command_path if error.ctx is not None else "sentilora"
    return f"{message}; see `{verb} --help`"


def _leave_group() -> None:
    """Leave the process group. Under a launcher, even a single process has one."""
    if "LOCAL_RANK" in os.environ:
        from torch import distributed

        if distributed.is_initialized():  # otherwise NCCL warns at interpreter exit
            distributed.destroy_process_group()
