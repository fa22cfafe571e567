"""Callbacks: checkpoints, NaN, Ctrl-C, progress."""

import contextlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sentilora.errors import SentiloraError
from sentilora.folders.run_folder import METRICS_FILE
from sentilora.progress import Progress, is_main_process
from sentilora.training.processes import any_process, several_processes

# A launcher hands Ctrl-C on to processes that the terminal has told already: one press, twice.
SAME_PRESS_SECONDS = 5.0


class SaveBest(TrainerCallback):
    """Asks for a checkpoint at every evaluation that is the best so far."""

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if state.best_metric is None or kwargs["metrics"]["eval_log_loss"] < state.best_metric:
            control.should_save = True


class StopOnNaN(TrainerCallback):
    """Ends training before a checkpoint, evaluation or log line sees a loss that is no number."""

    def __init__(self, all_finite: Callable[[], bool]) -> None:
        self._all_finite = all_finite  # whether every loss so far was a number

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not (control.should_log or control.should_save or control.should_evaluate):
            return
        # All processes end, or one would wait for ever for what the other does not send.
        if any_process(not self._all_finite(), args.device):
            best = state.best_model_checkpoint
            kept = f"the best checkpoint is {best}" if best else "no checkpoint was saved before"
            raise SentiloraError(
                f"the loss became NaN or infinite by step {state.global_step}; {kept}. Lower "
                "training.learning_rate, or set base.compute_dtype=bfloat16 or float32",
                setting="training.learning_rate",
                seen=args.learning_rate,
            )


class StopOnInterrupt(TrainerCallback):
    """Turns Ctrl-C into a checkpoint and an orderly end; a second Ctrl-C ends at once.

    Of several processes all stop at the same step, whichever was told. `interrupted`: the run
    stops before its end.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._told_at: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        with contextlib.suppress(ValueError):  # not the main thread: its owner handles signals
            self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        same_press = SAME_PRESS_SECONDS if several_processes() else 0.0
        if self._told_at is None:
            self._told_at = now
        elif now - self._told_at >= same_press:
            raise KeyboardInterrupt

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        told = any_process(self._told_at is not None, args.device)
        # Behind the last step the run is complete, and ends as it would.
        self.interrupted = told and state.global_step < state.max_steps
        if self.interrupted:
            # An evaluation that is due still happens, so that a resumed run has seen it.
            args.load_best_model_at_end = False
            control.should_save = control.should_training_stop = True

    def restore(self) -> None:
        """Give SIGINT back to who had it."""
        if hasattr(self, "_previous"):
            signal.signal(signal.SIGINT, self._previous)


class Report(TrainerCallback):
    """Progress while training, `metrics.jsonl` with a line per log entry, and the steps' times."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE
        self.progress: Progress | None = None
        self.step_seconds: list[float] = []  # without evaluations and saving
        self._step_started = 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress = Progress("training", state.max_steps).__enter__()
        self.progress.done = state.global_step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step_started = time.perf_counter()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # The 8-bit optimizers wait for the GPU at the end of their step, so this is its time too.
        self.step_seconds.append(time.perf_counter() - self._step_started)
        if self.progress is not None:
            self.progress.advance()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        last = state.log_history[-1]
        if self.progress is not None:
            shown = {"loss": "loss", "eval_accuracy": "accuracy", "eval_log_loss": "log-loss"}
            parts = [f"{name} {last[key]:.3f}" for key, name in shown.items() if key in last]
            if parts:
                self.progress.advance(0, " ".join(parts))
        if is_main_process():
            # Whole, from the history that checkpoints carry: a resumed run leaves no line twice.
            lines = [json.dumps(entry) + "\n" for entry in state.log_history]
            self.path.write_text("".join(lines), encoding="utf-8")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.progress is not None:
            self.progress.__exit__(None, None, None)
            self.progress = None
