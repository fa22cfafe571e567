"""Linear layers that read the same input, with their LoRA adapters, as one operation.

    y = x Wᵀ + bias + c · (m ⊙ x) Aᵀ Bᵀ      c = scaling / (1 − p), a mask m per adapter

(Hu et al. 2021, section 4.1, with PEFT's dropout before A.) W is frozen, so the backward pass has
no weight gradient; the masks are drawn again there from their seeds, and no copy of x is kept.

Axes: T tokens, D input, N outputs of all layers, R ranks of all adapters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.nn.functional import linear

from sentilora.engine import fp8, lora_kernels
from sentilora.engine.elementwise import Norm, swiglu, swiglu_backward
from sentilora.engine.fp8 import Fp8Weight
from sentilora.engine.kernels import use_triton
from sentilora.engine.nf4 import PART_ELEMENTS, Source, Weights


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
        self._fits_8_bits = False
        self._placed = self._down_placed = False

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
        fits = _fit_one_product([len(adapter.A) for adapter in self.adapters])
        self.room = -(-rank // 64) * 64 if fits and use_triton(self.adapters[0].A) else 0
        self._fits_8_bits = self.weights.fp8 and self._may_be_in_8_bits()
        self._placed = self._down_placed = False
        self._scaled_A: torch.Tensor | None = None

    def weight_parts(self, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """Outputs n and their (n, D + room): the base's weights, behind them every adapter's B.

        A part is to be used before the next is asked for; kept weights are one part.
        """
        for outputs, weight_ND, decoded in self.weights.parts_of(self, dtype, self.room):
            if self.room and (decoded or not self._placed):
                self._place(outputs.start, weight_ND[:, self.num_in :])
                self._placed = True
            yield outputs, weight_ND

    def fp8_weight(self, dtype: torch.dtype) -> Fp8Weight:
        """The weight in 8 bits, behind it every adapter's B; beside it, when scoring, its A."""
        weight = self.weights.fp8_of(self, dtype)
        if self.adapters and not self._placed:
            B_NR = self.adapters[0].B.new_empty(self.num_out, self.room, dtype=dtype)
            self._place(0, B_NR)
            fp8.place(weight, B_NR[:, : self.num_ranks])
            self._placed = True
        if self.adapters and not self._down_placed and self.scores_in_8_bits():
            fp8.place_down(weight, self.scaled_A(torch.float32))
            self._down_placed = True
        return weight

    def scores_in_8_bits(self) -> bool:
        """Whether nothing but the outputs is asked for, in 8 bits: `score` has them."""
        return torch.is_inference_mode_enabled() and not self.dropout and self.in_8_bits()

    def _may_be_in_8_bits(self) -> bool:
        """With its adapters switched off, a layer's products are what they are with them."""
        ranks = [len(A) for A in map(installed_A, self.modules) if A is not None]
        return use_triton(self.linears[0].weight) and (not ranks or _fit_one_product(ranks))

    def in_8_bits(self) -> bool:
        """Whether this group's products are in 8 bits."""
        return self._fits_8_bits and self.weights.is_fp8(self)

    def scaled_A(self, dtype: torch.dtype) -> torch.Tensor:
        """(R, D): every adapter's A by its scaling, as it was when first asked since `refresh`."""
        if self._scaled_A is None:
            parts = [adapter.A * adapter.scaling for adapter in self.adapters]
            self._scaled_A = torch.cat(parts).to(dtype)
        return self._scaled_A

    def _place(self, first: int, out_NR: torch.Tensor) -> None:
        """B matrices into the columns behind the weights of outputs `first` and on."""
        matrices = [adapter.B for adapter in self.adapters]
        lora_kernels.place(matrices, [adapter.outputs for adapter in self.adapters], first, out_NR)

    @property
    def largest_part(self) -> int:
        """Elements of the largest weight that is decoded at once, where none is kept."""
        width, rows = self.num_in + self.room, self.num_out
        if rows * width > PART_ELEMENTS:
            rows = max(linear.out_features for linear in self.linears)
        return rows * width

    @property
    def parameters(self) -> list[torch.Tensor]:
        """A and B of every adapter in use."""
        return [matrix for adapter in self.adapters for matrix in (adapter.A, adapter.B)]

    @property
    def num_ranks(self) -> int:
        return self.adapters[-1].ranks.stop if self.adapters else 0

    @property
    def input_room(self) -> int:
        """Numbers that the products take in behind each input: what the A matrices make of it."""
        return 0 if self.in_8_bits() else self.room

    def new_input(self, like: torch.Tensor) -> torch.Tensor:
        """Room for T inputs, and behind each for `input_room` numbers."""
        return like.new_empty(len(like), self.num_in + self.input_room)


