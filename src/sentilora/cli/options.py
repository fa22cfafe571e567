"""Options that several verbs share, and what the verbs make of them."""

import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from sentilora.models.device import spin_briefly
from sentilora.presets import DEFAULT_PRESET, preset_names
from sentilora.progress import is_main_process, say

if TYPE_CHECKING:
    from sentilora.config import Config

AS_TRAINED = "as in training, if recorded"

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[SECTION.KEY=VALUE]…", show_default=False)
]
Preset = Annotated[
    str | None,
    typer.Option(
        help=f"Recipe to start from: {' or '.join(preset_names())}.", show_default=DEFAULT_PRESET
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
TextColumn = Annotated[str | None, typer.Option(help="Name of the text column.")]
LabelColumn = Annotated[str | None, typer.Option(help="Name of the label column.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
# The keywords of `RuntimeOverrides` as options, in the order of --help.
RUNTIME: dict[str, Any] = {
    "device": Annotated[
        Literal["auto", "cuda", "cpu"] | None,
        typer.Option(help="Device to compute on.", show_default="a GPU if available"),
    ],
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


# The keywords of library functions that are options of a verb.
KEYWORDS = (
    *("adapter", "base", "output_dir", "preset", "resume", "seeds", "sizes"),
    *("text_column", "label_column", "labels", "template", "input", "output", "explain", "json"),
    *("target_accuracy", "report", "suite", "suite_file", "label_issues", "near_duplicates"),
    *("config", *RUNTIME),
)


def in_options(message: str) -> str:
    """The message, with each library keyword in backticks as its option: `num_x` as --num-x."""
    return re.sub(f"`({'|'.join(KEYWORDS)})`", lambda word: _as_option(word[1]), message)


def _as_option(keyword: str) -> str:
    return f"--{keyword.replace('_', '-')}"


def fail(message: str, exit_code: int, kind: str = "error: ") -> NoReturn:
    """Print the message as one line on stderr and exit. kind: text before it."""
    if not is_main_process():  # the error may concern this process alone
        kind = f"process {os.environ['RANK']}: {kind}"
    print(f"{kind}{in_options(' '.join(message.split()))}", file=sys.stderr)
    raise SystemExit(exit_code) from None


def named_values(
    output_dir: str | None, text_column: str | None, label_column: str | None
) -> dict[str, Any]:
    """Settings from the options that have a name of their own. None leaves a setting as it is."""
    named = {
        "output_dir": output_dir,
        "data.text_column": text_column,
        "data.label_column": label_column,
    }
    return {key: value for key, value in named.items() if value is not None}


def config_from(
    preset: str | None,
    file: Path | None,
    overrides: list[str] | None,
    values: dict[str, Any],
    resume: bool = False,
) -> "Config":
    """The configuration of a verb: recipe, then overrides, then named options.

    resume: whether to take the recipe from the run in `output_dir`, unless another one is named.
    """
    from sentilora.config import CONFIG_FILE, load_config, parse_override, read_config

    if resume and preset is None and file is None and "output_dir" in values:
        path = Path(values["output_dir"]) / CONFIG_FILE
        if path.is_file():
            settings = dict(parse_override(item) for item in overrides or ())
            return read_config(path).with_values({**settings, **values})
    if preset is None:
        others = " and ".join(name for name in preset_names() if name != DEFAULT_PRESET)
        say(f"no --preset given, using {DEFAULT_PRESET} (others: {others})")
        preset = DEFAULT_PRESET
    return load_config(preset, file, overrides or (), values)


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
