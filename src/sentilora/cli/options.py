"""Options that several verbs share, and what they are turned into."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from sentilora.models.device import spin_briefly
from sentilora.presets import DEFAULT_PRESET, preset_names
from sentilora.progress import is_main_process, say

AS_TRAINED = "as in training, where recorded"

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
    Path | None, typer.Option("--config", help="TOML file laid over the preset.")
]
OutputDir = Annotated[str | None, typer.Option(help="Folder for adapter and checkpoints.")]
Adapter = Annotated[
    Path | None, typer.Option(help="Adapter folder; else the one that ships: English film reviews.")
]
TextColumn = Annotated[str | None, typer.Option(help="Column that holds the text.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column that holds the label.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[
    Literal["auto", "cuda", "cpu"] | None,
    typer.Option(help="Where to compute.", show_default="a GPU if there is one"),
]
ComputeDtype = Annotated[
    Literal["auto", "float16", "bfloat16", "float32"] | None,
    typer.Option(help="Dtype to compute in.", show_default=AS_TRAINED),
]
AttnImplementation = Annotated[
    str | None, typer.Option(help="Attention, as transformers names it.", show_default=AS_TRAINED)
]
Engine = Annotated[
    Literal["auto", "reference"] | None,
    typer.Option(help="reference: without the fast engine.", show_default=AS_TRAINED),
]
BaseMatmul = Annotated[
    Literal["exact", "fp8"] | None,
    typer.Option(
        help="fp8: 8-bit products, on Ada and Hopper GPUs: faster, not exact.",
        show_default="exact",
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Texts scored at once.", show_default=AS_TRAINED)
]
MaxMemoryGib = Annotated[
    float | None,
    typer.Option(min=0, help="GPU memory to plan for, in GiB.", show_default="what is free"),
]


def in_options(message: str) -> str:
    """A message with each `keyword` of a library function as the option of that name."""
    return re.sub(r"`([a-z]+(?:_[a-z]+)*)`", lambda word: _as_option(word[1]), message)


def _as_option(keyword: str) -> str:
    return f"--{keyword.replace('_', '-')}"


def fail(message: str, exit_code: int, kind: str = "error: ") -> NoReturn:
    if not is_main_process():  # the main one says the same, unless it is this machine's own trouble
        kind = f"process {os.environ['RANK']}: {kind}"
    print(f"{kind}{in_options(' '.join(message.split()))}", file=sys.stderr)
    raise SystemExit(exit_code) from None


def named_values(
    output_dir: str | None, text_column: str | None, label_column: str | None
) -> dict[str, Any]:
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
) -> Any:
    from sentilora.config import (
        CONFIG_FILE,
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
        others = " and ".join(name for name in preset_names() if name != DEFAULT_PRESET)
        say(f"no --preset given: {DEFAULT_PRESET} (others: {others})")
        preset = DEFAULT_PRESET
    return load_config(preset, file, overrides or (), values)


def quiet() -> None:
    """Keep third parties' bars and deprecation notices off the screen; errors stay."""
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    spin_briefly()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|peft)\b")
    warnings.filterwarnings("ignore", r"barrier\(\): using the device under current context")