def base_linear(module: torch.nn.Module) -> Any:
    """The linear layer below PEFT's wrapper, or the module itself."""
    return getattr(module, "base_layer", module)


def active_adapter(module: torch.nn.Module) -> str | None:
    """Name of the adapter that a layer applies now, if any."""
    if not hasattr(module, "lora_A") or module.disable_adapters or module.merged:
        return None
    return next(iter(_chosen_adapters(module)), None)


def installed_A(module: torch.nn.Module) -> torch.Tensor | None:
    """A of the adapter that a layer applies when adapters are not switched off, if any."""
    names = _chosen_adapters(module) if hasattr(module, "lora_A") else []
    return None if not names else module.lora_A[names[0]].weight  # type: ignore[index, union-attr]


def _chosen_adapters(module: torch.nn.Module) -> list[str]:
    return [name for name in module.active_adapters if name in module.lora_A]  # type: ignore[union-attr, operator]


def _fit_one_product(ranks: Sequence[int]) -> bool:
    """Whether adapters of these ranks have a place behind their group's weights."""
    alike = len(set(ranks)) == 1 and max(ranks) <= lora_kernels.MAX_RANK
    return alike and len(ranks) <= lora_kernels.MAX_ADAPTERS


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
    names = _chosen_adapters(module)
    return len(names) < 2 and not any(
        name in module.lora_variant or module.lora_bias[name]  # type: ignore[operator, index]
        for name in names
    )


