"""How a step fits into memory at the least cost: passes, layers computed twice, weights kept.

    a layer keeps, per token:      its input, q, k, v, attention's output, the MLP's input, gate, up
    … or, computed twice:          its input alone
    the weights of a layer:        decoded once and kept, or decoded at each use into one buffer

All combinations are weighed (a few hundred); the cheapest that fits is taken.
"""

from dataclasses import dataclass
from math import ceil

# What a pass costs beside its tokens, in tokens' worth of forward and backward work (H100 and
# Mistral-7B: 43 µs a token; 7.5 ms to decode every weight once; a few ms for each pass as such).
DECODE_TOKENS = 170
PASS_TOKENS = 100
# Recomputing a layer's forward pass but for the down projection: three eighths of its work again.
RECOMPUTE = 0.37


@dataclass(frozen=True)
class LayerSizes:
    """Bytes: per token what a layer keeps, what it keeps when computed twice, what it works with.

    score_per_token: what it works with when nothing is kept. weights: of a layer's decoded weights.
    buffer: of the largest part that is decoded per use.
    """

    kept_per_token: int
    input_per_token: int
    work_per_token: int
    score_per_token: int
    weights: int
    buffer: int


@dataclass(frozen=True)
class MemoryPlan:
    """max_tokens of a pass; the first `checkpoint_layers` are computed twice, the last
    `keep_layers` keep their weights decoded. pass_bytes: what such a pass takes beside them."""

    max_tokens: int
    checkpoint_layers: int
    keep_layers: int
    pass_bytes: int


def plan_memory(
    free_bytes: int, step_tokens: int, longest: int, num_layers: int, sizes: LayerSizes
) -> MemoryPlan | None:
    """The cheapest plan for steps of up to `step_tokens` tokens, None when no row fits.

    longest: tokens of the longest row, which no pass can be shorter than.
    """
    best: tuple[float, MemoryPlan] | None = None
    # Up to 32 passes, and as many as leave each the longest row's length.
    for num_passes in (*range(1, 33), max(1, ceil(step_tokens * 1.08 / (longest * 7 / 8)))):
        # Rows are whole: the fullest pass has somewhat more than its share.
        share = step_tokens / num_passes
        max_tokens = max(longest, int(share if num_passes == 1 else share * 1.08 + longest / 8))
        for checkpointed in range(num_layers + 1):
            used = max_tokens * (
                (num_layers - checkpointed) * sizes.kept_per_token
                + checkpointed * sizes.input_per_token
                + (sizes.kept_per_token if checkpointed else 0)
                + sizes.work_per_token
            )
            left = free_bytes - used
            keep = min(num_layers, left // sizes.weights)
            if keep < num_layers:
                keep = (left - sizes.buffer) // sizes.weights
            if keep < 0:
                continue
            again = checkpointed / num_layers
            decodes = (2 + again) * (1 - keep / num_layers)
            cost = step_tokens * (1 + RECOMPUTE * again) + num_passes * (
                decodes * DECODE_TOKENS + PASS_TOKENS
            )
            if best is None or cost < best[0]:
                best = cost, MemoryPlan(max_tokens, checkpointed, keep, used)
    return None if best is None else best[1]
