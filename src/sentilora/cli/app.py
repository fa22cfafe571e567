"""The command line: its verbs, and how they end. Heavy imports happen inside a verb.

Results go to stdout, notices and progress to stderr. Exit codes: 0, 1 (broke while working),
2 (usage, configuration, device), 3 (data or adapter), 130 (Ctrl-C).
"""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sentilora.cli.check import check
from sentilora.cli.demo import demo
from sentilora.cli.env import env
from sentilora.cli.evaluate import evaluate
from sentilora.cli.options import fail
from sentilora.cli.predict import predict
from sentilora.cli.train import train
from sentilora.errors import SentiloraError, is_out_of_memory


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
            fail(str(error), error.exit_code, kind)
        except KeyboardInterrupt:
            fail("interrupted", 130)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            fail("out of memory; lower --batch-size, or prompt.max_length when training", 1)
        except BrokenPipeError:
            # The reader has gone, as `head` does: nobody is left to be told.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from None  # as a shell has it: 128 + SIGPIPE
        except OSError as error:
            fail(f"cannot read or write: {error}", 1)


app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    rich_markup_mode=None,  # importing Rich would double the time of --help
    pretty_exceptions_enable=False,
    help="Fine-tune a causal language model in 4 bits with LoRA to classify text.",
    epilog="Settings: section.key=value; every one is in presets/defaults.toml, with comments.",
)
for verb in (train, evaluate, predict, check, demo, env):
    app.command()(verb)


def print_version(wanted: bool) -> None:
    if wanted:
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
    """Run the command line; without arguments it shows the help."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a result is never lost
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="sentilora", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # Click's errors; Typer keeps a Click of its own
            raise
        fail(f"{error.format_message().rstrip('.')}. `sentilora --help` shows what there is", 2)
    _leave_group()
    raise SystemExit(code)


def _leave_group() -> None:
    if "LOCAL_RANK" in os.environ:  # a launcher started it; then even one process is a group
        from torch import distributed

        if distributed.is_initialized():  # left to the interpreter's end, NCCL warns of it
            distributed.destroy_process_group()
