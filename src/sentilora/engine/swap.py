"""Put fast layers into one loaded model, check them against its own, and take them out again.

    engine = install(model)          # None when the model is of another kind; the reason is logged
    packed_logits(model, packed)
    engine.remove()

What a model is called does not matter; what its layers are made of does, and that the fast layer
gives the numbers of the layer's own forward, which is tried once. Modules keep their names and
their parameters: a layer's class is replaced by a subclass of it, nothing else.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from sentilora.engine import fp8
from sentilora.engine.attention import choose_attention
from sentilora.engine.layer import FastLayer, Parts
from sentilora.engine.lora import ProjectionGroup, base_linear, is_plain
from sentilora.engine.memory import LayerSizes, plan_memory
from sentilora.engine.nf4 import Weights
from sentilora.engine.segments import Pass, Segment, lay_out

logger = logging.getLogger(__name__)

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


CPU_TOKENS = 2048  # of a pass; see docs/results.md
SCORE_TOKENS = 16384  # of a pass that only scores, on a GPU; see docs/results.md
LEAST_SCORE_TOKENS = 2048  # tried in any case
CPU_WEIGHTS_BYTES = 2 * 2**30  # of decoded weights


def free_memory(device: torch.device, max_memory_gib: float = 0.0) -> int:
    """Bytes that this process may still take on a GPU, under every limit set for it."""
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    free += torch.cuda.memory_reserved(device) - allocated
    limit = total * torch.cuda.get_per_process_memory_fraction(device)
    if max_memory_gib:
        limit = min(limit, max_memory_gib * 2**30)
    # 3 % and 100 MiB for what no one counts: fragments, library workspaces.
    return int(0.97 * min(free, limit - allocated)) - 100 * 2**20


class Engine:
    """The fast layers of one model."""

    def __init__(self, model: torch.nn.Module, layers: Sequence[Any], capability: float) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.layers = list(layers)
        self.weights = Weights()
        # Tokens of a pass when training and when scoring, and layers that are computed twice.
        self.max_tokens = CPU_TOKENS
        self.max_score_tokens = SCORE_TOKENS if self.device.type == "cuda" else CPU_TOKENS
        self.checkpoint_layers = 0
        self.keep_layers = 0
        self._planned = False
        self._classes = [type(layer) for layer in self.layers]
        for number, layer in enumerate(self.layers):
            self._swap(number, layer, capability)

    def _swap(self, number: int, layer: Any, capability: float) -> None:
        is_last = number == len(self.layers) - 1
        names = LAST_GROUPS if is_last else GROUPS
        groups = {
            group: ProjectionGroup(layer, members, 5 * number + i, self.weights)
            for i, (group, members) in enumerate(names.items())
        }
        attention, norm = layer.self_attn, layer.input_layernorm
        fast = Parts(
            number=number,
            is_last=is_last,
            groups=groups,
            attend=choose_attention(self.device, norm.weight.dtype, capability, attention.head_dim),
            head_dim=attention.head_dim,
            scaling=attention.scaling,
            window=_window(layer),
            eps=norm.variance_epsilon,
            norms_heads=hasattr(attention, "q_norm"),
        )
        kind = type(layer)
        layer.__class__ = type(f"Fast{kind.__name__}", (FastLayer, kind), {"fast": fast})

    def sizes(self) -> LayerSizes:
        """Memory of a layer of the usual kind, from its shapes."""
        fast = self.layers[0].fast
        width = {name: (group.num_in, group.num_out) for name, group in fast.groups.items()}
        ranks = sum(group.num_ranks for group in fast.groups.values())
        element = self.layers[0].input_layernorm.weight.element_size()
        hidden, gate_up = width["o"][1], width["gate_up"][1]
        qkv = sum(width[name][1] for name in ("qkv", "q", "kv") if name in width)
        attended = width["o"][0]
        groups = list(fast.groups.values())
        numbers = [group.num_out * (group.num_in + group.room) for group in groups]
        # SwiGLU's gradient takes its input's place where the adapter's kernels run.
        in_place = all(group.room for group in groups)
        work = 0.5 * gate_up + 6 * hidden if in_place else 3 * gate_up + 4 * hidden
        return LayerSizes(
            kept_per_token=element * (2 * hidden + qkv + 2 * attended + gate_up + ranks),
            input_per_token=element * hidden,
            work_per_token=int(element * work),
            score_per_token=int(element * (1.5 * gate_up + qkv + 4 * hidden)),
            weights=element * sum(numbers),
            buffer=element * max(group.largest_part for group in groups),
        )

    def plan(
        self, step_tokens: int, longest: int, max_memory_gib: float = 0.0, reserved_bytes: int = 0
    ) -> str:
        """Fit training steps into the GPU's free memory; returns what was chosen, and why.

        step_tokens: of a large step. longest: row. reserved_bytes: for what comes later.
        Raises `MemoryError` when not one row fits.
        """
        if self.device.type != "cuda":
            self.keep_weights()
            return f"passes of up to {self.max_tokens:,} tokens"
        self.weights.forget()  # the trial's buffer
        free = free_memory(self.device, max_memory_gib) - reserved_bytes
        sizes = self.sizes()
        found = plan_memory(free, step_tokens, longest, len(self.layers), sizes)
        if found is None:
            raise MemoryError(
                f"{free / 2**30:.1f} GiB of GPU memory are free beside base and adapter: too "
                f"little for one text of {longest} tokens"
            )
        self.max_tokens, self.checkpoint_layers = found.max_tokens, found.checkpoint_layers
        num = len(self.layers)
        self._keep(found.keep_layers)
        self._planned = True
        left = free - found.keep_layers * sizes.weights - sizes.buffer
        # Captured passes hold on to their memory: what is scored in between has what they leave.
        ample = left - found.pass_bytes >= SCORE_TOKENS * sizes.score_per_token
        most = SCORE_TOKENS if ample else SCORE_TOKENS // 2
        self.max_score_tokens = min(most, max(longest, left // sizes.score_per_token))
        kept = {0: "decoded at each use", num: "decoded once and kept"}.get(
            found.keep_layers, f"kept decoded in {found.keep_layers} of {num} layers"
        )
        twice = {0: "nothing is computed twice", num: "layers are computed twice"}.get(
            found.checkpoint_layers, f"{found.checkpoint_layers} of {num} layers are computed twice"
        )
        return (
            f"{free / 2**30:.1f} GiB free: passes of up to {self.max_tokens:,} tokens, weights "
            f"{kept}, {twice}"
        )

    def keep_weights(self) -> None:
        """Decode weights once from here on, in as many layers as memory has room for.

        A plan made before holds, whether for training or here: then nothing changes.
        """
        if self._planned:
            return
        sizes = self.sizes()
        room = CPU_WEIGHTS_BYTES
        if self.device.type == "cuda":
            room = free_memory(self.device) - sizes.buffer
            fits = max(0, room) // sizes.score_per_token
            self.max_score_tokens = min(SCORE_TOKENS, max(LEAST_SCORE_TOKENS, fits))
            room -= self.max_score_tokens * sizes.score_per_token
        self._keep(max(0, room) // sizes.weights)
        self._planned = True  # asked again, what is kept would itself be missing from the room

    def take_plan(self, other: "Engine") -> None:
        """Run as `other` did, so that the numbers are the same bits."""
        self.max_tokens, self.max_score_tokens = other.max_tokens, other.max_score_tokens
        self.checkpoint_layers = other.checkpoint_layers
        self._keep(other.keep_layers)
        self._planned = True

    def _keep(self, num_layers: int) -> None:
        self.keep_layers = num_layers
        self.weights.forget()
        for layer in self.layers[max(0, len(self.layers) - num_layers) :]:
            for group in layer.fast.groups.values():
                self.weights.keep(group)

    def remove(self) -> None:
        """Give every layer its own class back, and free the decoded weights."""
        for layer, kind in zip(self.layers, self._classes, strict=True):
            layer.__class__ = kind
        self.weights.forget()

    def groups(self) -> list[ProjectionGroup]:
        """Of every layer."""
        return [group for layer in self.layers for group in layer.fast.groups.values()]

    def refresh(self) -> None:
        """Look at the adapters again: before a step, after a change of mode or of an adapter."""
        for group in self.groups():
            group.refresh()

    def use_8_bits(self) -> str | None:
        """Products with the frozen weights that are kept in 8 bits from here on; or why not."""
        if any(group.num_in % 16 or group.num_out % 16 for group in self.groups()):
            return "the sides of its weights are no multiples of 16"
        fault = fp8.fault(self.layers[0].input_layernorm.weight)
        self.weights.fp8 = fault is None
        self.refresh()
        return fault

    def products_in_8_bits(self) -> tuple[int, int]:
        """How many of the frozen products are in 8 bits now, and how many there are."""
        groups = self.groups()
        return sum(group.in_8_bits() for group in groups), len(groups)

    def is_usable(self) -> bool:
        """Whether the adapters, as they are now, are plain LoRA in every layer."""
        return all(is_plain(module) for group in self.groups() for module in group.look_up())


def packed_logits(model: torch.nn.Module, packed: Pass) -> torch.Tensor:
    """Logits (A, vocabulary) of a model with fast layers, at the answer rows of a pass."""
    return model(
        input_ids=packed.input_ids,
        position_ids=packed.position_ids,
        # Made already: with none the model would look for packed rows and build a mask.
        attention_mask=packed.input_ids.new_ones(1, 1, 1, 1),
        use_cache=False,
        packed=packed,
    ).logits[0]


def install(model: torch.nn.Module, capability: float | None = None) -> Engine | None:
    """Fast layers in `model` (with or without PEFT's wrapper), or None and a logged reason.

    capability: the GPU's compute capability as a number (7.5), to take what such a GPU would.
    """
    layers = find_layers(model)
    reason = why_not(layers) if layers else "its layers are of another structure"
    if reason is None:
        if capability is None:
            on_gpu = next(model.parameters()).is_cuda
            major, minor = torch.cuda.get_device_capability() if on_gpu else (0, 0)
            capability = major + minor / 10
        engine = Engine(model, layers, capability)
        reason = _try_layers(engine)
        if reason is None:
            return engine
        engine.remove()
    logger.warning("the fast engine does not fit this model (%s): the plain path runs", reason)
    return None


def find_layers(model: torch.nn.Module) -> list[Any]:
    """The decoder layers: the longest list of modules that all have the parts of `GROUPS`."""
    found: list[Any] = []
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) > len(found):
            layers = list(module)
            if all(_has_parts(layer) for layer in layers):
                found = layers
    return found


def _has_parts(layer: torch.nn.Module) -> bool:
    try:
        for names in GROUPS.values():
            for name in names:
                layer.get_submodule(name)
    except AttributeError:
        return False
    children = {name for name, _ in layer.named_children()}
    return children == {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


def why_not(layers: Sequence[Any]) -> str | None:
    """What of these layers the engine does not know, None when nothing."""
    for layer in layers:
        if isinstance(layer, FastLayer):
            return "it has fast layers already"
        for name, parameter in layer.named_parameters():
            if parameter.requires_grad and not {"lora_A", "lora_B"} & set(name.split(".")):
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


def _window(layer: Any) -> int | None:
    """Tokens that a token sees at most, as this layer has it."""
    attention = layer.self_attn
    config = attention.config
    kinds = getattr(config, "layer_types", None)
    if kinds and kinds[attention.layer_idx] == "full_attention":
        return None
    return getattr(attention, "sliding_window", None) or getattr(config, "sliding_window", None)


def _try_layers(engine: Engine) -> str | None:
    """Run the first and the last layer both ways on random input; what differs, if anything."""
    layer = engine.layers[0]
    weight = layer.input_layernorm.weight
    dtype, device = weight.dtype, weight.device
    rotary = _find_rotary(engine.model)
    if rotary is None:
        return "it has no rotary embedding of its own"
    segments = [Segment([0] * 6), Segment([0] * 5, 0, 2), Segment([0] * 3, 0, 1)]
    packed = lay_out(segments, device)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, packed.num_tokens, len(weight), generator=generator).to(device, dtype)
    seen = torch.zeros(packed.num_tokens, packed.num_tokens, dtype=torch.bool)
    ends = {0: (0, 6), 1: (6, 11), 2: (11, 14)}
    for s, (start, end) in ends.items():
        seen[start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
        if s:
            seen[start:end, :6] = True
    positions = packed.position_ids[0].cpu()
    distance = positions[:, None] - positions
    modes = [(module, module.training) for module in engine.model.modules()]
    engine.model.eval()
    engine.refresh()
    half = dtype in (torch.float16, torch.bfloat16)
    try:
        with torch.no_grad(), torch.autocast(device.type, dtype=dtype, enabled=half):
            position_embeddings = rotary(hidden, position_ids=packed.position_ids)
            for layer, rows in (
                (engine.layers[0], slice(None)),
                (engine.layers[-1], packed.answer_rows_A),
            ):
                if layer.fast.is_last:
                    rows = packed.answer_rows_A
                window = layer.fast.window
                visible = seen if window is None else seen & (distance < window)
                mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(
                    ~visible, torch.finfo(dtype).min
                )
                common = {"position_ids": packed.position_ids}
                expected = super(FastLayer, layer).forward(
                    hidden,
                    attention_mask=mask[None, None].to(device),
                    position_embeddings=position_embeddings,
                    **common,
                )
                got = layer(
                    hidden, packed=packed, position_embeddings=position_embeddings, **common
                )
                expected = expected[0] if isinstance(expected, tuple) else expected
                wanted = expected[0, rows].float()
                error = (got[0].float() - wanted).norm() / wanted.norm()
                if not error <= (0.03 if half else 1e-4):
                    return f"a layer's outputs differ by {error:.2g}"
    except (RuntimeError, TypeError, ValueError, AttributeError) as failure:
        return f"a layer refuses: {type(failure).__name__}: {str(failure).splitlines()[0]}"
    finally:
        for module, training in modes:
            module.training = training
    return None


def _find_rotary(model: torch.nn.Module) -> Any:
    return next(
        (module for name, module in model.named_modules() if name.endswith("rotary_emb")), None
    )
