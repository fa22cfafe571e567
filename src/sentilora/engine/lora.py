"""Linear layers that read the same input, with their LoRA adapters, as one operation.

    y = x Wᵀ + bias + c · (m ⊙ x) Aᵀ Bᵀ      c = scaling / (1 − p), a mask m per adapter

(Hu et al. 2021, section 4.1, with PEFT's dropout before A.) W is frozen, so the backward pass has
no weight gradient; the masks are drawn again there from their seeds, and no copy of x is kept.

Axes: T tokens, D input, N outputs of all layers, R ranks of all adapters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

from sentilora.engine import fp8
from sentilora.engine.kernels import tl, triton, use_triton
from sentilora.engine.nf4 import Source, Weights


@dataclass(frozen=True)
class Adapter:
    """One layer's adapter: its matrices, LoRA's scaling, its places among outputs and ranks."""

    A: torch.Tensor
    B: torch.Tensor
    scaling: float
    outputs: slice
    ranks: slice


class ProjectionGroup:
    """Linear layers (PEFT's or plain ones) with a common input, their weights one below the other.

    names: of the modules below `layer`. PEFT puts others there when an adapter comes or goes; they
    are looked up at each `refresh`. number: tells the group's dropout masks from all others'.
    """

    def __init__(
        self, layer: torch.nn.Module, names: Sequence[str], number: int, weights: Weights
    ) -> None:
        self.layer = layer
        self.names = list(names)
        self.number = number
        self.weights = weights
        self.modules = self.look_up()
        self.linears = [base_linear(module) for module in self.modules]
        sizes = [linear.out_features for linear in self.linears]
        ends = np.cumsum(sizes).tolist()
        self.outputs = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self.num_in: int = self.linears[0].in_features
        self.num_out: int = ends[-1]
        self.bias: torch.Tensor | None = None
        self._bias_source: Source | None = None
        self.adapters: list[Adapter] = []
        self.dropout = 0.0
        self.room = 0
        self._placed = False

    def look_up(self) -> list[torch.nn.Module]:
        """The modules that the layer has now."""
        return [self.layer.get_submodule(name) for name in self.names]

    def _join_biases(self) -> None:
        biases = [linear.bias for linear in self.linears]
        source = Source(biases, self.modules)
        if source == self._bias_source:
            return  # a captured pass reads the tensor that there is
        self._bias_source = source
        like = next((bias for bias in biases if bias is not None), None)
        if like is not None:
            parts = [
                like.new_zeros(linear.out_features) if bias is None else bias.detach()
                for bias, linear in zip(biases, self.linears, strict=True)
            ]
            self.bias = torch.cat(parts)

    def refresh(self) -> None:
        """Look at the layers again: which adapters are in use, and what is in them."""
        self.modules = self.look_up()
        self.linears = [base_linear(module) for module in self.modules]
        self._join_biases()
        self.adapters, self.dropout = [], 0.0
        rank = 0
        for module, outputs in zip(self.modules, self.outputs, strict=True):
            name = active_adapter(module)
            if name is None:
                continue
            A, B = module.lora_A[name].weight, module.lora_B[name].weight  # type: ignore[index, union-attr]
            scaling = float(module.scaling[name])  # type: ignore[index]
            self.adapters.append(Adapter(A, B, scaling, outputs, slice(rank, rank + len(A))))
            rank += len(A)
            layer = module.lora_dropout[name]  # type: ignore[index]
            if module.training and isinstance(layer, torch.nn.Dropout):
                self.dropout = layer.p
        # On GPUs the B matrices stand in columns behind the weights: one product for both.
        ranks = {len(adapter.A) for adapter in self.adapters}
        fits = len(ranks) == 1 and ranks <= {16, 32, 64} and len(self.adapters) < 4
        self.room = -(-rank // 64) * 64 if fits and use_triton(self.adapters[0].A) else 0
        self._placed = False
        self._beside: torch.Tensor | None = None

    def weight(self, dtype: torch.dtype) -> torch.Tensor:
        """(N, D + room): the base's weights, behind them every adapter's B at its ranks."""
        weight_ND, decoded = self.weights.of(self, dtype, self.room)
        if self.room and (decoded or not self._placed):
            _place(self.adapters, weight_ND[:, self.num_in :])
            self._placed = True
        return weight_ND

    def beside_fp8(self, dtype: torch.dtype) -> torch.Tensor:
        """(N, R): every adapter's B at its outputs and ranks, where the weights have 8 bits."""
        if self._beside is None:
            self._beside = self.adapters[0].B.new_empty(self.num_out, self.room, dtype=dtype)
            _place(self.adapters, self._beside)
        return self._beside[:, : self.num_ranks]

    @property
    def parameters(self) -> list[torch.Tensor]:
        """A and B of every adapter in use."""
        return [matrix for adapter in self.adapters for matrix in (adapter.A, adapter.B)]

    @property
    def num_ranks(self) -> int:
        return self.adapters[-1].ranks.stop if self.adapters else 0

    def new_input(self, like: torch.Tensor) -> torch.Tensor:
        """Room for T inputs, and behind each for what the A matrices make of it."""
        room = 0 if self.weights.is_fp8(self) else self.room
        return like.new_empty(len(like), self.num_in + room)


def base_linear(module: torch.nn.Module) -> Any:
    """The linear layer below PEFT's wrapper, or the module itself."""
    return getattr(module, "base_layer", module)


def active_adapter(module: torch.nn.Module) -> str | None:
    """Name of the adapter that a layer applies now, if any."""
    if not hasattr(module, "lora_A") or module.disable_adapters or module.merged:
        return None
    names = [name for name in module.active_adapters if name in module.lora_A]  # type: ignore[union-attr, operator]
    return names[0] if names else None


def is_plain(module: torch.nn.Module) -> bool:
    """Whether this file's formula is all that a layer does: a linear layer, at most one LoRA."""
    if not isinstance(base_linear(module), torch.nn.Linear):
        return False
    if not hasattr(module, "lora_A"):
        return module is base_linear(module)
    if module.disable_adapters:
        return not module.merged  # PEFT takes it out again at the layer's next own forward
    if module.merged:
        return True
    names = [name for name in module.active_adapters if name in module.lora_A]  # type: ignore[union-attr, operator]
    return len(names) < 2 and not any(
        name in module.lora_variant or module.lora_bias[name]  # type: ignore[operator, index]
        for name in names
    )


def project(
    x_TD: torch.Tensor, group: ProjectionGroup, seed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The group's outputs (T, N), and what its A matrices gave (T, R), which backward needs.

    x_TD: from `group.new_input`, its first D columns filled; or just the D columns. seed: of the
    pass's dropout masks.
    """
    D = group.num_in
    if group.room and group.weights.is_fp8(group):
        weight = group.weights.fp8_of(group, x_TD.dtype)
        y_TN = fp8.matmul(x_TD, weight.forward_ND, weight.forward_scale_N)
        if group.bias is not None:
            y_TN += group.bias
        h_TR = _down_triton(x_TD, group, seed, None)
        return y_TN.addmm_(h_TR, group.beside_fp8(x_TD.dtype).T), h_TR
    if group.room:
        h_TR = _down_triton(x_TD[:, :D], group, seed, x_TD if x_TD.shape[1] > D else None)
        weight_ND = group.weight(x_TD.dtype)
        if x_TD.shape[1] > D:
            return linear(x_TD, weight_ND, group.bias), h_TR
        y_TN = linear(x_TD, weight_ND[:, :D], group.bias)
        return y_TN.addmm_(h_TR, weight_ND[:, D : D + group.num_ranks].T), h_TR
    y_TN = linear(x_TD, group.weight(x_TD.dtype), group.bias)
    ranks_TR = _ranks(x_TD, group, seed)
    for adapter in group.adapters:
        assert ranks_TR is not None
        B = adapter.B.to(x_TD.dtype)
        y_TN[:, adapter.outputs].addmm_(ranks_TR[:, adapter.ranks], B.T)
    return y_TN, ranks_TR


def project_ranks(x_TD: torch.Tensor, group: ProjectionGroup, seed: torch.Tensor) -> Any:
    """What `project` gives backward, without the products with the weights."""
    if group.room:
        return _down_triton(x_TD[:, : group.num_in], group, seed, None)
    return _ranks(x_TD, group, seed)


def _ranks(x_TD: torch.Tensor, group: ProjectionGroup, seed: torch.Tensor) -> torch.Tensor | None:
    parts = []
    for number, adapter in enumerate(group.adapters):
        kept = x_TD
        if group.dropout:
            kept = dropped(x_TD, group.dropout, _mask_seed(group, seed, number))
        parts.append((kept @ adapter.A.T.to(kept.dtype)) * _scale(group, adapter))
    return torch.cat(parts, -1) if len(parts) > 1 else parts[0] if parts else None


def project_backward(
    d_TN: torch.Tensor,
    x_TD: torch.Tensor,
    h_TR: torch.Tensor | None,
    group: ProjectionGroup,
    seed: torch.Tensor,
    needs_input_grad: bool,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """Gradients of the input (its rows may lie apart), and of `group.parameters`."""
    D = group.num_in
    dx_TD: torch.Tensor | None = None
    if not group.room:
        if needs_input_grad:
            dx_TD = d_TN @ group.weight(x_TD.dtype)
        return dx_TD, _adapters_backward(d_TN, x_TD, dx_TD, h_TR, group, seed)
    if group.weights.is_fp8(group):
        weight = group.weights.fp8_of(group, x_TD.dtype)
        dh_TR = d_TN @ group.beside_fp8(x_TD.dtype)
        if needs_input_grad:
            dx_TD = fp8.matmul(d_TN, weight.backward_DN, weight.backward_scale_D)
    elif needs_input_grad:
        weight_ND = group.weight(x_TD.dtype)
        dxh = d_TN @ weight_ND
        dx_TD, dh_TR = dxh[:, :D], dxh[:, D : D + group.num_ranks]
    else:
        weight_ND = group.weight(x_TD.dtype)
        dh_TR = d_TN @ weight_ND[:, D : D + group.num_ranks]
    dA_RD = _down_backward_triton(dh_TR, x_TD, dx_TD, group, seed)
    assert h_TR is not None
    # All outputs against all ranks: one product that reads d once; an adapter's B is one block.
    dB_NR = _product(d_TN.T, h_TR, group.adapters[0].B.dtype)
    gradients = []
    for adapter in group.adapters:
        dA = dA_RD[adapter.ranks].to(adapter.A.dtype)
        gradients += [dA, dB_NR[adapter.outputs, adapter.ranks]]
    return dx_TD, gradients


def _product(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """a @ b in another dtype than theirs, without a second pass where the device can."""
    if a.is_cuda and a.dtype != dtype == torch.float32:
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)


def _adapters_backward(
    d_TN: torch.Tensor,
    x_TD: torch.Tensor,
    dx_TD: torch.Tensor | None,
    h_TR: torch.Tensor | None,
    group: ProjectionGroup,
    seed: torch.Tensor,
) -> list[torch.Tensor]:
    """Gradients of A and B; that of the input is added to `dx_TD`."""
    gradients = []
    for number, adapter in enumerate(group.adapters):
        assert h_TR is not None
        d = d_TN[:, adapter.outputs]
        A, B = adapter.A.to(d.dtype), adapter.B.to(d.dtype)
        g = (d @ B) * _scale(group, adapter)
        mask_seed = _mask_seed(group, seed, number) if group.dropout else 0
        dA = g.T @ dropped(x_TD, group.dropout, mask_seed)
        dB = d.T @ h_TR[:, adapter.ranks]
        gradients += [dA.to(adapter.A.dtype), dB.to(adapter.B.dtype)]
        if dx_TD is None:
            continue
        if group.dropout:
            dx_TD += dropped(g @ A, group.dropout, mask_seed, in_place=True)
        else:
            dx_TD.addmm_(g, A)
    return gradients


def _scale(group: ProjectionGroup, adapter: Adapter) -> float:
    return adapter.scaling / (1 - group.dropout)


def _threshold(group: ProjectionGroup) -> int:
    """What 16 random bits must reach for an element to be kept, in the kernels."""
    return int(group.dropout * 65536 + 0.5)


def _mask_seed(group: ProjectionGroup, seed: torch.Tensor, number: int) -> int:
    """Of one adapter's mask: no two of a pass are alike; a group has fewer than 8."""
    return int(seed) + 8 * group.number + number


def dropped(
    x_TD: torch.Tensor, probability: float, seed: int, in_place: bool = False
) -> torch.Tensor:
    """`x` with each element zero at this probability, not scaled. The seed decides which.

    On the CPU only the places that become zero are drawn, by the gaps between them: those of a
    Bernoulli process are geometric.
    """
    if not probability:
        return x_TD
    out = x_TD if in_place else x_TD.clone()
    if x_TD.is_cuda:
        generator = torch.Generator(x_TD.device).manual_seed(seed)
        drop = torch.rand(x_TD.shape, generator=generator, device=x_TD.device) < probability
        return out.masked_fill_(drop, 0)
    out.view(-1).index_fill_(0, _dropped_places(x_TD.numel(), probability, seed), 0)
    return out


@lru_cache(maxsize=256)  # the backward pass asks again for what the forward pass drew
def _dropped_places(num: int, probability: float, seed: int) -> torch.Tensor:
    random = np.random.Generator(np.random.SFC64(seed))
    places: list[np.ndarray] = []
    last = -1
    while last < num:
        expected = (num - last) * probability
        gaps = random.standard_exponential(int(expected + 5 * expected**0.5) + 16, np.float32)
        gaps /= -np.log1p(-probability)
        found = np.cumsum(gaps.astype(np.int64) + 1) + last
        places.append(found)
        last = int(found[-1])
    every = np.concatenate(places) if len(places) > 1 else places[0]
    return torch.from_numpy(every[: np.searchsorted(every, num)])


def _three(items: list[Any], filler: Any) -> list[Any]:
    return items + [filler] * (3 - len(items))


def _down_triton(
    x_TD: torch.Tensor, group: ProjectionGroup, seed: torch.Tensor, beside: torch.Tensor | None
) -> torch.Tensor:
    """`c · (m ⊙ x) Aᵀ` (T, R) of every adapter; also into the columns behind x in `beside`."""
    T, D = x_TD.shape
    R = group.num_ranks
    h_TR = x_TD.new_empty(T, R)
    block_T = 32
    A = [adapter.A for adapter in group.adapters]
    _down_kernel[(triton.cdiv(T, block_T),)](
        x_TD,
        *_three(A, A[0]),
        h_TR,
        h_TR if beside is None else beside[:, D:],
        seed,
        8 * group.number,
        *_three([_scale(group, adapter) for adapter in group.adapters], 0.0),
        _threshold(group),
        T,
        D,
        x_TD.stride(0),
        RANK=R // len(A),
        NUM=len(A),
        ROOM=0 if beside is None else group.room,
        DROPOUT=group.dropout > 0,
        BLOCK_T=block_T,
        BLOCK_D=128,
        PRECISION="ieee" if x_TD.dtype == torch.float32 else "tf32",
    )
    return h_TR


def _down_backward_triton(
    dh_TR: torch.Tensor,
    x_TD: torch.Tensor,
    dx_TD: torch.Tensor | None,
    group: ProjectionGroup,
    seed: torch.Tensor,
) -> torch.Tensor:
    """Gradient (R, D) of the A matrices in float32; the input's is added to `dx_TD` in place."""
    T, D = x_TD.shape
    R = group.num_ranks
    block_T, block_D = 64, 64
    num_splits = max(1, min(8, T // 256))
    per_split = triton.cdiv(triton.cdiv(T, num_splits), block_T) * block_T
    parts = torch.empty(num_splits, R, D, dtype=torch.float32, device=x_TD.device)
    A = [adapter.A for adapter in group.adapters]
    dx = x_TD if dx_TD is None else dx_TD
    _down_backward_kernel[(triton.cdiv(D, block_D), num_splits)](
        dh_TR,
        x_TD,
        dx,
        *_three(A, A[0]),
        parts,
        seed,
        8 * group.number,
        *_three([_scale(group, adapter) for adapter in group.adapters], 0.0),
        _threshold(group),
        T,
        D,
        dh_TR.stride(0),
        x_TD.stride(0),
        dx.stride(0),
        per_split,
        RANK=R // len(A),
        NUM=len(A),
        DROPOUT=group.dropout > 0,
        INPUT_GRAD=dx_TD is not None,
        BLOCK_T=block_T,
        BLOCK_D=block_D,
        PRECISION="ieee" if x_TD.dtype == torch.float32 else "tf32",
    )
    return parts.sum(0) if num_splits > 1 else parts[0]


def _place(adapters: Sequence[Adapter], out_NR: torch.Tensor) -> None:
    """Every adapter's B at its outputs and ranks, zero elsewhere."""
    N, room = out_NR.shape
    B = [adapter.B for adapter in adapters]
    starts = [adapter.outputs.start for adapter in adapters]
    ends = [adapter.outputs.stop for adapter in adapters]
    block = 64
    _place_kernel[(triton.cdiv(N, block),)](
        *_three(B, B[0]),
        *_three(starts, 0),
        *_three(ends, 0),
        out_NR,
        N,
        out_NR.stride(0),
        RANK=B[0].shape[1],
        NUM=len(B),
        ROOM=room,
        BLOCK=block,
    )


if triton is not None:

    @triton.jit
    def _keep(seed, t, d, D, threshold, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr):  # type: ignore[no-untyped-def]
        """Whether elements (t, d) are kept: 16 random bits each, eight of a Philox call.

        Seven rounds: the fewest that pass BigCrush (Salmon et al. 2011, table 2).
        """
        eighth = d // 8 + tl.arange(0, BLOCK_D // 8)
        counter = t[:, None] * (D // 8 + 1) + eighth[None, :]
        a, b, c, e = tl.randint4x(seed, counter, n_rounds=7)
        ab = tl.join(a, b)
        ce = tl.join(c, e)
        bits = tl.reshape(tl.join(ab, ce), (BLOCK_T, BLOCK_D // 2))
        low = bits & 0xFFFF
        high = (bits >> 16) & 0xFFFF
        both = tl.reshape(tl.join(low, high), (BLOCK_T, BLOCK_D))
        return both >= threshold

    @triton.jit
    def _add_down(  # type: ignore[no-untyped-def]
        x,
        a_at,
        ok,
        acc,
        seed,
        t,
        start,
        D,
        threshold,
        DROPOUT: tl.constexpr,
        BLOCK_T: tl.constexpr,
        BLOCK_D: tl.constexpr,
        PRECISION: tl.constexpr,
    ):
        """One adapter's share of a tile of inputs."""
        kept = x
        if DROPOUT:
            keep = _keep(seed, t, start, D, threshold, BLOCK_T, BLOCK_D)
            kept = tl.where(keep, x, 0.0).to(x.dtype)
        a = tl.load(a_at, mask=ok, other=0.0).to(x.dtype)
        return acc + tl.dot(kept, a, input_precision=PRECISION)

    @triton.jit(do_not_specialize=["mask_number", "threshold", "T"])
    def _down_kernel(  # type: ignore[no-untyped-def]
        x_ptr,
        a_0_ptr,
        a_1_ptr,
        a_2_ptr,
        out_ptr,
        beside_ptr,
        seed_ptr,
        mask_number,
        scale_0,
        scale_1,
        scale_2,
        threshold,
        T,
        D,
        stride,
        RANK: tl.constexpr,
        NUM: tl.constexpr,
        ROOM: tl.constexpr,
        DROPOUT: tl.constexpr,
        BLOCK_T: tl.constexpr,
        BLOCK_D: tl.constexpr,
        PRECISION: tl.constexpr,
    ):
        seed = tl.load(seed_ptr) + mask_number
        t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
        r = tl.arange(0, RANK)
        acc_0 = tl.zeros((BLOCK_T, RANK), tl.float32)
        acc_1 = tl.zeros((BLOCK_T, RANK), tl.float32)
        acc_2 = tl.zeros((BLOCK_T, RANK), tl.float32)
        rows = x_ptr + t[:, None].to(tl.int64) * stride
        inside = t[:, None] < T
        for start in range(0, D, BLOCK_D):
            d = start + tl.arange(0, BLOCK_D)
            x = tl.load(rows + d[None, :], mask=inside & (d[None, :] < D), other=0.0)
            at = r[None, :] * D + d[:, None]
            ok = d[:, None] < D
            acc_0 = _add_down(
                x, a_0_ptr + at, ok, acc_0, seed, t, start, D, threshold,
                DROPOUT, BLOCK_T, BLOCK_D, PRECISION,
            )  # fmt: skip
            if NUM > 1:
                acc_1 = _add_down(
                    x, a_1_ptr + at, ok, acc_1, seed + 1, t, start, D, threshold,
                    DROPOUT, BLOCK_T, BLOCK_D, PRECISION,
                )  # fmt: skip
            if NUM > 2:
                acc_2 = _add_down(
                    x, a_2_ptr + at, ok, acc_2, seed + 2, t, start, D, threshold,
                    DROPOUT, BLOCK_T, BLOCK_D, PRECISION,
                )  # fmt: skip
        h_0 = (acc_0 * scale_0).to(out_ptr.dtype.element_ty)
        h_1 = (acc_1 * scale_1).to(out_ptr.dtype.element_ty)
        h_2 = (acc_2 * scale_2).to(out_ptr.dtype.element_ty)
        out = out_ptr + t[:, None].to(tl.int64) * (NUM * RANK) + r[None, :]
        tl.store(out, h_0, mask=inside)
        if NUM > 1:
            tl.store(out + RANK, h_1, mask=inside)
        if NUM > 2:
            tl.store(out + 2 * RANK, h_2, mask=inside)
        if ROOM:
            beside = beside_ptr + t[:, None].to(tl.int64) * stride
            tl.store(beside + r[None, :], h_0, mask=inside)
            if NUM > 1:
                tl.store(beside + RANK + r[None, :], h_1, mask=inside)
            if NUM > 2:
                tl.store(beside + 2 * RANK + r[None, :], h_2, mask=inside)
            column = tl.arange(0, 64)[None, :]
            for first in range(0, ROOM, 64):
                rest = first + column
                empty = (rest >= NUM * RANK) & (rest < ROOM) & inside
                tl.store(beside + rest, tl.zeros((BLOCK_T, 64), x_ptr.dtype.element_ty), mask=empty)

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
        RANK: tl.constexpr,
        NUM: tl.constexpr,
        ROOM: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        n = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
        for first in range(0, ROOM, 64):
            r = first + tl.arange(0, 64)[None, :]
            own = (n >= start_0) & (n < end_0) & (r < RANK)
            value = tl.load(b_0_ptr + (n - start_0) * RANK + r, mask=own, other=0.0)
            if NUM > 1:
                own = (n >= start_1) & (n < end_1) & (r >= RANK) & (r < 2 * RANK)
                value += tl.load(b_1_ptr + (n - start_1) * RANK + r - RANK, mask=own, other=0.0)
            if NUM > 2:
                own = (n >= start_2) & (n < end_2) & (r >= 2 * RANK) & (r < 3 * RANK)
                value += tl.load(b_2_ptr + (n - start_2) * RANK + r - 2 * RANK, mask=own, other=0.0)
            out = out_ptr + n.to(tl.int64) * stride + r
            tl.store(out, value.to(out_ptr.dtype.element_ty), mask=(n < N) & (r < ROOM))

    @triton.jit
    def _add_adapter(  # type: ignore[no-untyped-def]
        x,
        dx,
        acc,
        g_at,
        a,
        scale,
        seed,
        t,
        start,
        T,
        D,
        threshold,
        DROPOUT: tl.constexpr,
        BLOCK_T: tl.constexpr,
        BLOCK_D: tl.constexpr,
        PRECISION: tl.constexpr,
    ):
        """One adapter's share of a tile: of the input's gradient, and of its A matrix's."""
        g = tl.load(g_at, mask=t[:, None] < T, other=0.0)
        g = (g.to(tl.float32) * scale).to(x.dtype)
        share = tl.dot(g, a, input_precision=PRECISION)
        kept = x
        if DROPOUT:
            keep = _keep(seed, t, start, D, threshold, BLOCK_T, BLOCK_D)
            share = tl.where(keep, share, 0.0)
            kept = tl.where(keep, x, 0.0).to(x.dtype)
        acc += tl.dot(tl.trans(g), kept, input_precision=PRECISION)
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
        seed_ptr,
        mask_number,
        scale_0,
        scale_1,
        scale_2,
        threshold,
        T,
        D,
        g_stride,
        stride,
        dx_stride,
        per_split,
        RANK: tl.constexpr,
        NUM: tl.constexpr,
        DROPOUT: tl.constexpr,
        INPUT_GRAD: tl.constexpr,
        BLOCK_T: tl.constexpr,
        BLOCK_D: tl.constexpr,
        PRECISION: tl.constexpr,
    ):
        seed = tl.load(seed_ptr) + mask_number
        start = tl.program_id(0) * BLOCK_D
        split = tl.program_id(1)
        d = start + tl.arange(0, BLOCK_D)
        ok = d < D
        r = tl.arange(0, RANK)
        a_at = r[:, None] * D + d[None, :]
        dtype = x_ptr.dtype.element_ty
        a_0 = tl.load(a_0_ptr + a_at, mask=ok[None, :], other=0.0).to(dtype)
        a_1 = a_0
        a_2 = a_0
        if NUM > 1:
            a_1 = tl.load(a_1_ptr + a_at, mask=ok[None, :], other=0.0).to(dtype)
        if NUM > 2:
            a_2 = tl.load(a_2_ptr + a_at, mask=ok[None, :], other=0.0).to(dtype)
        acc_0 = tl.zeros((RANK, BLOCK_D), tl.float32)
        acc_1 = tl.zeros((RANK, BLOCK_D), tl.float32)
        acc_2 = tl.zeros((RANK, BLOCK_D), tl.float32)
        end = tl.minimum(T, (split + 1) * per_split)
        for first in range(split * per_split, end, BLOCK_T):
            t = first + tl.arange(0, BLOCK_T)
            inside = (t[:, None] < T) & ok[None, :]
            row = t[:, None].to(tl.int64)
            x = tl.load(x_ptr + row * stride + d[None, :], mask=inside, other=0.0)
            dx = tl.zeros((BLOCK_T, BLOCK_D), tl.float32)
            g_at = g_ptr + row * g_stride + r[None, :]
            dx, acc_0 = _add_adapter(
                x, dx, acc_0, g_at, a_0, scale_0, seed, t, start, T, D, threshold,
                DROPOUT, BLOCK_T, BLOCK_D, PRECISION,
            )  # fmt: skip
            if NUM > 1:
                dx, acc_1 = _add_adapter(
                    x, dx, acc_1, g_at + RANK, a_1, scale_1, seed + 1, t, start, T, D, threshold,
                    DROPOUT, BLOCK_T, BLOCK_D, PRECISION,
                )  # fmt: skip
            if NUM > 2:
                dx, acc_2 = _add_adapter(
                    x, dx, acc_2, g_at + 2 * RANK, a_2, scale_2, seed + 2, t, start, T, D,
                    threshold, DROPOUT, BLOCK_T, BLOCK_D, PRECISION,
                )  # fmt: skip
            if INPUT_GRAD:
                dx_at = dx_ptr + row * dx_stride + d[None, :]
                dx += tl.load(dx_at, mask=inside, other=0.0).to(tl.float32)
                tl.store(dx_at, dx.to(x.dtype), mask=inside)
        out = out_ptr + (split * NUM * RANK + r[:, None]) * D + d[None, :]
        tl.store(out, acc_0, mask=ok[None, :])
        if NUM > 1:
            tl.store(out + RANK * D, acc_1, mask=ok[None, :])
        if NUM > 2:
            tl.store(out + 2 * RANK * D, acc_2, mask=ok[None, :])
