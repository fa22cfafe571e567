"""Memory and time of a training run, estimated before weights are loaded."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sentilora.config import Config
from sentilora.errors import UsageError
from sentilora.models.device import available_memory
from sentilora.stages.check import Finding
from sentilora.stages.from_config import rows_per_step
from sentilora.wording import counted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


# Bits per weight with its scales, double-quantised or not (QLoRA, section 3).
NF4_BITS = {True: 4.127, False: 4.5}
# Share of the large-matmul rate that the arithmetic of a step reaches, and what a layer costs
# beside it in a pass (kernel launches); measured, see docs/results.md.
EFFICIENCY = {"cpu": 0.33, "cuda": 0.6}
LAYER_SECONDS = {"cpu": 0.0, "cuda": 0.025}


@dataclass(frozen=True)
class Shapes:
    """Sizes of a base. num_quantised: weights of the linear layers without the head."""

    num_parameters: int
    num_quantised: int
    num_layers: int
    hidden: int
    inner: int


def shapes_of(model: "PreTrainedModel") -> Shapes:
    import torch

    config = model.config.get_text_config()
    head = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return Shapes(
        num_parameters=model.num_parameters(),
        num_quantised=sum(module.weight.numel() for module in linear),
        num_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        inner=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
    )


def memory_finding(
    config: Config,
    shapes: Shapes,
    num_trained: int,
    stored: bool,
    device: str,
    dtype: "torch.dtype",
) -> Finding:
    """Memory of training, estimated from the base's shapes."""
    import torch

    base, recipe = config.base, config.training
    nf4 = stored or base.quantization == "nf4"
    bits = NF4_BITS[base.double_quantization] if nf4 else 8 * dtype.itemsize
    plain = shapes.num_parameters - shapes.num_quantised
    weights = shapes.num_quantised * bits / 8 + plain * dtype.itemsize
    # float32 weights and gradients, two 8-bit moments
    trained = num_trained * (4 + 4 + 2)
    if device == "cuda" and config.engine.implementation != "reference":
        return _fast_memory(config, shapes, weights, trained, dtype)
    tokens = recipe.per_device_train_batch_size * config.prompt.max_length
    layer = (8 * shapes.hidden + 4 * shapes.inner) * max(dtype.itemsize, 2) * tokens
    kept = shapes.num_layers * layer
    if recipe.gradient_checkpointing and device == "cuda":
        kept = shapes.num_layers * shapes.hidden * dtype.itemsize * tokens + layer
    gib = 2**30
    text = (
        f"about {(weights + trained + kept) / gib:.1f} GiB: weights {weights / gib:.2f}, adapter "
        f"and optimizer {trained / gib:.2f}, activations of {tokens:,} tokens {kept / gib:.2f}"
    )
    if device == "cuda":
        available = torch.cuda.mem_get_info()[0]
        text += f"; {available / gib:.1f} GiB are free"
        if weights + trained + kept > available:
            text += (
                "; lower training.per_device_train_batch_size (and raise "
                "training.gradient_accumulation_steps by as much) or prompt.max_length"
            )
            return Finding("problem", "memory", text, UsageError.exit_code)
    return Finding("ok", "memory", text)


def _fast_memory(
    config: Config, shapes: Shapes, weights: float, trained: float, dtype: "torch.dtype"
) -> Finding:
    """Memory as the fast engine would plan it: it takes what is free, and needs some least."""
    from sentilora.engine.memory import LayerSizes, plan_memory
    from sentilora.engine.nf4 import PART_ELEMENTS

    hidden, inner, element, gib = shapes.hidden, shapes.inner, dtype.itemsize, 2**30
    sizes = LayerSizes(
        kept_per_token=element * (6 * hidden + 2 * inner),
        input_per_token=element * hidden,
        work_per_token=element * (6 * hidden + inner),
        score_per_token=element * (6 * hidden + 3 * inner),
        weights=element * shapes.num_quantised // shapes.num_layers,
        buffer=element * (1 if 2 * hidden * inner > PART_ELEMENTS else 2) * hidden * inner,
    )
    left = available_memory(config.engine.max_memory_gib) - weights - trained
    longest = config.prompt.max_length
    plan = plan_memory(
        int(left), rows_per_step(config) * longest, longest, shapes.num_layers, sizes
    )
    text = (
        f"weights {weights / gib:.2f} GiB, adapter and optimizer {trained / gib:.2f}; beside them "
        f"{left / gib:.1f} GiB are free"
    )
    if plan is None:
        text += f", too little for one text of {longest} tokens; lower prompt.max_length"
        return Finding("problem", "memory", text, UsageError.exit_code)
    num = shapes.num_layers
    text += (
        f": passes of up to {plan.max_tokens:,} tokens, decoded weights kept in {plan.keep_layers} "
        f"of {num} layers, {plan.checkpoint_layers} computed twice"
    )
    return Finding("ok", "memory", text)


def flop_per_token(config: Config, shapes: Shapes, num_trained: int, device: str) -> float:
    """Arithmetic of training on one token: forward, backward and, checkpointed, forward again."""
    plain = config.engine.implementation == "reference"
    checkpointing = plain and config.training.gradient_checkpointing and device == "cuda"
    return (6 if checkpointing else 4) * (shapes.num_quantised + num_trained)


def time_finding(
    config: Config,
    shapes: Shapes,
    flop_per_row: float,
    num_steps: int,
    device: str,
    dtype: "torch.dtype",
) -> Finding:
    """Time of training, estimated from its arithmetic and a matmul timed here."""
    flop = flop_per_row * rows_per_step(config) * num_steps
    rate = _matmul_rate(device, dtype)
    passes = num_steps * config.training.gradient_accumulation_steps
    plain = config.engine.implementation == "reference"
    overhead = passes * shapes.num_layers * LAYER_SECONDS[device] if plain else 0.0
    seconds = flop / (rate * EFFICIENCY[device]) + overhead
    text = (
        f"{counted(num_steps, 'step')} in the order of {seconds / 60:.0f} min, without evaluations "
        f"({flop:.2g} FLOP, matmul here {rate / 1e12:.2f} TFLOP/s)"
    )
    return Finding("ok", "time", text)


def _matmul_rate(device: str, dtype: "torch.dtype") -> float:
    """FLOP/s of a matrix product of the size of a layer."""
    import torch

    size = 4096 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for repeats in (2, 10):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return 2 * size**3 * repeats / seconds
