"""The frozen products in 8 bits: `x Wᵀ` and `d W` with a scale per row of every factor.

Opt-in, on GPUs of compute capability 8.9 and above. It is not bit-exact QLoRA: E4M3 has three bits
of mantissa where bfloat16 has seven (Micikevicius et al. 2022, section 3).

The adapters' share comes out of the same products. Their factors are stored as an 8-bit number and
its remainder, again in 8 bits, which together have bfloat16's precision:

    x Wᵀ + h Bᵀ     [x | h | remainder of h | h] · [W | B | B | remainder of B]ᵀ
    d W, d B        d · [Wᵀ | Bᵀ | remainder of Bᵀ]ᵀ

Scoring drops nothing and needs no gradients. There the A matrices read the 8-bit input too, and
the input exists in no other form (`score`).

Axes: T tokens, D inputs, N outputs, R ranks of all adapters.
"""

from dataclasses import dataclass

import torch

from sentilora.engine import fp8_kernels
from sentilora.engine.elementwise import Norm, Prologue, rms_norm
from sentilora.engine.kernels import use_triton

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of E4M3
LEAST = 1e-12  # a row's scale is that of at least this magnitude


@dataclass
class Fp8Weight:
    """A frozen weight twice: by rows of outputs to go forward, by rows of inputs to go back.

    The adapters' B follow in both, see `place`; `factor` multiplies h there. down_RD: their A, see
    `place_down`; `reach` times an input's length is more than `factor` times any h of it.
    """

    forward_ND: torch.Tensor
    forward_scale_N: torch.Tensor
    backward_DN: torch.Tensor
    backward_scale_D: torch.Tensor
    least_scale: torch.Tensor
    factor: torch.Tensor
    num_in: int
    num_ranks: int
    down_RD: torch.Tensor
    down_scale_R: torch.Tensor
    reach: torch.Tensor

    @property
    def room(self) -> int:
        """Columns after the weight's own in each row that goes forward."""
        return self.forward_ND.shape[1] - self.num_in

    def place(self, B_NR: torch.Tensor) -> None:
        """Append every adapter's B, at its outputs and ranks and zero elsewhere, to both copies."""
        D, R = self.num_in, self.num_ranks
        largest = torch.linalg.vector_norm(B_NR, torch.inf, dtype=torch.float32).clamp(min=1e-30)
        self.factor = largest / (LARGEST * self.least_scale)
        if use_triton(B_NR):
            fp8_kernels.place(
                B_NR,
                self.forward_scale_N,
                self.factor,
                largest,
                self.forward_ND,
                self.backward_DN,
                self.backward_scale_D,
                D,
                R,
            )
            return
        B_NR = B_NR.float()
        high, remainder = _split(B_NR / (self.factor * self.forward_scale_N[:, None]))
        for number, part in enumerate((high, high, remainder)):
            self.forward_ND[:, D + number * R : D + (number + 1) * R] = part
        for number, part in enumerate(_split(B_NR * (LARGEST / largest))):
            self.backward_DN[D + number * R : D + (number + 1) * R] = part.T
        self.backward_scale_D[D : D + 2 * R] = largest / LARGEST

    def place_down(self, A_RD: torch.Tensor) -> None:
        """Store every adapter's A times its scaling, and the remainder of it.

        Call it after `place`, on which `reach` depends.
        """
        R, D = A_RD.shape
        A_RD = A_RD.float()
        largest_R = A_RD.abs().amax(-1).clamp(min=1e-30)
        # As wide as an input with its room, which holds zeros then.
        self.down_RD = _empty_aligned(A_RD, _round_up(2 * R), D + self.room).zero_()
        self.down_scale_R = A_RD.new_zeros(len(self.down_RD))
        for number, part in enumerate(_split(A_RD * (LARGEST / largest_R)[:, None])):
            self.down_RD[number * R : (number + 1) * R, :D] = part
            self.down_scale_R[number * R : (number + 1) * R] = largest_R / LARGEST
        # Cauchy-Schwarz; a tenth for what the input's own rounding adds to its length.
        self.reach = 1.1 * self.factor * torch.linalg.vector_norm(A_RD, dim=-1).max()


