"""Training steps under the fast engine: captured passes and an optimizer in one launch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sentilora.config import Config
from sentilora.errors import SentiloraError
from sentilora.stages.from_config import rows_per_step

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import TrainingArguments

    from sentilora.engine.graph import FlatParameters
    from sentilora.engine.swap import Engine
    from sentilora.prompt import Example


def plan_engine(
    engine: "Engine", config: Config, examples: "Sequence[Example]", model: "PeftModel"
) -> str:
    """How the engine runs this recipe's steps; the text says what was chosen."""
    engine.refresh()
    lengths = [len(example.input_ids) for example in examples]
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    usual = sum(lengths) / len(lengths) * rows_per_step(config)
    optim, limit = config.training.optim, config.engine.max_memory_gib
    states = (2 if "8bit" in optim else 8) * num_trained
    paged = optim.startswith("paged")
    large_step = int(1.25 * usual)
    try:
        chosen = engine.plan(large_step, max(lengths), limit, 0 if paged else states)
        if paged and engine.keep_layers:  # there is room for them on the GPU
            chosen = engine.plan(large_step, max(lengths), limit, states)
    except MemoryError as error:
        raise SentiloraError(f"{error}; lower prompt.max_length, or take a smaller base") from error
    return f"fast engine, {chosen}"


def one_launch_optimizer(
    flat: "FlatParameters", arguments: "TrainingArguments", paged: bool
) -> "torch.optim.Optimizer | None":
    """The recipe's optimizer over all adapter matrices as one tensor, None where that would differ.

    AdamW treats every element alike; bitsandbytes' 8-bit states come in blocks of 256, and tensors
    below 4,096 elements keep 32 bits. paged: whether a paged optimizer's states may go to the host,
    for want of room on the GPU.
    """
    from transformers import Trainer

    kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
    if "is_paged" in settings:
        settings["is_paged"] &= paged
    is_8bit = settings.get("optim_bits") == 8
    if "adamw" not in arguments.optim or (is_8bit and not flat.is_like_separate(256, 4096)):
        return None
    group = {"params": [flat.whole], "weight_decay": arguments.weight_decay}
    return kind([group], **settings)
