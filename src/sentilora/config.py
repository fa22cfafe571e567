"""The configuration: a preset, then a TOML file, then `section.key=value`, validated once.

    config = load_config("tiny", overrides=["training.learning_rate=1e-4"])
    config.training.learning_rate

Every default is in `presets/defaults.toml`. Configuration objects stop at the stages.
"""

import difflib
import json
import shlex
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, ValidationError

from sentilora.disk import write_atomically
from sentilora.errors import DataError, UsageError
from sentilora.presets import (
    DEFAULT_PRESET,
    LEAF_TABLES,
    fits_base,
    flatten,
    has_base_of,
    preset_names,
    preset_tree,
    set_value,
)
from sentilora.settings import (
    NUMBER,
    BaseSection,
    DataSection,
    EngineSection,
    LoraSection,
    PromptSection,
    Section,
    TrainingSection,
)
from sentilora.shipped import EMBEDDED, is_film_reviews
from sentilora.wording import quoted

CONFIG_FILE = "sentilora.toml"  # the resolved recipe in a run folder


class Config(Section):
    """Every setting of a run.

    chosen: the settings that a file, an override or a value has set; the others come from a preset.
    """

    _chosen: frozenset[str] = PrivateAttr(frozenset())
    _preset: str | None = PrivateAttr(None)

    output_dir: str = Field(min_length=1)
    base: BaseSection
    lora: LoraSection
    data: DataSection
    prompt: PromptSection
    training: TrainingSection
    engine: EngineSection

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.flat() == other.flat()

    @property
    def chosen(self) -> frozenset[str]:
        """The full names of the settings that do not come from a preset."""
        return self._chosen

    @property
    def preset(self) -> str | None:
        """The preset that the other settings come from; None for a saved configuration."""
        return self._preset

    def flat(self) -> dict[str, Any]:
        """Every setting with its full name, `{"section.key": value}`, as plain JSON values."""
        return dict(flatten(self.model_dump(mode="json")))

    def with_values(self, values: Mapping[str, Any]) -> "Config":
        """A copy with the settings `{"section.key": value}` changed, validated like any other.

        With other training data, settings of the preset are those that it has for such data. Raises
        `UsageError` as `load_config` does.
        """
        if self._preset is not None and "data.train" in values:
            return _layered(self._preset, {**self._chosen_values(), **values})
        tree = self.model_dump(mode="json")
        changed = _change(tree, values)
        return _validate(tree, self._chosen | changed, self._preset)

    def as_in_preset(self, setting: str) -> "Config":
        """A copy in which one setting is as the preset has it.

        Without a preset, that is the one for this base, or else the default preset.
        """
        others = self._chosen_values()
        others.pop(setting, None)
        fitting = (name for name in preset_names() if has_base_of(name, self.base.name))
        return _layered(self._preset or next(fitting, DEFAULT_PRESET), others)

    def _chosen_values(self) -> dict[str, Any]:
        return {key: value for key, value in self.flat().items() if key in self._chosen}

    def save(self, path: Path) -> None:
        """Write the configuration as TOML that `read_config` and `load_config(file=…)` read."""
        import tomli_w

        tree = self.model_dump(mode="json")
        # Multi-line strings are easier to read, but they lose a carriage return.
        text = tomli_w.dumps(tree, multiline_strings="\\r" not in json.dumps(tree))
        write_atomically(path, text)


