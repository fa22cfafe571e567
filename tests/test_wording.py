"""wording.py: names in messages are quoted where their ends are unclear, in every message."""

import ast
import re
from pathlib import Path

import pytest
from commands import failed, run

import sentilora
from sentilora.wording import as_p

PACKAGE = Path(sentilora.__file__).parent
# What holds a name of the user's, wherever it stands in an f-string.
NAMES = {
    "path", "folder", "source", "file", "checkpoint", "run", "output", "output_dir", "cache",
    "adapter", "cached_in", "self.path", "folder.path", "rows.source", "suite.source",
    "self.source", "result.output_dir", "config.base.name", "columns.text", "columns.label",
    "data.test", "self.output_dir",
}  # fmt: skip
NO_MESSAGES = {  # (file, name): what the f-string is
    ("folders/card.py", "source"),  # the card's metadata
    ("exporting/card.py", "source"),  # the same of an export's card
    ("exporting/gguf.py", "file"),  # a line of Ollama's Modelfile
    ("models/bases.py", "cache"),  # part of a name that is quoted where it is shown
    ("stages/evaluate.py", "data.test"),  # a cell of the report
}


def unquoted(source):
    """(line, name) of the names that an f-string shows as they are."""
    return [
        (node.lineno, ast.unparse(node.value))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FormattedValue)
        and node.conversion == -1
        and ast.unparse(node.value) in NAMES
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.020062, "p = 0.02"),
        (2.3456e-7, "p = 2.3e-07"),
        (1.0, "p = 1"),
        (0.0, "p < 1e-300"),
        (0.0496, "p = 0.0496"),  # two digits would be 0.05, which is not below 0.05
        (0.0499999, "p = 0.0499999"),
        (0.0501, "p = 0.05"),
        (0.05, "p = 0.05"),
    ],
)
def test_a_p_value_is_never_rounded_across_what_decides(value, text):
    assert as_p(value) == text


def test_names_are_quoted_in_every_message():
    sites = {
        (path.relative_to(PACKAGE).as_posix(), name)
        for path in PACKAGE.rglob("*.py")
        for _, name in unquoted(path.read_text(encoding="utf-8"))
    }
    assert sites == NO_MESSAGES
    everything = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert len(re.findall(r"\{(?:quoted|listed)\(", everything)) > 90
    planted = 'raise ValueError(f"{path} is damaged; remove {folder!r} or {quoted(source)}")'
    assert unquoted(planted) == [(1, "path")]


@pytest.mark.parametrize(
    ("code", "said", "arguments"),
    [
        (3, "there is no file or folder 'no rows.csv'", ["train", "data.train=no rows.csv"]),
        (
            3,
            "'my rows.csv' has no column",
            ["predict", "--input", "my rows.csv", "--text-column", "text"],
        ),
        (3, "there is no file 'no rows.csv'", ["predict", "--input", "no rows.csv"]),
        (3, "there is no adapter folder 'no run'", ["evaluate", "--adapter", "no run"]),
        (2, "there is no configuration file 'my.toml '", ["train", "--config", "my.toml "]),
        (3, "there is no model folder './my base'", ["train", "base.name=./my base"]),
        (3, "there is no suite 'my suite.toml'", ["evaluate", "--suite-file", "my suite.toml"]),
        (2, "'my run' is in use", ["train", "--output-dir", "my run"]),
        (3, "'my run' holds no run to resume", ["train", "--resume", "--output-dir", "my run"]),
    ],
)
def test_names_with_blanks_are_quoted(tmp_path, monkeypatch, code, said, arguments):
    """sh #756: what is printed is read and copied."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my rows.csv").write_text("my text,label\nGood film.,pos\n")
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "x").write_text("")
    failed(code, said, *arguments)


def test_columns_and_labels_with_blanks_are_quoted(tmp_path, monkeypatch, toy_base):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{i},Film {i}.,{'so so' if i % 2 else 'good'}\n" for i in range(40))
    Path("rows.csv").write_text(f"my id,my text,my label\n{rows}")
    ask = ["check", f"base.name={toy_base}", "data.train=rows.csv", "data.test=rows.csv",
           "--label-column", "my label", 'prompt.labels=["so so", "good", "not bad"]',
           "data.num_train=0", "data.num_evaluation=8"]  # fmt: skip
    _, stdout, _ = run(*ask)
    assert "rows.csv has no column 'text'; it has 'my id', 'my text', 'my label'" in stdout
    _, stdout, _ = run(*ask, "--text-column", "my text")
    assert "20 good, 20 'so so'" in stdout
    assert "no test row is labeled 'not bad': macro-F1 is the mean" in stdout
