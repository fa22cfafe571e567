"""The template of a prompt: its placeholders, and its special tokens.

`{identifier}` is a placeholder, whatever stands around it; all other braces are literal. Special
tokens count where template or instruction write them. In what is filled in, a text, another column
or the label words, the same characters are text.
"""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


TEXT = "text"  # the placeholder, and a record's key, of the column of texts
CHAT = "chat"  # as a template: the user's message in the base's own chat format
# What chat templates write: <|im_start|>, <｜User｜>, [INST], <<SYS>>, </s>, <start_of_turn>.
_NAMES = "s|bos|eos|pad|unk|cls|sep|mask|start_of_turn|end_of_turn|begin_of_text|end_of_text"
_BRACKETED = "INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|CLS|SEP|MASK|PAD|UNK"
_LIKE_SPECIAL = re.compile(
    rf"<[|｜][^\s<>]{{1,60}}[|｜]>|</?(?:{_NAMES})>|\[/?(?:{_BRACKETED})\]|<</?SYS>>"
)
_PLACEHOLDER = re.compile(r"\{([^\W\d]\w*)\}")


class Part(NamedTuple):
    """A stretch of a prompt.

    content: verbatim what template or instruction say (`written`), the label words (`labels`), or
    the name of the column to fill in (`column`), which is "text" for the column of texts.
    """

    kind: Literal["written", "labels", "column"]
    content: str


def as_written(template: str, instruction: str) -> str:
    """The template itself, or the user's message of a chat."""
    if template != CHAT:
        return template
    return "{instruction}\n\n{text}" if instruction else "{text}"


def parts_of(template: str, instruction: str, label_words: str) -> list[Part]:
    """The parts of a prompt in order, with the instruction in its place. None of them is empty.

    Of a chat, whose format is the base's, they are those of the user's message.
    """
    parts: list[Part] = []
    for part in _split(as_written(template, instruction)):
        if part != Part("column", "instruction"):
            parts.append(part)
            continue
        labels = Part("labels", label_words)
        parts += [labels if p == Part("column", "labels") else p for p in _split(instruction)]
    return parts


def placeholders_in(string: str) -> list[str]:
    """The names that a string holds in braces, in their order."""
    return _PLACEHOLDER.findall(string)


def _split(string: str) -> Iterator[Part]:
    # With a group in the pattern, every second piece is the name of a placeholder.
    for number, piece in enumerate(_PLACEHOLDER.split(string)):
        if number % 2:
            yield Part("column", piece)
        elif piece:
            yield Part("written", piece)


def columns_of(parts: Sequence[Part]) -> tuple[str, ...]:
    """The columns to fill in besides the text, in their order."""
    names = [part.content for part in parts if part.kind == "column"]
    return tuple(name for name in dict.fromkeys(names) if name != TEXT)


def special_tokens_of(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """The numbers of a tokenizer's special tokens, by their names."""
    return {
        token.content: number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and token.content
    }


class TemplateTokenizer:
    """Tokenizes prompts whose template may hold special tokens.

    The tokenizer sees each prompt as a whole, so that a special token changes its neighbors (a
    prefix space, stripped blanks) as it does in a chat template that transformers renders. To tell
    the template's special tokens from the same characters in a text, `parts` writes marks for
    them, which only a copy of the tokenizer knows. A template without any is read by the tokenizer
    itself.

    parts: the template's parts, to join to a prompt, which one of `labels` may follow.
    special_tokens: those of the template, in order, with repeats. unknown_tokens: what looks like
    special tokens there, but is none of this tokenizer's; each once, in order.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", parts: Sequence[Part], labels: Sequence[str]
    ) -> None:
        self._tokenizer = tokenizer
        special = special_tokens_of(tokenizer)
        longest_first = sorted(special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        written = [part.content for part in parts if part.kind == "written"]
        self.special_tokens = [name for piece in written for name in self._special.findall(piece)]
        known = {token.content for token in tokenizer.added_tokens_decoder.values()}
        rest = "\n".join(self._special.sub("\n", piece) for piece in written)
        names = dict.fromkeys(_LIKE_SPECIAL.findall(rest))
        self.unknown_tokens = [name for name in names if name not in known]
        # Clean texts hold no carriage return, and template and labels fewer in a row.
        fixed = "".join([*(part.content for part in parts), *labels])
        fence = "\r" * (1 + fixed.count("\r"))
        self._marks = {name: f"{fence}{special[name]};" for name in self.special_tokens}
        self.parts = [
            Part("written", self._special.sub(self._mark, part.content))
            if part.kind == "written"
            else part
            for part in parts
        ]
        if self._marks:
            self._add_marks(special)

    def _mark(self, match: re.Match[str]) -> str:
        return self._marks[match[0]]

    def _add_marks(self, special: dict[str, int]) -> None:
        """Copy the tokenizer, with a mark for each special token of the template."""
        from tokenizers import AddedToken, Tokenizer

        self._copy = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
        self._copy.no_truncation()
        self._copy.no_padding()
        self._copy.encode_special_tokens = True  # only the marks are tokens
        self._id_of_mark: dict[int | None, int] = {}
        for name, mark in self._marks.items():
            token = self._tokenizer.added_tokens_decoder[special[name]]
            self._copy.add_tokens(
                [AddedToken(mark, lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)]
            )
            self._id_of_mark[self._copy.token_to_id(mark)] = special[name]

    def ids(self, prompt: str) -> list[int]:
        """The tokens of a prompt that is joined from `parts`, without a BOS token of its own."""
        if not self._marks:
            # split_special_tokens: "</s>" in a review is four characters of text, never EOS.
            return list(
                self._tokenizer(prompt, add_special_tokens=False, split_special_tokens=True)[
                    "input_ids"
                ]
            )
        ids = self._copy.encode(prompt, add_special_tokens=False).ids
        return [self._id_of_mark.get(token, token) for token in ids]

    def readable(self, prompt: str) -> str:
        """The prompt with the special tokens themselves in place of their marks."""
        for name, mark in self._marks.items():
            prompt = prompt.replace(mark, name)
        return prompt
