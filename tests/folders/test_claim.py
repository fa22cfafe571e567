"""One job at a time works in an output folder: two real processes, and SIGKILL.

From a public report: torchtune #481 (two jobs write to one folder; the recipe of one lies beside
the adapter of the other).
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from commands import failed, run

from sentilora.config import load_config, read_config
from sentilora.errors import UsageError
from sentilora.folders.claim import CLAIM_FILE, claim, contents
from sentilora.stages.train import train

HOLD = """
import sys, time
from pathlib import Path
from sentilora.folders.claim import claim
with claim(Path(sys.argv[1])):
    print("claimed", flush=True)
    sys.stdin.read()
"""
# The command line, which stands still after step 3.
STAND_STILL = """
import sys, time
from sentilora.cli.app import main
from sentilora.training import callbacks

class StandStill(callbacks.StopOnInterrupt):
    def on_step_end(self, args, state, control, **kwargs):
        super().on_step_end(args, state, control, **kwargs)
        if state.global_step == 3:
            print("step 3", flush=True)
            time.sleep(600)

callbacks.StopOnInterrupt = StandStill
main()
"""
FEW = [
    "training.max_steps=6", "training.eval_steps=2", "training.save_steps=2",
    "training.optim=adamw_torch", "data.num_train=48", "data.num_evaluation=16",
]  # fmt: skip


@contextmanager
def running(program, *arguments):
    """A process that has printed its first line; it is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline(), "it ended before it stood still"
        yield process
    finally:
        process.kill()
        process.communicate()


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def test_a_second_job_is_refused_and_a_killed_one_does_not_block(toy_base, tmp_path, monkeypatch):
    """torchtune #481: also `--resume` beside a running job; nothing is loaded for a refusal."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    asked = ["train", *FEW, f"base.name={toy_base}", "--output-dir"]
    with running(STAND_STILL, *asked, folder) as job:
        before = sorted(folder.rglob("*"))
        with monkeypatch.context() as patch:
            patch.setattr("sentilora.stages.train.fit", None)
            for option in ([], ["--resume"]):
                said = failed(2, f"another job works in {folder} (process {job.pid} on ",
                              *asked, folder, *option)  # fmt: skip
                assert said.endswith("; wait until it ends, or choose another --output-dir")
                assert ", since 20" in said
        assert sorted(folder.rglob("*")) == before
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    assert (folder / CLAIM_FILE).is_file()  # it had no time to remove it
    code, _, stderr = run(*asked, folder, "--resume")
    assert code == 0, stderr
    assert not (folder / CLAIM_FILE).exists()
    config = load_config("tiny", overrides=FEW, values={"base.name": str(toy_base)})
    train(config.with_values({"output_dir": str(whole)}))
    assert weights(folder) == weights(whole)


def test_a_job_killed_before_it_began_leaves_the_folder_free(toy_base, tmp_path):
    """torchtune #481: the file that it leaves is neither a claim nor a sign of use."""
    folder = tmp_path / "run"
    with running(HOLD, folder) as job:
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    assert (folder / CLAIM_FILE).is_file() and contents(folder) == []
    few = ["training.max_steps=1", "training.eval_steps=1", "training.save_steps=1",
           "data.num_train=16", "data.num_evaluation=4"]  # fmt: skip
    code, _, stderr = run("train", f"base.name={toy_base}", *few, "--output-dir", folder)
    assert code == 0, stderr
    assert not (folder / CLAIM_FILE).exists()


def test_what_a_folder_holds_and_what_can_be_done_with_it(toy_base, toy_run, tmp_path):
    """torchtune #481: a run without a checkpoint was "in use", and could not be resumed."""
    asked = ["train", *FEW, f"base.name={toy_base}", "--output-dir"]
    folder = shutil.copytree(toy_run, tmp_path / "run")
    started = "choose another --output-dir"
    failed(2, f"{folder} holds a finished run; {started}, or remove it", *asked, folder)
    (folder / "train_results.json").unlink()
    failed(2, f"{folder} holds a run that is not finished; {started}, resume that run with "
           "--resume, or remove it", *asked, folder)  # fmt: skip
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    failed(2, f"{folder} holds a run that has no checkpoint; {started}, or remove it",
           *asked, folder)  # fmt: skip
    with running(HOLD, folder) as job:  # so that nobody removes what another job works on
        failed(2, f"another job works in {folder} (process {job.pid} on ", *asked, folder)
        code, stdout, _ = run("check", f"base.name={toy_base}", "--output-dir", folder)
        assert code == 2 and f"another job works in {folder} (process {job.pid} on " in stdout
    (tmp_path / "series").mkdir()
    folder.rename(tmp_path / "series" / "seed-42")
    failed(2, "holds a series of runs; choose another --output-dir, resume it with --resume and "
           "--seeds, or remove it", *asked, tmp_path / "series")  # fmt: skip


