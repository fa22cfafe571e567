"""The tokens of a label after a prompt, and what ends it: EOS, or a token of a chat's format.

answers = LabelTokens(tokenizer, template, " {label}<end_of_turn>", labels, tokens)
answers.of_every_label(prompts)
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from sentilora.chat_format import LABEL
from sentilora.errors import UsageError
from sentilora.template import special_tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class LabelTokens:
    """Finds the tokens of labels.

    template, answer, labels: see `PromptFormat`. tokens: function from a prompt's string, which a
    label may follow, to its tokens. Raises `UsageError` for an answer that ends otherwise than with
    a special token of this base, or has one before the label.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: str,
        answer: str,
        labels: Sequence[str],
        tokens: Callable[[str], list[int]],
    ) -> None:
        self._template = template
        self._labels = labels
        self._tokens = tokens
        self._opening, _, end = answer.partition(LABEL)
        special = special_tokens_of(tokenizer)
        if end and end not in special:
            raise UsageError(
                f"prompt.answer ends with {end!r}, which is not a special token of this base",
                setting="prompt.answer",
                seen=answer,
                remedy=f"end it with {LABEL}, which EOS follows, or with one of the base's own",
            )
        if written := [token for token in special if token in self._opening]:
            raise UsageError(
                f"prompt.answer has {written[0]!r} before the label, where it would be read as "
                "plain text",
                setting="prompt.answer",
                seen=answer,
                remedy="write it at the end of prompt.template",
            )
        self._end_id = special[end] if end else tokenizer.eos_token_id

    def after(self, prompt: str, prompt_ids: list[int], label: str) -> list[int]:
        """The tokens of `label` after this prompt, and the one that ends it."""
        ids = self._tokens(prompt + self._opening + label)
        if ids[: len(prompt_ids)] != prompt_ids or len(ids) == len(prompt_ids):
            raise UsageError(
                f"this tokenizer merges the label {label!r} with the end of the prompt",
                setting="prompt.template",
                seen=self._template,
                remedy="end prompt.template with a line break",
            )
        return [*ids[len(prompt_ids) :], self._end_id]

    def of_every_label(self, prompts: Iterable[str]) -> list[list[int]]:
        """Per label, its tokens after each of these prompts, and the one that ends it.

        Raises `UsageError` if they depend on the prompt, or if two labels have the same tokens.
        """
        labels = self._labels
        tokens = {prompt: self._tokens(prompt) for prompt in prompts}
        label_ids: list[list[int]] = []
        for label in labels:
            candidates = [self.after(*prompt, label) for prompt in tokens.items()]
            ids = candidates[0]
            if any(other != ids for other in candidates):
                raise UsageError(
                    f"the tokens of label {label!r} depend on the text before it",
                    setting="prompt.template",
                    seen=self._template,
                    remedy="end prompt.template with a line break after {text}",
                )
            if ids in label_ids:
                raise UsageError(
                    f"labels {labels[label_ids.index(ids)]!r} and {label!r} have the same tokens "
                    f"{ids} with this tokenizer",
                    setting="prompt.labels",
                    seen=labels,
                    remedy="choose other label words",
                )
            label_ids.append(ids)
        return label_ids
