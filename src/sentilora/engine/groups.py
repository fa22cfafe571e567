"""A group of linear layers that read the same input, with the adapters that they apply now.

Axes: T tokens, D input, N outputs of all layers, R ranks of all adapters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sentilora.engine import lora_kernels
from sentilora.engine.fp8 import Fp8Weight
from sentilora.engine.kernels import use_triton
from sentilora.engine.nf4 import FrozenLinears, Source, Weights
from sentilora.engine.peft_layers import active_lora, installed_ranks, is_plain


@dataclass(frozen=True)
class Adapter:
    """One layer's adapter: its matrices, LoRA's scaling, its slices of the outputs and ranks."""

    A: torch.Tensor
    B: torch.Tensor
    scaling: float
    outputs: slice
    ranks: slice


class ProjectionGroup:
    """Linear layers (PEFT's or plain ones) with a common input, their weights stacked.

    names: of the modules below `layer`; see `FrozenLinears`. They are looked up at each `refresh`.
    number: tells the group's dropout masks from those of other groups.
    """

    def __init__(
        self, layer: torch.nn.Module, names: Sequence[str], number: int, weights: Weights
    ) -> None:
        self.frozen = FrozenLinears(layer, names)
        self.number = number
        self.weights = weights
        self.num_in = self.frozen.num_in
        self.num_out = self.frozen.num_out
        self.outputs = self.frozen.outputs
        self.bias: torch.Tensor | None = None
        self._bias_source: Source | None = None
        self.adapters: list[Adapter] = []
        self.dropout = 0.0
        self.room = 0
        self._fits_8_bits = False
        self._placed = self._down_placed = False
        self._scaled_A: torch.Tensor | None = None

    def refresh(self) -> None:
        """Look at the layers again: which adapters are in use, and what their values are."""
        self.frozen.look_up()
        self._join_biases()
        self.adapters, self.dropout = [], 0.0
        rank = 0
        for module, outputs in zip(self.frozen.modules, self.outputs, strict=True):
            lora = active_lora(module)
            if lora is None:
                continue
            ranks = slice(rank, rank + len(lora.A))
            self.adapters.append(Adapter(lora.A, lora.B, lora.scaling, outputs, ranks))
            rank = ranks.stop
            self.dropout = lora.dropout or self.dropout
        # On GPUs the B matrices are in columns after the weights: one product for both.
        on_triton = bool(self.adapters) and use_triton(self.adapters[0].A)
        ranks_of = [len(adapter.A) for adapter in self.adapters]
        self.room = lora_kernels.room_of(ranks_of) if on_triton else 0
        self._fits_8_bits = self.weights.use_fp8 and self._may_be_in_8_bits()
        self._placed = self._down_placed = False
        self._scaled_A = None

    def _join_biases(self) -> None:
        biases = [linear.bias for linear in self.frozen.linears]
        source = Source(biases, self.frozen.modules)
        if source == self._bias_source:
            return  # a captured pass reads the existing tensor
        self._bias_source = source
        like = next((bias for bias in biases if bias is not None), None)
        if like is not None:
            parts = [
                like.new_zeros(linear.out_features) if bias is None else bias.detach()
                for bias, linear in zip(biases, self.frozen.linears, strict=True)
            ]
            self.bias = torch.cat(parts)

    def is_plain(self) -> bool:
        """Whether the layers, as they are now, do nothing but what a group computes."""
        return all(map(is_plain, self.frozen.current_modules()))

    def keep(self) -> None:
        """Decode the group's weights once, at their first use, and keep them."""
        self.weights.keep(self.frozen)

    def weight_parts(self, dtype: torch.dtype) -> Iterator[tuple[slice, torch.Tensor]]:
        """Outputs n and their (n, D + room): the base's weights, then every adapter's B.

        Use each part before the next is requested; kept weights are one part.
        """
        for outputs, weight_ND, decoded in self.weights.parts_of(self.frozen, dtype, self.room):
            if self.room and (decoded or not self._placed):
                self._place(outputs.start, weight_ND[:, self.num_in :])
                self._placed = True
            yield outputs, weight_ND

    def fp8_weight(self, dtype: torch.dtype) -> Fp8Weight:
        """The weight in 8 bits followed by every adapter's B, and for scoring its A."""
        weight = self.weights.fp8_of(self.frozen, self.num_ranks, dtype)
        if self.adapters and not self._placed:
            B_NR = self.adapters[0].B.new_empty(self.num_out, self.room, dtype=dtype)
            self._place(0, B_NR)
            weight.place(B_NR[:, : self.num_ranks])
            self._placed = True
        if self.adapters and not self._down_placed and self.scores_in_8_bits():
            weight.place_down(self.scaled_A(torch.float32))
            self._down_placed = True
        return weight

    def scores_in_8_bits(self) -> bool:
        """Whether only the outputs are needed, and in 8 bits: then the input is in 8 bits too."""
        return torch.is_inference_mode_enabled() and not self.dropout and self.in_8_bits()

    def _may_be_in_8_bits(self) -> bool:
        """Whether the kernels support the group; the same with its adapters switched off."""
        ranks = installed_ranks(self.frozen.modules)
        return use_triton(self.frozen.linears[0].weight) and (
            not ranks or lora_kernels.room_of(ranks) > 0
        )

    def in_8_bits(self) -> bool:
        """Whether this group's products are in 8 bits."""
        return self._fits_8_bits and self.weights.is_fp8(self.frozen)

    def scaled_A(self, dtype: torch.dtype) -> torch.Tensor:
        """(R, D): every adapter's A times its scaling, as at the first call since `refresh`."""
        if self._scaled_A is None:
            parts = [adapter.A * adapter.scaling for adapter in self.adapters]
            self._scaled_A = torch.cat(parts).to(dtype)
        return self._scaled_A

    def _place(self, first: int, out_NR: torch.Tensor) -> None:
        """Write the B matrices into the columns after the weights of outputs `first` and on."""
        matrices = [adapter.B for adapter in self.adapters]
        lora_kernels.place(matrices, [adapter.outputs for adapter in self.adapters], first, out_NR)

    @property
    def parameters(self) -> list[torch.Tensor]:
        """A and B of every adapter in use."""
        return [matrix for adapter in self.adapters for matrix in (adapter.A, adapter.B)]

    @property
    def num_ranks(self) -> int:
        return self.adapters[-1].ranks.stop if self.adapters else 0

    @property
    def input_room(self) -> int:
        """Columns that the products read after each input: its products with the A matrices."""
        return 0 if self.in_8_bits() else self.room

    def new_input(self, like: torch.Tensor) -> torch.Tensor:
        """An empty tensor for T inputs, each followed by `input_room` numbers."""
        return like.new_empty(len(like), self.num_in + self.input_room)

    def scale_of(self, adapter: Adapter) -> float:
        """Factor of an adapter's product: its scaling, and that of dropout."""
        return adapter.scaling / (1 - self.dropout)

    @property
    def mask_number(self) -> int:
        """Number of its first adapter's mask. A group has fewer than 8, so no two are equal."""
        return 8 * self.number
