"""`classifier.json`: what an adapter was trained with, and is scored with.

    ClassifierFile.load(folder).prompt.labels

Read and written without torch, so that a wrong folder is told from a right one at once.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field
from pydantic.dataclasses import dataclass

from sentilora.errors import DataError
from sentilora.folders.records import STRICT, Record
from sentilora.prompt import PromptFormat
from sentilora.version import __version__

FORMAT_VERSION = 1


@dataclass(frozen=True, config=STRICT)
class BaseReference:
    """Which base an adapter belongs to."""

    name: str
    revision: str = "main"
    quantization: Literal["nf4", "none"] = "nf4"
    double_quantization: bool = True


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """What `evaluate` learned from evaluation rows. Label scores are divided by `temperature`.

    abstain_below: no answer is given with a lower probability; 0 always answers.
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    abstain_below: float = 0.0


@dataclass(frozen=True, config=STRICT)
class RecordedRuntime:
    """How the adapter computed in training: what it is scored with, unless asked otherwise.

    batch_size: texts that were scored at once in training's evaluations.
    """

    compute_dtype: Literal["float16", "bfloat16", "float32"]
    attn_implementation: str
    engine: Literal["auto", "reference"]
    batch_size: Annotated[int, Field(ge=1)]


class ClassifierFile(Record):
    """What lies beside an adapter: prompt format, base, label tokens, runtime, calibration.

    runtime: None in folders that were written before it was recorded.
    """

    FILE: ClassVar[str] = "classifier.json"
    REMEDY: ClassVar[str] = (
        "restore it (a checkpoint-N folder beside it has the same), or remove it and give `labels` "
        "and `template`"
    )

    format_version: int
    sentilora_version: str = __version__
    prompt: PromptFormat
    base: BaseReference
    label_ids: list[list[int]]
    runtime: RecordedRuntime | None = None
    calibration: Calibration = Calibration()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The record in a folder. Raises `DataError` when it is damaged or of a later version."""
        path = folder / cls.FILE
        stored = _stored(path)
        version = stored.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise DataError(
                f"{path} has format {version}, this sentilora reads up to {FORMAT_VERSION}",
                setting=cls.FILE,
                seen=version,
                remedy="update sentilora",
            )
        record = super().load(folder)
        # No default may stand in for what the adapter was trained with.
        for section, kind in (("prompt", PromptFormat), ("base", BaseReference)):
            for name in (field.name for field in fields(kind)):
                if name not in stored[section]:
                    raise cls.damaged(folder, f"it has no {name!r}")
        return record

    def content(self) -> dict[str, Any]:
        """What is written; what is not known is left out."""
        content = super().content()
        if self.runtime is None:
            del content["runtime"]
        if self.calibration == Calibration():
            del content["calibration"]
        return content


def _stored(path: Path) -> dict[str, Any]:
    """The file's object as it stands; empty where there is none to read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
