"""Which rows share a pass, and how rows of different lengths enter the model together.

The loader delivers the examples of a whole optimizer step; `plan_passes` cuts them into passes of
similar length. Since the loss is a sum over answer tokens divided by their number in the step,
every plan gives the same gradient.

Rows are padded on the right and need no attention mask: no token sees one behind it. (Padded on the
left, the first query rows see nothing at all; trained so in bfloat16 on a GPU, the embedded base
ended in NaN within 200 steps, whatever the seed: docs/results.md.)
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sentilora.prompt import IGNORE_INDEX

if TYPE_CHECKING:
    from sentilora.prompt import Example


def plan_passes(lengths: Sequence[int], max_rows: int) -> list[list[int]]:
    """Row numbers per pass: longest first, at most `max_rows` rows each, every row once."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + max_rows] for start in range(0, len(order), max_rows)]


def collate(examples: Sequence["Example"]) -> dict[str, torch.Tensor]:
    """The examples of an optimizer step end to end, without padding.

    Returns `input_ids` and `labels` of shape (tokens,), `lengths` and `weights` of shape (rows,).
    """
    return {
        "input_ids": torch.tensor([i for example in examples for i in example.input_ids]),
        "labels": torch.tensor([i for example in examples for i in example.labels]),
        "lengths": torch.tensor([len(example.input_ids) for example in examples]),
        "weights": torch.tensor([example.weight for example in examples]),
    }


def takes(model: torch.nn.Module, *names: str) -> bool:
    """Whether the model's forward (a PEFT wrapper's base's) has all these parameters."""
    get_base = getattr(model, "get_base_model", None)
    forward = (get_base() if get_base else model).forward
    return set(names) <= set(inspect.signature(forward).parameters)


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """Rows of token ids as one tensor (rows, longest), filled up with `value` behind each row."""
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
        # The head computes the columns that any row asks for, and no others.
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
    """Sum over the answer tokens of cross-entropy in float32, each row times its weight.

    rows: token ids of prompt, label and EOS. labels: the same, `IGNORE_INDEX` over the prompt; the
    answer is the end of the row.
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
