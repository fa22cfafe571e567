"""prompt.py: whatever the text, only it is cut, none of it is special, and the frame stands."""

import importlib.util
import re
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_tokenizers import make_tokenizer

from sentilora.data.text import clean_text, fault_of
from sentilora.errors import DataError, UsageError
from sentilora.prompt import (
    ELLIPSIS,
    IGNORE_INDEX,
    INSTRUCTION,
    TEMPLATE,
    TRUNCATIONS,
    Prompter,
    PromptFormat,
)

TOOL = Path(__file__).resolve().parents[1] / "tools" / "random_base.py"
MARKERS = ["</s>", "<s>", "<pad>", "<br />", "<br>", "### Sentiment:\n", "### Review:\n", "{text}",
           "{instruction}", "positive", "\r\n", "\n\n", "🎬", "👩\u200d👩\u200d👧", "\0",
           "\x1b[31m", "\u2028", "\u202e", "e\u0301", "\ufeff", "\x85", "\u3000", "漢字",
           "▁", "…"]  # fmt: skip
CHARACTERS = st.characters(exclude_categories=["Cs"])
PIECES = st.one_of(st.text(CHARACTERS, max_size=20), st.sampled_from(MARKERS))
SHORT_TEXTS = st.lists(PIECES, max_size=6).map("".join)
LONG_TEXTS = st.tuples(SHORT_TEXTS, st.integers(1, 60), SHORT_TEXTS).map(
    lambda t: t[0] * t[1] + t[2]
)
TEXTS = st.one_of(SHORT_TEXTS, LONG_TEXTS).filter(lambda text: fault_of(text) is None)
LABEL_SETS = st.one_of(
    st.sampled_from(
        [
            ("positive", "negative"),
            ("positivo", "negativo"),
            tuple(map(str, range(1, 11))),
            ("bad", "bad film", "ba", "b"),
            ("好", "坏", "好坏"),
            ("👍", "👎"),
            ("</s>", "<s>"),
            ("two\nlines", "two"),
        ]
    ),
    st.lists(
        st.text(CHARACTERS, min_size=1, max_size=8).filter(lambda s: s == s.strip() != ""),
        min_size=2,
        max_size=12,
        unique=True,
    ).map(tuple),
)


@cache
def prompter_of(tokenizer, format):
    return Prompter(tokenizer, format)


def tokens(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def shown_text(prompt, format):
    """The part of a prompt's string between what stands before and after the text."""
    before, after = format.around_text
    assert prompt.string.startswith(before) and prompt.string.endswith(after)
    return prompt.string[len(before) : len(prompt.string) - len(after)]


# --- the prompt as the specification has it


def test_the_prompt_is_the_one_that_was_asked_for(toy_tokenizer):
    prompt = Prompter(toy_tokenizer, PromptFormat()).encode("  A lovely film.<br /><br />Go!\n")
    assert prompt.string == (
        "### Instruction:\n"
        "Analyze the sentiment of the following movie review and respond with only one word: "
        "positive or negative.\n"
        "\n"
        "### Review:\n"
        "A lovely film.\n"
        "\n"
        "Go!\n"
        "\n"
        "### Sentiment:\n"
    )
    assert not prompt.truncated
    assert prompt.input_ids == [1, *tokens(toy_tokenizer, prompt.string)]


def test_the_preset_and_the_library_have_the_same_prompt():
    from sentilora.config import load_config

    assert PromptFormat(**load_config("mistral-7b").prompt.model_dump()) == PromptFormat()


def test_more_labels_are_listed_in_the_instruction():
    format = PromptFormat(instruction="Say {labels}!", labels=("a", "b", "c"))
    assert format.around_text[0] == "### Instruction:\nSay a, b or c!\n\n### Review:\n"


def test_a_format_survives_json():
    import json

    format = PromptFormat(labels=("sí", "no"), truncation="tail", max_length=99)
    assert PromptFormat(**json.loads(json.dumps(format.to_dict()))) == format


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a<br />b", "a\nb"),
        ("a<BR>b<br/>c<br  />d", "a\nb\nc\nd"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("  a  b \n", "a  b"),
        ("a<b>b", "a<b>b"),
        ("<br />", ""),
    ],
)
def test_line_breaks_of_all_kinds_become_newlines(text, clean):
    assert clean_text(text) == clean


