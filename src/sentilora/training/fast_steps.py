"""Training steps under the fast engine: planned passes, captured on a GPU, and their optimizer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sentilora.errors import SentiloraError
from sentilora.progress import say

if TYPE_CHECKING:
    import torch
    from transformers import TrainingArguments

    from sentilora.engine.graph import FlatParameters, Graphs
    from sentilora.engine.swap import Engine


def prepare_fast_steps(
    model: "torch.nn.Module",
    engine: "Engine",
    lengths: Sequence[int],
    rows_per_step: int,
    max_memory_gib: float,
    arguments: "TrainingArguments",
) -> "tuple[Graphs | None, torch.optim.Optimizer | None]":
    """Plan the steps and say what was chosen; captured passes and the optimizer for a GPU.

    lengths: tokens of each training example. Without a GPU, or where one optimizer over all
    matrices would differ from the recipe's, the respective part is None. Raises `SentiloraError`
    when not one example fits into memory.
    """
    from sentilora.engine.graph import FlatParameters, Graphs

    graphs = optimizer = None
    if engine.device.type == "cuda":
        flat = FlatParameters([p for p in model.parameters() if p.requires_grad])
        model.zero_grad = flat.zero_grad  # type: ignore[method-assign]
        graphs = Graphs(flat, engine.refresh)
    optim = str(arguments.optim)
    say(f"fast engine, {plan_engine(engine, lengths, rows_per_step, optim, max_memory_gib, model)}")
    if graphs is not None:
        optimizer = one_launch_optimizer(graphs.flat, arguments, paged=not engine.keep_layers)
    return graphs, optimizer


def plan_engine(
    engine: "Engine",
    lengths: Sequence[int],
    rows_per_step: int,
    optim: str,
    max_memory_gib: float,
    model: "torch.nn.Module",
) -> str:
    """How the engine runs this recipe's steps; the text says what was chosen."""
    engine.refresh()
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    usual = sum(lengths) / len(lengths) * rows_per_step
    states = (2 if "8bit" in optim else 8) * num_trained
    paged = optim.startswith("paged")
    large_step = int(1.25 * usual)
    try:
        chosen = engine.plan(large_step, max(lengths), max_memory_gib, 0 if paged else states)
        if paged and engine.keep_layers:  # there is room for them on the GPU
            chosen = engine.plan(large_step, max(lengths), max_memory_gib, states)
    except MemoryError as error:
        raise SentiloraError(
            str(error),
            setting="prompt.max_length",
            seen=max(lengths),
            remedy="lower prompt.max_length, or take a smaller base",
        ) from error
    return chosen


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
