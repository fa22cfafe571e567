"""The log-probability of each label after a prompt. A model's answer is read nowhere else.

A label is scored as a whole: all its tokens and EOS. All labels of a prompt are scored in one
forward pass, as branches after the prompt that do not attend to each other:

    prompt ─┬─ positive </s>
            └─ negative </s>

Labels with more than `FEW_TOKENS` tokens together are read as a tree, level by level: `label_tree`.

Each model is checked once on a short prompt. If its branches give other numbers than separate rows
do, it is scored with one row per label instead, and a warning says so.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sentilora.engine.memory import TreeRoom
from sentilora.engine.segments import Segment, lay_out, share_prefix, to_device, to_host
from sentilora.engine.swap import Engine, packed_logits
from sentilora.errors import SentiloraError
from sentilora.models.runtime import Runtime
from sentilora.scoring.answers import TEXTS_AT_ONCE
from sentilora.scoring.batching import PassSizes, cache_parameter, plan_passes, takes
from sentilora.scoring.branches import score_branches, score_rows
from sentilora.scoring.label_tree import LabelTree, Read
from sentilora.scoring.readers import CachedReader, PackedReader, RowReader
from sentilora.wording import counted

logger = logging.getLogger(__name__)
MANY_PROMPTS = 200  # from here on, the base's decoded weights are kept; in 8 bits always
FEW_TOKENS = 64  # of all labels without EOS: up to this many, one pass costs less than levels
TREE_PASS = 64  # label tokens that weigh like a prompt when it is decided whether to keep weights


@dataclass(frozen=True)
class LabelScores:
    """Scores of labels after prompts.

    log_probs: float64 (prompts, labels) on the CPU. left_out: float64 (prompts,), the most of a
    prompt's probability that labels can have which were not scored themselves (`label_tree`).
    """

    log_probs: torch.Tensor
    left_out: torch.Tensor


_ScoreBatch = Callable[[list[list[int]]], tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class _Plan:
    """How prompts are scored: the function for a batch, the row numbers of each batch.

    shrinks: whether smaller batches are tried when memory runs out.
    """

    score: _ScoreBatch
    batches: list[list[int]]
    shrinks: bool = False


class UndefinedScores(SentiloraError):
    """The model's scores are NaN."""


