"""The end of a run: the best adapter on disk, reloaded and scored; results, curve, model card."""

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from sentilora.config import Config
from sentilora.data.inference import look_like_ids
from sentilora.data.rows import Rows
from sentilora.disk import written_aside
from sentilora.folders.adapter_folder import new_adapter
from sentilora.folders.card import write_model_card
from sentilora.folders.checkpoints import seal
from sentilora.folders.run_folder import PROBABILITIES_FILE, Choices, TrainingResult
from sentilora.metrics import Metrics
from sentilora.shipped import EMBEDDED
from sentilora.stages.from_config import runtime_of
from sentilora.training.shortfall import remedies_for, shortfall_of

if TYPE_CHECKING:
    from sentilora.models.bases import Base
    from sentilora.training.trainer import ClassifierTrainer

CURVE_FILE = "training_curve.png"


def finish(
    trainer: "ClassifierTrainer",
    base: "Base",
    config: Config,
    rows: Rows,
    evaluation: Rows,
    train_seconds: float,
    choices: Choices,
) -> None:
    """Save the adapter, reload and score it; write the results, the curve and the model card."""
    import numpy as np
    import torch

    from sentilora.scoring.probes import save_probes
    from sentilora.training.callbacks import Report, callback_of
    from sentilora.training.curves import training_curve
    from sentilora.training.reloading import score_reloaded

    folder = Path(config.output_dir)
    best_step = trainer.state.best_global_step or trainer.state.global_step
    peak = None
    if base.device == "cuda":
        peak = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    with new_adapter(folder) as unfinished:  # nothing that looks like a result before it is one
        trainer.save_model(str(unfinished))
        seal(unfinished, best_step)
        classifier, probabilities, difference = score_reloaded(
            trainer, base, runtime_of(config), unfinished, evaluation.inputs
        )
        save_probes(classifier, unfinished)
    metrics = trainer.measure_evaluation(probabilities)
    shortfall = shortfall_of(metrics, config.prompt.labels)
    result = TrainingResult(
        output_dir=str(folder),
        metrics=metrics,
        best_step=best_step,
        num_steps=trainer.state.global_step,
        train_seconds=round(train_seconds, 1),
        step_seconds=round(median(callback_of(trainer, Report).step_seconds or [0.0]), 4),
        peak_memory_gib=peak,
        reload_difference=difference,
        shortfall=shortfall,
        remedies=remedies_of(trainer, config, metrics, choices, rows) if shortfall else [],
        chosen=choices.settings,
        learning_rates=choices.learning_rates,
    )
    with written_aside(folder / PROBABILITIES_FILE) as partial, partial.open("wb") as file:
        np.save(file, probabilities)
    training_curve(trainer.state.log_history, folder / CURVE_FILE)
    write_model_card(
        folder,
        result,
        trainer.classifier,
        lora=config.lora.model_dump(),
        source=config.data.train,
        num_rows={"train": len(rows), "evaluation": len(evaluation)},
    )
    result.save(folder)  # last: with it the run is finished, and is not resumed


def remedies_of(
    trainer: "ClassifierTrainer", config: Config, metrics: Metrics, choices: Choices, rows: Rows
) -> list[str]:
    """What to try after a run that has not learned, the most promising first."""
    history = trainer.state.log_history
    losses = [entry["eval_log_loss"] for entry in history if "eval_log_loss" in entry]
    return remedies_for(
        metrics,
        are_ids=look_like_ids(rows.texts),
        is_embedded=config.base.name == EMBEDDED,
        is_searched=bool(choices.learning_rates),
        is_past_best=bool(losses) and losses[-1] > min(losses),
        num_epochs=config.training.num_train_epochs,
        max_steps=config.training.max_steps,
    )
