"""Products with a projection group's A matrices, forward and backward, in one pass each.

Triton kernels, with dropout, for up to three adapters of one rank (16 to 64; a smaller one is
padded). The plain PyTorch that they must equal, up to the masks that are drawn, is in `lora`.

Axes: T tokens, D inputs, F half of a SwiGLU's input, R ranks of all adapters, N outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sentilora.engine import kernels
from sentilora.engine.elementwise import Norm, Prologue, SwiGLU
from sentilora.engine.kernels import tl, triton

MAX_ADAPTERS = 3
MAX_RANK = 64


def room_of(ranks: Sequence[int]) -> int:
    """Columns for adapters of these ranks after their group's weights, a multiple of 64.

    0 for adapters that these kernels do not support, and for none.
    """
    same_rank = len(set(ranks)) == 1 and max(ranks) <= MAX_RANK
    return -(-sum(ranks) // 64) * 64 if same_rank and len(ranks) <= MAX_ADAPTERS else 0


@dataclass(frozen=True)
class Masks:
    """Dropout of a group in a pass: its probability, and which of the pass's masks to draw."""

    dropout: float
    seed: torch.Tensor
    number: int

    def arguments(self) -> tuple[torch.Tensor, int, int]:
        """Seed, number, and the threshold: an element stays if its 16 random bits reach it."""
        return self.seed, self.number, min(int(self.dropout * 2**16 + 0.5), 2**16 - 1)


