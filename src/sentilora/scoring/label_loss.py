"""The loss of soft labels: cross-entropy between a row's shares and its label probabilities.

A label is scored as `labels` scores it: all its tokens and EOS, after a prompt that all labels
share. What labels begin with in common is one path:

    prompt ─┬─ card_ ─┬─ arrival </s>
            │         └─ lost </s>
            └─ top_up </s>

Axes: N prompts, R rows with logits of a prompt (its end, and each label token that others follow),
E tokens that follow one of them, C labels, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sentilora.engine.segments import Pass, Segment, lay_out, share_prefix, to_device
from sentilora.engine.swap import packed_logits
from sentilora.prompt import IGNORE_INDEX
from sentilora.scoring.label_tree import LabelTree

# Number of logits of a pass: 0.25 GB in float32, and a backward pass holds four copies.
MAX_LOGITS = 2**26


@dataclass(frozen=True)
class SoftExample:
    """A prompt with the share of each label.

    input_ids: of the prompt alone. labels: as transformers counts the terms of a step's loss: one.
    weight: the row's weight in the loss.
    """

    input_ids: list[int]
    shares: tuple[float, ...]
    truncated: bool
    weight: float = 1.0
    labels: tuple[int, ...] = (IGNORE_INDEX, 0)


def shares_loss(
    scores_NC: torch.Tensor, shares_NC: torch.Tensor, weights_N: torch.Tensor
) -> torch.Tensor:
    """The sum of −Σ shares · ln p over rows, each times its weight. p: softmax of the scores."""
    losses_N = -(shares_NC * scores_NC.log_softmax(-1)).sum(-1)
    return (losses_N * weights_N).sum().float()


class PackedLabels:
    """All labels after each prompt of a packed pass, and their scores from its logits.

    label_ids: the tokens of each label, ending with EOS.
    """

    def __init__(self, label_ids: Sequence[Sequence[int]], device: torch.device | str) -> None:
        labels = LabelTree(label_ids)
        tree = labels.tokens
        self.chains = _chains(labels)
        rows_R = np.flatnonzero(labels.is_inner_N)
        self.num_rows = len(rows_R)
        row_of_N = np.full(tree.num_nodes, -1)
        row_of_N[rows_R] = np.arange(self.num_rows)
        paths = [tree.path(node) for node in tree.sequences]
        steps_EC = np.zeros((tree.num_nodes - 1, len(paths)))
        passed_RC = np.zeros((self.num_rows, len(paths)))
        for label, path in enumerate(paths):
            steps_EC[path - 1, label] = 1
            passed_RC[row_of_N[tree.parents_N[path]], label] = 1
        self._rows_E = to_device(row_of_N[tree.parents_N[1:]], device)
        self._tokens_E = to_device(tree.tokens_N[1:], device)
        self._steps_EC, self._passed_RC = to_device(steps_EC, device), to_device(passed_RC, device)

    @property
    def num_tokens(self) -> int:
        """Label tokens after each prompt."""
        return self.num_rows - 1

    def lay_out(
        self,
        prompts: Sequence[Sequence[int]],
        device: torch.device | str,
        dropout_seed: int = 0,
        checkpoint_layers: int = 0,
        round_up: bool = False,
    ) -> Pass:
        """Prompts end to end, their common prefix only once, the labels after each. See `lay_out`.

        Its first N · R answer rows are those of the prompts, one after the other.
        """
        shared = share_prefix(prompts, [1] * len(prompts))
        segments = shared[: len(shared) - len(prompts)]
        for prompt in shared[len(segments) :]:
            first = len(segments)
            segments.append(prompt)
            for tokens, parent in self.chains:
                segments.append(Segment(tokens, first + parent, len(tokens)))
        return lay_out(segments, device, dropout_seed, checkpoint_layers, round_up)

    def scores(self, model: torch.nn.Module, packed: Pass, num_prompts: int) -> torch.Tensor:
        """Scores (prompts, labels) in float64, from a model with fast layers.

        A score is a sum of logits minus the logsumexp of each row it passes. Both are products
        with 0 and 1, so that no gradient is added up in an order of chance.
        """
        logits_AV = packed_logits(model, packed)[: num_prompts * self.num_rows].float()
        passed_NR = logits_AV.logsumexp(-1).view(num_prompts, -1)
        chosen_E = self._rows_E * logits_AV.shape[-1] + self._tokens_E
        steps_NE = logits_AV.reshape(num_prompts, -1).index_select(1, chosen_E)
        return steps_NE.double() @ self._steps_EC - passed_NR.double() @ self._passed_RC


def _chains(labels: LabelTree) -> list[tuple[list[int], int]]:
    """The label tokens that a model reads, in runs that nothing branches off; each with its parent.

    A parent is a chain's number counted from 1; 0 is the prompt. Tokens are in the tree's order.
    """
    tree = labels.tokens
    inner = np.flatnonzero(labels.is_inner_N)[1:]
    num_inner_below = np.bincount(tree.parents_N[inner], minlength=tree.num_nodes)
    chains: list[tuple[list[int], int]] = []
    chain_of = {0: 0}
    for node in inner.tolist():
        parent = int(tree.parents_N[node])
        token = int(tree.tokens_N[node])
        if parent and num_inner_below[parent] == 1:
            chains[chain_of[parent] - 1][0].append(token)
            chain_of[node] = chain_of[parent]
        else:
            chains.append(([token], chain_of[parent]))
            chain_of[node] = len(chains)
    return chains
