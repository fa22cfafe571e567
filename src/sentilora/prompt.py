"""The prompt: template, cleaning, truncation, label tokens and the answer mask.

The one place where a text becomes tokens. Training, evaluation, prediction and serving all call
`Prompter`; nothing else in the package tokenizes.

    prompter = Prompter(tokenizer, PromptFormat())
    prompter.encode("A lovely film.").input_ids            # what the model reads
    prompter.encode_example("A lovely film.", "positive")  # the same with answer and mask

A template that names more columns takes records: `{"text": "A lovely film.", "title": "Marie"}`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sentilora.chat_format import LABEL, chat_prompt
from sentilora.data.label_order import values_of
from sentilora.data.text import Item, as_field, clean_text, fault_of, require_text, text_of
from sentilora.errors import DataError, UsageError
from sentilora.label_tokens import LabelTokens
from sentilora.template import CHAT, TEXT, Part, TemplateTokenizer, as_written, columns_of, parts_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TEMPLATE = "### Instruction:\n{instruction}\n\n### Review:\n{text}\n\n### Sentiment:\n"
INSTRUCTION = (
    "Analyze the sentiment of the following movie review and respond with only one word: {labels}."
)
LABELS = ("positive", "negative")
TRUNCATIONS = ("head", "tail", "head+tail")
IGNORE_INDEX = -100  # PyTorch's default: cross-entropy skips these positions
BYTE_ORDER_MARK = "\ufeff"  # some editors begin a file with it
ELLIPSIS = "\n…\n"  # where head+tail left something out
# Texts after which the label tokens are tried: a letter, a full stop, a newline, a wide character.
_PROBES = ("a", "Good.", "1\n2", "…é漢")


@dataclass(frozen=True)
class PromptFormat:
    """How a text is presented to the model. Stored with the adapter in `classifier.json`.

    template: holds `{text}` once and may hold `{instruction}`, and other columns of the data as
        `{name}`; the answer follows its end. "chat" stands for the base's own chat format, which
        `Prompter` puts in its place.
    instruction: may hold `{labels}`, which becomes "positive or negative", and other columns.
    labels: the words the model answers with, two or more.
    max_length: number of tokens of prompt, label and EOS together.
    truncation: the part of a long text that stays: `head`, `tail` or `head+tail` (a quarter and
        three quarters). Only the text is ever cut.
    ordered: whether `labels` are in an order that means something, such as one to five stars.
    answer: how a label follows the prompt, as `{label}`. EOS ends it, or the special token that is
        written after it.

    A byte-order mark at the start of a string is left out. Raises `UsageError` for a format that
    cannot work.
    """

    template: str = TEMPLATE
    instruction: str = INSTRUCTION
    labels: tuple[str, ...] = LABELS
    max_length: int = 512
    truncation: str = "tail"
    ordered: bool = False
    answer: str = LABEL

    def __post_init__(self) -> None:
        for name in ("template", "instruction"):
            object.__setattr__(self, name, getattr(self, name).removeprefix(BYTE_ORDER_MARK))
        labels = [x.removeprefix(BYTE_ORDER_MARK) if isinstance(x, str) else x for x in self.labels]
        object.__setattr__(self, "labels", tuple(labels))
        self._check_labels()
        if self.ordered:
            values_of(self.labels)
        self._check_placeholders()
        if self.truncation not in TRUNCATIONS:
            raise UsageError(
                f"prompt.truncation is {self.truncation!r}",
                setting="prompt.truncation",
                seen=self.truncation,
                remedy=f"choose one of {', '.join(TRUNCATIONS)}",
            )

    def _check_placeholders(self) -> None:
        if self.answer.count(LABEL) != 1:
            raise UsageError(
                f"prompt.answer is {self.answer!r}",
                setting="prompt.answer",
                seen=self.answer,
                remedy=f"let it hold {LABEL} exactly once",
            )
        count = as_written(self.template, self.instruction).count("{text}")
        if count != 1:
            raise UsageError(
                f"prompt.template must hold {{text}} exactly once, it holds it {count} times",
                setting="prompt.template",
                seen=self.template,
                remedy="put it where the review belongs",
            )
        for name in (TEXT, "instruction"):
            if self.parts.count(Part("column", name)) != (name == TEXT):
                raise UsageError(
                    f"prompt.instruction holds {{{name}}}",
                    setting="prompt.instruction",
                    seen=self.instruction,
                    remedy="put it into prompt.template",
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

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The prompt in parts, in their order."""
        return tuple(parts_of(self.template, self.instruction, self.words))

    @property
    def words(self) -> str:
        """The labels as the instruction lists them: "positive or negative"."""
        *others, last = self.labels
        return f"{', '.join(others)} or {last}"

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns that the prompt shows besides the text, in their order."""
        return columns_of(self.parts)

    def read(self, value: object, name: str = "the text") -> Item:
        """What the prompt shows of a value: a text, or a record of the text and `columns`.

        name: what messages call the value. Raises `DataError` for one that cannot be classified,
        `UsageError` for a text where a record is needed.
        """
        if not self.columns:
            require_text(value, name)
            return str(value)
        keys = ", ".join((TEXT, *self.columns))
        if not isinstance(value, Mapping):
            raise UsageError(
                f"{name} is {value!r:.60}, but the prompt also shows {', '.join(self.columns)}",
                setting="texts",
                seen=value,
                remedy=f"pass records with {keys}, or a table with these columns",
            )
        for key in (TEXT, *self.columns):
            if key not in value:
                raise DataError(
                    f"{name} has no {key!r}; it has {', '.join(map(str, value)) or 'nothing'}",
                    setting="texts",
                    seen=value,
                    remedy=f"the prompt shows {keys}",
                )
        require_text(value[TEXT], name)
        fields = {key: as_field(value[key], f"{key} of {name}") for key in self.columns}
        return {TEXT: value[TEXT], **fields}

    def to_dict(self) -> dict[str, Any]:
        """The format as plain JSON values, without what is usual and absent from older files."""
        usual = {"answer": LABEL, "ordered": False}
        content = {**asdict(self), "labels": list(self.labels)}
        return {name: value for name, value in content.items() if usual.get(name, ...) != value}


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

    format: the one to use, with the template itself in place of "chat". label_ids: per label, its
    tokens after the prompt, and what ends it, which is EOS unless the format names another token.
    bos: the BOS token that starts a prompt, or nothing. max_prompt_tokens: what is left of
    `max_length` for the prompt. special_tokens: those that template and instruction write, in
    order. unknown_tokens: what looks like special tokens there, but is none of the base's.

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
        if format.template == CHAT:
            template, answer = chat_prompt(tokenizer, as_written(CHAT, format.instruction))
            answer = answer if format.answer == LABEL else format.answer
            format = replace(format, template=template, answer=answer)
        self.format = format
        self._template = TemplateTokenizer(tokenizer, format.parts, format.labels)
        self.special_tokens = self._template.special_tokens
        self.unknown_tokens = self._template.unknown_tokens
        self._place = self._template.parts.index(Part("column", TEXT))
        # One BOS if, and only if, this tokenizer puts one before a text or the template writes it.
        first = tokenizer("a")["input_ids"][:1]
        is_written = self._template.ids("a".join(self._frame(self._probe("a"))))[:1] == first
        self.bos = first if first == [tokenizer.bos_token_id] and not is_written else []
        self._answers = LabelTokens(
            tokenizer, format.template, format.answer, format.labels, self._tokens
        )
        self.label_ids = self._find_label_ids()
        num_frame_tokens = len(self._tokens("".join(self._frame(self._probe("")))))
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
        return [*self.bos, *self._template.ids(string)]

    @property
    def warnings(self) -> list[str]:
        """What is probably wrong with the prompt on this base."""
        if not self.unknown_tokens:
            return []
        is_one = len(self.unknown_tokens) == 1
        return [
            f"{', '.join(self.unknown_tokens)} in the prompt "
            f"{'is not a special token' if is_one else 'are not special tokens'} of this base, "
            f"which reads {'it' if is_one else 'them'} as plain text; write the base's own, or "
            "leave as it is if plain text is meant"
        ]

    def _probe(self, value: str) -> Item:
        """An item whose text and other columns are all `value`."""
        columns = self.format.columns
        return dict.fromkeys((TEXT, *columns), value) if columns else value

    def _frame(self, item: Item) -> tuple[str, str]:
        """The prompt before an item's text and after it, for `_tokens`."""
        fields = {} if isinstance(item, str) else item
        strings = [
            clean_text(fields[content]) if kind == "column" and content != TEXT else content
            for kind, content in self._template.parts
        ]
        return "".join(strings[: self._place]), "".join(strings[self._place + 1 :])

    def _find_label_ids(self) -> list[list[int]]:
        """Per label, its tokens after the prompt, and EOS, whatever the text is."""
        return self._answers.of_every_label(
            text.join(self._frame(self._probe(field)))
            for text in _PROBES
            for field in (text, "")  # another column may be empty
        )

    def encode(self, item: Item) -> Prompt:
        """The prompt for one item, cut so that the longest label and EOS still fit `max_length`.

        Raises what `PromptFormat.read` raises, and `DataError` when the other columns alone do not
        fit.
        """
        return self._encode(self.format.read(item))[0]

    def _encode(self, item: Item) -> tuple[Prompt, str]:
        """The prompt for an item that was read, also as a string for `_tokens`."""
        text = clean_text(text_of(item))
        string = text.join(self._frame(item))
        ids = self._tokens(string)
        if len(ids) <= self.max_prompt_tokens:
            return self._prompt(string, ids, ((0, len(text)),), truncated=False)

        offsets = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )["offset_mapping"]
        num_tokens = len(offsets) - (len(ids) - self.max_prompt_tokens)
        while num_tokens > 0:
            spans = self._cut(len(text), offsets, num_tokens)
            string, ids = self._around([text[start:end] for start, end in spans], item)
            if len(ids) <= self.max_prompt_tokens:
                return self._prompt(string, ids, spans, truncated=True)
            # A text can need more tokens at its cut ends than it did uncut.
            num_tokens -= len(ids) - self.max_prompt_tokens
        # Not even one token of the text fits. The frame does, as `__init__` checked, but perhaps
        # not the other columns.
        string, ids = self._around([], item)
        if self.format.columns and len(ids) >= self.max_prompt_tokens:
            raise DataError(
                f"{', '.join(self.format.columns)} of the text {text[:60]!r} leave no room for it: "
                f"with the template they need {len(ids):,} tokens, and prompt.max_length allows "
                f"{self.max_prompt_tokens:,}",
                setting="prompt.max_length",
                seen=self.format.max_length,
                remedy="raise it or shorten them, because only the text is cut",
            )
        return self._prompt(string, ids, (), truncated=True)

    def _prompt(
        self, string: str, ids: list[int], spans: tuple[tuple[int, int], ...], truncated: bool
    ) -> tuple[Prompt, str]:
        return Prompt(self._template.readable(string), ids, truncated, spans), string

    def encode_parts(self, parts: Sequence[str], item: Item = "") -> list[int]:
        """The prompt's tokens around parts of a clean text, for example without some of its words.

        item: the row, as `PromptFormat.read` returns it, whose other columns the prompt shows. With
        the parts at the spans of `encode` they are its `input_ids`. Nothing is cut, and `parts` may
        be empty.
        """
        return self._around(parts, item)[1]

    def _around(self, parts: Sequence[str], item: Item) -> tuple[str, list[int]]:
        """The prompt around parts of a text, as a string for `_tokens` and as tokens."""
        text = ELLIPSIS.join(part.strip() for part in parts).strip()
        string = text.join(self._frame(item))
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

    def encode_example(self, item: Item, label: str, weight: float = 1.0) -> Example:
        """A training example: the prompt, then label and EOS, which the loss covers.

        Raises `DataError` for an item that `encode` refuses or that changes the label's tokens.
        """
        item = self.format.read(item)
        prompt, string = self._encode(item)
        answer = self._answers.after(string, prompt.input_ids, label)
        if answer != self.label_ids[self.format.labels.index(label)]:
            raise DataError(
                f"the tokens of label {label!r} change after the text {text_of(item)[:60]!r}",
                seen=text_of(item),
                remedy="end prompt.template with a line break",
            )
        return Example(
            input_ids=prompt.input_ids + answer,
            labels=[IGNORE_INDEX] * len(prompt.input_ids) + answer,
            truncated=prompt.truncated,
            weight=weight,
        )
