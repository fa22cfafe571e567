"""A projection group against its formula, written out with autograd."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sentilora.engine import dropout as dropout_module
from sentilora.engine import lora, nf4
from sentilora.engine.dropout import drop
from sentilora.engine.groups import ProjectionGroup
from sentilora.engine.lora import project, project_backward, project_ranks
from sentilora.engine.nf4 import Weights

SEED = torch.tensor([1234])
NAMES = ["one", "two", "three"]


def make_group(*, dropout=0.0, biases=(True, False, True), adapted=NAMES, number=3, **options):
    """Three linear layers of 10 inputs and 6, 4 and 7 outputs, with ranks 2, 5 and 3, float64."""
    torch.manual_seed(0)
    net = torch.nn.Module()
    for name, size, bias in zip(NAMES, (6, 4, 7), biases, strict=True):
        net.add_module(name, torch.nn.Linear(10, size, bias=bias))
    ranks = {name: rank for name, rank in {"two": 5, "three": 3}.items() if name in adapted}
    config = {"r": 2, "lora_alpha": 3, "rank_pattern": ranks, "lora_dropout": dropout}
    config = {"target_modules": list(adapted), **config, **options}
    model = get_peft_model(net, LoraConfig(**config)).double()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    group = ProjectionGroup(net, NAMES, number, Weights())
    group.refresh()
    return model, net, group


def formula(net, x_TD, masks):
    """y = x Wᵀ + bias + scaling / (1 − p) · (m ⊙ x) Aᵀ Bᵀ for every layer, with these masks."""
    outputs = []
    masks = iter(masks)
    for name in NAMES:
        module = net.get_submodule(name)
        linear = getattr(module, "base_layer", module)
        y = torch.nn.functional.linear(x_TD, linear.weight, linear.bias)
        if module is not linear:
            A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
            dropout = module.lora_dropout["default"]
            rest = 1 - getattr(dropout, "p", 0.0) * dropout.training
            y = y + module.scaling["default"] / rest * (next(masks) * x_TD) @ A.T @ B.T
        outputs.append(y)
    assert next(masks, None) is None
    return torch.cat(outputs, -1)


def record_masks(monkeypatch):
    """A list of (seed, mask) of every mask that the engine draws from now on."""
    drawn = []

    def spy(x, probability, seed, in_place=False):
        drawn.append((seed, drop(torch.ones_like(x), probability, seed)))
        return drop(x, probability, seed, in_place)

    monkeypatch.setattr(lora, "drop", spy)
    return drawn


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("adapted", [NAMES, ["two"], ["one", "three"]])
@pytest.mark.parametrize("biases", [(True, False, True), (False, False, False)])
def test_a_group_equals_its_formula(monkeypatch, dropout, adapted, biases):
    _, net, group = make_group(dropout=dropout, adapted=adapted, biases=biases)
    assert len(group.adapters) == len(adapted) and group.dropout == dropout
    x = torch.randn(9, 10, dtype=torch.float64, requires_grad=True)
    d = torch.randn(9, 17, dtype=torch.float64)
    masks = record_masks(monkeypatch)
    y, h = project(x.detach(), group, SEED)
    forward = [mask for _, mask in masks] or [1.0] * len(adapted)
    assert len(forward) == len(adapted)
    dx, gradients = project_backward(d, x.detach(), h, group, SEED, needs_input_grad=True)

    expected = formula(net, x, forward)
    torch.testing.assert_close(y, expected)
    references = torch.autograd.grad(expected, [x, *group.parameters], d)
    assert len(gradients) == len(group.parameters) == 2 * len(adapted)
    for got, want in zip([dx, *gradients], references, strict=True):
        assert want.any()
        torch.testing.assert_close(got, want)
    none, again = project_backward(d, x.detach(), h, group, SEED, needs_input_grad=False)
    assert none is None
    assert all(torch.equal(a, b) for a, b in zip(gradients, again, strict=True))
    assert torch.equal(project_ranks(x.detach(), group, SEED), h)


def test_finite_differences_agree():
    """The backward pass draws the forward pass's masks: numerical gradients of a random draw."""
    _, _, group = make_group(dropout=0.4)
    x = torch.randn(4, 10, dtype=torch.float64)
    d = torch.randn(4, 17, dtype=torch.float64)
    _, h = project(x, group, SEED)
    dx, gradients = project_backward(d, x, h, group, SEED, needs_input_grad=True)
    num_checked = 0
    for tensor, gradient in zip([x, *group.parameters], [dx, *gradients], strict=True):
        values = tensor.data.view(-1)
        for i in range(values.numel()):
            losses = []
            for step in (1e-4, -2e-4):
                values[i] += step
                losses.append((project(x, group, SEED)[0].detach() * d).sum().item())
            values[i] += 1e-4
            numerical = (losses[0] - losses[1]) / 2e-4
            exact = gradient.reshape(-1)[i].item()
            assert math.isclose(exact, numerical, rel_tol=1e-5, abs_tol=1e-6)
            num_checked += 1
    assert num_checked == 40 + 2 * 16 + 5 * 14 + 3 * 17


