"""Divergence: how it shows, and the one error that reports it.

NaN and infinite numbers end a run before anything of them is saved. A run can also diverge to
finite weights of no use: the classifier then gives every text the same answer.
"""

import math
from collections.abc import Sequence

import numpy as np
from transformers import TrainerState, TrainingArguments

from sentilora.errors import SentiloraError
from sentilora.metrics import measure
from sentilora.progress import say
from sentilora.training.faults import DIVERGENCE_SETTING
from sentilora.wording import quoted

SAME = 1e-6  # probabilities that differ by less do not depend on the text


def diverged(problem: str, state: TrainerState, args: TrainingArguments) -> SentiloraError:
    """The error for a run that diverged. problem: a sentence without its end."""
    best = state.best_model_checkpoint
    saved = f"the best checkpoint is {quoted(best)}" if best else "no checkpoint was saved"
    dtype = ", or set base.compute_dtype to bfloat16 or float32" if args.fp16 else ""
    return SentiloraError(
        f"{problem} ({saved}): training diverged",
        setting=DIVERGENCE_SETTING,
        seen=args.learning_rate,
        remedy=f"lower training.learning_rate{dtype}",
    )


def require_learned(
    probabilities: np.ndarray,
    truth: np.ndarray,
    prompts: Sequence[list[int]],
    state: TrainerState,
    args: TrainingArguments,
) -> None:
    """Raise `SentiloraError` when the best weights give every text the same poor answer.

    Poor is a log-loss no better than guessing; that alone is a warning. probabilities: (rows,
    labels) of the evaluation rows. truth: the numbers of their labels. prompts: their token ids.
    """
    guessing, log_loss = math.log(probabilities.shape[1]), measure(probabilities, truth).log_loss
    if log_loss < guessing - SAME:
        return
    figures = f"a log-loss of {log_loss:.4f} where guessing has {guessing:.4f}"
    texts_differ = len({tuple(prompt) for prompt in prompts}) > 1
    if texts_differ and np.ptp(probabilities, axis=0).max() < SAME:
        problem = f"the best weights give every text the same answer, with {figures}"
        raise diverged(problem, state, args)
    say(
        f"warning: the best evaluation is no better than guessing, with {figures}: train for "
        "longer, or lower training.learning_rate if the training loss rose"
    )
