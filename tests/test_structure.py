"""The shape of the package: imports go down, no cycles, sizes that fit in the head, telling names.

python tests/test_structure.py        # the counts as a table
"""

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
# From top to bottom. A package imports from lower levels only; in the ground, the last level, from
# its own as well. `config` and `engine` have rules of their own, below.
LEVELS = [
    {"cli"},
    {"stages"},
    {"serving"},
    {"training", "evaluation", "bulk"},
    {"exporting"},
    {"scoring"},
    {"models"},
    {"folders"},
    {"prompt"},
    {"label_tokens"},
    {"chat_format"},
    {"template"},
    {"data"},
    {"presets", "settings", "hub"},
    {"shipped", "wording", "progress", "metrics", "disk", "places", "errors", "version"},
]
GROUND = LEVELS[-1]
CONFIG_IMPORTS = {"presets", "settings", *GROUND}
CONFIG_USERS = {"cli", "stages"}
ENGINE_USERS = {"training", "scoring", "models"}
EXEMPT = {"", "__main__"}  # the lazy names of the package, and its entry point
EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc", "core", "base"}
MAX_LINES, MAX_FUNCTION_LINES, MAX_LONG_FUNCTIONS = 400, 60, 6


def modules(package=PACKAGE):
    """{dotted name below the package: source} of every module."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = ".".join(parts).removesuffix("__init__").rstrip(".")
        found[name] = path.read_text(encoding="utf-8")
    return found


def imports_of(source, names):
    """The package's own modules that a source imports, wherever in it: for types, in a function."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            if (node.module or "").partition(".")[0] != "sentilora":
                continue
            module = node.module.removeprefix("sentilora").lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if inner in names else module)
        elif isinstance(node, ast.Import):
            whole = [a.name for a in node.names if a.name.partition(".")[0] == "sentilora"]
            found |= {name.removeprefix("sentilora").lstrip(".") for name in whole}
    return found


def top(name):
    return name.partition(".")[0]


def level(package):
    places = [number for number, names in enumerate(LEVELS) if package in names]

    assert len(places) == 1, f"{package!r} is on no level: add it to LEVELS"
    return places[0]


def forbidden(importer, imported):
    """Why one package may not import another; None when it may."""
    if importer == imported or importer in EXEMPT:
        return None
    if importer == "engine":
        return "the engine knows nothing of the rest"
    if imported == "engine":
        return None if importer in ENGINE_USERS else f"{importer} is not one of {ENGINE_USERS}"
    if importer == "config":
        return (
            None if imported in CONFIG_IMPORTS else "config imports presets, settings, the ground"
        )
    if imported == "config":
        return None if importer in CONFIG_USERS else "configuration stops at the stages"
    if imported == "":
        return "only users import from the package's front door"
    if importer in GROUND and imported in GROUND:
        return None
    return None if level(imported) > level(importer) else "imports go down"


def edges_between_packages(sources):
    """{(importer, imported)} of top-level packages and modules."""
    pairs = {
        (top(name), top(other))
        for name, source in sources.items()
        if name not in EXEMPT
        for other in imports_of(source, sources)
    }
    return {(a, b) for a, b in pairs if a != b}


def cycles(sources):
    """Groups of modules that import each other, over however many steps."""
    graph = {name: imports_of(source, sources) & set(sources) for name, source in sources.items()}
    graph = {name: others - EXEMPT for name, others in graph.items() if name not in EXEMPT}

    def reached(start):
        seen, todo = set(), [start]
        while todo:
            for other in graph.get(todo.pop(), ()):
                if other not in seen:
                    seen.add(other)
                    todo.append(other)
        return seen

    far = {name: reached(name) for name in graph}
    return {
        frozenset(other for other in far[name] if name in far.get(other, ()))
        for name in graph
        if name in far[name]
    }


def is_kernel_file(name):
    return name.startswith("engine.") and "kernels" in name


def functions(source):
    """(name, lines) of every function and method, without what is nested in another."""

    def walk(node, inside):
        for child in ast.iter_child_nodes(node):
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and not inside:
                yield child.name, child.end_lineno - child.lineno + 1
            yield from walk(child, inside or is_function)

    return list(walk(ast.parse(source), False))


