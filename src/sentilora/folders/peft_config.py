"""PEFT's `adapter_config.json`, and whether what it asks for can be used, and is harmless.

An adapter's folder may come from a stranger. PEFT follows its configuration: it imports a module
that it names, matches its regular expressions with names, and allocates what it asks for.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict

from sentilora.errors import DataError, UsageError
from sentilora.folders.records import Record
from sentilora.wording import quoted

LORA = "LORA"
# PEFT adapts these to unquantized layers, not to NF4's packed ones; compared with PEFT by a test.
UNQUANTIZED_KINDS = ("BOFT", "FOURIERFT", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "OFT", "VERA")
HEADS = {"score", "classifier", "classification_head", "qa_outputs"}
MAX_REPEATS = 6  # without bounds, in a regular expression: unsloth writes one of 4
_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern")


class PeftConfig(Record):
    """PEFT's `adapter_config.json`: a few checked fields, and all others as they are."""

    model_config = ConfigDict(extra="allow")
    FILE: ClassVar[str] = "adapter_config.json"
    REMEDY: ClassVar[str] = "restore it (each checkpoint-N folder of the run has a copy)"

    base_model_name_or_path: str | None
    peft_type: str
    task_type: str | None = None
    modules_to_save: list[str] | None = None

    def ranks(self) -> list[int]:
        """The ranks that it asks for: PEFT allocates them before it reads a weight."""
        config = self.model_dump()
        values = [config.get("r")]
        if isinstance(pattern := config.get("rank_pattern"), dict):
            values += pattern.values()
        return [value for value in values if isinstance(value, int)]


def require_usable(path: Path, peft: PeftConfig) -> None:
    """Raise an error for an adapter with a head of its own, or of a kind that is not supported.

    path: its folder. Raises `DataError` for a configuration that could do harm.
    """
    heads = sorted(HEADS & {name.rpartition(".")[2] for name in peft.modules_to_save or ()})
    if heads or peft.task_type not in (None, "CAUSAL_LM"):
        fault = f"a head of its own ({', '.join(heads)})" if heads else "another task"
        raise UsageError(
            f"the adapter in {quoted(path)} has {fault} (task_type {peft.task_type}), but labels "
            "are scored with the head of a causal language model",
            setting="adapter",
            seen=str(path),
            remedy="choose an adapter of task_type CAUSAL_LM, or train one",
        )
    if peft.peft_type in (LORA, *UNQUANTIZED_KINDS):
        _require_harmless(path, peft.model_dump())
        return
    raise DataError(
        f"{path / peft.FILE} has peft_type {peft.peft_type!r}, which is not supported",
        setting="adapter",
        seen=str(path),
        remedy=f"choose an adapter of type {LORA}; on an unquantized base "
        f"{', '.join(UNQUANTIZED_KINDS)} work too",
    )


def _require_harmless(path: Path, config: dict[str, Any]) -> None:
    """Raise `DataError` for a value with which PEFT would import, hang or fill the memory."""
    fault = ""
    if config.get("megatron_config") is not None:
        fault = "has a megatron_config, for which PEFT imports a module that the file names"
    elif config.get("layer_replication") is not None:
        fault = "has a layer_replication, which is not supported"
    elif slow := [pattern for pattern in _patterns(config) if may_hang(pattern)]:
        fault = f"has a regular expression that may never end: {slow[0]!r:.60}"
    if fault:
        raise DataError(
            f"{quoted(path / PeftConfig.FILE)} {fault}",
            setting="adapter",
            seen=str(path),
            remedy="choose another adapter",
        )


def _patterns(config: dict[str, Any]) -> Iterator[str]:
    """The regular expressions of a configuration; PEFT reads plain names as such, too."""
    for name in _PATTERNS:
        value = config.get(name)
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list | dict):
            yield from (pattern for pattern in values if isinstance(pattern, str))


def may_hang(pattern: str) -> bool:
    """Whether a regular expression has nested or many repetitions without bounds."""
    try:
        num_repeats, is_nested = _repeats(re._parser.parse(pattern))  # type: ignore[attr-defined]
    except re.error:  # PEFT's error names it
        return False
    except (RecursionError, OverflowError):
        return True
    return is_nested or num_repeats > MAX_REPEATS


def _repeats(part: Any) -> tuple[int, bool]:
    """The number of repetitions without bounds in a parsed expression; whether one is in another.

    An alternative within a repetition counts as one.
    """
    count, is_nested = 0, False
    items = list(part) if hasattr(part, "data") else part
    for item in items if isinstance(items, list | tuple) else ():
        if not isinstance(item, list | tuple) and not hasattr(item, "data"):
            continue
        inner, inner_is_nested = _repeats(item)
        name = str(item[0]) if isinstance(item, tuple) and item else ""
        if name in ("MAX_REPEAT", "MIN_REPEAT") and item[1][1] > 16:
            is_nested |= inner > 0 or "BRANCH" in str(item[1][2])
            inner += 1
        count, is_nested = count + inner, is_nested or inner_is_nested
    return count, is_nested
