"""What the engine reads of PEFT's LoRA layers. No other file here knows PEFT's attributes.

Axes: D inputs, N outputs, R rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ActiveLora:
    """The adapter that a layer applies now: A (R, D), B (N, R), LoRA's scaling, its dropout."""

    A: torch.Tensor
    B: torch.Tensor
    scaling: float
    dropout: float


def base_linear(module: torch.nn.Module) -> Any:
    """The linear layer inside PEFT's wrapper, or the module itself."""
    return getattr(module, "base_layer", module)


def active_lora(module: torch.nn.Module) -> ActiveLora | None:
    """The adapter that a layer applies now, if any. In eval mode its dropout is 0."""
    if not hasattr(module, "lora_A") or module.disable_adapters or module.merged:
        return None
    name = next(iter(_chosen_adapters(module)), None)
    if name is None:
        return None
    layer: Any = module
    dropout = layer.lora_dropout[name]
    drops = module.training and isinstance(dropout, torch.nn.Dropout)
    return ActiveLora(
        A=layer.lora_A[name].weight,
        B=layer.lora_B[name].weight,
        scaling=float(layer.scaling[name]),
        dropout=dropout.p if drops else 0.0,
    )


def active_ranks(modules: Sequence[torch.nn.Module]) -> list[int]:
    """The rank of every adapter that these layers apply now."""
    return [len(lora.A) for lora in map(active_lora, modules) if lora is not None]


def installed_ranks(modules: Sequence[torch.nn.Module]) -> list[int]:
    """The rank of every adapter that these layers apply unless adapters are switched off."""
    layers: list[Any] = [module for module in modules if hasattr(module, "lora_A")]
    names = [(layer, name) for layer in layers for name in _chosen_adapters(layer)[:1]]
    return [len(layer.lora_A[name].weight) for layer, name in names]


def merged_adapters(module: torch.nn.Module) -> list[str] | None:
    """Names of the adapters merged into a layer's weight, None for a layer without a wrapper."""
    names = getattr(module, "merged_adapters", None)
    return None if names is None else list(names)


def is_lora_matrix(parameter_name: str) -> bool:
    """Whether a parameter of this dotted name is an adapter's A or B."""
    return not {"lora_A", "lora_B"}.isdisjoint(parameter_name.split("."))


def is_plain(module: torch.nn.Module) -> bool:
    """Whether a layer does nothing but `x Wᵀ + bias` and at most one plain LoRA."""
    if not isinstance(base_linear(module), torch.nn.Linear):
        return False
    if not hasattr(module, "lora_A"):
        return module is base_linear(module)
    if module.disable_adapters:
        return not module.merged  # PEFT unmerges at the layer's next forward of its own
    if module.merged:
        return True
    names = _chosen_adapters(module)
    return len(names) < 2 and not any(
        name in module.lora_variant or module.lora_bias[name]  # type: ignore[operator, index]
        for name in names
    )


def _chosen_adapters(module: Any) -> list[str]:
    return [name for name in module.active_adapters if name in module.lora_A]
