"""tools/lowest_versions.py: an exact version for each dependency, none left out."""

import importlib.util
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def test_every_dependency_is_pinned_at_its_lower_bound():
    spec = importlib.util.spec_from_file_location("lowest", ROOT / "tools/lowest_versions.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    asked = [Requirement(item) for item in tomllib.loads(text)["project"]["dependencies"]]
    pinned = [Requirement(item) for item in tool.lowest_versions(text)]
    assert [item.name for item in pinned] == [item.name for item in asked] and len(pinned) >= 20
    for pin, item in zip(pinned, asked, strict=True):
        assert str(item.specifier) == str(pin.specifier).replace("==", ">=")
