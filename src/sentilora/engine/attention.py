"""Attention over segments of different lengths, without padding and without a mask in memory.

Four ways to the same numbers (to rounding), chosen by the device:

    tiled        our own flash attention, which does not copy shared keys: capability 9.0
    varlen       torch's flash attention: compute capability 8.0 and above, bfloat16 or float16
    efficient    the memory-efficient kernel: older GPUs, and float32 on any
    by_segment   one scaled_dot_product_attention per segment: CPUs, and the reference

Every way takes queries (Q, H, E); keys and then values of the pass's rows (T, 2G, E); which rows
see which; the factor for scores; the most tokens that a token sees, itself included; and the number
of free columns wanted after each row of the output, which only `tiled` provides.

Axes: Q query rows, K key rows, T rows of the pass, H query heads, G key and value heads, E a head's
width.
"""

from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from sentilora.engine import attention_kernels
from sentilora.engine.kernels import tl, triton, use_triton
from sentilora.engine.segments import Attention

Attend = Callable[[torch.Tensor, torch.Tensor, Attention, float, int | None, int], torch.Tensor]


def choose_attention(
    device: torch.device, dtype: torch.dtype, capability: float, head_dim: int
) -> Attend:
    """The fastest way for a device, a dtype, a compute capability (7.5 for a T4) and a head width.

    `tiled` was measured on 9.0; its backward pass needs more shared memory than 8.6 and 8.9 have.
    """
    if device.type != "cuda":
        return by_segment
    if capability < 8.0 or dtype not in (torch.float16, torch.bfloat16):
        return efficient
    tiles = triton is not None and head_dim in (16, 32, 64, 128)
    return tiled if tiles and capability == 9.0 else varlen


class SplitKeys(torch.autograd.Function):
    """Keys and values (K, G, E) of every segment from those of every token, (T, 2G, E).

    The gradient sums a shared row's uses in float32, in a fixed order.
    """

    @staticmethod
    def forward(ctx, kv_TGE, attention):  # type: ignore[no-untyped-def]
        ctx.attention, ctx.num_tokens = attention, len(kv_TGE)
        if attention.key_rows_K is not None:
            kv_TGE = kv_TGE.index_select(0, attention.key_rows_K)
        return kv_TGE.chunk(2, 1)

    @staticmethod
    def backward(ctx, dk_KGE, dv_KGE):  # type: ignore[no-untyped-def]
        if ctx.attention.key_rows_K is None:
            return torch.cat([dk_KGE, dv_KGE], 1), None
        _, G, E = dk_KGE.shape
        out = dk_KGE.new_empty(ctx.num_tokens, 2 * G, E)
        _sum_of_uses(dk_KGE, dv_KGE, ctx.attention, out)
        return out, None


def _sum_of_uses(
    dk_KGE: torch.Tensor, dv_KGE: torch.Tensor, attention: Attention, out_TGE: torch.Tensor
) -> None:
    """Gradients of listed keys and values, summed where rows are shared, into (T, 2G, E)."""
    _, G, E = dk_KGE.shape
    if attention.key_rows_K is None:
        raise ValueError("these segments list no keys: no row is shared")
    if use_triton(dk_KGE):
        _sum_uses[(len(out_TGE), 2)](
            dk_KGE.contiguous(),
            dv_KGE.contiguous(),
            attention.use_starts_T,
            attention.uses_K,
            out_TGE,
            out_TGE.stride(0),
            G * E,
            BLOCK=triton.next_power_of_2(G * E),
        )
        return
    d_KGE = torch.cat([dk_KGE, dv_KGE], 1).float()
    total = torch.zeros(out_TGE.shape, device=out_TGE.device)
    out_TGE.copy_(total.index_add_(0, attention.key_rows_K, d_KGE))


def by_segment(
    q_QHE: torch.Tensor,
    kv_TGE: torch.Tensor,
    attention: Attention,
    scale: float,
    window: int | None,
    room: int = 0,
) -> torch.Tensor:
    """One `scaled_dot_product_attention` per segment."""
    k_KGE, v_KGE = SplitKeys.apply(kv_TGE, attention)
    outputs = []
    queries = q_QHE.split(attention.q_lengths)
    keys, values = k_KGE.split(attention.k_lengths), v_KGE.split(attention.k_lengths)
    for number, (q, k, v) in enumerate(zip(queries, keys, values, strict=True)):
        num_q, num_k = len(q), len(k)
        if not num_q:
            continue
        mask = None
        before = num_k - num_q
        if attention.masks:
            mask = attention.masks[number]
        elif 0 < before < num_q and window is None:
            # With as many idle queries in front the square needs no mask and half the work.
            q = torch.nn.functional.pad(q, (0, 0, 0, 0, before, 0))
        elif before or (window is not None and window < num_k):
            row = torch.arange(num_k - num_q, num_k, device=q.device)[:, None]
            column = torch.arange(num_k, device=q.device)
            mask = column <= row
            if window is not None:
                mask &= column > row - window
        out = scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outputs.append(out[0].transpose(0, 1)[-num_q:])
    return torch.cat(outputs)


def varlen(
    q_QHE: torch.Tensor,
    kv_TGE: torch.Tensor,
    attention: Attention,
    scale: float,
    window: int | None,
    room: int = 0,
) -> torch.Tensor:
    """torch's variable-length flash attention, causal from the bottom right."""
    k_KGE, v_KGE = SplitKeys.apply(kv_TGE, attention)
    return _Flash.apply(q_QHE, k_KGE, v_KGE, attention, scale, window)