def load_config(
    preset: str = DEFAULT_PRESET,
    file: Path | str | None = None,
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Config:
    """A preset, changed by a TOML file, `section.key=value` strings and values; the last one wins.

    Raises `UsageError` for an unknown preset, for an unknown key (with the nearest one), for an
    invalid value, and for a file that is missing or is not TOML.
    """
    if isinstance(overrides, str) or not isinstance(overrides, Iterable):
        raise UsageError(
            f"overrides is {overrides!r:.60}",
            setting="overrides",
            seen=overrides,
            remedy="pass a list of strings",
        )
    if not isinstance(values, Mapping | None):
        raise UsageError(
            f"values is {values!r:.60}",
            setting="values",
            seen=values,
            remedy='pass a mapping such as {"training.seed": 1}',
        )
    changes: dict[str, Any] = {}
    if file is not None:
        changes.update(flatten(_read_toml(Path(file), UsageError)))
    changes.update(parse_override(item) for item in overrides)
    changes.update(values or {})
    return _layered(preset, changes)


def _layered(preset: str, changes: Mapping[str, Any]) -> Config:
    """A preset with these settings changed."""
    tree = preset_tree(preset, _conditions(preset, changes))
    return _validate(tree, _change(tree, changes), preset)


def _conditions(preset: str, changes: Mapping[str, Any]) -> set[str]:
    """The conditional tables of a preset that hold when these settings are changed."""
    source = changes.get("data.train")
    if source in (None, EMBEDDED):
        return {"with_embedded_data"}
    base = changes.get("base.name")
    is_own_base = base is None or fits_base(preset, str(base))
    return {"with_own_data"} if is_own_base and not is_film_reviews(str(source)) else set()


def read_config(path: Path) -> Config:
    """The configuration that `Config.save` wrote; every setting of it is chosen.

    Raises `DataError` if it cannot be read.
    """
    try:
        tree = _read_toml(path, DataError)
        return _validate(tree, frozenset(name for name, _ in flatten(tree)))
    except UsageError as error:
        raise DataError(
            f"{quoted(path)} is not a configuration of this version of sentilora: {error}",
            seen=str(path),
        ) from error


def parse_override(item: str) -> tuple[str, Any]:
    """`section.key=value` as (key, value). A value that is not TOML is taken as a string.

    Raises `UsageError` for a string without key or "=".
    """
    key, equals, text = item.partition("=") if isinstance(item, str) else ("", "", "")
    text = text.removeprefix("\ufeff")  # of a file whose content the shell put here
    if not equals or not key.strip():
        raise UsageError(
            f"cannot read {item!r}",
            seen=item,
            remedy="write section.key=value, e.g. training.seed=1",
        )
    try:
        table = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        table = {}
    # A text of several lines can happen to be TOML with several keys.
    return key.strip(), table["value"] if list(table) == ["value"] else text


# Settings of training that `predict` and `evaluate` take as keywords.
_KEYWORDS = {
    "base.name": "base",
    "base.device": "device",
    "base.quantization": "quantization",
    "base.compute_dtype": "compute_dtype",
    "base.attn_implementation": "attn_implementation",
    "engine.implementation": "engine",
    "engine": "engine",
    "engine.base_matmul": "base_matmul",
    "engine.max_memory_gib": "max_memory_gib",
    "training.per_device_eval_batch_size": "batch_size",
    "data.text_column": "text_column",
}


def setting_in(text: str) -> str | None:
    """The setting that a text of the form `section.key=value` changes, None for any other text."""
    key, equals, _ = text.partition("=")
    names = {name for name, _ in flatten(preset_tree(DEFAULT_PRESET))}
    is_setting = key in _KEYWORDS or ("." in key and key in names)
    is_entry = any(key.startswith(f"{table}.") for table in LEAF_TABLES)
    return key if equals and (is_setting or is_entry) else None


def keyword_for(override: str) -> str | None:
    """`keyword`=value in place of `section.key=value`; None if no keyword stands for it."""
    key, _, value = override.partition("=")
    return f"use `{_KEYWORDS[key]}`={shlex.quote(value)}" if key in _KEYWORDS else None


def _read_toml(path: Path, kind: type[UsageError] | type[DataError]) -> dict[str, Any]:
    """The tables of a TOML file. Raises an error of that kind if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise kind(
            f"there is no configuration file {quoted(path)}", setting="config", seen=str(path)
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise kind(
            f"cannot read the configuration {quoted(path)}: {reason}",
            setting="config",
            seen=str(path),
        ) from error


def _change(tree: dict[str, Any], values: Mapping[str, Any]) -> frozenset[str]:
    """Set values in the tables of a configuration; returns the names of the settings.

    Raises `UsageError` for an unknown key.
    """
    keys = sorted(key for key, _ in flatten(tree))
    if isinstance(values.get("engine"), str):  # engine=reference
        values = {"engine.implementation": values["engine"], **values}
        del values["engine"]
    for key in values:
        _require_setting(key, keys)
    for key, value in values.items():
        set_value(tree, key, value)
    tables = {f"{table}.": table for table in LEAF_TABLES}
    return frozenset(
        next((table for start, table in tables.items() if key.startswith(start)), key)
        for key in values
    )


def _require_setting(key: str, keys: list[str]) -> None:
    if key in keys or any(key.startswith(f"{table}.") for table in LEAF_TABLES):
        return
    if any(name.startswith(f"{key}.") for name in keys):
        raise UsageError(
            f"{key!r} is a section",
            setting=key,
            remedy=f"set one of its keys, e.g. {key}.key=value",
        )
    likeness = {name: _likeness(key, name) for name in [*keys, "engine"]}
    near = [repr(name) for name in likeness if likeness[name] == max(likeness.values())]
    raise UsageError(
        f"there is no setting {key!r}",
        setting=key,
        remedy=f"did you mean {' or '.join(near[:3])}?",
    )


def _likeness(key: str, name: str) -> float:
    """How similar an unknown key is to a setting: above all in the last part, then in the section.

    "lr" is close to learning_rate, "batch_size" to per_device_train_batch_size.
    """
    key_section, _, key_last = key.lower().rpartition(".")
    section, _, last = name.rpartition(".")
    ratio = difflib.SequenceMatcher(None, key_last, last).ratio()
    if key_last == "".join(word[0] for word in last.split("_")):
        ratio = max(ratio, 0.9)
    elif len(key_last) > 2 and key_last in last:
        ratio = max(ratio, 0.8)
    return ratio + 0.4 * difflib.SequenceMatcher(None, key_section, section).ratio()


def _validate(tree: dict[str, Any], chosen: frozenset[str], preset: str | None = None) -> Config:
    """The tables as a configuration. Raises `UsageError` with every invalid value."""
    try:
        config = Config.model_validate(tree)
        config._chosen, config._preset = chosen, preset
        return config
    except ValidationError as error:
        faults = error.errors(include_url=False)
        parts = [
            f"{_key_of(fault)} is missing"
            if fault["type"] == "missing"
            else f"{_key_of(fault)} is {fault['input']!r:.60}: {_expected(fault)}"
            for fault in faults
        ]
        raise UsageError(
            "; ".join(parts), setting=_key_of(faults[0]), seen=faults[0]["input"]
        ) from error


def _key_of(error: Any) -> str:
    """The setting, `section.key`, of one of pydantic's errors, without an index into a list."""
    parts = (part for part in error["loc"] if not isinstance(part, int) and part != NUMBER)
    return ".".join(map(str, parts))


def _expected(error: Any) -> str:
    """The values a setting takes, for one of pydantic's errors, in the words of this package."""
    context = error.get("ctx", {})
    match error["type"]:
        case "tuple_type":
            return """a list is expected: '["a", "b"]'"""
        case "too_short" | "string_too_short":
            return "it must not be empty"
        case "dict_type":
            return """a table is expected: '{neg = "negative", pos = "positive"}'"""
        case "string_type":
            return f"a text is expected, in double quotes: '\"{error['input']}\"'"
        case "int_type" | "int_parsing" | "int_from_float" | "int_parsing_size":
            return "a whole number is expected"
        case "float_type" | "float_parsing" | "finite_number":
            return "a number is expected"
        case "bool_type" | "bool_parsing":
            return "true or false is expected"
        case "extra_forbidden":
            return "there is no such setting"
        case "literal_error":
            return f"choose {context['expected']}"
        case "greater_than_equal":
            return f"it must be {context['ge']:g} or more"
        case "greater_than":
            return f"it must be more than {context['gt']:g}"
        case "less_than":
            return f"it must be less than {context['lt']:g}"
    return str(error["msg"])
