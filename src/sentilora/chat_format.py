"""A prompt in a base's own chat format, as a template of ordinary kind.

    template, answer = chat_prompt(tokenizer, "{instruction}\\n\\n{text}")

The tokenizer's chat template is rendered once, around a message whose placeholders stay. What comes
out is stored with the adapter, so no later tokenizer, date or default can change the prompt.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from sentilora.errors import UsageError, first_line
from sentilora.template import CHAT, placeholders_in, special_tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LABEL = "{label}"  # in an answer, where the label stands
# Some templates write today's date: prompts of different days would differ. It is the day that
# Llama 3.2's template falls back on.
DAY = date(2024, 7, 26)


def chat_prompt(tokenizer: "PreTrainedTokenizerBase", message: str) -> tuple[str, str]:
    """The template of a chat up to its answer, and how a label answers there.

    message: what the user says, with placeholders. The answer is `{label}`, perhaps after a blank,
    and before the special token that ends it if that is not EOS.

    Raises `UsageError` for a tokenizer without a chat template, and for one that cannot be used.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise _unusable(
            "the tokenizer of this base has no chat template", "choose an instruct base"
        )
    question = {"role": "user", "content": message}
    template = _rendered(tokenizer, [question], add_generation_prompt=True)
    before, found, after = template.partition(message)
    if not found or message in after:
        times = 0 if not found else 1 + after.count(message)
        raise _unusable(f"the base's chat template shows a message {times} times")
    if names := placeholders_in(before) + placeholders_in(after):
        raise _unusable(f"the base's chat template writes {{{names[0]}}}, which names a column")
    answered = [question, {"role": "assistant", "content": LABEL}]
    whole = _rendered(tokenizer, answered, add_generation_prompt=False)
    if not whole.startswith(template) or LABEL not in whole[len(template) :]:
        return template, LABEL  # of a base that always thinks before it answers, for example
    opening, _, closing = whole[len(template) :].partition(LABEL)
    stem = opening.rstrip(" ")  # a blank belongs to the first token of the label
    return template + stem, opening[len(stem) :] + LABEL + _end(tokenizer, closing)


def on_one_day(chat_template: str) -> str:
    """A chat template in which it is always the same day."""
    formats = re.findall(r"""\bstrftime_now\(\s*(['"])(.*?)\1""", chat_template)
    if not formats:
        return chat_template
    dates = json.dumps({format: DAY.strftime(format) for _, format in formats})
    # transformers hands no functions to a template; a macro of the same name goes before its own.
    macro = f"{{% macro strftime_now(format) %}}{{{{ {dates}[format] }}}}{{% endmacro %}}\n"
    return macro + chat_template


def _rendered(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, str]],
    add_generation_prompt: bool,
) -> str:
    """Messages in the chat format, on the same day always, and answered without thinking first."""
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                enable_thinking=False,
                chat_template=on_one_day(tokenizer.get_chat_template()),
            )
        )
    except Exception as error:  # whatever a template raises, or the operations in it
        raise _unusable(
            f"the base's chat template cannot be rendered: {first_line(error)}"
        ) from error


def _end(tokenizer: "PreTrainedTokenizerBase", closing: str) -> str:
    """The special token after an answer; empty if that is EOS, or if none follows."""
    names = [name for name in special_tokens_of(tokenizer) if closing.lstrip().startswith(name)]
    name = max(names, key=len, default="")
    return "" if name == tokenizer.eos_token else name


def _unusable(problem: str, remedy: str = "") -> UsageError:
    other = "write prompt.template by hand"
    return UsageError(
        problem,
        setting="prompt.template",
        seen=CHAT,
        remedy=f"{remedy}, or {other}" if remedy else other,
    )
