"""Which tokens see which: a pass is a forest of segments, and needs no padding.

A token sees the tokens of its own segment up to itself, and all tokens of the segments above it. So
rows that begin alike share their beginning, and all answers to a prompt share the prompt:

    instruction ─┬─ review 1 ── …            training: a segment per row
                 └─ review 2 ─┬─ positive    scoring: a segment per answer after its prompt
                              └─ negative

Axes: T tokens of the pass, Q query rows, K key rows (a shared row is listed once per segment that
sees it), S segments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import numpy as np
import torch

Record = TypeVar("Record", "Attention", "Pass")


@dataclass(frozen=True)
class Segment:
    """Tokens that follow those of segment number `parent` (None: they begin a sequence).

    num_answer: number of last tokens at which logits are needed.
    """

    tokens: Sequence[int]
    parent: int | None = None
    num_answer: int = 0


@dataclass(frozen=True)
class Attention:
    """Query and key rows of every segment, in the form of variable-length attention.

    Segment s has queries q_starts_S[s]:q_starts_S[s+1] and keys k_starts_S[s]:k_starts_S[s+1]. Its
    last query sees all of them, the one before all but the last, and so on. `key_rows_K` are rows
    of the pass, None if key row i is row i. Row t is key number uses_K[i] for every i in
    use_starts_T[t]:use_starts_T[t+1]; both are None where nothing is listed or no backward pass
    follows. masks: which keys each query of a segment sees, (q, k), where that is another rule than
    the one above; only on a CPU.
    """

    q_lengths: list[int]
    k_lengths: list[int]
    max_q: int
    max_k: int
    q_starts_S: torch.Tensor
    k_starts_S: torch.Tensor
    key_rows_K: torch.Tensor | None
    use_starts_T: torch.Tensor | None
    uses_K: torch.Tensor | None
    masks: tuple[torch.Tensor, ...] = ()

    def to(self, device: torch.device | str) -> "Attention":
        """A copy on another device."""
        return _move(self, device)


class KeptRows:
    """Keys and values of the rows that later passes see, layer by layer.

    capacity: rows to allocate at once, those of the largest pass included.
    """

    def __init__(self, capacity: int = 0) -> None:
        self._capacity = capacity
        # Rows with room for more, how many are kept, and those of the last pass to be added.
        self._kv: dict[int, tuple[torch.Tensor, int, torch.Tensor]] = {}

    def extend(self, layer: int, kv_TGE: torch.Tensor, kept_rows_T: torch.Tensor) -> torch.Tensor:
        """The rows that a layer has kept, then all of this pass, of which it keeps some."""
        rows, used, of_last = self._kv.get(layer, (kv_TGE[:0], 0, kept_rows_T[:0]))
        # Only now: until here the last pass's rows were needed as they are.
        rows[used : used + len(of_last)] = rows[used:].index_select(0, of_last)
        used += len(of_last)
        end = used + len(kv_TGE)
        if end > len(rows):
            more = kv_TGE.new_empty(max(end, self._capacity), *kv_TGE.shape[1:])
            more[:used] = rows[:used]
            rows = more
        rows[used:end] = kv_TGE
        self._kv[layer] = rows, used, kept_rows_T
        return rows[:end]


@dataclass(frozen=True)
class Pass:
    """One forward pass: its input, which rows see which, and the rows that need logits.

    answer_rows_A: rows of the pass, segment after segment. dropout_seed: of this pass's masks.
    checkpoint_layers: how many of the first layers are computed again in the backward pass. kept:
    rows of earlier passes, which this one sees, and the rows of this pass that are kept with them.
    Key rows count from the first row kept.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention: Attention
    answers: Attention
    answer_rows_A: torch.Tensor
    num_tokens: int
    dropout_seed: torch.Tensor
    checkpoint_layers: int
    kept: tuple[KeptRows, torch.Tensor] | None = None

    def to(self, device: torch.device | str) -> "Pass":
        """A copy on another device."""
        return _move(self, device)


def share_prefix(rows: Sequence[Sequence[int]], num_answers: Sequence[int]) -> list[Segment]:
    """A segment per row, below one segment with the beginning that all rows have in common.

    The tokens that need logits, or the last one, stay in the row's own segment.
    """
    limit = min(len(row) - max(num, 1) for row, num in zip(rows, num_answers, strict=True))
    shared = 0
    if len(rows) > 1:
        first = rows[0]
        while shared < limit and all(row[shared] == first[shared] for row in rows):
            shared += 1
    if not shared:
        return [Segment(row, None, num) for row, num in zip(rows, num_answers, strict=True)]
    segments = [Segment(rows[0][:shared])]
    segments += [Segment(row[shared:], 0, num) for row, num in zip(rows, num_answers, strict=True)]
    return segments


