"""An adapter whose base lies elsewhere than it says: found, named, or refused with what works."""

import json
import re
import shlex
import shutil

import pytest
from commands import failed, predicted, run

from sentilora import Classifier, predict
from sentilora.config import load_config
from sentilora.errors import DataError, SentiloraError
from sentilora.folders.classifier_file import ClassifierFile
from sentilora.stages.train import train

SHORT = ["training.max_steps=4", "training.eval_steps=2", "training.save_steps=2",
         "data.num_train=24", "data.num_evaluation=8"]  # fmt: skip
IGNORE = shutil.ignore_patterns("checkpoint*")


@pytest.fixture
def project(toy_base, tmp_path, monkeypatch):
    """A folder with a base in it and an adapter trained on it, named by a relative path."""
    folder = tmp_path / "project"
    shutil.copytree(toy_base, folder / "base")
    monkeypatch.chdir(folder)
    code, _, stderr = run("train", "base.name=base", *SHORT, "--output-dir", "runs/one")
    assert code == 0, stderr
    return folder


def answers(*arguments):
    return predicted("A film.", *arguments, "--json")[0]


def test_a_local_base_is_found_from_any_directory_and_when_moved_together(
    project, tmp_path, monkeypatch
):
    """lorax #346: `base` was stored as it was typed, and meant another folder elsewhere."""
    adapter = project / "runs" / "one"
    folders = [adapter, adapter / "checkpoint-4"]
    first = [answers("--adapter", folder) for folder in folders]
    monkeypatch.chdir(tmp_path)
    for folder in folders:
        assert ClassifierFile.load(folder).base.name == str(project / "base")
        assert ClassifierFile.load(folder).base.path_from_run == "../../base"
    assert [answers("--adapter", folder) for folder in folders] == first
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(project / "base")
    shutil.move(project, tmp_path / "moved")
    for path, answer in zip(folders, first, strict=True):
        folder = tmp_path / "moved" / path.relative_to(project)
        stdout, stderr = predicted("A film.", "--adapter", folder, "--json")
        assert stdout == answer
        assert f"base: {tmp_path}/moved/base, found from the adapter's folder" in stderr
    code, _, stderr = run("evaluate", "--adapter", "moved/runs/one", "data.num_test=4")
    assert code == 0, stderr


def test_a_base_beside_a_plain_adapter_is_found(project, tmp_path, monkeypatch):
    """PEFT writes `base_model_name_or_path` as it was given."""
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(project / "runs" / "one" / name, plain)
    shutil.copytree(project / "base", tmp_path / "other")
    path = plain / "adapter_config.json"
    path.write_text(path.read_text().replace(str(project / "base"), "../other"))
    options = ["--labels", "a,b", "--template", "{text}\n"]
    monkeypatch.chdir(plain.parent.parent)
    _, stderr = predicted("x", "--adapter", plain, *options)
    assert f"base: {tmp_path}/other, found from the adapter's folder" in stderr
    answer = predicted("x", "--adapter", plain, *options, "--json")[0]
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "base_model_name_or_path": None}))
    failed(3, "names no base; say where the base is now, with --base", "predict", "x",
           "--adapter", plain, *options)  # fmt: skip
    there = ["--base", tmp_path / "other"]
    assert predicted("x", "--adapter", plain, *there, *options, "--json")[0] == answer
    path.write_text(json.dumps(content))
    shutil.rmtree(tmp_path / "other")
    failed(3, "belongs to the base ../other, and there is no such folder; say where the base is "
           "now, with --base", "predict", "x", "--adapter", plain, *options)  # fmt: skip


