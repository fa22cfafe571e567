"""Dropout whose mask is drawn from a seed, so that the backward pass can draw it again.

Axes: T tokens, D input.
"""

from functools import lru_cache

import numpy as np
import torch


def drop(x_TD: torch.Tensor, probability: float, seed: int, in_place: bool = False) -> torch.Tensor:
    """`x` with each element zero at this probability, not rescaled. The seed decides which.

    On the CPU only the positions that become zero are drawn, by the gaps between them: those of a
    Bernoulli process are geometric.
    """
    if not probability:
        return x_TD
    out = x_TD if in_place else x_TD.clone()
    if x_TD.is_cuda:
        generator = torch.Generator(x_TD.device).manual_seed(seed)
        zero = torch.rand(x_TD.shape, generator=generator, device=x_TD.device) < probability
        return out.masked_fill_(zero, 0)
    out.view(-1).index_fill_(0, _draw_zeros(x_TD.numel(), probability, seed), 0)
    return out


@lru_cache(maxsize=256)  # the backward pass asks again for what the forward pass drew
def _draw_zeros(num: int, probability: float, seed: int) -> torch.Tensor:
    """Positions below `num` that become zero, in ascending order."""
    random = np.random.Generator(np.random.SFC64(seed))
    parts: list[np.ndarray] = []
    last = -1
    while last < num:
        expected = (num - last) * probability
        gaps = random.standard_exponential(int(expected + 5 * expected**0.5) + 16, np.float32)
        gaps /= -np.log1p(-probability)
        positions = np.cumsum(gaps.astype(np.int64) + 1) + last
        parts.append(positions)
        last = int(positions[-1])
    zeros = np.concatenate(parts) if len(parts) > 1 else parts[0]
    return torch.from_numpy(zeros[: np.searchsorted(zeros, num)])
