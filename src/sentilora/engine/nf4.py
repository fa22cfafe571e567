"""The frozen weights in the dtype of the pass: decoded once and kept, or decoded at each use.

NF4 (Dettmers et al. 2023, section 3): a weight is one of 16 numbers times the largest magnitude of
its block of 64. Double quantization stores those magnitudes in 8 bits, again in blocks. A kept
weight and one decoded at each use are the same bits.

Axes: N outputs of a group's layers, one below the other; D inputs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from sentilora.engine import nf4_kernels
from sentilora.engine.fp8 import Fp8Weight, quantize_weight
from sentilora.engine.peft_layers import base_linear, merged_adapters

PART_ELEMENTS = 64 * 2**20  # of a group's weights: up to this many are decoded in one part


class FrozenLinears:
    """Linear layers (PEFT's or plain ones) with a common input; their weights are stacked.

    names: of the modules below `layer`. PEFT replaces modules when an adapter is attached or
    removed, so `look_up` reads them again.
    """

    def __init__(self, layer: torch.nn.Module, names: Sequence[str]) -> None:
        self._layer = layer
        self._names = list(names)
        self.look_up()
        sizes = [linear.out_features for linear in self.linears]
        ends = np.cumsum(sizes).tolist()
        self.outputs = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self.num_in: int = self.linears[0].in_features
        self.num_out: int = ends[-1]

    def current_modules(self) -> list[torch.nn.Module]:
        """The modules that the layer has under these names now."""
        return [self._layer.get_submodule(name) for name in self._names]

    def look_up(self) -> None:
        """Take the layer's current modules."""
        self.modules = self.current_modules()
        self.linears = [base_linear(module) for module in self.modules]


class Weights:
    """Decoded weights of groups, each with some free columns after its own.

    Groups passed to `keep` are decoded once; the others share one buffer.
    """

    def __init__(self) -> None:
        self._cache: dict[FrozenLinears, tuple[Source, torch.Tensor]] = {}
        self._keep: set[FrozenLinears] = set()
        self._buffer: torch.Tensor | None = None
        self._cache_fp8: dict[FrozenLinears, tuple[Source, Fp8Weight]] = {}
        self._use_fp8 = False

    @property
    def use_fp8(self) -> bool:
        """Whether the weights that are kept are in 8 bits."""
        return self._use_fp8

    def switch_fp8(self, on: bool) -> None:
        """Keep weights in 8 bits from here on, or no longer."""
        self._use_fp8 = on

    def is_fp8(self, frozen: FrozenLinears) -> bool:
        """Whether this group's products may be in 8 bits: 8 bits are on, and it is kept."""
        return self._use_fp8 and frozen in self._keep

    def fp8_of(self, frozen: FrozenLinears, num_ranks: int, dtype: torch.dtype) -> Fp8Weight:
        """The weight of a group that `is_fp8`, with columns for `num_ranks` ranks of adapters."""
        source = _weights_of(frozen)
        entry = self._cache_fp8.get(frozen)
        fits = entry is not None and num_ranks in (0, entry[1].num_ranks)
        if entry is None or entry[0] != source or not fits:
            weight_ND = self._from_buffer(frozen, (frozen.num_out, frozen.num_in), dtype)
            _decode_all(frozen, weight_ND)
            with torch.inference_mode(False):  # training may write to it later
                weight = quantize_weight(weight_ND, num_ranks)
            entry = self._cache_fp8[frozen] = source, weight
        return entry[1]

    def keep(self, frozen: FrozenLinears) -> None:
        """Decode this group once, at its first use."""
        self._keep.add(frozen)

    def forget(self) -> None:
        """Free all memory; no group is kept any more."""
        self._cache.clear()
        self._cache_fp8.clear()
        self._keep.clear()
        self._buffer = None

    def parts_of(
        self, frozen: FrozenLinears, dtype: torch.dtype, room: int
    ) -> Iterator[tuple[slice, torch.Tensor, bool]]:
        """Outputs n of the group, their (n, D + room), and whether it was decoded just now.

        Use each part before the next is requested. A kept or small group is one part; otherwise
        every layer is one, so that the buffer need not be larger than a layer.
        """
        source = _weights_of(frozen)
        entry = self._cache.get(frozen)
        whole = slice(0, frozen.num_out)
        shape = frozen.num_out, frozen.num_in + room
        if entry is not None and (entry[0], entry[1].dtype, entry[1].shape) == (
            source,
            dtype,
            shape,
        ):
            yield whole, entry[1], False
        elif not room and len(frozen.linears) == 1 and not _is_4bit(frozen.linears[0]):
            yield whole, frozen.linears[0].weight.to(dtype), True
        elif frozen in self._keep or shape[0] * shape[1] <= PART_ELEMENTS:
            if frozen in self._keep:
                weight_ND = _empty(shape, dtype, frozen.linears[0].weight.device)
                self._cache[frozen] = (source, weight_ND)
            else:
                weight_ND = self._from_buffer(frozen, shape, dtype)
            _decode_all(frozen, weight_ND)
            yield whole, weight_ND, True
        else:
            for linear, outputs in zip(frozen.linears, frozen.outputs, strict=True):
                weight_ND = self._from_buffer(frozen, (linear.out_features, shape[1]), dtype)
                decode(linear, weight_ND[:, : frozen.num_in])
                yield outputs, weight_ND, True

    def _from_buffer(
        self, frozen: FrozenLinears, shape: tuple[int, int], dtype: torch.dtype
    ) -> torch.Tensor:
        size = shape[0] * shape[1]
        if self._buffer is None or self._buffer.numel() < size or self._buffer.dtype != dtype:
            self._buffer = None  # free it before the larger one is allocated
            self._buffer = _empty((size,), dtype, frozen.linears[0].weight.device)
        return self._buffer[:size].view(shape)


def largest_part(width: int, outputs: Sequence[int]) -> int:
    """Elements of the largest part that `Weights.parts_of` decodes of a group that is not kept.

    width: inputs and room. outputs: of each of the group's layers.
    """
    num_rows = sum(outputs)
    if num_rows * width > PART_ELEMENTS:
        num_rows = max(outputs)
    return num_rows * width


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An ordinary tensor, also within `torch.inference_mode`: training may write to it later."""
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=dtype, device=device)


class Source:
    """Tensors of a group's layers at this moment; equal to a later one if nothing has changed.

    Merging an adapter replaces a 4-bit weight (the old one is kept alive here: another could be
    allocated at its address), and writes into other weights without raising their version.
    """

    def __init__(
        self, tensors: Sequence[torch.Tensor | None], modules: Sequence[torch.nn.Module]
    ) -> None:
        self._tensors = list(tensors)
        # `.data = …`, which is how a module changes its dtype, does not raise the version either.
        self._states = [
            (t.data_ptr(), t.dtype, None if t.is_inference() else t._version)
            for t in tensors
            if t is not None
        ]
        # A layer that PEFT has unwrapped (None) may have been merged before.
        self._merged = [merged_adapters(module) for module in modules]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Source)
            and all(a is b for a, b in zip(self._tensors, other._tensors, strict=True))
            and self._states == other._states
            and self._merged == other._merged
        )


def _weights_of(frozen: FrozenLinears) -> Source:
    return Source([linear.weight for linear in frozen.linears], frozen.modules)


def _is_4bit(linear: torch.nn.Linear) -> bool:
    return getattr(linear.weight, "quant_state", None) is not None


def _decode_all(frozen: FrozenLinears, out_ND: torch.Tensor) -> None:
    for linear, outputs in zip(frozen.linears, frozen.outputs, strict=True):
        decode(linear, out_ND[outputs, : frozen.num_in])


def decode(linear: torch.nn.Linear, out_ND: torch.Tensor) -> None:
    """Write a layer's weight into `out_ND`, in its dtype; its rows may be apart."""
    state: Any = getattr(linear.weight, "quant_state", None)
    if state is None:
        out_ND.copy_(linear.weight.detach())
    elif nf4_kernels.fits(linear, state):
        nf4_kernels.decode(linear, state, out_ND)
    else:
        from bitsandbytes.functional import dequantize_4bit

        out_ND.copy_(dequantize_4bit(linear.weight.data, state))
