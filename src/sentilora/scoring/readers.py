"""Readers of a label tree: log-probabilities of the tokens below some of its nodes, after prompts.

    read = PackedReader(model, engine, labels, prompts, room)
    log_probs, left_out = labels.score(len(prompts), read, 1e-6)

A reader is called level by level (`LabelTree.score`). The fast engine and most models keep the keys
and values of what they have read. A model that cannot reads every path again, in a row of its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from sentilora.engine.memory import TreeRoom
from sentilora.engine.segments import lay_out, share_prefix, to_device
from sentilora.engine.swap import Engine, packed_logits
from sentilora.engine.trees import TextTrees, paths_of
from sentilora.scoring.batching import cache_parameter, last_logits
from sentilora.scoring.label_tree import LabelTree

TREE_COLUMNS = 128  # tree tokens of a prompt in a padded pass


class PackedReader:
    """Reads with the fast engine: prompts end to end, then the trees below them."""

    def __init__(
        self,
        model: torch.nn.Module,
        engine: Engine,
        labels: LabelTree,
        prompts: Sequence[list[int]],
        room: TreeRoom,
    ) -> None:
        self.model, self.labels, self.prompts = model, labels, prompts
        self.device = engine.device
        self.room = room
        self.segments = share_prefix(prompts, [1] * len(prompts))
        own = self.segments[-len(prompts) :]
        num_shared = len(self.segments[0].tokens) if len(own) < len(self.segments) else 0
        lengths = [len(segment.tokens) for segment in own]
        self.longest = max(map(len, prompts)) + int(labels.tokens.depths_N.max())
        largest = room.tree_tokens(num_shared + sum(lengths), self.longest)
        largest = min(largest, len(prompts) * labels.num_inner)
        self.trees = TextTrees(labels.tokens, num_shared, lengths, labels.is_shared_N, largest)
        self.by_path = engine.reads_paths(self.longest)

    def __call__(self, texts_Q: np.ndarray, nodes_Q: np.ndarray) -> np.ndarray:
        """See `label_tree.Read`."""
        if not nodes_Q[0]:
            first = lay_out(self.segments, self.device)
            every_row = torch.arange(first.num_tokens, device=self.device)
            first = replace(first, kept=(self.trees.kept, every_row))
            return self._read(first, texts_Q, nodes_Q)
        most = self.room.tree_tokens(self.trees.num_rows, self.longest)
        parts, at = [], 0
        for end in self.trees.ends_of_pass(texts_Q, nodes_Q, most):
            texts, nodes = texts_Q[at:end], nodes_Q[at:end]
            packed = self.trees.lay_out(texts, nodes, self.device, self.by_path)
            parts.append(self._read(packed, texts, nodes))
            at = end
        return np.concatenate(parts)

    def _read(self, packed: Any, texts_Q: np.ndarray, nodes_Q: np.ndarray) -> np.ndarray:
        row, _, _, tokens = self.labels.below(texts_Q, nodes_Q)
        return _picked(packed_logits(self.model, packed), row, tokens)


class CachedReader:
    """Reads with any model whose cache takes a mask of four dimensions: a row for each prompt."""

    def __init__(
        self,
        model: torch.nn.Module,
        labels: LabelTree,
        prompts: Sequence[list[int]],
        pad_token_id: int,
        dtype: torch.dtype,
    ) -> None:
        self.model, self.labels, self.dtype = model, labels, dtype
        self.device = next(model.parameters()).device
        self.pad_token_id = pad_token_id
        self.prompts = prompts
        self.lengths = np.array([len(prompt) for prompt in prompts])
        self.width = int(self.lengths.max())
        # For each prompt, the node in each column after it; -1 for an empty column.
        self.nodes_PC = np.empty((len(prompts), 0), dtype=np.int64)
        # Without a window of its own: the mask says what is seen.
        self.cache = {cache_parameter(model) or "": DynamicCache()}

    def __call__(self, texts_Q: np.ndarray, nodes_Q: np.ndarray) -> np.ndarray:
        """See `label_tree.Read`."""
        row, _, _, tokens = self.labels.below(texts_Q, nodes_Q)
        if not nodes_Q[0]:
            return _picked(self._read_prompts(), row, tokens)
        # Number of each node among its text's.
        starts = np.flatnonzero(np.append(True, np.diff(texts_Q) != 0))
        place_Q = np.arange(len(texts_Q))
        place_Q -= np.repeat(starts, np.diff(np.append(starts, len(texts_Q))))
        steps = np.empty(len(row))
        for first in range(0, int(place_Q.max()) + 1, TREE_COLUMNS):
            is_now = (place_Q >= first) & (place_Q < first + TREE_COLUMNS)
            texts, columns = texts_Q[is_now], place_Q[is_now] - first
            nodes_PC = np.full((len(self.prompts), columns.max() + 1), -1)
            nodes_PC[texts, columns] = nodes_Q[is_now]
            logits = self._read_nodes(nodes_PC)
            row_now, _, _, tokens_now = self.labels.below(texts, nodes_Q[is_now])
            picked = logits[to_device(texts, self.device), to_device(columns, self.device)]
            steps[is_now[row]] = _picked(picked, row_now, tokens_now)
        return steps

    def _read_prompts(self) -> torch.Tensor:
        """Logits (prompts, vocabulary) at the end of each prompt."""
        ids = [[self.pad_token_id] * (self.width - len(p)) + list(p) for p in self.prompts]
        column = np.arange(self.width)
        in_prompt = column >= (self.width - self.lengths)[:, None]
        visible = (column <= column[:, None]) & in_prompt[:, None]
        positions = column - (self.width - self.lengths)[:, None]
        return self._forward(np.array(ids), visible, positions, 1)[:, -1]

    def _read_nodes(self, nodes_PC: np.ndarray) -> torch.Tensor:
        """Logits (prompts, columns, vocabulary) at new nodes."""
        tree = self.labels.tokens
        ids = np.where(nodes_PC > 0, tree.tokens_N[nodes_PC], self.pad_token_id)
        positions = self.lengths[:, None] + tree.depths_N[nodes_PC] - 1
        num_earlier = self.nodes_PC.shape[1]
        self.nodes_PC = np.concatenate([self.nodes_PC, nodes_PC], 1)
        keys, queries = self.nodes_PC[:, None], nodes_PC[..., None]
        in_tree = (keys > 0) & (keys <= queries) & (queries < tree.ends_N[keys])
        in_prompt = np.arange(self.width) >= (self.width - self.lengths)[:, None]
        in_prompt = np.broadcast_to(in_prompt[:, None], (*nodes_PC.shape, self.width))
        # Every column sees itself, so that those without a token are no NaN.
        own = np.eye(nodes_PC.shape[1], self.nodes_PC.shape[1], num_earlier, dtype=bool)
        visible = np.concatenate([in_prompt, in_tree | own], -1)
        return self._forward(ids, visible, positions, ids.shape[1])

    def _forward(
        self, ids: np.ndarray, visible: np.ndarray, positions: np.ndarray, num_logits: int
    ) -> torch.Tensor:
        num_new, num_keys = visible.shape[1:]
        seen = visible | np.eye(num_new, num_keys, num_keys - num_new, dtype=bool)
        mask = torch.zeros(seen.shape, dtype=self.dtype).masked_fill_(
            torch.from_numpy(~seen), torch.finfo(self.dtype).min
        )
        return self.model(
            input_ids=to_device(ids, self.device),
            attention_mask=mask[:, None].to(self.device),
            position_ids=to_device(positions.clip(min=0), self.device),
            use_cache=True,
            logits_to_keep=num_logits,
            **self.cache,
        ).logits


class RowReader:
    """Reads with any causal LM: every path in a row of its own, with its prompt."""

    def __init__(
        self,
        model: torch.nn.Module,
        labels: LabelTree,
        prompts: Sequence[list[int]],
        pad_token_id: int,
        batch_size: int,
    ) -> None:
        self.model, self.labels, self.prompts = model, labels, prompts
        self.pad_token_id, self.batch_size = pad_token_id, batch_size

    def __call__(self, texts_Q: np.ndarray, nodes_Q: np.ndarray) -> np.ndarray:
        """See `label_tree.Read`."""
        tree = self.labels.tokens
        row, _, _, tokens = self.labels.below(texts_Q, nodes_Q)
        starts, ends = paths_of(tree, texts_Q, nodes_Q)
        lengths = ends - starts
        steps = np.empty(len(row))
        for length in np.unique(lengths):
            chosen = np.flatnonzero(lengths == length)
            for at in range(0, len(chosen), self.batch_size):
                some = chosen[at : at + self.batch_size]
                lasts = zip(texts_Q[ends[some] - 1], nodes_Q[ends[some] - 1], strict=True)
                rows = [
                    [*self.prompts[text], *tree.tokens_N[tree.path(node)].tolist()]
                    for text, node in lasts
                ]
                logits = last_logits(self.model, rows, int(length), self.pad_token_id)
                is_now = np.isin(row, starts[some][:, None] + np.arange(length))
                number = np.full(len(nodes_Q), -1)
                number[starts[some][:, None] + np.arange(length)] = np.arange(
                    len(some) * length
                ).reshape(-1, length)
                steps[is_now] = _picked(logits.flatten(0, 1), number[row[is_now]], tokens[is_now])
        return steps


def _picked(logits: torch.Tensor, row: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Log-probabilities of tokens, each under one row of logits (rows, vocabulary)."""
    logits = logits.float()
    rows = to_device(row, logits.device)
    picked = logits[rows, to_device(tokens, logits.device)] - logits.logsumexp(-1)[rows]
    return picked.double().cpu().numpy()
