"""A Triton kernel that decodes double-quantized NF4 weights to the bits of bitsandbytes.

Axes: N outputs, D inputs.
"""

from typing import Any

import torch

from sentilora.engine.kernels import INTERPRETED, tl, triton


def fits(linear: torch.nn.Linear, state: Any) -> bool:
    """Whether the kernel decodes this layer, whose weight has the quantization state `state`."""
    return (
        triton is not None
        and (linear.weight.is_cuda or INTERPRETED)
        and state.nested
        and state.quant_type == "nf4"
        and state.blocksize == 64
        and state.state2.blocksize == 256
        and linear.in_features % 64 == 0
    )


def decode(linear: torch.nn.Linear, state: Any, out_ND: torch.Tensor) -> None:
    """Write the layer's weight into `out_ND`, in its dtype; its rows may be apart."""
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
        # bitsandbytes rounds after the product and again after the sum. A fused multiply-add would
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