def quantize_weight(weight_ND: torch.Tensor, num_ranks: int) -> Fp8Weight:
    """Both copies of a weight, with room for `num_ranks` ranks of adapters."""
    N, D = weight_ND.shape
    forward_ND = _empty_aligned(weight_ND, N, D + _round_up(3 * num_ranks)).zero_()
    # B has its row's scale: a row of (nearly) zeros must not make that one tiny.
    least = weight_ND.abs().max().item() / 256
    forward_ND[:, :D], forward_scale_N = quantize_rows(weight_ND, least=max(least, LEAST))
    backward_DN = weight_ND.new_zeros(D + _round_up(2 * num_ranks), N, dtype=FP8)
    backward_scale_D = forward_scale_N.new_zeros(len(backward_DN))
    backward_DN[:D], backward_scale_D[:D] = quantize_rows(weight_ND.T.contiguous())
    return Fp8Weight(
        forward_ND=forward_ND,
        forward_scale_N=forward_scale_N,
        backward_DN=backward_DN,
        backward_scale_D=backward_scale_D,
        least_scale=forward_scale_N.min(),
        factor=forward_scale_N.new_zeros(()),
        num_in=D,
        num_ranks=num_ranks,
        down_RD=forward_ND[:0],
        down_scale_R=forward_scale_N[:0],
        reach=forward_scale_N.new_zeros(()),
    )


