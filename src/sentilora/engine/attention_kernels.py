"""Flash attention over segments that share keys without copying them, forward and backward.

The queries of a segment attend to a list of rows: the tokens above it, then its own. Keys and
values are read through that list. All query heads of a key head are in one tile, so that keys and
values are loaded once for them. (Dao 2023, algorithms 1 and 2: online softmax forward; backward,
scores are computed again from the logarithm of their sum.)

Axes: Q query rows, K key rows, T rows of the pass, H query heads, G key heads, E a head's width.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch

from sentilora.engine.kernels import tl, triton
from sentilora.engine.segments import Attention


@dataclass(frozen=True)
class Tiles:
    """A program's tile, (query, head) pairs by keys; its warps, and its loads in flight."""

    rows: int
    keys: int
    num_warps: int
    num_stages: int


# The best of 18 each, on an H100 with 14 reviews of 320 tokens. A small tile is best where programs
# differ most in how many keys they see (forward 94 µs; with the tile of the backward pass 120).
BY_QUERIES = Tiles(64, 32, 4, 3)
BY_KEYS = Tiles(128, 64, 8, 2)


def attend(
    q_QHE: torch.Tensor,
    kv_TGE: torch.Tensor,
    attention: Attention,
    scale: float,
    window: int | None,
    room: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output (Q, H, E), and the logarithm to base 2 of every query's sum (Q, H), for backward.

    kv_TGE: keys, then values, 2G heads. window: the most tokens that a token sees. room: free
    columns after each row of the output.
    """
    Q, H, E = q_QHE.shape
    out_QHE = q_QHE.new_empty(Q, H * E + room)[:, : H * E].unflatten(1, (H, E))
    log_sum_QH = torch.empty(Q, H, dtype=torch.float32, device=q_QHE.device)
    options = _options(BY_QUERIES, q_QHE, kv_TGE, attention, window)
    _attend_kernel[_grid(attention.max_q, options["QUERIES"], kv_TGE, attention)](
        q_QHE,
        kv_TGE,
        out_QHE,
        out_QHE.stride(0),
        log_sum_QH,
        *_rows_of(attention),
        scale * math.log2(math.e),
        window or 0,
        q_QHE.stride(0),
        kv_TGE.stride(0),
        **options,
    )
    return out_QHE, log_sum_QH


def attend_backward(
    d_QHE: torch.Tensor,
    q_QHE: torch.Tensor,
    kv_TGE: torch.Tensor,
    out_QHE: torch.Tensor,
    log_sum_QH: torch.Tensor,
    attention: Attention,
    scale: float,
    window: int | None,
    dq_QHE: torch.Tensor,
    dk_KGE: torch.Tensor,
    dv_KGE: torch.Tensor,
) -> None:
    """Gradients of queries (Q, H, E), and of the keys and values (K, G, E) that segments list.

    They are written to the last three, whose rows may be apart.
    """
    delta_QH = torch.empty_like(log_sum_QH)
    common = (
        *_rows_of(attention),
        scale,
        window or 0,
        q_QHE.stride(0),
        d_QHE.stride(0),
        kv_TGE.stride(0),
    )
    if dk_KGE.stride(0) != dv_KGE.stride(0):
        raise ValueError("the rows of dk_KGE and dv_KGE are not equally far apart")
    options = _options(BY_QUERIES, q_QHE, kv_TGE, attention, window)
    _queries_backward[_grid(attention.max_q, options["QUERIES"], kv_TGE, attention)](
        d_QHE,
        q_QHE,
        kv_TGE,
        out_QHE,
        out_QHE.stride(0),
        log_sum_QH,
        delta_QH,
        dq_QHE,
        dq_QHE.stride(0),
        *common,
        **options,
    )
    options = _options(BY_KEYS, q_QHE, kv_TGE, attention, window)
    _keys_backward[_grid(attention.max_k, options["KEYS"], kv_TGE, attention)](
        d_QHE,
        q_QHE,
        kv_TGE,
        log_sum_QH,
        delta_QH,
        dk_KGE,
        dv_KGE,
        dk_KGE.stride(0),
        *common,
        **options,
    )


def _rows_of(attention: Attention) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = attention.q_starts_S if attention.key_rows_K is None else attention.key_rows_K
    return attention.q_starts_S, attention.k_starts_S, rows


def _grid(
    longest: int, block: int, kv_TGE: torch.Tensor, attention: Attention
) -> tuple[int, int, int]:
    return triton.cdiv(longest, block), kv_TGE.shape[1] // 2, len(attention.q_starts_S) - 1


def _options(
    tiles: Tiles,
    q_QHE: torch.Tensor,
    kv_TGE: torch.Tensor,
    attention: Attention,
    window: int | None,
) -> dict[str, Any]:
    G = kv_TGE.shape[1] // 2
    repeats = q_QHE.shape[1] // G
    places = triton.next_power_of_2(repeats)
    return {
        "G": G,
        "E": q_QHE.shape[2],
        "REPEATS": repeats,
        "PLACES": places,
        "QUERIES": max(1, tiles.rows // places),
        "KEYS": tiles.keys,
        "WINDOW": window is not None,
        "PRECISION": "ieee" if q_QHE.dtype == torch.float32 else "tf32",
        "LISTED": attention.key_rows_K is not None,
        "num_warps": tiles.num_warps,
        "num_stages": tiles.num_stages,
    }


if triton is not None:

    @triton.jit
    def _query_rows(first, q_len, q_start, g, REPEATS, PLACES, QUERIES):  # type: ignore[no-untyped-def]
        """A tile's queries: number in the segment, row, head, and whether the query exists."""
        m = tl.arange(0, QUERIES * PLACES)
        i = first + m // PLACES
        head = m % PLACES
        return i, q_start + i, g * REPEATS + head, (i < q_len) & (head < REPEATS)

    @triton.jit
    def _seen(i, j, k_len, offset, window, WINDOW: tl.constexpr):  # type: ignore[no-untyped-def]
        """Which keys j a query i sees."""
        at = i[:, None] + offset
        seen = (j[None, :] <= at) & (j[None, :] < k_len)
        if WINDOW:
            seen = seen & (j[None, :] > at - window)
        return seen

    @triton.jit
    def _span(starts_ptr, segment):  # type: ignore[no-untyped-def]
        """First row of a segment and how many it has."""
        start = tl.load(starts_ptr + segment)
        return start, tl.load(starts_ptr + segment + 1) - start

    @triton.jit
    def _keys_and_values(  # type: ignore[no-untyped-def]
        kv_ptr,
        rows_ptr,
        k_start,
        j,
        k_len,
        g,
        kv_stride,
        G: tl.constexpr,
        E: tl.constexpr,
        LISTED: tl.constexpr,
        MASKED: tl.constexpr,
    ):
        """One head's keys and values j of a segment. MASKED: j may exceed the last."""
        rows = k_start + j
        if LISTED:
            rows = tl.load(rows_ptr + rows, mask=j < k_len if MASKED else None)
        k_at = kv_ptr + rows[:, None].to(tl.int64) * kv_stride + g * E + tl.arange(0, E)[None, :]
        if not MASKED:
            return tl.load(k_at), tl.load(k_at + G * E)
        ok = j[:, None] < k_len
        return tl.load(k_at, mask=ok, other=0.0), tl.load(k_at + G * E, mask=ok, other=0.0)

    @triton.jit
    def _visible(first, offset, k_len, window, QUERIES, KEYS, WINDOW: tl.constexpr):  # type: ignore[no-untyped-def]
        """Of the keys that a tile's queries see: the first, the end of those that every query sees,
        and the end. The first two are multiples of a tile of keys."""
        begin = 0
        all_end = (offset + first + 1) // KEYS * KEYS
        if WINDOW:
            begin = tl.maximum(0, (offset + first - window + 1) // KEYS * KEYS)
            all_end = begin
        return begin, all_end, tl.minimum(k_len, offset + first + QUERIES)

    @triton.jit
    def _again(  # type: ignore[no-untyped-def]
        q, k, v, d, seen, log_sum, delta, scale, PRECISION: tl.constexpr, MASKED: tl.constexpr
    ):
        """Attention weights again, and the gradient of their scores. MASKED: some are not seen."""
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * 1.4426950408889634)
        weights = tl.exp2(scores - log_sum[:, None])
        if MASKED:
            weights = tl.where(seen, weights, 0.0)
        d_weights = tl.dot(d, tl.trans(v), input_precision=PRECISION)
        return weights, (weights * (d_weights - delta[:, None])).to(q.dtype)

    @triton.jit
    def _attend_kernel(  # type: ignore[no-untyped-def]
        q_ptr,
        kv_ptr,
        out_ptr,
        out_stride,
        log_sum_ptr,
        q_starts_ptr,
        k_starts_ptr,
        rows_ptr,
        scale,
        window,
        q_stride,
        kv_stride,
        G: tl.constexpr,
        E: tl.constexpr,
        REPEATS: tl.constexpr,
        PLACES: tl.constexpr,
        QUERIES: tl.constexpr,
        KEYS: tl.constexpr,
        WINDOW: tl.constexpr,
        PRECISION: tl.constexpr,
        LISTED: tl.constexpr,
    ):
        first = tl.program_id(0) * QUERIES
        g = tl.program_id(1)
        segment = tl.program_id(2)
        q_start, q_len = _span(q_starts_ptr, segment)
        if first < q_len:
            k_start, k_len = _span(k_starts_ptr, segment)
            offset = k_len - q_len
            i, row, head, exists = _query_rows(first, q_len, q_start, g, REPEATS, PLACES, QUERIES)
            e = tl.arange(0, E)
            q_at = q_ptr + row[:, None].to(tl.int64) * q_stride + head[:, None] * E + e[None, :]
            q = tl.load(q_at, mask=exists[:, None], other=0.0)
            top = tl.full((QUERIES * PLACES,), float("-inf"), tl.float32)
            total = tl.zeros((QUERIES * PLACES,), tl.float32)
            acc = tl.zeros((QUERIES * PLACES, E), tl.float32)
            begin, all_end, end = _visible(first, offset, k_len, window, QUERIES, KEYS, WINDOW)
            # First the tiles in which every query sees every key: they need no mask.
            for masked in tl.static_range(2):
                for start in range(all_end if masked else begin, end if masked else all_end, KEYS):
                    j = start + tl.arange(0, KEYS)
                    k, v = _keys_and_values(
                        kv_ptr, rows_ptr, k_start, j, k_len, g, kv_stride, G, E, LISTED, masked
                    )
                    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
                    if masked:
                        seen = _seen(i, j, k_len, offset, window, WINDOW)
                        scores = tl.where(seen, scores, float("-inf"))
                    higher = tl.maximum(top, tl.max(scores, 1))
                    base = higher
                    if masked:
                        # A query that sees no key yet: minus infinity minus itself is NaN.
                        base = tl.where(higher == float("-inf"), 0.0, higher)
                    weights = tl.exp2(scores - base[:, None])
                    shrink = tl.exp2(top - base)
                    total = total * shrink + tl.sum(weights, 1)
                    acc = acc * shrink[:, None]
                    acc += tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
                    top = higher
            out_at = out_ptr + row[:, None].to(tl.int64) * out_stride + head[:, None] * E
            total = tl.where(total == 0.0, 1.0, total)  # queries that do not exist
            out = acc / total[:, None]
            tl.store(out_at + e[None, :], out.to(q.dtype), mask=exists[:, None])
            tl.store(log_sum_ptr + row * (G * REPEATS) + head, top + tl.log2(total), mask=exists)

    @triton.jit
    def _queries_backward(  # type: ignore[no-untyped-def]
        d_ptr,
        q_ptr,
        kv_ptr,
        out_ptr,
        out_stride,
        log_sum_ptr,
        delta_ptr,
        dq_ptr,
        dq_stride,
        q_starts_ptr,
        k_starts_ptr,
        rows_ptr,
        scale,
        window,
        q_stride,
        d_stride,
        kv_stride,
        G: tl.constexpr,
        E: tl.constexpr,
        REPEATS: tl.constexpr,
        PLACES: tl.constexpr,
        QUERIES: tl.constexpr,
        KEYS: tl.constexpr,
        WINDOW: tl.constexpr,
        PRECISION: tl.constexpr,
        LISTED: tl.constexpr,
    ):
        first = tl.program_id(0) * QUERIES
        g = tl.program_id(1)
        segment = tl.program_id(2)
        q_start, q_len = _span(q_starts_ptr, segment)
        if first < q_len:
            k_start, k_len = _span(k_starts_ptr, segment)
            offset = k_len - q_len
            i, row, head, exists = _query_rows(first, q_len, q_start, g, REPEATS, PLACES, QUERIES)
            e = tl.arange(0, E)
            in_row = head[:, None] * E + e[None, :]
            row_64 = row[:, None].to(tl.int64)
            q = tl.load(q_ptr + row_64 * q_stride + in_row, mask=exists[:, None], other=0.0)
            d = tl.load(d_ptr + row_64 * d_stride + in_row, mask=exists[:, None], other=0.0)
            out = tl.load(out_ptr + row_64 * out_stride + in_row, mask=exists[:, None], other=0.0)
            at = row * (G * REPEATS) + head
            delta = tl.sum(d.to(tl.float32) * out.to(tl.float32), 1)
            tl.store(delta_ptr + at, delta, mask=exists)
            log_sum = tl.load(log_sum_ptr + at, mask=exists, other=0.0)
            acc = tl.zeros((QUERIES * PLACES, E), tl.float32)
            begin, all_end, end = _visible(first, offset, k_len, window, QUERIES, KEYS, WINDOW)
            for masked in tl.static_range(2):
                for start in range(all_end if masked else begin, end if masked else all_end, KEYS):
                    j = start + tl.arange(0, KEYS)
                    k, v = _keys_and_values(
                        kv_ptr, rows_ptr, k_start, j, k_len, g, kv_stride, G, E, LISTED, masked
                    )
                    seen = j
                    if masked:
                        seen = _seen(i, j, k_len, offset, window, WINDOW)
                    _, d_scores = _again(q, k, v, d, seen, log_sum, delta, scale, PRECISION, masked)
                    acc += tl.dot(d_scores, k, input_precision=PRECISION)
            dq_at = dq_ptr + row_64 * dq_stride + in_row
            tl.store(dq_at, (acc * scale).to(q.dtype), mask=exists[:, None])

    @triton.jit
    def _keys_backward(  # type: ignore[no-untyped-def]
        d_ptr,
        q_ptr,
        kv_ptr,
        log_sum_ptr,
        delta_ptr,
        dk_ptr,
        dv_ptr,
        dk_stride,
        q_starts_ptr,
        k_starts_ptr,
        rows_ptr,
        scale,
        window,
        q_stride,
        d_stride,
        kv_stride,
        G: tl.constexpr,
        E: tl.constexpr,
        REPEATS: tl.constexpr,
        PLACES: tl.constexpr,
        QUERIES: tl.constexpr,
        KEYS: tl.constexpr,
        WINDOW: tl.constexpr,
        PRECISION: tl.constexpr,
        LISTED: tl.constexpr,
    ):
        start = tl.program_id(0) * KEYS
        g = tl.program_id(1)
        segment = tl.program_id(2)
        k_start, k_len = _span(k_starts_ptr, segment)
        if start < k_len:
            q_start, q_len = _span(q_starts_ptr, segment)
            offset = k_len - q_len
            e = tl.arange(0, E)
            j = start + tl.arange(0, KEYS)
            k, v = _keys_and_values(
                kv_ptr, rows_ptr, k_start, j, k_len, g, kv_stride, G, E, LISTED, True
            )
            dk = tl.zeros((KEYS, E), tl.float32)
            dv = tl.zeros((KEYS, E), tl.float32)
            begin = tl.maximum(0, start - offset) // QUERIES * QUERIES
            end = q_len
            # From here on a query sees all keys of the tile; those past the last are not stored.
            all_begin = tl.cdiv(tl.maximum(0, start + KEYS - 1 - offset), QUERIES) * QUERIES
            if WINDOW:
                end = tl.minimum(q_len, start + KEYS + window - 1 - offset)
                all_begin = end
            for whole in tl.static_range(2):
                first_begin = all_begin if whole else begin
                first_end = end if whole else tl.minimum(all_begin, end)
                for first in range(first_begin, first_end, QUERIES):
                    i, row, head, exists = _query_rows(
                        first, q_len, q_start, g, REPEATS, PLACES, QUERIES
                    )
                    in_row = head[:, None] * E + e[None, :]
                    row_64 = row[:, None].to(tl.int64)
                    # Queries that do not exist have no gradient, and so add nothing.
                    q = tl.load(q_ptr + row_64 * q_stride + in_row, mask=exists[:, None], other=0.0)
                    d = tl.load(d_ptr + row_64 * d_stride + in_row, mask=exists[:, None], other=0.0)
                    at = row * (G * REPEATS) + head
                    log_sum = tl.load(log_sum_ptr + at, mask=exists, other=0.0)
                    delta = tl.load(delta_ptr + at, mask=exists, other=0.0)
                    seen = j
                    if not whole:
                        seen = _seen(i, j, k_len, offset, window, WINDOW)
                    weights, d_scores = _again(
                        q, k, v, d, seen, log_sum, delta, scale, PRECISION, not whole
                    )
                    dv += tl.dot(tl.trans(weights.to(d.dtype)), d, input_precision=PRECISION)
                    dk += tl.dot(tl.trans(d_scores), q, input_precision=PRECISION)
            out = (k_start + j)[:, None].to(tl.int64) * dk_stride + g * E + e[None, :]
            ok = j[:, None] < k_len
            tl.store(dk_ptr + out, (dk * scale).to(k.dtype), mask=ok)
            tl.store(dv_ptr + out, dv.to(v.dtype), mask=ok)
