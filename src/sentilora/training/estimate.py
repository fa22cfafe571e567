"""Memory and time of a training run, estimated before weights are loaded.

    run = Run(lengths=[318, 512], num_steps=375, rows_per_step=16, optim="paged_adamw_8bit", …)
    memory = training_memory(model, run)        model: with its adapter, on torch's meta device
    memory.fault                                the error that training would raise, or None
    training_time(model, run).seconds

Memory under the fast engine is planned by the function that training plans with, so a check never
promises what training refuses.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from sentilora.errors import UsageError
from sentilora.models.device import place_of_process
from sentilora.training.fast_steps import too_long
from sentilora.wording import counted

if TYPE_CHECKING:
    import torch

    from sentilora.engine.memory import PlainMemory, Refusal, TrainingPlan
    from sentilora.engine.sizes import ModelShape

GIB = 2**30
# Share of the rate of a large matrix product that a step reaches, and what a layer adds to each
# pass without the fast engine (kernel launches); measured, see docs/results.md.
EFFICIENCY = {"cpu": 0.33, "cuda": 0.6}
LAYER_SECONDS = {"cpu": 0.0, "cuda": 0.025}


@dataclass(frozen=True)
class Run:
    """A training run in plain numbers.

    lengths: tokens of each training example. rows_per_step, rows_per_pass: examples of an optimizer
    step and of a padded pass, in each process. optim: the optimizer's name in transformers.
    device: "cuda" or "cpu". dtype: to compute in. nf4: whether the base's linear layers are in NF4;
    double_quantization: whether their scales are quantized too. checkpointing: whether the plain
    path computes activations twice. max_memory_gib: the limit for the fast engine, 0 for none.
    """

    lengths: Sequence[int]
    num_steps: int
    rows_per_step: int
    rows_per_pass: int
    optim: str
    device: str
    dtype: "torch.dtype"
    nf4: bool
    double_quantization: bool
    checkpointing: bool
    is_fast: bool
    max_memory_gib: float = 0.0


# --- memory --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FastMemory:
    """Memory of a run under the fast engine, on a GPU.

    weights: bytes of the base. trained: bytes of the adapter, its gradients and the optimizer's
    states. plan: how the run uses the rest, or why it does not fit.
    """

    weights: int
    trained: int
    plan: "TrainingPlan | Refusal"

    @property
    def fault(self) -> UsageError | None:
        """The error that training would raise; None if the run fits."""
        from sentilora.engine.memory import Refusal

        plan = self.plan
        return too_long(str(plan), plan.longest) if isinstance(plan, Refusal) else None

    def __str__(self) -> str:
        return f"{_fixed(self.weights, self.trained)}; {self.plan}"


@dataclass(frozen=True)
class PaddedMemory:
    """Memory of a run in padded passes of `pass_tokens` tokens, without the fast engine.

    free_bytes: what the run may allocate on the GPU; None on a CPU.
    """

    estimate: "PlainMemory"
    pass_tokens: int
    free_bytes: int | None

    @property
    def fault(self) -> UsageError | None:
        """The error to raise; None if the run fits. On a CPU nothing is refused."""
        if self.free_bytes is None or self.estimate.total <= self.free_bytes:
            return None
        return UsageError(
            str(self),
            setting="training.per_device_train_batch_size",
            remedy="lower training.per_device_train_batch_size (and raise "
            "training.gradient_accumulation_steps by as much) or prompt.max_length",
        )

    def __str__(self) -> str:
        estimate = self.estimate
        free = "" if self.free_bytes is None else f"; {self.free_bytes / GIB:.1f} GiB are free"
        return (
            f"about {estimate.total / GIB:.1f} GiB: {_fixed(estimate.weights, estimate.trained)}, "
            f"activations of {self.pass_tokens:,} tokens {estimate.activations / GIB:.2f}{free}"
        )


def _fixed(weights: int, trained: int) -> str:
    return f"weights {weights / GIB:.2f} GiB, adapter and optimizer {trained / GIB:.2f}"


def training_memory(model: "torch.nn.Module", run: Run) -> FastMemory | PaddedMemory:
    """What the run takes, next to what others use of the GPU now.

    model: with its adapter; torch's meta device is enough.
    """
    from sentilora.engine.structure import shape_of

    if run.device == "cuda":
        _load_cublas(run.dtype)
    shape = shape_of(model)
    if run.is_fast and run.device == "cuda":
        return _fast_memory(shape, run)
    return _padded_memory(shape, run)


def _load_cublas(dtype: "torch.dtype") -> None:
    """Load what is loaded by the time training plans: the CUDA context, cuBLAS, its workspace.

    They use GPU memory, which would otherwise look free.
    """
    import torch

    a = torch.ones(64, 64, device=place_of_process("cuda"), dtype=dtype)
    torch.mm(a, a)


def _fast_memory(shape: "ModelShape", run: Run) -> FastMemory:
    from sentilora.engine.memory import Workload, gpu_memory, plan_before_loading
    from sentilora.engine.sizes import adapter_bytes

    workload = Workload.of(run.lengths, run.rows_per_step, shape.num_trained, run.optim)
    return FastMemory(
        weights=shape.base_bytes(run.dtype.itemsize, run.nf4, run.double_quantization),
        trained=adapter_bytes(shape.num_trained) + workload.state_bytes,
        plan=plan_before_loading(
            gpu_memory(place_of_process(run.device)),
            shape,
            workload,
            element_size=run.dtype.itemsize,
            nf4=run.nf4,
            double_quantization=run.double_quantization,
            max_memory_gib=run.max_memory_gib,
        ),
    )


def _padded_memory(shape: "ModelShape", run: Run) -> PaddedMemory:
    from sentilora.engine.memory import Workload, gpu_memory, plain_memory

    on_gpu = run.device == "cuda"
    pass_tokens = run.rows_per_pass * max(run.lengths)
    return PaddedMemory(
        estimate=plain_memory(
            shape,
            Workload.of(run.lengths, run.rows_per_step, shape.num_trained, run.optim),
            pass_tokens=pass_tokens,
            element_size=run.dtype.itemsize,
            nf4=run.nf4,
            double_quantization=run.double_quantization,
            checkpointing=run.checkpointing and on_gpu,
        ),
        pass_tokens=pass_tokens,
        free_bytes=gpu_memory(place_of_process(run.device)).usable() if on_gpu else None,
    )


# --- time ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingTime:
    """Seconds of `num_steps` steps without evaluations, from their FLOP and this device's rate."""

    num_steps: int
    seconds: float
    flop: float
    flop_per_second: float

    @property
    def _duration(self) -> str:
        minutes = round(self.seconds / 60)
        return f"about {minutes:,} min" if minutes else "less than a minute"

    def __str__(self) -> str:
        return (
            f"{counted(self.num_steps, 'step')} take {self._duration}, without "
            f"evaluations ({self.flop:.2g} FLOP; a matrix product here reaches "
            f"{self.flop_per_second / 1e12:.2f} TFLOP/s)"
        )


