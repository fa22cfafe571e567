"""The learning rate by trial: three rates, a tenth of the steps each, the lowest log-loss wins.

rate, log_losses = search_rate(config, num_rows, train_once)
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from sentilora.config import Config
from sentilora.errors import Interrupted, SentiloraError
from sentilora.folders.run_folder import TrainingResult
from sentilora.models.device import free_memory
from sentilora.progress import is_main_process, say, without_notices
from sentilora.stages.from_config import count_steps
from sentilora.training.faults import DIVERGENCE_SETTING
from sentilora.wording import counted

SETTING = "training.learning_rate"
SEARCH = "search"  # as a learning rate
FACTORS = (1 / 3, 1, 3)
TRIAL_SHARE, MIN_TRIAL_STEPS = 0.1, 20
TRIAL_FOLDER = "trial"  # in the run's folder, while the trial runs


def search_rate(
    config: Config, num_rows: int, train_once: Callable[[Config], TrainingResult]
) -> tuple[float, dict[str, float | None]]:
    """The best of three rates around the preset's, and the log-loss of each; None if it diverged.

    num_rows: number of training rows. train_once: trains as a configuration says.

    Raises `SentiloraError` if training diverges at every rate.
    """
    center = float(config.as_in_preset(SETTING).training.learning_rate)
    rates = [float(f"{center * factor:.0e}") for factor in FACTORS]
    num_steps = max(MIN_TRIAL_STEPS, math.ceil(TRIAL_SHARE * count_steps(config, num_rows)))
    losses: dict[str, float | None] = {}
    for number, rate in enumerate(rates, 1):
        say(f"learning rate {number} of {len(rates)}: {rate:g}, {counted(num_steps, 'step')}")
        losses[f"{rate:g}"] = _log_loss_at(rate, config, num_steps, train_once)
    reached = {rate: loss for rate, loss in losses.items() if loss is not None}
    if not reached:
        raise SentiloraError(
            f"training diverged at each learning rate that was tried ({', '.join(losses)})",
            setting=SETTING,
            seen=SEARCH,
            remedy=f"set a lower one, e.g. training.learning_rate={rates[0] / 10:g}",
        )
    best = min(reached, key=reached.__getitem__)
    shown = ", ".join(
        f"{rate}: {'diverged' if loss is None else f'{loss:.4f}'}" for rate, loss in losses.items()
    )
    say(f"training.learning_rate={best}: the lowest log-loss ({shown})")
    return float(best), losses


def as_searched(config: Config, before: Config) -> Config:
    """The configuration with the rate that a search found before, instead of a search."""
    if config.training.learning_rate != SEARCH:
        return config
    return config.with_values({SETTING: before.training.learning_rate})


def _log_loss_at(
    rate: float, config: Config, num_steps: int, train_once: Callable[[Config], TrainingResult]
) -> float | None:
    """The log-loss on the evaluation rows after a trial at this rate; None if it diverges."""
    folder = Path(config.output_dir) / TRIAL_FOLDER
    trial = config.with_values(
        {
            "output_dir": str(folder),
            SETTING: rate,
            "training.max_steps": num_steps,
            "training.eval_steps": num_steps,
            "training.save_steps": num_steps,
            "training.early_stopping_patience": 0,
            "training.report_to": "none",
        }
    )
    try:
        with without_notices():
            return train_once(trial).metrics.log_loss
    except Interrupted as error:
        raise Interrupted(
            "stopped while the learning rate was searched for: nothing was saved"
        ) from error
    except SentiloraError as error:
        if error.setting != DIVERGENCE_SETTING:
            raise
        return None
    finally:
        if is_main_process():
            shutil.rmtree(folder, ignore_errors=True)
        free_memory()
