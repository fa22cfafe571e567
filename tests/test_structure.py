"""The shape of the package: imports go down, names tell, nothing public is shadowed."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import sentilora

PACKAGE = Path(sentilora.__file__).parent
# From bottom to top. A module imports from its own storey or below.
STOREYS = [
    {
        "",
        "errors",
        "progress",
        "hub",
        "base_cache",
        "prompt",
        "data",
        "splits",
        "overview",
        "metrics",
        "config",
        "calibration",
        "leakage",
        "label_issues",
        "suite",
        "behaviour",
    },
    {
        "device",
        "adapter_folder",
        "run_folder",
        "model",
        "recipe",
        "scoring",
        "explain",
        "batching",
        "plots",
        "report",
        "report_page",
        "series",
    },
    {"classifier", "trainer", "card"},
    {"measuring"},
    {"stages"},
    {"cli"},
    {"__main__"},
]
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc", "base", "core"}


def modules():
    """Every module of the package as (dotted name below `sentilora`, source)."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        yield name, path.read_text(encoding="utf-8")


def imports_of(source):
    """Modules of sentilora that a source imports when it runs (not those for type checkers)."""
    tree = ast.parse(source)
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            names = [node.module]
            if node.module in ("sentilora", "sentilora.stages", "sentilora.engine"):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "sentilora.stages":  # a verb's file, or a name of the package
                    files = {path.stem for path in (PACKAGE / "stages").glob("*.py")}
                    names = [n if n.rpartition(".")[2] in files else node.module for n in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "sentilora":
                found.add("" if rest.startswith("__") else rest)
    return found


def storey(name):
    top = name.partition(".")[0]
    levels = [level for level, names in enumerate(STOREYS) if top in names]
    assert len(levels) == 1, f"{name!r} stands in no storey: put it in one"
    return levels[0]


def upward(name, source):
    """The imports of a module that break the rule."""
    if name.partition(".")[0] == "engine":
        return {other for other in imports_of(source) if other.partition(".")[0] != "engine"}
    return {
        other
        for other in imports_of(source)
        if other.partition(".")[0] != "engine" and storey(other) > storey(name)
    }


def test_imports_only_go_down():
    checked = 0
    for name, source in modules():
        if name == "":
            continue  # the lazy names of the package; see below
        assert not upward(name, source), f"{name} imports upwards"
        checked += len(imports_of(source))
    assert checked >= 60


def test_the_rule_rejects_what_it_should():
    assert upward("prompt", "from sentilora.model import load_base") == {"model"}
    assert upward("model", "def f():\n    from sentilora.stages import train") == {"stages.train"}
    assert upward("stages.train", "import sentilora.cli") == {"cli"}
    assert upward("card", "from sentilora.stages import load_rows_of") == {"stages"}
    assert upward("engine.lora", "from sentilora.config import Config") == {"config"}
    assert upward("engine.lora", "from sentilora.engine.plan import cut\nimport torch") == set()
    assert upward("trainer", "from sentilora import __version__") == set()
    with pytest.raises(AssertionError, match="no storey"):
        storey("novelty")


def test_no_module_imports_itself_over_others():
    graph = {name: imports_of(source) for name, source in modules()}
    done, edges = set(), 0

    def visit(name, path):
        nonlocal edges
        assert name not in path, " → ".join([*path, name])
        if name in done:
            return
        for other in graph.get(name, ()):
            edges += 1
            visit(other, [*path, name])
        done.add(name)

    for name in graph:
        visit(name, [])
    assert edges >= 60


def test_modules_have_telling_names_and_say_what_they_are():
    names = dict(modules())
    assert len(names) >= 28
    for name, source in names.items():
        assert name.rpartition(".")[2] not in EMPTY_NAMES, name
        assert ast.get_docstring(ast.parse(source)), f"{name} has no docstring"


def test_configuration_stops_at_the_stages():
    users = {name for name, source in modules() if "config" in imports_of(source)}
    assert users and all(name == "cli" or name.startswith("stages.") for name in users), users


def test_every_public_name_is_still_what_it_was_after_all_submodules_are_imported():
    found = [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "sentilora.")]
    imported = [importlib.import_module(name) for name in found if name != "sentilora.__main__"]
    assert len(imported) >= 27
    callables = [name for name in sentilora.__all__ if name != "__version__"]
    assert len(callables) >= 8
    for name in callables:
        assert callable(getattr(sentilora, name)), name
    assert isinstance(sentilora.__version__, str)
    assert set(sentilora.__all__) <= set(dir(sentilora))
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = sentilora.tarin


def test_every_public_callable_has_a_docstring():
    checked = 0
    for name in sentilora.__all__:
        value = getattr(sentilora, name)
        if not callable(value):
            continue
        assert value.__doc__, name
        members = inspect.getmembers(value, inspect.isroutine) if inspect.isclass(value) else []
        for member, method in members:
            ours = str(getattr(method, "__module__", "")).startswith("sentilora")
            if ours and not member.startswith("_"):
                assert method.__doc__, f"{name}.{member}"
                checked += 1
        checked += 1
    assert checked >= 14


def test_importing_sentilora_imports_nothing_heavy():
    code = (
        "import sys; import sentilora; before = set(sys.modules);"
        "heavy = {'torch', 'transformers', 'pandas', 'pydantic', 'numpy', 'typer'} & before;"
        "from sentilora import Config, shipped_adapter, evaluate, Classifier, check, train;"
        "print(sorted(heavy), sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[] []\n", "")
