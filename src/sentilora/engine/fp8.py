"""The frozen products in 8 bits: `x Wᵀ` and `d W` with a scale per row of every factor.

Opt-in, on GPUs of compute capability 8.9 and above. It is not bit-exact QLoRA: E4M3 has three bits
of mantissa where bfloat16 has seven (Micikevicius et al. 2022, section 3).

The adapters' share comes out of the same products. What they multiply is stored as a number of
8 bits and the rest of it, again of 8 bits, which together have bfloat16's precision:

    x Wᵀ + h Bᵀ     [x | h | rest of h | h] · [W | B | B | rest of B]ᵀ
    d W, d B        d · [Wᵀ | Bᵀ | rest of Bᵀ]ᵀ

When scoring, nothing is dropped and nobody asks for gradients: then the input is in 8 bits for the
A matrices, too, and exists in no other form (`score`).

Axes: T tokens, D inputs, N outputs, R ranks of all adapters.
"""

from dataclasses import dataclass

import torch

from sentilora.engine import kernels
from sentilora.engine.elementwise import Norm, rms_norm, swiglu
from sentilora.engine.kernels import tl, triton, use_triton

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of E4M3
LEAST = 1e-12  # magnitude of a row from which on it is scaled


@dataclass
class Fp8Weight:
    """A frozen weight twice: by rows of outputs to go forward, by rows of inputs to go back.

    Behind both stand the adapters' B, see `place`; `factor` is what goes with h there. down_RD:
    their A, see `place_down`; `reach` by an input's length is more than `factor` by any h of it.
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
        """Numbers behind each row that goes forward."""
        return self.forward_ND.shape[1] - self.num_in


def quantize_weight(weight_ND: torch.Tensor, num_ranks: int) -> Fp8Weight:
    """Both copies of a weight, with room for `num_ranks` ranks of adapters."""
    N, D = weight_ND.shape
    forward_ND = _aligned(weight_ND, N, D + _filled_up(3 * num_ranks)).zero_()
    # B stands in its row's scale: a row of (nearly) nothing must not make that one tiny.
    least = weight_ND.abs().max().item() / 256
    forward_ND[:, :D], forward_scale_N = quantize_rows(weight_ND, least=max(least, LEAST))
    backward_DN = weight_ND.new_zeros(D + _filled_up(2 * num_ranks), N, dtype=FP8)
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


def _filled_up(num: int) -> int:
    return -(-num // 16) * 16  # the product's sides are multiples of 16


def _aligned(like: torch.Tensor, num_rows: int, width: int) -> torch.Tensor:
    """(num_rows, width) in 8 bits, uninitialised; every row begins at a multiple of 128 bytes.

    Not before Hopper: there torch's products take rows to lie end to end (RowwiseScaledMM.cu).
    """
    multiple = 128
    if like.is_cuda and torch.cuda.get_device_capability(like.device) < (9, 0):
        multiple = 16
    whole = torch.empty(num_rows, -(-width // multiple) * multiple, dtype=FP8, device=like.device)
    return whole[:, :width]


def place(weight: Fp8Weight, B_NR: torch.Tensor) -> None:
    """Put every adapter's B, at its outputs and ranks, zero elsewhere, behind both copies."""
    D, R = weight.num_in, weight.num_ranks
    N = len(B_NR)
    largest = torch.linalg.vector_norm(B_NR, torch.inf, dtype=torch.float32).clamp(min=1e-30)
    weight.factor = largest / (LARGEST * weight.least_scale)
    if use_triton(B_NR):
        _place_kernel[(triton.cdiv(N, 64),)](
            B_NR,
            weight.forward_scale_N,
            weight.factor,
            largest,
            weight.forward_ND,
            weight.backward_DN,
            weight.backward_scale_D,
            N,
            D,
            B_NR.stride(0),
            weight.forward_ND.stride(0),
            R=R,
            RANKS=triton.next_power_of_2(R),
            BLOCK=64,
        )
        return
    B_NR = B_NR.float()
    high, rest = _split(B_NR / (weight.factor * weight.forward_scale_N[:, None]))
    for number, part in enumerate((high, high, rest)):
        weight.forward_ND[:, D + number * R : D + (number + 1) * R] = part
    for number, part in enumerate(_split(B_NR * (LARGEST / largest))):
        weight.backward_DN[D + number * R : D + (number + 1) * R] = part.T
    weight.backward_scale_D[D : D + 2 * R] = largest / LARGEST


