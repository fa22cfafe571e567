"""Checkpoints that lack something or hold something else: the newest intact one is used.

From public reports: transformers #34053 (resumed without optimizer and schedule, nothing said) and
#35782 (a checkpoint that was being written when the disk filled up).
"""

import json
import re
import shutil

import pytest
import torch
from commands import failed, run

from sentilora.errors import DataError, UsageError
from sentilora.folders.checkpoints import faults_of, last_checkpoint, seal

FEW = [
    "training.max_steps=6", "training.eval_steps=2", "training.save_steps=2",
    "training.logging_steps=1", "training.optim=adamw_torch", "data.num_train=48",
    "data.num_evaluation=16", "training.learning_rate=1e-2", "training.seed=1",
]  # fmt: skip
FILES = ["adapter_model.safetensors", "adapter_config.json", "optimizer.pt", "scheduler.pt",
         "rng_state.pth", "trainer_state.json", "checksums.json"]  # fmt: skip


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def zero_inside(path):
    """A block that never reached the disk."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)


def remove(path):
    path.unlink()


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def replace_by_other(path):
    """What another session left: valid, but of another step or another program."""
    if path.suffix in (".pt", ".pth"):
        torch.save({"epoch": 3, "model": {}}, path)
    elif path.suffix == ".json":
        path.write_text('{"epoch": 3}')
    else:
        shutil.copy(path.parents[1] / "checkpoint-2" / path.name, path)


DAMAGES = [empty, cut, zero, zero_inside, remove, replace_by_folder, replace_by_other]


@pytest.fixture(scope="module")
def whole_run(toy_base, tmp_path_factory):
    """Folder of a finished run with the checkpoints 2, 4 and 6, and how it was asked for."""
    folder = tmp_path_factory.mktemp("checkpoints") / "whole"
    asked = ["train", *FEW, f"base.name={toy_base}", "--output-dir"]
    code, _, stderr = run(*asked, folder)
    assert code == 0, stderr
    state = json.loads((folder / "checkpoint-4/trainer_state.json").read_text())
    assert state["best_global_step"] == 4, "the tests below need a best step that is not the first"
    return folder, asked


def unfinished(whole, folder):
    """A copy of a run as it was before its last step."""
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("train_results.json"))
    (folder / "adapter_model.safetensors").unlink()
    shutil.rmtree(folder / "checkpoint-6")
    return folder


def without_clock(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "runtime" not in k and "per_second" not in k}
            for line in lines if "train_loss" not in line]  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_is_used(
    whole_run, tmp_path, capsys, damage, name
):
    """transformers #34053, #35782: each file that resuming reads, each kind of damage."""
    folder = unfinished(whole_run[0], tmp_path / "run")
    assert last_checkpoint(folder, 6, 0) == folder / "checkpoint-4"
    assert capsys.readouterr().err == ""
    damage(folder / "checkpoint-4" / name)
    assert last_checkpoint(folder, 6, 0) == folder / "checkpoint-2"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.search(rf"checkpoint-4/{name} is (missing|damaged|that of step 2)", lines[0])
    assert lines[0].endswith(
        f"(checkpoint-4 is now damaged-checkpoint-4): resuming from {folder / 'checkpoint-2'}"
    )
    assert (folder / "damaged-checkpoint-4").is_dir()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("optimizer.pt", remove),
        ("rng_state.pth", remove),
        ("adapter_model.safetensors", zero_inside),
        ("trainer_state.json", replace_by_other),
    ],
)
def test_a_run_resumed_from_the_checkpoint_before_is_the_whole_run(
    whole_run, tmp_path, name, damage
):
    """transformers #34053: the schedule goes on where it was, to the last bit."""
    whole, asked = whole_run
    folder = unfinished(whole, tmp_path / "run")
    damage(folder / "checkpoint-4" / name)
    code, _, stderr = run(*asked, folder, "--resume")
    assert code == 0, stderr
    assert f"warning: {folder / 'checkpoint-4' / name} is " in stderr
    for part in ("", "checkpoint-4", "checkpoint-6"):
        for file in ("adapter_model.safetensors", "optimizer.pt"):
            if (whole / part / file).is_file():
                assert (folder / part / file).read_bytes() == (whole / part / file).read_bytes()
    assert without_clock(folder) == without_clock(whole)


def test_without_an_intact_checkpoint_the_files_and_the_remedy_are_named(whole_run, tmp_path):
    """transformers #35782: exit 3, and nothing is changed."""
    whole, asked = whole_run
    folder = unfinished(whole, tmp_path / "run")
    (folder / "checkpoint-4/optimizer.pt").unlink()
    empty(folder / "checkpoint-2/adapter_model.safetensors")
    said = failed(3, f"{folder} has no checkpoint to resume from: ", *asked, folder, "--resume")
    assert f"{folder / 'checkpoint-4/optimizer.pt'} is missing" in said
    assert f"{folder / 'checkpoint-2/adapter_model.safetensors'} is damaged" in said
    assert f"; remove {folder} and train again, or restore {folder / 'checkpoint-4'}" in said
    assert (folder / "checkpoint-4").is_dir() and not (folder / "damaged-checkpoint-4").exists()


def test_a_run_of_which_the_last_checkpoint_alone_is_left_says_what_that_is_good_for(
    whole_run, tmp_path
):
    """transformers #35782: `--resume` advised to remove a run whose final weights are there."""
    whole, asked = whole_run
    folder = tmp_path / "run"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("train_results.json"))
    (folder / "adapter_model.safetensors").unlink()
    for step in (2, 4):
        cut(folder / f"checkpoint-{step}/optimizer.pt")
    said = failed(3, f"{folder} has no checkpoint to resume from: ", *asked, folder, "--resume")
    last = folder / "checkpoint-6"
    assert f"{last} is that of the last step; use {last} as the adapter" in said
    assert f", or remove {folder} and train again, or restore {folder / 'checkpoint-4'}" in said
    assert run("predict", "A film.", "--adapter", last)[0] == 0
    for step in (2, 4):
        shutil.rmtree(folder / f"checkpoint-{step}")
    state = json.loads((last / "trainer_state.json").read_text())
    state["best_global_step"] = 6
    (last / "trainer_state.json").write_text(json.dumps(state))
    seal(last, 6)
    with pytest.raises(DataError) as caught:
        last_checkpoint(folder, 6, 0)
    assert str(caught.value).endswith(
        f"{last} is that of the last step; use {last} as the adapter, with the weights of that "
        "step, or remove it and train again"
    )


@pytest.mark.parametrize("damage", [empty, cut, zero, remove])
def test_the_remedy_for_the_record_of_the_rows_is_one_that_helps(whole_run, tmp_path, damage):
    """transformers #35782: "remove it" was advised, and then the file was missing."""
    folder = unfinished(whole_run[0], tmp_path / "run")
    damage(folder / "data.json")
    fault = "missing" if damage is remove else "damaged: "
    said = failed(3, f"{folder / 'data.json'} is {fault}", "train", "--output-dir", folder,
                  "--resume")  # fmt: skip
    assert said.endswith("; restore it, or train again in another --output-dir")


@pytest.mark.parametrize("damage", [empty, cut, zero])
@pytest.mark.parametrize("name", ["sentilora.toml", "data.json", "train_results.json"])
def test_a_damaged_file_of_the_run_is_named(whole_run, tmp_path, name, damage):
    """transformers #35782: what a resumed run reads besides its checkpoints; and what helps."""
    whole, _ = whole_run
    folder = shutil.copytree(whole, tmp_path / "run")
    damage(folder / name)
    said = failed(3, str(folder / name), "train", "--output-dir", folder, "--resume")
    if name == "train_results.json":
        assert "is damaged: " in said and said.endswith(
            "; remove the file and finish the run with --resume, or train again"
        )
        (folder / name).unlink()
        code, _, stderr = run("train", "--output-dir", folder, "--resume")
        assert code == 0, stderr
        weights = "adapter_model.safetensors"
        assert (folder / weights).read_bytes() == (whole / weights).read_bytes()


def test_a_checkpoint_that_was_being_saved_is_not_used(whole_run, tmp_path, capsys):
    """transformers #35782: killed while it was written, before its checksums."""
    folder = unfinished(whole_run[0], tmp_path / "run")
    (folder / "checkpoint-5").mkdir()
    shutil.copy(folder / "checkpoint-4/adapter_model.safetensors", folder / "checkpoint-5")
    assert last_checkpoint(folder, 6, 0) == folder / "checkpoint-4"
    assert "checkpoint-5/trainer_state.json is missing" in capsys.readouterr().err


def test_a_checkpoint_that_was_being_saved_aside_is_named(whole_run, tmp_path):
    """transformers #35782: killed while it was written. The next one saved takes its place."""
    whole, asked = whole_run
    folder = unfinished(whole, tmp_path / "run")
    shutil.copytree(folder / "checkpoint-4", folder / "unfinished-checkpoint" / "checkpoint-5")
    code, _, stderr = run(*asked, folder, "--resume")
    assert code == 0, stderr
    assert f"{folder / 'unfinished-checkpoint'} is incomplete: the run ended while" in stderr
    assert not (folder / "unfinished-checkpoint").exists()
    name = "checkpoint-6/adapter_model.safetensors"
    assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_a_checkpoint_has_its_name_only_when_it_is_complete(whole_run, tmp_path, monkeypatch):
    """transformers #35782: its folder was there from the first byte on."""
    from sentilora.training import trainer

    folder, seen = tmp_path / "run", []

    def publish(saved, run, step):
        seen.append((sorted(p.name for p in run.glob("*checkpoint*")), faults_of(saved)))
        publish_as_always(saved, run, step)
        assert not faults_of(run / f"checkpoint-{step}")

    publish_as_always = trainer.publish
    monkeypatch.setattr(trainer, "publish", publish)
    assert run(*whole_run[1], folder)[0] == 0
    names = [names for names, _ in seen]
    before = ["checkpoint-2", "checkpoint-4"]
    aside = ["unfinished-checkpoint"]
    assert names == [aside, [*before[:1], *aside], [*before, *aside]]
    assert all("checksums.json is missing" in faults[0] for _, faults in seen)
    state = json.loads((folder / "checkpoint-6/trainer_state.json").read_text())
    best = f"checkpoint-{state['best_global_step']}"
    assert state["best_model_checkpoint"] == str(folder / best)


def test_a_run_is_finished_when_all_its_files_are_there(whole_run, tmp_path, monkeypatch):
    """Killed before its card, a run was finished and could not be resumed."""
    _, asked = whole_run
    with monkeypatch.context() as patch:
        patch.setattr("sentilora.stages.finish.write_model_card", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*asked, tmp_path / "run")
    assert not (tmp_path / "run" / "train_results.json").exists()
    code, _, stderr = run(*asked, tmp_path / "run", "--resume")
    assert code == 0, stderr
    for name in ("README.md", "train_results.json", "training_curve.png"):
        assert (tmp_path / "run" / name).is_file()


def test_a_checkpoint_under_another_step_is_not_used(whole_run, tmp_path, capsys):
    folder = unfinished(whole_run[0], tmp_path / "run")
    shutil.copytree(folder / "checkpoint-2", folder / "checkpoint-5")
    assert last_checkpoint(folder, 6, 0) == folder / "checkpoint-4"
    assert "checkpoint-5/checksums.json is that of step 2" in capsys.readouterr().err


