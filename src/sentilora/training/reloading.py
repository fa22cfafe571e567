"""What was saved scores as what was trained: checked at the end of every run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.errors import SentiloraError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.models.bases import Base
from sentilora.models.runtime import Runtime
from sentilora.scoring.classifier import Classifier

if TYPE_CHECKING:
    import numpy as np

    from sentilora.training.trainer import ClassifierTrainer

# Half precision on a GPU: another run of the same passes may add in another order.
ALLOWED = {"cpu": 0.0, "cuda": 1e-3}


def score_reloaded(
    trainer: "ClassifierTrainer", base: Base, runtime: Runtime, folder: Path, texts: Sequence[str]
) -> "tuple[np.ndarray, float]":
    """Probabilities (texts, labels) from the adapter on disk, and their largest difference.

    The adapter is loaded as `Classifier.load` does it, on the base that is in memory already.
    Raises `SentiloraError` when it scores differently from the one that was trained.
    """
    # Of the best weights, which are loaded now; unknown when resumed after that evaluation, and
    # from other batches when several processes shared it.
    expected = trainer.best_probabilities
    if expected is None or trainer.accelerator.num_processes > 1:
        expected = trainer.score_prompts(trainer.eval_prompts)
    before = trainer.engine
    trainer.release_engine()
    trainer.accelerator.unwrap_model(trainer.model).unload()
    classifier = Classifier.on_base(AdapterFolder.open(folder), base, runtime)
    engine = classifier.scorer.engine
    if before is not None and engine is not None:
        engine.take_plan(before)  # the same passes: the same bits
    probabilities = classifier.predict_proba(texts)
    difference = float(abs(probabilities - expected).max())
    if difference > ALLOWED[base.device]:
        raise SentiloraError(
            f"the adapter saved in {folder} scores differently after reloading: probabilities "
            f"differ by up to {difference:.2g}, allowed is {ALLOWED[base.device]:g}",
            remedy="please report this",
        )
    return probabilities, difference
