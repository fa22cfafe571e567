"""The log-probability of each label after a prompt. A model's answer is read nowhere else.

A label is scored as a whole: all its tokens and EOS. All labels of a prompt are scored in one
forward pass, as branches after the prompt that do not attend to each other:

    prompt ─┬─ positive </s>
            └─ negative </s>

Each model is checked once on a short prompt. If its branches give other numbers than separate rows
do, it is scored with one row per label instead, and a warning says so.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from sentilora.engine.segments import Segment, lay_out, share_prefix, to_device, to_host
from sentilora.engine.swap import Engine, packed_logits
from sentilora.errors import SentiloraError
from sentilora.models.runtime import Runtime
from sentilora.scoring.answers import TEXTS_AT_ONCE
from sentilora.scoring.batching import last_logits, plan_passes, takes
from sentilora.wording import counted

logger = logging.getLogger(__name__)
MANY_PROMPTS = 200  # from here on, the base's decoded weights are kept; in 8 bits always


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
        self._branches_work: bool | None = None

    def log_probs(
        self, prompts: Sequence[list[int]], progress: Callable[[int], object] | None = None
    ) -> torch.Tensor:
        """Log-probabilities of the labels after each prompt: float64 (prompts, labels) on the CPU.

        progress: function called after each batch with its number of prompts. Raises
        `SentiloraError` when memory runs out, `UndefinedScores` when a score is NaN.
        """
        self.model.eval()
        scores = torch.empty(len(prompts), len(self.label_ids), dtype=torch.float64)
        with torch.inference_mode(), self._autocast():
            # The same pieces as in `Classifier.score`, so that the same rows share a batch.
            for start in range(0, len(prompts), TEXTS_AT_ONCE):
                pending = list(range(start, min(start + TEXTS_AT_ONCE, len(prompts))))
                while pending:
                    pending = self._score_some(prompts, pending, scores, progress)
        if scores.isnan().any():
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
        prompts: Sequence[list[int]],
        pending: list[int],
        scores: torch.Tensor,
        progress: Callable[[int], object] | None,
    ) -> list[int]:
        """The prompts of `pending` that memory did not suffice for; fills in the others' scores."""
        score, passes = self._plan([prompts[i] for i in pending])
        running: list[tuple[list[int], Callable[[], torch.Tensor]]] = []

        def finish(num_left: int) -> None:
            while len(running) > num_left:
                rows, fetch = running.pop(0)
                scores[rows] = fetch()
                if progress:
                    progress(len(rows))

        for number, numbers in enumerate(passes):
            rows = [pending[i] for i in numbers]
            try:
                running.append((rows, to_host(score([prompts[i] for i in rows]).double())))
                finish(1)  # fetch a batch's scores once the device has the next batch
            except torch.OutOfMemoryError as error:
                finish(0)
                if self.engine is not None and score == self._packed and len(rows) > 1:
                    self.engine.limit_scoring(sum(len(prompts[i]) for i in rows) // 2)
                    logger.warning("out of GPU memory: scoring continues in smaller passes")
                    return [pending[i] for row_numbers in passes[number:] for i in row_numbers]
                raise SentiloraError(
                    f"out of GPU memory while scoring {counted(len(rows), 'text')} at once",
                    setting="batch_size",
                    seen=len(rows),
                    remedy="lower training.per_device_eval_batch_size (or `batch_size`), or "
                    "prompt.max_length",
                ) from error
        finish(0)
        return []

    def _plan(
        self, prompts: Sequence[list[int]]
    ) -> tuple[Callable[[list[list[int]]], torch.Tensor], list[list[int]]]:
        """The function that scores a batch, and the row numbers of each batch."""
        lengths = [len(prompt) for prompt in prompts]
        if self.engine is None or not self.engine.is_usable():
            return self._choose(prompts), plan_passes(lengths, self.runtime.batch_size)
        self.engine.refresh()
        if len(prompts) >= MANY_PROMPTS or self.engine.uses_8_bits:
            self.engine.keep_weights(self.runtime.max_memory_gib)
        order = plan_passes(lengths, len(lengths) or 1)[0] if lengths else []
        num_label_tokens = sum(len(ids) - 1 for ids in self.label_ids)
        passes: list[list[int]] = []
        room = 0
        for row in order:
            size = lengths[row] + num_label_tokens
            if size > room:
                passes.append([])
                room = self.engine.max_score_tokens
            passes[-1].append(row)
            room -= size
        return self._packed, passes

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

    def _choose(self, prompts: Sequence[list[int]]) -> Callable[[list[list[int]]], torch.Tensor]:
        """`_branches` if the model supports them and its window is wide enough, else `_rows`."""
        if not prompts:
            return self._rows
        if self._branches_work is None:
            self._branches_work = self._try_branches(prompts[0])
        window = getattr(self.model.config, "sliding_window", None)
        longest = max(map(len, prompts)) + sum(map(len, self.label_ids))
        return (
            self._branches if self._branches_work and longest <= (window or longest) else self._rows
        )

    def _try_branches(self, prompt: list[int]) -> bool:
        """Whether branches and rows give the same scores, tried on two beginnings of a prompt."""
        sample = [prompt[:16], prompt[:11]]
        reason = "its forward has no position_ids or logits_to_keep"
        if takes(self.model, "position_ids", "logits_to_keep"):
            try:
                difference = (self._branches(sample) - self._rows(sample)).abs().max().item()
            except (RuntimeError, ValueError, IndexError) as error:
                reason = f"it rejects a mask of four dimensions ({type(error).__name__})"
            else:
                # Half precision adds up log-probabilities near −10, which have steps of 2⁻⁵.
                if difference <= (1e-3 if self.dtype == torch.float32 else 0.25):
                    return True
                reason = f"branches and rows differ by {difference:.3g} on a short prompt"
        logger.warning("this model scores labels with one row each: %s", reason)
        return False

    def _rows(self, prompts: list[list[int]]) -> torch.Tensor:
        """Scores of prompts, with one row per prompt and label."""
        columns = []
        for ids in self.label_ids:
            rows = [prompt + ids[:-1] for prompt in prompts]
            logits = last_logits(self.model, rows, len(ids), self.pad_token_id)
            columns.append(_sum_log_probs(logits, torch.tensor(ids)))
        return torch.stack(columns, -1)

    def _branches(self, prompts: list[list[int]]) -> torch.Tensor:
        """Scores of prompts, with one row per prompt: padding, the prompt, then all labels."""
        device = next(self.model.parameters()).device
        branches = [ids[:-1] for ids in self.label_ids]
        width, extra = max(map(len, prompts)), sum(map(len, branches))
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        tail = [token for branch in branches for token in branch]
        input_ids = torch.tensor(
            [[self.pad_token_id] * (width - len(p)) + p + tail for p in prompts]
        )
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
        additive = torch.zeros(mask.shape, dtype=self.dtype).masked_fill_(
            ~mask, torch.finfo(self.dtype).min
        )
        logits = self.model(
            input_ids=input_ids.to(device),
            attention_mask=additive[:, None].to(device),
            position_ids=positions.clamp(min=0).to(device),
            use_cache=False,
            logits_to_keep=extra + 1,
        ).logits
        scores, start = [], 1
        for ids in self.label_ids:
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