class LabelScorer:
    """Scores a classifier's labels with a model.

    model: a causal LM, with or without an adapter. Scoring leaves it in eval mode. label_ids: each
    label's tokens and EOS, from `Prompter.label_ids`. dtype: float16 and bfloat16 compute under
    autocast, as in training.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        label_ids: Sequence[Sequence[int]],
        pad_token_id: int,
        dtype: torch.dtype = torch.float32,
        runtime: Runtime | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.model = model
        self.label_ids = [list(ids) for ids in label_ids]
        self.pad_token_id = pad_token_id
        self.dtype = dtype
        self.runtime = runtime or Runtime()
        self.engine = engine
        many = sum(len(ids) - 1 for ids in self.label_ids) > FEW_TOKENS
        self.tree = LabelTree(self.label_ids) if many else None
        self._branches_work: bool | None = None
        self._fixed: PassSizes | None = None
        self._is_settled = False

    def fix_passes(self, sizes: PassSizes | None = None) -> PassSizes | None:
        """Let free memory no longer decide what shares a pass. Returns what decides instead.

        sizes: as an earlier process planned; None plans now. Returns None without the fast engine,
        whose absence leaves `batch_size` to decide.
        """
        engine = self.engine
        if engine is None or not engine.is_usable():
            return None
        if sizes is None:
            engine.refresh()
            engine.keep_weights(self.runtime.max_memory_gib)
            room = None if self.tree is None else self._tree_room(engine)
            sizes = PassSizes(engine.max_score_tokens, engine.keep_layers, room)
        engine.score_in(sizes.max_score_tokens, sizes.keep_layers)
        self._fixed = sizes
        return sizes

    def restore_passes(self) -> bool:
        """Whether passes became smaller because memory ran out. From here on they are as fixed."""
        if self._fixed is None or self.engine is None:
            return False
        shrank = self.engine.max_score_tokens != self._fixed.max_score_tokens
        if shrank:
            self.engine.limit_scoring(self._fixed.max_score_tokens)
        return shrank

    def settle(self) -> None:
        """Prepare for many small calls, as in a server: decode weights once, keep them.

        From here on, calls do not look at the model again. Call this method after each change of
        its adapter or of its mode.
        """
        self.model.eval()
        self._is_settled = False
        if self.engine is not None and self.engine.is_usable():
            self.engine.refresh()
            self.engine.keep_weights(self.runtime.max_memory_gib)
            self._is_settled = True

    def log_probs(
        self, prompts: Sequence[list[int]], progress: Callable[[int], object] | None = None
    ) -> torch.Tensor:
        """Log-probabilities (prompts, labels) of `score`, with nothing left out."""
        return self.score(prompts, progress, max_left_out=0.0).log_probs

    def score(
        self,
        prompts: Sequence[list[int]],
        progress: Callable[[int], object] | None = None,
        *,
        max_left_out: float | None = None,
        temperature: float = 1.0,
    ) -> LabelScores:
        """Log-probabilities of the labels after each prompt.

        progress: function called after each batch with its number of prompts. max_left_out: instead
        of the runtime's. temperature: what the scores will be divided by. Raises `SentiloraError`
        when memory runs out, `UndefinedScores` when a score is NaN.
        """
        bound = self.runtime.max_left_out if max_left_out is None else max_left_out
        if self.model.training:  # walking all modules takes an eighth of a short text's time
            self.model.eval()
        scores = LabelScores(
            torch.empty(len(prompts), len(self.label_ids), dtype=torch.float64),
            torch.zeros(len(prompts), dtype=torch.float64),
        )
        with torch.inference_mode(), self._autocast():
            # The same pieces as in `Classifier.score`, so that the same rows share a batch.
            for start in range(0, len(prompts), TEXTS_AT_ONCE):
                pending = list(range(start, min(start + TEXTS_AT_ONCE, len(prompts))))
                while pending:
                    plan = self._plan([prompts[i] for i in pending], bound, temperature)
                    pending = self._score_some(plan, prompts, pending, scores, progress)
        if scores.log_probs.isnan().any():
            raise UndefinedScores(
                "the model's scores are NaN: training diverged, the adapter or the base is "
                "damaged, or float16 overflows",
                setting="base.compute_dtype",
                seen=str(self.dtype).removeprefix("torch."),
                remedy="try base.compute_dtype=bfloat16 or float32 (predict and evaluate: "
                "`compute_dtype`)",
            )
        return scores

    def _autocast(self) -> AbstractContextManager:
        device = next(self.model.parameters()).device.type
        half = self.dtype in (torch.float16, torch.bfloat16)
        return torch.autocast(device, dtype=self.dtype) if half else nullcontext()

    def _score_some(
        self,
        plan: _Plan,
        prompts: Sequence[list[int]],
        pending: list[int],
        scores: LabelScores,
        progress: Callable[[int], object] | None,
    ) -> list[int]:
        """The prompts of `pending` that memory did not suffice for; fills in the others' scores."""
        running: list[tuple[list[int], Callable[[], torch.Tensor]]] = []

        def finish(num_left: int) -> None:
            while len(running) > num_left:
                rows, fetch = running.pop(0)
                scores.log_probs[rows] = fetch()
                if progress:
                    progress(len(rows))

        for number, numbers in enumerate(plan.batches):
            rows = [pending[i] for i in numbers]
            try:
                log_probs, left_out = plan.score([prompts[i] for i in rows])
                running.append((rows, to_host(log_probs.double())))
                if left_out is not None:
                    scores.left_out[rows] = left_out
                finish(1)  # fetch a batch's scores once the device has the next batch
            except torch.OutOfMemoryError as error:
                finish(0)
                if self.engine is not None and plan.shrinks and len(rows) > 1:
                    self.engine.limit_scoring(self._half_of([prompts[i] for i in rows]))
                    logger.warning("out of GPU memory: scoring continues in smaller passes")
                    return [
                        pending[i] for row_numbers in plan.batches[number:] for i in row_numbers
                    ]
                raise SentiloraError(
                    f"out of GPU memory while scoring {counted(len(rows), 'text')} at once",
                    setting="batch_size",
                    seen=len(rows),
                    remedy="lower training.per_device_eval_batch_size (or `batch_size`), or "
                    "prompt.max_length",
                ) from error
        finish(0)
        return []

    def _half_of(self, prompts: Sequence[list[int]]) -> int:
        """Tokens of a scoring pass with which only half of these prompts share a batch."""
        num_tokens = sum(map(len, prompts))
        if self.tree is None or self.engine is None:
            return num_tokens // 2
        num_tokens += len(prompts) * self.tree.num_shared
        room = self._tree_room(self.engine)
        return self.engine.max_score_tokens * num_tokens // (2 * room.text_tokens)

    def _tree_room(self, engine: Engine) -> TreeRoom:
        fixed = self._fixed
        if fixed and fixed.tree_room and fixed.max_score_tokens == engine.max_score_tokens:
            return fixed.tree_room
        model: Any = self.model
        vocabulary = int(model.get_output_embeddings().weight.shape[0])
        return engine.tree_room(vocabulary, self.runtime.max_memory_gib)

    def _plan(self, prompts: Sequence[list[int]], max_left_out: float, temperature: float) -> _Plan:
        """How the prompts are scored, and in which batches."""
        lengths = [len(prompt) for prompt in prompts]
        fast = self.engine is not None and (self._is_settled or self.engine.is_usable())
        if self.engine is None or not fast:
            score = self._plain_score(prompts, max_left_out, temperature)
            return _Plan(score, plan_passes(lengths, self.runtime.batch_size))
        if not self._is_settled:
            self.engine.refresh()
        weight = 1 + (self.tree.num_inner / TREE_PASS if self.tree is not None else 0)
        if weight * len(prompts) >= MANY_PROMPTS or self.engine.uses_8_bits:
            self.engine.keep_weights(self.runtime.max_memory_gib)
        if self.tree is not None:
            room = self._tree_room(self.engine)
            reader = partial(PackedReader, self.model, self.engine, self.tree, room=room)
            score = partial(_by_level, self.tree, reader, max_left_out, temperature)
            num_label_tokens, max_tokens = self.tree.num_shared, room.text_tokens
        else:
            score = partial(_with_nothing_left_out, self._packed)
            num_label_tokens = sum(len(ids) - 1 for ids in self.label_ids)
            max_tokens = self.engine.max_score_tokens
        batches: list[list[int]] = []
        left = 0
        for row in plan_passes(lengths, len(lengths))[0]:
            size = lengths[row] + num_label_tokens
            if size > left:
                batches.append([])
                left = max_tokens
            batches[-1].append(row)
            left -= size
        return _Plan(score, batches, shrinks=True)

    def _plain_score(
        self, prompts: Sequence[list[int]], max_left_out: float, temperature: float
    ) -> _ScoreBatch:
        """The function that scores a batch without fast layers."""
        if self.tree is None:
            return partial(_with_nothing_left_out, self._choose(prompts))
        # With a cache, if the model supports it.
        supported = self._supports_branches(prompts)
        reader = partial(self._cached_reader if supported else self._row_reader, self.tree)
        return partial(_by_level, self.tree, reader, max_left_out, temperature)

    def _packed(self, prompts: list[list[int]]) -> torch.Tensor:
        """Scores of one packed pass: prompts end to end, each followed by all labels.

        The prompts' common prefix is computed once.
        """
        shared = share_prefix(prompts, [1] * len(prompts))
        segments = shared[: len(shared) - len(prompts)]
        num_rows, at = 0, []
        for prompt in shared[len(segments) :]:
            parent = len(segments)
            segments.append(prompt)
            first, num_rows = num_rows, num_rows + 1
            for ids in self.label_ids:
                at.append([first, *range(num_rows, num_rows + len(ids) - 1)])
                if len(ids) > 1:
                    segments.append(Segment(ids[:-1], parent, len(ids) - 1))
                num_rows += len(ids) - 1
        device = next(self.model.parameters()).device
        log_probs = packed_logits(self.model, lay_out(segments, device)).float().log_softmax(-1)
        answers = [ids for _ in prompts for ids in self.label_ids]
        flat = to_device([row for rows in at for row in rows], device)
        tokens = to_device([token for ids in answers for token in ids], device)
        answer = to_device([i for i, ids in enumerate(answers) for _ in ids], device)
        scores = log_probs.new_zeros(len(answers)).index_add_(0, answer, log_probs[flat, tokens])
        return scores.view(len(prompts), -1)

    def _cached_reader(self, tree: LabelTree, prompts: list[list[int]]) -> CachedReader:
        return CachedReader(self.model, tree, prompts, self.pad_token_id, self.dtype)

    def _row_reader(self, tree: LabelTree, prompts: list[list[int]]) -> RowReader:
        return RowReader(self.model, tree, prompts, self.pad_token_id, self.runtime.batch_size)

    def score_plain(self, prompts: list[list[int]]) -> torch.Tensor:
        """Scores of prompts without fast layers, with whatever mode and gradients the model has."""
        return self._choose(prompts)(prompts)

    def _choose(self, prompts: Sequence[list[int]]) -> Callable[[list[list[int]]], torch.Tensor]:
        """`_branches` if the model supports them and its window is wide enough, else `_rows`."""
        return self._branches if self._supports_branches(prompts) else self._rows

    def _supports_branches(self, prompts: Sequence[list[int]]) -> bool:
        """Whether branches give the numbers of rows, and all of them fit the model's window."""
        if not prompts:
            return False
        if self._branches_work is None:
            self._branches_work = self._try_branches(prompts[0])
        window = getattr(self.model.config, "sliding_window", None)
        # In a cache no column is lost to the window; without one, every label's columns count.
        each = map(len, self.label_ids)
        longest = max(map(len, prompts)) + (sum(each) if self.tree is None else max(each))
        return self._branches_work and longest <= (window or longest)

    def _try_branches(self, prompt: list[int]) -> bool:
        """Whether branches and rows give the same scores, tried on two beginnings of a prompt."""
        sample = [prompt[:16], prompt[:11]]
        reason = "its forward has no position_ids, logits_to_keep or cache"
        has_cache = self.tree is None or cache_parameter(self.model) is not None
        if has_cache and takes(self.model, "position_ids", "logits_to_keep"):
            try:
                difference = self._difference_of_branches(sample)
            except (RuntimeError, ValueError, IndexError, AttributeError, TypeError) as error:
                reason = f"it rejects a mask of four dimensions ({type(error).__name__})"
            else:
                # Half precision adds up log-probabilities near −10, which have steps of 2⁻⁵.
                if difference <= (1e-3 if self.dtype == torch.float32 else 0.25):
                    return True
                reason = f"branches and rows differ by {difference:.3g} on a short prompt"
        logger.warning("this model scores labels with one row each: %s", reason)
        return False

    def _difference_of_branches(self, sample: list[list[int]]) -> float:
        """The largest difference between scores by branches and by rows."""
        if self.tree is None:
            return (self._branches(sample) - self._rows(sample)).abs().max().item()
        few = LabelTree(sorted(self.label_ids)[:4])  # neighbors, so that they begin alike
        by_cache, _ = few.score(len(sample), self._cached_reader(few, sample), 0.0)
        by_rows, _ = few.score(len(sample), self._row_reader(few, sample), 0.0)
        return float(abs(by_cache - by_rows).max())

    def _rows(self, prompts: list[list[int]]) -> torch.Tensor:
        """Scores of prompts, with one row per prompt and label."""
        return score_rows(self.model, self.label_ids, prompts, self.pad_token_id)

    def _branches(self, prompts: list[list[int]]) -> torch.Tensor:
        """Scores of prompts, with one row per prompt: padding, the prompt, then all labels."""
        return score_branches(self.model, self.label_ids, prompts, self.pad_token_id, self.dtype)


def _with_nothing_left_out(
    score: Callable[[list[list[int]]], torch.Tensor], prompts: list[list[int]]
) -> tuple[torch.Tensor, None]:
    return score(prompts), None


def _by_level(
    tree: LabelTree,
    reader: Callable[[list[list[int]]], Read],
    max_left_out: float,
    temperature: float,
    prompts: list[list[int]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of prompts, and what was left out, by the tree of labels."""
    log_probs, left_out = tree.score(len(prompts), reader(prompts), max_left_out, temperature)
    return torch.from_numpy(log_probs), torch.from_numpy(left_out)