def _round_up(num: int) -> int:
    return -(-num // 16) * 16  # the product's sides are multiples of 16


def _empty_aligned(like: torch.Tensor, num_rows: int, width: int) -> torch.Tensor:
    """(num_rows, width) in 8 bits, uninitialized; every row begins at a multiple of 128 bytes.

    Not before Hopper: there torch's products need rows without gaps (RowwiseScaledMM.cu).
    """
    multiple = 128
    if like.is_cuda and torch.cuda.get_device_capability(like.device) < (9, 0):
        multiple = 16
    whole = torch.empty(num_rows, -(-width // multiple) * multiple, dtype=FP8, device=like.device)
    return whole[:, :width]


def _split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """An 8-bit number and its remainder, in 8 bits too."""
    high = x.clamp(-LARGEST, LARGEST).to(FP8)
    return high, (x - high.float()).clamp(-LARGEST, LARGEST).to(FP8)


def quantize_rows(
    x_TD: torch.Tensor,
    h_TR: torch.Tensor | None = None,
    factor: torch.Tensor | None = None,
    least: float = LEAST,
    room: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every row in 8 bits, and what to multiply it by (T): its largest magnitude / 448.

    h_TR: times `factor`, it follows x as in this module's head. least: magnitude that a row is
    taken to have at least. room: columns after x; zeros without h.
    """
    T, D = x_TD.shape
    R = 0 if h_TR is None else h_TR.shape[1]
    width = D + max(room, _round_up(3 * R))
    out = _empty_aligned(x_TD, T, width)
    if use_triton(x_TD):
        return out, fp8_kernels.quantize_rows(x_TD, h_TR, factor, out, least)
    rows = x_TD.float()
    if h_TR is not None and factor is not None:
        rows = torch.cat([rows, h_TR.float() * factor], 1)
    largest = rows.abs().amax(-1).clamp(min=least)
    rows = rows * (LARGEST / largest)[:, None]
    out[:, :D] = _split(rows[:, :D])[0]
    _fill_room(out[:, D:], rows[:, D:])
    return out, largest / LARGEST


def _fill_room(room_TW: torch.Tensor, h_TR: torch.Tensor) -> None:
    """h three times, as in this module's head; then zeros."""
    R = h_TR.shape[1]
    high, remainder = _split(h_TR)
    room_TW.zero_()
    for number, part in enumerate((high, remainder, high)):
        room_TW[:, number * R : (number + 1) * R] = part


def project(x_TD: torch.Tensor, h_TR: torch.Tensor | None, weight: Fp8Weight) -> torch.Tensor:
    """`x Wᵀ + h Bᵀ` (T, N); without h just the first."""
    x8, scale_T = quantize_rows(x_TD, h_TR, weight.factor, room=weight.room)
    return _product(x8, scale_T, weight.forward_ND, weight.forward_scale_N, x_TD.dtype)


def score(
    x_TD: torch.Tensor, weight: Fp8Weight, prologue: Prologue = None, adapters: bool = True
) -> torch.Tensor:
    """`x Wᵀ + (x Aᵀ) Bᵀ` (T, N), where x is `x_TD` after its prologue.

    adapters: False leaves them out, even if they have been placed.
    """
    reach = weight.reach if adapters else torch.zeros_like(weight.reach)
    x8, scale_T = quantize_input(x_TD, weight, reach, prologue)
    if adapters:
        ranks = _product(x8, scale_T, weight.down_RD, weight.down_scale_R, x_TD.dtype)
        place_ranks(x8, scale_T, weight, ranks)
    return _product(x8, scale_T, weight.forward_ND, weight.forward_scale_N, x_TD.dtype)


def quantize_input(
    x_TD: torch.Tensor, weight: Fp8Weight, reach: torch.Tensor, prologue: Prologue = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every input in 8 bits, zeros in the room after it, and what to multiply it by (T).

    reach: the weight's if `place_ranks` follows, else zero.
    """
    T, D, width = len(x_TD), weight.num_in, weight.forward_ND.shape[1]
    out = _empty_aligned(x_TD, T, width)
    if use_triton(x_TD):
        return out, fp8_kernels.quantize_input(x_TD, D, prologue, reach, out, LEAST)
    rows = x_TD.float()
    if isinstance(prologue, Norm):
        rows = rms_norm(rows, prologue.weight_D.float(), prologue.eps)
    elif prologue is not None:
        rows = prologue(rows)
    largest = rows.abs().amax(-1).clamp(min=LEAST)
    largest = largest.maximum(reach * torch.linalg.vector_norm(rows, dim=-1))
    out[:, :D] = _split(rows * (LARGEST / largest)[:, None])[0]
    out[:, D:] = 0
    return out, largest / LARGEST


def place_ranks(
    x8: torch.Tensor, scale_T: torch.Tensor, weight: Fp8Weight, ranks_T2R: torch.Tensor
) -> None:
    """Append to each input its products with the A matrices and with A's remainders, summed."""
    R, D = weight.num_ranks, weight.num_in
    if use_triton(ranks_T2R):
        fp8_kernels.place_ranks(ranks_T2R, scale_T, weight.factor, x8, D, R)
        return
    h_TR = ranks_T2R[:, :R].float() + ranks_T2R[:, R : 2 * R].float()
    _fill_room(x8[:, D:], h_TR * (weight.factor / scale_T[:, None]))


def project_backward(
    d_TN: torch.Tensor, weight: Fp8Weight, needs_input_grad: bool
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """`d W` (T, D) if it is needed, its rows apart; `d B` (T, R)."""
    D, R = (weight.num_in if needs_input_grad else 0), weight.num_ranks
    first = weight.num_in - D
    d8, scale_T = quantize_rows(d_TN)
    rows, scales = weight.backward_DN[first:], weight.backward_scale_D[first:]
    both = _product(d8, scale_T, rows, scales, d_TN.dtype)
    dh_TR = both[:, D : D + R] + both[:, D + R : D + 2 * R]
    return both[:, :D] if needs_input_grad else None, dh_TR


def fault(like: torch.Tensor) -> str | None:
    """Why there are no products in 8 bits for tensors like this one; None if there are.

    They are tried once: torch's products with row-wise scales differ by GPU, dtype and version.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(like)

    x, d, W, A, B = draw(40, 144), draw(40, 48), draw(48, 144), draw(16, 144), draw(48, 16)
    with torch.inference_mode():
        weight = quantize_weight(W, 16)
        weight.place(B)
        weight.place_down(A)
        h = x @ A.T
        exact = (x.float() @ W.float().T) + (x.float() @ A.float().T) @ B.float().T
        try:
            results = project(x, h, weight), score(x, weight), project_backward(d, weight, True)[0]
        except RuntimeError as error:
            return f"torch {torch.__version__} refuses them ({str(error).splitlines()[0]})"
        for result, expected in zip(results, (exact, exact, d.float() @ W.float()), strict=True):
            if result is None or not (result.float() - expected).norm() < 0.1 * expected.norm():
                return f"those of torch {torch.__version__} are wrong here, in {like.dtype}"
    return None


def _product(
    x8: torch.Tensor,
    scale_T: torch.Tensor,
    w8: torch.Tensor,
    scale_N: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`x · wᵀ` of rows in 8 bits."""
    return torch._scaled_mm(
        x8,
        w8.T,
        scale_a=scale_T[:, None],
        scale_b=scale_N[None],
        out_dtype=dtype,
        use_fast_accum=True,
    )