def project(
    x_TD: torch.Tensor,
    group: ProjectionGroup,
    seed: torch.Tensor,
    is_swiglu: bool = False,
    onto_TN: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The group's outputs (T, N), and what its A matrices gave (T, R), which backward needs.

    x_TD: from `group.new_input`, its first D columns filled; or just the D columns, of it or not.
    seed: of the pass's dropout masks. is_swiglu: `x_TD` is gate and up side by side (T, 2F), the
    group's input SwiGLU of them. onto_TN: the outputs are added to it; it may be overwritten.
    """
    D = group.num_in
    if group.scores_in_8_bits():
        return score(x_TD[:, : 2 * D if is_swiglu else D], group, None, is_swiglu, onto_TN), None
    if not group.room:
        x_TD = swiglu(x_TD) if is_swiglu else x_TD
        if group.in_8_bits():
            y_TN = fp8.project(x_TD[:, :D], None, group.fp8_weight(x_TD.dtype))
            return _added(y_TN, group.bias, onto_TN), None
        y_TN = _times_weight(x_TD, group, onto_TN=onto_TN)
        ranks_TR = _ranks(x_TD, group, seed)
        for adapter in group.adapters:
            assert ranks_TR is not None
            B = adapter.B.to(x_TD.dtype)
            y_TN[:, adapter.outputs].addmm_(ranks_TR[:, adapter.ranks], B.T)
        return y_TN, ranks_TR
    if is_swiglu:
        gate_up_T2F, x_TD = x_TD, group.new_input(x_TD)
        h_TR = _down(gate_up_T2F, group, seed, x_TD, is_swiglu)
    else:
        width = D + group.input_room
        if x_TD.stride(0) == width:
            x_TD = x_TD.as_strided((len(x_TD), width), (width, 1))
        h_TR = _down(x_TD[:, :D], group, seed, x_TD if x_TD.shape[1] > D else None)
    if not group.in_8_bits():
        return _times_weight(x_TD, group, h_TR if x_TD.shape[1] == D else None, onto_TN), h_TR
    y_TN = fp8.project(x_TD, h_TR, group.fp8_weight(x_TD.dtype))
    return _added(y_TN, group.bias, onto_TN), h_TR


def score(
    x_TD: torch.Tensor,
    group: ProjectionGroup,
    norm: Norm | None = None,
    is_swiglu: bool = False,
    onto_TN: torch.Tensor | None = None,
) -> torch.Tensor:
    """The outputs of a group that `scores_in_8_bits`; norm: what its input first goes through."""
    weight = group.fp8_weight(x_TD.dtype)
    y_TN = fp8.score(x_TD, weight, norm, is_swiglu, adapters=bool(group.adapters))
    return _added(y_TN, group.bias, onto_TN)


def _added(y_TN: torch.Tensor, *addends: torch.Tensor | None) -> torch.Tensor:
    for addend in addends:
        if addend is not None:
            y_TN += addend
    return y_TN


def _times_weight(
    x_TD: torch.Tensor,
    group: ProjectionGroup,
    h_TR: torch.Tensor | None = None,
    onto_TN: torch.Tensor | None = None,
) -> torch.Tensor:
    """`x Wᵀ + bias`, part by part. h_TR: what belongs behind x, where it does not stand there.

    onto_TN: what it is added to, in place: the product's last pass over its result does both.
    """
    y_TN = onto_TN
    for outputs, weight_ND in group.weight_parts(x_TD.dtype):
        own_ND = weight_ND[:, : x_TD.shape[1]]
        if onto_TN is not None:
            y = onto_TN[:, outputs].addmm_(x_TD, own_ND.T)
            if group.bias is not None:
                y += group.bias[outputs]
        elif outputs.stop - outputs.start == group.num_out:
            y_TN = y = linear(x_TD, own_ND, group.bias)
        else:
            y_TN = x_TD.new_empty(len(x_TD), group.num_out) if y_TN is None else y_TN
            y = torch.mm(x_TD, own_ND.T, out=y_TN[:, outputs])
            if group.bias is not None:
                y += group.bias[outputs]
        if h_TR is not None:
            y.addmm_(h_TR, weight_ND[:, group.num_in : group.num_in + group.num_ranks].T)
    assert y_TN is not None
    return y_TN


def project_ranks(
    x_TD: torch.Tensor, group: ProjectionGroup, seed: torch.Tensor, is_swiglu: bool = False
) -> Any:
    """What `project` gives backward, without the products with the weights."""
    if group.room:
        return _down(x_TD if is_swiglu else x_TD[:, : group.num_in], group, seed, None, is_swiglu)
    return _ranks(swiglu(x_TD) if is_swiglu else x_TD, group, seed)


def _down(
    x_TD: torch.Tensor,
    group: ProjectionGroup,
    seed: torch.Tensor,
    into_TD: torch.Tensor | None = None,
    is_swiglu: bool = False,
) -> torch.Tensor:
    if not group.dropout and torch.is_inference_mode_enabled():
        return _down_in_one_product(x_TD, group, into_TD, is_swiglu)
    A = [adapter.A for adapter in group.adapters]
    return lora_kernels.down(x_TD, A, _scales(group), _masks(group, seed), into_TD, is_swiglu)


def _down_in_one_product(
    x_TD: torch.Tensor, group: ProjectionGroup, into_TD: torch.Tensor | None, is_swiglu: bool
) -> torch.Tensor:
    """As `lora_kernels.down`, when scoring: there are no masks, and no gradients will be asked."""
    D, R = group.num_in, group.num_ranks
    if is_swiglu:
        x_TD = swiglu(x_TD, None if into_TD is None else into_TD[:, :D])
    A_RD = group.scaled_A(x_TD.dtype)
    if into_TD is None:
        return x_TD @ A_RD.T
    assert into_TD.shape[1] >= D + R  # `out=` would take other memory than that of too few columns
    into_TD[:, D + R :].zero_()
    return torch.mm(x_TD, A_RD.T, out=into_TD[:, D : D + R])


def _scales(group: ProjectionGroup) -> list[float]:
    return [_scale(group, adapter) for adapter in group.adapters]


def _masks(group: ProjectionGroup, seed: torch.Tensor) -> lora_kernels.Masks:
    return lora_kernels.Masks(group.dropout, seed, _mask_number(group))


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
    is_swiglu: bool = False,
    norm: Norm | None = None,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """Gradients of the input (its rows may lie apart), and of `group.parameters`.

    is_swiglu: `x_TD` is gate and up side by side (T, 2F), the group's input SwiGLU of them; its
    gradient may take its place. norm: the group's input is `norm(x_TD)`, and it is the gradient of
    that input which is returned.
    """
    D = group.num_in
    dx_TD: torch.Tensor | None = None
    if not group.room:
        inputs_TD = swiglu(x_TD) if is_swiglu else norm(x_TD) if norm is not None else x_TD
        if needs_input_grad and group.in_8_bits():
            dx_TD = fp8.project_backward(d_TN, group.fp8_weight(d_TN.dtype), True)[0]
        elif needs_input_grad:
            dx_TD = _into_weight(d_TN, group)
        gradients = _adapters_backward(d_TN, inputs_TD, dx_TD, h_TR, group, seed)
        if is_swiglu and dx_TD is not None:
            dx_TD = swiglu_backward(dx_TD, x_TD)
        return dx_TD, gradients
    if group.in_8_bits():
        weight = group.fp8_weight(d_TN.dtype)
        dx_TD, dh_TR = fp8.project_backward(d_TN, weight, needs_input_grad)
    elif needs_input_grad:
        dxh = _into_weight(d_TN, group)
        dx_TD, dh_TR = dxh[:, :D], dxh[:, D : D + group.num_ranks]
    else:
        dh_TR = _into_weight(d_TN, group, slice(D, D + group.num_ranks))
    dA_RD = lora_kernels.down_backward(
        dh_TR,
        x_TD,
        dx_TD,
        [adapter.A for adapter in group.adapters],
        _scales(group),
        _masks(group, seed),
        is_swiglu,
        norm,
    )
    if is_swiglu and dx_TD is not None:
        dx_TD = x_TD
    assert h_TR is not None
    # All outputs against all ranks: one product that reads d once; an adapter's B is one block.
    dB_NR = _product(d_TN.T, h_TR, group.adapters[0].B.dtype)
    gradients = []
    for adapter in group.adapters:
        dA = dA_RD[adapter.ranks].to(adapter.A.dtype)
        gradients += [dA, dB_NR[adapter.outputs, adapter.ranks]]
    return dx_TD, gradients


def _into_weight(
    d_TN: torch.Tensor, group: ProjectionGroup, columns: slice = slice(None)
) -> torch.Tensor:
    """`d W` at some columns of W, summed part by part."""
    total: torch.Tensor | None = None
    for outputs, weight_ND in group.weight_parts(d_TN.dtype):
        d, weight_ND = d_TN[:, outputs], weight_ND[:, columns]
        total = d @ weight_ND if total is None else total.addmm_(d, weight_ND)
    assert total is not None
    return total


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


def _mask_number(group: ProjectionGroup) -> int:
    """Of its first adapter's mask: no two of a pass are alike; a group has fewer than 8."""
    return 8 * group.number


def _mask_seed(group: ProjectionGroup, seed: torch.Tensor, number: int) -> int:
    """Of one adapter's mask."""
    return int(seed) + _mask_number(group) + number


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
