"""Each preset's architecture: the engine against the plain path, trained, saved and reloaded.

The models are random and small; tests/preset_bases.py says what they keep of the bases they stand
for.
"""

import json

import numpy as np
import pytest
import torch
from preset_bases import SHAPES, config_of, small_config, write_small
from tiny_models import (
    CASES,
    KINDS,
    assert_close,
    installed,
    make_model,
    packed_gradients,
    plain_gradients,
)
from transformers import AutoModelForCausalLM, MinistralConfig, MinistralForCausalLM

from sentilora import Classifier
from sentilora.config import load_config
from sentilora.models.adapters import attach_adapter
from sentilora.presets import about, preset_names
from sentilora.stages.train import train
from sentilora.training import estimate
from sentilora.training.estimate import Run, training_memory

PLAIN_PATH = {"gemma-3-1b", "gemma-3-4b"}
TEXTS = ["A lovely film, twice.", "Dull </s> and grey. " * 20, "I left [INST] early."]


def meta_model(config):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        return model.requires_grad_(False)


@pytest.mark.parametrize("name", SHAPES)
def test_what_a_preset_says_of_its_base_is_computed_from_its_shape(name, monkeypatch):
    monkeypatch.setattr(estimate, "place_of_process", lambda device: "cuda:0")
    monkeypatch.setattr(estimate, "_load_cublas", lambda dtype: None)
    gpu = type("Gpu", (), {"usable": lambda self: 2**40})()
    monkeypatch.setattr("sentilora.engine.memory.gpu_memory", lambda device: gpu)
    base = meta_model(config_of(name))
    stated = about(name)
    assert stated.parameters == base.num_parameters()
    lora = load_config(name).lora.model_dump()
    with torch.device("meta"):
        model = attach_adapter(base, **lora)
    run = Run(
        lengths=[512], num_steps=375, rows_per_step=16, rows_per_pass=4, optim="paged_adamw_8bit",
        device="cuda", dtype=torch.bfloat16, nf4=True, double_quantization=True,
        checkpointing=True, is_fast=False,
    )  # fmt: skip
    gib = training_memory(model, run).estimate.total / 2**30
    assert stated.training_memory_gib == round(gib, 1)


def test_every_preset_has_a_shape_here():
    assert set(SHAPES) == set(preset_names()) - {"tiny"}
    for name, (kind, _) in SHAPES.items():  # what is trained below is of the preset's kind
        assert type(config_of(name)) is type(small_config(name, 600)) is kind


@pytest.fixture(scope="module")
def base(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / request.param
    write_small(request.param, folder)
    return request.param, folder


def settings(name, base, folder, *overrides):
    small = [
        "training.max_steps=3", "training.eval_steps=3", "training.save_steps=3",
        "training.logging_steps=1", "training.warmup_steps=0", "training.learning_rate=1e-2",
        "training.per_device_train_batch_size=4", "training.gradient_accumulation_steps=1",
        "data.train=embedded", "data.test=embedded", "data.num_train=24", "data.num_evaluation=6",
        "lora.lora_dropout=0", "lora.r=4", "base.device=cpu", "prompt.max_length=96",
    ]  # fmt: skip
    values = {"base.name": str(base), "output_dir": str(folder)}
    return load_config(name, overrides=[*small, *overrides], values=values)


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


@pytest.mark.parametrize("base", SHAPES, indirect=True)
def test_the_engine_trains_and_scores_as_the_plain_path_and_reloads(base, tmp_path):
    name, folder = base
    train(settings(name, folder, tmp_path / "fast"))
    train(settings(name, folder, tmp_path / "plain", "engine.implementation=reference"))
    assert losses(tmp_path / "fast") == pytest.approx(losses(tmp_path / "plain"), rel=1e-4)
    assert len(losses(tmp_path / "fast")) == 3
    fast = Classifier.load(tmp_path / "fast", device="cpu")
    assert (fast.scorer.engine is None) == (name in PLAIN_PATH)
    plain = Classifier.load(tmp_path / "fast", device="cpu", engine="reference")
    scores = fast.predict_proba(TEXTS)
    np.testing.assert_allclose(plain.predict_proba(TEXTS), scores, atol=1e-5)
    assert np.ptp(scores[:, 0]) > 1e-4  # it reads the texts
    again = Classifier.load(tmp_path / "fast", device="cpu")
    np.testing.assert_array_equal(again.predict_proba(TEXTS), scores)
    assert again.agreement is not None  # with its probes, recorded at the end of training
    prompt = again.prompter.encode(TEXTS[0])
    question = fast.prompter.format.template
    assert question != "chat" and prompt.string.startswith(question.partition("{instruction}")[0])


def test_ministral_under_the_name_that_transformers_also_has_for_it(monkeypatch):
    """On the hub it is a Mistral; transformers' own class for it has windows in some layers."""
    windows = ["sliding_attention", "full_attention", "sliding_attention"]
    kind = (MinistralConfig, MinistralForCausalLM, {"sliding_window": 9, "layer_types": windows})
    monkeypatch.setitem(KINDS, "ministral", kind)
    model = make_model("ministral")
    expected = plain_gradients(model, *CASES["odd lengths"])
    installed(model)
    got = packed_gradients(model, *CASES["odd lengths"])
    assert_close(got, expected, 1e-5, num=3 * 2 * 7)


def test_the_part_for_images_gets_no_adapter(tmp_path):
    model = meta_model(small_config("gemma-3-4b", 600))
    lora = load_config("gemma-3-4b").lora.model_dump()
    with torch.device("meta"):
        adapted = attach_adapter(model, **lora)
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(trained) == 3 * 7 * 2
    assert all("language_model" in name for name in trained)
    text_only = meta_model(small_config("gemma-3-1b", 600))
    with torch.device("meta"):
        assert attach_adapter(text_only, **lora).peft_config["default"].exclude_modules is None
