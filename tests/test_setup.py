"""The set-up files: what `make` says and does, what is pinned, and that no machine's paths slip in.

make runs with a stand-in for Python here, so nothing is downloaded and no environment is built.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]

# Answers as Python VERSION does, can make an environment that holds itself, and writes down what
# was asked of it. The call that has FAIL in it fails.
NOISE = "what Python or pip has to say about it"
STAND_IN = """#!/bin/sh
echo "$*" >> "{log}"
case "$*" in
    *{fail}*) echo "{noise}" >&2; echo "{version}"; exit 1 ;;
    *version_info*) echo "{version}" ;;
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
"""


@pytest.fixture(autouse=True)
def no_outer_make(monkeypatch):
    """Nothing of a make that runs these tests reaches the makes that they run."""
    for name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "PYTHON", "TORCH_INDEX"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def project(tmp_path):
    """A folder with a space in its path that holds what `make env` reads."""
    folder = tmp_path / "a path"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(folder, *arguments, version="3.12", fail="nothing fails"):
    """Exit status, output, the lines of errors but make's own, and the calls of the stand-in."""
    python, log = folder / "stand in", folder / "calls"
    log.write_text("")
    python.write_text(STAND_IN.format(log=log, version=version, fail=f'"{fail}"', noise=NOISE))
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments, f"PYTHON={python}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
    )
    errors = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    return done.returncode, done.stdout, errors, log.read_text().splitlines()


def test_help_is_the_default_and_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split()
    assert len(targets) == 10
    shown = subprocess.run(["make", "-C", ROOT, "-s"], capture_output=True, text=True, check=True)
    listed = re.findall(r"^make ([a-z-]+) +\w", shown.stdout, re.MULTILINE)
    assert listed == targets


def test_env_installs_once_in_a_path_with_a_space(project):
    status, output, errors, calls = make(project, "env")
    assert (status, errors) == (0, [])
    assert [line[:4] for line in output.splitlines() if line[1:3] == "/3"] == [
        f"{step}/3 " for step in (1, 2, 3)
    ]
    installs = [call for call in calls if " install " in call and "--dry-run" not in call]
    assert [call.rsplit(" -c constraints.txt ")[-1].strip() for call in installs] == [
        "torch",
        "-e .[test,lint]",
    ]
    status, output, errors, calls = make(project, "env")
    assert (status, errors, calls) == (0, [], ["--version"])
    (project / "constraints.txt").touch()
    assert " install " in "\n".join(make(project, "env")[3])


def test_the_slow_tests_bring_triton_once(project):
    status, _, errors, calls = make(project, "test-slow")
    assert (status, errors) == (0, [])
    assert calls[-2].endswith(" -c constraints.txt -e .[kernels]")
    assert calls[-1].startswith("-m pytest ") and " -m slow " in calls[-1]
    calls = make(project, "test-slow")[3]
    assert len(calls) == 1 and calls[0].startswith("-m pytest ")
    assert " -m not slow " in make(project, "test")[3][0]


STOPS = """
import pytest

@pytest.mark.gpu
def test_needs_one():
    pytest.skip("no GPU here")

def test_needs_something():
    {skip}
"""


@pytest.mark.parametrize(("skip", "status"), [("pytest.skip('no browser')", 1), ("pass", 0)])
def test_a_skip_fails_the_run_unless_it_is_for_want_of_a_gpu(tmp_path, skip, status):
    (tmp_path / "test_stops.py").write_text(STOPS.format(skip=skip))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", "-c",
         ROOT / "pyproject.toml", "--only-gpu-skips", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    assert f"skipped: 1 for want of a GPU, {status} others" in done.stdout
    assert ("must not be skipped" in done.stdout) == bool(status)


def run_ci(folder, *programs, **environment):
    """.ci/run in a folder where only some programs are; each writes its arguments into calls."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci")
    (folder / "bin").mkdir()
    for name in ("bash", "dirname"):
        (folder / "bin" / name).symlink_to(shutil.which(name))
    for name in ("id", "make", *programs):
        stand_in = folder / "bin" / name
        stand_in.write_text(f'#!/bin/sh\necho "{name} $* $PYTEST_ADDOPTS" >> "{folder}/calls"\n')
        stand_in.chmod(0o755)
    environment["PATH"] = str(folder / "bin")
    done = subprocess.run(
        [folder / ".ci/run"], env=environment, capture_output=True, text=True, timeout=30
    )
    return done, (folder / "calls").read_text().splitlines()


def test_ci_runs_all_tests_and_forbids_skips(tmp_path):
    done, calls = run_ci(tmp_path, "chromium")
    assert done.returncode == 0, done.stderr
    called = [call.split()[2:] for call in calls if call.startswith("make ")]
    assert ["test", "--only-gpu-skips"] in called and ["test-slow", "--only-gpu-skips"] in called
    assert len(called) == 7


def test_ci_without_chromium_says_what_to_install(tmp_path):
    done, calls = run_ci(tmp_path)
    assert done.returncode == 1 and "apt-get install chromium" in done.stderr
    assert not any(call.startswith("make ") for call in calls)


def test_torch_index_is_for_torch_only(project):
    status, output, _, calls = make(project, "env", "TORCH_INDEX=https://torch.example/cpu")
    assert status == 0 and "torch from https://torch.example/cpu" in output
    asked = [call for call in calls if "torch.example" in call]
    assert len(asked) == 1
    assert asked[0].endswith("--no-deps --index-url https://torch.example/cpu torch")


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ({"version": "3.9", "fail": "version_info"}, ["3.11", "is 3.9", "PYTHON=python3.12"]),
        ({"fail": "import venv, ensurepip"}, ["ensurepip", "apt install python3-venv"]),
        ({"fail": "--dry-run"}, ["No network", "pip download"]),
    ],
    ids=["old Python", "no venv module", "no network"],
)
def test_what_is_missing_is_said_in_one_line(project, case, said):
    status, _, errors, _ = make(project, "env", **case)
    assert status != 0
    assert len(errors) == 1, errors
    assert all(words in errors[0] for words in said), errors[0]
    assert not (project / ".venv" / "ready").exists()


def test_a_failed_install_shows_pips_reason_and_leaves_no_stamp(project):
    status, _, errors, _ = make(project, "env", fail="constraints.txt torch")
    assert status != 0
    assert errors[0] == NOISE and errors[1].startswith("pip did not finish") and len(errors) == 2
    assert not (project / ".venv" / "ready").exists()


def test_a_python_that_is_not_there_is_named(project):
    done = subprocess.run(
        ["make", "env", "PYTHON=no-such-python"], cwd=project, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert done.stderr.startswith("No Python called no-such-python")


def test_every_direct_dependency_is_pinned_inside_its_range():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pinned[canonicalize_name(name)] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    assert len(asked) > 20
    for requirement in map(Requirement, asked):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}, pinned {version}"
        assert "+" not in version, f"{requirement.name} {version} is one build of a version"


def test_no_path_of_one_machine_in_any_file():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nothing tells the project's files from others")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]
    files = [file for file in files if file.is_file()]  # one deleted but not yet committed is not
    assert len(files) > 20
    # Put together here, or this file would be found.
    paths = [f"/{folder}/".encode() for folder in ("work", "root")]
    found = [
        f"{file.relative_to(ROOT)}: {path.decode()}"
        for file in files
        for path in paths
        if path in file.read_bytes()
    ]
    assert not found, found
