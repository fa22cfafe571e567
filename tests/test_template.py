"""template.py: special tokens of a template are tokens, and those in a text never are."""

import pytest
from commands import run
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from toy_tokenizers import make_tokenizer
from transformers import PreTrainedTokenizerFast

from sentilora.data.text import clean_text, fault_of
from sentilora.prompt import TRUNCATIONS, Prompter, PromptFormat
from sentilora.scoring.explain import words_of
from sentilora.template import Part, parts_of

CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
TEMPLATE = (
    "<s><|im_start|>system\nYou classify.<|im_end|>\n<|im_start|>user\n{text}\n{instruction}"
    "<|im_end|>\n<|im_start|>assistant\n"
)
INSTRUCTION = "Answer with {labels}."
WRITTEN = ["<s>", "<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_start|>"]
TEXTS = ["A lovely film.", "é漢字 🎬 yes", "Never again.\n\nTwice.", "▁ <b>", "a"]
MARKERS = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "\r", "\r3;", "3;", "{text}", "\n", " "]
MARKED = st.lists(st.one_of(st.sampled_from(MARKERS), st.text(max_size=5)), max_size=12)
MARKED = MARKED.map("".join).filter(lambda text: fault_of(text) is None)


def with_special_tokens(tokenizer, **strip):
    """The tokenizer with the tokens of a chat, and with its template."""
    names = ("<|im_start|>", "<|im_end|>")
    tokens = [AddedToken(name, special=True, normalized=False, **strip) for name in names]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.chat_template = CHAT
    return tokenizer


def sentencepiece(legacy, scheme="first"):
    """A tokenizer that marks the beginnings of words, as those of Llama and Mistral do."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    chat = "system user assistant You classify. Answer with positive or negative. : \n ▁ < b >"
    backend.train_from_iterator([*TEXTS, chat], trainer)
    if legacy:
        backend.pre_tokenizer = None
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def byte_level(**strip):
    tokenizer = make_tokenizer(["A lovely film, twice. positive negative"] * 3, 320)
    return with_special_tokens(tokenizer, **strip)


TOKENIZERS = {
    "byte level": byte_level,
    "stripping blanks on the left": lambda: byte_level(lstrip=True),
    "stripping blanks on the right": lambda: byte_level(rstrip=True),
    "prefix at the start": lambda: with_special_tokens(sentencepiece(False)),
    "prefix everywhere": lambda: with_special_tokens(sentencepiece(False, "always")),
    "legacy normalizer": lambda: with_special_tokens(sentencepiece(True)),
}


@pytest.fixture(scope="module")
def prompter():
    format = PromptFormat(TEMPLATE, INSTRUCTION, max_length=4096)
    return Prompter(byte_level(), format)


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_chat_template_has_the_tokens_that_transformers_gives_it(make):
    """text-generation-webui #292, OpenRLHF #1069."""
    tokenizer = make()
    prompter = Prompter(tokenizer, PromptFormat(TEMPLATE, INSTRUCTION))
    assert prompter.special_tokens == WRITTEN
    for text in TEXTS:
        messages = [
            {"role": "system", "content": "You classify."},
            {"role": "user", "content": f"{text}\nAnswer with positive or negative."},
        ]
        prompt = prompter.encode(text)
        assert prompt.string == tokenizer.apply_chat_template(messages, tokenize=False)
        expected = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        assert prompt.input_ids == expected
        answered = tokenizer(prompt.string + "positive", add_special_tokens=False).input_ids
        example = prompter.encode_example(text, "positive")
        assert example.input_ids == [*answered, tokenizer.eos_token_id]


def test_bos_is_not_doubled_where_the_template_begins_with_it(toy_tokenizer):
    """text-generation-webui #292: one BOS, be it written or put there by the tokenizer."""
    written, plain = (
        Prompter(toy_tokenizer, PromptFormat(bos + "{text}\n\nA:\n")).encode("Good.")
        for bos in ("<s>", "")
    )
    assert written.input_ids == plain.input_ids and written.input_ids.count(1) == 1
    later = Prompter(toy_tokenizer, PromptFormat("Q:<s>{text}\n\nA:\n")).encode("Good.")
    assert later.input_ids[0] == 1 and later.input_ids.count(1) == 2


