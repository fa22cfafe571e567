"""Adapter folders that are missing, incomplete, damaged or of another base, each reported."""

import json
import shutil

import pytest
from commands import failed, predicted, run

from sentilora.config import load_config
from sentilora.errors import UsageError
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.stages.distill_settings import student_of


def test_a_folder_without_a_complete_adapter(tmp_path, toy_run):
    for verb in (["predict", "x"], ["evaluate"]):
        failed(3, "there is no adapter folder", *verb, "--adapter", tmp_path / "none")
        failed(3, "holds no adapter: adapter_config.json is missing", *verb, "--adapter", tmp_path)
    half = shutil.copytree(toy_run, tmp_path / "half", ignore=shutil.ignore_patterns("checkpoint*"))
    (half / "adapter_model.safetensors").unlink()
    failed(3, "adapter_model.safetensors is missing", "predict", "x", "--adapter", half)


def test_every_verb_refuses_an_adapter_without_its_prompt_in_the_same_words(tmp_path, toy_run):
    """Six places said it in five ways, with remedies such as `labels`, no option of that verb."""
    ignore = shutil.ignore_patterns("checkpoint*", "classifier.json")
    plain = shutil.copytree(toy_run, tmp_path / "plain", ignore=ignore)
    (tmp_path / "texts.csv").write_text("text\na film\n")
    line = f"error: {plain} has no classifier.json with its labels and its prompt; "
    line += "give an adapter that sentilora trained"
    prompt = ["--labels", "a,b", "--template", "{text}"]
    student = ["--base", "embedded", "--output-dir", tmp_path / "student"]
    for verb in (
        ["evaluate", "--adapter"],
        ["serve", "--port", "0", "--adapter"],
        ["distill", "--texts", tmp_path / "texts.csv", *student, "--teacher"],
        ["predict", "x", "--label-sets", "0.9", *prompt, "--adapter"],
        ["export", "adapter", tmp_path / "out", "--adapter"],
    ):
        assert failed(2, "", *verb, plain) == line, verb
    with pytest.raises(UsageError) as error:
        student_of(AdapterFolder.open(plain), load_config())
    assert error.value.setting == "teacher"


def test_a_damaged_adapter(tmp_path, toy_run):
    from safetensors.torch import load_file, save_file

    ignore = shutil.ignore_patterns("checkpoint*")
    folder = shutil.copytree(toy_run, tmp_path / "damaged", ignore=ignore)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    failed(3, "adapter_model.safetensors is damaged", "predict", "x", "--adapter", folder)
    tensors = load_file(toy_run / weights.name)
    (folder / "checksums.json").unlink()  # as in an adapter of plain PEFT
    for num_left in (5, 0):
        some = {name: tensors[name] for name in list(tensors)[:num_left]}
        save_file(
            {**some, "x": tensors[next(iter(tensors))].clone()}, weights, metadata={"format": "pt"}
        )
        num_lost = len(tensors) - num_left
        message = f"{weights} lacks some of the adapter's weights ({num_lost} tensors)"
        failed(3, message, "predict", "x", "--adapter", folder)
    weights.write_bytes((toy_run / weights.name).read_bytes())
    (folder / "classifier.json").write_text('{"format_version": 99}')
    message = "has format 99, but this sentilora reads formats up to"
    failed(3, message, "predict", "x", "--adapter", folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], "it is not JSON (line "),
        (lambda text: "", "it is not JSON (line 1)"),
        (lambda text: "[]", "it has no 'format_version'"),
        (lambda text: text.replace('"labels"', '"lables"'), "it has no 'labels'"),
        (lambda text: text.replace('"tail"', "5"), "its 'truncation' is 5"),
        (lambda text: text.replace("{text}", "text"), "must hold {text} exactly once"),
        (lambda text: text.replace('"negative"', "7"), "prompt.labels holds 7"),
        (lambda text: text.replace('"name"', '"nam"'), "it has no 'name'"),
        (lambda text: text.replace('"nf4"', '"int8"'), "its 'quantization' is 'int8'"),
        (lambda text: text.replace('"label_ids": [', '"label_ids": 3, "_": ['), "'label_ids' is 3"),
        (lambda text: b"\xff\xfe", "it is not UTF-8 text"),
    ],
)
def test_the_damage_of_classifier_json_is_described(tmp_path, toy_run, change, reason):
    ignore = shutil.ignore_patterns("checkpoint*")
    folder = shutil.copytree(toy_run, tmp_path / "damaged", ignore=ignore)
    path = folder / "classifier.json"
    content = change(path.read_text(encoding="utf-8"))
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = failed(3, f"{path} is damaged: ", "predict", "x", "--adapter", folder)
    assert reason in message and "; restore it" in message
    assert failed(3, f"{path} is damaged: ", "evaluate", "--adapter", folder) == message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[: len(text) // 2], "it is not JSON (line "),
        (lambda text: "null", "it has no 'base_model_name_or_path'"),
        (
            lambda text: text.replace('"peft_type": "LORA"', '"peft_type": 1'),
            "its 'peft_type' is 1",
        ),
        (lambda text: text.replace('"LORA"', '"LOAR"'), "LOAR"),
        (lambda text: text.replace('"r": 16', '"r": "x"'), "adapter_config.json"),
    ],
)
def test_the_damage_of_adapter_config_is_described(tmp_path, toy_run, change, reason):
    ignore = shutil.ignore_patterns("checkpoint*")
    folder = shutil.copytree(toy_run, tmp_path / "damaged", ignore=ignore)
    path = folder / "adapter_config.json"
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    assert reason in failed(3, str(path), "predict", "x", "--adapter", folder)
    (folder / "classifier.json").unlink()
    plain = ["--labels", "a,b", "--template", "{text}\n"]
    assert reason in failed(3, str(path), "predict", "x", "--adapter", folder, *plain)


