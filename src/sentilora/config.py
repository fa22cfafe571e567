"""The configuration: presets in TOML, files and `section.key=value` laid over them, checked once.

    config = load_config("tiny", overrides=["training.learning_rate=1e-4"])
    config.training.learning_rate

Every default is in `presets/defaults.toml`; the models here only say which keys exist and
what they may hold. Configuration objects stop at the stages.
"""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sentilora.errors import DataError, UsageError
from sentilora.presets import DEFAULT_PRESET, LEAF_TABLES, flatten, preset_tree, set_value
from sentilora.shipped import EMBEDDED

CONFIG_FILE = "sentilora.toml"  # the resolved recipe in a run folder


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BaseSection(Section):
    name: str = Field(min_length=1)
    revision: str
    device: Literal["auto", "cuda", "cpu"]
    quantization: Literal["nf4", "none"]
    double_quantization: bool
    compute_dtype: Literal["auto", "float16", "bfloat16", "float32"]
    attn_implementation: str
    cache_quantized: bool = False  # recipes from before it came are still read


class LoraSection(Section):
    r: int = Field(ge=1)
    lora_alpha: int = Field(ge=1)
    lora_dropout: float = Field(ge=0, lt=1)
    bias: Literal["none", "all", "lora_only"]
    target_modules: tuple[str, ...] = Field(min_length=1)


class DataSection(Section):
    train: str = Field(min_length=1)
    evaluation: str = Field(min_length=1)
    test: str = Field(min_length=1)
    text_column: str
    label_column: str
    label_map: dict[str, str]
    num_train: int = Field(ge=0)
    num_train_subset: int = Field(0, ge=0)  # recipes from before it came are still read
    num_evaluation: int = Field(ge=0)
    num_test: int = Field(ge=0)
    shuffle_seed: int = Field(ge=0)
    balance: Literal["none", "weights", "sample"]


class PromptSection(Section):
    template: str
    instruction: str
    labels: tuple[str, ...]
    max_length: int = Field(ge=1)
    truncation: Literal["head", "tail", "head+tail"]


class TrainingSection(Section):
    num_train_epochs: float = Field(gt=0)
    max_steps: int = Field(ge=0)
    per_device_train_batch_size: int = Field(ge=1)
    gradient_accumulation_steps: int = Field(ge=1)
    per_device_eval_batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    lr_scheduler_type: str
    warmup_steps: int = Field(ge=0)
    warmup_ratio: float = Field(ge=0, lt=1)
    optim: str
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(ge=0)
    gradient_checkpointing: bool
    seed: int = Field(ge=0, lt=2**32)  # NumPy's
    logging_steps: int = Field(ge=1)
    eval_steps: int = Field(ge=1)
    save_steps: int = Field(ge=1)
    save_total_limit: int = Field(ge=2)
    early_stopping_patience: int = Field(ge=0)
    report_to: str


class EngineSection(Section):
    implementation: Literal["auto", "reference"]
    base_matmul: Literal["exact", "fp8"]
    assume_capability: float = Field(ge=0)
    max_memory_gib: float = Field(ge=0)


class Config(Section):
    """Every setting of a run."""

    output_dir: str = Field(min_length=1)
    base: BaseSection
    lora: LoraSection
    data: DataSection
    prompt: PromptSection
    training: TrainingSection
    engine: EngineSection

    def flat(self) -> dict[str, Any]:
        """Every setting by its full name, `{"section.key": value}`, as plain JSON values."""
        return dict(flatten(self.model_dump(mode="json")))

    def with_values(self, values: Mapping[str, Any]) -> "Config":
        """A copy with `{"section.key": value}` laid over it, checked like `load_config`'s."""
        tree = self.model_dump(mode="json")
        _lay_over(tree, values)
        return _validate(tree)

    def save(self, path: Path) -> None:
        """Write it as TOML, in a form that `load_config(file=…)` reads back."""
        import tomli_w

        tree = self.model_dump(mode="json")
        # Strings over several lines are easier to read, and would lose a carriage return.
        text = tomli_w.dumps(tree, multiline_strings="\\r" not in json.dumps(tree))
        path.write_text(text, encoding="utf-8")


