"""Jobs that are killed by SIGKILL at random instants, and go on: what is lost, and what is damaged.

    python bench/kills.py [--kills 60] [--seed N] [--only training,bulk]

Each job runs once without a kill. Then it is started again and again in a fresh folder. Every
attempt is a process of its own that is killed: at any instant of its run, or at one within a phase
(a step, an evaluation, a checkpoint being saved, the end of the run, a unit being written, an
export being certified). After each kill what it left is checked; the next attempt resumes. A job
that came to its end must have written what the undisturbed one wrote: the adapter or the export to
the last bit, every row exactly once.
"""

import argparse
import functools
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import peft  # noqa: F401  what an attempt would import
import transformers  # noqa: F401
from kill_jobs import AT_ANY_TIME, NUM_ROWS, SAVE_STEPS, Job, jobs

from sentilora.bulk import results, scoring, units
from sentilora.cli.app import main as sentilora
from sentilora.exporting import certified_rows
from sentilora.folders.checkpoints import checkpoints
from sentilora.shipped import shipped_adapter
from sentilora.stages import evaluate, export, train
from sentilora.training.trainer import ClassifierTrainer

KILLS_IN_A_ROW = 8
# Phases that a job goes through once.
ONCE = ("end of the run", "joining", "report", "scoring", "writing weights", "certifying", "card")
PHASES = [
    (ClassifierTrainer, "training_step", "step"),
    (ClassifierTrainer, "evaluation_loop", "evaluation"),
    (ClassifierTrainer, "_save_checkpoint", "checkpoint"),
    (train, "finish", "end of the run"),
    (evaluate, "write_report", "report"),
    (evaluate, "store_calibration", "calibration"),
    (scoring, "classify_rows", "unit"),
    (results.Results, "write", "writing"),
    (results.Results, "join", "joining"),
    (export, "score_trained", "scoring"),
    (export, "write_model", "writing weights"),
    (export, "certify", "certifying"),
    (export, "write_card", "card"),
]


