"""Checks at the end of every run that the saved adapter scores like the trained one."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.data.text import Item
from sentilora.errors import SentiloraError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.models.bases import Base
from sentilora.models.runtime import Runtime
from sentilora.scoring.classifier import Classifier
from sentilora.scoring.labels import UndefinedScores
from sentilora.training.divergence import diverged

if TYPE_CHECKING:
    import numpy as np

    from sentilora.training.trainer import ClassifierTrainer

# In half precision on a GPU, two runs of the same passes may sum in different orders.
MAX_DIFFERENCE = {"cpu": 0.0, "cuda": 1e-3}
TOO_LARGE = "the adapter's weights became too large to compute with"


def score_reloaded(
    trainer: "ClassifierTrainer", base: Base, runtime: Runtime, folder: Path, texts: Sequence[Item]
) -> "tuple[Classifier, np.ndarray, float]":
    """The adapter on disk, its probabilities (texts, labels), and their largest difference.

    The adapter is loaded as `Classifier.load` loads it, on the base that is already in memory.
    Raises `SentiloraError` when it scores differently from the trained one.
    """
    # The best weights are loaded now. Their probabilities come from other batches if several
    # processes shared the evaluation.
    expected = trainer.best_probabilities
    if expected is None or trainer.accelerator.num_processes > 1:
        expected = trainer.score_prompts(trainer.eval_prompts)
    before = trainer.engine
    trainer.release_engine()
    trainer.accelerator.unwrap_model(trainer.model).unload()
    classifier = Classifier.on_base(AdapterFolder.open(folder), base, runtime)
    engine = classifier.scorer.engine
    if before is not None and engine is not None:
        engine.take_plan(before)  # the same passes give the same bits
    try:
        probabilities = classifier.predict_proba(texts)
    except UndefinedScores as error:
        raise diverged(TOO_LARGE, trainer.state, trainer.args) from error
    difference = float(abs(probabilities - expected).max())
    if difference > MAX_DIFFERENCE[base.device]:
        if before is not None and engine is None:
            raise diverged(TOO_LARGE, trainer.state, trainer.args)
        raise SentiloraError(
            f"the saved adapter scores differently after reloading: probabilities differ by up to "
            f"{difference:.2g}, the limit is {MAX_DIFFERENCE[base.device]:g}",
            remedy="please report this",
        )
    return classifier, probabilities, difference
