"""Benches of quality: what the published notebook's prompts lose, and tiny runs of both scripts."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sentilora.config import load_config

BENCH = Path(__file__).parents[1] / "bench"
TINY = ["--data", "embedded", "--rows", "16", "--evaluation-rows", "4", "--test-rows", "6",
        "--set", "training.num_train_epochs=1"]  # fmt: skip


@pytest.fixture(scope="module")
def notebook():
    """bench/published_recipe.py as a module."""
    sys.path.insert(0, str(BENCH))
    try:
        yield importlib.import_module("published_recipe")
    finally:
        sys.path.remove(str(BENCH))


@pytest.fixture(scope="module")
def config():
    return load_config("mistral-7b")


def bench(script, *arguments):
    """Standard output of a script that succeeds."""
    command = [sys.executable, BENCH / script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_published_prompt_is_indented_but_for_the_review(notebook, config):
    lines = notebook.prompt_of(config, "A film.<br />It ends.\nBadly.").split("\n")
    assert lines[0] == "### Instruction:"
    assert lines[-1] == "    ### Sentiment:"
    assert lines[4:6] == ["    A film.<br />It ends.", "Badly."]
    assert lines[1].startswith("    Analyze") and lines[1].endswith("positive or negative.")


def test_its_loss_is_on_the_label_and_eos(notebook, config, toy_tokenizer):
    example = notebook.example_of(toy_tokenizer, config, "A lovely film.", "positive")
    in_loss = [token for token in example.labels if token != -100]
    assert list(example.input_ids)[-len(in_loss) :] == in_loss
    assert in_loss[-1] == toy_tokenizer.eos_token_id
    assert toy_tokenizer.decode(in_loss[:-1]).split() == ["positive"]


def test_a_long_review_loses_its_label(notebook, config, toy_tokenizer):
    example = notebook.example_of(toy_tokenizer, config, "A lovely film. " * 300, "positive")
    assert len(example.input_ids) == 512
    assert set(example.labels) == {-100}


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("\n    Positive!", "positive"),
        ("negatively", "negative"),
        ("not positive", None),
        ("", None),
    ],
)
def test_an_answer_counts_by_what_it_begins_with(notebook, answer, label):
    assert notebook.label_in(answer, ["positive", "negative"]) == label


@pytest.mark.parametrize("script", ["published_recipe.py", "peers_quality.py"])
def test_help(script):
    usage = bench(script, "--help")
    assert "--minutes" in usage
    assert "--step" not in usage


@pytest.mark.slow
def test_a_tiny_run_of_both_contenders(toy_base, tmp_path):
    command = ["published_recipe.py", "--base", toy_base, "--output", tmp_path, *TINY]
    first = bench(*command, "--seeds", "1")
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    runs = {run["contender"]: run for run in results["runs"]}
    assert set(runs) == {"notebook", "sentilora"}
    assert runs["notebook"]["training"]["num_steps"] == 1
    assert {run["metrics"]["num_rows"] for run in runs.values()} == {6}
    (test,) = results["comparisons"]
    assert 0 < test["p"] <= 1
    table = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "exact McNemar p" in table and table.count("| sentilora |") == 1
    logs = {path: path.read_bytes() for path in tmp_path.glob("*/run.log")}
    assert len(logs) == 2
    again = bench(*command, "--seeds", "1")  # nothing is run again
    assert again == first
    assert {path: path.read_bytes() for path in logs} == logs


@pytest.mark.slow
def test_a_training_that_is_stopped_is_reported_as_such(toy_base, tmp_path):
    command = [
        "published_recipe.py",
        "--base",
        toy_base,
        "--output",
        tmp_path,
        *TINY,
        "--seeds",
        "1",
    ]
    printed = bench(*command, "--contenders", "sentilora", "--minutes", "0.0001")
    assert "sentilora-seed-42: no checkpoint, stopped after 0.0001 minutes" in printed
    (run,) = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["runs"]
    assert run["metrics"] is None and run["stopped_after_minutes"] == 0.0001


def test_peers_that_are_missing_are_named(toy_base, tmp_path):
    """Without a peer there is only sentilora, which is stopped at once.

    That is, before it has begun to import: Ctrl-C within an import can be lost, and a whole run
    follows.
    """
    command = ["peers_quality.py", "--base", toy_base, "--output", tmp_path, *TINY]
    printed = bench(*command, "--peers", "unsloth", "--minutes", "0")
    assert "unsloth is left out" in printed
    assert "| sentilora | 42 |" in printed
