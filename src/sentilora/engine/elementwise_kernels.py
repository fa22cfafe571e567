"""Triton kernels for `elementwise`: RMSNorm, SwiGLU and rotary embedding.

Axes: T tokens, D hidden, F half of a SwiGLU's input, H heads, E a head's width.
"""

import torch

from sentilora.engine import kernels
from sentilora.engine.kernels import tl, triton


def rms_norm(
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    out_TD: torch.Tensor,
    root_T: torch.Tensor | None,
) -> None:
    """RMSNorm into `out_TD`, and every row's `1 / √(mean(x²) + eps)` into `root_T` if given."""
    T, D = x_TD.shape
    _rms_norm[(T,)](
        x_TD,
        weight_D,
        out_TD,
        out_TD if root_T is None else root_T,
        D,
        x_TD.stride(0),
        out_TD.stride(0),
        eps,
        KEEP_ROOT=root_T is not None,
        BLOCK=triton.next_power_of_2(D),
    )


def rms_norm_backward(
    d_TD: torch.Tensor,
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    residual_TD: torch.Tensor | None,
) -> torch.Tensor:
    """Gradient of the norm's input, plus `residual_TD` if given."""
    out_TD = torch.empty_like(x_TD)
    T, D = x_TD.shape
    _rms_norm_backward[(T,)](
        d_TD,
        x_TD,
        weight_D,
        residual_TD.contiguous() if residual_TD is not None else d_TD,
        out_TD,
        D,
        d_TD.stride(0),
        x_TD.stride(0),
        eps,
        HAS_RESIDUAL=residual_TD is not None,
        BLOCK=triton.next_power_of_2(D),
    )
    return out_TD


def swiglu(gate_up_T2F: torch.Tensor, out_TF: torch.Tensor) -> None:
    """SwiGLU of the two halves into `out_TF`."""
    T, F = out_TF.shape
    _swiglu[(T, triton.cdiv(F, 1024))](gate_up_T2F, out_TF, F, out_TF.stride(0), BLOCK=1024)


def swiglu_backward(d_TF: torch.Tensor, gate_up_T2F: torch.Tensor) -> torch.Tensor:
    """Gradient of both halves (T, 2F)."""
    T, F = d_TF.shape
    out_T2F = torch.empty_like(gate_up_T2F)
    _swiglu_backward[(T, triton.cdiv(F, 1024))](
        d_TF, gate_up_T2F, out_T2F, F, d_TF.stride(0), BLOCK=1024
    )
    return out_T2F


