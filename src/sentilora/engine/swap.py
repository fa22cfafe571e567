"""Put fast layers into one loaded model, plan their passes, and take them out again.

    engine = install(model)          # None for a model of another kind; the reason is logged
    packed_logits(model, packed)
    engine.remove()

Modules keep their names and their parameters: a layer's class is replaced by a subclass of it,
nothing else. That a fast layer gives the numbers of the layer's own forward is tried once.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from sentilora.engine import fp8
from sentilora.engine.attention import choose_attention, tiled
from sentilora.engine.groups import ProjectionGroup
from sentilora.engine.kernels import use_triton
from sentilora.engine.layer import FastLayer, Parts
from sentilora.engine.memory import (
    SCORE_TOKENS,
    Refusal,
    TreeRoom,
    Workload,
    gpu_memory,
    plan_scoring,
    plan_training,
    plan_trees,
)
from sentilora.engine.nf4 import Weights
from sentilora.engine.segments import Pass
from sentilora.engine.sizes import LayerSizes, layer_sizes
from sentilora.engine.structure import (
    find_layers,
    find_rotary,
    group_names,
    group_shapes,
    why_not,
    window_of,
)
from sentilora.engine.trial import try_layers

logger = logging.getLogger(__name__)

CPU_TOKENS = 2048  # of a pass; see docs/results.md
CPU_TREE_TOKENS = 256  # of a pass over label trees: 512 take as long, 1,024 a tenth longer
CPU_WEIGHTS_BYTES = 2 * 2**30  # of decoded weights


class Engine:
    """The fast layers of one model, and how large their passes are."""

    def __init__(self, model: torch.nn.Module, layers: Sequence[Any], capability: float) -> None:
        self.device = next(model.parameters()).device
        self.layers = list(layers)
        self.weights = Weights()
        self._max_tokens = CPU_TOKENS
        self._max_score_tokens = SCORE_TOKENS if self.device.type == "cuda" else CPU_TOKENS
        self._checkpoint_layers = 0
        self._keep_layers = 0
        self._planned = False
        self._classes = [type(layer) for layer in self.layers]
        for number, layer in enumerate(self.layers):
            self._swap(number, layer, capability)

    def _swap(self, number: int, layer: Any, capability: float) -> None:
        groups = {
            group: ProjectionGroup(layer, names, 5 * number + i, self.weights)
            for i, (group, names) in enumerate(group_names(number, len(self.layers)).items())
        }
        attention, norm = layer.self_attn, layer.input_layernorm
        fast = Parts(
            number=number,
            is_last=number == len(self.layers) - 1,
            groups=groups,
            attend=choose_attention(self.device, norm.weight.dtype, capability, attention.head_dim),
            head_dim=attention.head_dim,
            scaling=attention.scaling,
            window=window_of(layer),
            eps=norm.variance_epsilon,
            norms_heads=hasattr(attention, "q_norm"),
        )
        kind = type(layer)
        layer.__class__ = type(f"Fast{kind.__name__}", (FastLayer, kind), {"fast": fast})

    @property
    def max_tokens(self) -> int:
        """Tokens of a training pass."""
        return self._max_tokens

    @property
    def max_score_tokens(self) -> int:
        """Tokens of a pass that only scores."""
        return self._max_score_tokens

    @property
    def checkpoint_layers(self) -> int:
        """How many of the first layers are computed twice in training."""
        return self._checkpoint_layers

    @property
    def keep_layers(self) -> int:
        """How many of the last layers keep their weights decoded."""
        return self._keep_layers

    def limit_passes(self, max_tokens: int) -> None:
        """From here on train in passes of up to this many tokens."""
        self._max_tokens = max_tokens

    def limit_scoring(self, max_tokens: int) -> None:
        """From here on score in passes of up to this many tokens."""
        self._max_score_tokens = max_tokens

    def sizes(self) -> LayerSizes:
        """Memory of a layer of the usual kind, with the adapters in use."""
        weight = self.layers[0].input_layernorm.weight
        return layer_sizes(group_shapes(self.layers), weight.element_size(), use_triton(weight))

    def tree_room(self, vocabulary: int, max_memory_gib: float = 0.0) -> TreeRoom:
        """How much fits into a scoring pass when labels are read level by level.

        max_memory_gib: as in `keep_weights`.
        """
        weight = self.layers[0].input_layernorm.weight
        on_gpu = self.device.type == "cuda"
        return plan_trees(
            self.max_score_tokens,
            gpu_memory(self.device).usable(max_memory_gib) if on_gpu else None,
            self.sizes(),
            len(self.layers),
            vocabulary,
            weight.element_size(),
            copies_keys=self.layers[0].fast.attend is not tiled,
            most=SCORE_TOKENS if on_gpu else CPU_TREE_TOKENS,
        )

    def reads_paths(self, longest: int) -> bool:
        """Whether trees below texts enter passes as paths, not as clusters with a mask.

        longest: the most tokens that a token sees, itself included.
        """
        windows = [layer.fast.window for layer in self.layers]
        return self.device.type == "cuda" or any(w is not None and w < longest for w in windows)

    def plan(self, workload: Workload, max_memory_gib: float = 0.0) -> str:
        """Fit a run into the GPU's free memory; returns a sentence on what was chosen, and why.

        Base and adapter with its gradients are on the GPU by then, the optimizer's states are not.
        Raises `MemoryError` if not one row fits.
        """
        if self.device.type != "cuda":
            self.keep_weights()
            return f"passes of up to {self.max_tokens:,} tokens"
        self.weights.forget()  # the trial's buffer
        free = gpu_memory(self.device).usable(max_memory_gib)
        plan = plan_training(free, self.sizes(), len(self.layers), workload)
        if isinstance(plan, Refusal):
            raise MemoryError(str(plan))
        self._max_tokens, self._max_score_tokens = plan.max_tokens, plan.max_score_tokens
        self._checkpoint_layers = plan.checkpoint_layers
        self._keep(plan.keep_layers)
        self._planned = True
        return str(plan)

    def keep_weights(self, max_memory_gib: float = 0.0) -> None:
        """Decode weights once from here on, in as many layers as memory has room for.

        max_memory_gib: GPU memory to plan for; 0 plans for what is free. After a first plan, for
        training or by this method, nothing changes.
        """
        if self._planned:
            return
        sizes, num = self.sizes(), len(self.layers)
        if self.device.type == "cuda":
            plan = plan_scoring(gpu_memory(self.device).usable(max_memory_gib), sizes, num)
            self._max_score_tokens = plan.max_score_tokens
            self._keep(plan.keep_layers)
        else:
            self._keep(min(num, CPU_WEIGHTS_BYTES // sizes.weights))
        self._planned = True  # a second plan would count the kept weights as missing

    def score_in(self, max_score_tokens: int, keep_layers: int) -> None:
        """Score as an earlier process did, whatever memory is free now."""
        self._max_score_tokens = max_score_tokens
        self._keep(keep_layers)
        self._planned = True

    def take_plan(self, other: "Engine") -> None:
        """Run as `other` did, so that the numbers are the same bits."""
        self._max_tokens, self._max_score_tokens = other.max_tokens, other.max_score_tokens
        self._checkpoint_layers = other.checkpoint_layers
        self._keep(other.keep_layers)
        self._planned = True

    def _keep(self, num_layers: int) -> None:
        self._keep_layers = num_layers
        self.weights.forget()
        for layer in self.layers[len(self.layers) - num_layers :]:
            for group in layer.fast.groups.values():
                group.keep()

    def remove(self) -> None:
        """Give every layer its own class back, and free the decoded weights."""
        for layer, kind in zip(self.layers, self._classes, strict=True):
            layer.__class__ = kind
        self.weights.forget()

    def groups(self) -> list[ProjectionGroup]:
        """The groups of every layer."""
        return [group for layer in self.layers for group in layer.fast.groups.values()]

    def refresh(self) -> None:
        """Look at the adapters again: before a step, after a change of mode or of an adapter."""
        for layer in self.layers:
            layer.fast.refresh()

    @property
    def uses_8_bits(self) -> bool:
        """Whether products with kept weights are in 8 bits."""
        return self.weights.use_fp8

    def use_8_bits(self) -> str | None:
        """Compute products with kept weights in 8 bits from here on, or return why not."""
        if any(group.num_in % 16 or group.num_out % 16 for group in self.groups()):
            return "the sides of its weights are no multiples of 16"
        fault = fp8.fault(self.layers[0].input_layernorm.weight)
        self.weights.switch_fp8(fault is None)
        self.refresh()
        return fault

    def products_in_8_bits(self) -> tuple[int, int]:
        """How many of the frozen products are in 8 bits now, and how many there are."""
        groups = self.groups()
        return sum(group.in_8_bits() for group in groups), len(groups)

    def is_usable(self) -> bool:
        """Whether the adapters, as they are now, are plain LoRA in every layer."""
        return all(group.is_plain() for group in self.groups())


def packed_logits(model: torch.nn.Module, packed: Pass) -> torch.Tensor:
    """Logits (A, vocabulary) of a model with fast layers, at the answer rows of a pass."""
    return model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        # A placeholder: without a mask the model would look for packed rows and build one.
        attention_mask=packed.input_ids.new_ones(1, 1, 1, 1),
        use_cache=False,
        packed=packed,
    ).logits[0]


def install(model: torch.nn.Module, capability: float | None = None) -> Engine | None:
    """Fast layers in `model` (with or without PEFT's wrapper), or None and a logged reason.

    capability: the GPU's compute capability as a number (7.5), to run as such a GPU would.
    """
    reason = why_not(model)
    if reason is None:
        layers = find_layers(model)
        engine = Engine(model, layers, _capability(model) if capability is None else capability)
        reason = try_layers(layers, find_rotary(model))
        if reason is None:
            return engine
        engine.remove()
    logger.warning("the fast engine does not fit this model (%s): the plain path runs", reason)
    return None


def _capability(model: torch.nn.Module) -> float:
    """Compute capability of the model's GPU, 0 on a CPU."""
    if not next(model.parameters()).is_cuda:
        return 0.0
    major, minor = torch.cuda.get_device_capability()
    return major + minor / 10
