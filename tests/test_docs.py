"""Every block of the README and the guides runs, except those marked with a reason why they cannot.

A page is executed from top to bottom in a folder of its own. All but own-data.md start with what a
reader has after own-data.md, two files of reviews and an adapter, and with examples/. Training
commands run here with a toy base and few steps, and evaluations with few test rows; nothing else of
a block changes.

    <!-- not run: needs a GPU -->      before a block: why it is not executed
    <!-- file: my.toml -->             before a block: it is the content of this file
"""

import contextlib
import importlib.util
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from sentilora.cli.app import app
from sentilora.config import load_config

ROOT = Path(__file__).parents[1]
FIRST = "docs/guide/own-data.md"
# Page → how many of its blocks run, and how many are marked with a reason not to.
PAGES = {
    "README.md": (1, 3),
    FIRST: (11, 1),
    "docs/guide/mistral-7b.md": (2, 4),
    "docs/guide/bases.md": (1, 2),
    "docs/guide/evaluate.md": (7, 3),
    "docs/guide/calibration.md": (4, 1),
    "docs/guide/bulk.md": (2, 0),
    "docs/guide/serve.md": (0, 9),
    "docs/guide/serve-elsewhere.md": (3, 6),
    "docs/guide/several-gpus.md": (0, 3),
    "docs/guide/cluster.md": (0, 6),
    "docs/guide/distill.md": (2, 2),
    "docs/guide/python.md": (8, 0),
    "docs/guide/notebook.md": (1, 1),
}
BLOCK = re.compile(
    r"(?:^<!-- (?P<key>not run|file): (?P<value>.+?) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<source>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
FEW_STEPS = [
    "training.max_steps=2", "training.eval_steps=2", "training.save_steps=2",
]  # fmt: skip
FEW_TESTS = "data.num_test=12"


class Block(NamedTuple):
    language: str
    source: str
    reason: str | None  # why it does not run
    file: str | None  # what it is the content of


def blocks_of(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [
        Block(
            match["language"],
            match["source"],
            match["value"] if match["key"] == "not run" else None,
            match["value"] if match["key"] == "file" else None,
        )
        for match in BLOCK.finditer(text)
    ]
    assert text.count("```") == 2 * len(found), f"{page}: a fence is not closed, or not understood"
    return found


def runs(block):
    return block.language in ("bash", "python") and block.reason is None


def run_page(page, base):
    """Execute a page in the current folder; returns how many blocks ran."""
    few_steps = [f"base.name={base}", *FEW_STEPS]
    names = {"few_steps": few_steps}
    number = 0
    for block in blocks_of(page):
        if block.file is not None:
            tomllib.loads(block.source)
            Path(block.file).write_text(block.source, encoding="utf-8")
        if not runs(block):
            continue
        number += 1
        if block.language == "python":
            source = block.source.replace("overrides=[", "overrides=[*few_steps, ")
            exec(compile(source, page, "exec"), names)
            continue
        for line in block.source.strip().splitlines():
            program, verb, *arguments = shlex.split(line, comments=True)
            assert program == "sentilora", line
            if verb in ("check", "train"):
                arguments += few_steps
            elif verb == "evaluate" and "data.num_test" not in line:
                arguments.append(FEW_TESTS)
            outcome = CliRunner().invoke(app, [verb, *arguments], catch_exceptions=False)
            assert outcome.exit_code == 0, (line, outcome.output)
    return number


@pytest.fixture(scope="session")
def workplace(tmp_path_factory, toy_base):
    """The folder of a reader who has followed own-data.md."""
    folder = tmp_path_factory.mktemp("docs") / "reader"
    folder.mkdir()
    with contextlib.chdir(folder):
        assert run_page(FIRST, toy_base) == PAGES[FIRST][0]
    return folder


@pytest.mark.slow
def test_own_data_leads_to_an_adapter_and_labeled_rows(workplace):
    assert (workplace / "my-adapter/adapter_model.safetensors").is_file()
    assert (workplace / "my-sizes/learning_curve.png").is_file()
    header, *rows = (workplace / "labeled.csv").read_text(encoding="utf-8").splitlines()
    assert header == "text,label,prediction,probability_negative,probability_positive,truncated"
    assert len(rows) == 500


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != FIRST])
def test_every_block_of_the_page_runs(page, workplace, toy_base, tmp_path, monkeypatch):
    for name in ("my_train.csv", "my_test.csv"):
        shutil.copy(workplace / name, tmp_path)
    shutil.copytree(workplace / "my-adapter", tmp_path / "my-adapter")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    assert run_page(page, toy_base) == PAGES[page][0]


