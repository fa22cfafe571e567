"""`prompt.json` and the chat template: what another program needs to build the trained prompt.

A prompt is `parts` in order, a column's value in place of its name. The answer follows it: one of
`label_ids`. The probabilities of the labels are the softmax of the sums of their tokens' log-probs.
"""

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic.dataclasses import dataclass

from sentilora.data.text import Item
from sentilora.folders.classifier_file import Calibration
from sentilora.folders.records import STRICT, Record
from sentilora.prompt import Prompter
from sentilora.template import TEXT, Part

EXAMPLE = "The parcel came two days late, and nobody answers the phone."


@dataclass(frozen=True, config=STRICT)
class ExamplePrompt:
    """A text or record, its prompt as a string, and the tokens of that prompt with BOS."""

    item: str | dict[str, str]
    prompt: str
    input_ids: list[int]


class PromptFile(Record):
    """The trained prompt, for programs that do not have sentilora.

    parts: pairs of a kind and a content, to be joined: `written` and `labels` stand as they are,
    `column` names what is filled in, "text" for the text. max_prompt_tokens, truncation: a longer
    prompt loses tokens of its text, never of its parts. adds_bos: whether BOS comes before the
    prompt. has_special_tokens: whether what is written holds some of the tokenizer's; what is
    filled in never does. label_ids: per label, its tokens and EOS. calibration: divides the labels'
    log-probabilities, and answers "abstain" below a probability.
    """

    FILE: ClassVar[str] = "prompt.json"
    REMEDY: ClassVar[str] = "export the adapter again"

    format_version: int = 1
    parts: list[tuple[Literal["written", "labels", "column"], str]]
    labels: list[str]
    label_ids: list[list[int]]
    adds_bos: bool
    has_special_tokens: bool
    max_prompt_tokens: int
    truncation: str
    calibration: Calibration
    example: ExamplePrompt

    @classmethod
    def of(cls, prompter: Prompter, calibration: Calibration) -> Self:
        """The record of a trained prompt."""
        format = prompter.format
        columns = format.columns
        item: Item = {TEXT: EXAMPLE, **dict.fromkeys(columns, "…")} if columns else EXAMPLE
        prompt = prompter.encode(item)
        return cls(
            parts=[(part.kind, part.content) for part in format.parts],
            labels=list(format.labels),
            label_ids=prompter.label_ids,
            adds_bos=bool(prompter.bos),
            has_special_tokens=bool(prompter.special_tokens),
            max_prompt_tokens=prompter.max_prompt_tokens,
            truncation=format.truncation,
            calibration=calibration,
            example=ExamplePrompt(
                item if isinstance(item, str) else dict(item), prompt.string, prompt.input_ids
            ),
        )


def chat_template(parts: Sequence[Part], adds_bos: bool) -> str | None:
    """A Jinja template that makes the prompt of the last message; None if it shows other columns.

    The message is the text, stripped as in training; a text that is too long is not cut.
    """
    if any(part.kind == "column" and part.content != TEXT for part in parts):
        return None
    text = r"{{ messages[-1]['content'] | replace('\r\n', '\n') | trim }}"
    pieces: list[Any] = [
        text
        if part.kind == "column"
        else "{{ " + json.dumps(part.content, ensure_ascii=False) + " }}"
        for part in parts
    ]
    return "".join(["{{ bos_token }}" if adds_bos else "", *pieces])
