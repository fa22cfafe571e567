"""Products in 8 bits: the kernels in Triton's interpreter, and where every number goes.

TRITON_INTERPRET=1 pytest tests/engine/triton_fp8.py      # test_triton.py runs it
"""

import pytest
import torch
from interpreted import apart, plainly
from tiny_models import CASES, KINDS, assert_close, installed, make_model, packed_gradients

from sentilora.engine import elementwise, fp8
from sentilora.engine.segments import Segment, lay_out
from sentilora.engine.swap import packed_logits


def test_rows_in_8_bits():
    for x in (torch.randn(5, 24), apart(3, 700) * 1e3, torch.zeros(2, 16)):
        got, scale = fp8.quantize_rows(x, room=16)
        expected, plain_scale = plainly(lambda x: fp8.quantize_rows(x, room=16), x)
        assert not got[:, x.shape[1] :].float().any()
        torch.testing.assert_close(scale, plain_scale, rtol=1e-6, atol=0)
        got, expected = got.float(), expected.float()
        # The interpreter (Triton 3.9) loses the carry when it rounds up to a power of two: 124.1
        # becomes 64, not 128.
        carried = (expected.abs().frexp().mantissa == 0.5) & (got == expected / 2)
        difference = (got - expected)[~carried].abs()
        # The scale's rounding may move a number to its neighbor, no further: an eighth of it away
        # at most, or 2^-9 where numbers have no exponent of their own.
        assert (difference <= (expected[~carried].abs() / 8).clamp(min=2**-9)).all()
        assert (difference > 0).double().mean() < 0.01 and carried.double().mean() < 0.1


def assert_mostly_near(result, expected, relative, carried):
    """Within `relative` or 2⁻¹⁰ of the largest, except where the interpreter lost the carry."""
    bound = relative * expected.abs() + 2**-10 * expected.abs().max()
    assert ((result - expected).abs() > bound).double().mean() <= carried


