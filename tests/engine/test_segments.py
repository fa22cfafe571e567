"""Which token sees which: what `lay_out` hands to attention against the definition of a forest."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sentilora.engine.segments import (
    Attention,
    Pass,
    Segment,
    lay_out,
    share_prefix,
    tensors_of,
)

ROWS = st.lists(st.lists(st.integers(1, 2), min_size=1, max_size=9), min_size=1, max_size=6)


@st.composite
def forests(draw):
    """Segments of 1 to 5 tokens, each a root or below an earlier one; some with answers."""
    segments = []
    for number in range(draw(st.integers(1, 7))):
        tokens = draw(st.lists(st.integers(0, 9), min_size=1, max_size=5))
        parent = draw(st.none() | st.integers(0, number - 1)) if number else None
        segments.append(Segment(tokens, parent, draw(st.integers(0, len(tokens)))))
    if not any(segment.num_answer for segment in segments):
        segments[-1] = dataclasses.replace(segments[-1], num_answer=1)
    return segments


def rows_seen(segments):
    """By definition: per row of the pass the rows it sees, in order, its own last."""
    starts = [0]
    for segment in segments:
        starts.append(starts[-1] + len(segment.tokens))
    seen = []
    for number, segment in enumerate(segments):
        above, parent = [], segment.parent
        while parent is not None:
            above = [*range(starts[parent], starts[parent + 1]), *above]
            parent = segments[parent].parent
        for row in range(starts[number], starts[number + 1]):
            seen.append([*above, *range(starts[number], row + 1)])
    return seen


def rows_attended(attention: Attention, num_tokens):
    """As variable-length attention reads it: per query the rows of its keys, in order."""
    key_rows = list(range(num_tokens))
    if attention.key_rows_K is not None:
        key_rows = attention.key_rows_K.tolist()
    q_starts, k_starts = attention.q_starts_S.tolist(), attention.k_starts_S.tolist()
    attended = []
    for s in range(len(q_starts) - 1):
        keys = key_rows[k_starts[s] : k_starts[s + 1]]
        num_q = q_starts[s + 1] - q_starts[s]
        attended += [keys[: len(keys) - (num_q - 1 - i)] for i in range(num_q)]
    return attended


def check_lists(attention: Attention, num_tokens):
    """Lengths, starts, greatest lengths and the list of uses agree."""
    q_starts, k_starts = attention.q_starts_S, attention.k_starts_S
    assert q_starts.dtype == k_starts.dtype == torch.int32
    assert q_starts.diff().tolist() == attention.q_lengths
    assert k_starts.diff().tolist() == attention.k_lengths
    assert attention.max_q >= max(attention.q_lengths)
    assert attention.max_k >= max(attention.k_lengths)
    if attention.key_rows_K is None:
        assert attention.k_starts_S[-1] == num_tokens
        assert attention.use_starts_T is None and attention.uses_K is None
        return
    key_rows = attention.key_rows_K.tolist()
    assert k_starts[-1] == len(key_rows)
    use_starts, uses = attention.use_starts_T.tolist(), attention.uses_K.tolist()
    assert len(use_starts) == num_tokens + 1 and sorted(uses) == list(range(len(key_rows)))
    for row in range(num_tokens):
        assert all(key_rows[at] == row for at in uses[use_starts[row] : use_starts[row + 1]])


@given(forests())
def test_every_token_sees_its_own_segment_and_those_above(segments):
    packed = lay_out(segments, "cpu", dropout_seed=11, checkpoint_layers=2)
    seen = rows_seen(segments)
    assert packed.num_tokens == len(seen) == packed.input_ids.numel()
    assert packed.input_ids.tolist() == [[t for segment in segments for t in segment.tokens]]
    assert packed.position_ids.tolist() == [[len(rows) - 1 for rows in seen]]
    assert rows_attended(packed.attention, packed.num_tokens) == seen
    check_lists(packed.attention, packed.num_tokens)
    assert packed.dropout_seed.tolist() == [11] and packed.checkpoint_layers == 2


@given(forests())
def test_answer_rows_see_what_they_see_in_the_whole_pass(segments):
    packed = lay_out(segments, "cpu")
    ends = torch.tensor([len(segment.tokens) for segment in segments]).cumsum(0).tolist()
    answers = [
        row
        for end, segment in zip(ends, segments, strict=True)
        for row in range(end - segment.num_answer, end)
    ]
    assert packed.answer_rows_A.tolist() == answers and answers
    seen = rows_seen(segments)
    assert rows_attended(packed.answers, packed.num_tokens) == [seen[row] for row in answers]
    check_lists(packed.answers, packed.num_tokens)


@given(forests())
def test_rounded_up_the_answer_rows_are_the_same(segments):
    exact, packed = lay_out(segments, "cpu"), lay_out(segments, "cpu", round_up=True)
    num, seen = exact.num_tokens, rows_seen(segments)
    assert packed.input_ids[0, :num].equal(exact.input_ids[0])
    assert packed.position_ids[0, :num].equal(exact.position_ids[0])
    assert packed.answer_rows_A[: len(exact.answer_rows_A)].equal(exact.answer_rows_A)
    attended = rows_attended(packed.attention, packed.num_tokens)
    assert attended[:num] == seen
    # The rows that were added see themselves and no others' tokens.
    assert len(attended) == packed.num_tokens
    for row, rows in enumerate(attended[num:], num):
        assert row in rows and min(rows) >= num
    answers = rows_attended(packed.answers, packed.num_tokens)
    assert answers[: len(exact.answer_rows_A)] == [seen[row] for row in exact.answer_rows_A]
    for attention in (packed.attention, packed.answers):
        check_lists(attention, packed.num_tokens)
        assert len(attention.q_lengths) % 16 == 0
    assert packed.num_tokens % 64 == 0 and len(packed.answer_rows_A) % 16 == 0


def test_rounded_up_passes_come_in_few_sizes():
    """Of 400 lengths from 200 to 599 tokens, some 16 sizes; none more than 12 % + 80 longer."""
    sizes = set()
    for num in range(200, 600):
        beginning = Segment([1] * 30)
        rows = [Segment([2] * (num // 2 - 30), 0, 2), Segment([3] * (num - num // 2), 0, 2)]
        packed = lay_out([beginning, *rows], "cpu", round_up=True)
        sizes.add(tuple(tensor.shape for tensor in tensors_of(packed)))
        assert packed.num_tokens <= 1.12 * num + 80
    assert 1 < len(sizes) <= 16


@given(ROWS, st.data())
def test_a_shared_beginning_is_the_longest_there_is(rows, data):
    num_answers = [data.draw(st.integers(0, len(row))) for row in rows]
    segments = share_prefix(rows, num_answers)
    own = segments[-len(rows) :]
    shared = list(segments[0].tokens) if len(segments) > len(rows) else []
    assert len(segments) == len(rows) + bool(shared)
    assert [shared + list(segment.tokens) for segment in own] == rows
    assert [segment.num_answer for segment in own] == num_answers
    assert all(segment.parent == (0 if shared else None) for segment in own)
    # The tokens that need logits, or the last one, stay in the row's own segment.
    for segment in own:
        assert len(segment.tokens) >= max(segment.num_answer, 1)
    longer = len(shared) + 1
    possible = len(rows) > 1 and all(
        len(row) - max(num, 1) >= longer and row[:longer] == rows[0][:longer]
        for row, num in zip(rows, num_answers, strict=True)
    )
    assert not possible


@pytest.mark.parametrize("round_up", [False, True])
def test_every_tensor_is_listed_and_moved(round_up):
    """A captured pass is refilled with these; one left out would keep the first pass's values."""
    segments = [Segment([1, 2]), Segment([3, 4], 0, 1), Segment([5], 0, 1)]
    packed = lay_out(segments, "cpu", round_up=round_up)

    def tensors_in(value):
        for field in dataclasses.fields(value):
            inner = getattr(value, field.name)
            if isinstance(inner, torch.Tensor):
                yield inner
            elif isinstance(inner, Attention):
                yield from tensors_in(inner)

    listed = tensors_of(packed)
    assert {id(t) for t in listed} == {id(t) for t in tensors_in(packed)}
    assert len(listed) == len(set(map(id, listed))) == 4 + 5 + 5
    moved: Pass = packed.to("meta")
    assert [t.device.type for t in tensors_of(moved)] == ["meta"] * 14
    assert [t.shape for t in tensors_of(moved)] == [t.shape for t in listed]
