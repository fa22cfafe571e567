"""The whole job in minutes: train on what ships with the package, compare, classify three reviews.

sentilora demo
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from sentilora.config import CONFIG_FILE, Config, read_config
from sentilora.errors import UsageError
from sentilora.evaluation.findings import Evaluation
from sentilora.evaluation.measuring import measure_rows
from sentilora.folders.claim import CLAIM_FILE, claim
from sentilora.presets import DEMO_FOLDER
from sentilora.progress import say
from sentilora.scoring.answers import Prediction
from sentilora.scoring.classifier import Classifier
from sentilora.stages.from_config import load_rows_of, load_test_of, prompt_format_of
from sentilora.stages.train import train
from sentilora.wording import quoted

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
    the folder `DEMO_FOLDER` is replaced. Raises what `train` raises.
    """
    if columns := prompt_format_of(config).columns:
        raise UsageError(
            f"the prompt also shows {', '.join(columns)}, and the demo's reviews are texts alone",
            setting="prompt.template",
            seen=config.prompt.template,
            remedy="use `train` and `predict`",
        )
    folder = Path(config.output_dir)
    with set_aside(folder) if config.output_dir == DEMO_FOLDER else nullcontext():
        train(config)
    config = read_config(folder / CONFIG_FILE)
    classifier = Classifier.load(folder)
    test = load_test_of(config, classifier.labels)
    measurement = measure_rows(classifier, test, str(folder), load_rows_of(config))
    return Demo(measurement.as_evaluation(), classifier.classify(REVIEWS), str(folder))


@contextmanager
def set_aside(folder: Path) -> Iterator[None]:
    """Replaces a run in `folder` by the one that is trained meanwhile.

    If training does not start, as with a setting that it refuses, the old run is put back.
    """
    if not (folder / CONFIG_FILE).is_file():
        yield
        return
    aside = folder.with_name(f".{folder.name}-previous")
    shutil.rmtree(aside, ignore_errors=True)  # left by a demo that was killed
    with claim(folder):  # refused while a job works in it
        folder.rename(aside)
        (aside / CLAIM_FILE).unlink()
    try:
        yield
    finally:
        if (folder / CONFIG_FILE).is_file():
            say(f"replaced the previous demo in ./{quoted(folder)}")
            shutil.rmtree(aside)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
