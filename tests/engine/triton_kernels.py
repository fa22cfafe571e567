"""Triton kernels against the plain PyTorch that they must equal, in the interpreter, in float32.

TRITON_INTERPRET=1 pytest tests/engine/triton_kernels.py      # test_triton.py runs it
"""

import numpy as np
import pytest
import torch
from interpreted import apart, assert_same, plainly
from test_attention import FORESTS
from test_nf4 import by_definition, make_linear

from sentilora.engine import attention, elementwise, nf4, nf4_kernels
from sentilora.engine.segments import Segment, lay_out
from sentilora.engine.trees import TextTrees, TokenTree

# --- elementwise ---------------------------------------------------------------------------------

SHAPES = [(1, 2), (5, 24), (7, 64), (3, 1030)]


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(shape):
    weight = torch.rand(shape[1])
    for x in (torch.randn(shape), apart(*shape)):
        assert_same(elementwise.rms_norm, x, weight, 1e-3)
    x, out = torch.randn(shape), torch.full((shape[0], shape[1] + 5), 7.0)
    elementwise.rms_norm(x, weight, 1e-3, out[:, : shape[1]])
    assert torch.equal(out[:, : shape[1]], elementwise.rms_norm(x, weight, 1e-3))
    assert (out[:, shape[1] :] == 7).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm_backward(shape):
    x, weight = torch.randn(shape), torch.rand(shape[1])
    for d in (torch.randn(shape), apart(*shape)):
        for residual in (None, torch.randn(shape)):
            assert_same(elementwise.rms_norm_backward, d, x, weight, 1e-3, residual)


@pytest.mark.parametrize("shape", SHAPES)
def test_swiglu(shape):
    T, F = shape
    z = torch.randn(T, 2 * F) * 3
    assert_same(elementwise.swiglu, z)
    out = torch.full((T, F + 5), 7.0)
    elementwise.swiglu(z, out[:, :F])
    assert torch.equal(out[:, :F], elementwise.swiglu(z)) and (out[:, F:] == 7).all()
    for d in (torch.randn(shape), apart(*shape)):
        assert_same(elementwise.swiglu_backward, d, z)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 3, 12), (4, 4, 16)])
def test_rotate(shape, backward):
    T, H, E = shape
    wide = torch.randn(T, H * E + 6)  # heads beside other outputs
    cos, sin = torch.randn(T, E), torch.randn(T, E)

    def rotated(wide):
        heads = wide[:, : H * E].unflatten(-1, (H, E))
        out = torch.empty(T, H, E)
        elementwise.rotate(heads, cos, sin, out, backward)
        elementwise.rotate(heads, cos, sin, heads, backward)
        assert torch.equal(heads, out)
        return wide

    got, expected = rotated(wide.clone()), plainly(rotated, wide.clone())
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=2e-6)
    assert torch.equal(got[:, H * E :], wide[:, H * E :])


# --- attention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("name", FORESTS)
def test_tiled_attention(name, window):
    """Against one call per segment; three query heads for a key head, so that a tile has a gap."""
    for round_up in (False, True):
        packed = lay_out(FORESTS[name], "cpu", round_up=round_up)
        for who in (packed.attention, packed.answers):
            q = torch.randn(sum(who.q_lengths), 6, 16, requires_grad=True)
            kv = torch.randn(packed.num_tokens, 4, 16, requires_grad=True)
            d = torch.randn(len(q), 6, 16)

            def gradients(attend, q=q, kv=kv, d=d, who=who):
                out = attend(q, kv, who, 0.3, window)
                return out, *torch.autograd.grad(out, (q, kv), d)

            expected = gradients(attention.by_segment)
            for got, want in zip(gradients(attention.tiled), expected, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_tiled_attention_over_several_tiles():
    """150 queries after 70 shared keys: more than a tile of either; the gradient's rows apart."""
    segments = [Segment([0] * 70), Segment([0] * 150, 0, 2), Segment([0] * 40, 0, 1)]
    who = lay_out(segments, "cpu").attention
    q, kv = torch.randn(260, 2, 16, requires_grad=True), torch.randn(260, 2, 16, requires_grad=True)
    d = apart(260, 32).unflatten(1, (2, 16))
    for window in (None, 50):
        results = []
        for attend in (attention.by_segment, attention.tiled):
            out = attend(q, kv, who, 0.3, window)
            results.append((out, *torch.autograd.grad(out, (q, kv), d)))
        for want, got in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_tiled_attention_over_trees_after_texts():
    """Paths whose keys are rows of earlier passes too, against masks; several passes."""
    tree = TokenTree.of([[3, 4, 5], [3, 4, 6, 7], [3, 8], [9], [9, 9, 9], [5] * 70])
    by_path, by_mask = (TextTrees(tree, 3, [20, 1, 40]) for _ in range(2))
    first, rest = np.arange(1, 3), np.arange(3, tree.num_nodes)
    for new in (first, rest):
        texts, chosen = np.repeat([0, 1, 2], len(new)), np.tile(new, 3)
        path = by_path.lay_out(texts, chosen, "cpu", by_path=True).attention
        mask = by_mask.lay_out(texts, chosen, "cpu", by_path=False).attention
        q, kv = torch.randn(len(chosen), 6, 16), torch.randn(by_path.num_rows, 4, 16)
        expected = attention.by_segment(q, kv, mask, 0.3, None)
        for attend in (attention.tiled, attention.by_segment):
            got = attend(q, kv, path, 0.3, None)
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


# --- keys and weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("round_up", [False, True])
def test_gradients_of_shared_keys(round_up):
    segments = [Segment([0] * 5), Segment([0] * 4, 0, 1), Segment([0] * 3, 1, 2), Segment([0], 0)]
    packed = lay_out(segments, "cpu", round_up=round_up)
    num_checked = 0
    for who in (packed.attention, packed.answers):
        kv = torch.randn(packed.num_tokens, 2 * 2, 6, requires_grad=True)
        d = torch.randn(2, len(who.key_rows_K), 2, 6)

        def gradient(kv, who=who, d=d):
            k, v = attention.SplitKeys.apply(kv, who)
            return torch.autograd.grad((k * d[0] + v * d[1]).sum(), kv)[0]

        assert_same(gradient, kv)
        num_checked += 1
    assert num_checked == 2


@pytest.mark.parametrize("shape", [(64, 3), (192, 20), (128, 700)])
def test_decoded_weights_are_the_same_bits(shape):
    linear = make_linear(*shape)
    assert nf4_kernels.fits(linear, linear.weight.quant_state)
    wide = torch.full((shape[1], shape[0] + 5), 7.0)
    nf4.decode(linear, wide[:, : shape[0]])
    assert torch.equal(wide[:, : shape[0]], by_definition(linear))
    assert (wide[:, shape[0] :] == 7).all()
