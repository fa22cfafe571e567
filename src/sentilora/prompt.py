"""The prompt: template, cleaning, truncation, label tokens and the answer mask.

The one place where a text becomes tokens. Training, evaluation, prediction and serving all call
`Prompter`; nothing else in the package tokenizes.

    prompter = Prompter(tokenizer, PromptFormat())
    prompter.encode("A lovely film.").input_ids            # what the model reads
    prompter.encode_example("A lovely film.", "positive")  # ... with its answer and mask
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from sentilora.data.text import clean_text, fault_of, require_text
from sentilora.errors import DataError, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TEMPLATE = "### Instruction:\n{instruction}\n\n### Review:\n{text}\n\n### Sentiment:\n"
INSTRUCTION = (
    "Analyze the sentiment of the following movie review and respond with only one word: {labels}."
)
LABELS = ("positive", "negative")
TRUNCATIONS = ("head", "tail", "head+tail")
IGNORE_INDEX = -100  # what cross-entropy skips, as everywhere in PyTorch
ELLIPSIS = "\n…\n"  # stands where head+tail left something out
# Texts the label tokens are tried behind: a letter, a full stop, a line break, a wide character.
_PROBES = ("a", "Good.", "1\n2", "…é漢")


@dataclass(frozen=True)
class PromptFormat:
    """How a text is put to the model. Travels with the adapter in `classifier.json`.

    template: must hold `{text}` once, and may hold `{instruction}`; the answer follows its end.
    instruction: may hold `{labels}`, which becomes "positive or negative".
    labels: the words the model answers with, two or more.
    max_length: tokens of prompt, label and EOS together.
    truncation: which part of a long text is kept: `head`, `tail` or `head+tail` (a quarter and
        three quarters). Only the text is ever cut.
    """

    template: str = TEMPLATE
    instruction: str = INSTRUCTION
    labels: tuple[str, ...] = LABELS
    max_length: int = 512
    truncation: str = "tail"

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.template.count("{text}") != 1:
            raise UsageError(
                f"prompt.template must hold {{text}} exactly once, it holds it "
                f"{self.template.count('{text}')} times; put it where the review belongs"
            )
        if len(self.labels) < 2:
            raise UsageError(f"prompt.labels needs at least 2 labels, got {list(self.labels)}")
        for label in self.labels:
            if fault_of(label) or label != label.strip():
                raise UsageError(
                    f"prompt.labels holds {label!r}; a label is a non-empty string without "
                    "spaces at its ends"
                )
        if len(set(self.labels)) != len(self.labels):
            raise UsageError(f"prompt.labels holds a label twice: {list(self.labels)}")
        if self.truncation not in TRUNCATIONS:
            raise UsageError(
                f"prompt.truncation is {self.truncation!r}; choose one of {', '.join(TRUNCATIONS)}"
            )

    @property
    def around_text(self) -> tuple[str, str]:
        """The prompt before the text and behind it."""
        *others, last = self.labels
        instruction = self.instruction.replace("{labels}", f"{', '.join(others)} or {last}")
        before, after = self.template.split("{text}")
        return before.replace("{instruction}", instruction), after.replace(
            "{instruction}", instruction
        )

    def to_dict(self) -> dict[str, Any]:
        """The format as plain JSON values."""
        return {**asdict(self), "labels": list(self.labels)}


@dataclass(frozen=True)
class Prompt:
    """A text ready for the model: the prompt's string, its tokens, and what was cut.

    kept: the parts of the text, as `clean_text` leaves it, that the prompt shows: (start, end).
    """

    string: str
    input_ids: list[int]
    truncated: bool
    kept: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Example:
    """A prompt with its answer: `input_ids` = prompt + label + EOS, `labels` masks the prompt."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool
    weight: float = field(default=1.0)

    @property
    def num_answer_tokens(self) -> int:
        """Tokens the loss covers: the label's and EOS."""
        return sum(label != IGNORE_INDEX for label in self.labels)


