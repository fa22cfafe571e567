"""`sentilora demo`."""

from typing import Annotated

import typer

from sentilora.cli.options import Overrides, quiet


def demo(
    overrides: Overrides = None, output_dir: Annotated[str, typer.Option()] = "sentilora-demo"
) -> None:
    """Train, compare and classify on what ships with sentilora: minutes on two CPU cores."""
    from sentilora.config import load_config

    settings = load_config("tiny", overrides=overrides or (), values={"output_dir": output_dir})
    quiet()
    from rich.console import Console

    from sentilora.stages.demo import as_tables
    from sentilora.stages.demo import demo as run

    result = run(settings)
    console = Console()
    console.print()
    for part in as_tables(result):
        console.print(part, highlight=False, markup=False)