def test_the_rng_state_of_each_process_is_needed(whole_run, tmp_path, monkeypatch, capsys):
    """transformers #34053: of two processes, one's state is missing."""
    folder = unfinished(whole_run[0], tmp_path / "run")
    for step in (2, 4):
        checkpoint = folder / f"checkpoint-{step}"
        shutil.copy(checkpoint / "rng_state.pth", checkpoint / "rng_state_1.pth")
        (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
        seal(checkpoint, step)
    with pytest.raises(UsageError, match=r"the number of processes was 2 in .* and is 1 now"):
        last_checkpoint(folder, 6, 0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert last_checkpoint(folder, 6, 0) == folder / "checkpoint-4"
    (folder / "checkpoint-4/rng_state_1.pth").unlink()
    assert last_checkpoint(folder, 6, 0) == folder / "checkpoint-2"
    assert "checkpoint-4/rng_state_1.pth is missing" in capsys.readouterr().err


# --- the best checkpoint


def test_a_run_whose_best_checkpoint_is_damaged_resumes_before_it(whole_run, tmp_path):
    """transformers #35782: at its end the run would load it, and report other figures."""
    whole, asked = whole_run
    folder = tmp_path / "run"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("train_results.json"))
    state = json.loads((folder / "checkpoint-6/trainer_state.json").read_text())
    best = folder / f"checkpoint-{state['best_global_step']}"
    cut(best / "adapter_model.safetensors")
    code, _, stderr = run(*asked, folder, "--resume")
    assert code == 0, stderr
    assert f"{best / 'adapter_model.safetensors'} is damaged" in stderr
    assert (folder / "adapter_model.safetensors").read_bytes() == (
        whole / "adapter_model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("damage", [cut, remove, zero_inside])
def test_a_best_checkpoint_damaged_during_the_run_is_no_result(
    whole_run, tmp_path, monkeypatch, damage
):
    """transformers #35782: transformers logs a warning and goes on with the last weights."""
    from transformers import TrainerCallback

    from sentilora.training import callbacks

    whole, asked = whole_run

    class Damage(callbacks.Report, TrainerCallback):
        def on_log(self, args, state, control, **kwargs):
            super().on_log(args, state, control, **kwargs)
            best = tmp_path / f"run/checkpoint-{state.best_global_step}"
            if state.global_step == state.max_steps and "train_loss" in state.log_history[-1]:
                damage(best / "adapter_model.safetensors")

    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "Report", Damage)
        said = failed(3, "the run's best checkpoint is damaged: ", *asked, tmp_path / "run")
    assert "; continue with --resume" in said
    assert not (tmp_path / "run/adapter_model.safetensors").exists()
    assert not (tmp_path / "run/train_results.json").exists()
    code, _, stderr = run(*asked, tmp_path / "run", "--resume")
    assert code == 0, stderr
    assert (tmp_path / "run/adapter_model.safetensors").read_bytes() == (
        whole / "adapter_model.safetensors"
    ).read_bytes()
    with pytest.raises(DataError, match="has no checkpoint to resume from"):
        last_checkpoint(tmp_path, 6, 0)


def test_a_checkpoint_whose_best_one_is_damaged_is_not_used(whole_run, tmp_path, capsys):
    """transformers #35782: the best evaluation is an older one, and its checkpoint is damaged."""
    folder = unfinished(whole_run[0], tmp_path / "run")
    later = shutil.copytree(folder / "checkpoint-4", folder / "checkpoint-5")
    seal(later, 5)
    assert last_checkpoint(folder, 6, 0) == later
    (folder / "checkpoint-4/adapter_model.safetensors").unlink()
    assert last_checkpoint(folder, 6, 0) == folder / "checkpoint-2"
    assert "checkpoint-4/adapter_model.safetensors is missing" in capsys.readouterr().err
    shutil.rmtree(folder / "checkpoint-2")
    with pytest.raises(DataError, match=r"checkpoint-4/trainer_state\.json is missing"):
        last_checkpoint(folder, 6, 0)


# --- further public reports about resuming


def test_a_run_resumes_where_it_was_moved_to(whole_run, tmp_path):
    """transformers #48315: the best checkpoint's old path was kept, and the end of the run crashed.

    Step 4 is the first of the second epoch, so this is also accelerate #2016 and ms-swift #10050:
    resumed within a later epoch, the rows came in the first epoch's order.
    """
    whole, asked = whole_run
    code, _, stderr = run(*asked, tmp_path / "before")
    assert code == 0, stderr
    (tmp_path / "elsewhere").mkdir()
    folder = unfinished(tmp_path / "before", tmp_path / "elsewhere" / "after")
    shutil.rmtree(tmp_path / "before")
    code, _, stderr = run(*asked, folder, "--resume")
    assert code == 0 and "checkpoint" not in stderr, stderr
    assert stderr.startswith("resuming after step 4 of 6\n")  # from a trial: nothing said so
    for part in ("", "checkpoint-6"):
        name = f"{part}/adapter_model.safetensors".lstrip("/")
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert without_clock(folder) == without_clock(whole)


def test_another_batch_size_is_refused_when_a_run_is_resumed(whole_run, tmp_path):
    """transformers #43708: a resumed run kept the old batch size and ran 32 steps instead of 8."""
    folder = unfinished(whole_run[0], tmp_path / "run")
    ask = [*whole_run[1], folder, "--resume"]
    failed(2, "training.gradient_accumulation_steps was 4 in", *ask,
           "training.per_device_train_batch_size=2",
           "training.gradient_accumulation_steps=8")  # fmt: skip


def test_rows_that_changed_under_their_name_are_refused_when_a_run_is_resumed(toy_base, tmp_path):
    """OpenTau #502: the file has new rows, the split moves, and validation rows are trained on."""
    rows = [f"Film number {i} is {'fine' if i % 2 else 'dull'}.,{'pn'[i % 2]}" for i in range(80)]
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(["text,label", *rows]))
    ask = ["train", *FEW, f"base.name={toy_base}", f"data.train={path}", "--output-dir",
           tmp_path / "run", 'data.label_map={p = "positive", n = "negative"}']  # fmt: skip
    assert run(*ask)[0] == 0
    unfinished(tmp_path / "run", tmp_path / "again")
    path.write_text("\n".join(["text,label", *rows, "One more film.,p"]))
    ask[ask.index(tmp_path / "run")] = tmp_path / "again"
    failed(2, "the rows of data.train have changed since the run", *ask, "--resume")
