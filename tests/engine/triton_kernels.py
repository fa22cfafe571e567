"""The Triton kernels against the plain PyTorch beside them, in Triton's interpreter, float32.

TRITON_INTERPRET=1 pytest tests/engine/triton_kernels.py      # test_interpreter.py does it
"""

import math

import pytest
import torch
from test_attention import FORESTS
from test_lora import NAMES, formula, make_group
from test_nf4 import by_definition, make_linear
from tiny_models import (
    CASES,
    KINDS,
    assert_close,
    assert_equal,
    installed,
    make_model,
    packed_gradients,
    plain_gradients,
)

from sentilora.engine import attention, elementwise, fp8, kernels, lora, lora_kernels, nf4
from sentilora.engine.lora import project, project_backward, project_ranks
from sentilora.engine.segments import Segment, lay_out
from sentilora.engine.swap import packed_logits

assert kernels.triton is not None and kernels.INTERPRETED, "set TRITON_INTERPRET=1"


def plainly(function, *args):
    """What a function gives without kernels."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (attention, elementwise, fp8, lora):
            patch.setattr(module, "use_triton", lambda x: False)
        return function(*args)


def assert_same(function, *args):
    """A kernel against plain PyTorch, to float32's rounding."""
    assert kernels.use_triton(args[0])
    torch.testing.assert_close(function(*args), plainly(function, *args), rtol=2e-6, atol=2e-6)


# --- elementwise ---------------------------------------------------------------------------------

SHAPES = [(1, 2), (5, 24), (7, 64), (3, 1030)]


