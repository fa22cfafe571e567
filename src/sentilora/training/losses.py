"""The losses of a step's passes: of the labels' tokens, as in the recipe, or of shares of labels.

Each takes examples that share a pass and returns the sum over them, padded (`plain`) or with fast
layers (`pack`, then `packed`). The mean over a step's terms is the trainer's.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from sentilora.engine.segments import Pass, to_device
from sentilora.engine.swap import Engine
from sentilora.prompt import Example
from sentilora.scoring.batching import answer_loss, pack_answers, packed_answer_loss, plan_tokens
from sentilora.scoring.label_loss import MAX_LOGITS, PackedLabels, SoftExample, shares_loss
from sentilora.scoring.labels import LabelScorer

Packed = tuple[Any, ...]  # a pass, and the tensors that `packed` takes with it


class Loss(Protocol):
    """What the trainer asks of a loss.

    device: where passes are packed; "cpu" if graphs copy them. round_up: see `lay_out`.
    """

    def num_tokens(self, example: Any) -> int:
        """Tokens of an example in a packed pass."""

    def plan(self, step: Sequence[Any], max_tokens: int) -> list[list[int]]:
        """Numbers of the examples of each packed pass of a step."""

    def plain(self, model: torch.nn.Module, examples: Sequence[Any]) -> torch.Tensor:
        """The sum over examples in a padded pass."""

    def pack(
        self,
        engine: Engine,
        examples: Sequence[Any],
        device: torch.device | str,
        dropout_seed: int,
        round_up: bool,
    ) -> Packed:
        """The examples as a packed pass, and the tensors of their answers."""

    def packed(self, model: torch.nn.Module, packed: Pass, *answers: torch.Tensor) -> torch.Tensor:
        """The sum over the examples of a packed pass."""


def loss_for(example: Example | SoftExample, scorer: LabelScorer) -> Loss:
    """The loss of examples like this one."""
    if isinstance(example, SoftExample):
        return ShareLoss(scorer)
    return TokenLoss(scorer.pad_token_id)


class TokenLoss:
    """Cross-entropy of the label's tokens and EOS over the whole vocabulary: the recipe's loss."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def num_tokens(self, example: Example) -> int:
        """Tokens of prompt, label and EOS."""
        return len(example.input_ids)

    def plan(self, step: Sequence[Example], max_tokens: int) -> list[list[int]]:
        """Evenly filled passes of at most `max_tokens` tokens."""
        return plan_tokens([self.num_tokens(example) for example in step], max_tokens)

    def plain(self, model: torch.nn.Module, examples: Sequence[Example]) -> torch.Tensor:
        """See `answer_loss`."""
        return answer_loss(model, *_columns(examples), self.pad_token_id)

    def pack(
        self,
        engine: Engine,
        examples: Sequence[Example],
        device: torch.device | str,
        dropout_seed: int,
        round_up: bool,
    ) -> Packed:
        """See `pack_answers`."""
        answers = pack_answers(
            *_columns(examples),
            device,
            dropout_seed=dropout_seed,
            checkpoint_layers=engine.checkpoint_layers,
            round_up=round_up,
        )
        return answers.packed, answers.targets_A, answers.weights_A

    def packed(self, model: torch.nn.Module, packed: Pass, *answers: torch.Tensor) -> torch.Tensor:
        """See `packed_answer_loss`."""
        return packed_answer_loss(model, packed, *answers)


def _columns(
    examples: Sequence[Example],
) -> tuple[list[list[int]], list[list[int]], list[float]]:
    """Token ids, labels and weights of examples."""
    return (
        [example.input_ids for example in examples],
        [example.labels for example in examples],
        [example.weight for example in examples],
    )


class ShareLoss:
    """Cross-entropy between the shares of the labels and their probabilities: see `label_loss`."""

    def __init__(self, scorer: LabelScorer) -> None:
        model: Any = scorer.model
        self.scorer = scorer
        self.labels = PackedLabels(scorer.label_ids, next(model.parameters()).device)
        vocabulary = int(model.config.get_text_config().vocab_size)
        self._max_rows = max(1, MAX_LOGITS // (self.labels.num_rows * vocabulary))
        self._is_tried = False

    def num_tokens(self, example: SoftExample) -> int:
        """Tokens of the prompt and of all labels after it."""
        return len(example.input_ids) + self.labels.num_tokens

    def plan(self, step: Sequence[SoftExample], max_tokens: int) -> list[list[int]]:
        """Evenly filled passes of at most `max_tokens` tokens and `MAX_LOGITS` logits."""
        passes = plan_tokens([self.num_tokens(example) for example in step], max_tokens)
        most = self._max_rows
        return [rows[at : at + most] for rows in passes for at in range(0, len(rows), most)]

    def plain(self, model: torch.nn.Module, examples: Sequence[SoftExample]) -> torch.Tensor:
        """The loss by the scorer's own way of scoring without fast layers."""
        prompts = [example.input_ids for example in examples]
        if not self._is_tried:
            # The scorer tries once how this model scores, which dropout would spoil.
            self.scorer.log_probs(prompts[:1])
            model.train()
            self._is_tried = True
        scores_NC = self.scorer.score_plain(prompts)
        shares_NC, weights_N = self._targets(examples, scores_NC.device)
        return shares_loss(scores_NC.double(), shares_NC, weights_N)

    def pack(
        self,
        engine: Engine,
        examples: Sequence[SoftExample],
        device: torch.device | str,
        dropout_seed: int,
        round_up: bool,
    ) -> Packed:
        """See `PackedLabels.lay_out`."""
        packed = self.labels.lay_out(
            [example.input_ids for example in examples],
            device,
            dropout_seed,
            engine.checkpoint_layers,
            round_up,
        )
        return packed, *self._targets(examples, device)

    def packed(self, model: torch.nn.Module, packed: Pass, *answers: torch.Tensor) -> torch.Tensor:
        """The loss of a pass that `pack` packed."""
        shares_NC, weights_N = answers
        return shares_loss(self.labels.scores(model, packed, len(shares_NC)), shares_NC, weights_N)

    def _targets(
        self, examples: Sequence[SoftExample], device: torch.device | str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shares = [example.shares for example in examples]
        weights = [example.weight for example in examples]
        return (
            to_device(shares, device, torch.float64),
            to_device(weights, device, torch.float64),
        )