def rotate(
    x_THE: torch.Tensor,
    cos_TE: torch.Tensor,
    sin_TE: torch.Tensor,
    out_THE: torch.Tensor,
    backward: bool,
) -> None:
    """Rotary embedding of every head into `out_THE`; `backward` rotates the other way."""
    T, H, E = x_THE.shape
    _rotate[(T,)](
        x_THE,
        cos_TE,
        sin_TE,
        out_THE,
        x_THE.stride(0),
        out_THE.stride(0),
        H,
        E // 2,
        BACKWARD=backward,
        HEADS=triton.next_power_of_2(H),
        HALF=triton.next_power_of_2(E // 2),
    )


if triton is not None:

    @triton.jit
    def _rms_norm(  # type: ignore[no-untyped-def]
        x_ptr,
        weight_ptr,
        out_ptr,
        root_ptr,
        D,
        stride,
        out_stride,
        eps,
        KEEP_ROOT: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        d = tl.arange(0, BLOCK)
        ok = d < D
        x = tl.load(x_ptr + row * stride + d, mask=ok, other=0.0)
        weight = tl.load(weight_ptr + d, mask=ok, other=0.0)
        value = x.to(tl.float32)
        root = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(value * value, 0) / D + eps))
        if KEEP_ROOT:
            tl.store(root_ptr + row, root)
        normed = value * root
        out = normed.to(x.dtype).to(tl.float32) * weight.to(tl.float32)
        tl.store(out_ptr + row * out_stride + d, out.to(x.dtype), mask=ok)

    @triton.jit
    def _rms_norm_backward(  # type: ignore[no-untyped-def]
        d_ptr,
        x_ptr,
        weight_ptr,
        residual_ptr,
        out_ptr,
        D,
        d_stride,
        x_stride,
        eps,
        HAS_RESIDUAL: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        d = tl.arange(0, BLOCK)
        ok = d < D
        raw = tl.load(x_ptr + row * x_stride + d, mask=ok, other=0.0)
        x = raw.to(tl.float32)
        weight = tl.load(weight_ptr + d, mask=ok, other=0.0).to(tl.float32)
        grad = tl.load(d_ptr + row * d_stride + d, mask=ok, other=0.0).to(tl.float32) * weight
        scale = tl.div_rn(1.0, tl.sqrt_rn(tl.sum(x * x, 0) / D + eps))
        normed = x * scale
        out = scale * (grad - normed * (tl.sum(grad * normed, 0) / D))
        if HAS_RESIDUAL:
            out += tl.load(residual_ptr + row * D + d, mask=ok, other=0.0).to(tl.float32)
        tl.store(out_ptr + row * D + d, out.to(raw.dtype), mask=ok)

    @triton.jit
    def _swiglu(in_ptr, out_ptr, F, stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0).to(tl.int64)
        f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        ok = f < F
        raw = tl.load(in_ptr + row * 2 * F + f, mask=ok, other=0.0)
        up = tl.load(in_ptr + row * 2 * F + F + f, mask=ok, other=0.0)
        gate = raw.to(tl.float32)
        activated = (gate * kernels.sigmoid(gate)).to(raw.dtype).to(tl.float32)
        tl.store(out_ptr + row * stride + f, (activated * up.to(tl.float32)).to(raw.dtype), mask=ok)

    @triton.jit
    def _swiglu_backward(d_ptr, in_ptr, out_ptr, F, stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0).to(tl.int64)
        f = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        ok = f < F
        raw = tl.load(in_ptr + row * 2 * F + f, mask=ok, other=0.0)
        gate = raw.to(tl.float32)
        up = tl.load(in_ptr + row * 2 * F + F + f, mask=ok, other=0.0).to(tl.float32)
        grad = tl.load(d_ptr + row * stride + f, mask=ok, other=0.0).to(tl.float32)
        sigmoid = kernels.sigmoid(gate)
        d_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
        tl.store(out_ptr + row * 2 * F + f, d_gate.to(raw.dtype), mask=ok)
        tl.store(out_ptr + row * 2 * F + F + f, (grad * gate * sigmoid).to(raw.dtype), mask=ok)

    @triton.jit
    def _rotate(  # type: ignore[no-untyped-def]
        x_ptr,
        cos_ptr,
        sin_ptr,
        out_ptr,
        x_stride,
        out_stride,
        H,
        half,
        BACKWARD: tl.constexpr,
        HEADS: tl.constexpr,
        HALF: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        h = tl.arange(0, HEADS)[:, None]
        e = tl.arange(0, HALF)[None, :]
        ok = (h < H) & (e < half)
        at = h * 2 * half + e
        raw = tl.load(x_ptr + row * x_stride + at, mask=ok, other=0.0)
        first = raw.to(tl.float32)
        second = tl.load(x_ptr + row * x_stride + at + half, mask=ok, other=0.0).to(tl.float32)
        table = row * 2 * half + e
        near = e < half
        cos_1 = tl.load(cos_ptr + table, mask=near, other=0.0).to(tl.float32)
        cos_2 = tl.load(cos_ptr + table + half, mask=near, other=0.0).to(tl.float32)
        sin_1 = tl.load(sin_ptr + table, mask=near, other=0.0).to(tl.float32)
        sin_2 = tl.load(sin_ptr + table + half, mask=near, other=0.0).to(tl.float32)
        if BACKWARD:
            sin_1 = -sin_1
            sin_2 = -sin_2
        out = out_ptr + row * out_stride + at
        tl.store(out, (first * cos_1 - second * sin_1).to(raw.dtype), mask=ok)
        tl.store(out + half, (second * cos_2 + first * sin_2).to(raw.dtype), mask=ok)
