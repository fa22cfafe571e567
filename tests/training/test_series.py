"""A series of runs: other seeds, fewer rows; each run is what `train` leaves, and what follows."""

import gc
import json
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from commands import failed, run
from small_runs import BRIEF

from sentilora.cli.options import in_options
from sentilora.config import load_config, read_config
from sentilora.folders.run_folder import TrainingResult
from sentilora.metrics import compare, measure
from sentilora.stages import repeat
from sentilora.stages.from_config import load_rows_of
from sentilora.stages.repeat import train_seeds, train_sizes
from sentilora.stages.train import train
from sentilora.training import callbacks, trainer
from sentilora.training.series import SizeSeries, more_labels, seed_series, seeds_as_table

QUICK = [
    *BRIEF,
    "training.eval_steps=2", "training.save_steps=2", "training.logging_steps=1",
    "training.optim=adamw_torch", "lora.lora_dropout=0.2", "data.num_train=48",
    "data.num_evaluation=24",
]  # fmt: skip
FOUR_STEPS = [*QUICK, "training.max_steps=4"]
THREE_EPOCHS = [*QUICK, "training.num_train_epochs=3"]


def settings(base, folder, overrides=FOUR_STEPS, **values):
    values |= {"base.name": str(base), "output_dir": str(folder)}
    return load_config("tiny", overrides=overrides, values=values)


