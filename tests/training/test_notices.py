"""What other packages log during training and concerns no user stays off the terminal."""

import logging

from sentilora.config import load_config
from sentilora.stages.train import train

FEW = [
    "training.max_steps=3", "training.eval_steps=1", "training.save_steps=1",
    "training.optim=adamw_torch", "data.num_train=16", "data.num_evaluation=4",
]  # fmt: skip


def test_checkpoints_within_a_second_are_no_news(toy_base, tmp_path):
    """From a trial: `[transformers] mtime may not be reliable on this filesystem` on every run."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.warning_once.cache_clear()  # what was logged before is not logged again
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    source = logging.getLogger("transformers.trainer_utils")
    filters = list(source.filters)
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        values = {"base.name": str(toy_base), "output_dir": str(tmp_path / "run")}
        train(load_config("tiny", overrides=FEW, values=values))
        assert not [line for line in lines if "mtime" in line]
        assert source.filters == filters
        source.warning("another line")
        assert lines[-1] == "another line"
    finally:
        logger.removeHandler(handler)