def tiled(
    q_QHE: torch.Tensor,
    kv_TGE: torch.Tensor,
    attention: Attention,
    scale: float,
    window: int | None,
    room: int = 0,
) -> torch.Tensor:
    """The kernels of `attention_kernels`, for head widths of 16 to 128, powers of two."""
    return _Tiled.apply(q_QHE, kv_TGE, attention, scale, window, room)


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q_QHE, kv_TGE, attention, scale, window, room):  # type: ignore[no-untyped-def]
        out, log_sum = attention_kernels.attend(q_QHE, kv_TGE, attention, scale, window, room)
        ctx.save_for_backward(q_QHE, kv_TGE, out, log_sum)
        ctx.attention, ctx.scale, ctx.window = attention, scale, window
        return out

    @staticmethod
    def backward(ctx, d_QHE):  # type: ignore[no-untyped-def]
        q_QHE, kv_TGE, out, log_sum = ctx.saved_tensors
        if d_QHE.stride()[1:] != out.stride()[1:]:  # rows may be apart
            d_QHE = d_QHE.contiguous()
        attention, scale, window = ctx.attention, ctx.scale, ctx.window
        (Q, H, E), (T, G2, _) = q_QHE.shape, kv_TGE.shape
        if Q == T:  # adjacent, as the projection's backward pass reads them
            dq, dkv = d_QHE.new_empty(T, H + G2, E).split([H, G2], 1)
        else:
            dq, dkv = d_QHE.new_empty(Q, H, E), d_QHE.new_empty(T, G2, E)
        dk, dv = dkv.chunk(2, 1)
        if attention.key_rows_K is not None:
            dk, dv = dkv.new_empty(2, len(attention.key_rows_K), G2 // 2, E)
        attention_kernels.attend_backward(
            d_QHE, q_QHE, kv_TGE, out, log_sum, attention, scale, window, dq, dk, dv
        )
        if attention.key_rows_K is not None:
            _sum_of_uses(dk, dv, attention, dkv)
        return dq, dkv, None, None, None, None


class _Flash(torch.autograd.Function):
    """What torch.nn.attention.varlen.varlen_attn calls, without the custom operator around it.

    The operator took 0.85 ms of CPU time a layer, 28 ms a step (H100, 32 layers; torch 2.11).
    """

    @staticmethod
    def forward(ctx, q, k, v, attention, scale, window):  # type: ignore[no-untyped-def]
        starts = attention.q_starts_S, attention.k_starts_S
        lengths = attention.max_q, attention.max_k
        left = None if window is None else window - 1
        out, log_sum, state, unused, _ = torch.ops.aten._flash_attention_forward(
            q, k, v, *starts, *lengths, 0.0, True, False,
            scale=scale, window_size_left=left, window_size_right=None if left is None else 0,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, out, log_sum, state, unused)
        ctx.starts, ctx.lengths, ctx.scale, ctx.left = starts, lengths, scale, left
        return out

    @staticmethod
    def backward(ctx, d_QHE):  # type: ignore[no-untyped-def]
        q, k, v, out, log_sum, state, unused = ctx.saved_tensors
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            d_QHE.contiguous(), q, k, v, out, log_sum, *ctx.starts, *ctx.lengths, 0.0, True, state,
            unused, scale=ctx.scale,
            window_size_left=ctx.left, window_size_right=None if ctx.left is None else 0,
        )  # fmt: skip
        return dq, dk, dv, None, None, None


def efficient(
    q_QHE: torch.Tensor,
    kv_TGE: torch.Tensor,
    attention: Attention,
    scale: float,
    window: int | None,
    room: int = 0,
) -> torch.Tensor:
    """The memory-efficient kernel with sequence lengths; keys are repeated for every query head."""
    k_KGE, v_KGE = SplitKeys.apply(kv_TGE, attention)
    repeats = q_QHE.shape[1] // k_KGE.shape[1]
    if repeats > 1:
        k_KGE, v_KGE = (x.repeat_interleave(repeats, 1) for x in (k_KGE, v_KGE))
    causal_from_bottom_right = 2
    return torch.ops.aten._efficient_attention_forward(
        q_QHE[None],
        k_KGE[None],
        v_KGE[None],
        None,
        attention.q_starts_S,
        attention.k_starts_S,
        attention.max_q,
        attention.max_k,
        0.0,
        causal_from_bottom_right,
        True,
        scale=scale,
        window_size=window,
    )[0][0]


if triton is not None:

    @triton.jit
    def _sum_uses(  # type: ignore[no-untyped-def]
        dk_ptr, dv_ptr, starts_ptr, uses_ptr, out_ptr, out_stride, width, BLOCK: tl.constexpr
    ):
        row = tl.program_id(0).to(tl.int64)
        half = tl.program_id(1)
        e = tl.arange(0, BLOCK)
        ok = e < width
        total = tl.zeros((BLOCK,), tl.float32)
        for i in range(tl.load(starts_ptr + row), tl.load(starts_ptr + row + 1)):
            at = tl.load(uses_ptr + i) * width + e
            if half == 0:
                total += tl.load(dk_ptr + at, mask=ok, other=0.0).to(tl.float32)
            else:
                total += tl.load(dv_ptr + at, mask=ok, other=0.0).to(tl.float32)
        out = out_ptr + row * out_stride + half * width + e
        tl.store(out, total.to(out_ptr.dtype.element_ty), mask=ok)