def down(
    x_TD: torch.Tensor,
    A: Sequence[torch.Tensor],
    scales: Sequence[float],
    masks: Masks,
    into_TD: torch.Tensor | None = None,
    prologue: SwiGLU | None = None,
) -> torch.Tensor:
    """`scale · (m ⊙ x) Aᵀ` (T, R) of every adapter, where x is `x_TD` after its prologue.

    into_TD: it is also written there, after the D columns of x, with zeros to the end of the row.
    After a prologue, x is written there too.
    """
    T = len(x_TD)
    rank, D = A[0].shape
    R = rank * len(A)
    h_TR = x_TD.new_empty(T, R)
    into = h_TR if into_TD is None else into_TD
    # H100: 48 and 35 µs for three and two adapters, with the smaller tile 83 and 57. For one
    # adapter both take the same time; with SwiGLU the smaller one is faster (155, not 208 µs).
    block_T, block_D = (64, 64) if len(A) > 1 and prologue is None else (16, 128)
    # The GPU needs more programs than a pass has blocks of tokens.
    num_splits = max(1, min(D // (8 * block_D), 4096 // triton.cdiv(T, block_T)))
    per_split = triton.cdiv(triton.cdiv(D, num_splits), block_D) * block_D
    parts = torch.empty(num_splits, T, R, dtype=torch.float32, device=x_TD.device)
    _down_kernel[(triton.cdiv(T, block_T), num_splits)](
        x_TD,
        *_three(A, A[0]),
        parts,
        into,
        *masks.arguments(),
        T,
        D,
        x_TD.stride(0),
        into.stride(0),
        per_split,
        R=rank,
        RANK=_block_rank(rank),
        NUM=len(A),
        DROPOUT=masks.dropout > 0,
        SWIGLU=prologue is not None,
        STORE_X=prologue is not None and into_TD is not None,
        BLOCK_T=block_T,
        BLOCK_D=block_D,
        PRECISION=_precision(x_TD),
        num_warps=4,
        num_stages=3,
    )
    room = 0 if into_TD is None else into_TD.shape[1] - D
    width = max(room, R)
    _finish_down[(triton.cdiv(T, block_T),)](
        parts,
        h_TR,
        into,
        *_three(scales, 0.0),
        T,
        D,
        into.stride(0),
        num_splits,
        R=rank,
        NUM=len(A),
        ROOM=room,
        BLOCK_T=block_T,
        WIDTH=triton.next_power_of_2(width),
    )
    return h_TR


def down_backward(
    dh_TR: torch.Tensor,
    x_TD: torch.Tensor,
    dx_TD: torch.Tensor | None,
    A: Sequence[torch.Tensor],
    scales: Sequence[float],
    masks: Masks,
    prologue: Prologue = None,
) -> torch.Tensor:
    """Gradient (R, D) of the A matrices in float32; the input's is added to `dx_TD` in place.

    prologue: what `x_TD` went through before the group. Norm: `root_T` is what the norm stored
    then, and `dx_TD` is the gradient of the norm's output. SwiGLU: with `dx_TD`, the gradient of
    both halves overwrites `x_TD`.
    """
    T = len(x_TD)
    norm = prologue if isinstance(prologue, Norm) else None
    D = A[0].shape[1]
    rank = len(A[0])
    # H100, 4,480 tokens: 75, 49, 63 µs for three, one, two adapters and 284 with SwiGLU; with twice
    # the width 99, 50, 86 and 293.
    block_T, block_D = 16, 64
    num_splits = max(1, min(16, T // 256))
    per_split = triton.cdiv(triton.cdiv(T, num_splits), block_T) * block_T
    parts = torch.empty(num_splits, rank * len(A), D, dtype=torch.float32, device=x_TD.device)
    dx = x_TD if dx_TD is None else dx_TD
    _down_backward_kernel[(triton.cdiv(D, block_D), num_splits)](
        dh_TR,
        x_TD,
        dx,
        *_three(A, A[0]),
        parts,
        x_TD if norm is None else norm.weight_D,
        parts if norm is None else norm.root_T,
        *masks.arguments(),
        *_three(scales, 0.0),
        T,
        D,
        dh_TR.stride(0),
        x_TD.stride(0),
        dx.stride(0),
        per_split,
        R=rank,
        RANK=_block_rank(rank),
        NUM=len(A),
        DROPOUT=masks.dropout > 0,
        INPUT_GRAD=dx_TD is not None,
        SWIGLU=isinstance(prologue, SwiGLU),
        NORM=norm is not None,
        BLOCK_T=block_T,
        BLOCK_D=block_D,
        PRECISION=_precision(x_TD),
        num_warps=4,
    )
    return parts.sum(0) if num_splits > 1 else parts[0]


def place(
    B: Sequence[torch.Tensor], outputs: Sequence[slice], first: int, out_NR: torch.Tensor
) -> None:
    """Write every adapter's B at its outputs (counted from `first`) and ranks, zeros elsewhere."""
    N, room = out_NR.shape
    block = 64
    rank = B[0].shape[1]
    _place_kernel[(triton.cdiv(N, block),)](
        *_three(B, B[0]),
        *_three([rows.start - first for rows in outputs], 0),
        *_three([rows.stop - first for rows in outputs], 0),
        out_NR,
        N,
        out_NR.stride(0),
        R=rank,
        NUM=len(B),
        ROOM=room,
        BLOCK=block,
    )


def _three(items: Sequence[Any], filler: Any) -> list[Any]:
    return [*items, *[filler] * (MAX_ADAPTERS - len(items))]


def _block_rank(rank: int) -> int:
    return max(16, triton.next_power_of_2(rank))  # the least that a tensor core multiplies


def _precision(x: torch.Tensor) -> str:
    return "ieee" if x.dtype == torch.float32 else "tf32"


if triton is not None:

    @triton.jit
    def _mix(x):  # type: ignore[no-untyped-def]
        """32 bits from 32, a bijection in which every bit depends on every other.

        The constants are from Wellons' search for low bias ("hash prospector", public domain).
        """
        x = (x ^ (x >> 16)) * 0x7FEB352D
        x = (x ^ (x >> 15)) * 0x846CA68B
        return x ^ (x >> 16)

    @triton.jit
    def _random_rows(seed_ptr, mask_number, t):  # type: ignore[no-untyped-def]
        seed = tl.load(seed_ptr) + mask_number
        return _mix(t.to(tl.uint32) ^ _mix(seed.to(tl.uint32)))

    @triton.jit
    def _random_columns(d):  # type: ignore[no-untyped-def]
        return _mix(d.to(tl.uint32) ^ 0x9E3779B9)  # unlike rows: equal words would cancel

    @triton.jit
    def _bits(row, column):  # type: ignore[no-untyped-def]
        """32 random bits of every element, from its row's and its column's output of `_mix`.

        Rows and columns are mixed once each, so one round is enough to join them. The kernels are
        bound by these operations, not by memory; a Philox call for eight elements took twice as
        long.
        """
        x = (row[:, None] ^ column[None, :]) * 0x7FEB352D
        return (x ^ (x >> 15)) * 0x846CA68B

    @triton.jit
    def _apply_mask(x, bits, NUMBER: tl.constexpr, threshold):  # type: ignore[no-untyped-def]
        """x with zeros where adapter NUMBER of three drops it; the upper 16 bits of a word decide.

        The three words: the bits, their lower half, and a product whose upper half depends on both.
        """
        if NUMBER == 1:
            bits = bits << 16
        if NUMBER == 2:
            bits = bits * 0x9E3779B1
        return tl.where(bits >= threshold, x, 0.0).to(x.dtype)

    @triton.jit
    def _add_down(  # type: ignore[no-untyped-def]
        x,
        a_at,
        ok,
        acc,
        bits,
        threshold,
        NUMBER: tl.constexpr,
        DROPOUT: tl.constexpr,
        PRECISION: tl.constexpr,
    ):
        """One adapter's share of a tile of inputs."""
        masked = x
        if DROPOUT:
            masked = _apply_mask(x, bits, NUMBER, threshold)
        a = tl.load(a_at, mask=ok, other=0.0).to(x.dtype)
        return acc + tl.dot(masked, a, input_precision=PRECISION)

    @triton.jit(do_not_specialize=["mask_number", "threshold", "T"])
    def _down_kernel(  # type: ignore[no-untyped-def]
        x_ptr,
        a_0_ptr,
        a_1_ptr,
        a_2_ptr,
        parts_ptr,
        into_ptr,
        seed_ptr,
        mask_number,
        threshold,
        T,
        D,
        stride,
        into_stride,
        per_split,
        R: tl.constexpr,
        RANK: tl.constexpr,
        NUM: tl.constexpr,
        DROPOUT: tl.constexpr,
        SWIGLU: tl.constexpr,
        STORE_X: tl.constexpr,
        BLOCK_T: tl.constexpr,
        BLOCK_D: tl.constexpr,
        PRECISION: tl.constexpr,
    ):
        t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
        split = tl.program_id(1)
        random_row = t  # without dropout nothing is drawn
        if DROPOUT:
            random_row = _random_rows(seed_ptr, mask_number, t)
            threshold = threshold.to(tl.uint32) << 16
        r = tl.arange(0, RANK)[None, :]
        acc_0 = tl.zeros((BLOCK_T, RANK), tl.float32)
        acc_1 = tl.zeros((BLOCK_T, RANK), tl.float32)
        acc_2 = tl.zeros((BLOCK_T, RANK), tl.float32)
        row = t[:, None].to(tl.int64)
        inside = t[:, None] < T
        end = tl.minimum(D, (split + 1) * per_split)
        for start in range(split * per_split, end, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            own = inside & (d[None, :] < D)
            x_at = x_ptr + row * stride + d[None, :]
            x = tl.load(x_at, mask=own, other=0.0)
            if SWIGLU:
                gate = x.to(tl.float32)
                up = tl.load(x_at + D, mask=own, other=0.0).to(tl.float32)
                x = ((gate * kernels.sigmoid(gate)).to(x.dtype).to(tl.float32) * up).to(x.dtype)
                if STORE_X:
                    tl.store(into_ptr + row * into_stride + d[None, :], x, mask=own)
            at = r * D + d[:, None]
            ok = (d[:, None] < D) & (r < R)
            bits = t
            if DROPOUT:
                bits = _bits(random_row, _random_columns(d))
            acc_0 = _add_down(x, a_0_ptr + at, ok, acc_0, bits, threshold, 0, DROPOUT, PRECISION)
            if NUM > 1:
                acc_1 = _add_down(
                    x, a_1_ptr + at, ok, acc_1, bits, threshold, 1, DROPOUT, PRECISION
                )
            if NUM > 2:
                acc_2 = _add_down(
                    x, a_2_ptr + at, ok, acc_2, bits, threshold, 2, DROPOUT, PRECISION
                )
        part = parts_ptr + (split.to(tl.int64) * T + row) * (NUM * R) + r
        ok = inside & (r < R)
        tl.store(part, acc_0, mask=ok)
        if NUM > 1:
            tl.store(part + R, acc_1, mask=ok)
        if NUM > 2:
            tl.store(part + 2 * R, acc_2, mask=ok)

    @triton.jit(do_not_specialize=["T", "num_splits"])
    def _finish_down(  # type: ignore[no-untyped-def]
        parts_ptr,
        out_ptr,
        into_ptr,
        scale_0,
        scale_1,
        scale_2,
        T,
        D,
        into_stride,
        num_splits,
        R: tl.constexpr,
        NUM: tl.constexpr,
        ROOM: tl.constexpr,
        BLOCK_T: tl.constexpr,
        WIDTH: tl.constexpr,
    ):
        """The splits' sum, scaled: alone, and after x with zeros to the end of the row."""
        row = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T))[:, None].to(tl.int64)
        r = tl.arange(0, WIDTH)[None, :]
        inside = row < T
        ok = inside & (r < NUM * R)
        total = tl.zeros((BLOCK_T, WIDTH), tl.float32)
        for split in range(num_splits):
            total += tl.load(parts_ptr + (split * T + row) * (NUM * R) + r, mask=ok, other=0.0)
        scale = tl.where(r < R, scale_0, tl.where(r < 2 * R, scale_1, scale_2))
        out = (total * scale).to(out_ptr.dtype.element_ty)
        tl.store(out_ptr + row * (NUM * R) + r, out, mask=ok)
        if ROOM:
            tl.store(into_ptr + row * into_stride + D + r, out, mask=inside & (r < ROOM))

    @triton.jit
    def _place_kernel(  # type: ignore[no-untyped-def]
        b_0_ptr,
        b_1_ptr,
        b_2_ptr,
        start_0,
        start_1,
        start_2,
        end_0,
        end_1,
        end_2,
        out_ptr,
        N,
        stride,
        R: tl.constexpr,
        NUM: tl.constexpr,
        ROOM: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        n = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
        for first in range(0, ROOM, 64):
            r = first + tl.arange(0, 64)[None, :]
            own = (n >= start_0) & (n < end_0) & (r < R)
            value = tl.load(b_0_ptr + (n - start_0) * R + r, mask=own, other=0.0)
            if NUM > 1:
                own = (n >= start_1) & (n < end_1) & (r >= R) & (r < 2 * R)
                value += tl.load(b_1_ptr + (n - start_1) * R + r - R, mask=own, other=0.0)
            if NUM > 2:
                own = (n >= start_2) & (n < end_2) & (r >= 2 * R) & (r < 3 * R)
                value += tl.load(b_2_ptr + (n - start_2) * R + r - 2 * R, mask=own, other=0.0)
            out = out_ptr + n.to(tl.int64) * stride + r
            tl.store(out, value.to(out_ptr.dtype.element_ty), mask=(n < N) & (r < ROOM))

    @triton.jit
    def _add_adapter(  # type: ignore[no-untyped-def]
        x,
        dx,
        acc,
        g_at,
        ok,
        a,
        scale,
        bits,
        threshold,
        NUMBER: tl.constexpr,
        DROPOUT: tl.constexpr,
        PRECISION: tl.constexpr,
    ):
        """One adapter's share of a tile: of the gradients of the input and of its A matrix."""
        g = tl.load(g_at, mask=ok, other=0.0)
        g = (g.to(tl.float32) * scale).to(x.dtype)
        share = tl.dot(g, a, input_precision=PRECISION)
        masked = x
        if DROPOUT:
            share = _apply_mask(share, bits, NUMBER, threshold)
            masked = _apply_mask(x, bits, NUMBER, threshold)
        acc += tl.dot(tl.trans(g), masked, input_precision=PRECISION)
        return dx + share, acc

    @triton.jit(do_not_specialize=["mask_number", "threshold", "T", "per_split"])
    def _down_backward_kernel(  # type: ignore[no-untyped-def]
        g_ptr,
        x_ptr,
        dx_ptr,
        a_0_ptr,
        a_1_ptr,
        a_2_ptr,
        out_ptr,
        weight_ptr,
        root_ptr,
        seed_ptr,
        mask_number,
        threshold,
        scale_0,
        scale_1,
        scale_2,
        T,
        D,
        g_stride,
        stride,
        dx_stride,
        per_split,
        R: tl.constexpr,
        RANK: tl.constexpr,
        NUM: tl.constexpr,
        DROPOUT: tl.constexpr,
        INPUT_GRAD: tl.constexpr,
        SWIGLU: tl.constexpr,
        NORM: tl.constexpr,
        BLOCK_T: tl.constexpr,
        BLOCK_D: tl.constexpr,
        PRECISION: tl.constexpr,
    ):
        split = tl.program_id(1)
        d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
        ok = d < D
        random_column = d  # without dropout nothing is drawn
        if DROPOUT:
            random_column = _random_columns(d)
            threshold = threshold.to(tl.uint32) << 16
        r = tl.arange(0, RANK)
        own = (r[:, None] < R) & ok[None, :]
        a_at = r[:, None] * D + d[None, :]
        dtype = x_ptr.dtype.element_ty
        a_0 = tl.load(a_0_ptr + a_at, mask=own, other=0.0).to(dtype)
        a_1 = a_0
        a_2 = a_0
        weight = 1.0
        if NORM:
            weight = tl.load(weight_ptr + d, mask=ok, other=0.0).to(tl.float32)[None, :]
        if NUM > 1:
            a_1 = tl.load(a_1_ptr + a_at, mask=own, other=0.0).to(dtype)
        if NUM > 2:
            a_2 = tl.load(a_2_ptr + a_at, mask=own, other=0.0).to(dtype)
        acc_0 = tl.zeros((RANK, BLOCK_D), tl.float32)
        acc_1 = tl.zeros((RANK, BLOCK_D), tl.float32)
        acc_2 = tl.zeros((RANK, BLOCK_D), tl.float32)
        end = tl.minimum(T, (split + 1) * per_split)
        for first in range(split * per_split, end, BLOCK_T):
            t = first + tl.arange(0, BLOCK_T)
            inside = (t[:, None] < T) & ok[None, :]
            row = t[:, None].to(tl.int64)
            x_at = x_ptr + row * stride + d[None, :]
            raw = tl.load(x_at, mask=inside, other=0.0)
            x = raw
            if SWIGLU:
                gate = raw.to(tl.float32)
                up = tl.load(x_at + D, mask=inside, other=0.0).to(tl.float32)
                sigmoid = kernels.sigmoid(gate)
                x = ((gate * sigmoid).to(dtype).to(tl.float32) * up).to(dtype)
            if NORM:
                root = tl.load(root_ptr + t, mask=t < T, other=0.0)[:, None]
                x = ((raw.to(tl.float32) * root).to(dtype).to(tl.float32) * weight).to(dtype)
            dx = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
            g_at = g_ptr + row * g_stride + r[None, :]
            g_ok = (t[:, None] < T) & (r[None, :] < R)
            bits = t
            if DROPOUT:
                bits = _bits(_random_rows(seed_ptr, mask_number, t), random_column)
            dx, acc_0 = _add_adapter(
                x, dx, acc_0, g_at, g_ok, a_0, scale_0, bits, threshold, 0, DROPOUT, PRECISION
            )
            if NUM > 1:
                dx, acc_1 = _add_adapter(
                    x, dx, acc_1, g_at + R, g_ok, a_1, scale_1, bits, threshold,
                    1, DROPOUT, PRECISION,
                )  # fmt: skip
            if NUM > 2:
                dx, acc_2 = _add_adapter(
                    x, dx, acc_2, g_at + 2 * R, g_ok, a_2, scale_2, bits, threshold,
                    2, DROPOUT, PRECISION,
                )  # fmt: skip
            if INPUT_GRAD:
                dx_at = dx_ptr + row * dx_stride + d[None, :]
                dx += tl.load(dx_at, mask=inside, other=0.0).to(tl.float32)
                if SWIGLU:
                    d_gate = dx * up * sigmoid * (1 + gate * (1 - sigmoid))
                    tl.store(x_at, d_gate.to(dtype), mask=inside)
                    tl.store(x_at + D, (dx * gate * sigmoid).to(dtype), mask=inside)
                else:
                    tl.store(dx_at, dx.to(dtype), mask=inside)
        out = out_ptr + (split * NUM * R + r[:, None]) * D + d[None, :]
        tl.store(out, acc_0, mask=own)
        if NUM > 1:
            tl.store(out + R * D, acc_1, mask=own)
        if NUM > 2:
            tl.store(out + 2 * R * D, acc_2, mask=own)
