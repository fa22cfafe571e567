"""`sentilora verify`."""

from pathlib import Path
from typing import Annotated

import typer

from sentilora.cli.options import Device, quiet
from sentilora.wording import quoted

Folder = Annotated[Path, typer.Argument(help="Folder that export wrote.")]
Adapter = Annotated[
    Path | None,
    typer.Option(
        help="Score the trained adapter again too, with the evaluation rows of its run.",
        show_default="its answers to public texts, as they were at the export",
    ),
]
Base = Annotated[
    str | None,
    typer.Option(
        help="Where the base of an adapter is now: a folder, a .gguf file, a hub id or a preset's "
        "name."
    ),
]


def verify(
    folder: Folder,
    adapter: Adapter = None,
    base: Base = None,
    device: Device = None,
) -> None:
    """Compare an export with the trained model again, on this machine."""
    from sentilora.exporting.certificate import figures_of, in_words
    from sentilora.stages.verify import verify as run

    quiet()
    certificate = run(folder, adapter=adapter, base=base, device=device)
    print(f"{certificate.kind}, {certificate.form}: {quoted(folder)}")
    print(f"{in_words(figures_of(certificate))}; up to {certificate.tolerance:g} is allowed")
