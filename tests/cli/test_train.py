"""`sentilora train`: what it prints, and what it refuses before it works."""

import json
import re
import shutil
from pathlib import Path

import pytest
from commands import failed, run

from sentilora.errors import Interrupted
from sentilora.shipped import reviews_path


@pytest.mark.parametrize("base", ["nowhere/at/all", "./nowhere", "mistralai/Mistral-7B-v0.1"])
def test_a_base_that_cannot_be_had(tmp_path, base):
    output = ["--output-dir", tmp_path / "run"]
    said = "not reachable; load the base from a folder: base.name=" if base[0] == "m" else base
    failed(3, said, "train", f"base.name={base}", *output)
    failed(3, said.replace("base.name", "--base"), "evaluate", "--base", base)
    assert not (tmp_path / "run").exists()


def test_a_setting_that_belongs_to_the_adapter_is_refused(tmp_path, toy_base, toy_run):
    """`train --adapter a lora.r=4` trained with the adapter's r: the setting was ignored.

    Also where it is the preset's own value, and where a file sets it.
    """
    from sentilora.config import load_config
    from sentilora.folders.adapter_folder import AdapterFolder
    from sentilora.stages.starting_points import with_lora_of

    folder = shutil.copytree(toy_run, tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(path.read_text().replace('"r": 16', '"r": 8'))
    (tmp_path / "my.toml").write_text("[lora]\nr = 16\n")
    asked = ["train", "--adapter", folder, f"base.name={toy_base}", "--output-dir", tmp_path / "x"]
    for r, options in ((4, ["lora.r=4"]), (16, ["lora.r=16"]), (16, ["--config", "my.toml"])):
        options = [tmp_path / option if option == "my.toml" else option for option in options]
        said = failed(2, f"lora.r is {r}, but the adapter in {folder} has 8", *asked, *options)
        assert "; leave out lora.r, which belongs to the adapter, or train a new adapter" in said
    assert not (tmp_path / "x").exists()

    same = ["lora.r=8", 'lora.target_modules=["v_proj", "q_proj", "k_proj", "o_proj", "gate_proj",'
            ' "up_proj", "down_proj"]']  # fmt: skip
    for overrides in ([], same):
        config = load_config("tiny", overrides=overrides, values={"base.name": str(toy_base)})
        start = AdapterFolder.open(folder)
        assert with_lora_of(start, config).lora.r == 8


def test_a_folder_that_is_no_base(tmp_path, toy_base):
    failed(3, "is not a model folder: it has no config.json", "train", f"base.name={tmp_path}")
    broken = shutil.copytree(toy_base, tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    failed(3, f"cannot load {broken}", "evaluate", "--base", broken)
    (broken / "config.json").write_text("{")
    failed(3, f"cannot load {broken}", "evaluate", "--base", broken)


def test_an_output_folder_in_use_is_refused(tmp_path, toy_base):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")
    base = f"base.name={toy_base}"
    failed(2, "is in use; choose another", "train", base, "--output-dir", tmp_path / "run")
    failed(3, "holds no run to resume", "train", base, "--output-dir", tmp_path / "run", "--resume")
    assert (tmp_path / "run" / "precious.txt").read_text() == "mine"
    assert len(list((tmp_path / "run").iterdir())) == 1


def test_an_output_folder_that_cannot_be_made_is_refused_before_the_base_is_loaded(
    toy_base, tmp_path, monkeypatch
):
    monkeypatch.setattr("sentilora.stages.train.load_base_of", None)
    (tmp_path / "file").write_text("mine")
    said = f"cannot create {tmp_path / 'file/run'}: {tmp_path / 'file'} is not a folder"
    new = tmp_path / "file" / "run"
    failed(2, said, "train", f"base.name={toy_base}", "--output-dir", new)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    failed(2, f"{tmp_path} may not be written to; choose another --output-dir", "train",
           f"base.name={toy_base}", "--output-dir", tmp_path / "new" / "run")  # fmt: skip


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="there is no /proc, where nobody can write")
def test_an_output_folder_that_cannot_be_made_after_all(toy_base):
    failed(1, "cannot write to /proc/none", "train", f"base.name={toy_base}", "--output-dir",
           "/proc/none", "data.num_train=16", "data.num_evaluation=4")  # fmt: skip


def test_what_transformers_cannot_do_is_refused_before_the_base_is_loaded(
    toy_base, tmp_path, monkeypatch
):
    monkeypatch.setattr("sentilora.stages.train.load_base_of", None)
    for setting in ("optim=lomo", "report_to=neptune", "lr_scheduler_type=cosine_with_min_lr"):
        failed(2, f"training.{setting} is unavailable here", "train", f"base.name={toy_base}",
               f"training.{setting}", "--output-dir", tmp_path / "run")  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_prompts_longer_than_the_base_knows_are_warned_of(toy_base, tmp_path):
    long, fits = "prompt.max_length=2049", "prompt.max_length=2048"
    said = "prompt.max_length is 2,049, but the base has 2,048 positions"
    assert said in run("check", f"base.name={toy_base}", long)[1]
    assert "positions" not in run("check", f"base.name={toy_base}", fits)[1]
    few = ["training.max_steps=1", "training.eval_steps=1", "training.save_steps=1",
           "data.num_train=16", "data.num_evaluation=4"]  # fmt: skip
    folder = tmp_path / "run"
    code, _, stderr = run("train", f"base.name={toy_base}", long, *few, "--output-dir", folder)
    assert code == 0 and f"warning: {said}" in stderr


def test_evaluation_rows_of_one_label_are_warned_of_and_have_no_macro_f1(toy_base, tmp_path):
    """keras #796, LightGBM #4626. `check` warns too, and refuses such training rows."""
    for name, labels in (("train", ["positive", "negative"]), ("one", ["positive"])):
        lines = [f"Film {name} {i}.,{labels[i % len(labels)]}\n" for i in range(16)]
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(lines))
    ask = [f"base.name={toy_base}", f"data.train={tmp_path / 'train.csv'}", "data.num_train=0",
           f"data.evaluation={tmp_path / 'one.csv'}", f"data.test={tmp_path / 'one.csv'}",
           "data.num_evaluation=0", "training.max_steps=1", "training.eval_steps=1",
           "training.save_steps=1", "--output-dir", tmp_path / "run"]  # fmt: skip
    said = "no evaluation row is labeled negative: there is no macro-F1 for rows of a single label"
    code, stdout, _ = run("check", *ask)
    assert code == 0 and f"! data                {said}" in stdout
    assert f"! data                {said.replace('evaluation', 'test')}" in stdout
    code, stdout, stderr = run("train", *ask)
    assert code == 0 and f"warning: {said}" in stderr and "macro-F1 –, log-loss" in stdout
    results = (tmp_path / "run/train_results.json").read_text()
    assert json.loads(results)["metrics"]["macro_f1"] is None
    assert "macro_f1" not in (tmp_path / "run/metrics.jsonl").read_text()
    card = (tmp_path / "run/README.md").read_text()
    assert "| – |" in card and "type: accuracy" in card and "type: f1" not in card
    assert run("evaluate", "--adapter", tmp_path / "run")[0] == 0  # which reads the results
    swapped = [item for item in ask if not str(item).startswith("data.train=")]
    swapped += [f"data.train={tmp_path / 'one.csv'}", "training.seed=2"]
    for verb in ("check", "train"):
        code, stdout, stderr = run(verb, *swapped, "--output-dir", tmp_path / "new")
        assert code == 3 and "cannot hold the labels: all its 16 values are" in stdout + stderr
        code, stdout, stderr = run(
            verb, *swapped, "--output-dir", tmp_path / "new", "--labels", "positive, negative"
        )
        assert code == 3 and "16 training rows of" in stdout + stderr
        assert "all of them 'positive'" in stdout + stderr


def test_ctrl_c_ends_with_the_command_that_resumes(tmp_path, monkeypatch):
    """Under a launcher it includes the launch, with as many processes."""

    def interrupt(*args, **kwargs):
        raise Interrupted("stopped after step 3", remedy="continue with `resume`")

    monkeypatch.setattr("sentilora.stages.train.train", interrupt)
    folder = tmp_path / "my run"  # the command is copied into a shell (sh #756)
    command = f"sentilora train --output-dir '{folder}' --resume"
    for num_processes, launch in ((1, ""), (2, "accelerate launch --num_processes 2 -m ")):
        monkeypatch.setenv("WORLD_SIZE", str(num_processes))
        code, stdout, stderr = run("train", "--preset", "tiny", "--output-dir", folder)
        assert (code, stdout) == (130, "")
        assert stderr == f"stopped after step 3; resume with `{launch}{command}`\n"


def test_train_prints_its_result_and_keeps_the_notices_apart(toy_base, tmp_path):
    lines = reviews_path("train").read_text(encoding="utf-8").splitlines()[:40]
    source = tmp_path / "my reviews.jsonl"
    source.write_text("\n".join(lines), encoding="utf-8")
    folder = tmp_path / "my run"
    code, stdout, stderr = run(
        "train", f"base.name={toy_base}", f"data.train={source}", "data.num_train=16",
        "data.num_evaluation=8", "training.max_steps=2", "training.eval_steps=1",
        "training.save_steps=1", "--output-dir", folder, "--verbose",
    )  # fmt: skip
    assert code == 0, stderr
    assert re.match("best step: [12] of 2, trained in ", stdout)
    place, warning, heading, *steps = stdout.splitlines()[2:]  # two steps teach nothing
    assert place == f"adapter in '{folder}'" and heading == "try, in this order:"
    assert warning.startswith("warning: this run has not learned the task: ")
    assert steps[:2] == [
        "  1. more labeled rows: 8 evaluation rows show next to nothing",
        "  2. training.learning_rate=search, which tries three rates",
    ]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"evaluate --adapter '{folder}'`" in card and f'Classifier.load("{folder}")' in card
    for notice in ("no --preset given, using tiny", "train: 16 rows", "evaluation: 8 rows",
                   "training.optim: paged_adamw_8bit pages"):  # fmt: skip
        assert notice in stderr, notice
    for name in ("adapter_model.safetensors", "adapter_config.json", "classifier.json", "data.json",
                 "sentilora.toml", "metrics.jsonl", "training_curve.png", "README.md",
                 "tokenizer.json", "train_results.json"):  # fmt: skip
        assert (folder / name).is_file(), name
    failed(
        2, "training.seed was 42", "train", "--resume", "--output-dir", folder, "training.seed=1"
    )
    source.write_text("\n".join(lines[1:]), encoding="utf-8")
    failed(2, "the rows of data.train have changed", "train", "--resume", "--output-dir", folder)