def counts(package=PACKAGE):
    """The figures of the table."""
    sources = modules(package)
    files = {name: len(source.splitlines()) for name, source in sources.items()}
    plain = {name: lines for name, lines in files.items() if not is_kernel_file(name)}
    lengths = [
        lines
        for name, source in sources.items()
        if not is_kernel_file(name)
        for _, lines in functions(source)
    ]
    edges = edges_between_packages(sources)
    return {
        "modules and packages at the top level": len({top(name) for name in sources} - EXEMPT),
        "import edges between them": len(edges),
        "edges up": sum(forbidden(*edge) is not None for edge in edges),
        "cycles of modules": len(cycles(sources)),
        "modules": len(sources),
        "files over 300 lines (kernels aside)": sum(lines > 300 for lines in plain.values()),
        "files over 400 lines (kernels aside)": sum(lines > 400 for lines in plain.values()),
        "functions over 50 lines (kernels aside)": sum(lines > 50 for lines in lengths),
        "functions over 60 lines (kernels aside)": sum(lines > 60 for lines in lengths),
    }


def test_imports_only_go_down():
    sources = modules()
    checked = 0
    for name, source in sources.items():
        for other in imports_of(source, sources):
            reason = forbidden(top(name), top(other))
            assert reason is None, f"{name} imports {other}: {reason}"
            checked += 1
    assert checked >= 200


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("prompt", "models"),
        ("models", "stages"),
        ("stages", "cli"),
        ("folders", "stages"),
        ("training", "evaluation"),  # on one level
        ("presets", "hub"),  # on one level
        ("engine", "errors"),  # the engine knows nothing
        ("stages", "engine"),  # not one of its users
        ("training", "config"),  # configuration stops at the stages
        ("config", "data"),
        ("metrics", "data"),  # up from the ground
        ("scoring", ""),  # the front door
    ],
)
def test_the_rule_rejects_a_planted_violation(importer, imported):
    assert forbidden(importer, imported)


def test_the_rule_sees_imports_wherever_they_are():
    names = {"models.bases", "stages.train", "cli"}
    inside = "def f():\n    from sentilora.stages import train"
    for_types = "if TYPE_CHECKING:\n    from sentilora.models.bases import Base"
    assert imports_of(inside, names) == {"stages.train"}
    assert imports_of(for_types, names) == {"models.bases"}
    assert imports_of("import sentilora.cli\nimport torch", names) == {"cli"}
    with pytest.raises(AssertionError, match="on no level"):
        forbidden("novelty", "data")
    with pytest.raises(AssertionError, match="relative"):
        imports_of("from .data import rows", names)


def test_no_module_imports_itself_over_others():
    assert cycles(modules()) == set()
    planted = {
        "a": "from sentilora.b import x",
        "b": "def f():\n    from sentilora.c import x",
        "c": "if TYPE_CHECKING:\n    from sentilora.a import x",
        "d": "from sentilora.a import x",
    }
    assert cycles(planted) == {frozenset("abc")}


def test_files_and_functions_fit_in_the_head():
    figures = counts()
    assert figures["modules"] >= 80
    assert figures["files over 400 lines (kernels aside)"] == 0
    assert figures["functions over 60 lines (kernels aside)"] <= MAX_LONG_FUNCTIONS
    assert functions("class A:\n    def f(self):\n        def g(): ...\n        return g") == [
        ("f", 3)
    ]


def asserts(source):
    """Lines of assert statements, and of an AssertionError raised by hand."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assert)
        or (isinstance(node, ast.Raise) and "AssertionError" in ast.unparse(node))
    ]


def test_no_assert_is_reachable_by_a_user():
    """A diverged run ended in an AssertionError; an error of ours says what to do."""
    assert asserts("x = 1\nassert x\nif x:\n    raise AssertionError('no')") == [2, 4]
    reached = {name: asserts(source) for name, source in modules().items() if asserts(source)}
    assert reached == {}


def test_modules_have_telling_names_and_say_what_they_are():
    sources = modules()
    assert len(sources) >= 80
    for name, source in sources.items():
        assert name.rpartition(".")[2] not in EMPTY_NAMES, name
        assert ast.get_docstring(ast.parse(source)), f"{name} has no docstring"


def test_a_verb_is_a_file_is_a_function():
    verbs = {path.stem for path in (PACKAGE / "cli").glob("*.py")} - {"__init__", "app", "options"}
    assert len(verbs) >= 6
    for verb in verbs:
        stage = importlib.import_module(f"sentilora.stages.{verb}")
        command = importlib.import_module(f"sentilora.cli.{verb}")
        assert callable(getattr(stage, verb)), verb
        assert callable(getattr(command, verb)), verb
        assert getattr(sentilora, verb) is getattr(stage, verb), verb


def test_every_public_name_is_still_what_it_was_after_all_submodules_are_imported():
    found = [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "sentilora.")]
    imported = [importlib.import_module(name) for name in found if name != "sentilora.__main__"]
    assert len(imported) >= 80
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


if __name__ == "__main__":
    for title, figure in counts(Path(*sys.argv[1:2]) if sys.argv[1:] else PACKAGE).items():
        print(f"{title:<45}{figure:>6}")
