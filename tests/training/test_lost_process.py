"""Two machines train together and one dies: the other ends, and what was saved can be resumed.

Each process is started by itself, as on a machine of its own: under one torchrun, the launcher
would end the other.
"""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from sentilora.config import load_config
from sentilora.errors import UsageError
from sentilora.folders.checkpoints import checkpoints, faults_of
from sentilora.stages.train import train

RECIPE = [
    "training.max_steps=400", "training.eval_steps=2", "training.save_steps=2",
    "training.logging_steps=1", "training.warmup_steps=1", "training.warmup_ratio=0",
    "training.optim=adamw_torch", "data.num_train=32", "data.num_evaluation=17",
    "training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=1",
]  # fmt: skip
SECONDS = 60  # gloo notices a closed connection at once; importing and saving take the rest


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("dying", [1, 0])
def test_when_one_machine_dies_the_other_ends_with_one_line(toy_base, tmp_path, dying):
    """The other must not wait for the timeout of half an hour, nor end in a traceback."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo: two processes cannot talk on a CPU")
    folder = tmp_path / "run"
    recipe = [f"base.name={toy_base}", "base.device=cpu", *RECIPE]
    command = [sys.executable, "-m", "sentilora", "train", "--preset", "tiny", *recipe,
               "--output-dir", str(folder)]  # fmt: skip
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "LOCAL_RANK": "0",
           "LOCAL_WORLD_SIZE": "1", "MASTER_PORT": str(free_port())}  # fmt: skip
    logs = [tmp_path / f"stderr-{rank}" for rank in range(2)]
    machines = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            machines.append(subprocess.Popen(command, env=env | {"RANK": str(rank)}, stderr=file))
    try:
        end = time.monotonic() + 180
        while not list(folder.glob("checkpoint-4/trainer_state.json")):
            assert all(machine.poll() is None for machine in machines), [
                log.read_text() for log in logs
            ]
            assert time.monotonic() < end
            time.sleep(0.05)
        machines[dying].send_signal(signal.SIGKILL)
        began = time.monotonic()
        machines[1 - dying].wait(SECONDS)
    finally:
        for machine in machines:
            machine.kill()
            machine.wait()
    stderr = logs[1 - dying].read_text()
    print(f"the other ended {time.monotonic() - began:.1f} s later")
    kind = "error: " if dying else "process 1: error: "
    errors = [line for line in stderr.splitlines() if "error: " in line]
    assert machines[1 - dying].returncode == 1 and len(errors) == 1, stderr
    assert errors[0].startswith(f"{kind}another process of this training has ended"), stderr
    assert "Traceback" not in stderr and stderr.splitlines()[-1] == errors[0]

    # The newest checkpoint may be half written; the one before it is whole.
    whole = [path for path in checkpoints(folder).values() if not faults_of(path)]
    assert whole and len(whole) >= len(checkpoints(folder)) - 1
    config = load_config("tiny", overrides=recipe, values={"output_dir": str(folder)})
    with pytest.raises(UsageError, match=r"the number of processes was 2 in .* and is 1 now"):
        train(config, resume=True)
