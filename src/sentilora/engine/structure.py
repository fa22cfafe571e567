"""What the engine needs a model to be made of, and the sizes of such a model.

The model's name does not matter, only the parts of its layers do. Everything here reads modules and
shapes, never values, so it also works on torch's meta device.
"""

from collections.abc import Sequence
from typing import Any

import torch

from sentilora.engine.layer import FastLayer
from sentilora.engine.peft_layers import active_ranks, base_linear, is_lora_matrix, is_plain
from sentilora.engine.sizes import GroupShape, ModelShape

GROUPS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
LAST_GROUPS = {
    "q": ("self_attn.q_proj",),
    "kv": ("self_attn.k_proj", "self_attn.v_proj"),
    **{name: GROUPS[name] for name in ("o", "gate_up", "down")},
}


def group_names(number: int, num_layers: int) -> dict[str, tuple[str, ...]]:
    """Projection groups of layer `number`, and the names of their modules."""
    return LAST_GROUPS if number == num_layers - 1 else GROUPS


def find_layers(model: torch.nn.Module) -> list[Any]:
    """The decoder layers: the longest list of modules that all have the parts of `GROUPS`."""
    longest: list[Any] = []
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) > len(longest):
            layers = list(module)
            if all(_has_parts(layer) for layer in layers):
                longest = layers
    return longest


def _has_parts(layer: torch.nn.Module) -> bool:
    try:
        for names in GROUPS.values():
            for name in names:
                layer.get_submodule(name)
    except AttributeError:
        return False
    children = {name for name, _ in layer.named_children()}
    return children == {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


def find_rotary(model: torch.nn.Module) -> Any:
    """The model's rotary embedding, None if it has none of its own."""
    return next(
        (module for name, module in model.named_modules() if name.endswith("rotary_emb")), None
    )


def why_not(model: torch.nn.Module) -> str | None:
    """Why the engine does not support this model's structure, None if it does."""
    layers = find_layers(model)
    if not layers:
        return "its layers are of another structure"
    reason = next((reason for layer in layers if (reason := _why_not(layer))), None)
    if reason is None and find_rotary(model) is None:
        return "it has no rotary embedding of its own"
    return reason


def _why_not(layer: Any) -> str | None:
    if isinstance(layer, FastLayer):
        return "it has fast layers already"
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad and not is_lora_matrix(name):
            return f"it trains {name}"
    attention = layer.self_attn
    for norm in (layer.input_layernorm, layer.post_attention_layernorm):
        if not hasattr(norm, "variance_epsilon") or not hasattr(norm, "weight"):
            return f"its norm is {type(norm).__name__}"
    if not hasattr(attention, "head_dim") or not hasattr(attention, "scaling"):
        return f"its attention is {type(attention).__name__}"
    if getattr(attention, "attention_dropout", 0.0):
        return "it drops attention weights"
    for names in GROUPS.values():
        for name in names:
            module = layer.get_submodule(name)
            linear = base_linear(module)
            if not isinstance(linear, torch.nn.Linear):
                return f"{name} is {type(linear).__name__}"
            if not is_plain(module):
                return f"{name} has another adapter than one of plain LoRA"
    return None


def window_of(layer: Any) -> int | None:
    """The most tokens that a token sees in this layer, itself included; None without a limit."""
    attention = layer.self_attn
    config = attention.config
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[attention.layer_idx] == "full_attention":
        return None
    return getattr(attention, "sliding_window", None) or getattr(config, "sliding_window", None)


def group_shapes(layers: Sequence[Any]) -> dict[str, GroupShape]:
    """Shapes of the first layer's groups, with the adapters that they apply now."""
    shapes = {}
    for group, names in group_names(0, len(layers)).items():
        modules = [layers[0].get_submodule(name) for name in names]
        linears = [base_linear(module) for module in modules]
        outputs = tuple(linear.out_features for linear in linears)
        ranks = tuple(active_ranks(modules))
        shapes[group] = GroupShape(linears[0].in_features, outputs, ranks)
    return shapes


def shape_of(model: torch.nn.Module) -> ModelShape:
    """Sizes of a causal LM that is not quantized yet, with or without its adapter.

    A model that the engine does not support has no groups.
    """
    causal_lm: Any = model
    config = causal_lm.config.get_text_config()
    head = base_linear(causal_lm.get_output_embeddings())  # bitsandbytes leaves it as it is
    linears = [
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and not is_lora_matrix(name)
        and not module.weight.requires_grad
    ]
    frozen = [
        parameter.numel()
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad and not is_lora_matrix(name)
    ]
    layers = find_layers(model)
    return ModelShape(
        groups={} if why_not(model) else group_shapes(layers),
        num_layers=len(layers) or config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        linear_weights=tuple(linears),
        num_other=sum(frozen) - sum(linears),
        num_trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )
