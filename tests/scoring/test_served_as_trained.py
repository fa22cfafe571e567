"""What an adapter was trained with is what it is scored with."""

import json

import numpy as np
import pytest

from sentilora import Classifier
from sentilora.config import load_config
from sentilora.errors import UsageError
from sentilora.folders.classifier_file import ClassifierFile, RecordedRuntime
from sentilora.folders.run_folder import PROBABILITIES_FILE
from sentilora.models import runtime as module
from sentilora.models.runtime import Runtime
from sentilora.stages.from_config import load_rows_of
from sentilora.stages.train import train

SMALL = ["training.max_steps=1", "training.eval_steps=1", "training.save_steps=1",
         "data.num_train=16", "data.num_evaluation=12"]  # fmt: skip
SETTINGS = {
    "eager in bfloat16 without the engine": [
        "engine=reference", "base.attn_implementation=eager", "base.compute_dtype=bfloat16"],
    "the engine in float32": [],
    "batches of five": ["engine=reference", "training.per_device_eval_batch_size=5"],
}  # fmt: skip


@pytest.fixture(scope="module", params=list(SETTINGS))
def trained(request, toy_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "run"
    values = {"base.name": str(toy_base), "base.device": "cpu", "output_dir": str(folder)}
    config = load_config("tiny", overrides=[*SMALL, *SETTINGS[request.param]], values=values)
    train(config)
    return config, folder


def test_a_loaded_classifier_gives_the_runs_own_probabilities_to_the_last_bit(trained):
    config, folder = trained
    _, evaluation = load_rows_of(config)
    probabilities = Classifier.load(folder).predict_proba(evaluation.texts)
    assert probabilities.shape == (12, 2)
    assert np.array_equal(probabilities, np.load(folder / PROBABILITIES_FILE))


def test_what_training_computed_with_stands_beside_the_adapter(trained):
    config, folder = trained
    dtype = config.base.compute_dtype.replace("auto", "float32")
    assert ClassifierFile.load(folder).runtime == RecordedRuntime(
        compute_dtype=dtype,
        attn_implementation=config.base.attn_implementation,
        engine=config.engine.implementation,
        batch_size=config.training.per_device_eval_batch_size,
    )
    for checkpoint in folder.glob("checkpoint-*"):
        assert ClassifierFile.load(checkpoint) == ClassifierFile.load(folder)


def test_every_recorded_value_can_be_overridden(toy_run):
    plain = Classifier.load(toy_run)
    other = Classifier.load(
        toy_run,
        engine="reference",
        attn_implementation="eager",
        compute_dtype="bfloat16",
        batch_size=3,
        device="cpu",
    )
    assert plain.scorer.engine is not None and other.scorer.engine is None
    assert other.runtime.batch_size == 3 and plain.runtime.batch_size == 16
    assert (plain.computed_on, other.computed_on) == ("cpu, float32", "cpu, bfloat16")
    assert other.base.model.config._attn_implementation == "eager"


def test_a_folder_without_the_record_is_scored_as_before():
    assert ClassifierFile.load(_shipped()).runtime is None
    assert Classifier.load().runtime == Runtime()


def _shipped():
    from pathlib import Path

    from sentilora import shipped_adapter

    return Path(shipped_adapter())


def test_the_nearest_to_what_was_recorded_is_used_and_said(monkeypatch, capsys):
    recorded = RecordedRuntime("float16", "flash_attention_2", "reference", 7)
    runtime = Runtime.for_scoring(recorded, {"device": "cpu"})
    assert (runtime.compute_dtype, runtime.attn_implementation) == ("float32", "sdpa")
    assert (runtime.engine, runtime.batch_size) == ("reference", 7)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "float16" in lines[0] and "float32" in lines[0]
    assert "flash_attention_2" in lines[1] and "sdpa" in lines[1]
    # A T4 has no bfloat16.
    monkeypatch.setattr(module, "choose_device", lambda device: "cuda")
    monkeypatch.setattr(module, "compute_capability", lambda assumed=0.0: 7.5)
    recorded = RecordedRuntime("bfloat16", "sdpa", "auto", 16)
    assert Runtime.for_scoring(recorded, {}).compute_dtype == "float16"
    assert "bfloat16" in capsys.readouterr().err
    # What is asked for now is not changed.
    assert Runtime.for_scoring(recorded, {"compute_dtype": "bfloat16"}).compute_dtype == "bfloat16"
    assert capsys.readouterr().err == ""


def test_what_this_machine_can_do_is_left_alone(capsys):
    recorded = RecordedRuntime("bfloat16", "eager", "auto", 16)
    runtime = Runtime.for_scoring(recorded, {"device": "cpu"})
    assert (runtime.compute_dtype, runtime.attn_implementation) == ("bfloat16", "eager")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("attention", ["flex_attention", "flash_attention_2"])
def test_attention_that_needs_a_gpu_is_refused_on_a_cpu(attention, toy_run, capsys):
    with pytest.raises(UsageError, match=f"{attention} needs a GPU") as refused:
        Classifier.load(toy_run, attn_implementation=attention, device="cpu")
    assert refused.value.setting == "attn_implementation"
    recorded = RecordedRuntime("float32", attention, "auto", 16)
    assert Runtime.for_scoring(recorded, {"device": "cpu"}).attn_implementation == "sdpa"
    assert attention in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("device", "tpu"),
        ("compute_dtype", "int8"),
        ("engine", "fast"),
        ("base_matmul", "int4"),
        ("batch_size", 0),
        ("max_memory_gib", -1.0),
    ],
)
def test_a_value_that_does_not_exist_is_refused_with_its_name(keyword, value):
    with pytest.raises(UsageError, match=keyword) as refused:
        Classifier.load(**{keyword: value})
    assert (refused.value.setting, refused.value.seen) == (keyword, value)


def test_a_record_that_is_damaged_is_named(toy_run, tmp_path):
    path = toy_run / ClassifierFile.FILE
    content = json.loads(path.read_text())
    content["runtime"]["engine"] = "warp"
    (tmp_path / path.name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is damaged: its 'engine' is 'warp'"):
        ClassifierFile.load(tmp_path)