def test_an_adapter_of_another_base(tmp_path, toy_base, toy_run):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    ignore = shutil.ignore_patterns("*.safetensors")
    base = shutil.copytree(toy_base, tmp_path / "other", ignore=ignore)
    config = AutoConfig.from_pretrained(base)
    config.intermediate_size = 64
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(base)
    ignore = shutil.ignore_patterns("checkpoint*")
    folder = shutil.copytree(toy_run, tmp_path / "run", ignore=ignore)
    path = folder / "classifier.json"
    path.write_text(path.read_text().replace(str(toy_base), str(base)))
    failed(2, "was trained for another base", "predict", "x", "--adapter", folder)
    failed(2, "belongs to the base", "train", "--adapter", toy_run, f"base.name={base}",
           "--output-dir", tmp_path / "new")  # fmt: skip


def test_an_unfinished_run_is_reported_with_its_last_checkpoint(toy_run, tmp_path):
    folder = tmp_path / "unfinished"
    shutil.copytree(toy_run / "checkpoint-4", folder / "checkpoint-4")
    message = "is not finished; finish it (train with --resume and this --output-dir), or use "
    failed(3, message + str(folder / "checkpoint-4"), "predict", "x", "--adapter", folder)


@pytest.mark.parametrize("verb", [["predict", "x"], ["evaluate"]])
def test_a_damaged_checkpoint_is_no_adapter(toy_run, tmp_path, verb):
    """transformers #35782: a block of zeros inside loads without an error, and answers wrongly."""
    folder = shutil.copytree(toy_run / "checkpoint-4", tmp_path / "checkpoint-4")
    weights = folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2000:-1000] = bytes(1000)
    weights.write_bytes(content)
    failed(3, f"{weights} is damaged: it is not what training saved; restore it, or remove "
           "checksums.json", *verb, "--adapter", folder)  # fmt: skip
    (folder / "checksums.json").write_text("{}")
    failed(3, "checksums.json is damaged: it has no 'step'", *verb, "--adapter", folder)


@pytest.mark.parametrize("verb", [["predict", "x"], ["evaluate"]])
@pytest.mark.parametrize("has_checkpoints", [True, False])
def test_zeros_in_a_finished_runs_weights_are_damage(toy_run, tmp_path, verb, has_checkpoints):
    """transformers #35782: only checkpoints had checksums, so the run itself answered wrongly."""
    ignore = None if has_checkpoints else shutil.ignore_patterns("checkpoint*")
    folder = shutil.copytree(toy_run, tmp_path / "run", ignore=ignore)
    weights = folder / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    start = len(content) // 4  # the header stays
    content[start:] = bytes(len(content) - start)
    weights.write_bytes(content)
    said = failed(3, f"{weights} is damaged: it is not what training saved; restore it", *verb,
                  "--adapter", folder)  # fmt: skip
    assert said.endswith(", or remove checksums.json and probes.json if it was changed on purpose")
    assert (f"restore it from {folder}/checkpoint-" in said) == has_checkpoints
    (folder / "checksums.json").unlink()
    (folder / "probes.json").unlink()
    predicted("x", "--adapter", folder)  # nothing is known about these weights


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_file_that_a_finished_run_lacks_is_in_its_best_checkpoint(toy_run, tmp_path, name):
    """transformers #35782: the remedy was to resume the run, which is finished."""
    folder = shutil.copytree(toy_run, tmp_path / "run")
    (folder / name).unlink()
    said = failed(3, f"{folder / name} is missing; restore it from ", "predict", "x",
                  "--adapter", folder)  # fmt: skip
    shutil.copy(f"{said.partition(' restore it from ')[2]}/{name}", folder)
    assert (folder / name).read_bytes() == (toy_run / name).read_bytes()
    assert predicted("x", "--adapter", folder) == predicted("x", "--adapter", toy_run)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("size", [0, 100])
def test_a_file_of_zeros_is_named(toy_run, tmp_path, name, size):
    """transformers #35782: what a full disk or a power failure leaves."""
    folder = tmp_path / "run"
    shutil.copytree(toy_run, folder, ignore=shutil.ignore_patterns("checkpoint*"))
    (folder / name).write_bytes(bytes(size))
    failed(3, f"{folder / name} is damaged: ", "predict", "x", "--adapter", folder)
    failed(3, f"{folder / name} is damaged: ", "evaluate", "--adapter", folder)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("verb", [["predict", "x"], ["evaluate"]])
def test_weights_that_are_no_numbers_are_refused(toy_run, tmp_path, verb, value):
    """From a trial: of an adapter that diverged, a note about the engine was all that was said."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "run"
    shutil.copytree(toy_run, folder, ignore=shutil.ignore_patterns("check*"))
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    last = sorted(tensors)[-1]
    tensors[last].view(-1)[-1] = float(value)
    save_file(tensors, weights, metadata={"format": "pt"})
    said = failed(3, f"{weights} holds NaN or infinite weights ({last})", *verb,
                  "--adapter", folder)  # fmt: skip
    assert said.endswith("use another adapter, or train again with a lower training.learning_rate")


def test_a_checkpoint_can_be_used_as_an_adapter(toy_run):
    stdout, _ = predicted("A film.", "--adapter", toy_run / "checkpoint-4")
    assert len(stdout.splitlines()) == 1
    code, stdout, stderr = run(
        "evaluate", "--adapter", toy_run / "checkpoint-4", "data.num_test=4", "--json"
    )
    assert code == 0 and json.loads(stdout)["test"] == "embedded", stderr
