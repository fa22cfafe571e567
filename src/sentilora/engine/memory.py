"""How a run fits into memory: the one model of it, for `train` and for a check before loading.

    a layer keeps, per token:   its input, q, k, v, attention's output, the MLP's input, gate, up
    … or, computed twice:       its input alone
    the weights of a layer:     decoded once and kept, or decoded at each use into one buffer

`plan_memory` weighs all combinations (a few hundred) and takes the cheapest that fits. Everything
is computed from plain numbers, so the plan can be made with the weights on the GPU or without them:

    shape = structure.shape_of(model)          also on torch's meta device; with LoRA attached
    workload = Workload.of(lengths, rows_per_step, shape.num_trained, "paged_adamw_8bit")

    plan_before_loading(gpu_memory(device), shape, workload, …)     before weights are loaded
    engine.plan(workload, max_memory_gib)                           after; makes the same plan

The first returns a `TrainingPlan`, or a `Refusal` with its figures; `str()` of either is a text.
For a model without fast layers, `plain_memory` estimates what padded passes take.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch

from sentilora.engine.kernels import HAS_TRITON
from sentilora.engine.sizes import LayerSizes, ModelShape, adapter_bytes, layer_sizes

GIB = 2**30
# What a pass costs besides its tokens, in tokens' worth of forward and backward work (H100 and
# Mistral-7B: 43 µs a token; 7.5 ms to decode every weight once; a few ms for each pass as such).
DECODE_TOKENS = 170
PASS_TOKENS = 100
# Recomputing a layer's forward pass except for the down projection: three eighths of its work.
RECOMPUTE = 0.37
LARGE_STEP = 1.25  # times the average step's tokens: steps up to this size fit as planned
SCORE_TOKENS = 16384  # of a pass that only scores, on a GPU; see docs/results.md
LEAST_SCORE_TOKENS = 2048  # tried in any case
TREE_BYTES = 2**17  # a token with trees: Mistral-7B's; a small model's logits exceed its layers
LEAST_TREE_TOKENS = 64  # tried in any case


# --- the GPU -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GpuMemory:
    """A GPU's memory in bytes: total, free, and what this process has reserved and allocated.

    fraction: of the total, the share that this process may allocate.
    """

    total: int
    free: int
    reserved: int = 0
    allocated: int = 0
    fraction: float = 1.0

    def with_allocated(self, num_bytes: int) -> "GpuMemory":
        """The same GPU after this process has allocated `num_bytes` more."""
        return replace(self, allocated=self.allocated + num_bytes)

    def usable(self, max_memory_gib: float = 0.0) -> int:
        """Bytes that this process may still allocate, under every limit set for it.

        max_memory_gib: the limit for all its allocations, 0 for none.
        """
        limit = self.total * self.fraction
        if max_memory_gib:
            limit = min(limit, max_memory_gib * GIB)
        free = self.free + self.reserved - self.allocated
        # 3 % and 100 MiB for what is not counted: fragments, library workspaces.
        return int(0.97 * min(free, limit - self.allocated)) - 100 * 2**20


def gpu_memory(device: torch.device | str) -> GpuMemory:
    """The memory of a GPU now."""
    free, total = torch.cuda.mem_get_info(device)
    return GpuMemory(
        total=total,
        free=free,
        reserved=torch.cuda.memory_reserved(device),
        allocated=torch.cuda.memory_allocated(device),
        fraction=torch.cuda.get_per_process_memory_fraction(device),
    )


# --- plans ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Workload:
    """What a run trains, in plain numbers.

    step_tokens: of an average optimizer step in one process. longest: tokens of the longest row.
    num_trained: parameters of the adapter. optim: the optimizer's name in transformers.
    """

    step_tokens: float
    longest: int
    num_trained: int
    optim: str

    @classmethod
    def of(
        cls, lengths: Sequence[int], rows_per_step: int, num_trained: int, optim: str
    ) -> "Workload":
        """The workload of rows of these lengths (tokens)."""
        step_tokens = sum(lengths) / len(lengths) * rows_per_step
        return cls(step_tokens, max(lengths), num_trained, optim)

    @property
    def state_bytes(self) -> int:
        """Bytes of the optimizer's two moments: 8 bits each, or 32."""
        return (2 if "8bit" in self.optim else 8) * self.num_trained

    @property
    def pages_states(self) -> bool:
        """Whether the optimizer can move its states to the host."""
        return self.optim.startswith("paged")


@dataclass(frozen=True)
class MemoryPlan:
    """max_tokens of a pass; the first `checkpoint_layers` are computed twice, the last
    `keep_layers` keep their weights decoded. pass_bytes: what such a pass takes besides them."""

    max_tokens: int
    checkpoint_layers: int
    keep_layers: int
    pass_bytes: int


