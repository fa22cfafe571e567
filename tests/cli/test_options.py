"""Options of the command line and keywords of the library: which name appears where."""

import ast
import inspect
import re
from pathlib import Path
from typing import get_type_hints

import pytest
import typer

import sentilora
from sentilora.cli.app import app
from sentilora.cli.options import RUNTIME, in_options
from sentilora.models.runtime import RuntimeOverrides

PACKAGE = Path(sentilora.__file__).parent
VERBS = typer.main.get_command(app).commands
# Arguments: no option has their name.
POSITIONAL = {"overrides", "texts", "kind", "out", "folder"}


def options_of(verb):
    """{parameter: its options} of a verb."""
    return {
        parameter.name: parameter.opts
        for parameter in verb.params
        if parameter.param_type_name == "option"
    }


OPTIONS = {
    option for verb in VERBS.values() for opts in options_of(verb).values() for option in opts
}


def strings(source):
    """(line, text) of every string constant in a source, without the docstrings."""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                docstrings.add(first.value)
    return [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings
    ]


def options_in(source):
    """(line, option) of every option of ours that a string constant names."""
    return [
        (line, option)
        for line, text in strings(source)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]*", text)
        if option in OPTIONS
    ]


def test_only_the_command_line_names_its_options():
    """A library function says `output_dir`; `in_options` makes it --output-dir."""
    assert {"--output-dir", "--seeds", "--max-memory-gib", "--json", "--resume"} <= OPTIONS
    num_strings, violations = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.is_relative_to(PACKAGE / "cli"):
            continue
        source = path.read_text(encoding="utf-8")
        num_strings += len(strings(source))
        name = path.relative_to(PACKAGE)
        violations += [f"{name}:{line}: {option}" for line, option in options_in(source)]
    assert num_strings > 2000
    assert violations == []


def test_the_rule_rejects_a_planted_violation():
    planted = (
        '"""Run with --seeds 5."""\n'
        "def f(num):\n"
        '    """Like --sizes."""\n'
        '    raise ValueError(f"{num} is too few; raise --seeds, or use --preset=tiny")\n'
        'launch = "accelerate launch --num_processes 2 --seedsman"\n'
    )
    assert options_in(planted) == [(4, "--seeds"), (4, "--preset")]


@pytest.mark.parametrize("verb", VERBS)
def test_every_keyword_becomes_its_option(verb):
    options = options_of(VERBS[verb])
    for keyword, opts in options.items():
        assert in_options(f"choose another `{keyword}`") == f"choose another {opts[0]}"
    function = getattr(sentilora, verb)
    keywords = (
        set(inspect.signature(function).parameters) - {"config", "runtime", "data"} - POSITIONAL
    )
    assert keywords <= options.keys()
    if "runtime" in inspect.signature(function).parameters:
        assert get_type_hints(RuntimeOverrides).keys() <= options.keys()


def test_runtime_options_are_the_keywords_of_the_library():
    assert list(RUNTIME) == list(get_type_hints(RuntimeOverrides))
    for verb in ("predict", "evaluate"):
        *options, last = options_of(VERBS[verb])
        assert options[-len(RUNTIME) :] == list(RUNTIME) and last == "verbose"


@pytest.mark.parametrize(
    "text",
    [
        "next: `sentilora evaluate --adapter run`",
        "it is stored in `classifier.json`",
        "set `training.learning_rate` lower",
        "labels: `2`",
        "`Runtime` has it",
        "output_dir without backticks",
        # Values of the user's, as messages quote them.
        "no test row is labeled '`base`': there is no macro-F1",
        "no column 'the `output` of it'; it has text",
        """the label "it's `base`" is unknown""",
        repr('it\'s a "quoted" `base`'),
    ],
)
def test_other_text_stays_as_it_is(text):
    assert in_options(text) == text


def test_apostrophes_are_no_quotes():
    text = "the adapter's `base` isn't the runs' `report`, 'the `base`' is; use `output`, don't"
    expected = "the adapter's --base isn't the runs' --report, 'the `base`' is; use --output, don't"
    assert in_options(text) == expected
