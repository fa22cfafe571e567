"""Callbacks of a training run: checkpoints, NaN, Ctrl-C, progress."""

import contextlib
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sentilora.disk import write_atomically
from sentilora.folders.checkpoints import checkpoint_folder
from sentilora.folders.run_folder import METRICS_FILE
from sentilora.progress import Progress, is_main_process
from sentilora.training.divergence import diverged
from sentilora.training.processes import any_process, several_processes

# Under a launcher one press of Ctrl-C arrives twice: from the terminal and from the launcher.
SAME_PRESS_SECONDS = 5.0

T = TypeVar("T")


def callback_of(trainer: Trainer, kind: type[T]) -> T:
    """The trainer's callback of this class."""
    return next(c for c in trainer.callback_handler.callbacks if isinstance(c, kind))


class SaveBest(TrainerCallback):
    """Requests a checkpoint at every evaluation that is the best so far.

    The best one is the run folder's own, also when the folder was moved or copied before the run
    was resumed: a checkpoint records its path.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.best_global_step:
            best = checkpoint_folder(Path(str(args.output_dir)), state.best_global_step)
            state.best_model_checkpoint = str(best)

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
    """Ends training before NaN or infinity reaches a checkpoint, evaluation or log line.

    losses_are_finite: whether every loss so far was finite. weights_are_finite: whether the trained
    weights are, which matters before they are saved or scored.
    """

    def __init__(
        self, losses_are_finite: Callable[[], bool], weights_are_finite: Callable[[], bool]
    ) -> None:
        self._losses_are_finite = losses_are_finite
        self._weights_are_finite = weights_are_finite

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        needs_weights = control.should_save or control.should_evaluate
        if not (control.should_log or needs_weights):
            return
        # All processes stop together: a single survivor would wait forever for the others.
        became = f"became NaN or infinite by step {state.global_step}"
        if any_process(not self._losses_are_finite(), args.device):
            raise diverged(f"the loss {became}", state, args)
        if needs_weights and any_process(not self._weights_are_finite(), args.device):
            raise diverged(f"the adapter's weights {became}", state, args)


class StopOnInterrupt(TrainerCallback):
    """Turns Ctrl-C into a checkpoint and an orderly end; a second Ctrl-C ends at once.

    All processes of a run stop at the same step, whichever of them received the signal.
    interrupted: whether the run stopped before its last step.
    """

    def __init__(self) -> None:
        self.interrupted = False
        self._pressed_at: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        with contextlib.suppress(ValueError):  # outside the main thread, the caller handles signals
            self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        same_press = SAME_PRESS_SECONDS if several_processes() else 0.0
        if self._pressed_at is None:
            self._pressed_at = now
        elif now - self._pressed_at >= same_press:
            raise KeyboardInterrupt

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        pressed = any_process(self._pressed_at is not None, args.device)
        # After the last step the run is complete: end normally.
        self.interrupted = pressed and state.global_step < state.max_steps
        if self.interrupted:
            # An evaluation that is due still happens: the resumed run will not repeat it.
            args.load_best_model_at_end = False
            control.should_save = control.should_training_stop = True

    def restore(self) -> None:
        """Restore the handler that SIGINT had before training."""
        if hasattr(self, "_previous"):
            signal.signal(signal.SIGINT, self._previous)


class Report(TrainerCallback):
    """Shows progress, writes `metrics.jsonl` (a line per log entry) and times the steps."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS_FILE
        self.progress: Progress | None = None
        self.step_seconds: list[float] = []  # excludes evaluations and saving
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
        # The 8-bit optimizers synchronize at the end of their step, so this includes GPU time.
        self.step_seconds.append(time.perf_counter() - self._step_started)
        if self.progress is not None:
            self.progress.advance()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        last = state.log_history[-1]
        if self.progress is not None:
            names = {"loss": "loss", "eval_accuracy": "accuracy", "eval_log_loss": "log-loss"}
            parts = [f"{name} {last[key]:.3f}" for key, name in names.items() if key in last]
            if parts:
                self.progress.advance(0, " ".join(parts))
        if is_main_process():
            # Rewritten from the history that checkpoints store: resuming duplicates no line.
            lines = [json.dumps(entry) + "\n" for entry in state.log_history]
            write_atomically(self.path, "".join(lines))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the progress bar from the screen."""
        if self.progress is not None:
            self.progress.__exit__(None, None, None)
            self.progress = None
