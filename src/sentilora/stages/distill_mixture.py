"""Temperature of the teacher's probabilities, and weight of true labels: chosen, with reasons."""

import math
import shutil
from pathlib import Path
from typing import Any

from sentilora.config import Config
from sentilora.evaluation.calibration import choose_temperature
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.run_folder import seen_rows
from sentilora.models.device import free_memory
from sentilora.progress import say, without_notices
from sentilora.stages.distill_rows import MIN_LABELED, Parts, write_parts
from sentilora.stages.from_config import columns_of, count_steps
from sentilora.stages.train import train_in
from sentilora.training.distillation import Mixture, log_of, targets_of
from sentilora.wording import counted

WEIGHTS = (0.0, 0.5, 1.0)  # of the true label, that are tried
TRIAL_SHARE, MIN_TRIAL_STEPS = 0.1, 20
MIN_SHARE = 0.05  # of the texts: fewer true labels make no difference that a trial could show
MIN_CALIBRATION, MAX_SEEN = 100, 0.1  # evaluation rows; share of them that the teacher may know


def choose(config: Config, place: Path, parts: Parts, adapter: AdapterFolder) -> Mixture:
    """Temperature and weight of true labels, with the reason for each; as chosen before, if so.

    The temperature calibrates the teacher on the evaluation rows. Three weights are tried for a
    tenth of the student's steps each, as `training.learning_rate=search` tries rates.
    """
    if (place / Mixture.FILE).is_file():
        return Mixture.load(place)
    temperature, of_temperature = choose_divisor(parts, adapter)
    say(f"temperature {temperature:g}: {of_temperature}")
    weight, of_weight = choose_weight(config, place, parts, temperature)
    say(f"weight {weight:g}: {of_weight}")
    reasons = {"temperature": of_temperature, "weight": of_weight}
    mixture = Mixture(temperature=temperature, weight=weight, reasons=reasons)
    mixture.save(place)
    return mixture


def choose_divisor(parts: Parts, adapter: AdapterFolder) -> tuple[float, str]:
    """The temperature that lowers the teacher's log-loss on the evaluation rows; and the reason."""
    rows = parts.evaluation
    if not parts.are_true:
        return 1.0, f"fewer than {MIN_LABELED} texts have a true label to calibrate the teacher on"
    if len(rows.truth) < MIN_CALIBRATION:
        return 1.0, f"{counted(len(rows.truth), 'evaluation row')} are too few to calibrate it on"
    labels = adapter.classifier.prompt.labels if adapter.classifier is not None else ()
    seen = sum(seen_rows(adapter.run, rows.rows, labels).values())
    if seen > MAX_SEEN * len(rows.truth):
        return 1.0, f"the teacher has seen {seen:,} of the evaluation rows in its training"
    fit = choose_temperature(log_of(rows.probabilities), rows.truth)
    figures = f"{fit.log_loss_before:.4f}, and {fit.log_loss_after:.4f} at {fit.value:.2f}"
    reason = f"the teacher's log-loss on {counted(len(rows.truth), 'evaluation row')} is {figures}"
    return round(fit.divisor, 2), reason


def choose_weight(
    config: Config, place: Path, parts: Parts, temperature: float
) -> tuple[float, str]:
    """The weight of true labels with the student's lowest log-loss; and the reason."""
    num, share = parts.train.num_labeled, parts.train.num_labeled / len(parts.train.truth)
    if not num:
        return 0.0, "no text that trains has a true label"
    if not parts.are_true or share < MIN_SHARE:
        return (
            1.0,
            f"{counted(num, 'text')} that train have a true label, too few to try others",
        )
    columns = columns_of(config, config.prompt.labels)
    num_steps = max(
        MIN_TRIAL_STEPS, math.ceil(TRIAL_SHARE * count_steps(config, len(parts.train.truth)))
    )
    losses: dict[float, float] = {}
    for weight in WEIGHTS:
        say(f"weight {weight:g} of true labels: {counted(num_steps, 'step')}")
        targets = targets_of(parts.train.probabilities, parts.train.truth, temperature, weight)
        rows, folder = place / "trial-rows", place / "trial"
        write_parts(rows, parts, targets, columns)
        trial = on_rows(config, rows, parts.test is None).with_values(
            {
                "output_dir": str(folder),
                "training.max_steps": num_steps,
                "training.eval_steps": num_steps,
                "training.save_steps": num_steps,
                "training.early_stopping_patience": 0,
                "training.report_to": "none",
            }
        )
        shutil.rmtree(folder, ignore_errors=True)
        with without_notices():
            losses[weight] = train_in(folder, trial, {}, None, resume=False).metrics.log_loss
        shutil.rmtree(folder)
        shutil.rmtree(rows)
        free_memory()
    shown = ", ".join(f"{weight:g}: {loss:.4f}" for weight, loss in losses.items())
    return min(losses, key=losses.__getitem__), (
        f"the student's log-loss on {counted(len(parts.evaluation.truth), 'evaluation row')} after "
        f"{counted(num_steps, 'step')} ({shown})"
    )


def on_rows(config: Config, rows: Path, has_own_test: bool) -> Config:
    """The configuration of a run on the rows in a folder, all of them."""
    values: dict[str, Any] = {
        "data.train": str(rows.resolve()),
        "data.evaluation": str(rows.resolve()),
        "data.num_train": 0,
        "data.num_evaluation": 0,
        "data.soft_labels": True,
    }
    if not has_own_test:
        values["data.test"] = str(rows.resolve())
    return config.with_values(values)
