"""Training steps under the fast engine: planned passes, captured on a GPU, and their optimizer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sentilora.errors import UsageError
from sentilora.progress import detail

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
    """Plan the steps and report the plan; returns captured passes and the optimizer for a GPU.

    lengths: tokens of each training example. Without a GPU both are None; the optimizer is also
    None where one over all matrices would differ from the recipe's. Raises `UsageError` if the
    longest example does not fit into memory.
    """
    from transformers.training_args import OptimizerNames

    from sentilora.engine.graph import FlatParameters, Graphs

    graphs = optimizer = None
    if engine.device.type == "cuda":
        flat = FlatParameters([p for p in model.parameters() if p.requires_grad])
        model.zero_grad = flat.zero_grad  # type: ignore[method-assign]
        graphs = Graphs(flat, engine.refresh)
    optim = OptimizerNames(arguments.optim).value
    plan = plan_engine(engine, lengths, rows_per_step, optim, max_memory_gib, model)
    detail(f"fast engine, {plan}")
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
    """Plan the engine's passes for these examples; returns the plan as a text.

    `estimate.fast_memory` predicts this plan. Raises `UsageError` if there is none.
    """
    from sentilora.engine.memory import Workload

    engine.refresh()
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    workload = Workload.of(lengths, rows_per_step, num_trained, optim)
    try:
        return engine.plan(workload, max_memory_gib)
    except MemoryError as error:
        raise too_long(str(error), max(lengths)) from error


def too_long(reason: str, longest: int) -> UsageError:
    """The error for a run whose longest example, of `longest` tokens, does not fit into memory."""
    return UsageError(
        reason,
        setting="prompt.max_length",
        seen=longest,
        remedy="lower prompt.max_length, or use a smaller base",
    )


def one_launch_optimizer(
    flat: "FlatParameters", arguments: "TrainingArguments", paged: bool
) -> "torch.optim.Optimizer | None":
    """The recipe's optimizer over all adapter matrices as one tensor, None where that would differ.

    AdamW treats every element alike. bitsandbytes' 8-bit states come in blocks of 256, and tensors
    below 4,096 elements keep 32 bits. paged: whether the states of a paged optimizer may go to the
    host because the GPU has no room for them.
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
