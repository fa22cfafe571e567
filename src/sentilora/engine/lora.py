"""Linear layers that read the same input, with their LoRA adapters, as one operation.

    y = x Wᵀ + bias + c · (m ⊙ x) Aᵀ Bᵀ      c = scaling / (1 − p), a mask m per adapter

(Hu et al. 2021, section 4.1, with PEFT's dropout before A.) W is frozen, so the backward pass has
no weight gradient. It draws the masks again from their seeds, and no copy of x is kept.

Axes: T tokens, D input, N outputs of all layers, R ranks of all adapters.
"""

import torch
from torch.nn.functional import linear

from sentilora.engine import fp8, lora_kernels
from sentilora.engine.dropout import drop
from sentilora.engine.elementwise import Norm, Prologue, SwiGLU, swiglu_backward
from sentilora.engine.groups import ProjectionGroup


def project(
    x_TD: torch.Tensor,
    group: ProjectionGroup,
    seed: torch.Tensor,
    prologue: Prologue = None,
    onto_TN: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The group's outputs (T, N), and x times the A matrices (T, R), which backward needs.

    x_TD: without a prologue either a tensor from `group.new_input` with its first D columns filled,
    or just D columns, of such a tensor or not. seed: of the pass's dropout masks. prologue: what
    `x_TD` goes through first. onto_TN: the outputs are added to it; it may be overwritten.
    """
    D = group.num_in
    if group.scores_in_8_bits():
        x_TD = x_TD[:, : 2 * D if isinstance(prologue, SwiGLU) else D]
        weight = group.fp8_weight(x_TD.dtype)
        y_TN = fp8.score(x_TD, weight, prologue, adapters=bool(group.adapters))
        return _add(y_TN, group.bias, onto_TN), None
    if isinstance(prologue, Norm):
        inputs = group.new_input(x_TD)
        prologue(x_TD, inputs[:, :D])
        x_TD, prologue = inputs, None
    if not group.room:
        x_TD = x_TD if prologue is None else prologue(x_TD)
        return _project_apart(x_TD, group, seed, onto_TN)
    if prologue is not None:
        gate_up_T2F, x_TD = x_TD, group.new_input(x_TD)
        h_TR = _down(gate_up_T2F, group, seed, x_TD, prologue)
    else:
        width = D + group.input_room
        if x_TD.stride(0) == width:
            x_TD = x_TD.as_strided((len(x_TD), width), (width, 1))
        h_TR = _down(x_TD[:, :D], group, seed, x_TD if x_TD.shape[1] > D else None)
    if not group.in_8_bits():
        return _times_weight(x_TD, group, h_TR if x_TD.shape[1] == D else None, onto_TN), h_TR
    y_TN = fp8.project(x_TD, h_TR, group.fp8_weight(x_TD.dtype))
    return _add(y_TN, group.bias, onto_TN), h_TR


def _project_apart(
    x_TD: torch.Tensor, group: ProjectionGroup, seed: torch.Tensor, onto_TN: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`project` in plain PyTorch: the base's product, then each adapter's."""
    if group.in_8_bits():
        y_TN = fp8.project(x_TD[:, : group.num_in], None, group.fp8_weight(x_TD.dtype))
        return _add(y_TN, group.bias, onto_TN), None
    y_TN = _times_weight(x_TD, group, onto_TN=onto_TN)
    ranks_TR = _ranks(x_TD, group, seed)
    for adapter in group.adapters:
        ranks_TR = _present(ranks_TR)
        B = adapter.B.to(x_TD.dtype)
        y_TN[:, adapter.outputs].addmm_(ranks_TR[:, adapter.ranks], B.T)
    return y_TN, ranks_TR


def _add(y_TN: torch.Tensor, *addends: torch.Tensor | None) -> torch.Tensor:
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
    """`x Wᵀ + bias`, part by part. h_TR: what belongs in the columns after x, if x lacks them.

    onto_TN: the result is added to it in place, in the product's last pass over memory.
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
    return _present(y_TN)


def project_ranks(
    x_TD: torch.Tensor,
    group: ProjectionGroup,
    seed: torch.Tensor,
    prologue: SwiGLU | None = None,
) -> torch.Tensor | None:
    """The second result of `project`, without the products with the weights."""
    if group.room:
        x_TD = x_TD if prologue is not None else x_TD[:, : group.num_in]
        return _down(x_TD, group, seed, None, prologue)
    return _ranks(x_TD if prologue is None else prologue(x_TD), group, seed)


def _down(
    x_TD: torch.Tensor,
    group: ProjectionGroup,
    seed: torch.Tensor,
    into_TD: torch.Tensor | None = None,
    prologue: SwiGLU | None = None,
) -> torch.Tensor:
    """`lora_kernels.down` of a group."""
    if not group.dropout and torch.is_inference_mode_enabled():
        return _down_in_one_product(x_TD, group, into_TD, prologue)
    A = [adapter.A for adapter in group.adapters]
    return lora_kernels.down(x_TD, A, _scales(group), _masks(group, seed), into_TD, prologue)


def _down_in_one_product(
    x_TD: torch.Tensor,
    group: ProjectionGroup,
    into_TD: torch.Tensor | None,
    prologue: SwiGLU | None,
) -> torch.Tensor:
    """The same as `lora_kernels.down` for scoring, which has no masks and no gradients."""
    D, R = group.num_in, group.num_ranks
    if prologue is not None:
        x_TD = prologue(x_TD, None if into_TD is None else into_TD[:, :D])
    A_RD = group.scaled_A(x_TD.dtype)
    if into_TD is None:
        return x_TD @ A_RD.T
    if into_TD.shape[1] < D + R:  # `out=` would allocate other memory
        raise ValueError(f"an input of {into_TD.shape[1]} columns has no room for {R} ranks")
    into_TD[:, D + R :].zero_()
    return torch.mm(x_TD, A_RD.T, out=into_TD[:, D : D + R])


def _scales(group: ProjectionGroup) -> list[float]:
    return [group.scale_of(adapter) for adapter in group.adapters]


def _masks(group: ProjectionGroup, seed: torch.Tensor) -> lora_kernels.Masks:
    return lora_kernels.Masks(group.dropout, seed, group.mask_number)


def _mask_seed(group: ProjectionGroup, seed: torch.Tensor, number: int) -> int:
    """Seed of one adapter's mask."""
    return int(seed) + group.mask_number + number


def _ranks(x_TD: torch.Tensor, group: ProjectionGroup, seed: torch.Tensor) -> torch.Tensor | None:
    """`c · (m ⊙ x) Aᵀ` (T, R) of every adapter in plain PyTorch, None without adapters."""
    parts = []
    for number, adapter in enumerate(group.adapters):
        masked = x_TD
        if group.dropout:
            masked = drop(x_TD, group.dropout, _mask_seed(group, seed, number))
        parts.append((masked @ adapter.A.T.to(masked.dtype)) * group.scale_of(adapter))
    return torch.cat(parts, -1) if len(parts) > 1 else parts[0] if parts else None


def project_backward(
    d_TN: torch.Tensor,
    x_TD: torch.Tensor,
    h_TR: torch.Tensor | None,
    group: ProjectionGroup,
    seed: torch.Tensor,
    needs_input_grad: bool,
    prologue: Prologue = None,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """Gradients of the input (its rows may be apart), and of `group.parameters`.

    prologue: what `x_TD` went through in `project`. The first gradient is that of `x_TD` for
    SwiGLU, and may overwrite it; for a norm it is that of the norm's output.
    """
    if not group.room:
        return _backward_apart(d_TN, x_TD, h_TR, group, seed, needs_input_grad, prologue)
    D = group.num_in
    dx_TD: torch.Tensor | None = None
    if group.in_8_bits():
        weight = group.fp8_weight(d_TN.dtype)
        dx_TD, dh_TR = fp8.project_backward(d_TN, weight, needs_input_grad)
    elif needs_input_grad:
        dxh = _into_weight(d_TN, group)
        dx_TD, dh_TR = dxh[:, :D], dxh[:, D : D + group.num_ranks]
    else:
        dh_TR = _into_weight(d_TN, group, slice(D, D + group.num_ranks))
    A = [adapter.A for adapter in group.adapters]
    masks = _masks(group, seed)
    dA_RD = lora_kernels.down_backward(dh_TR, x_TD, dx_TD, A, _scales(group), masks, prologue)
    if isinstance(prologue, SwiGLU) and dx_TD is not None:
        dx_TD = x_TD
    # All outputs times all ranks: one product that reads d once; an adapter's B is one block.
    dB_NR = _product(d_TN.T, _present(h_TR), group.adapters[0].B.dtype)
    gradients = []
    for adapter in group.adapters:
        dA = dA_RD[adapter.ranks].to(adapter.A.dtype)
        gradients += [dA, dB_NR[adapter.outputs, adapter.ranks]]
    return dx_TD, gradients


def _backward_apart(
    d_TN: torch.Tensor,
    x_TD: torch.Tensor,
    h_TR: torch.Tensor | None,
    group: ProjectionGroup,
    seed: torch.Tensor,
    needs_input_grad: bool,
    prologue: Prologue,
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    """`project_backward` in plain PyTorch: the base's gradient, then each adapter's."""
    dx_TD: torch.Tensor | None = None
    inputs_TD = x_TD if prologue is None else prologue(x_TD)
    if needs_input_grad and group.in_8_bits():
        dx_TD = fp8.project_backward(d_TN, group.fp8_weight(d_TN.dtype), True)[0]
    elif needs_input_grad:
        dx_TD = _into_weight(d_TN, group)
    gradients = _adapters_backward(d_TN, inputs_TD, dx_TD, h_TR, group, seed)
    if isinstance(prologue, SwiGLU) and dx_TD is not None:
        dx_TD = swiglu_backward(dx_TD, x_TD)
    return dx_TD, gradients


def _into_weight(
    d_TN: torch.Tensor, group: ProjectionGroup, columns: slice = slice(None)
) -> torch.Tensor:
    """`d W` at some columns of W, summed part by part."""
    total: torch.Tensor | None = None
    for outputs, weight_ND in group.weight_parts(d_TN.dtype):
        d, weight_ND = d_TN[:, outputs], weight_ND[:, columns]
        total = d @ weight_ND if total is None else total.addmm_(d, weight_ND)
    return _present(total)


def _present(tensor: torch.Tensor | None) -> torch.Tensor:
    """The tensor, which only a group without weights or with other adapters than before lacks."""
    if tensor is None:
        raise ValueError("a group of layers has no weights, or its adapters have changed")
    return tensor


def _product(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """a @ b in another dtype than theirs, without a second pass where the device supports it."""
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
        d = d_TN[:, adapter.outputs]
        A, B = adapter.A.to(d.dtype), adapter.B.to(d.dtype)
        g = (d @ B) * group.scale_of(adapter)
        mask_seed = _mask_seed(group, seed, number) if group.dropout else 0
        dA = g.T @ drop(x_TD, group.dropout, mask_seed)
        dB = d.T @ _present(h_TR)[:, adapter.ranks]
        gradients += [dA.to(adapter.A.dtype), dB.to(adapter.B.dtype)]
        if dx_TD is None:
            continue
        if group.dropout:
            dx_TD += drop(g @ A, group.dropout, mask_seed, in_place=True)
        else:
            dx_TD.addmm_(g, A)
    return gradients
