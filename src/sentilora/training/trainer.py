"""transformers' Trainer with the two methods that label scoring needs.

`training_step` receives the examples of a whole optimizer step and splits them into passes.
`evaluation_loop` scores labels, so that early stopping and the best checkpoint use accuracy and
log-loss. The loop, the schedule, resuming, trackers and processes remain transformers'.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, rotate_checkpoints

from sentilora.engine.graph import Graphs
from sentilora.engine.swap import Engine
from sentilora.errors import SentiloraError
from sentilora.folders.checkpoints import (
    STATE_FILE,
    checkpoint_folder,
    publish,
    require_intact,
    saved_aside,
)
from sentilora.folders.classifier_file import ClassifierFile
from sentilora.metrics import Metrics, measure
from sentilora.models.adapters import save_classifier
from sentilora.progress import Progress
from sentilora.prompt import Example
from sentilora.scoring.answers import at_temperature
from sentilora.scoring.batching import collate, plan_passes
from sentilora.scoring.labels import LabelScorer, UndefinedScores
from sentilora.training.callbacks import StopOnNaN
from sentilora.training.divergence import diverged
from sentilora.training.losses import Loss, Packed
from sentilora.training.processes import any_process, as_one, several_processes, wait_for_all

logger = logging.getLogger(__name__)


class ClassifierTrainer(Trainer):
    """Trains on `Example`s and evaluates prompts by label scoring.

    A batch of the loader holds the examples of a whole optimizer step.

    loss: of the examples that share a pass. eval_prompts: token ids of each evaluation prompt.
    eval_truth: the numbers of their labels. eval_shares: with soft labels, the share of each label.
    rows_per_pass: examples per forward pass on the plain path; the engine plans by tokens.
    graphs: captured passes of the engine, None without them.
    """

    def __init__(
        self,
        *,
        model: torch.nn.Module,
        classifier: ClassifierFile,
        tokenizer: Any,
        scorer: LabelScorer,
        loss: Loss,
        eval_prompts: Sequence[list[int]],
        eval_truth: Sequence[int],
        eval_shares: Sequence[Sequence[float]],
        rows_per_pass: int,
        graphs: Graphs | None = None,
        **kwargs: Any,
    ) -> None:
        rows = list(range(len(eval_truth)))
        super().__init__(model=model, data_collator=self._collate, eval_dataset=rows, **kwargs)
        # `training_step` scales the loss by the number of answer tokens; Trainer must not.
        self.model_accepts_loss_kwargs = True
        self.classifier = classifier
        self.tokenizer = tokenizer
        self.scorer = scorer
        self.loss = loss
        self.eval_prompts = eval_prompts
        self.eval_truth = np.asarray(eval_truth)
        self.eval_shares = np.asarray(eval_shares) if eval_shares else None
        self.rows_per_pass = rows_per_pass
        self.engine = scorer.engine
        self.graphs = graphs
        # No DDP: passes and graphs run as in a single process, and a step's gradients are summed.
        self.accelerator.prepare_model = partial(
            self.accelerator.prepare_model, evaluation_mode=True
        )
        trained = [p for p in model.parameters() if p.requires_grad]
        self._trained = trained if graphs is None else [graphs.flat.whole]
        if several_processes():
            start = partial(torch.distributed.broadcast, src=0)
            as_one(start, [p.detach() for p in self._trained])
        self._upcoming: Sequence[Example] = []  # the loader's last batch: it is one step ahead
        self.best_probabilities: np.ndarray | None = None
        self._saving_in: Path | None = None  # folder of the checkpoint that is being saved
        self.all_finite = torch.ones((), dtype=torch.bool, device=self.args.device)
        # The last callback, so that no checkpoint requested before, by Ctrl-C too, holds a NaN.
        self.add_callback(
            StopOnNaN(
                lambda: bool(self.all_finite.item()),
                lambda: bool(torch.stack([p.isfinite().all() for p in self._trained]).all()),
            )
        )

    def _collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        batch = collate(examples)
        self._upcoming = batch["step"].examples
        return batch

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The loss of an optimizer step, after forward and backward over all of its passes."""
        if not model.training:
            model.train()
        if num_items_in_batch is None:
            raise SentiloraError(
                "this transformers does not count the answer tokens of a step",
                remedy="install a version that constraints.txt names",
            )
        step = inputs["step"].examples
        scale = 1 / num_items_in_batch  # counted over all processes
        if self.engine is None:
            loss = self._plain_passes(model, step, scale)
        else:
            loss = self._fast_passes(self.engine, model, step, scale)
        self.all_finite &= torch.isfinite(loss)
        if several_processes():
            # Every weight takes part in every pass, so no gradient is None.
            gradients = [cast(torch.Tensor, p.grad) for p in self._trained]
            as_one(torch.distributed.all_reduce, gradients)
        return loss * self.accelerator.num_processes  # Trainer logs the mean over the processes

    def _plain_passes(
        self, model: torch.nn.Module, step: Sequence[Example], scale: torch.Tensor | float
    ) -> torch.Tensor:
        """The loss of a step, in padded passes of `rows_per_pass` rows."""
        passes = plan_passes([len(example.input_ids) for example in step], self.rows_per_pass)
        loss = torch.zeros((), device=self.args.device)
        for chosen in passes:
            with self.compute_loss_context_manager():
                part = scale * self.loss.plain(model, [step[i] for i in chosen])
            self.accelerator.backward(part)
            loss += part.detach()
        return loss

    def _fast_passes(
        self,
        engine: Engine,
        model: torch.nn.Module,
        step: Sequence[Example],
        scale: torch.Tensor | float,
    ) -> torch.Tensor:
        """The loss of a step, in packed passes. They shrink each time memory runs out."""
        lengths = [self.loss.num_tokens(example) for example in step]
        while True:
            passes = self.loss.plan(step, engine.max_tokens)
            try:
                loss = self._run_fast_passes(engine, model, step, passes, scale)
                self._prepare_next(engine, model, step)
                return loss
            except torch.OutOfMemoryError:
                longest, largest = max(lengths), max(sum(lengths[i] for i in p) for p in passes)
                if largest <= longest:
                    raise
                engine.limit_passes(max(longest, int(0.8 * largest)))
                if self.graphs is not None:
                    self.graphs.forget()
                model.zero_grad()
            torch.cuda.empty_cache()
            logger.warning(
                "out of GPU memory: continuing with passes of up to %d tokens",
                engine.max_tokens,
            )

    def _run_fast_passes(
        self,
        engine: Engine,
        model: torch.nn.Module,
        step: Sequence[Example],
        passes: Sequence[Sequence[int]],
        scale: torch.Tensor | float,
    ) -> torch.Tensor:
        if self.graphs is None:
            engine.refresh()
        else:
            self.graphs.scale_losses(self._gradient_scale(scale))
        loss = torch.zeros((), device=self.args.device)
        for chosen in passes:
            seed = int(torch.randint(2**30, ()))  # checkpoints restore this generator
            whole = self._pack(engine, step, chosen, seed)
            if self.graphs is not None:
                loss += scale * self.graphs.backward(partial(self._packed_loss, model), *whole)
                continue
            part = scale * self._packed_loss(model, *whole)
            self.accelerator.backward(part)
            loss += part.detach()
        return loss

    def _prepare_next(
        self, engine: Engine, model: torch.nn.Module, step: Sequence[Example]
    ) -> None:
        """Capture the graphs of the next step while the GPU computes this one."""
        upcoming = self._upcoming
        if self.graphs is None or upcoming is step:
            return
        for chosen in self.loss.plan(upcoming, engine.max_tokens):
            whole = self._pack(engine, upcoming, chosen, 0)
            self.graphs.prepare(partial(self._packed_loss, model), *whole)

    def _pack(
        self, engine: Engine, step: Sequence[Example], chosen: Sequence[int], dropout_seed: int
    ) -> Packed:
        """The chosen examples of a step as a packed pass, with the tensors of its answers."""
        examples, has_graphs = [step[i] for i in chosen], self.graphs is not None
        device = "cpu" if has_graphs else self.args.device
        return self.loss.pack(engine, examples, device, dropout_seed, round_up=has_graphs)

    def _gradient_scale(self, scale: torch.Tensor | float) -> torch.Tensor:
        """The factor on a sum of losses before backward, including the loss scale of float16."""
        scaler = self.accelerator.scaler
        one = torch.ones((), device=self.args.device) * scale
        return one if scaler is None else scaler.scale(one)

    def _packed_loss(self, model: torch.nn.Module, *pass_and_answers: Any) -> torch.Tensor:
        with self.compute_loss_context_manager():
            return self.loss.packed(model, *pass_and_answers)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Label probabilities of all evaluation rows, and their metrics."""
        probabilities = self.score_evaluation()
        figures = self.measure_evaluation(probabilities)
        best = self.state.best_metric
        if best is None or figures.log_loss < best:
            self.best_probabilities = probabilities
        metrics = {
            f"{metric_key_prefix}_{name}": value
            for name in ("accuracy", "macro_f1", "log_loss")
            if (value := getattr(figures, name)) is not None  # trackers take numbers only
        }
        return EvalLoopOutput(probabilities, self.eval_truth, metrics, len(self.eval_truth))

    def measure_evaluation(self, probabilities: np.ndarray) -> Metrics:
        """Metrics of probabilities (rows, labels) of the evaluation rows."""
        return measure(probabilities, self.eval_truth, self.eval_shares)

    def score_evaluation(self) -> np.ndarray:
        """Probabilities (rows, labels) of the evaluation rows. The processes divide the rows.

        Raises `SentiloraError` in every process when a score of any is NaN.
        """
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        share = range(rank, len(self.eval_prompts), world)
        scores = None
        with Progress("evaluating", len(share)) as progress, suppress(UndefinedScores):
            scores = self.score_prompts([self.eval_prompts[i] for i in share], progress.advance)
        is_undefined = any_process(scores is None, self.args.device)
        if scores is None or is_undefined:
            problem = f"the evaluation's scores are NaN at step {self.state.global_step}"
            raise diverged(problem, self.state, self.args)
        if world == 1:
            return scores
        gathered = dict(gather_object(list(zip(share, scores.tolist(), strict=True))))
        return np.array([gathered[i] for i in range(len(self.eval_prompts))])

    def score_prompts(
        self, prompts: Sequence[list[int]], progress: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """Probabilities (prompts, labels) from the adapter's current weights."""
        return at_temperature(self.scorer.score(prompts, progress).log_probs.numpy(), 1.0)

    def release_engine(self) -> None:
        """Remove the engine from the model and free its captured passes."""
        if self.graphs is not None:
            self.graphs.forget()
        if self.engine is not None:
            self.engine.remove()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: counting would walk all parameters at every step."""
        return 0

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint aside. It gets its name when every process has saved its part."""
        run, state = Path(str(self.args.output_dir)), self.state
        with saved_aside(run) as self._saving_in:
            wait_for_all()
            super()._save_checkpoint(*args, **kwargs)
            if state.best_global_step == state.global_step:
                state.best_model_checkpoint = str(checkpoint_folder(run, state.global_step))
            wait_for_all()
            if self.args.should_save:
                saved = checkpoint_folder(self._saving_in, state.global_step)
                state.save_to_json(str(saved / STATE_FILE))  # with that path
                publish(saved, run, state.global_step)
        self._saving_in = None
        if self.args.should_save:
            with _without_remark_on_times():
                rotate_checkpoints(
                    str(run),
                    self.args.save_total_limit,
                    state.best_model_checkpoint,
                    use_mtime=True,
                )
        wait_for_all()  # the end of the run reads them

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving_in or super()._get_output_dir(trial))

    def _load_best_model(self) -> None:
        require_intact(Path(str(self.state.best_model_checkpoint)))
        super()._load_best_model()

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        # Every checkpoint is a complete classifier. PEFT's own saving would contact the hub here.
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            model = self.accelerator.unwrap_model(self.model)
            save_classifier(model, self.tokenizer, self.classifier, folder, state_dict)
            torch.save(self.args, folder / "training_args.bin")


@contextmanager
def _without_remark_on_times() -> Iterator[None]:
    """Keep from the terminal that checkpoints within a second are sorted by step, not by time."""
    source = logging.getLogger("transformers.trainer_utils")

    def is_other(record: logging.LogRecord) -> bool:
        return "mtime may not be reliable" not in str(record.msg)

    source.addFilter(is_other)
    try:
        yield
    finally:
        source.removeFilter(is_other)