def adapter(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def entries(folder):
    """metrics.jsonl without what the clock says, and its last line: of the steps since a resume."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "runtime" not in k and "per_second" not in k}
            for line in lines if "train_loss" not in line]  # fmt: skip


def rows_in(folder, split):
    return json.loads((folder / "data.json").read_text())[split]["rows"]


@pytest.fixture(scope="module")
def seeds_run(toy_base, tmp_path_factory):
    """(folder, stdout) of three seeds."""
    folder = tmp_path_factory.mktemp("series") / "seeds"
    code, stdout, stderr = run("train", "--seeds", 3, *FOUR_STEPS, f"base.name={toy_base}",
                               "--output-dir", folder)  # fmt: skip
    assert code == 0, stderr
    return folder, stdout


@pytest.fixture(scope="module")
def sizes_run(toy_base, tmp_path_factory):
    """(folder, stdout) of two sizes, asked for in the wrong order."""
    folder = tmp_path_factory.mktemp("series") / "sizes"
    code, stdout, stderr = run("train", "--sizes", "48,12", *THREE_EPOCHS, f"base.name={toy_base}",
                               "--output-dir", folder)  # fmt: skip
    assert code == 0, stderr
    return folder, stdout


# --- seeds


def test_a_run_of_the_series_is_the_plain_run_with_its_seed(seeds_run, toy_base, tmp_path):
    folder, _ = seeds_run
    plain = settings(toy_base, tmp_path / "plain", [*FOUR_STEPS, "training.seed=43"])
    train(plain)
    assert adapter(folder / "seed-43") == adapter(tmp_path / "plain")
    assert entries(folder / "seed-43") == entries(tmp_path / "plain")
    probabilities = [np.load(at / "evaluation_probabilities.npy")
                     for at in (folder / "seed-43", tmp_path / "plain")]  # fmt: skip
    assert np.array_equal(*probabilities)
    assert adapter(folder / "seed-42") != adapter(folder / "seed-43")


def test_every_seed_has_the_same_rows(seeds_run):
    folder, _ = seeds_run
    records = [(folder / f"seed-{seed}" / "data.json").read_text() for seed in (42, 43, 44)]
    assert len(records) == 3 and len(set(records)) == 1


def test_seeds_json_holds_the_runs_and_their_spread(seeds_run):
    folder, stdout = seeds_run
    content = json.loads((folder / "seeds.json").read_text())
    assert [one["seed"] for one in content["runs"]] == [42, 43, 44]
    accuracies = []
    for one in content["runs"]:
        stored = json.loads((folder / f"seed-{one['seed']}/train_results.json").read_text())
        assert {"seed": one["seed"], **stored} == one
        accuracies.append(one["metrics"]["accuracy"])
    assert content["accuracy"]["mean"] == pytest.approx(np.mean(accuracies))
    assert content["accuracy"]["standard_deviation"] == pytest.approx(np.std(accuracies, ddof=1))
    assert content["accuracy"]["minimum"] == min(accuracies)
    for expected in ("macro-F1", "best step", "95 % Wilson", "\n43 ", "\nmean ", "\nsd ", "\nmax ",
                     "Report the mean", "warning: 3 of 3 runs have not learned the task (seed-42, ",
                     "try, in this order:\n  1. "):  # fmt: skip
        assert expected in stdout


def test_an_interrupted_series_goes_on_and_ends_as_if_nothing_had_been(
    seeds_run, toy_base, tmp_path, monkeypatch
):
    class Interrupt(callbacks.StopOnInterrupt):
        def on_step_end(self, args, state, control, **kwargs):
            if args.seed == 43 and state.global_step == 3:
                signal.raise_signal(signal.SIGINT)
            super().on_step_end(args, state, control, **kwargs)

    whole, folder = seeds_run[0], tmp_path / "parts"
    asked = ["train", "--seeds", 3, *FOUR_STEPS, f"base.name={toy_base}", "--output-dir", folder]
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "StopOnInterrupt", Interrupt)
        code, stdout, stderr = run(*asked)
    assert (code, stdout) == (130, "")
    command = f"sentilora train --seeds 3 --output-dir {folder} --resume"
    said = f"stopped in {folder}/seed-43; 1 of 3 runs are finished; resume with `{command}`"
    assert stderr.splitlines()[-1] == said
    assert not (folder / "seed-44").exists() and not (folder / "seeds.json").exists()
    finished = (folder / "seed-42/train_results.json").stat().st_mtime_ns

    failed(2, f"{folder} holds a series of runs", *asked)
    failed(2, "holds a series of runs; resume it with --resume and --seeds", "train",
           "--output-dir", folder, "--resume")  # fmt: skip
    failed(2, "training.learning_rate was 0.001", *asked, "training.learning_rate=0.1", "--resume")

    code, stdout, stderr = run(*command.split()[1:])
    assert code == 0, stderr
    assert (folder / "seed-42/train_results.json").stat().st_mtime_ns == finished
    for seed in (42, 43, 44):
        assert adapter(folder / f"seed-{seed}") == adapter(whole / f"seed-{seed}")
        assert entries(folder / f"seed-{seed}") == entries(whole / f"seed-{seed}")


def test_a_run_without_a_checkpoint_starts_again(seeds_run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(seeds_run[0], folder)
    for path in folder.glob("seed-44/checkpoint-*"):
        shutil.rmtree(path)
    (folder / "seed-44/train_results.json").unlink()
    config = read_config(folder / "sentilora.toml").with_values({"output_dir": str(folder)})
    series = train_seeds(config, 3, resume=True)
    assert adapter(folder / "seed-44") == adapter(seeds_run[0] / "seed-44")
    assert list(series.runs) == [42, 43, 44]


def test_a_series_resumes_only_a_series_of_its_kind(seeds_run, toy_base, toy_run, tmp_path):
    folder = shutil.copytree(seeds_run[0], tmp_path / "series")
    again = [*FOUR_STEPS, f"base.name={toy_base}", "--resume", "--output-dir"]
    failed(2, "holds a series of seeds; choose another --output-dir for a series of sizes",
           "train", "--sizes", "12,24", *again, folder)  # fmt: skip
    failed(2, "holds a single run; choose another --output-dir for a series of seeds",
           "train", "--seeds", 2, *again, shutil.copytree(toy_run, tmp_path / "run"))  # fmt: skip


def test_a_folder_in_a_series_that_is_not_a_runs_is_left_alone(seeds_run, toy_base, tmp_path):
    folder = shutil.copytree(seeds_run[0], tmp_path / "series")
    shutil.rmtree(folder / "seed-43")
    (folder / "seed-43").mkdir()
    (folder / "seed-43" / "notes.txt").write_text("mine")
    failed(2, f"{folder / 'seed-43'} is in use, and not by a run", "train", "--seeds", 3,
           *FOUR_STEPS, f"base.name={toy_base}", "--output-dir", folder, "--resume")  # fmt: skip
    assert (folder / "seed-43" / "notes.txt").read_text() == "mine"


def test_a_finished_run_whose_result_is_damaged_is_named(seeds_run, toy_base, tmp_path):
    folder = shutil.copytree(seeds_run[0], tmp_path / "series")
    path = folder / "seed-42" / "train_results.json"
    path.write_text("{")
    failed(3, f"{path} is damaged: it is not JSON (line 1)", "train", "--seeds", 3, *FOUR_STEPS,
           f"base.name={toy_base}", "--output-dir", folder, "--resume")  # fmt: skip


def test_a_finished_run_holds_no_memory(seeds_run, tmp_path, monkeypatch):
    """The next one needs what it had on the GPU."""
    folder, alive = tmp_path / "copy", []
    shutil.copytree(seeds_run[0], folder)
    for seed in (43, 44):
        shutil.rmtree(folder / f"seed-{seed}")
    whole = repeat.train

    def num_trainers():
        return sum(type(o) is trainer.ClassifierTrainer for o in gc.get_objects())

    def counted(config, **kwargs):
        alive.append(num_trainers())
        return whole(config, **kwargs)

    monkeypatch.setattr(repeat, "train", counted)
    config = read_config(folder / "sentilora.toml").with_values({"output_dir": str(folder)})
    gc.collect()
    others = num_trainers()  # of other tests
    repeat.train_seeds(config, 3, resume=True)
    assert len(alive) == 2 and max(alive) <= others


def test_a_series_that_cannot_begin_leaves_nothing_behind(toy_base, tmp_path):
    folder = tmp_path / "series"
    asked = [*FOUR_STEPS, f"base.name={toy_base}", "--output-dir", folder]
    failed(2, "training.save_steps=3", "train", "--seeds", 2, *asked, "training.save_steps=3")
    failed(2, "no_such", "train", "--seeds", 2, *asked, "training.optim=no_such")
    assert not folder.exists()
    failed(3, "holds no series to resume", "train", "--seeds", 2, *asked, "--resume")


# --- sizes


def test_a_size_is_the_plain_run_on_its_rows(sizes_run, toy_base, tmp_path):
    folder, _ = sizes_run
    own = ["data.num_train_subset=12", "training.max_steps=9"]  # 3 epochs of 48 rows
    train(settings(toy_base, tmp_path / "twelve", [*THREE_EPOCHS, *own]))
    assert adapter(folder / "size-12") == adapter(tmp_path / "twelve")
    train(settings(toy_base, tmp_path / "all", THREE_EPOCHS))
    assert adapter(folder / "size-48") == adapter(tmp_path / "all")
    assert entries(folder / "size-48") == entries(tmp_path / "all")


def test_sizes_are_nested_and_measured_on_the_same_rows(sizes_run):
    small, large = (sizes_run[0] / f"size-{size}" for size in (12, 48))
    assert len(rows_in(small, "train")) == 12 and len(rows_in(large, "train")) == 48
    assert set(rows_in(small, "train")) < set(rows_in(large, "train"))
    assert rows_in(small, "evaluation") == rows_in(large, "evaluation")


def test_sizes_json_compares_the_two_largest_row_by_row(sizes_run):
    folder, stdout = sizes_run
    content = json.loads((folder / "sizes.json").read_text())
    assert [one["num_train"] for one in content["runs"]] == [12, 48]
    assert content["num_steps"] == 9 and {one["num_steps"] for one in content["runs"]} == {9}
    config = read_config(folder / "size-12/sentilora.toml")
    _, evaluation = load_rows_of(config)
    truth = np.array([config.prompt.labels.index(label) for label in evaluation.labels])
    right = []
    for one in content["runs"]:
        probabilities = np.load(Path(one["output_dir"]) / "evaluation_probabilities.npy")
        metrics = measure(probabilities, truth)
        assert (metrics.accuracy, metrics.log_loss) == (
            one["metrics"]["accuracy"], one["metrics"]["log_loss"],
        )  # fmt: skip
        right.append(probabilities.argmax(-1) == truth)
    found = compare(right[1], right[0])
    assert content["comparison"]["p"] == found.p
    assert content["comparison"]["interval"] == list(found.interval)
    assert "from 12 to 48 labels" in stdout and "Every size was trained for 9 steps" in stdout
    assert (folder / "learning_curve.png").stat().st_size > 10_000


def test_a_size_can_be_evaluated_with_a_baseline_on_its_own_rows(sizes_run):
    code, stdout, stderr = run("evaluate", "--adapter", sizes_run[0] / "size-12",
                               "data.num_test=10", "--json")  # fmt: skip
    assert code == 0, stderr
    result = json.loads(stdout)
    assert result["baseline"] is not None
    assert not any("which rows" in reason or "changed" in reason for reason in result["missing"])


def test_sizes_without_an_evaluation_on_the_way_are_scored_at_the_end(toy_base, tmp_path):
    config = settings(toy_base, tmp_path / "run", QUICK).with_values(
        {"training.max_steps": 2, "training.eval_steps": 50, "training.save_steps": 50}
    )
    series = train_sizes(config, [4, 6])
    assert [result.best_step for result in series.runs.values()] == [2, 2]
    assert [result.metrics.num_rows for result in series.runs.values()] == [24, 24]


def test_a_finished_size_lends_its_figures_to_a_longer_series(sizes_run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(sizes_run[0], folder)
    config = read_config(folder / "sentilora.toml").with_values({"output_dir": str(folder)})
    series = train_sizes(config, [12, 24, 48], resume=True)
    assert list(series.runs) == [12, 24, 48]
    assert adapter(folder / "size-48") == adapter(sizes_run[0] / "size-48")


# --- what cannot be


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--seeds", "0"], 2, "--seeds is 0; a spread needs at least 2 seeds"),
        (["--seeds", "1"], 2, "--seeds is 1"),
        (
            ["--seeds", "10000000"],
            2,
            "at least 2 seeds, and 100 are plenty",
        ),
        (["--seeds", "-1"], 2, "--seeds is -1"),
        (["--seeds", "3", "training.seed=4294967294"], 2, "training.seed is 4294967296"),
        (["--sizes", "abc"], 2, "--sizes is 'abc'; write whole numbers and commas"),
        (["--sizes", "10,,20"], 2, "write whole numbers"),
        (["--sizes", ""], 2, "write whole numbers"),
        (["--sizes", "10"], 2, "at least two numbers of rows"),
        (["--sizes", "20,10,20"], 2, "--sizes has 20 twice"),
        (["--sizes", "0,10"], 2, "--sizes has 0, fewer rows than there are labels (2)"),
        (["--sizes", "1,10"], 2, "--sizes has 1, fewer rows"),
        (
            ["--sizes", "10,49"],
            3,
            "has 49, but there are only 48 training rows (data.num_train=48",
        ),
        (["--sizes", "10,20", "--seeds", "2"], 2, "--seeds and --sizes are two different series"),
        (["--seeds", "2", "--adapter", "x"], 2, "--adapter works only with a single run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_series_are_refused_before_anything_is_made(tmp_path, arguments, code, said):
    failed(code, said, "train", *FOUR_STEPS, *arguments, "--output-dir", tmp_path / "series")
    assert not (tmp_path / "series").exists()


# --- figures and words


def result(accuracy, num_rows=400, log_loss=0.25):
    right = round(accuracy * num_rows)
    probabilities = np.tile([0.8, 0.2], (num_rows, 1))
    metrics = measure(probabilities, [0] * right + [1] * (num_rows - right))
    return TrainingResult(
        output_dir="x", metrics=metrics, best_step=10, num_steps=20, train_seconds=60.0,
        step_seconds=1.0, peak_memory_gib=None, reload_difference=0.0,
    )  # fmt: skip


def test_spread_and_limit_are_the_known_values():
    series = seed_series({seed: result(a) for seed, a in ((1, 0.90), (2, 0.91), (3, 0.92))})
    assert series.accuracy.mean == pytest.approx(0.91)
    assert series.accuracy.standard_deviation == pytest.approx(0.01)  # n − 1
    # Student's t for 2 degrees of freedom, 97.5 %: 4.302653, from the tables.
    assert series.seed_limit == pytest.approx(4.302653 * 2**0.5 * 0.01, rel=1e-6)
    text = seeds_as_table(series)
    assert (
        "can differ by up to 6.1 points because of the seed alone" in text
        and "from 3 runs on the same rows; a wide limit, from few runs" in text
    )
    # Wilson of 364 of 400, by his formula: 0.87792 to 0.93428.
    assert "87.79% – 93.43%" in text and "± 2.8 points" in text


def test_two_seeds_far_apart_are_too_few():
    series = seed_series({1: result(0.8), 2: result(0.9)})
    assert series.seed_limit > 1  # t is 12.7
    assert "2 runs are too few to estimate the effect of the seed" in seeds_as_table(series)
    same = seed_series({1: result(0.8), 2: result(0.8)})
    assert "the 2 runs have the same accuracy" in seeds_as_table(same)


@pytest.mark.parametrize(
    ("only_largest", "only_before", "said"),
    [
        (
            30,
            5,
            r"^More labels still help: from 400 to 2,000 labels accuracy changed by \+6\.2 points "
            r"\(95 % interval \+3\.\d",
        ),
        (
            12,
            9,
            r"^With 400 evaluation rows it is unclear.* by \+0\.[78] points "
            r"\(95 % interval −1\.\d to \+3",
        ),
        (5, 30, r"^More labels hurt: .* by −6\.2 points \(95 % interval −9\.\d to −3"),
    ],
)
def test_the_sentence_follows_the_paired_interval(only_largest, only_before, said):
    both = 400 - only_largest - only_before - 20
    rows = [(True, True)] * both + [(True, False)] * only_largest
    rows += [(False, True)] * only_before + [(False, False)] * 20
    largest, before = zip(*rows, strict=True)
    runs = {400: result(np.mean(before)), 2000: result(np.mean(largest))}
    text = more_labels(SizeSeries(runs, 375, compare(largest, before)))
    assert re.search(said, text), text
    assert "p = " in text and "--seeds" in in_options(text)


def test_more_labels_explains_an_interval_that_disagrees_with_the_test():
    rows = [(True, True)] * 17 + [(True, False)] * 14 + [(False, True)] * 5 + [(False, False)] * 4
    largest, before = zip(*rows, strict=True)
    runs = {400: result(np.mean(before), 40), 2000: result(np.mean(largest), 40)}
    text = more_labels(SizeSeries(runs, 375, compare(largest, before)))
    assert text.startswith("With 40 evaluation rows it is unclear whether more labels help")
    assert "The interval excludes zero, and yet the exact test is not significant" in text