@given(MARKED)
def test_a_text_never_adds_a_special_token(prompter, text):
    tokenizer = prompter.tokenizer
    special = set(tokenizer.all_special_ids)
    written = [tokenizer.convert_tokens_to_ids(name) for name in WRITTEN]
    prompt = prompter.encode(text)
    assert [token for token in prompt.input_ids if token in special] == written
    assert prompt.string.split("user\n", 1)[1].startswith(clean_text(text))
    answer = prompter.encode_example(text, "negative").input_ids[len(prompt.input_ids) :]
    assert answer == prompter.label_ids[1]


def test_label_words_and_columns_never_are_special_tokens(toy_tokenizer):
    labels = ("</s>", "<s>")
    format = PromptFormat("<s>{title}\n{text}\n{instruction}\n", "{labels}?", labels)
    prompt = Prompter(toy_tokenizer, format).encode({"text": "a</s>", "title": "</s><s>"})
    assert prompt.string == "<s></s><s>\na</s>\n</s> or <s>?\n"
    assert [token for token in prompt.input_ids if token <= 2] == [1]


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_the_template_stays_whole_and_its_spans_exact_when_a_text_is_cut(truncation):
    tokenizer = byte_level()
    format = PromptFormat(TEMPLATE, INSTRUCTION, max_length=128, truncation=truncation)
    prompter = Prompter(tokenizer, format)
    text = clean_text("  ".join(f"w{n}<s>é" for n in range(80)))
    prompt = prompter.encode(text)
    longest = max(map(len, prompter.label_ids))
    assert prompt.truncated and 120 < len(prompt.input_ids) + longest <= 128
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens([i for i in prompt.input_ids if i in special])
    assert names == WRITTEN
    assert prompter.encode_parts([text[a:b] for a, b in prompt.spans]) == prompt.input_ids
    assert all(any(a <= start < b for start, _ in words_of(text)) for a, b in prompt.spans)


def test_a_carriage_return_in_template_or_label_is_no_mark(toy_tokenizer):
    format = PromptFormat("\r1;<s>\r\r1;{text}\n<s>\r1;\n", "", ("a\r1;\r\r1;b", "c"))
    prompter = Prompter(toy_tokenizer, format)
    prompt = prompter.encode("\r1;x")
    assert prompt.string == "\r1;<s>\r\r1;1;x\n<s>\r1;\n"
    assert prompt.input_ids.count(1) == 3  # the tokenizer's own, and two of the template
    decoded = toy_tokenizer.decode(prompter.label_ids[0][:-1], clean_up_tokenization_spaces=False)
    assert decoded == "a\r1;\r\r1;b"


def test_a_template_without_special_tokens_is_read_as_before(toy_tokenizer):
    prompt = Prompter(toy_tokenizer, PromptFormat()).encode("One. </s> <s>")
    split = toy_tokenizer(prompt.string, split_special_tokens=True, add_special_tokens=False)
    assert prompt.input_ids == [1, *split.input_ids]


def test_every_identifier_in_braces_is_a_placeholder_and_nothing_else_is():
    template = '{"a": {}, {{x}} { y } {1} {a-b} {über}{"k": "{text}"}{instruction}'
    assert parts_of(template, "{labels}{z}", "a or b") == [
        Part("written", '{"a": {}, {'),
        Part("column", "x"),
        Part("written", "} { y } {1} {a-b} "),
        Part("column", "über"),
        Part("written", '{"k": "'),
        Part("column", "text"),
        Part("written", '"}'),
        Part("labels", "a or b"),
        Part("column", "z"),
    ]


def test_check_shows_the_special_tokens_of_the_template_in_one_line(toy_base):
    """OpenRLHF #1069: which tokens of a template are special was nowhere to be seen."""
    small = ["data.num_train=16", "data.num_evaluation=8", f"base.name={toy_base}"]
    code, stdout, stderr = run("check", *small, "prompt.template=<s>{text}</s>\n</s>A:\n")
    assert code == 0, stdout + stderr
    [line] = [line for line in stdout.splitlines() if "special tokens" in line]
    assert line.endswith("in the template: <s>, </s> × 2")
    assert "special tokens" not in run("check", *small)[1]
