"""The prompt: template, cleaning, truncation, label tokens and the answer mask.

The one place where a text becomes tokens. Training, evaluation, prediction and serving all call
`Prompter`; nothing else in the package tokenizes.

    prompter = Prompter(tokenizer, PromptFormat())
    prompter.encode("A lovely film.").input_ids            # what the model reads
    prompter.encode_example("A lovely film.", "positive")  # the same with answer and mask
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
IGNORE_INDEX = -100  # PyTorch's default: cross-entropy skips these positions
ELLIPSIS = "\n…\n"  # where head+tail left something out
# Texts after which the label tokens are tried: a letter, a full stop, a newline, a wide character.
_PROBES = ("a", "Good.", "1\n2", "…é漢")


@dataclass(frozen=True)
class PromptFormat:
    """How a text is presented to the model. Stored with the adapter in `classifier.json`.

    template: holds `{text}` once and may hold `{instruction}`; the answer follows its end.
    instruction: may hold `{labels}`, which becomes "positive or negative".
    labels: the words the model answers with, two or more.
    max_length: number of tokens of prompt, label and EOS together.
    truncation: the part of a long text that stays: `head`, `tail` or `head+tail` (a quarter and
        three quarters). Only the text is ever cut.

    Raises `UsageError` for a format that cannot work.
    """

    template: str = TEMPLATE
    instruction: str = INSTRUCTION
    labels: tuple[str, ...] = LABELS
    max_length: int = 512
    truncation: str = "tail"

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        if (count := self.template.count("{text}")) != 1:
            raise UsageError(
                f"prompt.template must hold {{text}} exactly once, it holds it {count} times",
                setting="prompt.template",
                seen=self.template,
                remedy="put it where the review belongs",
            )
        self._check_labels()
        if self.truncation not in TRUNCATIONS:
            raise UsageError(
                f"prompt.truncation is {self.truncation!r}",
                setting="prompt.truncation",
                seen=self.truncation,
                remedy=f"choose one of {', '.join(TRUNCATIONS)}",
            )

    def _check_labels(self) -> None:
        problem, remedy = "", ""
        unusable = [label for label in self.labels if fault_of(label) or label != label.strip()]
        if len(self.labels) < 2:
            problem = f"prompt.labels needs at least 2 labels, got {list(self.labels)}"
        elif unusable:
            problem = f"prompt.labels holds {unusable[0]!r}"
            remedy = "a label is a non-empty string without spaces at its ends"
        elif len(set(self.labels)) != len(self.labels):
            problem = f"prompt.labels holds a label twice: {list(self.labels)}"
        if problem:
            raise UsageError(problem, setting="prompt.labels", seen=self.labels, remedy=remedy)

    @property
    def around_text(self) -> tuple[str, str]:
        """The prompt before the text and after it."""
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
    """A text ready for the model: the prompt as a string and as tokens, and what was cut.

    spans: (start, end) of each part of the text that the prompt shows, in `clean_text(text)`.
    """

    string: str
    input_ids: list[int]
    truncated: bool
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Example:
    """A prompt with its answer.

    input_ids: prompt, label and EOS. labels: the same with the prompt masked by `IGNORE_INDEX`.
    weight: the row's weight in the loss.
    """

    input_ids: list[int]
    labels: list[int]
    truncated: bool
    weight: float = 1.0


class Prompter:
    """Turns texts into prompts and examples with one tokenizer and one format.

    label_ids: per label, its tokens after the prompt, and EOS. max_prompt_tokens: what is left of
    `max_length` for the prompt.

    Raises `UsageError` if the tokenizer is slow or has no EOS token, if the labels cannot be told
    apart after this prompt, or if the template alone does not fit `max_length`.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", format: PromptFormat) -> None:
        if not tokenizer.is_fast:
            raise UsageError(
                f"the tokenizer {type(tokenizer).__name__} has no offsets",
                setting="base.name",
                remedy="use a base with a tokenizer.json (a fast tokenizer)",
            )
        if tokenizer.eos_token_id is None:
            raise UsageError(
                "the tokenizer has no EOS token",
                setting="base.name",
                remedy="use a base with one, because it ends every answer",
            )
        self.tokenizer = tokenizer
        self.format = format
        self._before, self._after = format.around_text
        # One BOS if, and only if, this tokenizer puts one before a text.
        first = tokenizer("a")["input_ids"][:1]
        self._bos = first if first == [tokenizer.bos_token_id] else []
        self.label_ids = self._find_label_ids()
        num_frame_tokens = len(self._tokens(self._before + self._after))
        self.max_prompt_tokens = format.max_length - max(map(len, self.label_ids))
        if num_frame_tokens + 1 > self.max_prompt_tokens:
            raise UsageError(
                f"prompt.max_length is {format.max_length}, but template, label and EOS alone "
                f"need {num_frame_tokens + format.max_length - self.max_prompt_tokens}",
                setting="prompt.max_length",
                seen=format.max_length,
                remedy="raise it",
            )

    def _tokens(self, string: str) -> list[int]:
        # split_special_tokens: "</s>" in a review is four characters of text, never EOS.
        ids = self.tokenizer(string, add_special_tokens=False, split_special_tokens=True)
        return [*self._bos, *ids["input_ids"]]

    def _answer_after(self, prompt: str, prompt_ids: list[int], label: str) -> list[int]:
        """The tokens of `label` after this prompt, and EOS."""
        ids = self._tokens(prompt + label)
        if ids[: len(prompt_ids)] != prompt_ids or len(ids) == len(prompt_ids):
            raise UsageError(
                f"this tokenizer merges the label {label!r} with the end of the prompt",
                setting="prompt.template",
                seen=self.format.template,
                remedy="end prompt.template with a line break",
            )
        return [*ids[len(prompt_ids) :], self.tokenizer.eos_token_id]

    def _find_label_ids(self) -> list[list[int]]:
        """Per label, its tokens after the prompt, and EOS.

        Raises `UsageError` if they depend on the text, or if two labels have the same tokens.
        """
        labels = self.format.labels
        label_ids: list[list[int]] = []
        for label in labels:
            candidates = []
            for probe in _PROBES:
                prompt = self._before + probe + self._after
                candidates.append(self._answer_after(prompt, self._tokens(prompt), label))
            ids = candidates[0]
            if any(other != ids for other in candidates):
                raise UsageError(
                    f"the tokens of label {label!r} depend on the text before it",
                    setting="prompt.template",
                    seen=self.format.template,
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

    def encode(self, text: str) -> Prompt:
        """The prompt for one text, cut so that the longest label and EOS still fit `max_length`.

        Raises `DataError` for a value that is no string, is empty or is not valid Unicode.
        """
        require_text(text)
        text = clean_text(text)
        string = self._before + text + self._after
        ids = self._tokens(string)
        if len(ids) <= self.max_prompt_tokens:
            return Prompt(string, ids, truncated=False, spans=((0, len(text)),))

        offsets = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )["offset_mapping"]
        num_tokens = len(offsets) - (len(ids) - self.max_prompt_tokens)
        while num_tokens > 0:
            spans = self._cut(len(text), offsets, num_tokens)
            string, ids = self._around([text[start:end] for start, end in spans])
            if len(ids) <= self.max_prompt_tokens:
                return Prompt(string, ids, truncated=True, spans=spans)
            # A text can need more tokens at its cut ends than it did uncut.
            num_tokens -= len(ids) - self.max_prompt_tokens
        # Not even one token of the text fits. The frame does, as `__init__` checked.
        return Prompt(*self._around([]), truncated=True)

    def encode_parts(self, parts: Sequence[str]) -> list[int]:
        """The prompt's tokens around parts of a clean text, for example without some of its words.

        With the parts at the spans of `encode` they are its `input_ids`. Nothing is cut, and
        `parts` may be empty.
        """
        return self._around(parts)[1]

    def _around(self, parts: Sequence[str]) -> tuple[str, list[int]]:
        """The prompt around parts of a text, as a string and as tokens."""
        text = ELLIPSIS.join(part.strip() for part in parts).strip()
        string = self._before + text + self._after
        return string, self._tokens(string)

    def _cut(
        self, length: int, offsets: list[tuple[int, int]], num_tokens: int
    ) -> tuple[tuple[int, int], ...]:
        """Spans of about `num_tokens` tokens of a text that has `length` characters."""
        if self.format.truncation == "head":
            return ((0, offsets[num_tokens - 1][1]),)
        if self.format.truncation == "tail":
            return ((offsets[-num_tokens][0], length),)
        head = num_tokens // 4
        return (0, offsets[head - 1][1] if head else 0), (offsets[head - num_tokens][0], length)

    def encode_example(self, text: str, label: str, weight: float = 1.0) -> Example:
        """A training example: the prompt, then label and EOS, which the loss covers.

        Raises `DataError` for a text that `encode` refuses or that changes the label's tokens.
        """
        prompt = self.encode(text)
        answer = self._answer_after(prompt.string, prompt.input_ids, label)
        if answer != self.label_ids[self.format.labels.index(label)]:
            raise DataError(
                f"the tokens of label {label!r} change after the text {text[:60]!r}",
                seen=text,
                remedy="end prompt.template with a line break",
            )
        return Example(
            input_ids=prompt.input_ids + answer,
            labels=[IGNORE_INDEX] * len(prompt.input_ids) + answer,
            truncated=prompt.truncated,
            weight=weight,
        )
