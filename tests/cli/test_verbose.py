"""Technical lines of a start appear with --verbose only, whichever verb prints them."""

import pytest
from commands import run

from sentilora.progress import detail, show_details

TECHNICAL = (
    "computing in float32",
    "tokens per example",
    "parameters are trainable",
    "pages GPU memory",
    "fast engine, passes of up to",
)
FEW = [
    "training.max_steps=1", "training.eval_steps=1", "training.save_steps=1",
    "data.num_train=16", "data.num_evaluation=4", "data.num_test=4",
]  # fmt: skip


def test_train_prints_technical_lines_with_verbose_only(toy_base, tmp_path):
    """A first run began with "9.5% of the packed 4-bit storage" and paged optimizers."""
    asked = ["train", f"base.name={toy_base}", *FEW, "--output-dir"]
    code, stdout, stderr = run(*asked, tmp_path / "quiet")
    assert code == 0 and f"base {toy_base} on cpu\n" in stderr and "train: 16 rows" in stderr
    for line in TECHNICAL:
        assert line not in stderr + stdout, line

    code, stdout, stderr = run(*asked, tmp_path / "verbose", "--verbose")
    assert code == 0
    for line in TECHNICAL:
        assert stderr.count(line) >= 1 and line not in stdout, line


def test_truncated_texts_are_never_silent(toy_base, tmp_path):
    _, _, stderr = run("train", f"base.name={toy_base}", *FEW, "prompt.max_length=90",
                       "--output-dir", tmp_path / "run")  # fmt: skip
    assert "truncated to 90 tokens (tail): 16 of 16" in stderr


@pytest.mark.parametrize("option", ["-v", "--verbose"])
@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_every_verb_that_loads_a_base_says_how_it_computes(verb, option, toy_run):
    rest = ["A film."] if verb == "predict" else ["data.num_test=4"]
    asked = [verb, *rest, "--adapter", toy_run]
    (code, plain, stderr), verbose = run(*asked), run(*asked, option)
    assert code == verbose[0] == 0
    assert "computing in" not in stderr and plain == verbose[1]
    assert "on cpu, computing in float32" in verbose[2]


def test_details_are_off_unless_a_call_asks_for_them(capsys):
    for is_shown, text in ((True, "one\n"), (False, "")):
        show_details(is_shown)
        detail("one")
        assert capsys.readouterr().err == text


@pytest.mark.parametrize("verb", ["train", "evaluate", "predict", "check", "demo"])
def test_the_help_names_it_once(verb):
    code, stdout, _ = run(verb, "--help")
    assert code == 0 and stdout.count("-v, --verbose") == 1