def plan_memory(
    free_bytes: int, step_tokens: int, longest: int, num_layers: int, sizes: LayerSizes
) -> MemoryPlan | None:
    """The cheapest plan for steps of up to `step_tokens` tokens, None if no row fits.

    longest: tokens of the longest row; no pass can be shorter.
    """
    best: tuple[float, MemoryPlan] | None = None
    # Up to 32 passes, and the number that leaves each the longest row's length.
    for num_passes in (*range(1, 33), max(1, ceil(step_tokens * 1.08 / (longest * 7 / 8)))):
        # Rows are not split: the fullest pass has somewhat more than its share.
        share = step_tokens / num_passes
        max_tokens = max(longest, int(share if num_passes == 1 else share * 1.08 + longest / 8))
        for checkpointed in range(num_layers + 1):
            used = pass_bytes(max_tokens, checkpointed, num_layers, sizes)
            left = free_bytes - used
            keep = min(num_layers, left // sizes.weights)
            if keep < num_layers:
                keep = (left - sizes.buffer) // sizes.weights
            if keep < 0:
                continue
            again = checkpointed / num_layers
            decodes = (2 + again) * (1 - keep / num_layers)
            cost = step_tokens * (1 + RECOMPUTE * again) + num_passes * (
                decodes * DECODE_TOKENS + PASS_TOKENS
            )
            if best is None or cost < best[0]:
                best = cost, MemoryPlan(max_tokens, checkpointed, keep, used)
    return None if best is None else best[1]


def pass_bytes(num_tokens: int, checkpointed: int, num_layers: int, sizes: LayerSizes) -> int:
    """Bytes of a training pass besides weights, the first `checkpointed` layers computed twice."""
    return num_tokens * (
        (num_layers - checkpointed) * sizes.kept_per_token
        + checkpointed * sizes.input_per_token
        + (sizes.kept_per_token if checkpointed else 0)
        + sizes.work_per_token
    )


@dataclass(frozen=True)
class TrainingPlan:
    """How a run trains and scores on a GPU.

    max_tokens, max_score_tokens: of a pass when training and when scoring. The first
    `checkpoint_layers` are computed twice, the last `keep_layers` keep their weights decoded.
    free_bytes: next to base, adapter and the optimizer's states, except for states that page.
    """

    max_tokens: int
    max_score_tokens: int
    checkpoint_layers: int
    keep_layers: int
    num_layers: int
    free_bytes: int

    def __str__(self) -> str:
        num = self.num_layers
        weights = {0: "decoded at each use", num: "decoded once and kept"}.get(
            self.keep_layers, f"kept decoded in {self.keep_layers} of {num} layers"
        )
        twice = {0: "nothing is computed twice", num: "layers are computed twice"}.get(
            self.checkpoint_layers, f"{self.checkpoint_layers} of {num} layers are computed twice"
        )
        return (
            f"{self.free_bytes / GIB:.1f} GiB free: passes of up to {self.max_tokens:,} tokens, "
            f"weights {weights}, {twice}"
        )


@dataclass(frozen=True)
class Refusal:
    """Why a run does not fit: one row of `longest` tokens takes `least_bytes`, more than are free.

    free_bytes: as in `TrainingPlan`.
    """

    longest: int
    least_bytes: int
    free_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.free_bytes / GIB:.1f} GiB of GPU memory are free after base and adapter: too "
            f"little for one text of {self.longest} tokens"
        )


def plan_training(
    free_bytes: int, sizes: LayerSizes, num_layers: int, workload: Workload
) -> TrainingPlan | Refusal:
    """The plan for a run with `free_bytes` of usable memory next to base and adapter.

    States that page go to the host only if the GPU has no room to keep any decoded weights.
    """
    states = workload.state_bytes
    if not workload.pages_states:
        return _plan_training(free_bytes - states, sizes, num_layers, workload)
    plan = _plan_training(free_bytes, sizes, num_layers, workload)
    if isinstance(plan, TrainingPlan) and plan.keep_layers:
        with_states = _plan_training(free_bytes - states, sizes, num_layers, workload)
        return plan if isinstance(with_states, Refusal) else with_states
    return plan


