"""The presets that ship with the package: their names, and the settings of each as nested tables.

    preset_tree("tiny", {"with_embedded_data"})["training"]["learning_rate"]

`defaults.toml` holds every setting and is the parent of all presets. A preset holds what it changes
and names the base and the data it is for. Its tables `with_embedded_data` and `with_own_data` hold
what else it changes for the reviews that ship, and for data of the user's own. Its table `about`
holds no settings but what one wants to know of the base before a download.
"""

import copy
import difflib
import os
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from sentilora.errors import UsageError
from sentilora.shipped import EMBEDDED

DEFAULT_PRESET = "tiny"
DEMO_FOLDER = "sentilora-demo"  # of the demo's adapter, unless another is named
PARENT = "defaults"  # of all presets, and no preset itself
CONDITIONS = (
    "with_embedded_data",
    "with_own_data",
)  # tables of a preset, by the data it is used on
ABOUT = "about"  # a table of a preset
LEAF_TABLES = {"data.label_map"}  # tables that are one value: replaced whole, with any keys


@dataclass(frozen=True)
class About:
    """What a preset says of its base.

    gated: whether its terms have to be accepted on the hub. training_memory_gib: an estimate for
    the recipe on a GPU in padded passes, without the fast engine.
    """

    parameters: int
    license: str
    gated: bool
    training_memory_gib: float


def preset_names() -> list[str]:
    """Names of the presets that can be chosen."""
    folder = resources.files("sentilora").joinpath("presets")
    names = (f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))
    return sorted(name for name in names if name != PARENT)


def preset_tree(name: str, conditions: Collection[str] = ()) -> dict[str, Any]:
    """Every setting of a preset, as nested tables.

    conditions: those that hold, "with_embedded_data" or "with_own_data".

    Raises `UsageError` for an unknown name.
    """
    if name not in preset_names():
        near = difflib.get_close_matches(name, preset_names(), 1, 0.0)[0]
        raise UsageError(
            f"there is no preset {name!r}",
            setting="preset",
            seen=name,
            remedy=f"did you mean {near!r}? ({', '.join(preset_names())})",
        )
    return _read_tree(name, conditions)


def conditional_settings(name: str, condition: str) -> dict[str, Any]:
    """The settings of a preset that hold under a condition only, {"section.key": value}."""
    return dict(flatten(_read(name).get(condition, {})))


def about(name: str) -> About:
    """What a preset says of its base."""
    return About(**_read(name)[ABOUT])


def base_of(name: str) -> str:
    """The base that a preset is for."""
    return str(_read_tree(name, ())["base"]["name"])


def has_base_of(name: str, base: str) -> bool:
    """Whether a base is the one that a preset is for."""
    return base_of(name) == base


def fits_base(name: str, base: str) -> bool:
    """Whether a preset's settings are for a base: its own, or a copy on disk named in its place.

    The base that ships is its own copy, so another one on disk is another base.
    """
    if has_base_of(name, base):
        return True
    return base != EMBEDDED and not has_base_of(name, EMBEDDED) and os.path.exists(base)


def _read_tree(name: str, conditions: Collection[str]) -> dict[str, Any]:
    own = _read(name)
    parent = own.pop("inherit", None)
    own.pop(ABOUT, None)
    conditional = {condition: own.pop(condition, {}) for condition in CONDITIONS}
    if parent is None:
        return own
    tree = _read_tree(parent, conditions)
    for layer in [own, *(conditional[c] for c in CONDITIONS if c in conditions)]:
        for key, value in flatten(layer):
            set_value(tree, key, value)
    return tree


def _read(name: str) -> dict[str, Any]:
    source = resources.files("sentilora").joinpath("presets", f"{name}.toml")
    return tomllib.loads(source.read_text(encoding="utf-8"))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Each value in nested tables with its full name, ("section.key", value)."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in LEAF_TABLES:
            yield from flatten(value, f"{key}.")
        else:
            yield key, value


def set_value(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set "section.key" in nested tables to a copy of a value."""
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = copy.deepcopy(value)