def test_blocks_that_do_not_run_say_why():
    guides = {f"docs/guide/{path.name}" for path in (ROOT / "docs/guide").iterdir()}
    assert guides | {"README.md"} == set(PAGES)
    for page, (num_run, num_marked) in PAGES.items():
        blocks = blocks_of(page)
        assert sum(map(runs, blocks)) == num_run, page
        assert sum(block.reason is not None for block in blocks) == num_marked, page
        for block in blocks:
            assert block.language in ("bash", "python", "console", "text", "toml"), (page, block)
            if block.language == "console":
                assert block.reason, (page, block)
            assert (block.language == "toml") == (block.file is not None), (page, block)


def test_links_and_anchors_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    num_links = 0
    for page in pages:
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if link.startswith("http"):
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), f"{page.name} links to {link}"
            if anchor:
                assert anchor in anchors_of(target), f"{page.name} links to {link}"
            num_links += 1
    assert num_links >= 40


def anchors_of(page):
    """The headings of a Markdown page as GitHub makes anchors of them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def reference():
    """tools/reference.py as a module."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "tools/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_pages_are_fresh_and_complete(reference, monkeypatch):
    monkeypatch.setattr("sys.argv", ["reference.py", "--check"])
    assert reference.main() == 0
    listed = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    every_setting = load_config("mistral-7b").flat()
    assert len(every_setting) >= 45
    for name in every_setting:
        assert f"| `{name}` | " in listed, name
    verbs = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    for verb in (
        "check",
        "train",
        "evaluate",
        "predict",
        "serve",
        "export",
        "verify",
        "convert",
        "distill",
        "demo",
        "env",
    ):
        assert f"\n## `sentilora {verb}`\n" in verbs


def test_a_stale_reference_page_is_noticed(reference, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["reference.py", "--check"])
    monkeypatch.setitem(reference.PAGES, "settings.md", lambda: "a setting was added\n")
    assert reference.main() == 1
    assert "stale: docs/reference/settings.md; run" in capsys.readouterr().err


def test_the_reference_reads_comments_as_a_reader_does(reference):
    source = (
        '# Why.\ninherit = "other"\n\n[data]\n'
        'mark = "# no comment"      # a comment\n# above it\nrows = 3\nplain = 1\n'
        '[prompt]\ntemplate = """\none # two\nthree\n"""\n'
    )
    assert list(reference.settings_in(source)) == [
        ("inherit", '"other"', "Why."),
        ("data.mark", '"# no comment"', "a comment"),
        ("data.rows", "3", "above it"),
        ("data.plain", "1", ""),
        ("prompt.template", "one # two\nthree\n", ""),
    ]


def files_of_tree(text):
    """The Python files that the tree of docs/design.md names, relative to the package."""
    tree = text.split("```text\nsrc/sentilora/\n", 1)[1].split("```", 1)[0]
    names, folder = set(), ""
    for indent, name in re.findall(r"^( +)([\w/.]+)", tree, re.MULTILINE):
        if name.endswith("/"):
            folder = name
        elif name.endswith(".py"):
            names.add(folder + name if len(indent) == 4 else name)
    return names


def test_the_tree_of_the_design_names_every_file():
    named = files_of_tree((ROOT / "docs/design.md").read_text(encoding="utf-8"))
    package = ROOT / "src/sentilora"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    files -= {name for name in files if name.endswith("/__init__.py")}
    assert len(files) >= 60
    assert named == files
