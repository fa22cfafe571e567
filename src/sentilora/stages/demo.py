"""The whole job in minutes: train on what ships with the package, compare, classify three reviews.

sentilora demo
"""

from dataclasses import dataclass
from pathlib import Path

from sentilora.config import CONFIG_FILE, Config
from sentilora.evaluation.findings import Evaluation
from sentilora.evaluation.measuring import measure_rows
from sentilora.folders.claim import empty
from sentilora.progress import say
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier
from sentilora.stages.from_config import load_rows_of, load_test_of
from sentilora.stages.train import train

OUTPUT_DIR = "sentilora-demo"
REVIEWS = (
    "Slow to start, but the last half hour is so tender that I sat through the credits smiling.",
    "The trailer holds every good joke, and even there both of them are old.",
    "Not once did I look at my watch, and I can't say that of many three-hour films.",
)


@dataclass(frozen=True)
class Demo:
    """What the demo measured on the test rows, and its answers to `REVIEWS`.

    output_dir: the folder of the adapter and its training curve.
    """

    evaluation: Evaluation
    predictions: list[Prediction]
    output_dir: str


def demo(config: Config) -> Demo:
    """Train as `config` says, measure on the test rows, classify three reviews.

    The evaluation compares the adapter with TF-IDF and with the untouched base. A previous demo in
    the folder `OUTPUT_DIR` is replaced. Raises what `train` raises.
    """
    folder = Path(config.output_dir)
    if config.output_dir == OUTPUT_DIR and (folder / CONFIG_FILE).is_file():
        say(f"replacing the previous demo in ./{folder}")
        empty(folder)
    train(config)
    classifier = Classifier.load(folder)
    test = load_test_of(config, classifier.labels)
    measurement = measure_rows(classifier, test, str(folder), load_rows_of(config))
    return Demo(measurement.as_evaluation(), classifier.classify(REVIEWS), str(folder))
