"""Which rows share a pass, and how rows of different lengths enter the model together.

The loader delivers the examples of a whole optimizer step. `plan_passes` groups rows of similar
length into passes. The loss is a sum over answer tokens divided by their number in the step, so
every plan gives the same gradient.

Rows are padded on the right. No token attends to a later one, so no attention mask is needed. (With
padding on the left, the first query rows attend to nothing. Trained that way in bfloat16 on a GPU,
the embedded base reached NaN within 200 steps with every seed: docs/results.md.)
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch

from sentilora.engine.memory import TreeRoom
from sentilora.engine.segments import Pass, lay_out, share_prefix, to_device
from sentilora.engine.swap import packed_logits
from sentilora.prompt import IGNORE_INDEX

if TYPE_CHECKING:
    from sentilora.prompt import Example


@dataclass(frozen=True)
class PassSizes:
    """What of the passes follows free memory when it is planned, and their numbers' last bits too.

    tree_room: with many labels, the room for a pass that reads them level by level.
    """

    max_score_tokens: int
    keep_layers: int
    tree_room: TreeRoom | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """The sizes in what `asdict` returned."""
        room = content["tree_room"]
        return cls(**{**content, "tree_room": None if room is None else TreeRoom(**room)})


def plan_passes(lengths: Sequence[int], max_rows: int) -> list[list[int]]:
    """Row numbers of each pass: at most `max_rows` rows per pass, the longest rows first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + max_rows] for start in range(0, len(order), max_rows)]


def plan_tokens(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Row numbers of each pass: evenly filled passes of at most `max_tokens` tokens.

    Rows are assigned longest first, each to the pass with the fewest tokens. The number of passes
    is the lowest at which all of them fit. A row longer than `max_tokens` has a pass of its own.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    num_passes = max(1, -(-sum(lengths) // max_tokens))
    while True:
        passes: list[list[int]] = [[] for _ in range(num_passes)]
        sizes = [0] * num_passes
        for row in order:
            emptiest = sizes.index(min(sizes))
            passes[emptiest].append(row)
            sizes[emptiest] += lengths[row]
        fits = all(
            size <= max_tokens or len(rows) == 1 for rows, size in zip(passes, sizes, strict=True)
        )
        if fits:
            return [sorted(rows) for rows in passes if rows]
        num_passes += 1


class Step:
    """The examples of an optimizer step, wrapped so that nothing copies them to a device."""

    def __init__(self, examples: Sequence["Example"]) -> None:
        self.examples = list(examples)


def collate(examples: Sequence["Example"]) -> dict[str, Any]:
    """A batch: a `Step`, and all `labels` (tokens,), in which transformers counts the answers."""
    return {
        "step": Step(examples),
        "labels": torch.tensor([label for example in examples for label in example.labels]),
    }


def takes(model: torch.nn.Module, *names: str) -> bool:
    """Whether the forward of a model, or of the base under PEFT, has all these parameters."""
    return set(names) <= _parameters_of(model)


def cache_parameter(model: torch.nn.Module) -> str | None:
    """The name under which the forward takes a cache of keys and values, None if it takes none.

    transformers up to 5.17 call it `past_key_values`, 5.24 calls it `cache`.
    """
    names = ("cache", "past_key_values")
    return next((name for name in names if name in _parameters_of(model)), None)


def _parameters_of(model: torch.nn.Module) -> set[str]:
    get_base = getattr(model, "get_base_model", None)
    return set(inspect.signature((get_base() if get_base else model).forward).parameters)


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows of token ids as a tensor (rows, longest row), padded with `value` on the right."""
    width = max(map(len, rows))
    return torch.tensor([list(row) + [value] * (width - len(row)) for row in rows])


def last_logits(
    model: torch.nn.Module, rows: Sequence[Sequence[int]], num_last: int, pad_token_id: int
) -> torch.Tensor:
    """Logits at the last `num_last` tokens of each row: shape (rows, num_last, vocabulary).

    Rows must have at least `num_last` tokens.
    """
    device = next(model.parameters()).device
    inputs = {"input_ids": pad(rows, pad_token_id).to(device), "use_cache": False}
    lengths = torch.tensor([len(row) for row in rows])
    at = lengths[:, None] - num_last + torch.arange(num_last)
    if takes(model, "logits_to_keep"):
        # The head computes only the columns that some row needs.
        columns, at = at.unique(return_inverse=True)
        logits = model(**inputs, logits_to_keep=columns.to(device)).logits
    else:
        logits = model(**inputs).logits
    at = at.to(device)
    return logits.gather(1, at[..., None].expand(-1, -1, logits.shape[-1]))


def answer_loss(
    model: torch.nn.Module,
    rows: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    weights: Sequence[float],
    pad_token_id: int,
) -> torch.Tensor:
    """The sum of the answer tokens' cross-entropy in float32, each row times its weight.

    rows: token ids of prompt, label and EOS. labels: the same ids, but `IGNORE_INDEX` for the
    prompt; the answer is at the end of the row.
    """
    num_answer = [sum(i != IGNORE_INDEX for i in row) for row in labels]
    longest = max(num_answer)
    # Nothing is predicted from EOS, so it is not an input.
    logits = last_logits(model, [row[:-1] for row in rows], longest, pad_token_id).float()
    targets = torch.full((len(rows), longest), IGNORE_INDEX)
    for target, row, num in zip(targets, labels, num_answer, strict=True):
        target[-num:] = torch.tensor(row[-num:])
    losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.to(logits.device).flatten(), reduction="none"
    )
    per_row = losses.view(len(rows), longest).sum(-1)
    return (per_row * torch.tensor(weights, device=per_row.device)).sum()


@dataclass(frozen=True)
class PackedAnswers:
    """A pass for fast layers, with the target token and the weight of each answer row (A)."""

    packed: Pass
    targets_A: torch.Tensor
    weights_A: torch.Tensor


def pack_answers(
    rows: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    weights: Sequence[float],
    device: torch.device | str,
    *,
    dropout_seed: int = 0,
    checkpoint_layers: int = 0,
    round_up: bool = False,
) -> PackedAnswers:
    """The rows of `answer_loss` laid end to end, their common prefix only once. See `lay_out`."""
    num_answer = [sum(i != IGNORE_INDEX for i in row) for row in labels]
    segments = share_prefix([row[:-1] for row in rows], num_answer)
    packed = lay_out(segments, device, dropout_seed, checkpoint_layers, round_up)
    targets = [token for row, num in zip(labels, num_answer, strict=True) for token in row[-num:]]
    row_weights = [w for w, num in zip(weights, num_answer, strict=True) for _ in range(num)]
    spare = len(packed.answer_rows_A) - len(targets)  # with weight 0
    return PackedAnswers(
        packed,
        to_device(targets + [0] * spare, device),
        to_device(row_weights + [0.0] * spare, device),
    )


def packed_answer_loss(
    model: torch.nn.Module, packed: Pass, targets_A: torch.Tensor, weights_A: torch.Tensor
) -> torch.Tensor:
    """`answer_loss` of a pass on a model with fast layers."""
    logits_AV = packed_logits(model, packed).float()
    losses_A = torch.nn.functional.cross_entropy(logits_AV, targets_A, reduction="none")
    return (losses_A * weights_A).sum()
