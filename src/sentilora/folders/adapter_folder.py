"""An adapter folder: PEFT's two files, and `classifier.json` next to them.

    folder = AdapterFolder.open("./mistral-sentiment-ita")
    folder.classifier.prompt.labels

A folder is opened and checked once, without torch, and then passed on as this record.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict

from sentilora.errors import DataError, UsageError
from sentilora.folders.checkpoints import (
    WEIGHTS_FILE,
    Checksums,
    checkpoint_folder,
    checkpoints,
    faults_of,
    faults_of_weights,
    run_of,
)
from sentilora.folders.classifier_file import ClassifierFile
from sentilora.folders.records import Record
from sentilora.folders.run_folder import TrainingResult
from sentilora.progress import say
from sentilora.prompt import PromptFormat

UNFINISHED = "unfinished-adapter"  # folder in a run's, until the saved adapter was scored again
_REMEDY = "choose a folder in which training or PEFT saved an adapter"


class PeftConfig(Record):
    """PEFT's `adapter_config.json`: two checked fields, and all others as they are."""

    model_config = ConfigDict(extra="allow")
    FILE: ClassVar[str] = "adapter_config.json"
    REMEDY: ClassVar[str] = "restore it (each checkpoint-N folder of the run has a copy)"

    base_model_name_or_path: str
    peft_type: str


@dataclass(frozen=True)
class AdapterFolder:
    """A folder that holds an adapter. classifier: None for an adapter of plain PEFT."""

    WEIGHTS_FILE: ClassVar[str] = WEIGHTS_FILE

    path: Path
    peft: PeftConfig
    classifier: ClassifierFile | None

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The adapter folder at a path, checked.

        Raises `DataError` when the folder is missing, incomplete or damaged.
        """
        path = Path(os.path.expanduser(path))
        if not path.is_dir():
            raise DataError(
                f"there is no adapter folder {path}",
                setting="adapter",
                seen=str(path),
                remedy=_REMEDY,
            )
        for name in (PeftConfig.FILE, cls.WEIGHTS_FILE):
            if not (path / name).is_file():
                raise _incomplete(path, name)
        if faults := faults_of_weights(path):
            raise DataError(
                f"{', '.join(faults)}: it is not what training saved",
                setting="adapter",
                seen=str(path),
                remedy=f"restore it, or remove {Checksums.FILE} if it was changed on purpose",
            )
        has_file = (path / ClassifierFile.FILE).is_file()
        classifier = ClassifierFile.load(path) if has_file else None
        return cls(path, PeftConfig.load(path), classifier)

    @property
    def run(self) -> Path:
        """The run's folder: this one, or for a checkpoint its parent."""
        return run_of(self.path)

    def weights_digest(self) -> str:
        """SHA-256 of the adapter's weights."""
        return hashlib.sha256((self.path / self.WEIGHTS_FILE).read_bytes()).hexdigest()

    def lora_to_continue(
        self, base_name: str, format: PromptFormat, names: Iterable[str]
    ) -> dict[str, Any]:
        """The adapter's LoRA settings, by name, for a run that starts from this adapter.

        base_name, format: base and prompt of that run. names: the settings to return. Raises
        `UsageError` when the adapter belongs to another base or is not plain LoRA.
        """
        config = self.peft.model_dump()
        lora = {name: config[name] for name in names if config.get(name) is not None}
        if self.peft.peft_type != "LORA" or not isinstance(lora.get("target_modules"), list):
            raise UsageError(
                f"the adapter in {self.path} has peft_type {self.peft.peft_type} and "
                f"target_modules {lora.get('target_modules')!r}",
                setting="adapter",
                seen=str(self.path),
                remedy="start from an adapter with peft_type LORA and a list of target_modules",
            )
        lora["target_modules"] = sorted(lora["target_modules"])
        if self.classifier is not None:  # a plain adapter's shapes are checked when it is loaded
            if self.classifier.base.name != base_name:
                raise UsageError(
                    f"the adapter in {self.path} belongs to the base "
                    f"{self.classifier.base.name!r}, but the configuration names {base_name!r}",
                    setting="base.name",
                    seen=base_name,
                    remedy=f"set base.name={self.classifier.base.name}",
                )
            if self.classifier.prompt != format:
                say(f"warning: {self.path} was trained with a different prompt or labels")
        say(f"starting from {self.path}, with its LoRA settings (r={lora['r']})")
        return lora


@contextmanager
def new_adapter(run: Path) -> Iterator[Path]:
    """A folder for the files of a run's new adapter, which move to the run's own at the end.

    After an error nothing is left of them, so that nothing looks like a result. PEFT's
    configuration moves last: without it the rest is no adapter yet.
    """
    folder = run / UNFINISHED
    shutil.rmtree(folder, ignore_errors=True)  # of a job that was killed
    try:
        yield folder
        for path in sorted(folder.iterdir(), key=lambda path: path.name == PeftConfig.FILE):
            path.replace(run / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _incomplete(path: Path, name: str) -> DataError:
    intact = [folder for folder in checkpoints(path).values() if not faults_of(folder)]
    if (path / TrainingResult.FILE).is_file():
        best = checkpoint_folder(path, TrainingResult.load(path).best_step)
        return DataError(
            f"{path / name} is missing",
            setting="adapter",
            seen=str(path),
            remedy=f"restore it from {best}" if best in intact else "restore it, or train again",
        )
    if intact:
        return DataError(
            f"the run in {path} is not finished",
            setting="adapter",
            seen=str(path),
            remedy=f"finish it (train with `resume` and this `output_dir`), or use {intact[-1]}",
        )
    return DataError(
        f"{path} holds no adapter: {name} is missing",
        setting="adapter",
        seen=str(path),
        remedy=_REMEDY,
    )
