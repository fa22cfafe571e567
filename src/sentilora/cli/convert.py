"""`sentilora convert`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sentilora.cli.options import LabelColumn, Labels, Overrides, TextColumn, named_values

Input = Annotated[
    str, typer.Argument(metavar="DATA", help="File, folder or hub id of labeled texts.")
]
Out = Annotated[Path, typer.Argument(help="New file of JSON lines.")]
SoftAnswers = Annotated[
    Literal["targets", "gold"],
    typer.Option(
        help="Key of soft labels. targets: beside the likeliest label as the expected one "
        "(decisionformer). gold: alone (sysone)."
    ),
]


def convert(
    data: Input,
    out: Out,
    settings: Overrides = None,
    soft_key: SoftAnswers = "targets",
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    labels: Labels = None,
) -> None:
    """Write labeled rows as records that trainers of decision models read."""
    from sentilora.config import load_config
    from sentilora.stages.convert import convert as run

    values = {"data.train": data, **named_values(None, text_column, label_column, labels)}
    run(load_config(overrides=settings or (), values=values), out, soft_key=soft_key)
