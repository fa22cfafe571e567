"""What an adapter answered at the end of training is what a loaded one has to answer.

"Served is not trained": vLLM #47026 (the same adapter agreed on 83 % of the answers), #55193 and
#34591 (the adapter was not applied, and nobody was told), #10798, peft #2321.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import failed, predicted

from sentilora import Classifier
from sentilora.errors import DataError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.probes_file import Computation, ProbesFile
from sentilora.prompt import PromptFormat
from sentilora.scoring.probe_texts import PROBE_TEXTS, probe_items
from sentilora.scoring.probes import (
    IN_8_BITS,
    IN_BFLOAT16,
    IN_FLOAT16,
    OTHER_FLOAT32,
    SAME_FLOAT32,
    computation_of,
    probe_probabilities,
    save_probes,
    tolerance,
    verify_probes,
)

HERE = Computation("cpu", "x86_64", "float32", "sdpa", "fast", "exact", "nf4")


@pytest.fixture
def run_copy(toy_run, tmp_path):
    """The finished run's adapter, elsewhere, to be changed."""
    ignore = shutil.ignore_patterns("checkpoint-*")
    return shutil.copytree(toy_run, tmp_path / "copy", ignore=ignore)


def rewrite(path, **changes):
    """Change values of a JSON file; a dot in a name leads into a section."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *sections, last = name.split("__")
        section = content
        for key in sections:
            section = section[key]
        section[last] = value
    path.write_text(json.dumps(content))


# --- an adapter as it was trained -----------------------------------------------------------------


def test_the_texts_are_sixteen_of_several_kinds():
    assert len(set(PROBE_TEXTS)) == 16
    lengths = sorted(map(len, PROBE_TEXTS))
    assert lengths[0] == 1 and lengths[-1] > 500
    assert sum(not text.isascii() for text in PROBE_TEXTS) >= 6
    assert any("</s>" in text for text in PROBE_TEXTS)


def test_the_adapter_that_ships_answers_on_this_machine_as_recorded():
    agreement = Classifier.load(device="cpu").agreement
    assert agreement.difference <= agreement.tolerance <= OTHER_FLOAT32
    assert agreement.in_training.device == "cpu"


def test_a_run_records_what_its_adapter_answers(toy_run, capsys):
    probes = ProbesFile.load(toy_run)
    assert probes.texts == list(PROBE_TEXTS) and probes.labels == ["positive", "negative"]
    assert np.array(probes.log_probs).shape == (16, 2) and np.array(probes.log_probs).max() < 0
    assert set(probes.versions) == {"sentilora", "torch", "transformers", "peft", "bitsandbytes"}
    capsys.readouterr()
    classifier = Classifier.load(toy_run)
    assert probes.computation == computation_of(classifier)
    assert classifier.agreement.tolerance == SAME_FLOAT32
    assert classifier.agreement.difference < 1e-7  # the file has 8 decimals
    assert capsys.readouterr().err == ""


def test_before_any_temperature(run_copy):
    rewrite(run_copy / "classifier.json", calibration={"temperature": 3.0, "abstain_below": 0.9})
    assert Classifier.load(run_copy).agreement.difference < 1e-7


def test_a_copy_and_peft_itself_load_the_folder(run_copy, toy_base):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert Classifier.load(run_copy).agreement is not None
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(toy_base), run_copy)


def test_a_folder_without_the_file_loads_in_silence(run_copy, toy_run, capsys):
    (run_copy / ProbesFile.FILE).unlink()
    for folder in (run_copy, toy_run / "checkpoint-2"):
        assert Classifier.load(folder).agreement is None
    assert capsys.readouterr().err == ""


# --- one that is not ------------------------------------------------------------------------------


def test_another_base_of_the_same_shape_is_refused(toy_run, toy_base, tmp_path):
    """vLLM #47026: shapes fit, so nothing failed but the answers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    other = shutil.copytree(toy_base, tmp_path / "other")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(toy_base))
    model.save_pretrained(other)
    for verb in (["predict", "x"], ["evaluate"]):
        said = failed(3, "does not answer as it was trained: for '", *verb,
                      "--adapter", toy_run, "--base", other)  # fmt: skip
        assert "load it on the base that it was trained on, or remove probes.json" in said
    predicted("x", "--adapter", toy_run / "checkpoint-4", "--base", other)  # has no probes


def test_changed_weights_are_refused_where_no_checksum_tells(run_copy):
    from safetensors.torch import load_file, save_file

    path = run_copy / AdapterFolder.WEIGHTS_FILE
    weights = {name: tensor * 0 for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    (run_copy / "checksums.json").unlink()
    with pytest.raises(DataError, match="does not answer as it was trained") as refused:
        Classifier.load(run_copy)
    assert refused.value.setting == "adapter" and refused.value.seen == str(run_copy)
    assert Classifier.load(run_copy, verify=False).agreement is None


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt__template": "Review: {text}\n\nSentiment:\n"},
        {"prompt__instruction": "One word: {labels}."},
        {"prompt__truncation": "head"},
        {"prompt__max_length": 511},
        {"prompt__labels": ["negative", "positive"]},
    ],
)
def test_another_prompt_is_refused(run_copy, changes):
    """Labels in another order would exchange the answers; `label_ids` are in theirs."""
    record = json.loads((run_copy / "classifier.json").read_text())
    if "prompt__labels" in changes:
        changes = {**changes, "label_ids": record["label_ids"][::-1]}
    rewrite(run_copy / "classifier.json", **changes)
    with pytest.raises(DataError, match="labels, or another part of its prompt, have changed"):
        Classifier.load(run_copy)


