"""Masks drawn from a seed: how many zeros, where, and what they leave alone."""

import math

import pytest
import torch

from sentilora.engine.dropout import drop


@pytest.mark.parametrize("probability", [0.01, 0.05, 0.5, 0.9])
def test_the_share_of_zeros_is_right(probability):
    """Within five standard deviations: overall, by column and row, and for pairs of neighbors."""
    T, D = 400, 100
    num_looked_at = 0
    for seed in range(8):
        zero = drop(torch.ones(T, D), probability, seed) == 0
        parts = [zero, *zero.split(10, 1), *zero.split(40, 0)]
        pairs = [zero[:, 1:] & zero[:, :-1], zero[1:] & zero[:-1]]
        for part, share in [(p, probability) for p in parts] + [(p, probability**2) for p in pairs]:
            num = part.numel()
            # Pairs overlap, which widens their spread; never more than threefold.
            spread = math.sqrt(num * share * (1 - share)) * (1 if share == probability else 1.8)
            assert abs(part.sum().item() - num * share) <= 5 * spread + 1
            num_looked_at += 1
    assert num_looked_at == 8 * (1 + 10 + 10 + 2)


def test_kept_elements_are_untouched_and_in_place_is_in_place():
    x = torch.randn(30, 11)
    out = drop(x, 0.3, 5)
    assert out is not x and 0 < (out == 0).sum() < x.numel()
    assert torch.equal(out[out != 0], x[out != 0])
    same = drop(x.clone(), 0.3, 5)
    assert torch.equal(same, out)
    assert drop(x, 0.0, 5) is x
    copy = x.clone()
    assert drop(copy, 0.3, 5, in_place=True) is copy and torch.equal(copy, out)
    apart = torch.randn(30, 20)[:, :11]  # rows that lie apart
    assert torch.equal(drop(apart, 0.3, 5) == 0, out == 0)


@pytest.mark.parametrize("probability", [1e-6, 0.999999])
@pytest.mark.parametrize("num", [1, 2, 1000])
def test_extreme_probabilities(probability, num):
    for seed in range(20):
        zeros = (drop(torch.ones(num, 1), probability, seed) == 0).sum().item()
        assert zeros == (0 if probability < 0.5 else num)
