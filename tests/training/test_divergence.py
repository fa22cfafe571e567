"""Divergence ends in one line that says what to lower; checkpoints stay, and no result appears.

From a trial of public bug reports: `training.learning_rate=1e3` ended in an AssertionError beside a
complete adapter, or in exit 0 with an adapter that gives every text the same answer.
"""

import pytest
from commands import failed, run
from small_runs import BRIEF

from sentilora.errors import SentiloraError

FEW = [
    *BRIEF,
    "training.max_steps=4", "training.save_steps=2", "training.warmup_steps=0",
    "training.warmup_ratio=0", "training.optim=adamw_torch", "data.num_train=32",
    "data.num_evaluation=16",
]  # fmt: skip
ADAPTER = ("adapter_model.safetensors", "adapter_config.json", "classifier.json", "probes.json",
           "train_results.json", "unfinished-adapter")  # fmt: skip


def test_a_diverged_run_says_what_to_lower_and_is_no_result(toy_base, tmp_path):
    """Its loss stays finite, but the weights are of no use."""
    folder = tmp_path / "run"
    said = failed(1, "the best weights give every text the same answer, with a log-loss of ",
                  "train", *FEW, "training.eval_steps=2", "training.learning_rate=1e3",
                  f"base.name={toy_base}", "--output-dir", folder)  # fmt: skip
    assert said.endswith("): training diverged; lower training.learning_rate")
    assert f"(the best checkpoint is {folder}/checkpoint-" in said
    assert (folder / "checkpoint-4/adapter_model.safetensors").is_file()
    assert not [name for name in ADAPTER if (folder / name).exists()]
    fault = "the best weights give every text the same answer"
    said = failed(3, f"{folder} is not finished: {fault}", "predict", "A film.",
                  "--adapter", folder)  # fmt: skip
    assert said.endswith(  # it advised to resume, which ends the same way
        "; train again in another --output-dir, with a lower training.learning_rate"
    )
    last = folder / "checkpoint-4"
    warning = f"warning: {last} is of a run that failed: {fault}"
    for verb in (["predict", "A film."], ["evaluate", "data.num_test=4"]):
        code, _, stderr = run(*verb, "--adapter", last)
        assert code == 0 and stderr.count(warning) == 1, stderr


def test_a_diverged_run_that_is_resumed_says_so(toy_base, tmp_path, monkeypatch):
    """From a trial: resuming a diverged run ended in the same divergence, unannounced."""
    folder = tmp_path / "run"
    asked = ["train", *FEW, "training.eval_steps=2", f"base.name={toy_base}",
             "--output-dir", folder]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("sentilora.training.divergence.SAME", 10.0)
        failed(1, "training diverged; lower training.learning_rate", *asked)
    assert (folder / "divergence.json").is_file()
    code, _, stderr = run(*asked, "--resume")
    assert code == 0, stderr
    assert "warning: this run diverged before, and is likely to again: the best weights" in stderr
    assert not (folder / "divergence.json").exists()
    assert "that failed" not in run("predict", "A film.", "--adapter", folder)[2]


@pytest.mark.parametrize(
    ("rate", "engine", "problem"),
    [
        ("1e30", "auto", "the evaluation's scores are NaN at step 1 (no checkpoint was saved)"),
        ("1e30", "reference", "the evaluation's scores are NaN at step 1"),
    ],
)
def test_weights_that_overflow_are_neither_scored_nor_saved(
    toy_base, tmp_path, rate, engine, problem
):
    """The loss of the step was finite; its update was not."""
    folder = tmp_path / "run"
    said = failed(1, problem, "train", *FEW, "training.eval_steps=1", f"engine={engine}",
                  f"training.learning_rate={rate}", f"base.name={toy_base}",
                  "--output-dir", folder)  # fmt: skip
    assert said.endswith(": training diverged; lower training.learning_rate")
    assert not list(folder.glob("checkpoint-*"))
    assert not [name for name in ADAPTER if (folder / name).exists()]


def test_infinite_weights_are_not_saved(toy_base, tmp_path, monkeypatch):
    """The last step's update overflows, and no evaluation is due."""
    from sentilora.training.trainer import ClassifierTrainer

    whole, steps = ClassifierTrainer.training_step, []

    def training_step(self, *args, **kwargs):
        steps.append(1)
        loss = whole(self, *args, **kwargs)
        if len(steps) == 4:
            next(p for p in self.model.parameters() if p.requires_grad).data.fill_(float("inf"))
        return loss

    monkeypatch.setattr(ClassifierTrainer, "training_step", training_step)
    folder = tmp_path / "run"
    said = failed(1, "the adapter's weights became NaN or infinite by step 4 (the best checkpoint",
                  "train", *FEW, "training.eval_steps=2", "engine=reference",
                  f"base.name={toy_base}", "--output-dir", folder)  # fmt: skip
    assert said.endswith(": training diverged; lower training.learning_rate")
    assert (folder / "checkpoint-2").is_dir() and not (folder / "checkpoint-4").exists()


def test_a_learning_rate_beyond_float32_is_refused(tmp_path):
    failed(2, "training.learning_rate is 1e+39: it must be less than 1e+37", "train",
           "training.learning_rate=1e39", "--output-dir", tmp_path / "run")  # fmt: skip


def test_an_adapter_that_fails_after_it_was_saved_is_no_result(toy_base, tmp_path, monkeypatch):
    """What was saved is scored again; until then it lies in a folder of its own."""
    saved = []

    def refuse(trainer, base, runtime, folder, texts):
        saved.append((folder / "adapter_model.safetensors").is_file())
        raise SentiloraError("scores differently")

    monkeypatch.setattr("sentilora.training.reloading.score_reloaded", refuse)
    folder = tmp_path / "run"
    failed(1, "scores differently", "train", *FEW, "training.eval_steps=2",
           f"base.name={toy_base}", "--output-dir", folder)  # fmt: skip
    assert saved == [True]
    assert not [name for name in ADAPTER if (folder / name).exists()]
    monkeypatch.undo()
    (folder / "unfinished-adapter").mkdir()  # of a run that was killed there
    (folder / "unfinished-adapter/adapter_config.json").write_text("")
    code, _, stderr = run("train", *FEW, "training.eval_steps=2", f"base.name={toy_base}",
                          "--output-dir", folder, "--resume")  # fmt: skip
    assert code == 0, stderr
    assert [name for name in ADAPTER if (folder / name).exists()] == list(ADAPTER[:-1])


def test_a_result_no_better_than_guessing_is_reported(toy_base, tmp_path):
    """A poor classifier is one that answers texts differently; it is kept, with a warning."""
    code, _, stderr = run("train", *FEW, "training.eval_steps=2", f"base.name={toy_base}",
                          "--output-dir", tmp_path / "run")  # fmt: skip
    assert code == 0
    assert "warning: the best evaluation is no better than guessing, with a log-loss of " in stderr
    assert "where guessing has 0.6931: train for longer, or lower training.learning_rate" in stderr
