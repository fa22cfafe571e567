"""tools/random_base.py: the tokenizer encodes as SentencePiece does, the model loads anywhere."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MistralConfig

TOOL = Path(__file__).parents[2] / "tools" / "random_base.py"
CAPITAL = [1, 415, 5565, 302, 10828, 349]
SPACES = ("", " x", "x ", "  x  y   z ", "a" + " " * 40 + "b", " " * 17, "\t", "\tx\t\ty")
LINES = ("\n", "\n\n\nx", "x\n", "x\r\ny", " \n \n ", "x\n  positive", "### Review:\nGood.\n\n###")
SCRIPTS = ("é à ü ß", "e\u0301", "漢字かな", "한국어 문장", "Привет, мир!", "שלום", "ﬁ ² ½", "…—“”")
EMOJI = ("😀", "x😀y 👩\u200d👩\u200d👧 🏳️", "🦩🦩", "𓀀")
OTHERS = ("▁", "▁x", "▁▁ x", "x▁y ▁", "\ufeffx", "x\u00a0y\u3000z", "0\x00\x7f", "<0x0A>", "=" * 99)
CODE = ("1234567890", "3.14e-10", "http://a.b/c?d=e&f", "def f(x):\n    return x**2\n")
TEXTS = (*SPACES, *LINES, *SCRIPTS, *EMOJI, *OTHERS, *CODE)


@pytest.fixture(scope="session")
def tool():
    spec = importlib.util.spec_from_file_location("random_base", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def base(tool, tmp_path_factory):
    for package in ("mistral_common", "sentencepiece"):
        pytest.importorskip(package, reason=f"{package} is not installed: no Mistral tokenizer")
    folder = tmp_path_factory.mktemp("random") / "base"
    tool.main([str(folder), "--tiny"])
    return folder


@pytest.fixture(scope="session", params=["as made", "saved again", "without config.json"])
def tokenizer(request, base, tmp_path_factory):
    """The tokenizer of the folder, of a copy by `save_pretrained`, and of one without a config."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    if request.param == "as made":
        return tokenizer
    folder = tmp_path_factory.mktemp("saved")
    tokenizer.save_pretrained(folder)
    if request.param == "saved again":
        (folder / "config.json").write_text((base / "config.json").read_text())
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def sentencepiece(tool, base):
    return tool.read_sentencepiece()


def random_texts(count):
    rng = random.Random(0)
    pieces = [
        *"abcxyz019 .,!\n\t▁'\"<>/=-_#éß漢😀",
        "  ",
        " the",
        " a",
        "\n\n",
        "ing",
        "\r\n",
        "    ",
    ]
    return ["".join(rng.choices(pieces, k=rng.randrange(1, 60))) for _ in range(count)]


def test_ids_are_those_of_sentencepiece_after_one_bos(tokenizer, sentencepiece):
    for text in (*TEXTS, *random_texts(400)):
        assert tokenizer(text).input_ids == [1, *sentencepiece.encode(text)], repr(text)


def test_known_ids(tokenizer):
    assert tokenizer("The capital of Italy is").input_ids == CAPITAL
    assert tokenizer("x\npositive").input_ids[-2:] == [1065, 2468]
    assert tokenizer("x\nnegative").input_ids[-1] == 23238
    assert tokenizer("positive").input_ids == [1, 5278]
    assert tokenizer.convert_tokens_to_ids("▁positive") == 5278
    assert tokenizer("positive", add_special_tokens=False).input_ids == [5278]
    assert tokenizer("a", "b").input_ids == [1, 264, 1, 287]


def test_special_tokens(tokenizer):
    assert tokenizer.is_fast and len(tokenizer) == tokenizer.vocab_size == 32000
    assert [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert tokenizer.pad_token is None
    assert list(tokenizer("x")) == ["input_ids", "attention_mask"]


def test_special_tokens_in_a_text_can_be_split(tokenizer, sentencepiece):
    text = "a</s> <s>b<unk>"
    assert {0, 2} <= set(tokenizer(text).input_ids)
    split = tokenizer(text, split_special_tokens=True).input_ids
    assert split == [1, *sentencepiece.encode(text)] and not {0, 1, 2} & set(split[1:])


def test_emoji_fall_back_to_bytes(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("🦩").input_ids)
    assert tokens == ["<s>", "▁", "<0xF0>", "<0x9F>", "<0xA6>", "<0xA9>"]


def test_decoding_gives_the_text_back(tokenizer):
    for text in (*TEXTS, *random_texts(100)):
        if "▁" not in text:  # which is how the vocabulary writes a space
            ids = tokenizer(text).input_ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text, repr(text)


def test_offsets_point_into_the_text(tokenizer):
    text = "A fine  film,\nés 🦩 indeed"
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    spans = [text[start:end] for start, end in encoded.offset_mapping]
    tokens = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    assert spans[:3] == ["A", " fine", " "] and spans[-1] == " indeed"
    for token, span in zip(tokens, spans, strict=True):
        if not token.startswith("<0x"):
            assert token.removeprefix("▁") == span.replace(" ", "▁").removeprefix("▁")
    assert [span for t, span in zip(tokens, spans, strict=True) if t == "<0xF0>"] == ["🦩"]


def test_loading_prints_nothing_else(base):
    code = (
        "import sys; from transformers import AutoTokenizer; "
        "print(AutoTokenizer.from_pretrained(sys.argv[1])('The capital of Italy is').input_ids)"
    )
    command = [sys.executable, "-c", code, str(base)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (json.loads(done.stdout), done.stderr) == (CAPITAL, "")


def test_the_full_shape_has_the_parameters_of_mistral_7b(tool):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(MistralConfig(**tool.MISTRAL_7B))
    assert model.num_parameters() == tool.NUM_PARAMETERS


def test_the_model_loads_and_generates(base, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(base)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model.config.rope_parameters["rope_theta"] == 10000.0
    assert 0.019 < model.lm_head.weight.float().std() < 0.021
    inputs = tokenizer("A lovely film.", return_tensors="pt")
    new = model.generate(**inputs, max_new_tokens=2, do_sample=False, pad_token_id=2)
    assert new.shape[1] == inputs.input_ids.shape[1] + 2


def test_a_copied_tokenizer_and_the_seed(tool, base, tmp_path):
    tool.main([str(tmp_path / "tokenizer"), "--tokenizer-only"])
    assert sorted(f.name for f in (tmp_path / "tokenizer").iterdir()) == sorted(
        tool.TOKENIZER_FILES
    )
    for name, seed in (("same", "42"), ("other", "43")):
        copy = ["--tokenizer", str(tmp_path / "tokenizer"), "--seed", seed]
        tool.main([str(tmp_path / name), "--tiny", *copy])
    for name in ("model.safetensors", *tool.TOKENIZER_FILES):
        content = (base / name).read_bytes()
        assert (tmp_path / "same" / name).read_bytes() == content
        assert ((tmp_path / "other" / name).read_bytes() == content) == (
            name != "model.safetensors"
        )


def test_errors_are_one_line(tool, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mistral_common", None)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    monkeypatch.chdir(tmp_path)
    for arguments, pattern in (
        (["full"], "full exists and is not empty"),
        (["full/file/base"], "cannot make the folder"),
        (["new", "--tokenizer", "full"], "full has no tokenizer.json"),
        (["new"], "is not installed; pip install mistral-common"),
    ):
        with pytest.raises(SystemExit, match=pattern) as error:
            tool.main(arguments)
        assert "\n" not in str(error.value)
