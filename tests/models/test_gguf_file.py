"""A base in a GGUF file: the same base as the folder it was written from, wherever a base goes."""

import contextlib
import json
import shutil
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from commands import failed, predicted, run
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from sentilora.folders.classifier_file import BaseReference, ClassifierFile
from sentilora.models.bases import load_base
from sentilora.models.runtime import Runtime
from sentilora.prompt import Prompter, PromptFormat

pytest.importorskip("gguf")  # the lowest versions are tested without optional packages
from gguf_files import CHAT_TEMPLATE, Q4_1, Q8_0, decoded, write_gguf

CPU = Runtime(device="cpu")
SHORT = ["training.max_steps=4", "training.eval_steps=2", "training.save_steps=2",
         "data.num_train=24", "data.num_evaluation=8"]  # fmt: skip
TEXTS = ["A film.", "  In 2024,  10  20", "a  2", "é漢 “…”\n\n12", "</s><s>", "### Review:\n"]
CONVERTED = "converted once, to the model folder"


@pytest.fixture(scope="module")
def gguf_file(toy_base, tmp_path_factory):
    """The toy base as a GGUF file in float32."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "toy.gguf", toy_base)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A hub cache folder of this test's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "sentilora"


def unquantized(name):
    return load_base(BaseReference(str(name), quantization="none"), CPU)


def test_the_weights_are_those_that_were_written(gguf_file, toy_base):
    ours, theirs = unquantized(gguf_file), unquantized(toy_base)
    state = ours.model.state_dict()
    assert state.keys() == theirs.model.state_dict().keys() and len(state) >= 20
    for name, tensor in theirs.model.state_dict().items():
        assert torch.equal(state[name], tensor.half().float()), name
    ids = torch.tensor([theirs.tokenizer("A lovely film.")["input_ids"]])
    with torch.no_grad():
        expected, logits = (base.model(ids).logits for base in (theirs, ours))
    assert (logits - expected).abs().max() <= 2e-3 * expected.abs().max()
    assert not any("quant" in name for name in vars(ours.model.config))


@pytest.mark.parametrize("kind", [Q8_0, Q4_1])
def test_blocks_are_decoded(kind, toy_base, tmp_path):
    ours = unquantized(write_gguf(tmp_path / "toy.gguf", toy_base, kind=kind))
    theirs = unquantized(toy_base).model.state_dict()
    for name in (
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.1.mlp.up_proj.weight",
    ):
        assert torch.equal(ours.model.state_dict()[name].half(), decoded(theirs[name], kind)), name


def test_the_tokenizer_is_the_bases_own(gguf_file, toy_tokenizer):
    tokenizer = unquantized(gguf_file).tokenizer
    assert tokenizer.is_fast and tokenizer.chat_template == CHAT_TEMPLATE
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(tokenizer, name) == getattr(toy_tokenizer, name)
    for text in TEXTS:
        assert tokenizer(text) == toy_tokenizer(text), text
        plain = [t(text, split_special_tokens=True) for t in (tokenizer, toy_tokenizer)]
        assert plain[0] == plain[1], text
    ours, theirs = (Prompter(t, PromptFormat()) for t in (tokenizer, toy_tokenizer))
    assert ours.label_ids == theirs.label_ids
    assert [ours.encode(text) for text in TEXTS] == [theirs.encode(text) for text in TEXTS]


def test_digits_are_split_where_the_base_splits_them(toy_base, toy_tokenizer, tmp_path, capsys):
    """transformers 5.24 splits SmolLM's texts as GPT-2 does: "a  2" became other tokens."""
    tokenizer = unquantized(write_gguf(tmp_path / "x.gguf", toy_base, words="smollm")).tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    expected = AutoTokenizer.from_pretrained(toy_base)
    expected.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    assert any(expected(text) != toy_tokenizer(text) for text in TEXTS)
    for text in TEXTS:
        assert tokenizer(text) == expected(text), text
    assert "its own way" not in capsys.readouterr().err


def test_an_unknown_way_of_splitting_is_reported(toy_base, tmp_path, capsys):
    unquantized(write_gguf(tmp_path / "x.gguf", toy_base, words="poro-chat"))
    assert "splits texts into words in its own way (poro-chat)" in capsys.readouterr().err


