"""rate_search.py: three rates are tried, and the best by log-loss trains."""

import json

import pytest
from commands import failed, run

from sentilora.config import load_config, read_config
from sentilora.errors import Interrupted, SentiloraError, UsageError
from sentilora.folders.run_folder import TrainingResult
from sentilora.stages import rate_search
from sentilora.stages.finish import finish
from sentilora.stages.rate_search import search_rate


class Result:
    def __init__(self, log_loss):
        self.metrics = self
        self.log_loss = log_loss


def search(losses, tmp_path, **values):
    """(result, trials) of a search whose trials end with these log-losses, None for divergence."""
    config = load_config(
        "tiny",
        values={"output_dir": str(tmp_path), "training.learning_rate": "search", **values},
    )
    trials, left = [], list(losses)

    def train_once(trial):
        trials.append(trial)
        if isinstance(loss := left.pop(0), Exception):
            raise loss
        return Result(loss)

    return lambda: search_rate(config, 320, train_once), trials


def diverged():
    return SentiloraError("training diverged", setting="training.learning_rate")


def test_the_lowest_log_loss_wins(tmp_path, capsys):
    go, trials = search([0.5, 0.4, 0.6], tmp_path)
    assert go() == (1e-3, {"0.0003": 0.5, "0.001": 0.4, "0.003": 0.6})
    assert [trial.training.learning_rate for trial in trials] == [3e-4, 1e-3, 3e-3]
    for trial in trials:  # 100 steps in all: a tenth would be too few to tell
        assert trial.training.max_steps == trial.training.eval_steps == 20
        assert trial.training.save_steps == 20 and trial.training.report_to == "none"
        assert trial.output_dir == str(tmp_path / "trial")
    err = capsys.readouterr().err
    assert "learning rate 1 of 3: 0.0003, 20 steps" in err
    assert "training.learning_rate=0.001: the lowest log-loss (0.0003: 0.5000, 0.001: 0.4" in err


def test_a_tenth_of_the_steps_is_enough_for_each(tmp_path):
    go, trials = search([1.0, 2.0, 3.0], tmp_path, **{"training.max_steps": 900})
    assert go()[0] == 3e-4 and {trial.training.max_steps for trial in trials} == {90}


def test_a_rate_that_diverges_is_left_out(tmp_path, capsys):
    go, _ = search([0.5, 0.4, diverged()], tmp_path)
    assert go() == (1e-3, {"0.0003": 0.5, "0.001": 0.4, "0.003": None})
    assert "0.003: diverged)" in capsys.readouterr().err


def test_where_all_diverge_a_lower_rate_is_advised(tmp_path):
    go, _ = search([diverged() for _ in range(3)], tmp_path)
    with pytest.raises(
        SentiloraError, match=r"diverged at each .*\(0.0003, 0.001, 0.003\)"
    ) as error:
        go()
    assert error.value.remedy == "set a lower one, e.g. training.learning_rate=3e-05"


def test_another_error_ends_the_search(tmp_path):
    go, trials = search([UsageError("no", setting="x")], tmp_path)
    with pytest.raises(UsageError, match="no"):
        go()
    assert len(trials) == 1


def test_ctrl_c_in_a_trial_advises_no_resuming(tmp_path, monkeypatch):
    """The command line advised to resume what was never saved."""
    go, _ = search([0.5, Interrupted("stopped after step 3", remedy="resume")], tmp_path)
    with pytest.raises(Interrupted) as error:
        go()
    assert error.value.remedy == ""

    def interrupt(*args, **kwargs):
        raise error.value

    monkeypatch.setattr("sentilora.stages.train.train", interrupt)
    code, _, stderr = run("train", "--preset", "tiny", "--output-dir", tmp_path / "x")
    assert code == 130
    assert stderr == "stopped while the learning rate was searched for: nothing was saved\n"


def test_the_rates_lie_around_that_of_the_bases_preset(tmp_path):
    """Of a saved recipe too: resumed, a series searched around another rate."""
    values = {"data.train": "mine.csv", "training.learning_rate": "search"}
    config = load_config("smollm2-135m", values=values)
    assert config.as_in_preset("training.learning_rate").training.learning_rate == 1e-3
    config.save(tmp_path / "x.toml")
    again = read_config(tmp_path / "x.toml")
    assert again.as_in_preset("training.learning_rate").training.learning_rate == 1e-3
    film = load_config("mistral-7b", values={"training.learning_rate": "search"})
    assert film.as_in_preset("training.learning_rate").training.learning_rate == 2e-4


# --- through the command line --------------------------------------------------------------------


@pytest.fixture
def command(toy_base, tmp_path, monkeypatch):
    monkeypatch.setattr(rate_search, "MIN_TRIAL_STEPS", 1)
    return ["train", f"base.name={toy_base}", "training.learning_rate=search",
            "training.max_steps=2", "training.eval_steps=1", "training.save_steps=1",
            "data.num_train=32", "data.num_evaluation=16", "--preset", "tiny",
            "--output-dir", tmp_path / "run"]  # fmt: skip


def test_a_search_is_recorded_and_leaves_no_trial(command, toy_base, tmp_path):
    code, stdout, stderr = run(*command)
    assert code == 0, stderr
    assert stderr.count("learning rate ") == 3 and stderr.count("the lowest log-loss") == 1
    assert stderr.count(f"base {toy_base} on") == 1  # the trials are silent
    result = TrainingResult.load(tmp_path / "run")
    assert list(result.learning_rates) == ["0.0003", "0.001", "0.003"]
    best = min(result.learning_rates, key=result.learning_rates.get)
    assert read_config(tmp_path / "run/sentilora.toml").training.learning_rate == float(best)
    assert not (tmp_path / "run/trial").exists()
    assert "learning_rate=search" not in stdout  # as a remedy, a second time


def test_an_interrupted_run_keeps_the_rate_that_was_found(command, tmp_path, monkeypatch):
    def stop(trainer, base, config, *args):
        if config.output_dir.endswith("trial"):
            finish(trainer, base, config, *args)
        else:
            raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("sentilora.stages.train.finish", stop)
        failed(1, "no space left", *command)
    for again in (command, ["train", "--output-dir", tmp_path / "run"]):
        code, _, stderr = run(*again, "--resume")
        if again is command:
            assert code == 0, stderr
            assert "resuming after step " in stderr and "learning rate 1 of 3" not in stderr
        else:
            assert code == 2 and "is finished" in stderr


def test_seeds_search_each_and_resume(command, tmp_path):
    """Resuming compared the rate that was found with "search", and refused."""
    code, _, stderr = run(*command, "--seeds", "2")
    assert code == 0, stderr
    assert stderr.count("learning rate 1 of 3") == 2
    assert run(*command, "--seeds", "2", "--resume")[0] == 0
    code, _, stderr = run("train", "--seeds", "3", "--resume", "--output-dir", tmp_path / "run")
    assert code == 0, stderr
    assert stderr.count("already finished") == 2 and stderr.count("learning rate 1 of 3") == 1
    rates = [
        list(
            json.loads((tmp_path / f"run/seed-{seed}/train_results.json").read_text())[
                "learning_rates"
            ]
        )
        for seed in (42, 43, 44)
    ]
    assert rates[0] == rates[1] == rates[2]
