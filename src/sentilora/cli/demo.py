"""`sentilora demo`."""

import os
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from sentilora.cli.options import Overrides, quiet
from sentilora.presets import DEMO_FOLDER
from sentilora.wording import as_p, as_probability, counted, percent, percent_interval, quoted

if TYPE_CHECKING:
    from rich.table import Table

    from sentilora.evaluation.findings import Evaluation
    from sentilora.scoring.answers import Prediction

NEXT = """The adapter and its training curve are in {folder}. Next:
  sentilora predict --adapter {argument} "your own review"
  sentilora predict "…"            the adapter that ships, for English film reviews
  sentilora train my.csv           your own texts and labels
  sentilora train my.csv --preset smollm2-135m     … with a real base; mistral-7b on a 16 GB GPU"""


def demo(
    overrides: Overrides = None,
    output_dir: Annotated[
        str, typer.Option(help="Folder for the adapter; a previous demo there is replaced.")
    ] = DEMO_FOLDER,
) -> None:
    """Train, compare and classify on what ships with sentilora: minutes on two CPU cores."""
    from sentilora.config import load_config

    settings = load_config("tiny", overrides=overrides or (), values={"output_dir": output_dir})
    quiet()
    from rich.console import Console

    from sentilora.stages.demo import demo as run

    result = run(settings)
    comparisons = result.evaluation.comparisons
    tests = ", ".join(
        f"against {name} {as_p(comparisons[key].p)}"
        for key, name in (("baseline", "TF-IDF"), ("base", "the base"))
        if key in comparisons
    )
    console = Console()
    console.print()
    for part in (
        accuracies(result.evaluation),
        f"exact McNemar test of fine-tuned: {tests}\n",
        answers(result.predictions),
        NEXT.format(
            folder=quoted(os.path.join(".", result.output_dir)),
            argument=shlex.quote(result.output_dir),
        ),
    ):
        console.print(part, highlight=False, markup=False, soft_wrap=True)


def accuracies(evaluation: "Evaluation") -> "Table":
    """The accuracies of adapter, TF-IDF and base, with intervals."""
    from rich.table import Table

    table = Table(title=counted(evaluation.num_rows, "test review"), title_justify="left")
    table.add_column("")
    table.add_column("accuracy", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, metrics in (
        ("fine-tuned (base + adapter)", evaluation.adapter),
        ("TF-IDF + logistic regression", evaluation.baseline),
        ("untouched base", evaluation.base),
    ):
        if metrics is None:  # not measured
            continue
        interval = percent_interval(metrics.accuracy_interval)
        table.add_row(name, percent(metrics.accuracy), interval)
    return table


def answers(predictions: "list[Prediction]") -> "Table":
    """The answer to each review, with its probability."""
    from rich.table import Table

    table = Table(title="Three reviews it has never seen", title_justify="left")
    for column in ("label", "probability", "review"):
        table.add_column(column)
    for prediction in predictions:
        probability = as_probability(max(prediction.probabilities.values()), 3)
        table.add_row(prediction.label, probability, prediction.text)
    return table