class Prompter:
    """Turns texts into prompts and examples with one tokenizer and one format.

    Raises `UsageError` when the labels cannot be told apart behind this prompt, or when the
    template alone does not fit `max_length`.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", format: PromptFormat) -> None:
        if not tokenizer.is_fast:
            raise UsageError(
                f"the tokenizer {type(tokenizer).__name__} has no offsets; use a base with a "
                "tokenizer.json (a fast tokenizer)"
            )
        if tokenizer.eos_token_id is None:
            raise UsageError("the tokenizer has no EOS token; an answer could not end")
        self.tokenizer = tokenizer
        self.format = format
        self._before, self._after = format.around_text
        # One BOS if, and only if, this tokenizer begins its texts with one.
        begins = tokenizer("a")["input_ids"][:1]
        self._bos = begins if begins == [tokenizer.bos_token_id] else []
        self.label_ids = self._find_label_ids()
        overhead = len(self._tokens(self._before + self._after))
        self.max_prompt_tokens = format.max_length - max(map(len, self.label_ids))
        if overhead + 1 > self.max_prompt_tokens:
            raise UsageError(
                f"prompt.max_length is {format.max_length}, but template, label and EOS alone "
                f"need {overhead + format.max_length - self.max_prompt_tokens}; raise it"
            )

    def _tokens(self, string: str) -> list[int]:
        # split_special_tokens: "</s>" inside a review is four characters of text, never EOS.
        ids = self.tokenizer(string, add_special_tokens=False, split_special_tokens=True)
        return [*self._bos, *ids["input_ids"]]

    def _answer_after(self, prompt: str, prompt_ids: list[int], label: str) -> list[int]:
        """Tokens of `label` as they follow the prompt's own, and EOS."""
        ids = self._tokens(prompt + label)
        if ids[: len(prompt_ids)] != prompt_ids or len(ids) == len(prompt_ids):
            raise UsageError(
                f"the label {label!r} melts into the prompt's last token with this tokenizer; "
                "end prompt.template with a line break"
            )
        return [*ids[len(prompt_ids) :], self.tokenizer.eos_token_id]

    def _find_label_ids(self) -> list[list[int]]:
        """Per label, its tokens behind the prompt and EOS: equal behind every text, or refused."""
        found: list[list[int]] = []
        for label in self.format.labels:
            seen = []
            for probe in _PROBES:
                prompt = self._before + probe + self._after
                seen.append(self._answer_after(prompt, self._tokens(prompt), label))
            if any(ids != seen[0] for ids in seen):
                raise UsageError(
                    f"the tokens of label {label!r} depend on the text before it; end "
                    "prompt.template with a line break behind {text}"
                )
            if seen[0] in found:
                other = self.format.labels[found.index(seen[0])]
                raise UsageError(
                    f"labels {other!r} and {label!r} have the same tokens {seen[0]} with this "
                    "tokenizer; choose other label words"
                )
            found.append(seen[0])
        return found

    def encode(self, text: str) -> Prompt:
        """The prompt for one text, cut so that the longest label and EOS still fit `max_length`.

        Raises `DataError` for an empty text, one that is not valid Unicode, and what is no text.
        """
        require_text(text)
        text = clean_text(text)
        string = self._before + text + self._after
        ids = self._tokens(string)
        if len(ids) <= self.max_prompt_tokens:
            return Prompt(string, ids, truncated=False, kept=((0, len(text)),))

        offsets = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )["offset_mapping"]
        # The rest of the prompt, and where cut ends may cost a token more than they did inside.
        room = len(offsets) - (len(ids) - self.max_prompt_tokens)
        while room > 0:
            kept = self._cut(len(text), offsets, room)
            string, ids = self._around([text[start:end] for start, end in kept])
            if len(ids) <= self.max_prompt_tokens:
                return Prompt(string, ids, truncated=True, kept=kept)
            room -= len(ids) - self.max_prompt_tokens
        # Not even one token of the text: keep the frame, which fits (checked at start).
        return Prompt(*self._around([]), truncated=True)

    def encode_parts(self, parts: Sequence[str]) -> list[int]:
        """Tokens of the prompt around parts of a clean text: of its `kept` parts what `encode` has.

        Nothing is cut, and nothing may be left: what a model says without some words, or any.
        """
        return self._around(parts)[1]

    def _around(self, parts: Sequence[str]) -> tuple[str, list[int]]:
        """The prompt around parts of a text, as string and tokens."""
        text = ELLIPSIS.join(part.strip() for part in parts).strip()
        string = self._before + text + self._after
        return string, self._tokens(string)

    def _cut(
        self, length: int, offsets: list[tuple[int, int]], room: int
    ) -> tuple[tuple[int, int], ...]:
        """The parts that the strategy keeps of a text of `length`, about `room` tokens."""
        if self.format.truncation == "head":
            return ((0, offsets[room - 1][1]),)
        if self.format.truncation == "tail":
            return ((offsets[-room][0], length),)
        head = room // 4
        return (0, offsets[head - 1][1] if head else 0), (offsets[head - room][0], length)

    def encode_example(self, text: str, label: str, weight: float = 1.0) -> Example:
        """A training example: the prompt's tokens, then label and EOS, which the loss covers."""
        prompt = self.encode(text)
        answer = self._answer_after(prompt.string, prompt.input_ids, label)
        if answer != self.label_ids[self.format.labels.index(label)]:
            raise DataError(f"the tokens of label {label!r} changed behind the text {text[:60]!r}")
        return Example(
            input_ids=prompt.input_ids + answer,
            labels=[IGNORE_INDEX] * len(prompt.input_ids) + answer,
            truncated=prompt.truncated,
            weight=weight,
        )
