"""One comparison of fast layers with their own forward, on random input, before they are used."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from sentilora.engine.layer import FastLayer
from sentilora.engine.segments import Pass, Segment, lay_out

# A beginning and two continuations that share it.
SEGMENTS = [Segment([0] * 6), Segment([0] * 5, 0, 2), Segment([0] * 3, 0, 1)]


def try_layers(layers: Sequence[Any], rotary: Any) -> str | None:
    """Run the first and the last of a model's fast layers both ways; how they differ, if they do.

    rotary: the model's rotary embedding. The layers run in eval mode; their modes are restored.
    """
    weight = layers[0].input_layernorm.weight
    dtype, device = weight.dtype, weight.device
    packed = lay_out(SEGMENTS, device)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, packed.num_tokens, len(weight), generator=generator).to(device, dtype)
    half = dtype in (torch.float16, torch.bfloat16)
    try:
        with (
            _eval_mode(layers),
            torch.no_grad(),
            torch.autocast(device.type, dtype=dtype, enabled=half),
        ):
            tables = rotary(hidden, position_ids=packed.position_ids)
            for layer in (layers[0], layers[-1]):
                error = _relative_error(layer, hidden, packed, tables)
                if not error <= (0.03 if half else 1e-4):
                    return f"a layer's outputs differ by {error:.2g}"
    except (RuntimeError, TypeError, ValueError, AttributeError) as failure:
        return f"a layer refuses: {type(failure).__name__}: {str(failure).splitlines()[0]}"
    return None


@contextmanager
def _eval_mode(layers: Sequence[Any]) -> Iterator[None]:
    """Within, the layers are in eval mode and their groups follow it."""
    modes = [(module, module.training) for layer in layers for module in layer.modules()]
    try:
        for layer in layers:
            layer.eval()
            layer.fast.refresh()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _relative_error(layer: Any, hidden: torch.Tensor, packed: Pass, tables: Any) -> torch.Tensor:
    """Of the layer's packed output, measured against its own forward."""
    common = {"position_ids": packed.position_ids, "position_embeddings": tables}
    own = super(FastLayer, layer).forward(
        hidden, attention_mask=_mask(packed, layer.fast.window, hidden), **common
    )
    fast = layer(hidden, packed=packed, **common)
    own = own[0] if isinstance(own, tuple) else own
    expected = own[0, packed.answer_rows_A if layer.fast.is_last else slice(None)].float()
    return (fast[0].float() - expected).norm() / expected.norm()


def _mask(packed: Pass, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """The additive mask (1, 1, T, T) of `SEGMENTS`: 0 where a row sees a column."""
    visible = torch.zeros(packed.num_tokens, packed.num_tokens, dtype=torch.bool)
    start = 0
    for segment in SEGMENTS:
        end = start + len(segment.tokens)
        visible[start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
        if segment.parent is not None:
            visible[start:end, : len(SEGMENTS[segment.parent].tokens)] = True
        start = end
    if window is not None:
        positions = packed.position_ids[0].cpu()
        visible &= positions[:, None] - positions < window
    mask = torch.zeros(visible.shape, dtype=like.dtype)
    return mask.masked_fill_(~visible, torch.finfo(like.dtype).min)[None, None].to(like.device)
