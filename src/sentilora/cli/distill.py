"""`sentilora distill`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sentilora.cli.options import (
    ConfigFile,
    LabelColumn,
    OutputDir,
    Overrides,
    Preset,
    TextColumn,
    named_values,
    quiet,
)
from sentilora.errors import Interrupted
from sentilora.wording import quoted

Teacher = Annotated[Path, typer.Option(help="Folder of the adapter to learn from.")]
Texts = Annotated[
    str,
    typer.Option(
        help="File of texts, or folder with training rows; labels in its label column are used too."
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        help="Base of the student: hub id, folder, .gguf file, a preset's name or embedded.",
        show_default="the preset's",
    ),
]
Resume = Annotated[bool, typer.Option(help="Continue a distillation that was stopped.")]


def distill(
    teacher: Teacher,
    texts: Texts,
    settings: Overrides = None,
    base: Base = None,
    preset: Preset = None,
    config: ConfigFile = None,
    output_dir: OutputDir = None,
    resume: Resume = False,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
) -> None:
    """Train a smaller base on the answers of an adapter."""
    from sentilora.config import load_config
    from sentilora.presets import DEFAULT_PRESET
    from sentilora.stages.distill import distill as run
    from sentilora.stages.named_base import named_base

    values = named_values(output_dir, text_column, label_column)
    if base is not None:
        values["base.name"] = named_base(base)
    chosen = load_config(preset or DEFAULT_PRESET, config, settings or (), values)
    quiet()
    try:
        result = run(chosen, teacher=teacher, texts=texts, resume=resume)
    except Interrupted as error:
        error.remedy = "resume with the same command and --resume"
        raise
    place = shlex.quote(result.output_dir)
    print(result.as_table())
    print(f"student in {quoted(result.output_dir)}; next: sentilora evaluate --adapter {place}")