# --- properties


@given(TEXTS, LABEL_SETS, st.sampled_from(TRUNCATIONS), st.integers(0, 60), st.data())
@settings(max_examples=200)
def test_an_example_is_prompt_label_eos_and_only_the_text_is_cut(
    toy_tokenizer, text, labels, truncation, room, data
):
    format = PromptFormat("Q: {instruction}\n{text}\n\nA:\n", "{labels}", labels, 4096, truncation)
    roomy = prompter_of(toy_tokenizer, format)
    before, after = (tokens(toy_tokenizer, part) for part in format.around_text)
    longest = max(map(len, roomy.label_ids))
    max_length = 1 + len(before) + len(after) + longest + 1 + room
    format = PromptFormat(format.template, format.instruction, labels, max_length, truncation)
    prompter = prompter_of(toy_tokenizer, format)

    label = data.draw(st.sampled_from(labels))
    prompt, example = prompter.encode(text), prompter.encode_example(text, label, 2.5)
    answer = prompter.label_ids[labels.index(label)]

    # The three parts, in their order, within the limit whatever the label is.
    assert example.input_ids == prompt.input_ids + answer
    assert example.labels == [IGNORE_INDEX] * len(prompt.input_ids) + answer
    assert answer[-1] == toy_tokenizer.eos_token_id and len(answer) >= 2
    assert len(prompt.input_ids) + longest <= max_length
    assert (example.num_answer_tokens, example.weight) == (len(answer), 2.5)
    # The frame is whole, and no text becomes a special token.
    assert prompt.input_ids[: 1 + len(before)] == [1, *before]
    assert prompt.input_ids[-len(after) :] == after
    assert not {0, 1, 2} & set(prompt.input_ids[1:]) and not {0, 1, 2} & set(answer[:-1])
    # What fits is whole; what is cut is cut because it did not fit.
    shown, clean = shown_text(prompt, format), clean_text(text)
    whole = [1, *tokens(toy_tokenizer, format.around_text[0] + clean + format.around_text[1])]
    assert prompt.truncated == example.truncated == (len(whole) + longest > max_length)
    if not prompt.truncated:
        assert (shown, prompt.input_ids) == (clean, whole)
    elif truncation == "head":
        assert clean.startswith(shown)
    elif truncation == "tail":
        assert clean.endswith(shown)
    elif shown:
        # A text may hold the mark itself: one of them is where it was cut.
        marked = "\n" + shown
        at = [i for i in range(len(marked)) if marked.startswith(ELLIPSIS, i)]
        cuts = [(marked[:i].strip(), marked[i + len(ELLIPSIS) :]) for i in at]
        assert any(clean.startswith(start) and clean.endswith(end) for start, end in cuts)


@given(TEXTS, st.sampled_from(TRUNCATIONS))
@example("…" * 14 + "0000", "head+tail")  # the mark's own newlines are no part of the text
def test_a_larger_limit_never_shows_less(toy_tokenizer, text, truncation):
    shown = []
    for max_length in (60, 80, 160, 4096):
        format = PromptFormat("{text}\n\nA:\n", "", ("yes", "no"), max_length, truncation)
        prompt = prompter_of(toy_tokenizer, format).encode(text)
        shown.append(sum(end - start for start, end in prompt.kept))
    assert shown == sorted(shown)


