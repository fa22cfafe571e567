"""Trees of tokens after texts: what the engine reads of them in several passes, level by level.

All labels after a text are one tree, and what they begin with in common is one path:

    text ─┬─ card ─┬─ arrival
          │        └─ lost
          └─ top ─── up

The first pass holds the texts. Its keys and values are kept (`KeptRows`), so that later passes hold
only tree tokens and still see the texts and the tokens above them. A GPU takes a tree as paths, a
segment each. A CPU takes up to `CLUSTER` tokens of a text at once, with a mask.

Axes: N nodes of the tree, Q new rows of a pass, K key rows, S segments.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from sentilora.engine.segments import Attention, KeptRows, Pass, starts_of, to_device

CLUSTER = 32  # tree tokens that share a mask on a CPU: 64 take as long, 128 a tenth longer


@dataclass(frozen=True)
class TokenTree:
    """A tree of token sequences in preorder; node 0 is the end of the text above it.

    The nodes below node n are n + 1 … ends_N[n] − 1. paths_ND: the nodes above each node and the
    node itself, without node 0, then −1. sequences: the last node of each sequence.
    """

    tokens_N: np.ndarray
    parents_N: np.ndarray
    ends_N: np.ndarray
    depths_N: np.ndarray
    paths_ND: np.ndarray
    sequences: np.ndarray

    @classmethod
    def of(cls, sequences: Sequence[Sequence[int]]) -> "TokenTree":
        """The tree of these sequences."""
        # In order, a node's sequences are adjacent, and a sequence comes before longer ones.
        order = sorted(range(len(sequences)), key=lambda i: list(sequences[i]))
        tokens, parents, last = [-1], [0], np.zeros(len(sequences), dtype=np.int64)
        path, earlier = [0], list[int]()
        for number in order:
            sequence = list(sequences[number])
            common = 0
            while common < min(len(sequence), len(earlier)) and (
                sequence[common] == earlier[common]
            ):
                common += 1
            del path[common + 1 :]
            for token in sequence[common:]:
                tokens.append(token)
                parents.append(path[-1])
                path.append(len(tokens) - 1)
            last[number], earlier = path[-1], sequence
        num_nodes = len(tokens)
        ends, depths = np.arange(1, num_nodes + 1), np.zeros(num_nodes, dtype=np.int64)
        for node in range(1, num_nodes):
            depths[node] = depths[parents[node]] + 1
        for node in range(num_nodes - 1, 0, -1):
            ends[parents[node]] = max(ends[parents[node]], ends[node])
        paths = np.full((num_nodes, max(1, depths.max())), -1)
        for node in range(1, num_nodes):
            depth = depths[node]
            paths[node, : depth - 1] = paths[parents[node], : depth - 1]
            paths[node, depth - 1] = node
        return cls(np.array(tokens), np.array(parents), ends, depths, paths, last)

    @property
    def num_nodes(self) -> int:
        return len(self.tokens_N)

    def path(self, node: int) -> np.ndarray:
        """The nodes above a node, from the top, and the node itself."""
        return self.paths_ND[node, : self.depths_N[node]]


def paths_of(
    tree: TokenTree, texts_Q: np.ndarray, nodes_Q: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where each path starts and ends, along which every node is the parent of the next."""
    goes_on = (texts_Q[1:] == texts_Q[:-1]) & (tree.parents_N[nodes_Q[1:]] == nodes_Q[:-1])
    bounds = np.flatnonzero(np.concatenate([[True], ~goes_on, [True]]))
    return bounds[:-1], bounds[1:]


