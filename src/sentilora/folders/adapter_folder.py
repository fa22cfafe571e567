"""What lies in an adapter folder: PEFT's two files, and `classifier.json` beside them.

    check_adapter_folder(folder)
    ClassifierFile.load(folder).prompt.labels

Read and written without torch, so that a wrong folder is told from a right one at once.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sentilora.errors import DataError, UsageError
from sentilora.folders.classifier_file import (
    CLASSIFIER_FILE,
    ClassifierFile,
    reason_of,
    require_field,
)
from sentilora.progress import say
from sentilora.prompt import PromptFormat

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"


def check_adapter_folder(folder: Path) -> None:
    """Raise `DataError` when a folder is missing or holds no PEFT adapter."""
    if not folder.is_dir():
        raise DataError(f"there is no adapter folder {folder}")
    for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
        if (folder / name).is_file():
            continue
        checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda p: (len(p.name), p.name))
        if checkpoints:
            raise DataError(
                f"the run in {folder} is not finished; go on with `sentilora train --output-dir "
                f"{folder} --resume`, or take {checkpoints[-1]}"
            )
        raise DataError(f"{folder} holds no adapter: {name} is missing")


def adapter_config(folder: Path) -> dict[str, Any]:
    """A PEFT adapter's own configuration; raises `DataError` when it is none."""
    path = folder / ADAPTER_CONFIG_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        require_field(content, "base_model_name_or_path", str)
        require_field(content, "peft_type", str)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is damaged: {reason_of(error)}; restore it (a checkpoint-N folder beside it "
            "has the same)"
        ) from error
    return dict(content)


def adapter_base_name(folder: Path) -> str:
    """The base named in a plain PEFT adapter's own configuration."""
    return str(adapter_config(folder)["base_model_name_or_path"])


def lora_to_continue(
    folder: Path, base_name: str, format: PromptFormat, names: Iterable[str]
) -> dict[str, Any]:
    """The LoRA settings called `names` of the adapter that a new run starts from.

    Raises `DataError` when there is none, `UsageError` when it belongs to another base.
    """
    check_adapter_folder(folder)
    stored = adapter_config(folder)
    lora = {name: stored[name] for name in names if stored.get(name) is not None}
    if stored["peft_type"] != "LORA" or not isinstance(lora.get("target_modules"), list):
        raise UsageError(
            f"the adapter in {folder} is {stored['peft_type']} on {lora.get('target_modules')!r}; "
            "training goes on from a LORA adapter with a list of target_modules"
        )
    lora["target_modules"] = sorted(lora["target_modules"])
    if (folder / CLASSIFIER_FILE).is_file():  # else a plain adapter: its shapes tell when loaded
        before = ClassifierFile.load(folder)
        if before.base.name != base_name:
            raise UsageError(
                f"the adapter in {folder} belongs to the base {before.base.name!r}, the "
                f"configuration asks for {base_name!r}; set base.name={before.base.name}"
            )
        if before.prompt != format:
            say(f"warning: {folder} was trained with another prompt or other labels")
    say(f"going on from {folder}: its LoRA settings hold (r={lora['r']})")
    return lora
