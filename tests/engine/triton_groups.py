"""Projection groups and whole models on the Triton kernels, in the interpreter, in float32.

TRITON_INTERPRET=1 pytest tests/engine/triton_groups.py      # test_triton.py runs it
"""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from test_lora import NAMES, formula, make_group
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

from sentilora.engine import attention, elementwise, kernels, lora_kernels
from sentilora.engine.elementwise import SwiGLU
from sentilora.engine.groups import ProjectionGroup
from sentilora.engine.lora import project, project_backward, project_ranks
from sentilora.engine.nf4 import Weights

assert kernels.HAS_TRITON and kernels.INTERPRETED, "set TRITON_INTERPRET=1"

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
    """The masks, from `down` of ones, with as many columns at a time as A can select."""
    D = group.num_in
    rank = len(group.adapters[0].A)
    masks = torch.empty(len(group.adapters), T, D)
    matrices = [adapter.A.detach().clone() for adapter in group.adapters]
    for start in range(0, D, rank):
        width = min(rank, D - start)
        for adapter in group.adapters:
            adapter.A.data.zero_()
            adapter.A.data[:width, start : start + width] = torch.eye(width)
        h = project_ranks(torch.ones(T, D), group, seed)
        for number, adapter in enumerate(group.adapters):
            picked = h[:, adapter.ranks][:, :width] / group.scale_of(adapter)
            masks[number, :, start : start + width] = picked
    for adapter, values in zip(group.adapters, matrices, strict=True):
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
    references = torch.autograd.grad(expected, [x, *group.parameters], d)
    with_room = group.new_input(x)
    assert with_room.shape == (T, 10 + group.room)
    with_room[:, :10] = x.detach()
    for inputs in (with_room, x.detach()):
        y, h = project(inputs, group, SEED)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        assert h.shape == (T, r * len(adapted))
        for needs_input_grad in (True, False):
            dx, gradients = project_backward(d, x.detach(), h, group, SEED, needs_input_grad)
            assert (dx is not None) == needs_input_grad
            assert len(gradients) == len(references) - 1 == 2 * len(adapted)
            pairs = zip([dx, *gradients], references, strict=True)
            for got, want in list(pairs)[not needs_input_grad :]:
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(project_ranks(x.detach(), group, SEED), h, rtol=0, atol=0)


@pytest.mark.parametrize("adapted", [NAMES, ["two"]])
@pytest.mark.parametrize("prologue", [None, SwiGLU()], ids=["plain", "swiglu"])
def test_scoring_gives_what_training_without_dropout_gives(adapted, prologue):
    _, group = make_float_group(adapted, 16, 0.0)
    gate_up = torch.randn(23, 20)
    x = gate_up if prologue else group.new_input(gate_up)
    if prologue is None:
        x[:, :10] = gate_up[:, :10]
    y, h = project(x.clone(), group, SEED, prologue)
    with torch.inference_mode():
        got = project(x.clone(), group, SEED, prologue)
        ranks = project_ranks(x if prologue else x[:, :10], group, SEED, prologue)
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
    for inputs, prologue in ((x, None), (gate_up, SwiGLU())):
        into = torch.full((20, 2100 + 64), 7.0)
        h = lora_kernels.down(inputs, A, scales, masks, into, prologue)
        torch.testing.assert_close(h, expected, rtol=1e-4, atol=1e-3)
        assert torch.equal(into[:, 2100:2132], h) and not into[:, 2132:].any()
        assert torch.equal(into[:, :2100], x) if prologue else (into[:, :2100] == 7).all()


@pytest.mark.parametrize("T, r, dropout", [(37, 16, 0.3), (520, 5, 0.0)])
def test_backward_through_swiglu(T, r, dropout):
    """In one pass with the group's gradients, overwriting its input."""
    _, group = make_float_group(["two"], r, dropout)
    z, d = torch.randn(T, 20) * 3, torch.randn(T, 17)
    x = elementwise.swiglu(z)
    y, h = project(x, group, SEED)
    for got, want in zip(project(z, group, SEED, SwiGLU()), (y, h), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert torch.equal(project_ranks(z, group, SEED, SwiGLU()), h)
    dx, expected = project_backward(d, x, h, group, SEED, True)
    dz = elementwise.swiglu_backward(dx, z)
    overwritten = z.clone()
    none, gradients = project_backward(d, overwritten, h, group, SEED, False, SwiGLU())
    assert none is None and torch.equal(overwritten, z)
    got, again = project_backward(d, overwritten, h, group, SEED, True, SwiGLU())
    assert got is overwritten
    torch.testing.assert_close(got, dz, rtol=1e-5, atol=1e-5)
    for ours in (gradients, again):
        for ours_one, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(ours_one, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("T, dropout", [(37, 0.3), (520, 0.0)])
def test_backward_of_a_normed_input(T, dropout):
    """The backward pass computes the norm again, to the same bits as from the stored result."""
    _, group = make_float_group(dropout=dropout)
    x, d = torch.randn(T, group.num_in) * 3, torch.randn(T, group.num_out)
    norm = elementwise.Norm(torch.rand(group.num_in) + 0.5, 1e-5, torch.empty(T))
    normed = norm(x)
    _, h = project(normed, group, SEED)
    dx, expected = project_backward(d, normed, h, group, SEED, True)
    got, gradients = project_backward(d, x, h, group, SEED, True, norm)
    assert torch.equal(got, dx) and len(gradients) == len(expected) == 2 * len(group.adapters)
    assert all(map(torch.equal, gradients, expected))


def whole_weight(group):
    return torch.cat([weight.clone() for _, weight in group.weight_parts(torch.float32)])


def test_B_matrices_follow_the_weights():
    _, group = make_float_group()
    weight = whole_weight(group)
    assert weight.shape == (17, 10 + 64)
    expected = torch.zeros(17, 64)
    for adapter in group.adapters:
        expected[adapter.outputs, adapter.ranks] = adapter.B.detach()
    assert torch.equal(weight[:, 10:], expected) and expected.any()
    # kept weights get new values of B too, after a refresh
    group.keep()
    whole_weight(group)
    group.adapters[1].B.data.add_(1)
    group.refresh()
    at = group.adapters[1]
    assert torch.equal(whole_weight(group)[at.outputs, 10:][:, at.ranks], at.B)


@pytest.mark.parametrize("probability", [0.05, 0.5])
def test_the_share_of_zeros_is_right(probability):
    """Within five standard deviations: overall, by column, row and position, and for pairs."""
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
    masks = []
    for seed in (torch.tensor([99]), torch.tensor([2**30 - 1])):
        for number in range(3):
            masks += masks_of(make_float_group(dropout=0.5, number=number)[1], seed, 60)
    assert len(masks) == 2 * 3 * 3
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert abs((mask == other).double().mean().item() - 0.5) < 0.12
    again = masks_of(make_float_group(dropout=0.5, number=2)[1], torch.tensor([2**30 - 1]), 60)
    assert torch.equal(again, torch.stack(masks[-3:]))


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
    first = engine.layers[0].fast.groups.values()
    elements = sum(group.num_out * (group.num_in + group.room) for group in first)
    assert engine.sizes().weights == 4 * elements  # what is planned with
    used = packed_gradients(model, rows, labels)
    assert_close(used, expected, 1e-5, num=28)
    for group in groups:
        group.keep()
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
