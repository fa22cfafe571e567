"""`sentilora demo` with few steps, and the adapter that ships with the package."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import sentilora
from sentilora.cli.app import app
from sentilora.data.sources import read_table
from sentilora.stages.demo import REVIEWS

FEW_STEPS = [
    "training.max_steps=4", "training.eval_steps=2", "training.save_steps=2",
    "data.num_evaluation=16", "data.num_test=20",
]  # fmt: skip


@pytest.mark.slow
def test_demo_ends_with_its_tables_and_replaces_its_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sentilora-demo").mkdir()
    (tmp_path / "sentilora-demo" / "sentilora.toml").write_text("")
    outcome = CliRunner().invoke(app, ["demo", *FEW_STEPS], catch_exceptions=False)
    assert outcome.exit_code == 0
    for expected in ("20 test reviews", "fine-tuned", "TF-IDF", "untouched base", "McNemar",
                     "probability", "./sentilora-demo",
                     "sentilora predict --adapter sentilora-demo"):  # fmt: skip
        assert expected in outcome.stdout
    assert outcome.stdout.count("positive") + outcome.stdout.count("negative") >= len(REVIEWS)
    assert "replaced the previous demo" in outcome.stderr
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "sentilora-demo/training_curve.png").stat().st_size > 10_000


def test_a_demo_that_cannot_start_leaves_the_previous_one(tmp_path, monkeypatch):
    """Settings are refused by the configuration, before and after the base is loaded."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sentilora-demo"
    folder.mkdir()
    for name in ("sentilora.toml", "adapter_model.safetensors"):
        (folder / name).write_text("mine")
    for setting in ("training.save_steps=7", "data.train=none.csv", "training.optim=lomo",
                    "prompt.max_length=9", 'lora.target_modules=["nope"]'):  # fmt: skip
        outcome = CliRunner().invoke(app, ["demo", *FEW_STEPS[:1], setting])
        assert outcome.exit_code in (2, 3), outcome.output
        assert [path.name for path in tmp_path.iterdir()] == ["sentilora-demo"]
        assert {path.read_text() for path in folder.iterdir()} == {"mine"}


@pytest.mark.slow
def test_shipped_adapter_hears_negation_and_contrast():
    found = "behaviour.findings.{}.pass_rate>={}"
    requirements = [found.format("negation", 0.7), found.format("contrast", 0.75)]
    sentilora.evaluate(suite="sentiment", overrides={"data.num_test": 20}, require=requirements)


def test_shipped_adapter_answers_right_after_installation():
    folder = Path(sentilora.shipped_adapter())
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == "embedded"
    classifier = sentilora.Classifier.load()
    frame = read_table("embedded", "test")
    predicted = classifier.predict(frame["text"].to_pylist())
    right = np.mean([a == b for a, b in zip(predicted, frame["label"].to_pylist(), strict=True)])
    assert len(predicted) == 500
    assert right >= 0.80  # docs/results.md has what was measured


def test_shipped_adapter_can_be_evaluated(tmp_path):
    report = tmp_path / "report"
    outcome = CliRunner().invoke(
        app,
        ["evaluate", "data.num_test=12", "--json", "--report", str(report)],
        catch_exceptions=False,
    )
    assert outcome.exit_code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["num_rows"] == 12 and result["adapter"]["num_rows"] == 12
    assert result["baseline"] is None and "does not say which rows" in result["missing"][0]
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "<title>sentilora: the adapter that ships</title>" in page
    assert "the adapter that ships does not say which rows" in page


def test_shipped_folders_contain_no_path_of_the_machine_that_made_them():
    files = [
        path
        for folder in (sentilora.shipped_adapter(), sentilora.embedded_base())
        for path in Path(folder).iterdir()
        if path.suffix in {".json", ".md", ".toml", ".jsonl"}
    ]
    assert len(files) >= 10
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "/work" not in text and "/home" not in text and "/tmp" not in text, path
