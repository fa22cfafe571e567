"""The frozen products in 8 bits: `x Wᵀ` and `d W` with a scale per row of every factor.

Opt-in, on GPUs of compute capability 8.9 and above. It is not bit-exact QLoRA: E4M3 has three bits
of mantissa where bfloat16 has seven (Micikevicius et al. 2022, section 3). The adapters, and
everything between the products, are computed as ever.

Axes: T tokens, D inputs, N outputs.
"""

from dataclasses import dataclass

import torch

from sentilora.engine.kernels import tl, triton, use_triton

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of E4M3


@dataclass(frozen=True)
class Fp8Weight:
    """A frozen weight twice: by rows of outputs to go forward, by rows of inputs to go back."""

    forward_ND: torch.Tensor
    forward_scale_N: torch.Tensor
    backward_DN: torch.Tensor
    backward_scale_D: torch.Tensor


def quantize_weight(weight_ND: torch.Tensor) -> Fp8Weight:
    """Both copies of a weight."""
    forward, forward_scale = quantize_rows(weight_ND)
    backward, backward_scale = quantize_rows(weight_ND.T.contiguous())
    return Fp8Weight(forward, forward_scale, backward, backward_scale)


def quantize_rows(x_TD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every row in 8 bits, and what to multiply it by (T): its largest magnitude / 448."""
    T, D = x_TD.shape
    if use_triton(x_TD):
        out_TD = torch.empty(T, D, dtype=FP8, device=x_TD.device)
        scale_T = torch.empty(T, dtype=torch.float32, device=x_TD.device)
        block = triton.next_power_of_2(D)
        _quantize_rows[(T,)](
            x_TD,
            out_TD,
            scale_T,
            D,
            x_TD.stride(0),
            BLOCK=block,
            num_warps=16 if block > 8192 else 8,
        )
        return out_TD, scale_T
    largest = x_TD.float().abs().amax(-1).clamp(min=1e-12)
    scaled = x_TD.float() * (LARGEST / largest)[:, None]
    return scaled.clamp(-LARGEST, LARGEST).to(FP8), largest / LARGEST


def matmul(x_TD: torch.Tensor, weight_ND: torch.Tensor, scale_N: torch.Tensor) -> torch.Tensor:
    """`x · weightᵀ` with x quantised here; in x's dtype."""
    x8, scale_T = quantize_rows(x_TD)
    return torch._scaled_mm(
        x8,
        weight_ND.T,
        scale_a=scale_T[:, None],
        scale_b=scale_N[None],
        out_dtype=x_TD.dtype,
        use_fast_accum=True,
    )


if triton is not None:

    @triton.jit
    def _quantize_rows(x_ptr, out_ptr, scale_ptr, D, stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        row = tl.program_id(0).to(tl.int64)
        d = tl.arange(0, BLOCK)
        ok = d < D
        x = tl.load(x_ptr + row * stride + d, mask=ok, other=0.0).to(tl.float32)
        largest = tl.maximum(tl.max(tl.abs(x), 0), 1e-12)
        value = tl.clamp(x * (448.0 / largest), -448.0, 448.0)
        tl.store(out_ptr + row * D + d, value.to(out_ptr.dtype.element_ty), mask=ok)
        tl.store(scale_ptr + row, largest / 448.0)
