"""Data-parallel training: what several processes decide and compute together."""

from collections.abc import Callable, Sequence

import torch


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is true in any process. Every process must call it; one alone pays nothing."""
    if not several_processes():
        return flag
    vote = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(vote, torch.distributed.ReduceOp.MAX)
    return bool(vote.item())


def several_processes() -> bool:
    """Whether this run has a process group."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def wait_for_all() -> None:
    """Return once every process has called this."""
    if several_processes():
        torch.distributed.barrier()


def as_one(collective: Callable[[torch.Tensor], object], tensors: Sequence[torch.Tensor]) -> None:
    """Run one collective operation over all tensors at once, in place. They share a device."""
    whole = torch.cat([tensor.flatten() for tensor in tensors])
    collective(whole)
    parts = whole.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))
