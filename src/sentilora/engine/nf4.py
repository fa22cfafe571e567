"""The frozen weights in the dtype of the pass: decoded once and kept, or decoded at each use.

NF4 (Dettmers et al. 2023, section 3): a weight is one of 16 numbers, times the largest magnitude of
its block of 64; with double quantisation those magnitudes are stored in 8 bits, again in blocks. A
kept weight and one decoded per use are the same bits.

Axes: N outputs of a group's layers, one below the other; D inputs.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sentilora.engine.fp8 import Fp8Weight, quantize_weight
from sentilora.engine.kernels import INTERPRETED, tl, triton

if TYPE_CHECKING:
    from sentilora.engine.lora import ProjectionGroup

PART_ELEMENTS = 64 * 2**20  # of a group's weights, decoded at each use in one part


class Weights:
    """Decoded weights of groups, `room` columns behind them free.

    Groups named to `keep` are decoded once; the others share one buffer.
    """

    def __init__(self) -> None:
        self._kept: dict[ProjectionGroup, tuple[Source, torch.Tensor]] = {}
        self._keep: set[ProjectionGroup] = set()
        self._buffer: torch.Tensor | None = None
        self._kept_fp8: dict[ProjectionGroup, tuple[Source, Fp8Weight]] = {}
        self.fp8 = False

    def is_fp8(self, group: "ProjectionGroup") -> bool:
        """Whether this group's products may be in 8 bits: if asked for, and it is kept."""
        return self.fp8 and group in self._keep

    def fp8_of(self, group: "ProjectionGroup", dtype: torch.dtype) -> Fp8Weight:
        """The weight of a group that `is_fp8`."""
        source = _weights_of(group)
        kept = self._kept_fp8.get(group)
        fits = kept is not None and group.num_ranks in (0, kept[1].num_ranks)
        if kept is None or kept[0] != source or not fits:
            shape = group.num_out, group.num_in
            weight_ND = self._from_buffer(group, shape, dtype)
            self._decode(group, weight_ND)
            with torch.inference_mode(False):  # training may write to it later
                weight = quantize_weight(weight_ND, group.num_ranks)
            kept = self._kept_fp8[group] = source, weight
        return kept[1]

    def keep(self, group: "ProjectionGroup") -> None:
        """Decode this group once, at its first use."""
        self._keep.add(group)

    def forget(self) -> None:
        """Give all memory back."""
        self._kept.clear()
        self._kept_fp8.clear()
        self._keep.clear()
        self._buffer = None

    def parts_of(
        self, group: "ProjectionGroup", dtype: torch.dtype, room: int
    ) -> Iterator[tuple[slice, torch.Tensor, bool]]:
        """Outputs n of the group, their (n, D + room), and whether it was decoded just now.

        A part is to be used before the next is asked for. What is kept, or small, is one part; else
        every layer is one, so that the buffer need not be larger than a layer.
        """
        source = _weights_of(group)
        kept = self._kept.get(group)
        whole = slice(0, group.num_out)
        shape = group.num_out, group.num_in + room
        if kept is not None and (kept[0], kept[1].dtype, kept[1].shape) == (source, dtype, shape):
            yield whole, kept[1], False
        elif not room and len(group.linears) == 1 and not _is_4bit(group.linears[0]):
            yield whole, group.linears[0].weight.to(dtype), True
        elif group in self._keep or shape[0] * shape[1] <= PART_ELEMENTS:
            if group in self._keep:
                weight_ND = _empty(shape, dtype, group.linears[0].weight.device)
                self._kept[group] = (source, weight_ND)
            else:
                weight_ND = self._from_buffer(group, shape, dtype)
            self._decode(group, weight_ND)
            yield whole, weight_ND, True
        else:
            for linear, outputs in zip(group.linears, group.outputs, strict=True):
                weight_ND = self._from_buffer(group, (linear.out_features, shape[1]), dtype)
                decode(linear, weight_ND[:, : group.num_in])
                yield outputs, weight_ND, True

    def _decode(self, group: "ProjectionGroup", out_ND: torch.Tensor) -> None:
        for linear, outputs in zip(group.linears, group.outputs, strict=True):
            decode(linear, out_ND[outputs, : group.num_in])

    def _from_buffer(
        self, group: "ProjectionGroup", shape: tuple[int, int], dtype: torch.dtype
    ) -> torch.Tensor:
        size = shape[0] * shape[1]
        if self._buffer is None or self._buffer.numel() < size or self._buffer.dtype != dtype:
            self._buffer = None  # before the larger one
            self._buffer = _empty((size,), dtype, group.linears[0].weight.device)
        return self._buffer[:size].view(shape)