def lay_out(
    segments: Sequence[Segment],
    device: torch.device | str,
    dropout_seed: int = 0,
    checkpoint_layers: int = 0,
    round_up: bool = False,
) -> Pass:
    """The tensors of a pass over `segments`; a parent comes before its children.

    round_up: append a segment that no other sees, so that passes have few sizes. Its answer rows
    are the last ones.
    """
    spare_keys = 0
    if round_up:
        spare, spare_keys = _spare_segment(segments)
        segments = [*segments, spare]
    lengths = [len(segment.tokens) for segment in segments]
    starts = starts_of(lengths)
    above: list[list[int]] = []
    depths = []
    for segment in segments:
        parent = segment.parent
        above.append([] if parent is None else [*above[parent], parent])
        depths.append(sum(lengths[i] for i in above[-1]))
    spans = [np.arange(start, end) for start, end in pairwise(starts)]
    tokens = np.concatenate([np.asarray(segment.tokens) for segment in segments])
    positions = np.concatenate(
        [span - start + depth for span, start, depth in zip(spans, starts, depths, strict=False)]
    )
    keys = [[spans[i] for i in (*above[s], s)] for s in range(len(segments))]
    everything = list(enumerate(lengths))
    answers = [
        (s, segment.num_answer)
        for s, segment in enumerate(segments)
        if segment.num_answer or (round_up and s == len(segments) - 1)
    ]
    answer_rows = np.concatenate([spans[s][lengths[s] - num :] for s, num in answers])
    return Pass(
        input_ids=to_device(tokens, device)[None],
        position_ids=to_device(positions, device)[None],
        attention=_attention(everything, keys, len(tokens), device, spare_keys),
        answers=_attention(answers, keys, len(tokens), device, spare_keys),
        answer_rows_A=to_device(answer_rows, device),
        num_tokens=len(tokens),
        dropout_seed=to_device([dropout_seed], device),
        checkpoint_layers=checkpoint_layers,
    )


def _spare_segment(segments: Sequence[Segment]) -> tuple[Segment, int]:
    """What rounds a pass up, and the multiple of tokens that it then has."""
    num_tokens = sum(len(segment.tokens) for segment in segments)
    num_answers = sum(segment.num_answer for segment in segments)
    grain = max(64, 2 ** (num_tokens.bit_length() - 6))  # 3 % of a long pass at most
    spare = 16 + -(num_tokens + 16) % grain
    return Segment([0] * spare, None, -num_answers % 16), grain


def _attention(
    queries: Sequence[tuple[int, int]],
    keys: Sequence[Sequence[np.ndarray]],
    num_tokens: int,
    device: torch.device | str,
    spare_keys: int,
) -> Attention:
    """Attention of some segments. queries: their numbers, and how many of their last rows query.

    keys: the rows that each segment sees. spare_keys: above 0, the number of segments, the number
    of keys (to a multiple of this) and the greatest lengths are rounded up; the last segment, which
    no other sees, takes the rest.
    """
    q_lengths = [num for _, num in queries]
    k_lengths = [sum(map(len, keys[s])) for s, _ in queries]
    parts = [part for s, _ in queries for part in keys[s]]
    if spare_keys:
        spare = -sum(k_lengths) % spare_keys
        # In front of its own keys: its last query still sees itself last.
        parts.insert(-1, np.full(spare, parts[-1][0]))
        k_lengths[-1] += spare
        idle = -len(q_lengths) % 16
        q_lengths, k_lengths = q_lengths + [0] * idle, k_lengths + [0] * idle
    key_rows = np.concatenate(parts)
    max_q, max_k = max(q_lengths), max(k_lengths)
    if spare_keys:
        max_q = min(-(-max_q // 512) * 512, sum(q_lengths))
        max_k = min(-(-max_k // 512) * 512, len(key_rows))
    plain = len(key_rows) == num_tokens and (key_rows == np.arange(num_tokens)).all()
    num_uses = np.bincount(key_rows + 1, minlength=num_tokens + 1)  # the first is 0
    return Attention(
        q_lengths=q_lengths,
        k_lengths=k_lengths,
        max_q=max_q,
        max_k=max_k,
        q_starts_S=to_device(starts_of(q_lengths), device, torch.int32),
        k_starts_S=to_device(starts_of(k_lengths), device, torch.int32),
        key_rows_K=None if plain else to_device(key_rows, device),
        use_starts_T=None if plain else to_device(np.cumsum(num_uses), device),
        uses_K=None if plain else to_device(np.argsort(key_rows, kind="stable"), device),
    )


def starts_of(lengths: Sequence[int]) -> list[int]:
    """Where each of several adjacent stretches starts, and where the last one ends."""
    return list(accumulate(lengths, initial=0))


def _move(record: Record, device: torch.device | str) -> Record:
    """A copy with every tensor on the device."""
    moved: dict[str, Any] = {
        field.name: value.to(device) if isinstance(value, Attention) else to_device(value, device)
        for field in fields(record)
        if isinstance(value := getattr(record, field.name), torch.Tensor | Attention)
    }
    return replace(record, **moved)


def to_device(
    values: Sequence[object] | np.ndarray | torch.Tensor,
    device: torch.device | str,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """A tensor of `values` on the device, without waiting for it."""
    tensor = torch.as_tensor(values, dtype=dtype)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Start to copy a tensor to the CPU; returns a function that waits for the copy and returns it.

    It does not wait for work that the device gets after this call, as `tensor.cpu()` would.
    """
    if not tensor.is_cuda:
        return lambda: tensor
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    copy.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def wait() -> torch.Tensor:
        copied.synchronize()
        return copy

    return wait


def tensors_of(packed: Pass) -> list[torch.Tensor]:
    """Every tensor of a pass, in a fixed order."""
    tensors = [packed.input_ids, packed.position_ids, packed.answer_rows_A, packed.dropout_seed]
    for attention in (packed.attention, packed.answers):
        tensors += [
            tensor
            for tensor in (
                attention.q_starts_S,
                attention.k_starts_S,
                attention.key_rows_K,
                attention.use_starts_T,
                attention.uses_K,
            )
            if tensor is not None
        ]
    return tensors