def test_a_base_that_is_gone_can_be_named_wherever_it_is_needed(project, tmp_path):
    """lorax #346: every remedy in the message was refused by the verb that gave it."""
    adapter = tmp_path / "adapter"
    shutil.copytree(project / "runs" / "one", adapter)
    first = answers("--adapter", adapter)
    shutil.move(project / "base", tmp_path / "elsewhere")
    message = f"belongs to the base {project}/base, and there is no such folder; say where the "
    rows = ["data.num_test=4"]
    failed(3, message + "base is now, with --base", "predict", "x", "--adapter", adapter)
    failed(3, message + "base is now, with --base", "evaluate", "--adapter", adapter, *rows)
    with pytest.raises(DataError, match=r"with `base`"):
        Classifier.load(adapter)
    there = ["--adapter", adapter, "--base", tmp_path / "elsewhere"]
    stdout, stderr = predicted("A film.", *there, "--json")
    assert stdout == first
    assert f"base: {tmp_path}/elsewhere in place of {project}/base, which the adapter" in stderr
    code, stdout, stderr = run("evaluate", *there, *rows, "--json")
    assert code == 0 and json.loads(stdout)["base_name"] == f"{tmp_path}/elsewhere", stderr
    assert json.loads(stdout)["adapter_path"] == str(adapter)
    base = tmp_path / "elsewhere"
    [prediction] = predict(["A film."], adapter=adapter, base=base)
    assert Classifier.load(adapter, base=str(base)).classify(["A film."]) == [prediction]
    code, stdout, _ = run("evaluate", "--base", base, *rows, "--json")  # the untouched base
    assert code == 0 and json.loads(stdout)["adapter"] is None


def test_a_run_resumes_on_its_base_elsewhere(project, tmp_path):
    """lorax #346 with `train --resume`: the result is the one of a run that never stopped."""
    run_folder = project / "runs" / "one"
    half = tmp_path / "half"
    shutil.copytree(run_folder, half, ignore=shutil.ignore_patterns("checkpoint-4", "*.safetensors",
                    "train_results.json"))  # fmt: skip
    shutil.copytree(run_folder / "checkpoint-2", half / "checkpoint-2", dirs_exist_ok=True)
    shutil.move(project / "base", tmp_path / "elsewhere")
    ask = ["train", "--resume", "--output-dir", half]
    message = failed(3, f"there is no model folder {project}/base; set base.name to ", *ask)
    assert "--base" not in message
    failed(2, "base.name was ", *ask, "base.name=embedded")
    code, _, stderr = run(*ask, f"base.name={tmp_path}/elsewhere")
    assert code == 0, stderr
    for name in ("adapter_model.safetensors", "train_results.json"):
        before, after = (folder / name for folder in (run_folder, half))
        if name.endswith("safetensors"):
            assert before.read_bytes() == after.read_bytes()
    assert ClassifierFile.load(half).base.name == f"{tmp_path}/elsewhere"


def test_a_run_starts_from_an_adapter_whose_base_is_elsewhere(project, tmp_path):
    """The adapter's base could only be named by the path at which it no longer was."""
    adapter = shutil.copytree(project / "runs" / "one", tmp_path / "adapter", ignore=IGNORE)
    ask = ["train", "--adapter", adapter, *SHORT, "--output-dir", tmp_path / "next"]
    failed(2, f"set base.name={project}/base", *ask)  # the default is the base that ships
    shutil.move(project / "base", tmp_path / "elsewhere")
    failed(2, "; set base.name to the folder in which it is now", *ask)
    code, _, stderr = run(*ask, f"base.name={tmp_path}/elsewhere")
    assert code == 0, stderr
    assert f"base: {tmp_path}/elsewhere in place of {project}/base" in stderr


def test_another_base_is_not_taken_for_the_one_elsewhere(toy_base, toy_run, tmp_path):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    other = shutil.copytree(toy_base, tmp_path / "other")
    config = AutoConfig.from_pretrained(other)
    config.intermediate_size = 64
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(other)
    message = "its shapes do not fit; load it on that base: --base=BASE"
    failed(2, message, "predict", "x", "--adapter", toy_run, "--base", other)
    failed(2, "was trained with label tokens", "predict", "x", "--adapter", toy_run,
           "--base", with_other_tokens(toy_base, tmp_path))  # fmt: skip


def with_other_tokens(toy_base, tmp_path):
    """The toy base, with a tokenizer whose tokens have other numbers."""
    folder = shutil.copytree(toy_base, tmp_path / "tokens")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    names = list(vocabulary)[3:]
    turned = dict(zip(names, [vocabulary[name] for name in reversed(names)], strict=True))
    vocabulary.update(turned)
    path.write_text(json.dumps(content))
    return folder