def note_phases(log: Path) -> None:
    """Make each phase write its beginning and end to a log: time, phase, +/-, optimizer step."""

    def noted(function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def with_note(*arguments: Any, **options: Any) -> Any:
            state = getattr(arguments[0], "state", None)
            for sign in "+-":
                with log.open("a") as file:
                    step = 0 if state is None else state.global_step
                    file.write(f"{time.monotonic()};{phase};{sign};{step}\n")
                if sign == "+":
                    result = function(*arguments, **options)
            return result

        return with_note

    for owner, name, phase in PHASES:
        setattr(owner, name, noted(getattr(owner, name), phase))


@dataclass
class Attempt:
    """One process that runs a command. said: the file with what it prints."""

    command: list[str]
    folder: Path
    process: int = 0
    is_over: bool = False
    log: Path = field(init=False)
    said: Path = field(init=False)

    def __post_init__(self) -> None:
        number = len(list(self.folder.glob("log-*")))
        self.log = self.folder / f"log-{number}"
        self.said = self.folder / f"said-{number}"
        self.log.touch()
        self.process = os.fork()
        if self.process:
            return
        code: Any = 1
        try:
            handle = os.open(self.said, os.O_WRONLY | os.O_CREAT)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            note_phases(self.log)
            sys.argv = ["sentilora", *self.command]
            sentilora()
        except SystemExit as end:
            code = end.code
        finally:
            os._exit(code or 0)

    def notes(self) -> list[tuple[float, str, str, int]]:
        """Time, phase, + or -, and step of each note so far."""
        lines = [line.split(";") for line in self.log.read_text().split("\n")[:-1]]
        return [(float(at), phase, sign, int(step)) for at, phase, sign, step in lines]

    def has_ended(self) -> bool:
        """Whether the process has ended; if so, it must have ended well."""
        if not self.is_over:
            process, status = os.waitpid(self.process, os.WNOHANG)
            self.is_over = bool(process)
            if process and status:
                said = self.said.read_text()
                raise SystemExit(f"{' '.join(self.command)}: status {status}: {said}")
        return self.is_over

    def wait(self) -> None:
        """Wait for the end of the process."""
        while not self.has_ended():
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill the process, and wait until it is gone."""
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)

    def steps(self) -> int:
        """Optimizer steps that were complete when it last said so."""
        return max((step for *_, step in self.notes()), default=0)


def durations(notes: list[tuple[float, str, str, int]], seconds: float) -> dict[str, float]:
    """Seconds that each phase takes at most, and the whole run, by name."""
    longest, begun = {AT_ANY_TIME: seconds}, {}
    for at, phase, sign, _ in notes:
        if sign == "+":
            begun[phase] = at
        else:
            longest[phase] = max(longest.get(phase, 0.0), at - begun[phase])
    return longest


def killed(attempt: Attempt, phase: str, lengths: dict[str, float], moments: Any) -> bool:
    """Kill an attempt within a phase, unless it ends before; whether it was killed."""
    deadline = time.monotonic() + moments.uniform(0, lengths[AT_ANY_TIME])
    occurrence = moments.randint(1, 3)
    while phase != AT_ANY_TIME:
        begun = [note for note in attempt.notes() if note[1:3] == (phase, "+")]
        if len(begun) >= occurrence or (begun and phase in ONCE):
            deadline = time.monotonic() + moments.uniform(0, lengths[phase])
            break
        if attempt.has_ended():
            return False
        time.sleep(0.005)
    while time.monotonic() < deadline:
        if attempt.has_ended():
            return False
        time.sleep(0.001)
    attempt.kill()
    return True


def prepared(job: Job, folder: Path) -> Path:
    """A fresh folder for a job."""
    folder.mkdir(parents=True)
    job.prepare(folder)
    return folder


def command(parts: list[str], folder: Path) -> list[str]:
    """The arguments of a job in this folder."""
    return [part.replace("{out}", str(folder)) for part in parts]


@dataclass
class Loss:
    """What the kills of a training cost.

    reached: steps that were complete at the last kill. lost: steps that had to be repeated, for
    each kill after which the run was taken up again.
    """

    reached: int = 0
    lost: list[int] = field(default_factory=list)

    def count(self, attempt: Attempt) -> None:
        """Take an attempt into account that has ended or was killed."""
        said = re.search(r"resuming after step ([\d,]+) of", attempt.said.read_text())
        if said:
            self.add(int(said[1].replace(",", "")))
        self.reached = max(attempt.steps(), self.reached if said is None else 0)

    def add(self, begin: int) -> None:
        """A run starts again after step `begin`."""
        self.lost.append(self.reached - begin)
        assert self.lost[-1] <= SAVE_STEPS, f"{self.lost[-1]} steps were lost"
        self.reached = 0


def start_again(run: Path, loss: Loss) -> bool:
    """Remove a run that has no checkpoint yet, as its message says; whether it had none."""
    if checkpoints(run) or not run.is_dir():
        return False
    loss.add(0)
    shutil.rmtree(run, ignore_errors=True)
    return True


def one_round(
    job: Job, folder: Path, lengths: dict[str, float], most: int, moments: random.Random, loss: Loss
) -> list[str]:
    """Kill a job until it has ended, at most `most` times; the phases in which it was killed."""
    logs = folder.with_name("logs")
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    phases: list[str] = []
    parts = job.first
    while not job.is_complete(folder):
        attempt = Attempt([part.replace("{out}", str(folder)) for part in parts], logs)
        phase = moments.choice([name for name in job.phases if name in lengths])
        if len(phases) == most or not killed(attempt, phase, lengths, moments):
            attempt.wait()
            loss.count(attempt)
            break
        phases.append(phase)
        loss.count(attempt)
        job.left(folder)
        parts = job.first if start_again(folder / "run", loss) else job.again
    return phases


def kill_again_and_again(job: Job, place: Path, kills: int, moments: random.Random) -> None:
    """Run a job undisturbed, then kill it this many times; print what was survived and lost."""
    whole = prepared(job, place / "whole")
    (place / "logs").mkdir()
    started = time.monotonic()
    attempt = Attempt([part.replace("{out}", str(whole)) for part in job.first], place / "logs")
    attempt.wait()
    lengths = durations(attempt.notes(), time.monotonic() - started)
    survived: Counter[str] = Counter()
    loss, rounds = Loss(), 0
    while survived.total() < kills:
        rounds += 1
        folder = prepared(job, place / "killed")
        most = min(KILLS_IN_A_ROW, kills - survived.total())
        loss.reached = 0
        survived.update(one_round(job, folder, lengths, most, moments, loss))
        job.complete(folder, whole)
        shutil.rmtree(folder)
        print(f"  {job.name}: {survived.total()} of {kills}", file=sys.stderr, flush=True)
    where = ", ".join(f"{phase} {count}" for phase, count in sorted(survived.items()))
    print(f"{job.name}: {survived.total()} kills survived in {rounds} runs ({where})", flush=True)
    if loss.lost:
        mean = sum(loss.lost) / len(loss.lost)
        print(
            f"  steps repeated after a kill: {mean:.1f} in the mean, {max(loss.lost)} at most; "
            f"save_steps is {SAVE_STEPS}"
        )


def main() -> None:
    """Kill each job in turn."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    parser.add_argument("--only", default="", help="beginnings of the jobs' names")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    moments = random.Random(options.seed)
    units.ROWS_PER_UNIT["cpu"] = 8
    certified_rows.NUM_PUBLIC = 20
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        place = Path(name)
        rows = place / "rows.csv"
        rows.write_text("text\n" + "".join(f"A film with number {n}.\n" for n in range(NUM_ROWS)))
        adapter = Path(shipped_adapter())
        chosen = [
            job
            for job in jobs(adapter, rows)
            if any(map(job.name.startswith, options.only.split(",")))
        ]
        # Half of the kills are the training's, and the other jobs share the rest.
        shares = [max(1, len(chosen) - 1) if job.name == "training" else 1 for job in chosen]
        for number, (job, share) in enumerate(zip(chosen, shares, strict=True)):
            kills = -(-options.kills * share // sum(shares))
            kill_again_and_again(job, place / f"job-{number}", kills, moments)


if __name__ == "__main__":
    main()
