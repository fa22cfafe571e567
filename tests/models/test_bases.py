"""Bases that are no causal language model, or lack weights: refused before they are scored."""

import shutil
import subprocess
import sys

import pytest
import torch
from commands import failed, run
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    MistralForSequenceClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

WIDTHS = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
SETTINGS = ["data.num_train=24", "data.num_evaluation=8", "training.max_steps=1",
            "training.eval_steps=1", "training.save_steps=1"]  # fmt: skip


def saved(model, toy_base, folder):
    """A folder with a model and the toy tokenizer."""
    for path in toy_base.glob("tokenizer*"):
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder / path.name)
    model.save_pretrained(folder)
    return folder


def changed(toy_base, folder, change):
    """The toy base in a folder, with other weights."""
    shutil.copytree(toy_base, folder)
    weights = folder / "model.safetensors"
    save_file(change(load_file(weights)), weights, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda n: BertForMaskedLM(BertConfig(vocab_size=n, **WIDTHS)), "an encoder (bert)"),
        (lambda n: BertLMHeadModel(BertConfig(vocab_size=n, **WIDTHS)), "an encoder (bert)"),
        (
            lambda n: RobertaForMaskedLM(RobertaConfig(vocab_size=n, **WIDTHS)),
            "an encoder (roberta)",
        ),
        (
            lambda n: DistilBertForMaskedLM(
                DistilBertConfig(vocab_size=n, dim=32, hidden_dim=32, n_layers=1, n_heads=2)
            ),
            "an encoder (distilbert)",
        ),
        (
            lambda n: T5ForConditionalGeneration(
                T5Config(vocab_size=n, d_model=32, d_ff=32, d_kv=16, num_layers=1, num_heads=2)
            ),
            "an encoder-decoder (t5)",
        ),
        (
            lambda n: BartForConditionalGeneration(
                BartConfig(
                    vocab_size=n,
                    d_model=32,
                    encoder_layers=1,
                    decoder_layers=1,
                    encoder_ffn_dim=32,
                    decoder_ffn_dim=32,
                    encoder_attention_heads=2,
                    decoder_attention_heads=2,
                )
            ),
            "an encoder-decoder (bart)",
        ),
    ],
)
def test_a_base_that_is_not_causal_is_refused(make, kind, toy_base, toy_tokenizer, tmp_path):
    """peft #577: transformers loads BERT as a causal LM, with tokens that see those after them."""
    folder = saved(make(len(toy_tokenizer)), toy_base, tmp_path / "encoder")
    message = f"{folder} is {kind}, not a causal language model"
    failed(2, message, "evaluate", "--base", folder, "data.num_test=4")
    failed(2, message, "train", f"base.name={folder}", *SETTINGS, "--output-dir", tmp_path / "run")
    code, stdout, _ = run("check", f"base.name={folder}", *SETTINGS)
    assert code == 2 and f"✗ base                {message}" in stdout


def test_a_bert_that_is_a_decoder_is_none_of_them(toy_base, toy_tokenizer, tmp_path):
    config = BertConfig(vocab_size=len(toy_tokenizer), is_decoder=True, **WIDTHS)
    folder = saved(BertLMHeadModel(config), toy_base, tmp_path / "decoder")
    code, stdout, stderr = run("evaluate", "--base", folder, "data.num_test=4")
    assert code == 0 and "base  " in stdout, stderr


def test_a_base_without_its_head_is_refused(toy_base, tmp_path):
    """peft #876 and #2367: a head that is missing is drawn at random, anew at every start."""
    config = AutoModelForCausalLM.from_pretrained(toy_base).config
    folder = saved(MistralForSequenceClassification(config), toy_base, tmp_path / "classifier")
    message = f"{folder} lacks weights of MistralForCausalLM: lm_head.weight; set "
    assert failed(3, message + "--base", "evaluate", "--base", folder, "data.num_test=4")
    assert failed(3, message + "base.name", "train", f"base.name={folder}", *SETTINGS,
                  "--output-dir", tmp_path / "run")  # fmt: skip


def test_missing_and_misshapen_weights_are_named(toy_base, tmp_path, capfd):
    """peft #876; transformers compares no shapes of weights that it quantizes."""

    def one_layer(tensors):
        return {name: tensors[name] for name in tensors if "layers.1." not in name}

    def narrow(tensors):
        name = "model.layers.0.mlp.up_proj.weight"
        return {**tensors, name: tensors[name][:3].clone()}

    ask = ["data.num_test=4"]
    folder = changed(toy_base, tmp_path / "short", one_layer)
    message = failed(3, "lacks weights of MistralForCausalLM", "evaluate", "--base", folder, *ask)
    assert "model.layers.1.input_layernorm.weight, " in message and "… (9 tensors); " in message
    folder = changed(toy_base, tmp_path / "narrow", narrow)
    message = "has other shapes of weights of MistralForCausalLM: model.layers.0.mlp.up_proj.weight"
    for quantization in ("nf4", "none"):
        options = ["--base", folder, "--quantization", quantization]
        failed(3, message, "evaluate", *options, *ask)
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_tied_weights_are_not_missing_and_unused_ones_are_said(toy_base, tmp_path):
    config = AutoConfig.from_pretrained(toy_base)
    config.tie_word_embeddings = True
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    folder = saved(model, toy_base, tmp_path / "tied")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    code, _, stderr = run("evaluate", "--base", folder, "data.num_test=4")
    assert code == 0 and "weights" not in stderr
    more = changed(toy_base, tmp_path / "more", lambda t: {**t, "score.weight": torch.ones(2, 64)})
    code, _, stderr = run("evaluate", "--base", more, "data.num_test=4")
    assert code == 0, stderr
    assert f"{more} holds weights that MistralForCausalLM does not use: score.weight\n" in stderr


def test_loading_from_python_prints_nothing(monkeypatch):
    """From a trial: each `Classifier.load` left a bar "Loading weights" in the terminal."""
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        monkeypatch.delenv(name)
    program = (
        "import sentilora; sentilora.Classifier.load()\n"
        "from huggingface_hub.utils import are_progress_bars_disabled\n"
        "from transformers.utils import logging\n"
        "print(logging.is_progress_bar_enabled(), are_progress_bars_disabled())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("True False\n", 0), done.stderr
    assert "Loading weights" not in done.stderr
