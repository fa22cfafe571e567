"""Every block of the README runs, except those that need a GPU or a hub."""

import re
import shlex
from pathlib import Path

import pytest

import sentilora
from sentilora.cli.app import app

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_every_block_runs(tmp_path, monkeypatch, capsys):
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(README.read_text(encoding="utf-8"))
    names = {"sentilora": sentilora}
    commands = 0
    for language, source in blocks:
        if language == "python":
            exec(compile(source, "README.md", "exec"), names)
            continue
        for line in source.strip().splitlines():
            program, *arguments = shlex.split(line)
            assert program == "sentilora"
            outcome = CliRunner().invoke(app, arguments, catch_exceptions=False)
            assert outcome.exit_code == 0, (line, outcome.output)
            commands += 1
    assert len(blocks) >= 8
    assert commands >= 6
    assert (tmp_path / "labelled.csv").is_file()
    assert "0." in capsys.readouterr().out


def test_blocks_that_do_not_run_say_why():
    text = README.read_text(encoding="utf-8")
    consoles = text.split("```console")
    assert len(consoles) == 3
    assert "make demo" in consoles[1].split("```")[0]
    assert consoles[1].rstrip().endswith("<!-- needs a GPU and the hub -->")


@pytest.mark.parametrize(
    "name",
    [
        "docs/results.md",
        "src/sentilora/assets/suites/sentiment.toml",
        "src/sentilora/presets/mistral-7b.toml",
    ],
)
def test_links_lead_somewhere(name):
    assert name in README.read_text(encoding="utf-8")
    assert (README.parent / name).is_file()
