"""A decoder layer over the tokens of a pass: one operation before attention and three after it.

    q, k, v, x = norm_project(x)             RMSNorm → q, k, v → rotary embedding
    x          = x + act_project(attention)  output projection
    gate_up, x = norm_project(x)             RMSNorm → gate, up
    x          = x + act_project(gate_up)    SwiGLU → down projection

Norms, activations and masked inputs are not kept; the backward pass computes them again. In the
last layer, queries, output and MLP exist for the answer rows only.

Axes: T tokens, D hidden, N outputs, R ranks, H heads, E a head's width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from sentilora.engine.attention import Attend
from sentilora.engine.elementwise import Norm, SwiGLU, rms_norm_backward, rotate
from sentilora.engine.groups import ProjectionGroup
from sentilora.engine.lora import project, project_backward, project_ranks
from sentilora.engine.segments import Pass


@dataclass(frozen=True)
class Rotary:
    """cos and sin (T, E), for the first `num_heads` heads of the group's outputs."""

    cos_TE: torch.Tensor
    sin_TE: torch.Tensor
    num_heads: int


class NormProject(torch.autograd.Function):
    """RMSNorm, a projection group, and rotary embedding.

    Returns x, for the residual, and the group's outputs, split at `splits` (one tensor if empty).
    """

    @staticmethod
    def forward(ctx, x_TD, weight_D, eps, group, seed, rotary, splits, *parameters):  # type: ignore[no-untyped-def]
        norm = Norm(weight_D, eps, x_TD.new_empty(len(x_TD), dtype=torch.float32))
        y_TN, h_TR = project(x_TD, group, seed, norm)
        if rotary is not None:
            _rotate_first(y_TN, rotary)
        ctx.save_for_backward(x_TD, h_TR)
        ctx.norm, ctx.group, ctx.seed, ctx.rotary = norm, group, seed, rotary
        return x_TD, *(y_TN.split(splits, -1) if splits else (y_TN,))

    @staticmethod
    def backward(ctx, residual_TD, *outputs):  # type: ignore[no-untyped-def]
        x_TD, h_TR = ctx.saved_tensors
        d_TN = _side_by_side(outputs)
        if ctx.rotary is not None:
            d_TN = d_TN if len(outputs) > 1 else d_TN.clone()
            _rotate_first(d_TN, ctx.rotary, backward=True)
        norm = ctx.norm
        dn_TD, gradients = project_backward(
            d_TN, x_TD, h_TR, ctx.group, ctx.seed, ctx.needs_input_grad[0], norm
        )
        dx_TD = None
        if dn_TD is not None:
            dx_TD = rms_norm_backward(dn_TD, x_TD, norm.weight_D, norm.eps, residual_TD)
        return dx_TD, None, None, None, None, None, None, *gradients


