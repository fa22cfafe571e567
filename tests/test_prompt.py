"""prompt.py: only the text is cut, none of it becomes a special token, the frame stays whole."""

import importlib.util
import time
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_tokenizers import around_text

from sentilora.data.text import clean_text, fault_of
from sentilora.prompt import (
    BYTE_ORDER_MARK,
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


def is_label(string):
    """Whether a prompt takes a string as a label as it stands."""
    return fault_of(string) is None and string == string.removeprefix(BYTE_ORDER_MARK).strip()


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
        st.text(CHARACTERS, min_size=1, max_size=8).filter(is_label),
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
    """The part of a prompt's string between the frame before the text and after it."""
    before, after = around_text(format)
    assert prompt.string.startswith(before) and prompt.string.endswith(after)
    return prompt.string[len(before) : len(prompt.string) - len(after)]


# --- the prompt


def test_the_prompt_is_exactly_this_one(toy_tokenizer):
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
    assert around_text(format)[0] == "### Instruction:\nSay a, b or c!\n\n### Review:\n"


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
    before, after = (tokens(toy_tokenizer, part) for part in around_text(format))
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
    assert sum(token != IGNORE_INDEX for token in example.labels) == len(answer)
    assert example.weight == 2.5
    # The frame is whole, and no text becomes a special token.
    assert prompt.input_ids[: 1 + len(before)] == [1, *before]
    assert prompt.input_ids[-len(after) :] == after
    assert not {0, 1, 2} & set(prompt.input_ids[1:]) and not {0, 1, 2} & set(answer[:-1])
    # What fits is whole; what is cut is cut because it did not fit.
    shown, clean = shown_text(prompt, format), clean_text(text)
    whole = [1, *tokens(toy_tokenizer, around_text(format)[0] + clean + around_text(format)[1])]
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
        shown.append(sum(end - start for start, end in prompt.spans))
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
    started = time.process_time()  # not wall time: a busy machine is no reason to fail
    prompt = prompter.encode(text)
    assert time.process_time() - started < 2
    assert prompt.truncated and 500 <= len(prompt.input_ids) <= 512


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


def test_mistral_labels_are_the_tokens_after_a_newline(mistral_tokenizer):
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
    before, after = around_text(format)
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
    started = time.process_time()  # not wall time: a busy machine is no reason to fail
    prompt = prompter.encode(text)
    assert time.process_time() - started < 2
    assert prompt.truncated and 500 <= len(prompt.input_ids) <= 512


def test_the_defaults_are_written_down():
    assert TEMPLATE.endswith("\n\n### Sentiment:\n") and TEMPLATE.count("{text}") == 1
    assert INSTRUCTION.endswith("only one word: {labels}.")
