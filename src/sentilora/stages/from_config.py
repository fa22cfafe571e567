"""What the verbs take from a configuration. It stops here: below stand plain arguments."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sentilora.data.rows import Columns, Rows
from sentilora.data.splits import load_splits, load_test
from sentilora.errors import UsageError
from sentilora.models.bases import Base, load_base
from sentilora.progress import num_processes
from sentilora.prompt import PromptFormat
from sentilora.shipped import EMBEDDED

if TYPE_CHECKING:
    from sentilora.config import Config


def prompt_format_of(config: "Config") -> PromptFormat:
    """The prompt format of a configuration."""
    return PromptFormat(**config.prompt.model_dump())


def columns_of(config: "Config", labels: Sequence[str]) -> Columns:
    """Columns and label map of a configuration, for the labels of a prompt."""
    data = config.data
    return Columns(data.text_column, data.label_column, data.label_map, tuple(labels))


def load_rows_of(config: "Config") -> tuple[Rows, Rows]:
    """Training and evaluation rows of a configuration."""
    data = config.data
    return load_splits(
        train=data.train,
        evaluation=data.evaluation,
        test=data.test,
        columns=columns_of(config, config.prompt.labels),
        num_train=data.num_train,
        num_train_subset=data.num_train_subset,
        num_evaluation=data.num_evaluation,
        seed=data.shuffle_seed,
        balance=data.balance,
    )


def load_test_of(config: "Config", labels: Sequence[str]) -> Rows:
    """The test rows of a configuration, for the labels of an adapter, which may be others."""
    data = config.data
    return load_test(data.test, columns_of(config, labels), data.num_test, data.shuffle_seed)


def others_test(config: "Config") -> str | None:
    """What to say when one's own rows are trained on, and the reviews that ship are to test."""
    if config.data.train == EMBEDDED or config.data.test != EMBEDDED:
        return None
    return "data.test still names the reviews that ship; evaluate will measure on those"


def load_base_of(config: "Config") -> Base:
    """The base of a configuration, loaded."""
    base = config.base
    return load_base(
        base.name,
        revision=base.revision,
        device=base.device,
        quantization=base.quantization,
        double_quantization=base.double_quantization,
        compute_dtype=base.compute_dtype,
        attn_implementation=base.attn_implementation,
        assume_capability=config.engine.assume_capability,
        cache_quantized=base.cache_quantized,
    )


def rows_per_step(config: "Config") -> int:
    """Examples of an optimizer step in each process."""
    recipe = config.training
    return recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps


def count_steps(config: "Config", num_rows: int) -> int:
    """Optimizer steps of a whole run over `num_rows` training rows."""
    recipe = config.training
    steps_per_epoch = math.ceil(num_rows / (rows_per_step(config) * num_processes()))
    return recipe.max_steps or math.ceil(steps_per_epoch * recipe.num_train_epochs)


def check_steps(config: "Config") -> None:
    """Raise `UsageError` unless checkpoints fall on evaluations: the best could not be kept."""
    training = config.training
    if training.save_steps % training.eval_steps:
        raise UsageError(
            f"training.save_steps={training.save_steps} is no multiple of "
            f"training.eval_steps={training.eval_steps}; the best checkpoint could not be "
            "kept. Make it one"
        )