@given(LABEL_SETS)
def test_label_tokens_are_what_follows_the_prompt_and_differ(toy_tokenizer, labels):
    format = PromptFormat(labels=labels, max_length=2048)
    prompter = prompter_of(toy_tokenizer, format)
    prompt = prompter.encode("Anything.")
    assert len(prompter.label_ids) == len(labels) == len(set(map(tuple, prompter.label_ids)))
    for label, ids in zip(labels, prompter.label_ids, strict=True):
        assert prompt.input_ids + ids[:-1] == [1, *tokens(toy_tokenizer, prompt.string + label)]


def test_labels_that_begin_one_another_are_told_apart_by_eos(toy_tokenizer):
    labels = ("ba", "bad", "bad film", "b")
    ids = Prompter(toy_tokenizer, PromptFormat(labels=labels)).label_ids
    bad, film = ids[1], ids[2]
    assert film[: len(bad) - 1] == bad[:-1]  # one begins the other ...
    assert bad[-1] == 2 and film[len(bad) - 1] != 2  # ... until EOS
    numbers = tuple(map(str, range(1, 11)))
    ids = Prompter(toy_tokenizer, PromptFormat(labels=numbers)).label_ids
    assert len(set(map(tuple, ids))) == 10


# --- what each truncation keeps


def test_each_truncation_keeps_the_part_it_names(toy_tokenizer):
    words = [f"w{number}" for number in range(400)]
    shown = {}
    for truncation in TRUNCATIONS:
        format = PromptFormat(max_length=256, truncation=truncation)
        prompt = Prompter(toy_tokenizer, format).encode(" ".join(words))
        assert prompt.truncated
        longest = max(map(len, Prompter(toy_tokenizer, format).label_ids))
        assert 256 - 4 <= len(prompt.input_ids) + longest <= 256  # nearly all of the room is used
        shown[truncation] = shown_text(prompt, format)
    assert shown["head"].startswith("w0 w1 ") and "w399" not in shown["head"]
    assert shown["tail"].endswith(" w398 w399") and "w0 " not in shown["tail"]
    start, end = shown["head+tail"].split(ELLIPSIS)
    assert start.startswith("w0 w1 ") and end.endswith(" w398 w399")
    share = len(tokens(toy_tokenizer, start)) / len(tokens(toy_tokenizer, start + end))
    assert share == pytest.approx(0.25, abs=0.03)


def test_a_text_of_one_huge_character_sequence_leaves_the_frame(toy_tokenizer):
    format = PromptFormat("{text}\n\nA:\n", "", ("yes", "no"), 16, "head")
    prompter = Prompter(toy_tokenizer, format)
    prompt = prompter.encode("𓀀" * 50)  # four tokens each, one may fit or none
    assert prompt.truncated and prompt.string.endswith("\n\nA:\n")
    assert set(shown_text(prompt, format)) <= {"𓀀"}


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_a_review_of_100_000_words_takes_less_than_two_seconds(toy_tokenizer, truncation):
    text = "What a film, again and again. " * 16_667
    assert len(text.split()) > 100_000
    prompter = Prompter(toy_tokenizer, PromptFormat(truncation=truncation))
    started = time.perf_counter()
    prompt = prompter.encode(text)
    assert time.perf_counter() - started < 2
    assert prompt.truncated and 500 <= len(prompt.input_ids) <= 512


# --- what is refused


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


def test_a_label_that_melts_into_the_prompt_is_refused():
    tokenizer = make_tokenizer(["Answer:yes Answer:no :yes :no"] * 9, 400)
    tokenizer.backend_tokenizer.pre_tokenizer = None  # nothing keeps ":" and "yes" apart
    from tokenizers import models

    vocabulary = {chr(code): code for code in range(3, 128)} | {"<pad>": 0, "<s>": 1, "</s>": 2}
    vocabulary |= {":y": 200}
    tokenizer.backend_tokenizer.model = models.BPE(vocabulary, [(":", "y")])
    format = PromptFormat("{text}\nAnswer:", "", ("yes", "no"), 64)
    with pytest.raises(
        UsageError, match=r"label 'yes' melts into the prompt's last token.*line break"
    ):
        Prompter(tokenizer, format)
    with_break = PromptFormat("{text}\nAnswer:\n", "", ("yes", "no"), 64)
    vocabulary["\n"] = 201
    tokenizer.backend_tokenizer.model = models.BPE(vocabulary, [(":", "y")])
    Prompter(tokenizer, with_break)


