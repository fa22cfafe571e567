"""The cache of bases in NF4: equal to a fresh base, used again, and never incomplete."""

import shutil

import pytest
import torch

from sentilora.config import load_config
from sentilora.errors import DataError, SentiloraError
from sentilora.folders.classifier_file import BaseReference
from sentilora.models import base_cache
from sentilora.models.bases import load_base
from sentilora.models.runtime import Runtime
from sentilora.stages.train import train

CPU = Runtime(device="cpu")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A hub cache folder of this test's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def tensors(base):
    return base.model.state_dict()


def test_the_cached_base_equals_the_quantized_one(toy_base, home):
    plain = load_base(BaseReference(str(toy_base)), CPU)
    assert plain.cached_in is None
    assert not home.exists()
    first = load_base(BaseReference(str(toy_base)), CPU, cache_quantized=True)
    again = load_base(BaseReference(str(toy_base)), CPU)  # as in predict
    assert first.cached_in == again.cached_in
    assert (first.from_cache, again.from_cache) == (False, True)
    assert again.cached_in.parent == home / "sentilora"
    assert tensors(plain).keys() == tensors(again).keys()
    for name, tensor in tensors(plain).items():
        assert torch.equal(tensor, tensors(again)[name]), name
    assert again.dtype == plain.dtype
    assert again.revision == plain.revision
    assert again.cached_in.stat().st_mode == (home / "sentilora").stat().st_mode


def test_another_base_or_form_does_not_use_the_cached_one(toy_base, home, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(toy_base, folder)
    cached_in = load_base(BaseReference(str(folder)), CPU, cache_quantized=True).cached_in
    assert cached_in is not None
    single = BaseReference(str(folder), double_quantization=False)
    assert load_base(single, CPU).cached_in is None
    other = Runtime(device="cpu", compute_dtype="bfloat16")
    assert load_base(BaseReference(str(folder)), other).cached_in is None
    assert load_base(BaseReference(str(folder), quantization="none"), CPU).cached_in is None
    (folder / "model.safetensors").touch()
    assert load_base(BaseReference(str(folder)), CPU).cached_in is None


def test_training_names_the_base_not_the_cache(toy_base, home, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sentilora.progress._shows_details", True)
    overrides = [f"training.{name}=1" for name in ("max_steps", "eval_steps", "save_steps")]
    overrides += ["base.cache_quantized=true", "data.num_train=16", "data.num_evaluation=8"]
    for name, done in {
        "again": "saved for later loads in",
        "run": "loaded from",
    }.items():
        values = {"base.name": str(toy_base), "output_dir": str(tmp_path / name)}
        train(load_config("tiny", overrides=overrides, values=values))
        assert f"NF4 base {done} {home / 'sentilora' / 'base-nf4-'}" in capsys.readouterr().err
    for name in ("adapter_config.json", "classifier.json", "README.md"):
        text = (tmp_path / "run" / name).read_text(encoding="utf-8")
        assert str(toy_base) in text
        assert str(home) not in text


def test_a_full_disk_leaves_no_incomplete_copy(toy_base, home, monkeypatch):
    def full(self, folder, **kwargs):
        (folder / "half").write_text("of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(SentiloraError, match=r"No space left.*base\.cache_quantized=false"):
        load_base(BaseReference(str(toy_base)), CPU, cache_quantized=True)
    assert list((home / "sentilora").iterdir()) == []


def test_a_damaged_copy_is_named(toy_base, home):
    cached_in = load_base(BaseReference(str(toy_base)), CPU, cache_quantized=True).cached_in
    (cached_in / "model.safetensors").write_bytes(b"\0" * 100)
    remedy = r"\(remove that folder to read .*base again\)"
    with pytest.raises(DataError, match=rf"{cached_in} {remedy}"):
        load_base(BaseReference(str(toy_base)), CPU)


def test_the_second_process_leaves_the_first_ones_copy(tmp_path):
    class Model:
        def save_pretrained(self, folder):
            (folder / "weights").write_text("second")

    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "weights").write_text("first")
    base_cache.store(Model(), folder)
    assert (folder / "weights").read_text() == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
