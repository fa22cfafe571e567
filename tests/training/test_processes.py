"""Two processes that train together, over gloo on the CPU: what they share, and how they end.

`accelerate launch --cpu` starts one process only, whatever --num_processes says; torchrun starts
them.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sentilora.config import load_config
from sentilora.errors import UsageError
from sentilora.stages.train import train

STEPS = 6
RECIPE = [
    f"training.max_steps={STEPS}", "training.eval_steps=2", "training.save_steps=2",
    "training.logging_steps=1", "training.warmup_steps=1", "training.warmup_ratio=0",
    "training.optim=adamw_torch", "lora.lora_dropout=0.0", "data.num_train=32",
    "data.num_evaluation=17", "training.gradient_accumulation_steps=2",
]  # fmt: skip
# What each of the two processes runs. One launch for all of it: most of its time is importing.
PROGRAM = """
import os, signal, sys
from sentilora.cli import app as cli
from sentilora.training import callbacks, trainer
from sentilora.config import load_config
from sentilora.errors import SentiloraError
from sentilora.stages.repeat import train_seeds
from sentilora.stages.train import train

rank, folder = int(os.environ["RANK"]), sys.argv[1]
sys.argv[1:] = ["train", *sys.argv[2:], "--output-dir", f"{folder}/whole"]
recipe = [item for item in sys.argv[2:-2]]


def attempt(name, resume=False):
    config = load_config("tiny", overrides=[*recipe, f"output_dir={folder}/{name}"])
    try:
        train(config, resume=resume)
        said = "finished"
    except (SentiloraError, KeyboardInterrupt) as error:
        said = f"{type(error).__name__}: {error}"
    with open(f"{folder}/{name}-{resume}-{rank}", "w") as file:
        file.write(said)


class OneIsTold(callbacks.StopOnInterrupt):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3 and rank == 1:
            for _ in range(2):  # by the terminal, and by the launcher
                signal.raise_signal(signal.SIGINT)
        super().on_step_end(args, state, control, **kwargs)


plain, callbacks.StopOnInterrupt = callbacks.StopOnInterrupt, OneIsTold
attempt("parts")
callbacks.StopOnInterrupt = plain
attempt("parts", resume=True)
series = train_seeds(
    load_config("tiny", overrides=[*recipe, f"output_dir={folder}/series"]), num_seeds=2
)
assert list(series.runs) == [42, 43]

whole, calls = trainer.ClassifierTrainer.training_step, []


def poisoned(self, *args, **kwargs):
    calls.append(args)
    loss = whole(self, *args, **kwargs)
    # From step 3 on it is NaN in this process, in the other one it is not.
    if rank == 1 and len(calls) > 2:
        self.all_finite &= False
    return loss


trainer.ClassifierTrainer.training_step = poisoned
attempt("nan")
trainer.ClassifierTrainer.training_step = whole
try:
    cli.main()  # leaves the group of processes, therefore last
except SystemExit as end:
    assert end.code in (0, None), end.code
