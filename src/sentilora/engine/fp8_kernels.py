"""Triton kernels for `fp8`: rows to 8 bits with a scale each, and adapters placed next to them.

Axes: T tokens, D inputs, N outputs, R ranks of all adapters.
"""

import torch

from sentilora.engine import kernels
from sentilora.engine.elementwise import Norm, Prologue, SwiGLU
from sentilora.engine.kernels import tl, triton


def place(
    B_NR: torch.Tensor,
    scale_N: torch.Tensor,
    factor: torch.Tensor,
    largest: torch.Tensor,
    forward_ND: torch.Tensor,
    backward_DN: torch.Tensor,
    backward_scale_D: torch.Tensor,
    D: int,
    R: int,
) -> None:
    """Append B and its remainders to both copies of a weight. largest: magnitude in B."""
    N = len(B_NR)
    _place_kernel[(triton.cdiv(N, 64),)](
        B_NR,
        scale_N,
        factor,
        largest,
        forward_ND,
        backward_DN,
        backward_scale_D,
        N,
        D,
        B_NR.stride(0),
        forward_ND.stride(0),
        R=R,
        RANKS=triton.next_power_of_2(R),
        BLOCK=64,
    )


def quantize_rows(
    x_TD: torch.Tensor,
    h_TR: torch.Tensor | None,
    factor: torch.Tensor | None,
    out: torch.Tensor,
    least: float,
) -> torch.Tensor:
    """Rows in 8 bits into `out`, `factor · h` after them if given; returns their scales (T)."""
    T, D = x_TD.shape
    R = 0 if h_TR is None else h_TR.shape[1]
    width = out.shape[1]
    scale_T = torch.empty(T, dtype=torch.float32, device=x_TD.device)
    block = triton.next_power_of_2(D)
    _quantize_rows[(T,)](
        x_TD,
        x_TD if h_TR is None else h_TR,
        scale_T if factor is None else factor,
        out,
        scale_T,
        D,
        x_TD.stride(0),
        0 if h_TR is None else h_TR.stride(0),
        out.stride(0),
        width,
        least,
        R=R,
        ROOM=width > D,
        RANKS=triton.next_power_of_2(max(1, width - D)),
        BLOCK=block,
        num_warps=16 if block > 8192 else 8,
    )
    return scale_T


def quantize_input(
    x_TD: torch.Tensor,
    D: int,
    prologue: Prologue,
    reach: torch.Tensor,
    out: torch.Tensor,
    least: float,
) -> torch.Tensor:
    """Inputs after their prologue in 8 bits into `out`, then zeros; returns their scales (T)."""
    T, width = out.shape
    scale_T = torch.empty(T, dtype=torch.float32, device=x_TD.device)
    block = triton.next_power_of_2(D)
    norm = prologue if isinstance(prologue, Norm) else None
    _quantize_input[(T,)](
        x_TD,
        x_TD if norm is None else norm.weight_D,
        reach,
        out,
        scale_T,
        D,
        x_TD.stride(0),
        out.stride(0),
        width,
        0.0 if norm is None else norm.eps,
        least,
        NORM=norm is not None,
        SWIGLU=isinstance(prologue, SwiGLU),
        ROOM=width > D,
        RANKS=triton.next_power_of_2(max(1, width - D)),
        BLOCK=block,
        num_warps=16 if block > 8192 else 8,
    )
    return scale_T


def place_ranks(
    ranks_T2R: torch.Tensor,
    scale_T: torch.Tensor,
    factor: torch.Tensor,
    x8: torch.Tensor,
    D: int,
    R: int,
) -> None:
    """Append to each input in `x8` the sum of its products with A and with A's remainder."""
    T, width = x8.shape
    block = 32
    _place_ranks[(triton.cdiv(T, block),)](
        ranks_T2R,
        scale_T,
        factor,
        x8,
        T,
        D,
        ranks_T2R.stride(0),
        x8.stride(0),
        width,
        R=R,
        RANKS=triton.next_power_of_2(width - D),
        BLOCK=block,
    )