def place_down(weight: Fp8Weight, A_RD: torch.Tensor) -> None:
    """Put every adapter's A, by its scaling, beside the weight, behind it the rest of it.

    After `place`, on which `reach` depends.
    """
    R, D = A_RD.shape
    A_RD = A_RD.float()
    largest_R = A_RD.abs().amax(-1).clamp(min=1e-30)
    # As wide as an input with its room, which holds zeros then.
    weight.down_RD = _aligned(A_RD, _filled_up(2 * R), D + weight.room).zero_()
    weight.down_scale_R = A_RD.new_zeros(len(weight.down_RD))
    for number, part in enumerate(_split(A_RD * (LARGEST / largest_R)[:, None])):
        weight.down_RD[number * R : (number + 1) * R, :D] = part
        weight.down_scale_R[number * R : (number + 1) * R] = largest_R / LARGEST
    # Cauchy-Schwarz; a tenth for what the input's own rounding adds to its length.
    weight.reach = 1.1 * weight.factor * torch.linalg.vector_norm(A_RD, dim=-1).max()


def _split(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A number of 8 bits and the rest, in 8 bits too."""
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

    h_TR: by `factor`, it stands behind x in the way of this module's head. least: magnitude that a
    row is taken to have at least. room: behind x; zeros without h.
    """
    T, D = x_TD.shape
    R = 0 if h_TR is None else h_TR.shape[1]
    width = D + max(room, _filled_up(3 * R))
    out = _aligned(x_TD, T, width)
    if use_triton(x_TD):
        scale_T = torch.empty(T, dtype=torch.float32, device=x_TD.device)
        block = triton.next_power_of_2(D)
        _quantize_rows[(T,)](
            x_TD,
            x_TD if h_TR is None else h_TR,
            scale_T if factor is None else factor,
            out,
            scale_T,
            D,
            x_TD.stride(0),
            0 if h_TR is None else h_TR.stride(0),
            out.stride(0),
            width,
            least,
            R=R,
            ROOM=width > D,
            RANKS=triton.next_power_of_2(max(1, width - D)),
            BLOCK=block,
            num_warps=16 if block > 8192 else 8,
        )
        return out, scale_T
    rows = x_TD.float()
    if h_TR is not None and factor is not None:
        rows = torch.cat([rows, h_TR.float() * factor], 1)
    largest = rows.abs().amax(-1).clamp(min=least)
    rows = rows * (LARGEST / largest)[:, None]
    out[:, :D] = _split(rows[:, :D])[0]
    _place_behind(out[:, D:], rows[:, D:])
    return out, largest / LARGEST


def _place_behind(room_TW: torch.Tensor, h_TR: torch.Tensor) -> None:
    """h three times, in the way of this module's head; then zeros."""
    R = h_TR.shape[1]
    high, rest = _split(h_TR)
    room_TW.zero_()
    for number, part in enumerate((high, rest, high)):
        room_TW[:, number * R : (number + 1) * R] = part


def project(x_TD: torch.Tensor, h_TR: torch.Tensor | None, weight: Fp8Weight) -> torch.Tensor:
    """`x Wᵀ + h Bᵀ` (T, N); without h just the first."""
    x8, scale_T = quantize_rows(x_TD, h_TR, weight.factor, room=weight.room)
    return _product(x8, scale_T, weight.forward_ND, weight.forward_scale_N, x_TD.dtype)


def score(
    x_TD: torch.Tensor,
    weight: Fp8Weight,
    norm: Norm | None = None,
    is_swiglu: bool = False,
    adapters: bool = True,
) -> torch.Tensor:
    """`x Wᵀ + (x Aᵀ) Bᵀ` (T, N), x first put through `norm`, or SwiGLU of its two halves.

    adapters: False leaves them out, whatever has been placed.
    """
    reach = weight.reach if adapters else torch.zeros_like(weight.reach)
    x8, scale_T = quantize_input(x_TD, weight, reach, norm, is_swiglu)
    if adapters:
        ranks = _product(x8, scale_T, weight.down_RD, weight.down_scale_R, x_TD.dtype)
        place_ranks(x8, scale_T, weight, ranks)
    return _product(x8, scale_T, weight.forward_ND, weight.forward_scale_N, x_TD.dtype)


def quantize_input(
    x_TD: torch.Tensor,
    weight: Fp8Weight,
    reach: torch.Tensor,
    norm: Norm | None = None,
    is_swiglu: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Every input in 8 bits, zeros in the room behind it, and what to multiply it by (T).

    reach: of the weight, where `place_ranks` follows; else zero.
    """
    T, D, width = len(x_TD), weight.num_in, weight.forward_ND.shape[1]
    out = _aligned(x_TD, T, width)
    if use_triton(x_TD):
        scale_T = torch.empty(T, dtype=torch.float32, device=x_TD.device)
        block = triton.next_power_of_2(D)
        _quantize_input[(T,)](
            x_TD,
            x_TD if norm is None else norm.weight_D,
            reach,
            out,
            scale_T,
            D,
            x_TD.stride(0),
            out.stride(0),
            width,
            0.0 if norm is None else norm.eps,
            LEAST,
            NORM=norm is not None,
            SWIGLU=is_swiglu,
            ROOM=width > D,
            RANKS=triton.next_power_of_2(max(1, width - D)),
            BLOCK=block,
            num_warps=16 if block > 8192 else 8,
        )
        return out, scale_T
    rows = x_TD.float()
    if norm is not None:
        rows = rms_norm(rows, norm.weight_D.float(), norm.eps)
    if is_swiglu:
        rows = swiglu(rows)
    largest = rows.abs().amax(-1).clamp(min=LEAST)
    largest = largest.maximum(reach * torch.linalg.vector_norm(rows, dim=-1))
    out[:, :D] = _split(rows * (LARGEST / largest)[:, None])[0]
    out[:, D:] = 0
    return out, largest / LARGEST


def place_ranks(
    x8: torch.Tensor, scale_T: torch.Tensor, weight: Fp8Weight, ranks_T2R: torch.Tensor
) -> None:
    """Put behind each input what the A matrices made of it, `ranks_T2R` by A and by A's rest."""
    R, D = weight.num_ranks, weight.num_in
    T, width = x8.shape
    if use_triton(ranks_T2R):
        block = 32
        _place_ranks[(triton.cdiv(T, block),)](
            ranks_T2R,
            scale_T,
            weight.factor,
            x8,
            T,
            D,
            ranks_T2R.stride(0),
            x8.stride(0),
            width,
            R=R,
            RANKS=triton.next_power_of_2(width - D),
            BLOCK=block,
        )
        return
    h_TR = ranks_T2R[:, :R].float() + ranks_T2R[:, R : 2 * R].float()
    _place_behind(x8[:, D:], h_TR * (weight.factor / scale_T[:, None]))


def project_backward(
    d_TN: torch.Tensor, weight: Fp8Weight, needs_input_grad: bool
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """`d W` (T, D), its rows apart, if it is needed; `d B` (T, R)."""
    D, R = (weight.num_in if needs_input_grad else 0), weight.num_ranks
    first = weight.num_in - D
    d8, scale_T = quantize_rows(d_TN)
    rows, scales = weight.backward_DN[first:], weight.backward_scale_D[first:]
    both = _product(d8, scale_T, rows, scales, d_TN.dtype)
    dh_TR = both[:, D : D + R] + both[:, D + R : D + 2 * R]
    return both[:, :D] if needs_input_grad else None, dh_TR


def fault(like: torch.Tensor) -> str | None:
    """Why there are no products in 8 bits for tensors like this one; None when there are.

    They are tried once: what torch makes of row-wise scales differs by GPU, dtype and version.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(like)

    x, d, W, A, B = draw(40, 144), draw(40, 48), draw(48, 144), draw(16, 144), draw(48, 16)
    with torch.inference_mode():
        weight = quantize_weight(W, 16)
        place(weight, B)
        place_down(weight, A)
        h = x @ A.T
        exact = (x.float() @ W.float().T) + (x.float() @ A.float().T) @ B.float().T
        try:
            found = [project(x, h, weight), score(x, weight), project_backward(d, weight, True)[0]]
        except RuntimeError as error:
            return f"torch {torch.__version__} refuses them ({str(error).splitlines()[0]})"
        for got, wanted in zip(found, (exact, exact, d.float() @ W.float()), strict=True):
            assert got is not None
            if not (got.float() - wanted).norm() < 0.1 * wanted.norm():
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


if triton is not None:

    @triton.jit
    def _high(x):  # type: ignore[no-untyped-def]
        # A NaN stays one, so that it is noticed.
        return tl.clamp(x, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL).to(tl.float8e4nv)

    @triton.jit
    def _quantize_rows(  # type: ignore[no-untyped-def]
        x_ptr,
        h_ptr,
        factor_ptr,
        out_ptr,
        scale_ptr,
        D,
        stride,
        h_stride,
        out_stride,
        width,
        least,
        R: tl.constexpr,
        ROOM: tl.constexpr,
        RANKS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        d = tl.arange(0, BLOCK)
        ok = d < D
        x = tl.load(x_ptr + row * stride + d, mask=ok, other=0.0).to(tl.float32)
        largest = tl.maximum(tl.max(tl.abs(x), 0), least)
        out = out_ptr + row * out_stride
        if R:
            r = tl.arange(0, RANKS)
            # h three times, one behind the other; then zeros
            h_at = h_ptr + row * h_stride + r % R
            h = tl.load(h_at, mask=r < 3 * R, other=0.0).to(tl.float32) * tl.load(factor_ptr)
            largest = tl.maximum(largest, tl.max(tl.abs(h), 0))
            h = h * (448.0 / largest)
            rest = h - _high(h).to(tl.float32)
            h = tl.where((r >= R) & (r < 2 * R), rest, h)
            tl.store(out + D + r, _high(h), mask=D + r < width)
        elif ROOM:
            r = tl.arange(0, RANKS)
            tl.store(out + D + r, _high(r * 0.0), mask=D + r < width)
        tl.store(out + d, _high(x * (448.0 / largest)), mask=ok)
        tl.store(scale_ptr + row, largest / 448.0)

    @triton.jit
    def _quantize_input(  # type: ignore[no-untyped-def]
        x_ptr,
        weight_ptr,
        reach_ptr,
        out_ptr,
        scale_ptr,
        D,
        stride,
        out_stride,
        width,
        eps,
        least,
        NORM: tl.constexpr,
        SWIGLU: tl.constexpr,
        ROOM: tl.constexpr,
        RANKS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row = tl.program_id(0).to(tl.int64)
        d = tl.arange(0, BLOCK)
        ok = d < D
        x_at = x_ptr + row * stride + d
        x = tl.load(x_at, mask=ok, other=0.0).to(tl.float32)
        if NORM:
            weight = tl.load(weight_ptr + d, mask=ok, other=0.0).to(tl.float32)
            x = x * tl.div_rn(1.0, tl.sqrt_rn(tl.sum(x * x, 0) / D + eps)) * weight
        if SWIGLU:
            up = tl.load(x_at + D, mask=ok, other=0.0).to(tl.float32)
            x = x * kernels.sigmoid(x) * up
        largest = tl.maximum(tl.max(tl.abs(x), 0), least)
        largest = tl.maximum(largest, tl.load(reach_ptr) * tl.sqrt(tl.sum(x * x, 0)))
        out = out_ptr + row * out_stride
        tl.store(out + d, _high(x * (448.0 / largest)), mask=ok)
        if ROOM:
            r = tl.arange(0, RANKS)
            tl.store(out + D + r, _high(r * 0.0), mask=D + r < width)
        tl.store(scale_ptr + row, largest / 448.0)

    @triton.jit
    def _place_ranks(  # type: ignore[no-untyped-def]
        ranks_ptr,
        scale_ptr,
        factor_ptr,
        out_ptr,
        T,
        D,
        stride,
        out_stride,
        width,
        R: tl.constexpr,
        RANKS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None].to(tl.int64)
        r = tl.arange(0, RANKS)[None, :]
        inside = row < T
        ok = inside & (r < 3 * R)
        # h three times, one behind the other; then zeros
        at = ranks_ptr + row * stride + r % R
        h = tl.load(at, mask=ok, other=0.0).to(tl.float32)
        h += tl.load(at + R, mask=ok, other=0.0).to(tl.float32)
        h = h * (tl.load(factor_ptr) / tl.load(scale_ptr + row, mask=inside, other=1.0))
        rest = h - _high(h).to(tl.float32)
        h = tl.where((r >= R) & (r < 2 * R), rest, h)
        tl.store(out_ptr + row * out_stride + D + r, _high(h), mask=inside & (D + r < width))

    @triton.jit
    def _place_kernel(  # type: ignore[no-untyped-def]
        b_ptr,
        scale_ptr,
        factor_ptr,
        largest_ptr,
        forward_ptr,
        backward_ptr,
        backward_scale_ptr,
        N,
        D,
        stride,
        forward_stride,
        R: tl.constexpr,
        RANKS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        r = tl.arange(0, RANKS)
        ok = (n[:, None] < N) & (r[None, :] < R)
        row = n[:, None].to(tl.int64)
        b = tl.load(b_ptr + row * stride + r[None, :], mask=ok, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + n, mask=n < N, other=1.0) * tl.load(factor_ptr)
        value = b / scale[:, None]
        high = _high(value)
        at = forward_ptr + row * forward_stride + D + r[None, :]
        tl.store(at, high, mask=ok)
        tl.store(at + R, high, mask=ok)
        tl.store(at + 2 * R, _high(value - high.to(tl.float32)), mask=ok)
        largest = tl.load(largest_ptr)
        value = b * (448.0 / largest)
        high = _high(value)
        at = backward_ptr + (D + r[None, :]).to(tl.int64) * N + row
        tl.store(at, high, mask=ok)
        tl.store(at + R * N, _high(value - high.to(tl.float32)), mask=ok)
        if tl.program_id(0) == 0:
            scale_at = backward_scale_ptr + D + r
            tl.store(scale_at, largest / 448.0, mask=r < R)
            tl.store(scale_at + R, largest / 448.0, mask=r < R)
