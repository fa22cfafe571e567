"""Options that several verbs share, and what the verbs make of them."""

import codecs
import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from sentilora.errors import UsageError
from sentilora.models.device import spin_briefly
from sentilora.presets import DEFAULT_PRESET
from sentilora.progress import is_main_process, say
from sentilora.shipped import EMBEDDED
from sentilora.wording import printable, quoted

if TYPE_CHECKING:
    from sentilora.config import Config

AS_TRAINED = "as in training, if recorded"

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]…", show_default=False)
]
DataAndOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[DATA] [SECTION.KEY=VALUE]…",
        help="DATA: file, folder or hub id of labeled texts.",
        show_default=False,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        help="Recipe and base to start from; check --list shows them.",
        show_default=DEFAULT_PRESET,
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file whose settings override the preset's.")
]
OutputDir = Annotated[str | None, typer.Option(help="Folder for the adapter and checkpoints.")]
Adapter = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the adapter.", show_default="the one that ships, for English film reviews"
    ),
]
Quantization = Annotated[
    Literal["nf4", "none"] | None,
    typer.Option(
        help="How to load the base: in 4 bits, or as it is stored.",
        show_default="as in training; nf4 if not recorded",
    ),
]
TextColumn = Annotated[str | None, typer.Option(help="Name of the text column.")]
LabelColumn = Annotated[str | None, typer.Option(help="Name of the label column.")]
Labels = Annotated[str | None, typer.Option(help="Labels, separated by commas.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[
    Literal["auto", "cuda", "cpu"] | None,
    typer.Option(help="Device to compute on.", show_default="a GPU if available"),
]
# The keywords of `RuntimeOverrides` as options, in the order of --help.
RUNTIME: dict[str, Any] = {
    "device": Device,
    "compute_dtype": Annotated[
        Literal["auto", "float16", "bfloat16", "float32"] | None,
        typer.Option(help="Compute dtype.", show_default=AS_TRAINED),
    ],
    "attn_implementation": Annotated[
        str | None,
        typer.Option(
            help="Attention implementation, by its name in transformers.", show_default=AS_TRAINED
        ),
    ],
    "engine": Annotated[
        Literal["auto", "reference"] | None,
        typer.Option(
            help="auto: the fast engine if it fits the base. reference: plain PEFT.",
            show_default=AS_TRAINED,
        ),
    ],
    "base_matmul": Annotated[
        Literal["exact", "fp8"] | None,
        typer.Option(
            help="fp8: 8-bit matrix products on Ada and Hopper GPUs, faster but not exact.",
            show_default="exact",
        ),
    ],
    "batch_size": Annotated[
        int | None,
        typer.Option(min=1, help="Number of texts scored at once.", show_default=AS_TRAINED),
    ],
    "max_memory_gib": Annotated[
        float | None,
        typer.Option(min=0, help="GPU memory to plan for, in GiB.", show_default="all free memory"),
    ],
    "max_left_out": Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With many labels: the most of a text's probability in labels that are not "
            "scored; 0 scores every label.",
            show_default="1e-06",
        ),
    ],
}