def test_every_verb_takes_it_and_the_adapter_finds_it(gguf_file, tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(gguf_file, project / "toy.gguf")
    monkeypatch.chdir(project)
    code, stdout, stderr = run("check", "base.name=toy.gguf", *SHORT)
    assert code == 0 and "none, the base is local" in stdout
    assert stderr.count(CONVERTED) == 1
    code, _, stderr = run("train", "base.name=toy.gguf", *SHORT, "--output-dir", "runs/one")
    assert code == 0 and CONVERTED not in stderr
    base = ClassifierFile.load(project / "runs/one").base
    assert (base.name, base.path_from_run) == (f"{project}/toy.gguf", "../../toy.gguf")
    card = (project / "runs/one/README.md").read_text(encoding="utf-8")
    plain = {}
    exec(card.split("```python\n")[2].split("```")[0], plain)  # transformers and PEFT alone
    assert type(plain["model"]).__name__ == "PeftModelForCausalLM"
    first, _ = predicted("A film.", "--adapter", "runs/one", "--json")
    monkeypatch.chdir(tmp_path)
    assert predicted("A film.", "--adapter", "project/runs/one", "--json")[0] == first
    for ask in (["--base", "project/toy.gguf"], ["--adapter", "project/runs/one"]):
        code, stdout, stderr = run("evaluate", *ask, "data.num_test=4")
        assert code == 0 and "base" in stdout, stderr
    project.rename(tmp_path / "moved")
    stdout, stderr = predicted("A film.", "--adapter", "moved/runs/one", "--json")
    assert stdout == first
    assert f"base: {tmp_path}/moved/toy.gguf, found from the adapter's folder" in stderr
    shutil.move(tmp_path / "moved" / "toy.gguf", tmp_path / "away.gguf")
    ask = ["predict", "A film.", "--adapter", "moved/runs/one", "--json"]
    failed(3, "and there is no such file; say where the base is now, with --base", *ask)
    stdout, stderr = predicted(*ask[1:], "--base", "away.gguf")
    assert stdout == first and f"base: {tmp_path}/away.gguf in place of" in stderr
    more = [*SHORT, "base.name=away.gguf", "--adapter", "moved/runs/one", "--output-dir", "two"]
    code, _, stderr = run("train", *more)
    assert code == 0, stderr


def test_a_file_that_was_replaced_is_converted_again(toy_base, tmp_path, home, capsys):
    file = write_gguf(tmp_path / "toy.gguf", toy_base)
    assert [unquantized(file) and capsys.readouterr().err.count(CONVERTED) for _ in "12"] == [1, 0]
    write_gguf(file, toy_base, kind=Q8_0)
    unquantized(file)
    assert capsys.readouterr().err.count(CONVERTED) == 1
    folders = [path for path in home.iterdir() if path.is_dir()]
    assert len(folders) == 2
    modes = {path.stat().st_mode & 0o777 for folder in folders for path in folder.iterdir()}
    assert modes == {home.stat().st_mode & 0o666}  # whoever may read the cache may read all of it


def test_the_package_is_asked_for_before_anything_is_read(gguf_file, tmp_path, monkeypatch):
    def without_gguf(name):
        if name == "gguf":
            raise PackageNotFoundError(name)
        return version(name)

    def with_old_transformers(name):
        return "5.22.1" if name == "transformers" else version(name)

    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", with_old_transformers)
        said = "transformers 5.22.1 reads their tokenizers wrongly; pip install -U"
        failed(3, said, "train", f"base.name={gguf_file}", "data.train=none.csv")
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", without_gguf)
        said = "the package that reads them, gguf, is not installed; pip install gguf"
        failed(3, said, "train", f"base.name={gguf_file}", "data.train=none.csv")
        failed(3, said, "evaluate", "--base", gguf_file)
        assert said in run("check", f"base.name={gguf_file}")[1]
    unquantized(gguf_file)
    monkeypatch.setattr("importlib.metadata.version", without_gguf)
    unquantized(gguf_file)  # converted: the package is needed no more


def test_what_is_no_usable_gguf_file_is_refused(gguf_file, toy_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ask = ["evaluate", "data.num_test=4", "--base"]
    failed(3, "there is no GGUF file org/none.gguf; set --base to", *ask, "org/none.gguf")
    (tmp_path / "zip.gguf").write_bytes(b"PK\3\4")
    failed(3, "zip.gguf is not a GGUF file", *ask, "zip.gguf")
    whole = gguf_file.read_bytes()
    for length in (4, 20, 5_000, 50_000, len(whole) // 2, len(whole) - 5_000):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        failed(3, "cannot load cut.gguf: ", *ask, "cut.gguf")
    write_gguf(tmp_path / "bert.gguf", toy_base, architecture="bert")
    failed(3, "architecture bert is not supported", *ask, "bert.gguf")
    write_gguf(tmp_path / "half.gguf", toy_base, without={"blk.1.ffn_up.weight"})
    lacking = "half.gguf lacks weights of LlamaForCausalLM: model.layers.1.mlp.up_proj.weight"
    failed(3, lacking, *ask, "half.gguf")


def test_a_full_disk_leaves_no_incomplete_folder(gguf_file, home, monkeypatch):
    def full(self, folder, **kwargs):
        (folder / "half").write_text("of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    failed(1, "No space left on device; set HF_HOME to", "evaluate", "--base", gguf_file)
    assert [path for path in home.iterdir() if path.is_dir()] == []


def test_a_second_process_waits_and_reads_what_the_first_converted(gguf_file, home, monkeypatch):
    unquantized(gguf_file)
    (done,) = (path for path in home.iterdir() if path.is_dir())
    away = done.rename(home.parent / "first")

    @contextlib.contextmanager
    def lock_that_the_first_held(path):
        away.rename(done)
        yield

    monkeypatch.setattr("huggingface_hub.utils.WeakFileLock", lock_that_the_first_held)
    monkeypatch.setattr("sentilora.models.gguf_file.read_gguf", None)
    unquantized(gguf_file)
    assert json.loads((done / "config.json").read_text())["model_type"] == "llama"
