"""RMSNorm, SwiGLU and rotary embedding, forward and backward.

This is the specification in plain PyTorch, which CPUs run. On GPUs `elementwise_kernels` gives the
same in one pass over memory each.

Axes: T tokens, D hidden, F half of a SwiGLU's input, H heads, E a head's width.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import silu

from sentilora.engine import elementwise_kernels
from sentilora.engine.kernels import use_triton


@dataclass(frozen=True)
class Norm:
    """An RMSNorm. root_T: memory for every row's `1 / √(mean(x²) + eps)`, which Triton fills."""

    weight_D: torch.Tensor
    eps: float
    root_T: torch.Tensor | None = None

    def __call__(self, x_TD: torch.Tensor, out_TD: torch.Tensor | None = None) -> torch.Tensor:
        return rms_norm(x_TD, self.weight_D, self.eps, out_TD, self.root_T)


@dataclass(frozen=True)
class SwiGLU:
    """`silu(gate) · up` of an input that is gate and up side by side (T, 2F)."""

    def __call__(self, x_T2F: torch.Tensor, out_TF: torch.Tensor | None = None) -> torch.Tensor:
        return swiglu(x_T2F, out_TF)


Prologue = Norm | SwiGLU | None
"""What an input goes through before a projection; None is nothing."""


def rms_norm(
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    out_TD: torch.Tensor | None = None,
    root_T: torch.Tensor | None = None,
) -> torch.Tensor:
    """`weight · x / √(mean(x²) + eps)`, the norm in float32 (Zhang & Sennrich 2019, eq. 4).

    out_TD: where to write it; its rows may be apart. root_T: as in `Norm`.
    """
    if use_triton(x_TD):
        out_TD = torch.empty_like(x_TD) if out_TD is None else out_TD
        elementwise_kernels.rms_norm(x_TD, weight_D, eps, out_TD, root_T)
        return out_TD
    x = x_TD.float()
    normed = weight_D * (x * _root_scale(x, eps)).to(x_TD.dtype)
    return normed if out_TD is None else out_TD.copy_(normed)


def _root_scale(x_TD: torch.Tensor, eps: float) -> torch.Tensor:
    squares = torch.linalg.vector_norm(x_TD, dim=-1, keepdim=True).square_()
    return squares.div_(x_TD.shape[-1]).add_(eps).rsqrt_()


def rms_norm_backward(
    d_TD: torch.Tensor,
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    eps: float,
    residual_TD: torch.Tensor | None,
) -> torch.Tensor:
    """Gradient of the norm's input, plus `residual_TD`, the gradient that bypasses the norm."""
    if use_triton(x_TD):
        return elementwise_kernels.rms_norm_backward(d_TD, x_TD, weight_D, eps, residual_TD)
    x, d = x_TD.float(), d_TD.float() * weight_D.float()
    scale = _root_scale(x, eps)
    normed = x * scale
    along = torch.linalg.vecdot(d, normed)[:, None] / x.shape[-1]
    out = d.addcmul_(normed, along, value=-1).mul_(scale)
    if residual_TD is not None:
        out += residual_TD
    return out.to(x_TD.dtype)


def swiglu(gate_up_T2F: torch.Tensor, out_TF: torch.Tensor | None = None) -> torch.Tensor:
    """`silu(gate) · up` of the two halves (Shazeer 2020, eq. 6).

    out_TF: where to write it; its rows may be apart.
    """
    T, width = gate_up_T2F.shape
    F = width // 2
    if use_triton(gate_up_T2F):
        out_TF = gate_up_T2F.new_empty(T, F) if out_TF is None else out_TF
        elementwise_kernels.swiglu(gate_up_T2F, out_TF)
        return out_TF
    gate, up = gate_up_T2F.split(F, -1)
    activated = silu(gate).mul_(up)
    return activated if out_TF is None else out_TF.copy_(activated)


def swiglu_backward(d_TF: torch.Tensor, gate_up_T2F: torch.Tensor) -> torch.Tensor:
    """Gradient of both halves (T, 2F)."""
    if use_triton(gate_up_T2F):
        return elementwise_kernels.swiglu_backward(d_TF, gate_up_T2F)
    F = d_TF.shape[1]
    gate, up = gate_up_T2F.float().split(F, -1)
    d = d_TF.float()
    out_T2F = torch.empty_like(gate_up_T2F)
    out_T2F[:, :F] = torch.ops.aten.silu_backward(d * up, gate)
    out_T2F[:, F:] = silu(gate).mul_(d)
    return out_T2F


def rotate(
    x_THE: torch.Tensor,
    cos_TE: torch.Tensor,
    sin_TE: torch.Tensor,
    out_THE: torch.Tensor,
    backward: bool = False,
) -> None:
    """Rotary embedding of every head into `out_THE`, which may be `x_THE` (Su et al. 2021, eq. 34).

    backward: rotate the other way, which is the gradient.
    """
    if use_triton(x_THE):
        elementwise_kernels.rotate(x_THE, cos_TE, sin_TE, out_THE, backward)
        return
    sign = 1 if backward else -1
    (cos_1, cos_2), (sin_1, sin_2) = (x[:, None].chunk(2, -1) for x in (cos_TE, sin_TE))
    first, second = x_THE.chunk(2, -1)
    turned = (first * cos_1).addcmul_(second, sin_1, value=sign)
    out_1, out_2 = out_THE.chunk(2, -1)
    torch.mul(second, cos_2, out=out_2)
    out_2.addcmul_(first, sin_2, value=-sign)
    out_1.copy_(turned)