def test_a_prompt_that_ends_with_the_text_is_refused(toy_tokenizer):
    with pytest.raises(UsageError, match=r"melts|depend on the text"):
        Prompter(toy_tokenizer, PromptFormat("{text}", "", ("positive", "negative"), 64))


def test_a_label_whose_tokens_depend_on_the_text_is_refused():
    class Fickle:
        """A token for each character; another one for "y" once there is a letter beyond ASCII."""

        is_fast, bos_token_id, eos_token_id = True, None, 2

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


def test_a_tokenizer_that_begins_without_bos_gets_none(toy_tokenizer):
    from transformers import PreTrainedTokenizerFast

    backend = type(toy_tokenizer.backend_tokenizer).from_str(
        toy_tokenizer.backend_tokenizer.to_str()
    )
    from tokenizers import processors

    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    prompt = Prompter(plain, PromptFormat()).encode("A film.")
    assert prompt.input_ids == tokens(plain, prompt.string)
    assert 1 not in prompt.input_ids


# --- the real tokenizer of the recipe's base


@pytest.fixture(scope="session")
def mistral_tokenizer(tmp_path_factory):
    for package in ("mistral_common", "sentencepiece"):
        pytest.importorskip(package, reason=f"{package} is not installed: no Mistral tokenizer")
    from transformers import AutoTokenizer

    spec = importlib.util.spec_from_file_location("random_base", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    folder = tmp_path_factory.mktemp("mistral") / "tokenizer"
    tool.main([str(folder), "--tokenizer-only"])
    return AutoTokenizer.from_pretrained(folder)


def test_mistral_labels_are_the_tokens_behind_a_newline(mistral_tokenizer):
    prompter = Prompter(mistral_tokenizer, PromptFormat())
    assert prompter.label_ids == [[1065, 2468, 2], [23238, 2]]
    assert mistral_tokenizer("positive").input_ids == [1, 5278]  # what must never be used
    for label, ids in zip(prompter.format.labels, prompter.label_ids, strict=True):
        example = prompter.encode_example("I had a lovely time, twice.", label)
        assert example.input_ids[-len(ids) :] == ids
        assert 5278 not in example.input_ids[-4:]


@given(TEXTS, st.sampled_from(TRUNCATIONS), st.sampled_from([60, 70, 130, 512]))
def test_mistral_examples_keep_frame_and_label(mistral_tokenizer, text, truncation, max_length):
    format = PromptFormat(max_length=max_length, truncation=truncation)
    prompter = prompter_of(mistral_tokenizer, format)
    example = prompter.encode_example(text, "positive")
    before, after = format.around_text
    head = [1, *tokens(mistral_tokenizer, before)]
    # Alone, the tail would get a leading "▁": 28705.
    tail = tokens(mistral_tokenizer, "\n" + after)[2:]
    assert len(example.input_ids) <= max_length
    assert example.input_ids[: len(head)] == head
    assert example.input_ids[-len(tail) - 3 :] == [*tail, 1065, 2468, 2]
    assert not {0, 1, 2} & set(example.input_ids[1:-1])


def test_mistral_reads_a_review_of_100_000_words_in_two_seconds(mistral_tokenizer):
    prompter = Prompter(mistral_tokenizer, PromptFormat())
    text = "What a film, again and again. " * 16_667
    started = time.perf_counter()
    prompt = prompter.encode(text)
    assert time.perf_counter() - started < 2
    assert prompt.truncated and 500 <= len(prompt.input_ids) <= 512


def test_the_defaults_are_written_down():
    assert TEMPLATE.endswith("\n\n### Sentiment:\n") and TEMPLATE.count("{text}") == 1
    assert INSTRUCTION.endswith("only one word: {labels}.")
