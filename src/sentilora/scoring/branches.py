"""Scores of a few labels with plain transformers: every token of every label after the prompt."""

from collections.abc import Sequence

import torch

from sentilora.scoring.batching import last_logits


def score_rows(
    model: torch.nn.Module,
    label_ids: Sequence[list[int]],
    prompts: Sequence[list[int]],
    pad_token_id: int,
) -> torch.Tensor:
    """Scores of prompts, with one row per prompt and label."""
    columns = []
    for ids in label_ids:
        rows = [prompt + ids[:-1] for prompt in prompts]
        logits = last_logits(model, rows, len(ids), pad_token_id)
        columns.append(_sum_log_probs(logits, torch.tensor(ids)))
    return torch.stack(columns, -1)


def score_branches(
    model: torch.nn.Module,
    label_ids: Sequence[list[int]],
    prompts: Sequence[list[int]],
    pad_token_id: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Scores of prompts, with one row per prompt: padding, the prompt, then all labels."""
    device = next(model.parameters()).device
    branches = [ids[:-1] for ids in label_ids]
    width, extra = max(map(len, prompts)), sum(map(len, branches))
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    tail = [token for branch in branches for token in branch]
    input_ids = torch.tensor([[pad_token_id] * (width - len(p)) + p + tail for p in prompts])
    # The branch of each column (-1 for the prompt), and its place within the branch.
    branch = torch.tensor([-1] * width + [c for c, ids in enumerate(branches) for _ in ids])
    place = torch.tensor([0] * width + [i for ids in branches for i in range(len(ids))])
    column = torch.arange(width + extra)
    in_prompt = branch == -1
    positions = torch.where(
        in_prompt, column - (width - lengths[:, None]), lengths[:, None] + place
    )
    causal = column[:, None] >= column
    visible = causal & (in_prompt | (branch[:, None] == branch))
    real = column >= (width - lengths[:, None])  # (prompts, columns)
    mask = (visible & real[:, None]) | torch.eye(width + extra, dtype=torch.bool)
    additive = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    logits = model(
        input_ids=input_ids.to(device),
        attention_mask=additive[:, None].to(device),
        position_ids=positions.clamp(min=0).to(device),
        use_cache=False,
        logits_to_keep=extra + 1,
    ).logits
    scores, start = [], 1
    for ids in label_ids:
        at = [0, *range(start, start + len(ids) - 1)]
        scores.append(_sum_log_probs(logits[:, at], torch.tensor(ids)))
        start += len(ids) - 1
    return torch.stack(scores, -1)


def _sum_log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probability of the token sequence `ids` under logits (rows, len(ids), vocabulary)."""
    logits = logits.float()
    ids = ids.to(logits.device).expand(logits.shape[:-1])
    token_logits = logits.gather(-1, ids[..., None])[..., 0]
    return (token_logits - logits.logsumexp(-1)).sum(-1)