@pytest.mark.parametrize("series", [["--seeds", 2], ["--sizes", "12,24"]])
def test_a_series_holds_its_folder(toy_base, tmp_path, series):
    """torchtune #481: a series beside a job in its folder, and beside one in a run's folder."""
    folder = tmp_path / "series"
    asked = ["train", *series, *FEW, f"base.name={toy_base}", "--output-dir", folder]
    with running(HOLD, folder) as job:
        failed(2, f"another job works in {folder} (process {job.pid} on ", *asked)
        config = load_config("tiny", overrides=FEW, values={"base.name": str(toy_base)})
        config.with_values({"output_dir": str(folder)}).save(folder / "sentilora.toml")
        failed(2, f"another job works in {folder} (process {job.pid} on ", *asked, "--resume")
    part = folder / ("seed-42" if "--seeds" in series else "size-12")
    with running(HOLD, part) as job:
        failed(2, f"another job works in {part} (process {job.pid} on ", *asked, "--resume")


def test_a_job_that_has_just_started_is_named_when_its_folder_is_resumed(toy_base, tmp_path):
    """torchtune #481: it has no recipe there yet, so `--resume` said that there is no run."""
    asked = ["train", *FEW, f"base.name={toy_base}", "--resume", "--output-dir", tmp_path]
    with running(HOLD, tmp_path) as job:
        for series in ([], ["--seeds", 2], ["--sizes", "12,24"]):
            failed(2, f"another job works in {tmp_path} (process {job.pid} on ", *asked, *series)
    assert contents(tmp_path) == []
    for series in (
        [],
        ["--seeds", 2],
        ["--sizes", "12,24"],
    ):  # the file of a killed job is no claim
        failed(3, "to resume: sentilora.toml is missing", *asked, *series)


@pytest.mark.parametrize("inside", ["seed-43", "deep/er"])
def test_a_series_holds_the_folders_of_its_later_runs(toy_base, tmp_path, inside):
    """torchtune #481: a job could take the folder of the series' next run, which then failed."""
    folder = tmp_path / "series"
    asked = ["train", *FEW, f"base.name={toy_base}", "--output-dir", folder / inside]
    with running(HOLD, folder) as job:
        for series in ([], ["--seeds", 2]):
            said = failed(2, f"another job works in {folder} (process {job.pid} on ",
                          *asked, *series)  # fmt: skip
            assert said.endswith("; wait until it ends, or choose another --output-dir")
        assert contents(folder) == []
        with claim(tmp_path / "series-2"), claim(tmp_path / "series-2" / "seed-43"):
            pass  # another folder, and a series' own


def test_a_run_that_starts_again_in_a_series_is_not_removed_under_another_job(toy_run, tmp_path):
    """torchtune #481: what has no checkpoint is removed and trained again, if no job is there."""
    from sentilora.folders.claim import empty

    folder = shutil.copytree(toy_run, tmp_path / "run")
    with running(HOLD, folder):
        with pytest.raises(UsageError, match="another job works in"):
            empty(folder)
        assert (folder / "train_results.json").is_file()
    empty(folder)
    assert contents(folder) == []


def test_a_demo_does_not_remove_a_running_one(tmp_path, monkeypatch):
    """torchtune #481: a second `demo` used to remove the folder of the first."""
    from sentilora.presets import DEMO_FOLDER
    from sentilora.stages.demo import demo

    monkeypatch.chdir(tmp_path)
    with running(HOLD, DEMO_FOLDER):
        load_config("tiny").save(tmp_path / DEMO_FOLDER / "sentilora.toml")
        with pytest.raises(UsageError, match="another job works in"):
            demo(load_config("tiny", values={"output_dir": DEMO_FOLDER}))
        assert (tmp_path / DEMO_FOLDER / "sentilora.toml").is_file()
    assert read_config(tmp_path / DEMO_FOLDER / "sentilora.toml")


def test_of_many_claims_at_once_one_holds_at_a_time(tmp_path):
    """The file is removed after each claim, and so is the folder: no two jobs lock two files."""
    folder, holding, most, refused = tmp_path / "a" / "b", [], [], []

    def work():
        for _ in range(200):
            try:
                with claim(folder):
                    holding.append(1)
                    most.append(len(holding))
                    holding.pop()
            except UsageError:
                refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) + len(refused) == 800 and set(most) == {1}
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch, capsys):
    """Some cluster file systems refuse locks: the run goes on, and a line says what is missing."""
    import errno

    def refuse(handle):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("sentilora.folders.claim._lock", refuse)
    with claim(tmp_path):
        assert "has no locks: nothing keeps other jobs out" in capsys.readouterr().err


def test_only_the_main_process_of_a_launcher_claims(tmp_path, monkeypatch):
    with claim(tmp_path):
        monkeypatch.setenv("RANK", "1")
        with claim(tmp_path):
            pass
        assert (tmp_path / CLAIM_FILE).is_file()
    monkeypatch.delenv("RANK")