def _empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An ordinary tensor, also within `torch.inference_mode`: training may write to it later."""
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=dtype, device=device)


class Source:
    """Tensors of a group's layers as they are now; equal to another one of the same, unchanged.

    Merging an adapter replaces a 4-bit weight (kept alive here: a later one could be at its
    address), and writes into others behind their version's back.
    """

    def __init__(
        self, tensors: Sequence[torch.Tensor | None], modules: Sequence[torch.nn.Module]
    ) -> None:
        self._tensors = list(tensors)
        # `.data = …`, a module's way of changing its dtype, leaves the version too.
        self._states = [
            (t.data_ptr(), t.dtype, None if t.is_inference() else t._version)
            for t in tensors
            if t is not None
        ]
        # A layer that PEFT has unwrapped (None) may have been merged before.
        merged = [getattr(module, "merged_adapters", None) for module in modules]
        self._merged = [None if names is None else list(names) for names in merged]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Source)
            and all(a is b for a, b in zip(self._tensors, other._tensors, strict=True))
            and self._states == other._states
            and self._merged == other._merged
        )


def _weights_of(group: "ProjectionGroup") -> Source:
    return Source([linear.weight for linear in group.linears], group.modules)


def _is_4bit(linear: torch.nn.Linear) -> bool:
    return getattr(linear.weight, "quant_state", None) is not None


def decode(linear: torch.nn.Linear, out_ND: torch.Tensor) -> None:
    """Write a layer's weight into `out_ND`, in its dtype; its rows may lie apart."""
    state: Any = getattr(linear.weight, "quant_state", None)
    if state is None:
        out_ND.copy_(linear.weight.detach())
    elif _fits_kernel(linear, state):
        _decode_triton(linear, state, out_ND)
    else:
        from bitsandbytes.functional import dequantize_4bit

        out_ND.copy_(dequantize_4bit(linear.weight.data, state))


def _fits_kernel(linear: torch.nn.Linear, state: Any) -> bool:
    return (
        triton is not None
        and (linear.weight.is_cuda or INTERPRETED)
        and state.nested
        and state.quant_type == "nf4"
        and state.blocksize == 64
        and state.state2.blocksize == 256
        and linear.in_features % 64 == 0
    )


def _decode_triton(linear: torch.nn.Linear, state: Any, out_ND: torch.Tensor) -> None:
    N, D = out_ND.shape
    _decode_kernel[(triton.cdiv(N * D, 4096),)](
        linear.weight.data,
        state.absmax,
        state.state2.absmax,
        state.state2.code,
        state.code,
        state.offset,
        out_ND,
        N * D // 2,
        D,
        out_ND.stride(0),
        BLOCK=2048,
        # bitsandbytes rounds after the product and again after the sum; a fused multiply-add would
        # round once, to other bits.
        **({} if INTERPRETED else {"enable_fp_fusion": False}),
    )


if triton is not None:

    @triton.jit
    def _decode_kernel(  # type: ignore[no-untyped-def]
        packed_ptr,
        absmax_ptr,
        absmax2_ptr,
        code2_ptr,
        code_ptr,
        offset_ptr,
        out_ptr,
        num_bytes,
        D,
        stride,
        BLOCK: tl.constexpr,
    ):
        start = tl.program_id(0) * BLOCK
        at = start + tl.arange(0, BLOCK)
        ok = at < num_bytes
        packed = tl.load(packed_ptr + at, mask=ok, other=0)
        block = at // 32  # 64 weights, two in a byte
        scale = tl.load(code2_ptr + tl.load(absmax_ptr + block, mask=ok, other=0), mask=ok)
        scale = scale * tl.load(absmax2_ptr + block // 256, mask=ok, other=0.0)
        scale = scale + tl.load(offset_ptr)
        first = tl.load(code_ptr + (packed >> 4)) * scale
        second = tl.load(code_ptr + (packed & 15)) * scale
        both = tl.reshape(tl.join(first, second), (2 * BLOCK,))
        number = 2 * start + tl.arange(0, 2 * BLOCK)
        out_at = (number // D).to(tl.int64) * stride + number % D
        tl.store(out_ptr + out_at, both.to(out_ptr.dtype.element_ty), mask=number < 2 * num_bytes)