@pytest.mark.parametrize("use_kernels", [True, False])
@pytest.mark.parametrize("R", [16, 48, 10])
def test_adapters_in_8_bits_keep_the_precision_of_16(use_kernels, R):
    """A number and its remainder: 2⁻⁷ of it, or 2⁻¹⁰ of the largest; W's zeros cost most."""
    torch.manual_seed(R)

    def assert_near(result, expected):
        assert_mostly_near(result, expected, 2**-7, 0.05 if use_kernels else 0.0)

    run = (lambda function, *args: function(*args)) if use_kernels else plainly
    W, B = torch.randn(70, 96), torch.randn(70, R) * 0.1
    W[3] = 0.0
    x, h = torch.randn(9, 96), torch.randn(9, R)
    weight = run(fp8.quantize_weight, W, R)
    run(weight.place, B)
    x8, scale = run(fp8.quantize_rows, x, h, weight.factor)
    assert x8.shape[1] == weight.forward_ND.shape[1] == 96 + -(-3 * R // 16) * 16
    x8, w8 = x8.float(), weight.forward_ND.float()
    assert not x8[:, 96 + 3 * R :].any() and not w8[:, 96 + 3 * R :].any()
    high, remainder, again = (x8[:, 96 + i * R : 96 + (i + 1) * R] for i in range(3))
    assert torch.equal(high, again)
    result = (high + remainder) * scale[:, None] / weight.factor
    assert_near(result, h)
    high, again, remainder = (w8[:, 96 + i * R : 96 + (i + 1) * R] for i in range(3))
    assert torch.equal(high, again)
    result = (high + remainder) * weight.forward_scale_N[:, None] * weight.factor
    assert_near(result, B)
    y = (x8 @ w8.T) * scale[:, None] * weight.forward_scale_N
    expected = x @ W.T + h @ B.T
    assert (y - expected).norm() < 0.1 * expected.norm()
    back = weight.backward_DN.float() * weight.backward_scale_D[:, None]
    assert len(back) == 96 + -(-2 * R // 16) * 16 and not back[96 + 2 * R :].any()
    result = back[96 : 96 + R] + back[96 + R : 96 + 2 * R]
    assert_near(result, B.T)


@pytest.mark.parametrize("use_kernels", [True, False])
@pytest.mark.parametrize("kind", ["plain", "norm", "swiglu"])
@pytest.mark.parametrize("R, size", [(16, 0.01), (10, 3.0)])
def test_inputs_to_score_in_8_bits(use_kernels, kind, R, size):
    """The product with A reads the 8-bit input. With a large B, h decides the scale."""
    torch.manual_seed(R)

    def assert_near(result, expected, relative):
        assert_mostly_near(result, expected, relative, 0.1 if use_kernels else 0.0)

    run = (lambda function, *args: function(*args)) if use_kernels else plainly
    W, A, B = torch.randn(70, 96), torch.randn(R, 96) * 0.2, torch.randn(70, R) * size
    weight = run(fp8.quantize_weight, W, R)
    run(weight.place, B)
    run(weight.place_down, A)
    down = weight.down_RD.float() * weight.down_scale_R[:, None]
    assert down.shape == (-(-2 * R // 16) * 16, 96 + weight.room)
    assert not down[2 * R :].any() and not down[:, 96:].any()
    down = down[:, :96]
    torch.testing.assert_close(down[:R] + down[R : 2 * R], A, rtol=2**-7, atol=2**-10)

    norm = elementwise.Norm(torch.rand(96), 1e-5)
    prologue = {"plain": None, "norm": norm, "swiglu": elementwise.SwiGLU()}[kind]
    x = torch.randn(40, 2 * 96 if kind == "swiglu" else 96) * 3
    x[7] = 0.0
    inputs = x if prologue is None else prologue(x)
    x8, scale = run(fp8.quantize_input, x, weight, weight.reach, prologue)
    assert weight.room == -(-3 * R // 16) * 16 and not x8[:, 96:].float().any()
    own = x8[:, :96].float() * scale[:, None]
    assert_near(own, inputs, 2**-4)
    ranks = own @ down.T
    h = ranks[:, :R] + ranks[:, R : 2 * R]
    assert (weight.factor * h.abs().amax(-1) <= weight.reach * inputs.norm(dim=-1)).all()
    run(fp8.place_ranks, x8, scale, weight, ranks)
    high, remainder, again = (x8[:, 96 + i * R : 96 + (i + 1) * R].float() for i in range(3))
    assert torch.equal(high, again) and not x8[:, 96 + 3 * R :].float().any()
    result = (high + remainder) * scale[:, None] / weight.factor
    assert_near(result, h, 2**-7)
    y = (x8.float() @ weight.forward_ND.float().T) * scale[:, None] * weight.forward_scale_N
    expected = inputs @ W.T + inputs @ A.T @ B.T
    assert (y - expected).norm() < (0.15 if use_kernels else 0.05) * expected.norm()


@pytest.fixture
def without_rounding(monkeypatch):
    """Products of float32 instead of 8 bits, to test only where every number is placed."""

    def product(x8, scale_T, w8, scale_N, dtype):
        assert x8.shape[1] == w8.shape[1] and not (x8.shape[1] % 16 or len(w8) % 16)
        assert x8.stride(1) == w8.stride(1) == 1 and not (x8.stride(0) % 16 or w8.stride(0) % 16)
        return ((x8 @ w8.T) * scale_T[:, None] * scale_N).to(dtype)

    monkeypatch.setattr(fp8, "FP8", torch.float32)
    monkeypatch.setattr(fp8, "use_triton", lambda x: False)
    monkeypatch.setattr(fp8, "_product", product)


@pytest.mark.parametrize(
    "kind, options, num_exact",
    [
        *((kind, {}, 0) for kind in KINDS),
        ("qwen2", {"target_modules": ["q_proj", "v_proj"]}, 0),
        ("mistral", {"target_modules": ["up_proj"], "layers_to_transform": [1], "r": 10}, 0),
        ("mistral", {"rank_pattern": {"v_proj": 8}}, 3),
        ("mistral", {"r": 128}, 13),
    ],
)
def test_8_bits_without_rounding_are_exact(without_rounding, kind, options, num_exact):
    """Training, scoring, and scoring the base alone; no weight is kept twice."""
    rows, labels = CASES["odd lengths"]
    packed = lay_out([Segment([5, 6, 7, 8]), Segment([9, 3], 0, 2), Segment([4], 0, 1)], "cpu")
    model = make_model(kind, lora=options, hidden_size=64, intermediate_size=128, head_dim=16)
    engine = installed(model)
    results = []
    for is_fp8 in (False, True):
        engine.weights.forget()
        engine.weights.switch_fp8(is_fp8)
        engine._keep(len(engine.layers))
        engine.refresh()
        trained = packed_gradients(model, rows, labels)
        with torch.inference_mode():
            scored = packed_logits(model, packed)
            with model.disable_adapter():
                engine.refresh()
                alone = packed_logits(model, packed)
            engine.refresh()
            assert torch.equal(packed_logits(model, packed), scored)
        results.append((trained, scored, alone))
        assert engine.products_in_8_bits() == ((13 - num_exact) * is_fp8, 13)
    assert not engine.weights._cache.keys() & engine.weights._cache_fp8.keys()
    assert len(engine.weights._cache_fp8) == 13 - num_exact
    (trained, *others), (trained_8, *others_8) = results
    assert_close(trained_8, trained, 2e-5, num=len(trained[1]))
    torch.testing.assert_close(others_8, others, rtol=2e-5, atol=2e-5)
    assert (others[0] - others[1]).abs().max() > 0.01