class TextTrees:
    """Which row of all passes so far holds which token, for some texts and the tree below each.

    num_shared: rows at the beginning that all texts see. lengths: further rows of each text, text
    after text. is_kept_N: nodes that a later pass sees if it has nodes below them; the others have
    at most one node below them, in the same pass. largest_pass: nodes of a pass, for which memory
    is allocated at once.
    """

    def __init__(
        self,
        tree: TokenTree,
        num_shared: int,
        lengths: Sequence[int],
        is_kept_N: np.ndarray | None = None,
        largest_pass: int = 0,
    ) -> None:
        self.tree = tree
        self.is_kept_N = np.ones(tree.num_nodes, bool) if is_kept_N is None else is_kept_N
        self.num_shared = num_shared
        self.lengths = np.asarray(lengths)
        self.starts = num_shared + np.asarray(starts_of(lengths)[:-1])
        self.num_rows = num_shared + int(self.lengths.sum())
        self._rows = np.full((len(lengths), tree.num_nodes), -1, dtype=np.int32)
        num_kept = len(lengths) * int(self.is_kept_N.sum())
        self.kept = KeptRows(self.num_rows + num_kept + largest_pass)

    def lay_out(
        self, texts_Q: np.ndarray, nodes_Q: np.ndarray, device: torch.device | str, by_path: bool
    ) -> Pass:
        """A pass over new nodes, whose logits are all needed, in the order of texts and nodes.

        The nodes above one are in an earlier pass or before it in this one. by_path: a segment for
        each path, which every device and every window supports; else a mask for each cluster.
        """
        num_new = len(nodes_Q)
        self._rows[texts_Q, nodes_Q] = self.num_rows + np.arange(num_new)
        above = self.num_shared + self.lengths[texts_Q]
        positions = above + self.tree.depths_N[nodes_Q] - 1
        split = self._split_paths if by_path else self._split_clusters
        attention = split(texts_Q, nodes_Q, device)
        kept = np.flatnonzero(self.is_kept_N[nodes_Q])
        self._rows[texts_Q, nodes_Q] = -1
        self._rows[texts_Q[kept], nodes_Q[kept]] = self.num_rows + np.arange(len(kept))
        self.num_rows += len(kept)
        return Pass(
            input_ids=to_device(self.tree.tokens_N[nodes_Q], device)[None],
            position_ids=to_device(positions, device)[None],
            attention=attention,
            answers=attention,
            answer_rows_A=torch.arange(num_new, device=device),
            num_tokens=num_new,
            dropout_seed=to_device([0], device),
            checkpoint_layers=0,
            kept=(self.kept, to_device(kept, device)),
        )

    def ends_of_pass(self, texts_Q: np.ndarray, nodes_Q: np.ndarray, most: int) -> list[int]:
        """Where these nodes are cut into passes of about `most` nodes: after each, one starts.

        A node that is not kept stays with the one below it.
        """
        joined = ~self.is_kept_N[nodes_Q[:-1]] & (texts_Q[1:] == texts_Q[:-1])
        joined &= self.tree.parents_N[nodes_Q[1:]] == nodes_Q[:-1]
        cuts = np.append(np.flatnonzero(~joined) + 1, len(nodes_Q))
        ends, at = [], 0
        while at < len(nodes_Q):
            first = np.searchsorted(cuts, at, side="right")
            last = np.searchsorted(cuts, at + most, side="right") - 1
            at = int(cuts[max(first, last)])
            ends.append(at)
        return ends

    def _split_paths(
        self, texts_Q: np.ndarray, nodes_Q: np.ndarray, device: torch.device | str
    ) -> Attention:
        """A segment for each path of nodes of which one is the parent of the next."""
        tree = self.tree
        starts, ends = paths_of(tree, texts_Q, nodes_Q)
        texts_S, last_S = texts_Q[starts], nodes_Q[ends - 1]
        lengths_S = self.lengths[texts_S]
        k_lengths_S = self.num_shared + lengths_S + tree.depths_N[last_S]
        k_starts = np.append(0, np.cumsum(k_lengths_S))
        segment_K = np.repeat(np.arange(len(last_S)), k_lengths_S)
        place_K = np.arange(k_starts[-1]) - k_starts[segment_K]
        in_text_K = place_K - self.num_shared
        in_tree_K = in_text_K - lengths_S[segment_K]
        rows_K = np.where(in_text_K < 0, place_K, self.starts[texts_S][segment_K] + in_text_K)
        below = np.flatnonzero(in_tree_K >= 0)
        segment = segment_K[below]
        nodes = tree.paths_ND[last_S[segment], in_tree_K[below]]
        rows_K[below] = self._rows[texts_S[segment], nodes]
        return _attention((ends - starts).tolist(), k_lengths_S.tolist(), rows_K, device)

    def _split_clusters(
        self, texts_Q: np.ndarray, nodes_Q: np.ndarray, device: torch.device | str
    ) -> Attention:
        """Up to `CLUSTER` nodes of a text at once, each seeing only the nodes above it."""
        tree = self.tree
        q_lengths, k_lengths, parts, masks = [], [], [], []
        bounds = np.append(np.flatnonzero(np.append(True, np.diff(texts_Q) != 0)), len(texts_Q))
        for first, end in pairwise(bounds.tolist()):
            text = texts_Q[first]
            start, length = self.starts[text], self.lengths[text]
            for at in range(first, end, CLUSTER):
                nodes = nodes_Q[at : min(at + CLUSTER, end)]
                keys = np.unique(tree.paths_ND[nodes])
                keys = keys[keys > 0]
                mask = np.ones((len(nodes), self.num_shared + length + len(keys)), dtype=bool)
                mask[:, self.num_shared + length :] = (keys <= nodes[:, None]) & (
                    nodes[:, None] < tree.ends_N[keys]
                )
                parts += [
                    np.arange(self.num_shared),
                    np.arange(start, start + length),
                    self._rows[text, keys],
                ]
                q_lengths.append(len(nodes))
                k_lengths.append(mask.shape[1])
                masks.append(to_device(mask, device))
        return _attention(q_lengths, k_lengths, np.concatenate(parts), device, tuple(masks))


def _attention(
    q_lengths: list[int],
    k_lengths: list[int],
    key_rows_K: np.ndarray,
    device: torch.device | str,
    masks: tuple[torch.Tensor, ...] = (),
) -> Attention:
    """Attention for scoring only: the lists that a backward pass needs are left out."""
    return Attention(
        q_lengths=q_lengths,
        k_lengths=k_lengths,
        max_q=max(q_lengths),
        max_k=max(k_lengths),
        q_starts_S=to_device(starts_of(q_lengths), device, torch.int32),
        k_starts_S=to_device(starts_of(k_lengths), device, torch.int32),
        key_rows_K=to_device(key_rows_K, device, torch.int64),
        use_starts_T=None,
        uses_K=None,
        masks=masks,
    )