def with_runtime_options(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb, whose `**runtime` Typer now sees as the options of `RUNTIME`."""
    signature = inspect.signature(verb)
    *parameters, _ = signature.parameters.values()
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in RUNTIME.items()
    ]
    whole = signature.replace(parameters=[*parameters, *options])
    verb.__signature__ = whole  # type: ignore[attr-defined]  # what Typer reads
    return verb


# The keywords of library functions that are options of a verb, and `verbose`.
KEYWORDS = (
    *("adapter", "base", "quantization", "output_dir", "preset", "resume", "seeds", "sizes"),
    *("text_column", "label_column", "labels", "template", "input", "output", "explain", "json"),
    "label_sets",
    *("target_accuracy", "report", "suite", "suite_file", "label_issues", "near_duplicates"),
    "require",
    "content_free",
    *("host", "port", "api_key", "admin_key", "adapter_root", "review_store", "on_long"),
    *("max_wait", "deadline", "max_texts", "max_pass_tokens", "max_body_bytes"),
    *("shutdown_timeout", "config", "verbose", "format", "units", "list"),
    *("cluster", "address", "num_workers"),
    *("dtype", "weights", "base_id", "converter", "tolerance", "push_to_hub", "soft_key"),
    *("teacher", "texts"),
    *RUNTIME,
)


# A value of the user's in a message, as `repr` and `wording.quoted` write it. Its quotes stand
# alone, unlike an apostrophe.
_VALUE = r"""(?<!\w)(['"])(?:\\.|(?!\1).)*\1(?!\w)"""
_VALUE_OR_KEYWORD = re.compile(f"{_VALUE}|`({'|'.join(KEYWORDS)})`", re.DOTALL)


def in_options(message: str) -> str:
    """The message, with each library keyword in backticks as its option: `num_x` as --num-x.

    What is in quotes is a value of the user's and stays as it is.
    """
    return _VALUE_OR_KEYWORD.sub(lambda part: _as_option(part[2]) if part[2] else part[0], message)


def _as_option(keyword: str) -> str:
    return f"--{keyword.replace('_', '-')}"


def fail(message: str, exit_code: int, kind: str = "error: ") -> NoReturn:
    """Print the message as one line on stderr and exit. kind: text before it."""
    if not is_main_process():  # the error may concern this process alone
        kind = f"process {os.environ['RANK']}: {kind}"
    print(f"{kind}{in_options(printable(' '.join(message.split())))}", file=sys.stderr)
    raise SystemExit(exit_code) from None


def json_for(encoding: str | None, text: str) -> str:
    """JSON that a stream of this encoding holds without loss, and that every reader understands.

    JSON is UTF-8: in any other encoding all but ASCII is escaped. So is half a surrogate pair,
    which no encoding holds: Python reads such a path from bytes that are not UTF-8.
    """
    is_utf8 = codecs.lookup(encoding or "ascii").name == "utf-8"
    unsafe = "[\ud800-\udfff]" if is_utf8 else "[^\0-\x7f]"
    return re.sub(unsafe, lambda character: json.dumps(character[0])[1:-1], text)


def data_and_overrides(arguments: list[str] | None, setting: str) -> dict[str, Any]:
    """Settings from the arguments of a verb. setting: the one that DATA stands for.

    Raises `UsageError` for a second DATA, and for what is not a setting.
    """
    from sentilora.config import parse_override

    sources, values = [], {}
    for argument in arguments or ():
        if os.path.exists(argument):
            sources.append(argument)
        elif re.match(r"[\w.]*=", argument):
            key, value = parse_override(argument)
            values[key] = value
        elif re.search(r"[/\\.]", argument) or argument == EMBEDDED:
            sources.append(argument)
        else:
            raise UsageError(
                f"there is no file or folder {quoted(argument)}",
                setting=setting,
                seen=argument,
                remedy=f"name one, write settings as section.key=value, or a hub id without an "
                f"owner as {setting}={argument}",
            )
    if sources and setting in values:
        sources.append(str(values[setting]))
    if len(sources) > 1:
        raise UsageError(
            f"{quoted(sources[0])} and {quoted(sources[1])} are both taken for the data",
            setting=setting,
            seen=sources,
            remedy="give one file, folder or hub id; write settings as section.key=value",
        )
    return values | ({setting: sources[0]} if sources else {})


def named_values(
    output_dir: str | None,
    text_column: str | None,
    label_column: str | None,
    labels: str | None = None,
) -> dict[str, Any]:
    """Settings from the options that have a name of their own. None leaves a setting as it is."""
    named = {
        "output_dir": output_dir,
        "data.text_column": text_column,
        "data.label_column": label_column,
        "prompt.labels": labels,
    }
    return {key: value for key, value in named.items() if value is not None}


def config_from(
    preset: str | None,
    file: Path | None,
    arguments: list[str] | None,
    values: dict[str, Any],
    resume: bool = False,
) -> "Config":
    """The configuration of a verb: recipe, then its arguments, then named options.

    resume: whether to take the recipe from the run in `output_dir`, unless another one is named.
    """
    from sentilora.config import CONFIG_FILE, load_config, read_config

    values = {**data_and_overrides(arguments, "data.train"), **values}
    if resume and preset is None and file is None and "output_dir" in values:
        path = Path(values["output_dir"]) / CONFIG_FILE
        if path.is_file():
            return read_config(path).with_values(values)
    if preset is None:
        say(f"no --preset given, using {DEFAULT_PRESET} (others: sentilora check --list)")
        preset = DEFAULT_PRESET
    return load_config(preset, file, values=values)


def name_shipped_adapter() -> None:
    """Print which adapter answers where none was named."""
    say(
        "adapter: the one that ships, for English film reviews (positive or negative); "
        "--adapter names another"
    )


def quiet() -> None:
    """Silence progress bars and deprecation warnings of other packages, but not their errors."""
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    spin_briefly()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")
    warnings.filterwarnings("ignore", r"barrier\(\): using the device under current context")
