"""Attention over segments against one dense attention with the mask written out."""

import pytest
import torch

from sentilora.engine import attention as attention_module
from sentilora.engine.attention import (
    SplitKeys,
    by_segment,
    choose_attention,
    efficient,
    tiled,
    varlen,
)
from sentilora.engine.segments import Segment, lay_out

H, G, E = 4, 2, 6
FORESTS = {
    "one row": [Segment([0] * 7, None, 2)],
    "one token": [Segment([0], None, 1)],
    "rows": [Segment([0] * n, None, 1) for n in (3, 1, 8)],
    "a short beginning": [Segment([0] * 3), Segment([0] * 7, 0, 2), Segment([0] * 5, 0, 3)],
    "a long beginning": [Segment([0] * 9), Segment([0] * 2, 0, 1), Segment([0], 0, 1)],
    "as long as what follows": [Segment([0] * 4), Segment([0] * 4, 0, 2), Segment([0] * 4, 0, 2)],
    "answers behind prompts": [
        Segment([0] * 5), Segment([0] * 4, 0, 1), Segment([0] * 2, 1, 2), Segment([0], 1, 1),
        Segment([0] * 6, 0, 1), Segment([0] * 3, 4, 3), Segment([0], 4, 1),
    ],
}  # fmt: skip


def mask_of(segments, window):
    """(rows, rows), from positions and ancestors alone."""
    owner = [s for s, segment in enumerate(segments) for _ in segment.tokens]
    above = []
    for s, segment in enumerate(segments):
        above.append({s} | (set() if segment.parent is None else above[segment.parent]))
    positions = lay_out(segments, "cpu").position_ids[0].tolist()
    num = len(owner)
    mask = torch.zeros(num, num, dtype=torch.bool)
    for i in range(num):
        for j in range(num):
            distance = positions[i] - positions[j]
            near = window is None or distance < window
            mask[i, j] = owner[j] in above[owner[i]] and distance >= 0 and near
    return mask


def dense(q_QHE, k_THE, v_THE, mask_QT, scale):
    scores = torch.einsum("qhe,khe->hqk", q_QHE, k_THE) * scale
    weights = scores.masked_fill(~mask_QT, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khe->qhe", weights, v_THE)


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("answers_only", [False, True])
@pytest.mark.parametrize("round_up", [False, True])
@pytest.mark.parametrize("name", FORESTS)
def test_by_segment_equals_dense_attention(name, round_up, answers_only, window):
    segments = FORESTS[name]
    packed = lay_out(segments, "cpu", round_up=round_up)
    attention = packed.answers if answers_only else packed.attention
    num = sum(len(segment.tokens) for segment in segments)  # without what rounding up added
    rows = packed.answer_rows_A if answers_only else torch.arange(packed.num_tokens)
    num_rows = int((rows < num).sum())
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    whole_q = draw(packed.num_tokens, H, E).requires_grad_()
    kv = draw(packed.num_tokens, 2 * G, E).requires_grad_()
    weights = draw(num_rows, H, E)

    k, v = kv.chunk(2, 1)
    k, v = (x[:num].repeat_interleave(H // G, 1) for x in (k, v))
    mask = mask_of(segments, window)[rows[:num_rows]]
    expected = dense(whole_q[rows[:num_rows]], k, v, mask, 0.3)
    expected_grads = torch.autograd.grad((expected * weights).sum(), (whole_q, kv))

    got = by_segment(whole_q[rows], kv, attention, 0.3, window)
    assert got.shape == (len(rows), H, E)
    grads = torch.autograd.grad((got[:num_rows] * weights).sum(), (whole_q, kv))
    torch.testing.assert_close(got[:num_rows], expected)
    torch.testing.assert_close(grads[0], expected_grads[0])
    # Gradients of shared rows are summed in float32.
    torch.testing.assert_close(grads[1], expected_grads[1], rtol=1e-5, atol=1e-6)


def test_gradients_of_shared_keys_are_the_sum_of_their_uses():
    packed = lay_out(FORESTS["answers behind prompts"], "cpu")
    num_checked = 0
    for attention in (packed.attention, packed.answers):
        kv = torch.randn(packed.num_tokens, 2 * G, E, requires_grad=True)
        k, v = SplitKeys.apply(kv, attention)
        assert k.shape == v.shape == (len(attention.key_rows_K), G, E)
        dk, dv = torch.randn_like(k), torch.randn_like(v)
        (got,) = torch.autograd.grad((k * dk + v * dv).sum(), kv)
        expected = torch.zeros(kv.shape)
        for use, row in enumerate(attention.key_rows_K.tolist()):
            expected[row] += torch.cat([dk[use], dv[use]])
            num_checked += 1
        torch.testing.assert_close(got, expected)
    assert num_checked >= 60


def test_the_way_is_chosen_by_device_dtype_capability_and_head(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(attention_module, "triton", object())
    assert choose_attention(cpu, torch.float32, 0.0, 128) is by_segment
    assert choose_attention(gpu, torch.bfloat16, 9.0, 128) is tiled
    assert choose_attention(gpu, torch.bfloat16, 9.0, 96) is varlen
    assert choose_attention(gpu, torch.float16, 8.0, 128) is varlen
    assert choose_attention(gpu, torch.bfloat16, 8.9, 128) is varlen
    assert choose_attention(gpu, torch.float16, 7.5, 128) is efficient  # a T4
    assert choose_attention(gpu, torch.float32, 9.0, 128) is efficient
    monkeypatch.setattr(attention_module, "triton", None)
    assert choose_attention(gpu, torch.bfloat16, 9.0, 128) is varlen