def test_without_adapters_a_group_is_its_linear_layers():
    model, net, group = make_group()
    x = torch.randn(5, 10, dtype=torch.float64)
    with model.disable_adapter():
        group.refresh()
        y, h = project(x, group, SEED)
        assert h is None and not group.parameters and group.num_ranks == 0
        torch.testing.assert_close(
            y, torch.cat([net.get_submodule(n).base_layer(x) for n in NAMES], -1)
        )
        dx, gradients = project_backward(y, x, h, group, SEED, needs_input_grad=True)
        assert gradients == []
        torch.testing.assert_close(dx, y @ next(group.weight_parts(x.dtype))[1])
    group.refresh()
    assert len(group.parameters) == 6


@pytest.mark.parametrize("biases", [(True, False, True), (False, False, False)])
def test_large_groups_go_layer_by_layer(monkeypatch, biases):
    """The same numbers to rounding, with the weights of one layer at a time."""
    _, _, group = make_group(biases=biases)
    x, d = torch.randn(9, 10, dtype=torch.float64), torch.randn(9, 17, dtype=torch.float64)

    def run():
        y, h = project(x, group, SEED)
        dx, gradients = project_backward(d, x, h, group, SEED, needs_input_grad=True)
        return [y, dx, *gradients]

    assert nf4.largest_part(10, (6, 4, 7)) == 17 * 10
    expected = run()
    monkeypatch.setattr(nf4, "PART_ELEMENTS", 100)
    group.weights.forget()
    for got, want in zip(run(), expected, strict=True):
        torch.testing.assert_close(got, want)
    assert nf4.largest_part(10, (6, 4, 7)) == group.weights._buffer.numel() == 7 * 10
    group.keep()
    assert len(list(group.weight_parts(x.dtype))) == 1


def test_in_eval_mode_nothing_is_drop():
    model, _, group = make_group(dropout=0.5)
    assert group.dropout == 0.5
    model.eval()
    group.refresh()
    assert group.dropout == 0.0


def test_masks_of_groups_adapters_and_passes_differ(monkeypatch):
    """All masks differ, within a pass and between passes."""
    drawn = record_masks(monkeypatch)
    x = torch.ones(40, 10, dtype=torch.float64)
    for seed in (torch.tensor([99]), torch.tensor([2**30 - 1])):
        for number in range(4):
            project(x, make_group(dropout=0.5, number=number)[2], seed)
    assert len(drawn) == 2 * 4 * 3
    for i, (seed, mask) in enumerate(drawn):
        for other_seed, other in drawn[:i]:
            assert seed != other_seed
            # Independent masks of 400 elements agree in half of them.
            assert abs((mask == other).double().mean().item() - 0.5) < 0.15


def test_the_same_seed_draws_the_same_masks():
    x = torch.randn(7, 10, dtype=torch.float64)
    results = []
    for _ in range(2):
        dropout_module._draw_zeros.cache_clear()  # drawn again, not looked up
        results.append(project(x, make_group(dropout=0.5)[2], SEED)[0])
    results.append(project(x, make_group(dropout=0.5)[2], SEED + 2**20)[0])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_rank_stabilized_scaling_is_followed():
    _, net, group = make_group(use_rslora=True)
    expected = [3 / math.sqrt(rank) for rank in (2, 5, 3)]
    assert [adapter.scaling for adapter in group.adapters] == pytest.approx(expected)
    x = torch.randn(5, 10, dtype=torch.float64)
    torch.testing.assert_close(project(x, group, SEED)[0], formula(net, x, [1.0] * 3))
