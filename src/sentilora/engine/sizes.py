"""What a model takes in bytes, from plain numbers: its frozen weights, its adapter, a layer's work.

The numbers come from `structure.shape_of` and `structure.group_shapes`; `memory` plans with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from sentilora.engine.kernels import HAS_TRITON
from sentilora.engine.lora_kernels import room_of
from sentilora.engine.nf4 import largest_part


@dataclass(frozen=True)
class GroupShape:
    """Linear layers with a common input. outputs: of each layer. ranks: of the adapters in use."""

    num_in: int
    outputs: tuple[int, ...]
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class ModelShape:
    """A causal LM in plain numbers.

    groups: of a decoder layer of the usual kind, by their names in `structure`; empty where the
    engine does not fit. linear_weights: elements of each frozen linear layer but the head's.
    num_other: frozen parameters that are never quantized (embeddings, head, norms, biases).
    """

    groups: Mapping[str, GroupShape]
    num_layers: int
    hidden: int
    intermediate: int
    linear_weights: tuple[int, ...]
    num_other: int
    num_trained: int

    def base_bytes(self, element_size: int, nf4: bool, double_quantization: bool) -> int:
        """Bytes of the frozen parameters on the device."""
        if not nf4:
            return element_size * (sum(self.linear_weights) + self.num_other)
        linears = sum(nf4_bytes(num, double_quantization) for num in self.linear_weights)
        return linears + element_size * self.num_other


def nf4_bytes(num_elements: int, double_quantization: bool) -> int:
    """Bytes of a weight in bitsandbytes' NF4 with its scales and code tables (QLoRA, section 3)."""
    num_blocks = ceil(num_elements / 64)
    scales = 4 * num_blocks
    if double_quantization:
        scales = num_blocks + 4 * ceil(num_blocks / 256) + 4 * 256 + 4
    return ceil(num_elements / 2) + scales + 4 * 16


def adapter_bytes(num_trained: int) -> int:
    """Bytes of the adapter's weights and gradients, both float32."""
    return 8 * num_trained


@dataclass(frozen=True)
class LayerSizes:
    """Bytes of a decoder layer.

    Per token: what it keeps for its backward pass, what it keeps if it is computed twice, what it
    works with, what it works with when scoring, and its keys and values. weights: all its decoded
    weights. buffer: the largest part that is decoded at each use.
    """

    kept_per_token: int
    input_per_token: int
    work_per_token: int
    score_per_token: int
    keys_per_token: int
    weights: int
    buffer: int


def layer_sizes(
    groups: Mapping[str, GroupShape], element_size: int, has_kernels: bool = HAS_TRITON
) -> LayerSizes:
    """Sizes of a layer with these groups, in a dtype of `element_size` bytes.

    has_kernels: whether the Triton kernels run. With them the adapters' ranks follow the weights.
    """
    num_out = {name: sum(group.outputs) for name, group in groups.items()}
    room = {name: room_of(group.ranks) if has_kernels else 0 for name, group in groups.items()}
    width = {name: group.num_in + room[name] for name, group in groups.items()}
    hidden, gate_up, attended = num_out["o"], num_out["gate_up"], groups["o"].num_in
    qkv = sum(num_out[name] for name in ("qkv", "q", "kv") if name in groups)
    ranks = sum(sum(group.ranks) for group in groups.values())
    # SwiGLU's gradient overwrites its input where the adapter's kernels run.
    work = 0.5 * gate_up + 6 * hidden if all(room.values()) else 3 * gate_up + 4 * hidden
    keys = sum(groups["qkv"].outputs[1:]) if "qkv" in groups else sum(groups["kv"].outputs)
    parts = [largest_part(width[name], group.outputs) for name, group in groups.items()]
    return LayerSizes(
        kept_per_token=element_size * (2 * hidden + qkv + 2 * attended + gate_up + ranks),
        input_per_token=element_size * hidden,
        work_per_token=int(element_size * work),
        score_per_token=int(element_size * (1.5 * gate_up + qkv + 4 * hidden)),
        keys_per_token=element_size * keys,
        weights=element_size * sum(num_out[name] * width[name] for name in groups),
        buffer=element_size * max(parts),
    )