# --- settings among texts ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "option"),
    [
        ("base.name=elsewhere", "--base=elsewhere"),
        ("base.device=cpu", "--device=cpu"),
        ("base.quantization=none", "--quantization=none"),
        ("base.compute_dtype=float32", "--compute-dtype=float32"),
        ("base.attn_implementation=eager", "--attn-implementation=eager"),
        ("engine=reference", "--engine=reference"),
        ("engine.implementation=reference", "--engine=reference"),
        ("training.per_device_eval_batch_size=4", "--batch-size=4"),
    ],
)
def test_a_setting_is_no_text(setting, option, toy_run, toy_base, tmp_path, monkeypatch):
    """`predict … base.name=X "text"` classified the text "base.name=X"."""
    shutil.copytree(toy_base, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    ask = ["predict", "--adapter", toy_run, "A film."]
    name = setting.partition("=")[0]
    message = f"predict takes texts, and '{setting}' is the setting {name}; use {option} ("
    failed(2, message, *ask, setting)
    assert run(*ask, option)[0] == 0  # the remedy works
    assert len(predicted("-", "--adapter", toy_run, input=setting)[0].splitlines()) == 1
    rows = ["data.num_test=4"]
    failed(2, f"; use {option}", "evaluate", "--adapter", toy_run, setting, *rows)
    assert run("evaluate", "--adapter", toy_run, option, *rows)[0] == 0


def test_other_settings_are_no_texts_either_and_other_texts_are(toy_run):
    ask = ["predict", "--adapter", toy_run]
    for setting in ("lora.r=8", "data.label_map.a=b", "prompt.max_length=9", "data.test=x.csv"):
        failed(2, "leave it out: prompt and base belong to the adapter", *ask, "A film.", setting)
    texts = ["a.b=c", "x = y", "Price: base.name", "output_dir=x", "base.nam=x"]
    assert len(predicted(*texts, "--adapter", toy_run)[0].splitlines()) == len(texts)


# --- every remedy works where it is given --------------------------------------------------------


def test_every_remedy_about_a_base_is_an_option_or_a_setting_of_that_verb(
    project, tmp_path, toy_run
):
    """lorax #346. Each message is made, its remedy is filled in and executed."""
    adapter = shutil.copytree(project / "runs" / "one", tmp_path / "adapter", ignore=IGNORE)
    base = shutil.move(project / "base", tmp_path / "elsewhere")
    (tmp_path / "empty").mkdir()
    rows = ["data.num_test=4"]
    train_ask = ["train", *SHORT, "--output-dir", tmp_path / "out"]
    check_ask = ["check", *SHORT]
    requests = [
        ["predict", "x", "--adapter", adapter],
        ["predict", "x", "--adapter", adapter, "--base", tmp_path / "none"],
        ["predict", "x", "--adapter", adapter, "--base", tmp_path / "empty"],
        ["predict", "x", "--adapter", adapter, "--base", "org/name"],
        ["predict", "x", "--adapter", adapter, "--base", ""],
        ["predict", "x", "--adapter", adapter, "--base", base, "--attn-implementation", "foo"],
        ["predict", "x", f"base.name={base}", "--adapter", adapter],
        ["evaluate", "--adapter", adapter, *rows],
        ["evaluate", "--adapter", adapter, f"base.name={base}", *rows],
        ["evaluate", "--base", tmp_path / "none", *rows],
        ["evaluate", "--base", "org/name", *rows],
        ["evaluate", "--base", base, "--attn-implementation", "foo", *rows],
        [*train_ask, f"base.name={tmp_path / 'none'}"],
        [*train_ask, f"base.name={tmp_path / 'empty'}"],
        [*train_ask, "base.name=org/name"],
        [*train_ask, "--adapter", adapter],
        [*train_ask, f"base.name={base}", "base.attn_implementation=foo"],
        [*check_ask, "base.name=org/name"],
    ]
    remedies = []
    for request in requests:
        code, stdout, stderr = run(*request)
        assert code in (2, 3), stderr
        message = stderr if request[0] != "check" else stdout
        last = message.strip().splitlines()[-1] if request[0] != "check" else message
        spelled = re.findall(r"(--[a-z-]+|[a-z_]+\.[a-z_]+)=(eager|FOLDER|BASE|/[^\s']+)", last)
        named = re.findall(r"--base\b|\bbase\.name\b", last)
        key, value = spelled[-1] if spelled else (named[-1], "FOLDER")
        if value in ("FOLDER", "BASE"):
            value = base
        repaired = _without(request, key)
        if key == "base.attn_implementation" or key == "--attn-implementation":
            assert value == "eager"
        code, _, stderr = run(*repaired, f"{key}={value}")
        assert code == 0, f"{shlex.join(map(str, repaired))} {key}={value}: {stderr}"
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        remedies.append(key)
    assert {"--base", "base.name", "--attn-implementation", "base.attn_implementation"} == set(
        remedies
    )
    assert len(remedies) == len(requests)


def _without(request, key):
    """A request without what its remedy replaces."""
    kept = [str(part) for part in request]
    if key in kept:
        place = kept.index(key)
        del kept[place : place + 2]
    names = {"--base": "base.name", "--attn-implementation": "base.attn_implementation"}
    return [part for part in kept if not part.startswith((f"{key}=", f"{names.get(key, key)}="))]


# --- an unquantized base -------------------------------------------------------------------------


def test_quantization_none_from_training_to_answers(toy_base, tmp_path):
    """`base.quantization=none`, and `--quantization` beside an adapter that records one."""
    folder = tmp_path / "run"
    settings = ["base.quantization=none", f"base.name={toy_base}", *SHORT]
    code, _, stderr = run("train", *settings, "--output-dir", folder)
    assert code == 0, stderr
    assert ClassifierFile.load(folder).base.quantization == "none"
    classifier = Classifier.load(folder)
    assert not any(hasattr(p, "quant_state") for p in classifier.model.parameters())
    stdout, stderr = predicted("A film.", "--adapter", folder, "--json")
    assert "quantization" not in stderr
    as_trained = json.loads(stdout)["probabilities"]
    same = predicted("A film.", "--adapter", folder, "--json", "--quantization", "none")
    assert json.loads(same[0])["probabilities"] == as_trained and "quantization" not in same[1]
    stdout, stderr = predicted("A film.", "--adapter", folder, "--json", "--quantization", "nf4")
    assert json.loads(stdout)["probabilities"] != as_trained
    assert "quantization: trained with none; scoring with nf4" in stderr
    rows = ["data.num_test=8", "--json"]
    code, stdout, stderr = run("evaluate", "--adapter", folder, *rows)
    assert code == 0, stderr
    result = json.loads(stdout)
    alone = ["evaluate", "--base", toy_base, "--quantization"]
    losses = [json.loads(run(*alone, q, *rows)[1])["base"]["log_loss"] for q in ("none", "nf4")]
    assert result["base"]["log_loss"] == losses[0] != losses[1]
    code, stdout, _ = run("evaluate", "--adapter", folder, "--quantization", "nf4", *rows)
    assert code == 0 and json.loads(stdout)["base"]["log_loss"] == losses[1]
    code, stdout, _ = run("evaluate", "--adapter", folder, "--quantization", "nf4", *rows[:1])
    assert code == 0 and "note: computed with quantization nf4" in stdout


def test_a_run_on_an_unquantized_base_resumes(toy_base, tmp_path):
    """Killed after step 2 and resumed, the adapter is the one of a run that never stopped."""
    whole, half = tmp_path / "whole", tmp_path / "half"
    settings = ["base.quantization=none", *SHORT]
    values = {"base.name": str(toy_base), "output_dir": str(whole)}
    train(load_config("tiny", overrides=settings, values=values))
    shutil.copytree(whole, half, ignore=shutil.ignore_patterns("checkpoint-4", "adapter_*",
                    "train_results.json"))  # fmt: skip
    shutil.copytree(whole / "checkpoint-2", half / "checkpoint-2", dirs_exist_ok=True)
    code, _, stderr = run("train", "--resume", "--output-dir", half)
    assert code == 0, stderr
    name = "adapter_model.safetensors"
    assert (whole / name).read_bytes() == (half / name).read_bytes()


def test_a_base_that_is_stored_quantized_cannot_be_loaded_unquantized(toy_base):
    message = "embedded is stored quantized, so --quantization=none is impossible; leave it at nf4"
    failed(2, message, "evaluate", "--base", "embedded", "--quantization", "none")
    failed(2, message, "predict", "x", "--quantization", "none")
    failed(2, message.replace("--", "base."), "train", "base.quantization=none", *SHORT,
           "--output-dir", "unused")  # fmt: skip
    with pytest.raises(SentiloraError, match=r"set `base` to an unquantized base"):
        Classifier.load(quantization="none")
