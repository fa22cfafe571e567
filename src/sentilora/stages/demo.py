"""The whole job in minutes: train on what ships with the package, compare, classify three reviews.

sentilora demo
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.config import CONFIG_FILE, Config
from sentilora.evaluation.findings import Evaluation
from sentilora.evaluation.measuring import measure_rows
from sentilora.progress import say
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier
from sentilora.stages.from_config import load_rows_of, load_test_of
from sentilora.stages.train import train
from sentilora.wording import as_probability, counted, percent, percent_interval

if TYPE_CHECKING:
    from rich.table import Table

OUTPUT_DIR = "sentilora-demo"
REVIEWS = (
    "Slow to start, but the last half hour is so tender that I sat through the credits smiling.",
    "The trailer holds every good joke, and even there both of them are old.",
    "Not once did I look at my watch, and I can't say that of many three-hour films.",
)


@dataclass(frozen=True)
class Demo:
    """What the demo measured."""

    evaluation: Evaluation
    predictions: list[Prediction]
    output_dir: str


def demo(config: Config) -> Demo:
    """Train as `config` says, score the test rows three ways, classify three reviews."""
    folder = Path(config.output_dir)
    if config.output_dir == OUTPUT_DIR and (folder / CONFIG_FILE).is_file():
        say(f"replacing the previous demo in ./{folder}")
        shutil.rmtree(folder)
    train(config)
    classifier = Classifier.load(folder)
    test = load_test_of(config, classifier.labels)
    measurement = measure_rows(classifier, test, str(folder), load_rows_of(config))
    return Demo(measurement.as_evaluation(), classifier.classify(REVIEWS), str(folder))


def as_tables(result: Demo) -> "list[Table | str]":
    """The last screen: accuracies with intervals, the three predictions, what to do next."""
    from rich.table import Table

    evaluation = result.evaluation
    accuracies = Table(title=counted(evaluation.num_rows, "test review"), title_justify="left")
    for name, justify in (("", "left"), ("accuracy", "right"), ("95 % interval", "right")):
        accuracies.add_column(name, justify=justify)  # type: ignore[arg-type]
    rows = {
        "fine-tuned (base + adapter)": evaluation.adapter,
        "TF-IDF + logistic regression": evaluation.baseline,
        "untouched base": evaluation.base,
    }
    for name, metrics in rows.items():
        assert metrics is not None
        accuracies.add_row(
            name, percent(metrics.accuracy), percent_interval(metrics.accuracy_interval)
        )
    reviews = Table(title="Three reviews it has never seen", title_justify="left")
    for column in ("label", "probability", "review"):
        reviews.add_column(column)
    for text, prediction in zip(REVIEWS, result.predictions, strict=True):
        probability = prediction.probabilities[prediction.label]
        reviews.add_row(prediction.label, as_probability(probability, 3), text)
    return [
        accuracies,
        f"fine-tuned against base, exact McNemar: p = {evaluation.comparisons['base'].p:.2g}\n",
        reviews,
        f"The adapter and its curve lie in ./{result.output_dir}. Next:\n"
        f'  sentilora predict --adapter {result.output_dir} "your own review"\n'
        '  sentilora predict "…"            the shipped adapter, trained on 2,000 IMDB reviews\n'
        "  sentilora train data.train=my.csv data.test=my_test.csv --output-dir my-adapter\n"
        "  sentilora train --preset mistral-7b      the real thing, on a 16 GB GPU",
    ]
