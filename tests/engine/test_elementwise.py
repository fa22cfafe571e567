"""RMSNorm, SwiGLU and rotary embedding against transformers' own, forward and backward."""

import pytest
import torch
from transformers.models.mistral.modeling_mistral import MistralRMSNorm, apply_rotary_pos_emb

from sentilora.engine.elementwise import (
    rms_norm,
    rms_norm_backward,
    rotate,
    swiglu,
    swiglu_backward,
)

SHAPES = [(1, 2), (3, 7), (5, 64), (17, 100)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rms_norm(shape, dtype):
    x = torch.randn(shape, dtype=dtype).mul_(3).requires_grad_()
    norm = MistralRMSNorm(shape[1], eps=1e-3).to(dtype)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    norm.requires_grad_(False)
    expected = norm(x)
    got = rms_norm(x.detach(), norm.weight, 1e-3)  # the norm is float32, whatever x is
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    d, past = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    (dx,) = torch.autograd.grad(expected, x, d)
    for residual in (None, past):
        got = rms_norm_backward(d, x.detach(), norm.weight, 1e-3, residual)
        reference = dx if residual is None else dx + residual
        torch.testing.assert_close(got, reference, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_swiglu(shape, dtype):
    T, F = shape
    z = torch.randn(T, 2 * F, dtype=dtype).mul_(4).requires_grad_()
    gate, up = z.chunk(2, -1)
    expected = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(swiglu(z.detach()), expected)
    d = torch.randn(T, F, dtype=dtype)
    (dz,) = torch.autograd.grad(expected, z, d)
    torch.testing.assert_close(swiglu_backward(d, z.detach()), dz, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotate(dtype):
    T, H, E = 7, 3, 10
    x = torch.randn(T, H, E, dtype=dtype, requires_grad=True)
    # Both halves differ on purpose: with equal ones a mix-up of the halves would not show.
    cos, sin = torch.randn(T, E, dtype=dtype), torch.randn(T, E, dtype=dtype)
    expected, _ = apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=1)
    out = torch.empty(T, H, E, dtype=dtype)
    rotate(x.detach(), cos, sin, out)
    torch.testing.assert_close(out, expected)
    in_place = x.detach().clone()
    rotate(in_place, cos, sin, in_place)
    assert torch.equal(in_place, out)


def test_rotate_backward_turns_back():
    """A rotation's gradient is its inverse: cos and sin of real angles, equal in both halves."""
    T, H, E = 5, 2, 8
    angle = torch.randn(T, E // 2, dtype=torch.float64).repeat(1, 2)
    cos, sin = angle.cos(), angle.sin()
    x = torch.randn(T, H, E, dtype=torch.float64, requires_grad=True)
    y, _ = apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=1)
    d = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, d)
    got = torch.empty_like(d)
    rotate(d, cos, sin, got, backward=True)
    torch.testing.assert_close(got, dx)
    rotate(y.detach(), cos, sin, got, backward=True)
    torch.testing.assert_close(got, x.detach())


def test_results_go_where_they_should():
    """Written into rows that are apart; the memory between them is not touched."""
    x, weight = torch.randn(4, 6), torch.rand(6)
    room = torch.full((4, 9), 7.0)
    assert torch.equal(rms_norm(x, weight, 1e-5, room[:, :6]), rms_norm(x, weight, 1e-5))
    z = torch.randn(4, 12)
    swiglu(z, room[:, :6])
    assert torch.equal(room[:, :6], swiglu(z)) and (room[:, 6:] == 7).all()
    # inputs whose rows are apart: heads of a wider product, a gradient next to others
    heads = room[:, :6].unflatten(-1, (3, 2))
    expected = torch.empty(4, 3, 2)
    cos, sin = torch.rand(4, 2), torch.rand(4, 2)
    rotate(heads.clone(), cos, sin, expected)
    rotate(heads, cos, sin, heads)
    assert torch.equal(heads, expected) and (room[:, 6:] == 7).all()
    d = torch.randn(4, 9)[:, :6]
    assert torch.equal(
        rms_norm_backward(d, x, weight, 1e-5, None),
        rms_norm_backward(d.contiguous(), x, weight, 1e-5, None),
    )
    assert torch.equal(swiglu_backward(d, z), swiglu_backward(d.contiguous(), z))
