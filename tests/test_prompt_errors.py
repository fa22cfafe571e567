"""prompt.py: texts, formats, tokenizers and labels that cannot work are refused."""

import re
from types import MappingProxyType

import pytest
from toy_tokenizers import make_tokenizer

from sentilora.errors import DataError, UsageError
from sentilora.prompt import Prompter, PromptFormat


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("", "is empty"),
        (" \n\t\u3000", "is empty"),
        ("<br /> <br>", "is empty"),
        ("good \ud83d film", r"not valid Unicode \('\\ud83d' at character 5\)"),
        (None, "is None, not a text"),
        (3, "is 3, not a text"),
    ],
)
def test_what_cannot_be_classified_is_refused(toy_tokenizer, text, pattern):
    with pytest.raises(DataError, match=pattern):
        Prompter(toy_tokenizer, PromptFormat()).encode(text)


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"template": "no place"}, r"\{text\} exactly once, it holds it 0 times"),
        ({"template": "{text}{text}\n"}, "holds it 2 times"),
        ({"labels": ()}, r"at least 2 labels, got \[\]"),
        ({"labels": ("good",)}, r"at least 2 labels, got \['good'\]"),
        ({"labels": ("good", "")}, "holds ''"),
        ({"labels": ("good", " bad")}, "holds ' bad'"),
        ({"labels": ("good", 0)}, "holds 0"),
        ({"labels": ("good", "\ud800")}, r"holds '\\ud800'"),
        ({"labels": ("good", "good")}, "twice"),
        ({"truncation": "middle"}, r"'middle'; choose one of head, tail, head\+tail"),
    ],
)
def test_a_format_that_cannot_work_is_refused(changes, pattern):
    with pytest.raises(UsageError, match=pattern):
        PromptFormat(**changes)


def test_a_limit_below_the_frame_is_refused_with_what_it_needs(toy_tokenizer):
    with pytest.raises(
        UsageError, match=r"prompt\.max_length is 20, .* need \d+; raise it"
    ) as error:
        Prompter(toy_tokenizer, PromptFormat(max_length=20))
    needed = int(re.search(r"need (\d+)", str(error.value))[1])
    with pytest.raises(UsageError, match="raise it"):
        Prompter(toy_tokenizer, PromptFormat(max_length=needed))
    Prompter(toy_tokenizer, PromptFormat(max_length=needed + 1)).encode("Good.")


def test_a_label_that_merges_with_the_prompt_is_refused():
    tokenizer = make_tokenizer(["Answer:yes Answer:no :yes :no"] * 9, 400)
    tokenizer.backend_tokenizer.pre_tokenizer = None  # nothing keeps ":" and "yes" apart
    from tokenizers import models

    vocabulary = {chr(code): code for code in range(3, 128)} | {"<pad>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {":y": 200}
    tokenizer.backend_tokenizer.model = models.BPE(vocabulary, [(":", "y")])
    format = PromptFormat("{text}\nAnswer:", "", ("yes", "no"), 64)
    with pytest.raises(
        UsageError, match=r"merges the label 'yes' with the end of the prompt; end .* line break"
    ):
        Prompter(tokenizer, format)
    with_break = PromptFormat("{text}\nAnswer:\n", "", ("yes", "no"), 64)
    vocabulary["\n"] = 201
    tokenizer.backend_tokenizer.model = models.BPE(vocabulary, [(":", "y")])
    Prompter(tokenizer, with_break)


def test_a_prompt_that_ends_with_the_text_is_refused(toy_tokenizer):
    with pytest.raises(UsageError, match=r"merges the label|depend on the text"):
        Prompter(toy_tokenizer, PromptFormat("{text}", "", ("positive", "negative"), 64))


def test_a_label_whose_tokens_depend_on_the_text_is_refused():
    class Fickle:
        """A token for each character; another one for "y" once there is a letter beyond ASCII."""

        is_fast, bos_token_id, eos_token_id = True, None, 2
        added_tokens_decoder = MappingProxyType({})

        def __call__(self, text, **options):
            other = {} if text.isascii() else {"y": 9}
            return {"input_ids": [other.get(character, ord(character)) for character in text]}

    with pytest.raises(UsageError, match="label 'yes' depend on the text before it; end prompt"):
        Prompter(Fickle(), PromptFormat("{text}\nA:\n", "", ("yes", "no"), 64))
    Prompter(Fickle(), PromptFormat("{text}\nA:\n", "", ("si", "no"), 64))


def test_labels_with_equal_tokens_are_refused():
    tokenizer = make_tokenizer(["Good and bad."] * 9, 300)
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UsageError, match=r"labels 'Good' and 'good' have the same tokens \[.*\]"):
        Prompter(tokenizer, PromptFormat(labels=("Good", "bad", "good")))


def test_a_tokenizer_without_eos_or_without_offsets_is_refused(toy_tokenizer):
    from transformers import PreTrainedTokenizerFast

    backend = toy_tokenizer.backend_tokenizer
    with pytest.raises(UsageError, match="no EOS token"):
        Prompter(PreTrainedTokenizerFast(tokenizer_object=backend), PromptFormat())

    class Slow:
        is_fast = False

    with pytest.raises(UsageError, match=r"Slow has no offsets; use a base with a tokenizer\.json"):
        Prompter(Slow(), PromptFormat())