def _side_by_side(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor with the columns of all parts, without a copy if they are adjacent in memory."""
    first, widths = parts[0], [part.shape[1] for part in parts]
    if len(parts) == 1:
        return first
    at = first.storage_offset()
    for part, width in zip(parts, widths, strict=True):
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or part.stride() != (sum(widths), 1) or part.storage_offset() != at:
            return torch.cat(list(parts), -1)
        at += width
    return first.as_strided((len(first), sum(widths)), (sum(widths), 1))


class ActProject(torch.autograd.Function):
    """`residual + project(act(z))`; act, SwiGLU or None, is the projection's prologue.

    again: this is the second computation, only for what backward needs; the result is not read.
    """

    @staticmethod
    def forward(ctx, z, residual_TD, group, seed, act, again, *parameters):  # type: ignore[no-untyped-def]
        if again:
            y_TD, h_TR = torch.empty_like(residual_TD), project_ranks(z, group, seed, act)
        elif torch.is_inference_mode_enabled():  # the residual is not read again
            return project(z, group, seed, act, residual_TD)[0]
        else:
            y_TD, h_TR = project(z, group, seed, act)
            y_TD.add_(residual_TD)
        ctx.save_for_backward(z, h_TR)
        ctx.group, ctx.seed, ctx.act = group, seed, act
        return y_TD

    @staticmethod
    def backward(ctx, d_TD):  # type: ignore[no-untyped-def]
        z, h_TR = ctx.saved_tensors
        dz, gradients = project_backward(
            d_TD, z, h_TR, ctx.group, ctx.seed, ctx.needs_input_grad[0], ctx.act
        )
        return dz, d_TD, None, None, None, None, *gradients


def _rotate_first(y_TN: torch.Tensor, rotary: Rotary, backward: bool = False) -> None:
    E = rotary.cos_TE.shape[1]
    heads = y_TN[:, : rotary.num_heads * E].unflatten(-1, (rotary.num_heads, E))
    rotate(heads, rotary.cos_TE, rotary.sin_TE, heads, backward)


class FastLayer:
    """Mixed into a decoder layer's class; a call without `packed` goes to the layer's own forward.

    fast: what `swap` gives the class, the parts below.
    """

    fast: "Parts"

    def forward(self, hidden_states, *args, packed=None, position_embeddings=None, **kwargs):  # type: ignore[no-untyped-def]
        if packed is None:
            if position_embeddings is not None:
                kwargs["position_embeddings"] = position_embeddings
            return super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
        cos_TE, sin_TE = (x[0].to(hidden_states.dtype) for x in position_embeddings)
        with torch.autocast(hidden_states.device.type, enabled=False):
            if self.fast.number < packed.checkpoint_layers and torch.is_grad_enabled():
                x_TD = checkpoint(
                    self._packed,
                    hidden_states.squeeze(0),
                    cos_TE,
                    sin_TE,
                    packed,
                    use_reentrant=False,
                    preserve_rng_state=False,
                    context_fn=lambda: (nullcontext(), self.fast.computing_again()),
                )
            else:
                x_TD = self._packed(hidden_states.squeeze(0), cos_TE, sin_TE, packed)
        return x_TD[None]

    def _packed(
        self, x_TD: torch.Tensor, cos_TE: torch.Tensor, sin_TE: torch.Tensor, packed: Pass
    ) -> torch.Tensor:
        fast, groups, layer = self.fast, self.fast.groups, self
        seed = packed.dropout_seed
        norm: Any = layer.input_layernorm  # type: ignore[attr-defined]
        if fast.is_last:
            attention, rows_A = packed.answers, packed.answer_rows_A
            x_TD, kv = self._queries_or_keys(x_TD, norm, groups["kv"], cos_TE, sin_TE, seed)
            x_TD, cos_TE, sin_TE = (x.index_select(0, rows_A) for x in (x_TD, cos_TE, sin_TE))
            x_TD, q = self._queries_or_keys(x_TD, norm, groups["q"], cos_TE, sin_TE, seed)
        else:
            attention = packed.attention
            x_TD, q, kv = self._queries_or_keys(x_TD, norm, groups["qkv"], cos_TE, sin_TE, seed)
        if packed.kept is not None:
            earlier, kept_rows_T = packed.kept
            kv = earlier.extend(fast.number, kv, kept_rows_T)
        group = groups["o"]
        out = fast.attend(q, kv, attention, fast.scaling, fast.window, group.input_room).flatten(1)
        x_TD = ActProject.apply(out, x_TD, group, seed, None, False, *group.parameters)
        norm = layer.post_attention_layernorm  # type: ignore[attr-defined]
        group = groups["gate_up"]
        x_TD, gate_up = NormProject.apply(
            x_TD, norm.weight, fast.eps, group, seed, None, (), *group.parameters
        )
        group = groups["down"]
        return ActProject.apply(gate_up, x_TD, group, seed, SwiGLU(), fast.again, *group.parameters)

    def _queries_or_keys(
        self,
        x_TD: torch.Tensor,
        norm: Any,
        group: ProjectionGroup,
        cos_TE: torch.Tensor,
        sin_TE: torch.Tensor,
        seed: torch.Tensor,
    ) -> list[torch.Tensor]:
        """x, then the group's queries (T, H, E), its keys and values (T, 2G, E), or both."""
        fast, E = self.fast, self.fast.head_dim
        widths = [outputs.stop - outputs.start for outputs in group.outputs]
        num_keys = widths[-1] if len(widths) > 1 else 0
        num_queries = group.num_out - 2 * num_keys
        splits = [width for width in (num_queries, 2 * num_keys) if width]
        # Values, which come last, are not rotated.
        num_rotated = (group.num_out - num_keys) // E
        rotary = None if fast.norms_heads else Rotary(cos_TE, sin_TE, num_rotated)
        x_TD, *parts = NormProject.apply(
            x_TD, norm.weight, fast.eps, group, seed, rotary, splits, *group.parameters
        )
        heads = [part.unflatten(-1, (-1, E)) for part in parts]
        if fast.norms_heads:
            attention: Any = self.self_attn  # type: ignore[attr-defined]
            if num_queries:
                heads[0] = _rotate(attention.q_norm(heads[0]), cos_TE, sin_TE)
            if num_keys:
                k, v = heads[-1].chunk(2, 1)
                heads[-1] = torch.cat([_rotate(attention.k_norm(k), cos_TE, sin_TE), v], 1)
        return [x_TD, *heads]


def _rotate(x_THE: torch.Tensor, cos_TE: torch.Tensor, sin_TE: torch.Tensor) -> torch.Tensor:
    first, second = x_THE.chunk(2, -1)
    turned = torch.cat([-second, first], -1)
    return x_THE * cos_TE[:, None] + turned * sin_TE[:, None]


@dataclass
class Parts:
    """What a `FastLayer` needs besides its own modules."""

    number: int
    is_last: bool
    groups: dict[str, ProjectionGroup]
    attend: Attend
    head_dim: int
    scaling: float
    window: int | None
    eps: float
    norms_heads: bool
    again: bool = False

    def refresh(self) -> None:
        """Look at the layer's adapters again."""
        for group in self.groups.values():
            group.refresh()

    @contextmanager
    def computing_again(self) -> Iterator[None]:
        """A context in which the layer is computed for its backward pass only."""
        self.again = True
        try:
            yield
        finally:
            self.again = False