def _plan_training(
    free_bytes: int, sizes: LayerSizes, num_layers: int, workload: Workload
) -> TrainingPlan | Refusal:
    longest = workload.longest
    large_step = int(LARGE_STEP * workload.step_tokens)
    memory = plan_memory(free_bytes, large_step, longest, num_layers, sizes)
    if memory is None:
        return Refusal(longest, least_bytes(longest, num_layers, sizes), free_bytes)
    left = free_bytes - memory.keep_layers * sizes.weights - sizes.buffer
    # Captured passes hold on to their memory: scoring between them has what they leave.
    ample = left - memory.pass_bytes >= SCORE_TOKENS * sizes.score_per_token
    most = SCORE_TOKENS if ample else SCORE_TOKENS // 2
    return TrainingPlan(
        max_tokens=memory.max_tokens,
        max_score_tokens=min(most, max(longest, left // sizes.score_per_token)),
        checkpoint_layers=memory.checkpoint_layers,
        keep_layers=memory.keep_layers,
        num_layers=num_layers,
        free_bytes=free_bytes,
    )


def least_bytes(longest: int, num_layers: int, sizes: LayerSizes) -> int:
    """Bytes without which not even one row of `longest` tokens can be trained on."""
    weights = min(sizes.buffer, num_layers * sizes.weights)
    checkpointed = range(num_layers + 1)
    return weights + min(pass_bytes(longest, num, num_layers, sizes) for num in checkpointed)


def plan_before_loading(
    memory: GpuMemory,
    shape: ModelShape,
    workload: Workload,
    *,
    element_size: int,
    nf4: bool,
    double_quantization: bool,
    max_memory_gib: float = 0.0,
    has_kernels: bool = HAS_TRITON,
) -> TrainingPlan | Refusal:
    """What `Engine.plan` will decide once base and adapter are on the GPU.

    memory: of the GPU now, without them. shape: with its adapter, and with groups. element_size: of
    the compute dtype. max_memory_gib: as in `GpuMemory.usable`.
    """
    base = shape.base_bytes(element_size, nf4, double_quantization)
    loaded = memory.with_allocated(base + adapter_bytes(workload.num_trained))
    sizes = layer_sizes(shape.groups, element_size, has_kernels)
    return plan_training(loaded.usable(max_memory_gib), sizes, shape.num_layers, workload)


@dataclass(frozen=True)
class ScoringPlan:
    """max_score_tokens of a pass; the last `keep_layers` keep their weights decoded."""

    max_score_tokens: int
    keep_layers: int


def plan_scoring(free_bytes: int, sizes: LayerSizes, num_layers: int) -> ScoringPlan:
    """The plan for scoring alone with `free_bytes` of usable GPU memory."""
    room = free_bytes - sizes.buffer
    fits = max(0, room) // sizes.score_per_token
    max_score_tokens = min(SCORE_TOKENS, max(LEAST_SCORE_TOKENS, fits))
    room -= max_score_tokens * sizes.score_per_token
    return ScoringPlan(max_score_tokens, min(num_layers, max(0, room) // sizes.weights))


@dataclass(frozen=True)
class TreeRoom:
    """How much fits into `total` bytes when labels are read level by level.

    Bytes per token: `work` in a pass, `kept` in all layers from then on, `logits` of a tree token,
    `key` for each key that a layer copies. most: tree tokens of a pass; larger ones are not faster.
    """

    total: int
    work: int
    kept: int
    logits: int
    key: int
    most: int

    @property
    def text_tokens(self) -> int:
        """Tokens kept of the texts read at once and of their trees; passes have the other half."""
        return self.total // (2 * max(self.work, self.kept))

    def tree_tokens(self, num_kept: int, longest: int) -> int:
        """Tree tokens of a pass after `num_kept` tokens; one sees up to `longest` tokens."""
        each = self.work + self.kept + self.logits + longest * self.key
        room = (self.total - num_kept * self.kept) // each
        return max(LEAST_TREE_TOKENS, min(self.most, room))


def plan_trees(
    max_score_tokens: int,
    free_bytes: int | None,
    sizes: LayerSizes,
    num_layers: int,
    vocabulary: int,
    element_size: int,
    copies_keys: bool,
    most: int,
) -> TreeRoom:
    """The room for label trees: the memory planned for a scoring pass, for a small model more.

    free_bytes: of the GPU now; more than the plan takes at most half of them. None: no limit.
    """
    total = max_score_tokens * max(sizes.score_per_token, TREE_BYTES)
    if free_bytes is not None:
        total = max(max_score_tokens * sizes.score_per_token, min(total, free_bytes // 2))
    return TreeRoom(
        most=most,
        total=total,
        work=sizes.score_per_token,
        kept=num_layers * sizes.keys_per_token,
        logits=vocabulary * (element_size + 8),  # as they are, in float32, and their exponentials
        key=2 * sizes.keys_per_token if copies_keys else 0,
    )


# --- the plain path ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlainMemory:
    """Bytes of training without the engine. trained: the adapter's weights, gradients, states."""

    weights: int
    trained: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.trained + self.activations


def plain_memory(
    shape: ModelShape,
    workload: Workload,
    *,
    pass_tokens: int,
    element_size: int,
    nf4: bool,
    double_quantization: bool,
    checkpointing: bool,
) -> PlainMemory:
    """An estimate for padded passes of `pass_tokens` tokens (rows times the longest row)."""
    layer = (8 * shape.hidden + 4 * shape.intermediate) * element_size * pass_tokens
    activations = shape.num_layers * layer
    if checkpointing:
        activations = shape.num_layers * shape.hidden * element_size * pass_tokens + layer
    return PlainMemory(
        weights=shape.base_bytes(element_size, nf4, double_quantization),
        trained=adapter_bytes(workload.num_trained) + workload.state_bytes,
        activations=activations,
    )
