"""An adapter folder: PEFT's two files, and `classifier.json` beside them.

    folder = AdapterFolder.open("./mistral-sentiment-ita")
    folder.classifier.prompt.labels

It is opened and checked once, without torch, and then handed on.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict

from sentilora.errors import DataError, UsageError
from sentilora.folders.checkpoints import checkpoints, run_of
from sentilora.folders.classifier_file import ClassifierFile
from sentilora.folders.records import Record
from sentilora.progress import say
from sentilora.prompt import PromptFormat


class PeftConfig(Record):
    """PEFT's own `adapter_config.json`: what is needed of it here, and the rest as it is."""

    model_config = ConfigDict(extra="allow")
    FILE: ClassVar[str] = "adapter_config.json"
    REMEDY: ClassVar[str] = "restore it (a checkpoint-N folder beside it has the same)"

    base_model_name_or_path: str
    peft_type: str


@dataclass(frozen=True)
class AdapterFolder:
    """A folder that holds an adapter. classifier: None for a plain PEFT adapter."""

    WEIGHTS_FILE: ClassVar[str] = "adapter_model.safetensors"

    path: Path
    peft: PeftConfig
    classifier: ClassifierFile | None

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Raises `DataError` when the folder is missing, holds no adapter, or is damaged."""
        path = Path(os.path.expanduser(path))
        if not path.is_dir():
            raise DataError(f"there is no adapter folder {path}", setting="adapter", seen=str(path))
        for name in (PeftConfig.FILE, cls.WEIGHTS_FILE):
            if not (path / name).is_file():
                raise _incomplete(path, name)
        has_file = (path / ClassifierFile.FILE).is_file()
        classifier = ClassifierFile.load(path) if has_file else None
        return cls(path, PeftConfig.load(path), classifier)

    @property
    def run(self) -> Path:
        """The run folder: this one, for a checkpoint the one above."""
        return run_of(self.path)

    def weights_digest(self) -> str:
        """SHA-256 of the adapter's weights."""
        return hashlib.sha256((self.path / self.WEIGHTS_FILE).read_bytes()).hexdigest()

    def lora_to_continue(
        self, base_name: str, format: PromptFormat, names: Iterable[str]
    ) -> dict[str, Any]:
        """The LoRA settings called `names`, for a run that starts from this adapter.

        Raises `UsageError` when it belongs to another base or is not plain LoRA.
        """
        stored = self.peft.model_dump()
        lora = {name: stored[name] for name in names if stored.get(name) is not None}
        if self.peft.peft_type != "LORA" or not isinstance(lora.get("target_modules"), list):
            raise UsageError(
                f"the adapter in {self.path} is {self.peft.peft_type} on "
                f"{lora.get('target_modules')!r}",
                setting="adapter",
                seen=str(self.path),
                remedy="training goes on from a LORA adapter with a list of target_modules",
            )
        lora["target_modules"] = sorted(lora["target_modules"])
        if self.classifier is not None:  # a plain adapter's shapes tell when it is loaded
            if self.classifier.base.name != base_name:
                raise UsageError(
                    f"the adapter in {self.path} belongs to the base "
                    f"{self.classifier.base.name!r}, the configuration asks for {base_name!r}",
                    setting="base.name",
                    seen=base_name,
                    remedy=f"set base.name={self.classifier.base.name}",
                )
            if self.classifier.prompt != format:
                say(f"warning: {self.path} was trained with another prompt or other labels")
        say(f"going on from {self.path}: its LoRA settings hold (r={lora['r']})")
        return lora


def _incomplete(path: Path, name: str) -> DataError:
    saved = checkpoints(path)
    if saved:
        last = saved[max(saved)]
        return DataError(
            f"the run in {path} is not finished",
            setting="adapter",
            seen=str(path),
            remedy=f"resume it with `resume` and the same `output_dir`, or take {last}",
        )
    return DataError(
        f"{path} holds no adapter: {name} is missing", setting="adapter", seen=str(path)
    )