"""


def weights(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder) / "adapter_model.safetensors")


def entries(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_end_together(toy_base, tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo: two processes cannot talk on a CPU")
    recipe = [f"base.name={toy_base}", "base.device=cpu", *RECIPE]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        str(program), str(tmp_path), *recipe, "training.per_device_train_batch_size=2",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr

    # One process with the same rows in a step: 4 × 2 instead of 2 × (2 × 2).
    one = load_config(
        overrides=[*recipe, "training.per_device_train_batch_size=4"],
        values={"output_dir": str(tmp_path / "one")},
    )
    train(one)
    whole = tmp_path / "whole"
    alone, together = entries(tmp_path / "one"), entries(whole)
    for key in ("loss", "eval_log_loss"):
        pairs = [(a[key], b[key]) for a, b in zip(alone, together, strict=True) if key in a]
        assert len(pairs) == {"loss": STEPS, "eval_log_loss": STEPS // 2}[key]
        np.testing.assert_allclose(*np.transpose(pairs), rtol=1e-5)
    ours, theirs = (
        weights(whole / f"checkpoint-{STEPS}"),
        weights(tmp_path / f"one/checkpoint-{STEPS}"),
    )
    assert len(ours) == 28
    for name, tensor in theirs.items():
        assert torch.linalg.norm(ours[name] - tensor) <= 2e-5 * torch.linalg.norm(tensor), name

    # Printed and written once.
    for text, stream in (("best step: ", done.stdout), ("adapter in ", done.stdout)):
        assert stream.count(text) == 1
    assert [e["step"] for e in together if "loss" in e] == list(range(1, STEPS + 1))

    # Ctrl-C in one process stops both at the same step, and the resumed run equals the whole one.
    for rank in range(2):
        said = (tmp_path / f"parts-False-{rank}").read_text()
        assert said.startswith("Interrupted: stopped after step 3, with a checkpoint in "), said
        assert said.endswith("; continue with `resume` and the same `output_dir`"), said
        assert (tmp_path / f"parts-True-{rank}").read_text() == "finished"
    resumed = weights(tmp_path / f"parts/checkpoint-{STEPS}")
    assert all(torch.equal(ours[name], resumed[name]) for name in ours)
    two = one.with_values({"output_dir": str(whole), "training.per_device_train_batch_size": 2})
    with pytest.raises(UsageError, match="is finished"):
        train(two, resume=True)

    # A series is the same runs, one after the other.
    assert (tmp_path / "series/seeds.json").is_file()
    first = weights(tmp_path / f"series/seed-42/checkpoint-{STEPS}")
    assert all(torch.equal(ours[name], first[name]) for name in ours)

    # A loss that is NaN in one process ends both, before anything of it is saved.
    for rank in range(2):
        said = (tmp_path / f"nan-False-{rank}").read_text()
        assert said.startswith("SentiloraError: the loss became NaN or infinite by step 3"), said
    assert (tmp_path / "nan/checkpoint-2").is_dir()
    assert not (tmp_path / "nan/checkpoint-4").exists()

    # One process cannot resume what two started: a step would hold other rows.
    (whole / "train_results.json").unlink()
    (whole / f"checkpoint-{STEPS}" / "trainer_state.json").unlink()
    with pytest.raises(UsageError, match=r"the number of processes was 2 in .* and is 1 now"):
        train(two, resume=True)


@pytest.mark.slow
def test_two_processes_train_shares_of_labels_as_one_does(toy_base, tmp_path):
    """A row is one term of a step's loss, in whichever process it is."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo: two processes cannot talk on a CPU")
    recipe = [f"base.name={toy_base}", "base.device=cpu", *RECIPE, "training.loss=labels"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for name, rows, start in (("one", 4, []), ("two", 2, launcher)):
        command = [
            sys.executable, *start, "-m", "sentilora", "train", *recipe,
            f"training.per_device_train_batch_size={rows}", "--output-dir", name,
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    alone, together = entries(tmp_path / "one"), entries(tmp_path / "two")
    for key in ("loss", "eval_log_loss"):
        pairs = [(a[key], b[key]) for a, b in zip(alone, together, strict=True) if key in a]
        assert len(pairs) >= STEPS // 2
        np.testing.assert_allclose(*np.transpose(pairs), rtol=1e-5)
    ours, theirs = (weights(tmp_path / f"{x}/checkpoint-{STEPS}") for x in ("two", "one"))
    for name, tensor in theirs.items():
        assert torch.linalg.norm(ours[name] - tensor) <= 5e-5 * torch.linalg.norm(tensor), name


@pytest.mark.gpu
@pytest.mark.parametrize("num_processes", [1, 2])
def test_processes_train_on_gpus_as_one_does(tmp_path, num_processes):
    """One process under a launcher has all that several have: NCCL beside captured passes."""
    if torch.cuda.device_count() < num_processes:
        pytest.skip(f"needs {num_processes} GPUs")

    def losses(name, rows_per_pass, *launcher):
        command = [
            sys.executable, *launcher, "-m", "sentilora", "train", *RECIPE, "--verbose",
            f"training.per_device_train_batch_size={rows_per_pass}", "--output-dir", name,
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert "fast engine" in done.stderr and "process_group" not in done.stderr
        one_of_many = torch.cuda.device_count() > 1 and not launcher
        assert ("GPUs is used" in done.stderr) == one_of_many
        return [entry["loss"] for entry in entries(tmp_path / name) if "loss" in entry]

    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
    alone, together = losses("one", 4), losses("several", 4 // num_processes, *launcher)
    assert len(alone) == STEPS and alone[0] != alone[-1]
    np.testing.assert_allclose(together, alone, rtol=0.02 if num_processes > 1 else 1e-6)


def test_each_process_takes_its_own_gpu(monkeypatch):
    from sentilora.models.device import place_of_process

    taken = [0]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: taken.append(number))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: taken[-1])
    assert place_of_process("cuda") == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert place_of_process("cuda") == "cuda:1" and place_of_process("cpu") == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UsageError, match="launch with --num_processes 2"):
        place_of_process("cuda")


def test_a_second_ctrl_c_ends_at_once_when_one_process_trains():
    from sentilora.training.callbacks import StopOnInterrupt

    stop = StopOnInterrupt()
    stop._on_signal(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        stop._on_signal(signal.SIGINT, None)