def training_time(model: "torch.nn.Module", run: Run) -> TrainingTime:
    """An estimate from the run's arithmetic and a matrix product timed now."""
    from sentilora.engine.structure import shape_of

    shape, device = shape_of(model), run.device
    # 2 FLOP per weight for the forward pass, 2 for the backward pass (frozen weights have no
    # gradient), 2 for the second forward pass with checkpointing.
    checkpointing = run.checkpointing and device == "cuda" and not run.is_fast
    num_weights = sum(shape.linear_weights) + shape.num_trained
    num_tokens = mean(run.lengths) * run.rows_per_step * run.num_steps
    flop = (6 if checkpointing else 4) * num_weights * num_tokens
    rate = _matmul_rate(device, run.dtype)
    seconds = flop / (rate * EFFICIENCY[device])
    if not run.is_fast:
        num_passes = run.num_steps * run.rows_per_step / run.rows_per_pass
        seconds += num_passes * shape.num_layers * LAYER_SECONDS[device]
    return TrainingTime(run.num_steps, seconds, flop, rate)


def _matmul_rate(device: str, dtype: "torch.dtype") -> float:
    """FLOP/s of a matrix product of the size of a layer."""
    import torch

    size = 4096 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for repeats in (2, 10):  # the first two warm up
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return 2 * size**3 * repeats / seconds
