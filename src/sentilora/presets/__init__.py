"""The presets that ship, as trees of settings: which there are, and what each inherits.

    preset_tree("tiny", embedded=True)["training"]["learning_rate"]

Every setting is in `defaults.toml`; the other files inherit from it and hold only what differs.
"""

import copy
import difflib
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from sentilora.errors import UsageError

DEFAULT_PRESET = "tiny"
PARENT = "defaults"  # of all presets; not one to choose
LEAF_TABLES = {"data.label_map"}  # a table that is one value: replaced whole, its keys are free


def preset_names() -> list[str]:
    """The presets that ship with the package and can be chosen."""
    folder = resources.files("sentilora").joinpath("presets")
    names = (f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    return sorted(name for name in names if name != PARENT)


def preset_tree(name: str, *, embedded: bool) -> dict[str, Any]:
    """Every setting of a preset, as nested tables.

    embedded: whether the training data is what ships with the package, for which a preset may have
    settings of its own. Raises `UsageError` for an unknown name.
    """
    if name not in preset_names():
        near = difflib.get_close_matches(name, preset_names(), 1, 0.0)[0]
        raise UsageError(
            f"there is no preset {name!r}; did you mean {near!r}? ({', '.join(preset_names())})"
        )
    return _read_tree(name, embedded)


def _read_tree(name: str, embedded: bool) -> dict[str, Any]:
    source = resources.files("sentilora").joinpath("presets", f"{name}.toml")
    own = tomllib.loads(source.read_text(encoding="utf-8"))
    parent = own.pop("inherit", None)
    conditional = own.pop("with_embedded_data", {})
    if parent is None:
        return own
    tree = _read_tree(parent, embedded)
    for layer in [own, conditional] if embedded else [own]:
        for key, value in flatten(layer):
            set_value(tree, key, value)
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Each value of nested tables with its full name: ("section.key", value)."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in LEAF_TABLES:
            yield from flatten(value, f"{key}.")
        else:
            yield key, value


def set_value(tree: dict[str, Any], key: str, value: Any) -> None:
    """Put a copy of a value at "section.key" into nested tables."""
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = copy.deepcopy(value)