if triton is not None:

    @triton.jit
    def _high(x):  # type: ignore[no-untyped-def]
        # A NaN stays one, so that it is noticed.
        return tl.clamp(x, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL).to(tl.float8e4nv)

    @triton.jit
    def _quantize_rows(  # type: ignore[no-untyped-def]
        x_ptr,
        h_ptr,
        factor_ptr,
        out_ptr,
        scale_ptr,
        D,
        stride,
        h_stride,
        out_stride,
        width,
        least,
        R: tl.constexpr,
        ROOM: tl.constexpr,
        RANKS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        d = tl.arange(0, BLOCK)
        ok = d < D
        x = tl.load(x_ptr + row * stride + d, mask=ok, other=0.0).to(tl.float32)
        largest = tl.maximum(tl.max(tl.abs(x), 0), least)
        out = out_ptr + row * out_stride
        if R:
            r = tl.arange(0, RANKS)
            # h three times, one after the other; then zeros
            h_at = h_ptr + row * h_stride + r % R
            h = tl.load(h_at, mask=r < 3 * R, other=0.0).to(tl.float32) * tl.load(factor_ptr)
            largest = tl.maximum(largest, tl.max(tl.abs(h), 0))
            h = h * (448.0 / largest)
            remainder = h - _high(h).to(tl.float32)
            h = tl.where((r >= R) & (r < 2 * R), remainder, h)
            tl.store(out + D + r, _high(h), mask=D + r < width)
        elif ROOM:
            r = tl.arange(0, RANKS)
            tl.store(out + D + r, _high(r * 0.0), mask=D + r < width)
        tl.store(out + d, _high(x * (448.0 / largest)), mask=ok)
        tl.store(scale_ptr + row, largest / 448.0)

    @triton.jit
    def _quantize_input(  # type: ignore[no-untyped-def]
        x_ptr,
        weight_ptr,
        reach_ptr,
        out_ptr,
        scale_ptr,
        D,
        stride,
        out_stride,
        width,
        eps,
        least,
        NORM: tl.constexpr,
        SWIGLU: tl.constexpr,
        ROOM: tl.constexpr,
        RANKS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        d = tl.arange(0, BLOCK)
        ok = d < D
        x_at = x_ptr + row * stride + d
        x = tl.load(x_at, mask=ok, other=0.0).to(tl.float32)
        if NORM:
            weight = tl.load(weight_ptr + d, mask=ok, other=0.0).to(tl.float32)
            x = x * tl.div_rn(1.0, tl.sqrt_rn(tl.sum(x * x, 0) / D + eps)) * weight
        if SWIGLU:
            up = tl.load(x_at + D, mask=ok, other=0.0).to(tl.float32)
            x = x * kernels.sigmoid(x) * up
        largest = tl.maximum(tl.max(tl.abs(x), 0), least)
        largest = tl.maximum(largest, tl.load(reach_ptr) * tl.sqrt(tl.sum(x * x, 0)))
        out = out_ptr + row * out_stride
        tl.store(out + d, _high(x * (448.0 / largest)), mask=ok)
        if ROOM:
            r = tl.arange(0, RANKS)
            tl.store(out + D + r, _high(r * 0.0), mask=D + r < width)
        tl.store(scale_ptr + row, largest / 448.0)

    @triton.jit
    def _place_ranks(  # type: ignore[no-untyped-def]
        ranks_ptr,
        scale_ptr,
        factor_ptr,
        out_ptr,
        T,
        D,
        stride,
        out_stride,
        width,
        R: tl.constexpr,
        RANKS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None].to(tl.int64)
        r = tl.arange(0, RANKS)[None, :]
        inside = row < T
        ok = inside & (r < 3 * R)
        # h three times, one after the other; then zeros
        at = ranks_ptr + row * stride + r % R
        h = tl.load(at, mask=ok, other=0.0).to(tl.float32)
        h += tl.load(at + R, mask=ok, other=0.0).to(tl.float32)
        h = h * (tl.load(factor_ptr) / tl.load(scale_ptr + row, mask=inside, other=1.0))
        remainder = h - _high(h).to(tl.float32)
        h = tl.where((r >= R) & (r < 2 * R), remainder, h)
        tl.store(out_ptr + row * out_stride + D + r, _high(h), mask=inside & (D + r < width))

    @triton.jit
    def _place_kernel(  # type: ignore[no-untyped-def]
        b_ptr,
        scale_ptr,
        factor_ptr,
        largest_ptr,
        forward_ptr,
        backward_ptr,
        backward_scale_ptr,
        N,
        D,
        stride,
        forward_stride,
        R: tl.constexpr,
        RANKS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        r = tl.arange(0, RANKS)
        ok = (n[:, None] < N) & (r[None, :] < R)
        row = n[:, None].to(tl.int64)
        b = tl.load(b_ptr + row * stride + r[None, :], mask=ok, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + n, mask=n < N, other=1.0) * tl.load(factor_ptr)
        value = b / scale[:, None]
        high = _high(value)
        at = forward_ptr + row * forward_stride + D + r[None, :]
        tl.store(at, high, mask=ok)
        tl.store(at + R, high, mask=ok)
        tl.store(at + 2 * R, _high(value - high.to(tl.float32)), mask=ok)
        largest = tl.load(largest_ptr)
        value = b * (448.0 / largest)
        high = _high(value)
        at = backward_ptr + (D + r[None, :]).to(tl.int64) * N + row
        tl.store(at, high, mask=ok)
        tl.store(at + R * N, _high(value - high.to(tl.float32)), mask=ok)
        if tl.program_id(0) == 0:
            scale_at = backward_scale_ptr + D + r
            tl.store(scale_at, largest / 448.0, mask=r < R)
            tl.store(scale_at + R, largest / 448.0, mask=r < R)