def load_config(
    preset: str = DEFAULT_PRESET,
    file: Path | str | None = None,
    overrides: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Config:
    """The preset, then the file, then `section.key=value` strings, then `values`; later wins.

    Raises `UsageError` for an unknown preset, an unknown key (with the nearest known one), a value
    of the wrong kind, and a file that is missing or no TOML.
    """
    given: dict[str, Any] = {}
    if file is not None:
        given.update(flatten(_read_toml(Path(file), UsageError)))
    given.update(parse_override(item) for item in overrides)
    given.update(values or {})
    tree = preset_tree(preset, embedded=given.get("data.train") in (None, EMBEDDED))
    _lay_over(tree, given)
    return _validate(tree)


def read_config(path: Path) -> Config:
    """A configuration that `Config.save` wrote. Raises `DataError` when it cannot be read."""
    try:
        return _validate(_read_toml(path, DataError))
    except UsageError as error:
        raise DataError(f"{path} is no configuration of this sentilora: {error}") from error


def parse_override(item: str) -> tuple[str, Any]:
    """`section.key=value` as (key, value); the value is TOML where it can be, else a string."""
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"cannot read {item!r}; write section.key=value, e.g. training.seed=1")
    try:
        read = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        read = {}
    # A text of several lines may happen to read as several keys.
    return key.strip(), read["value"] if list(read) == ["value"] else text


def _read_toml(path: Path, fault: type[UsageError] | type[DataError]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise fault(f"there is no configuration file {path}") from error
    except (OSError, ValueError) as error:
        reason = "it is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise fault(f"cannot read the configuration {path}: {reason}") from error


def _lay_over(tree: dict[str, Any], values: Mapping[str, Any]) -> None:
    known = sorted(key for key, _ in flatten(tree))
    if isinstance(values.get("engine"), str):  # engine=reference
        values = {"engine.implementation": values["engine"], **values}
        del values["engine"]
    for key in values:
        _check_known(key, known)
    for key, value in values.items():
        set_value(tree, key, value)


def _check_known(key: str, known: list[str]) -> None:
    if key in known or any(key.startswith(f"{table}.") for table in LEAF_TABLES):
        return
    if any(name.startswith(f"{key}.") for name in known):
        raise UsageError(f"{key!r} is a section; set one of its keys, e.g. {key}.key=value")
    likeness = {name: _likeness(key, name) for name in [*known, "engine"]}
    near = [repr(name) for name in likeness if likeness[name] == max(likeness.values())]
    raise UsageError(f"there is no setting {key!r}; did you mean {' or '.join(near[:3])}?")


def _likeness(key: str, name: str) -> float:
    """How near an unknown key is to a known one: above all in its last part, then in its section.

    "lr" is near learning_rate, "batch_size" near per_device_train_batch_size.
    """
    asked_section, _, asked = key.lower().rpartition(".")
    section, _, last = name.rpartition(".")
    ratio = difflib.SequenceMatcher(None, asked, last).ratio()
    if asked == "".join(word[0] for word in last.split("_")):
        ratio = max(ratio, 0.9)
    elif len(asked) > 2 and asked in last:
        ratio = max(ratio, 0.8)
    return ratio + 0.4 * difflib.SequenceMatcher(None, asked_section, section).ratio()


def _validate(tree: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        found = error.errors(include_url=False)
        parts = [
            f"{_key_of(e)} is missing"
            if e["type"] == "missing"
            else f"{_key_of(e)} is {e['input']!r:.60}: {_expected(e)}"
            for e in found
        ]
        raise UsageError("; ".join(parts)) from error


def _key_of(error: Any) -> str:
    """`section.key`, without the place in a list."""
    return ".".join(str(part) for part in error["loc"] if not isinstance(part, int))


def _expected(error: Any) -> str:
    """What a value should have been, without pydantic's words."""
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
