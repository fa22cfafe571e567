"""The HTTP process reads texts as training does, without transformers and torch."""

import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tokenizers import make_tokenizer

from sentilora.errors import DataError, SentiloraError
from sentilora.models.bases import load_tokenizer
from sentilora.prompt import Prompter, PromptFormat
from sentilora.serving.tokenizer import BareTokenizer, as_data, load_as_data

ODD = [
    "a", "A lovely film.",
    "é e\u0301 漢字 🎬👩‍👩‍👧", "</s> <s> <pad> [INST] <|im_start|>", "\u200b\ufeff\u2028x",
    "a\x00b\x07", "\t\r\n x \r\n", "### Sentiment:\nnegative", "{text} {labels} {", "ﬁ Ⅷ İ ß ẞ",
    "شكراً مرحبا", "word " * 5000, "x" * 30_000, "🎬" * 3000, "\ud7ff\ue000\U0010ffff",
]  # fmt: skip
CHAT = "<s>### Instruction:\n{instruction}\n\n{text}</s>\n### Sentiment:\n"
FORMATS = [
    PromptFormat(),
    PromptFormat(truncation="head+tail", max_length=128),
    PromptFormat(template=CHAT, truncation="head"),
]


@pytest.fixture(scope="module")
def tokenizers():
    """Pairs of a tokenizer as training has it, and as the HTTP process does."""
    toy = make_tokenizer(["a lovely film " * 9, "positive negative", CHAT], 400)
    return [
        (load_tokenizer("embedded"), BareTokenizer(**load_as_data("embedded", "main"))),
        (toy, BareTokenizer(**as_data(toy, "toy"))),
    ]


def require_same(tokenizers, texts):
    for own, bare in tokenizers:
        for format in FORMATS:
            first, second = Prompter(own, format), Prompter(bare, format)
            assert first.label_ids == second.label_ids
            assert first.max_prompt_tokens == second.max_prompt_tokens
            assert first.special_tokens == second.special_tokens
            for text in texts:
                try:
                    expected = first.encode(text)
                except DataError:
                    with pytest.raises(DataError):
                        second.encode(text)
                    continue
                assert second.encode(text) == expected  # tokens, string, truncation, spans


def test_odd_texts_have_the_same_tokens(tokenizers):
    require_same(tokenizers, [*ODD, "half a \ud800 pair", "", " \n"])


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.text(st.characters(), max_size=300), min_size=1, max_size=8))
def test_any_text_has_the_same_tokens(tokenizers, texts):
    require_same(tokenizers, texts)


def test_a_long_text_does_not_hold_up_other_threads(tokenizers):
    """For a text of 4 MB no request was answered for as long as it was read."""
    bare = tokenizers[0][1]
    is_done, longest = threading.Event(), 0.0

    def tick():
        nonlocal longest
        last = time.perf_counter()
        while not is_done.is_set():
            time.sleep(0.005)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    thread = threading.Thread(target=tick)
    thread.start()
    started = time.perf_counter()
    bare("a lovely film " * 60_000, add_special_tokens=False, split_special_tokens=True)
    seconds = time.perf_counter() - started
    is_done.set()
    thread.join()
    assert longest < seconds / 2


def test_a_tokenizer_that_does_more_is_refused():
    class Lowercase:
        def __init__(self, tokenizer):
            self._tokenizer = tokenizer

        def __getattr__(self, name):
            return getattr(self._tokenizer, name)

        def __call__(self, text, **options):
            return self._tokenizer(text.replace("good", "bad").lower(), **options)

    with pytest.raises(SentiloraError, match=r"does more than its tokenizer\.json"):
        as_data(Lowercase(load_tokenizer("embedded")), "lowercase")


def test_a_base_that_cannot_be_read_is_reported_as_anywhere(tmp_path):
    with pytest.raises(DataError, match=r"not a model folder: it has no config\.json"):
        load_as_data(str(tmp_path), "main")


def test_the_http_process_imports_neither_transformers_nor_torch():
    code = (
        "import asyncio, sys\n"
        "from sentilora.serving import app, server, tokenizer, worker\n"
        "async def ask():\n"
        "    process = worker.Worker({})\n"
        "    try:\n"
        "        await process.spawn()\n"
        "        return tokenizer.BareTokenizer(**await process.tokenizer('embedded', 'main'))\n"
        "    finally:\n"
        "        await process.stop()\n"
        "asyncio.run(ask())('a')\n"
        "print(sorted({'torch', 'transformers', 'peft', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stderr