def apart(T, D):
    """(T, D) whose rows lie apart."""
    return torch.randn(T, D + 3)[:, :D]


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
    """150 queries behind 70 shared keys: more than a tile of either; the gradient's rows apart."""
    segments = [Segment([0] * 70), Segment([0] * 150, 0, 2), Segment([0] * 40, 0, 1)]
    who = lay_out(segments, "cpu").attention
    q, kv = torch.randn(260, 2, 16, requires_grad=True), torch.randn(260, 2, 16, requires_grad=True)
    d = apart(260, 32).unflatten(1, (2, 16))
    for window in (None, 50):
        found = []
        for attend in (attention.by_segment, attention.tiled):
            out = attend(q, kv, who, 0.3, window)
            found.append((out, *torch.autograd.grad(out, (q, kv), d)))
        for want, got in zip(*found, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


# --- keys, weights, 8 bits -----------------------------------------------------------------------


@pytest.mark.parametrize("round_up", [False, True])
def test_gradients_of_shared_keys(round_up):
    segments = [Segment([0] * 5), Segment([0] * 4, 0, 1), Segment([0] * 3, 1, 2), Segment([0], 0)]
    packed = lay_out(segments, "cpu", round_up=round_up)
    num_checked = 0
    for found in (packed.attention, packed.answers):
        kv = torch.randn(packed.num_tokens, 2 * 2, 6, requires_grad=True)
        d = torch.randn(2, len(found.key_rows_K), 2, 6)

        def gradient(kv, found=found, d=d):
            k, v = attention.SplitKeys.apply(kv, found)
            return torch.autograd.grad((k * d[0] + v * d[1]).sum(), kv)[0]

        assert_same(gradient, kv)
        num_checked += 1
    assert num_checked == 2


@pytest.mark.parametrize("shape", [(64, 3), (192, 20), (128, 700)])
def test_decoded_weights_are_the_same_bits(shape):
    linear = make_linear(*shape)
    assert nf4._fits_kernel(linear, linear.weight.quant_state)
    wide = torch.full((shape[1], shape[0] + 5), 7.0)
    nf4.decode(linear, wide[:, : shape[0]])
    assert torch.equal(wide[:, : shape[0]], by_definition(linear))
    assert (wide[:, shape[0] :] == 7).all()


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
        # A rounding of the scale may move what lies between two numbers: by one of them at most.
        assert (difference <= expected[~carried].abs() / 8).all()
        assert (difference > 0).double().mean() < 0.01 and carried.double().mean() < 0.1


def assert_mostly_near(found, expected, relative, carried):
    """Within `relative` or 2⁻¹⁰ of the largest, but for a share: the interpreter's carry, above."""
    bound = relative * expected.abs() + 2**-10 * expected.abs().max()
    assert ((found - expected).abs() > bound).double().mean() <= carried


@pytest.mark.parametrize("use_kernels", [True, False])
@pytest.mark.parametrize("R", [16, 48, 10])
def test_adapters_in_8_bits_keep_the_precision_of_16(use_kernels, R):
    """A number and its rest: 2⁻⁷ of it, or 2⁻¹⁰ of the largest; W's row of zeros costs most."""
    torch.manual_seed(R)

    def assert_near(found, expected):
        assert_mostly_near(found, expected, 2**-7, 0.05 if use_kernels else 0.0)

    run = (lambda function, *args: function(*args)) if use_kernels else plainly
    W, B = torch.randn(70, 96), torch.randn(70, R) * 0.1
    W[3] = 0.0
    x, h = torch.randn(9, 96), torch.randn(9, R)
    weight = run(fp8.quantize_weight, W, R)
    run(fp8.place, weight, B)
    x8, scale = run(fp8.quantize_rows, x, h, weight.factor)
    assert x8.shape[1] == weight.forward_ND.shape[1] == 96 + -(-3 * R // 16) * 16
    x8, w8 = x8.float(), weight.forward_ND.float()
    assert not x8[:, 96 + 3 * R :].any() and not w8[:, 96 + 3 * R :].any()
    high, rest, again = (x8[:, 96 + i * R : 96 + (i + 1) * R] for i in range(3))
    assert torch.equal(high, again)
    found = (high + rest) * scale[:, None] / weight.factor
    assert_near(found, h)
    high, again, rest = (w8[:, 96 + i * R : 96 + (i + 1) * R] for i in range(3))
    assert torch.equal(high, again)
    found = (high + rest) * weight.forward_scale_N[:, None] * weight.factor
    assert_near(found, B)
    y = (x8 @ w8.T) * scale[:, None] * weight.forward_scale_N
    expected = x @ W.T + h @ B.T
    assert (y - expected).norm() < 0.1 * expected.norm()
    back = weight.backward_DN.float() * weight.backward_scale_D[:, None]
    assert len(back) == 96 + -(-2 * R // 16) * 16 and not back[96 + 2 * R :].any()
    found = back[96 : 96 + R] + back[96 + R : 96 + 2 * R]
    assert_near(found, B.T)


# --- projection groups ---------------------------------------------------------------------------

SEED = torch.tensor([4321])


def make_float_group(adapted=NAMES, r=16, dropout=0.0, number=3):
    model, net, group = make_group(
        dropout=dropout, adapted=adapted, number=number, r=r, rank_pattern={}
    )
    model.float()
    group.refresh()
    assert group.room == -(-r * len(adapted) // 64) * 64
    return net, group


def masks_of(group, seed, T):
    """Read off `down`, whose x is all ones, as many columns at a time as A can pick."""
    D = group.num_in
    rank = len(group.adapters[0].A)
    masks = torch.empty(len(group.adapters), T, D)
    kept = [adapter.A.detach().clone() for adapter in group.adapters]
    for start in range(0, D, rank):
        width = min(rank, D - start)
        for adapter in group.adapters:
            adapter.A.data.zero_()
            adapter.A.data[:width, start : start + width] = torch.eye(width)
        h = project_ranks(torch.ones(T, D), group, seed)
        for number, adapter in enumerate(group.adapters):
            picked = h[:, adapter.ranks][:, :width] / lora._scale(group, adapter)
            masks[number, :, start : start + width] = picked
    for adapter, values in zip(group.adapters, kept, strict=True):
        adapter.A.data.copy_(values)
    assert torch.isin(masks.round(decimals=5), torch.tensor([0.0, 1.0])).all()
    return masks.round()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("adapted", [NAMES, ["one", "three"], ["two"]])
@pytest.mark.parametrize("T, r", [(1, 16), (37, 32), (520, 16), (40, 5)])  # 520: in two splits
def test_a_group_equals_its_formula(T, r, adapted, dropout):
    net, group = make_float_group(adapted, r, dropout)
    masks = masks_of(group, SEED, T)
    assert masks.all() == (dropout == 0.0) or T == 1
    x = torch.randn(T, 10, requires_grad=True)
    d = torch.randn(T, 17)
    expected = formula(net, x, masks)
    wanted = torch.autograd.grad(expected, [x, *group.parameters], d)
    with_room = group.new_input(x)
    assert with_room.shape == (T, 10 + group.room)
    with_room[:, :10] = x.detach()
    for given in (with_room, x.detach()):
        y, h = project(given, group, SEED)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        assert h.shape == (T, r * len(adapted))
        for needs_input_grad in (True, False):
            dx, gradients = project_backward(d, x.detach(), h, group, SEED, needs_input_grad)
            assert (dx is not None) == needs_input_grad
            assert len(gradients) == len(wanted) - 1 == 2 * len(adapted)
            pairs = zip([dx, *gradients], wanted, strict=True)
            for got, want in list(pairs)[not needs_input_grad :]:
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(project_ranks(x.detach(), group, SEED), h, rtol=0, atol=0)


@pytest.mark.parametrize("adapted", [NAMES, ["two"]])
@pytest.mark.parametrize("is_swiglu", [False, True])
def test_scoring_gives_what_training_without_dropout_gives(adapted, is_swiglu):
    _, group = make_float_group(adapted, 16, 0.0)
    gate_up = torch.randn(23, 20)
    x = gate_up if is_swiglu else group.new_input(gate_up)
    if not is_swiglu:
        x[:, :10] = gate_up[:, :10]
    y, h = project(x.clone(), group, SEED, is_swiglu)
    with torch.inference_mode():
        got = project(x.clone(), group, SEED, is_swiglu)
        ranks = project_ranks(x if is_swiglu else x[:, :10], group, SEED, is_swiglu)
    torch.testing.assert_close(got[0], y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[1], h, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ranks, h, rtol=1e-5, atol=1e-5)


def test_wide_inputs_are_split():
    """2,100 inputs in two splits: the sum of all of them, and SwiGLU's output as a whole."""
    A, scales = [torch.randn(16, 2100) for _ in range(2)], [1.5, 0.5]
    masks = lora_kernels.Masks(0.0, SEED, 0)
    gate_up = torch.randn(20, 4200)
    x = elementwise.swiglu(gate_up)
    expected = torch.cat([scale * x @ a.T for a, scale in zip(A, scales, strict=True)], 1)
    for given, is_swiglu in ((x, False), (gate_up, True)):
        into = torch.full((20, 2100 + 64), 7.0)
        h = lora_kernels.down(given, A, scales, masks, into, is_swiglu)
        torch.testing.assert_close(h, expected, rtol=1e-4, atol=1e-3)
        assert torch.equal(into[:, 2100:2132], h) and not into[:, 2132:].any()
        assert torch.equal(into[:, :2100], x) if is_swiglu else (into[:, :2100] == 7).all()


@pytest.mark.parametrize("T, r, dropout", [(37, 16, 0.3), (520, 5, 0.0)])
def test_backward_through_swiglu(T, r, dropout):
    """In one pass with the group's, and into the place of its input."""
    _, group = make_float_group(["two"], r, dropout)
    z, d = torch.randn(T, 20) * 3, torch.randn(T, 17)
    x = elementwise.swiglu(z)
    y, h = project(x, group, SEED)
    for got, want in zip(project(z, group, SEED, is_swiglu=True), (y, h), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert torch.equal(project_ranks(z, group, SEED, is_swiglu=True), h)
    dx, expected = project_backward(d, x, h, group, SEED, True)
    dz = elementwise.swiglu_backward(dx, z)
    given = z.clone()
    none, gradients = project_backward(d, given, h, group, SEED, False, is_swiglu=True)
    assert none is None and torch.equal(given, z)
    got, again = project_backward(d, given, h, group, SEED, True, is_swiglu=True)
    assert got is given
    torch.testing.assert_close(got, dz, rtol=1e-5, atol=1e-5)
    for ours in (gradients, again):
        for ours_one, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(ours_one, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("T, dropout", [(37, 0.3), (520, 0.0)])
def test_backward_of_a_normed_input(T, dropout):
    """The norm is computed again where its result is read: the same bits as from the result."""
    _, group = make_float_group(dropout=dropout)
    x, d = torch.randn(T, group.num_in) * 3, torch.randn(T, group.num_out)
    norm = elementwise.Norm(torch.rand(group.num_in) + 0.5, 1e-5, torch.empty(T))
    normed = norm(x)
    _, h = project(normed, group, SEED)
    dx, expected = project_backward(d, normed, h, group, SEED, True)
    got, gradients = project_backward(d, x, h, group, SEED, True, norm=norm)
    assert torch.equal(got, dx) and len(gradients) == len(expected) == 2 * len(group.adapters)
    assert all(map(torch.equal, gradients, expected))


def whole_weight(group):
    return torch.cat([weight.clone() for _, weight in group.weight_parts(torch.float32)])


def test_B_matrices_stand_behind_the_weights():
    _, group = make_float_group()
    weight = whole_weight(group)
    assert weight.shape == (17, 10 + 64)
    expected = torch.zeros(17, 64)
    for adapter in group.adapters:
        expected[adapter.outputs, adapter.ranks] = adapter.B.detach()
    assert torch.equal(weight[:, 10:], expected) and expected.any()
    # kept weights too see new values of B, once asked to look
    group.weights.keep(group)
    whole_weight(group)
    group.adapters[1].B.data.add_(1)
    group.refresh()
    at = group.adapters[1]
    assert torch.equal(whole_weight(group)[at.outputs, 10:][:, at.ranks], at.B)


@pytest.mark.parametrize("probability", [0.05, 0.5])
def test_the_share_of_zeros_is_right(probability):
    """Within five standard deviations: over all, per column, row and place, of pairs of any two."""
    zeros = []
    for seed in range(2):
        torch.manual_seed(0)
        group = wide_group(probability)
        zeros.append(masks_of(group, torch.tensor([seed]), 200) == 0)
    first, second, third = zero = torch.cat(zeros, 1)
    assert zero.shape == (3, 400, 200)
    alone = [zero, *zero, *(zero[:, :, i::8] for i in range(8))]
    alone += [*zero.split(20, 2), *zero.split(100, 1)]
    pairs = [first & second, first & third, second & third]
    pairs += [zero[:, :, n:] & zero[:, :, :-n] for n in (1, 2, 8, 16)]
    pairs += [zero[:, n:] & zero[:, :-n] for n in (1, 2, 16, 200)]
    for part, share in [(p, probability) for p in alone] + [(p, probability**2) for p in pairs]:
        num = part.numel()
        spread = math.sqrt(num * share * (1 - share)) * (1 if share == probability else 1.8)
        assert abs(part.sum().item() - num * share) <= 5 * spread + 1
    assert len(alone) == 4 + 8 + 10 + 4


def wide_group(probability):
    """Three layers of 200 inputs."""
    from peft import LoraConfig, get_peft_model

    from sentilora.engine.lora import ProjectionGroup
    from sentilora.engine.nf4 import Weights

    net = torch.nn.Module()
    for name in NAMES:
        net.add_module(name, torch.nn.Linear(200, 4))
    config = LoraConfig(r=16, lora_dropout=probability, target_modules=NAMES)
    get_peft_model(net, config).train()
    group = ProjectionGroup(net, NAMES, 3, Weights())
    group.refresh()
    assert group.room == 64 and group.dropout == probability
    return group


def test_masks_of_groups_adapters_and_passes_differ():
    found = []
    for seed in (torch.tensor([99]), torch.tensor([2**30 - 1])):
        for number in range(3):
            found += masks_of(make_float_group(dropout=0.5, number=number)[1], seed, 60)
    assert len(found) == 2 * 3 * 3
    for i, mask in enumerate(found):
        for other in found[:i]:
            assert abs((mask == other).double().mean().item() - 0.5) < 0.12
    again = masks_of(make_float_group(dropout=0.5, number=2)[1], torch.tensor([2**30 - 1]), 60)
    assert torch.equal(again, torch.stack(found[-3:]))


# --- whole models --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_plain(kind):
    """With weights in NF4, decoded at each use, then kept; and rounded up."""
    rows, labels = CASES["a one-token review"]
    model = make_model(kind, nf4=True, num_layers=2, lora={"r": 16})
    expected = plain_gradients(model, rows, labels)
    engine = installed(model)
    groups = [group for layer in engine.layers for group in layer.fast.groups.values()]
    assert [group.room for group in groups] == [64] * 9
    used = packed_gradients(model, rows, labels)
    assert_close(used, expected, 1e-5, num=28)
    for group in groups:
        engine.weights.keep(group)
    for _ in range(2):
        engine.refresh()
        assert_equal(packed_gradients(model, rows, labels), used, num=28)
    for layer in engine.layers:  # as on a GPU: no copies between attention and the projections
        layer.fast.attend = attention.tiled
    assert_close(packed_gradients(model, rows, labels), expected, 1e-5, num=28)
    if kind == "llama":
        rounded = packed_gradients(model, rows, labels, round_up=True)
        assert_close(rounded, expected, 1e-5, num=28)


@pytest.mark.parametrize("r", [16, 4, 80])  # 80: without room, what CPUs take
def test_layers_computed_twice_give_the_same_bits(r):
    rows, labels = CASES["one example"]
    model = make_model("qwen2", dropout=0.3, num_layers=2, lora={"r": r})
    installed(model)
    expected = packed_gradients(model, rows, labels, dropout_seed=9)
    for num in (1, 2):
        got = packed_gradients(model, rows, labels, dropout_seed=9, checkpoint_layers=num)
        assert_equal(got, expected, num=28)


@pytest.mark.parametrize("use_kernels", [True, False])
@pytest.mark.parametrize("kind", ["plain", "norm", "swiglu"])
@pytest.mark.parametrize("R, size", [(16, 0.01), (10, 3.0)])
def test_inputs_to_score_in_8_bits(use_kernels, kind, R, size):
    """A's product is of the 8 bits. Large B: h decides the scale."""
    torch.manual_seed(R)

    def assert_near(found, expected, relative):
        assert_mostly_near(found, expected, relative, 0.1 if use_kernels else 0.0)

    run = (lambda function, *args: function(*args)) if use_kernels else plainly
    W, A, B = torch.randn(70, 96), torch.randn(R, 96) * 0.2, torch.randn(70, R) * size
    weight = run(fp8.quantize_weight, W, R)
    run(fp8.place, weight, B)
    run(fp8.place_down, weight, A)
    down = weight.down_RD.float() * weight.down_scale_R[:, None]
    assert down.shape == (-(-2 * R // 16) * 16, 96 + weight.room)
    assert not down[2 * R :].any() and not down[:, 96:].any()
    down = down[:, :96]
    torch.testing.assert_close(down[:R] + down[R : 2 * R], A, rtol=2**-7, atol=2**-10)

    norm = elementwise.Norm(torch.rand(96), 1e-5) if kind == "norm" else None
    x = torch.randn(40, 2 * 96 if kind == "swiglu" else 96) * 3
    x[7] = 0.0
    inputs = norm(x) if norm else elementwise.swiglu(x) if kind == "swiglu" else x
    x8, scale = run(fp8.quantize_input, x, weight, weight.reach, norm, kind == "swiglu")
    assert weight.room == -(-3 * R // 16) * 16 and not x8[:, 96:].float().any()
    own = x8[:, :96].float() * scale[:, None]
    assert_near(own, inputs, 2**-4)
    ranks = own @ down.T
    h = ranks[:, :R] + ranks[:, R : 2 * R]
    assert (weight.factor * h.abs().amax(-1) <= weight.reach * inputs.norm(dim=-1)).all()
    run(fp8.place_ranks, x8, scale, weight, ranks)
    high, rest, again = (x8[:, 96 + i * R : 96 + (i + 1) * R].float() for i in range(3))
    assert torch.equal(high, again) and not x8[:, 96 + 3 * R :].float().any()
    found = (high + rest) * scale[:, None] / weight.factor
    assert_near(found, h, 2**-7)
    y = (x8.float() @ weight.forward_ND.float().T) * scale[:, None] * weight.forward_scale_N
    expected = inputs @ W.T + inputs @ A.T @ B.T
    assert (y - expected).norm() < (0.15 if use_kernels else 0.05) * expected.norm()


@pytest.fixture
def without_rounding(monkeypatch):
    """Products in 8 bits, but in float32: what remains is where every number goes."""

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
    found = []
    for is_fp8 in (False, True):
        engine.weights.forget()
        engine.weights.fp8 = is_fp8
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
        found.append((trained, scored, alone))
        assert engine.products_in_8_bits() == ((13 - num_exact) * is_fp8, 13)
    assert not engine.weights._kept.keys() & engine.weights._kept_fp8.keys()
    assert len(engine.weights._kept_fp8) == 13 - num_exact
    (trained, *others), (trained_8, *others_8) = found
    assert_close(trained_8, trained, 2e-5, num=len(trained[1]))
    torch.testing.assert_close(others_8, others, rtol=2e-5, atol=2e-5)
    assert (others[0] - others[1]).abs().max() > 0.01
