"""Contextual calibration: what a base answers where a text says nothing, to be divided out.

Zhao et al. 2021, "Calibrate Before Use", section 4. It is for bases without an adapter, which often
prefer one label whatever the text is. Training learns that preference away.
"""

from typing import TYPE_CHECKING

from sentilora.prompt import Prompter
from sentilora.scoring.answers import at_temperature
from sentilora.template import TEXT

if TYPE_CHECKING:
    import numpy as np

    from sentilora.scoring.labels import LabelScorer

TEXTS = ("N/A", "[MASK]", "")  # of the paper


def label_prior(prompter: Prompter, scorer: "LabelScorer") -> "np.ndarray":
    """Probabilities of the labels, float64 (labels,), averaged over texts without content."""
    columns = prompter.format.columns
    prompts = [
        prompter.encode_parts([text], dict.fromkeys((TEXT, *columns), text) if columns else text)
        for text in TEXTS
    ]
    prior: np.ndarray = at_temperature(scorer.log_probs(prompts).numpy(), 1.0).mean(0)
    return prior
