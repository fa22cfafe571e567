"""Labels as a tree of tokens: what they share is read once, and what cannot matter is left out.

    text ─┬─ card_ ─┬─ arrival </s>
          │         └─ lost </s>
          └─ top_up </s>

A label is no more probable than any of its beginnings. So the tree is read level by level, and the
branches that together hold at most a bound of a text's probability (`Runtime.max_left_out`) are not
read at all. A label in such a branch gets an equal share of the branch's probability, the most that
all its labels can have together. No probability is off by more than the bound, and all sum to one.
"""

from collections.abc import Callable, Sequence

import numpy as np

from sentilora.engine.trees import TokenTree

# Log-probabilities of the tokens below some nodes of some texts, as `LabelTree.below` orders them.
Read = Callable[[np.ndarray, np.ndarray], np.ndarray]


class LabelTree:
    """The tree of a classifier's labels.

    label_ids: each label's tokens, of which the last, EOS, ends every label and nothing else.
    """

    def __init__(self, label_ids: Sequence[Sequence[int]]) -> None:
        self.tokens = tree = TokenTree.of(label_ids)
        nodes = np.arange(tree.num_nodes)
        num_below = np.bincount(tree.parents_N[1:], minlength=tree.num_nodes)
        self.is_inner_N = num_below > 0
        self._num_below_N = num_below
        self._below = np.argsort(tree.parents_N[1:], kind="stable") + 1
        self._below_starts_N = np.cumsum(num_below) - num_below
        ends_here = np.bincount(tree.sequences, minlength=tree.num_nodes)
        total = np.append(0, np.cumsum(ends_here))
        self._num_labels_N = total[tree.ends_N] - total[nodes]
        # Several labels pass through these; what is below the others is read together with them.
        self.is_shared_N = self.is_inner_N & (self._num_labels_N > 1)
        self._levels = [
            np.flatnonzero(tree.depths_N == d) for d in range(1, tree.depths_N.max() + 1)
        ]
        # Where a node has one node below it, that one is read together with it.
        self._chain_ends_N = nodes.copy()
        for node in range(tree.num_nodes - 2, 0, -1):
            if num_below[node] == 1 and self.is_inner_N[node + 1]:
                self._chain_ends_N[node] = self._chain_ends_N[node + 1]

    @property
    def num_inner(self) -> int:
        """Tokens that a model reads to score every label; the end of the text is not counted."""
        return int(self.is_inner_N.sum()) - 1

    @property
    def num_shared(self) -> int:
        """Tokens that are kept for those below them; the end of the text is not counted."""
        return int(self.is_shared_N.sum()) - 1

    def below(self, texts_Q: np.ndarray, nodes_Q: np.ndarray) -> tuple[np.ndarray, ...]:
        """The nodes below each of these: number in the lists, text, node and token of each."""
        counts = self._num_below_N[nodes_Q]
        row = np.repeat(np.arange(len(nodes_Q)), counts)
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        nodes = self._below[self._below_starts_N[nodes_Q][row] + place]
        return row, texts_Q[row], nodes, self.tokens.tokens_N[nodes]

    def score(
        self, num_texts: int, read: Read, left_out: float, temperature: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities (texts, labels), and the share of each text's that is left out at most.

        read: is called with nodes whose parents it was called with before, or has before them in
        the call, first with node 0. left_out: the bound; 0 reads all. temperature: what the scores
        will be divided by; the bound holds after that.
        """
        search = _Search(self, num_texts, left_out, temperature)
        texts_Q, nodes_Q = np.arange(num_texts), np.zeros(num_texts, dtype=np.int64)
        while len(nodes_Q):
            search.add(texts_Q, nodes_Q, read(texts_Q, nodes_Q))
            texts_Q, nodes_Q = search.choose()
        return search.finish()


class _Search:
    """What is known of the tree below some texts (P).

    The node at the end of a text has probability 1. A node is known once its parent is read.
    """

    def __init__(
        self, labels: LabelTree, num_texts: int, left_out: float, temperature: float
    ) -> None:
        self.labels, self.left_out, self.temperature = labels, left_out, temperature
        shape = num_texts, labels.tokens.num_nodes
        self.reach_PN = np.full(shape, -np.inf)  # log-probability of a beginning
        self.reach_PN[:, 0] = 0.0
        self.is_known_PN = np.zeros(shape, dtype=bool)
        self.is_read_PN = np.zeros(shape, dtype=bool)
        # At a temperature above 1, a branch's labels weigh most when it is shared equally.
        self._factor_N = labels._num_labels_N ** max(0.0, 1 - 1 / temperature)

    def add(self, texts_Q: np.ndarray, nodes_Q: np.ndarray, steps: np.ndarray) -> None:
        """Take in what `read` returned for these nodes."""
        self.is_read_PN[texts_Q, nodes_Q] = True
        _, texts, nodes, _ = self.labels.below(texts_Q, nodes_Q)
        self.is_known_PN[texts, nodes] = True
        tree = self.labels.tokens
        depths = tree.depths_N[nodes]
        for depth in np.unique(depths):
            at = np.flatnonzero(depths == depth)
            text, node = texts[at], nodes[at]
            self.reach_PN[text, node] = self.reach_PN[text, tree.parents_N[node]] + steps[at]

    def choose(self) -> tuple[np.ndarray, np.ndarray]:
        """The nodes to read next, in order: their texts, and their numbers."""
        open_PN = self.is_known_PN & ~self.is_read_PN & self.labels.is_inner_N
        if not self.left_out:
            # One level is known, and everything below it is read.
            unread_PN = ~self.is_read_PN & self.labels.is_inner_N & open_PN.any()
            texts, nodes = np.nonzero(unread_PN)
            return texts, nodes
        ends_PN = self.is_known_PN & ~self.is_read_PN
        weight_PN = np.where(ends_PN, self.reach_PN, -np.inf) / self.temperature
        weight_PN = self._factor_N * np.exp(weight_PN - weight_PN.max(1, keepdims=True))
        total_P = weight_PN.sum(1, keepdims=True)
        of_open_PN = np.where(open_PN, weight_PN, 0.0)
        order = np.argsort(of_open_PN, axis=1)
        smallest = np.take_along_axis(of_open_PN, order, 1).cumsum(1)
        may_matter = np.empty_like(open_PN)
        np.put_along_axis(may_matter, order, ~(smallest <= self.left_out * total_P), 1)
        texts, heads = np.nonzero(open_PN & may_matter)
        lengths = self.labels._chain_ends_N[heads] - heads + 1
        place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return np.repeat(texts, lengths), np.repeat(heads, lengths) + place

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Log-probabilities of the labels, and the share of each text's in branches left out."""
        tree = self.labels.tokens
        is_left_out = self.is_known_PN & ~self.is_read_PN & self.labels.is_inner_N
        value_PN = self.reach_PN.copy()
        value_PN[is_left_out] -= np.log(
            np.broadcast_to(self.labels._num_labels_N, value_PN.shape)[is_left_out]
        )
        for nodes in self.labels._levels:
            unknown = ~self.is_known_PN[:, nodes]
            value_PN[:, nodes] = np.where(
                unknown, value_PN[:, tree.parents_N[nodes]], value_PN[:, nodes]
            )
        log_probs = value_PN[:, tree.sequences]
        top_P = log_probs.max(1, keepdims=True)
        total_P = np.exp(log_probs - top_P).sum(1)
        bound_P = np.where(is_left_out, np.exp(self.reach_PN - top_P), 0.0).sum(1)
        return log_probs, bound_P / total_P