def test_a_tokenizer_that_reads_texts_otherwise_is_refused(toy_run, toy_base, tmp_path):
    other = shutil.copytree(toy_base, tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    content["model"]["merges"] = [
        merge for merge in content["model"]["merges"] if "".join(merge).strip("Ġ▁") != "the"
    ]
    (other / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="tokenizer reads texts otherwise than in training"):
        Classifier.load(toy_run, base=str(other))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:200], "is damaged: it is not JSON"),
        (lambda text: "{}", "is damaged: it has no 'format_version'"),
        (lambda text: text.replace('"float32"', '"float31"'), "its 'compute_dtype' is 'float31'"),
        (lambda text: text.replace('"?",', ""), "'log_probs' do not match its 'texts'"),
        (lambda text: text.replace('n": 1', 'n": 2', 1), "has format 2, but this sentilora reads"),
    ],
)
def test_a_damaged_file_is_described(run_copy, change, reason):
    path = run_copy / ProbesFile.FILE
    path.write_text(change(path.read_text()))
    said = failed(3, reason, "predict", "x", "--adapter", run_copy)
    assert str(path) in said and "remove " in said


# --- other ways to compute ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, SAME_FLOAT32),
        ({"engine": "reference"}, OTHER_FLOAT32),
        ({"attn_implementation": "eager"}, OTHER_FLOAT32),
        ({"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"}, OTHER_FLOAT32),
        ({"compute_dtype": "float16"}, IN_FLOAT16),
        ({"compute_dtype": "bfloat16"}, IN_BFLOAT16),
        ({"compute_dtype": "bfloat16", "base_matmul": "fp8"}, IN_8_BITS),
    ],
)
def test_the_tolerance_is_that_of_the_coarser_of_two_computations(changes, limit):
    other = replace(HERE, **changes)
    assert tolerance(HERE, other) == tolerance(other, HERE) == limit
    coarse = replace(HERE, compute_dtype="bfloat16")
    assert tolerance(coarse, other) == max(limit, IN_BFLOAT16)


@pytest.mark.parametrize(
    ("way", "limit"),
    [
        ({"engine": "reference"}, OTHER_FLOAT32),
        ({"engine": "reference", "attn_implementation": "eager"}, OTHER_FLOAT32),
        ({"compute_dtype": "bfloat16"}, IN_BFLOAT16),
        ({"compute_dtype": "bfloat16", "engine": "reference"}, IN_BFLOAT16),
    ],
)
def test_the_same_adapter_computed_otherwise_is_within_the_tolerance(way, limit):
    agreement = Classifier.load(device="cpu", **way).agreement
    assert 0 < agreement.difference < agreement.tolerance / 2 and agreement.tolerance == limit


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize(
    "way",
    [
        {"compute_dtype": "float32"},
        {"compute_dtype": "float32", "engine": "reference"},
        {"compute_dtype": "bfloat16"},
        {"compute_dtype": "bfloat16", "engine": "reference"},
        {"compute_dtype": "float16"},
        {"base_matmul": "fp8"},
    ],
)
def test_what_a_cpu_recorded_holds_on_a_gpu(way):
    """`bench/probes.py` prints these differences, and those between any two ways."""
    if "base_matmul" in way and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("8-bit products need compute capability 8.9")
    agreement = Classifier.load(device="cuda", **way).agreement
    print(agreement)
    assert 0 < agreement.difference < agreement.tolerance


def test_a_base_in_another_quantization_is_a_warning(toy_run, capsys):
    classifier = Classifier.load(toy_run, quantization="none")
    assert classifier.agreement.difference > SAME_FLOAT32
    said = capsys.readouterr().err
    assert "warning: probabilities differ by up to" in said
    assert "its base in nf4, not none (16 probe texts)" in said


# --- several columns ------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [512, 112])
def test_other_columns_are_filled_from_the_texts(run_copy, max_length):
    """A value that leaves no room for the text is left empty, for only texts are cut."""
    template = "### From:\n{sender}\n\n### Title:\n{title}\n\n" + PromptFormat().template
    rewrite(run_copy / "classifier.json", prompt__template=template, prompt__max_length=max_length)
    (run_copy / ProbesFile.FILE).unlink()
    classifier = Classifier.load(run_copy)
    save_probes(classifier, run_copy)
    probes = ProbesFile.load(run_copy)
    assert [record["text"] for record in probes.texts] == list(PROBE_TEXTS)
    assert list(probes.texts[0]) == ["text", "sender", "title"]
    is_whole = probes.texts == probe_items(("sender", "title"))
    assert is_whole == (max_length == 512)
    assert verify_probes(classifier, AdapterFolder.open(run_copy)).difference < 1e-7
    assert probe_probabilities(classifier, probes).shape == (16, 2)
    rewrite(run_copy / "classifier.json", prompt__template=template.replace("sender", "author"))
    with pytest.raises(DataError, match="part of its prompt"):
        Classifier.load(run_copy)
