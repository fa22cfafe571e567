"""`classifier.json`: how an adapter was trained, and is therefore scored.

    ClassifierFile.load(folder).prompt.labels

No torch is needed to read it, so a wrong folder is reported at once.
"""

import json
import os
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field
from pydantic.dataclasses import dataclass

from sentilora.disk import read_limited
from sentilora.errors import DataError, UsageError
from sentilora.folders.records import STRICT, Record
from sentilora.hub import is_gguf, looks_like_hub_id
from sentilora.metrics import Share
from sentilora.prompt import PromptFormat
from sentilora.shipped import EMBEDDED
from sentilora.version import __version__
from sentilora.wording import quoted

FORMAT_VERSION = 1
NOT_IN_OLDER_FILES = {"path_from_run", "ordered", "answer"}  # fields of base and prompt


@dataclass(frozen=True, config=STRICT)
class BaseReference:
    """The base that an adapter belongs to.

    name: a hub id, the absolute path of a folder or GGUF file, or "embedded". path_from_run: the
    way from the run's folder to a base on disk, which finds it when both were moved together.
    """

    name: str
    revision: str = "main"
    quantization: Literal["nf4", "none"] = "nf4"
    double_quantization: bool = True
    path_from_run: str | None = None

    def seen_from(self, run: str | Path) -> Self:
        """The same base, with the way to it from a run's folder if it is on disk."""
        if self.name == EMBEDDED or not is_on_disk(self.name):
            return self
        way = os.path.relpath(os.path.realpath(self.name), os.path.realpath(run))
        return replace(self, path_from_run=way)


def is_on_disk(name: str) -> bool:
    """Whether a base's name is the path of a folder, or of a GGUF file, that exists."""
    path = os.path.expanduser(name)
    return os.path.isdir(path) or (is_gguf(name) and os.path.isfile(path))


def absolute_base(name: str) -> str:
    """The name of a base, as an absolute path if it is on disk: valid in any directory."""
    path = os.path.expanduser(name)
    return os.path.abspath(path) if name != EMBEDDED and is_on_disk(name) else name


def require_base_keywords(base: object, quantization: object) -> None:
    """Raise `UsageError` for keywords of the wrong type. None leaves what is recorded."""
    if base is not None and not isinstance(base, str | Path):
        raise UsageError(
            f"`base` is {base!r:.60}",
            setting="base",
            seen=base,
            remedy="give a hub id, a folder, a .gguf file or embedded",
        )
    if quantization not in (None, "nf4", "none"):
        raise UsageError(
            f"there is no `quantization` {quantization!r:.60}",
            setting="quantization",
            seen=quantization,
            remedy="choose nf4 or none",
        )


def may_stand_for(recorded: str, name: str) -> bool:
    """Whether the base `name` can be the recorded one: the same, or a copy of one not at hand.

    Only what is on disk can be a copy of a hub's base. Whether it fits is seen when it is loaded.
    """
    if os.path.realpath(absolute_base(name)) == os.path.realpath(absolute_base(recorded)):
        return True
    if EMBEDDED in (recorded, name) or is_on_disk(recorded):
        return False
    return is_on_disk(name) or not looks_like_hub_id(recorded)


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """What `evaluate` learned from evaluation rows.

    temperature: divides the labels' log-probabilities. abstain_below: the answer is "abstain" if
    its probability is lower; 0 never abstains. label_sets: {share of the texts whose set has the
    true label: probability from which a label is in the set}; see `evaluation.label_sets`.
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    abstain_below: Share = 0.0
    label_sets: Annotated[dict[Share, Share], Field(exclude_if=lambda sets: not sets)] = field(
        default_factory=dict
    )


@dataclass(frozen=True, config=STRICT)
class RecordedRuntime:
    """How the adapter computed in training. Scoring does the same unless it is overridden.

    batch_size: number of texts scored at once in training's evaluations.
    """

    compute_dtype: Literal["float16", "bfloat16", "float32"]
    attn_implementation: str
    engine: Literal["auto", "reference"]
    batch_size: Annotated[int, Field(ge=1)]


class ClassifierFile(Record):
    """What belongs to an adapter: prompt format, base, label tokens, runtime, calibration.

    label_ids: per label its tokens and EOS. runtime: None in older files, which do not record it.
    """

    FILE: ClassVar[str] = "classifier.json"
    REMEDY: ClassVar[str] = (
        "restore it (each checkpoint-N folder of the run has a copy), or remove it and "
        "give `labels` and `template` to predict"
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
        """The record in a folder. Raises `DataError` when it is damaged or has a newer format."""
        path = folder / cls.FILE
        content = _read_object(path, cls.MAX_BYTES)
        version = content.get("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise DataError(
                f"{quoted(path)} has format {version}, but this sentilora reads formats up to "
                f"{FORMAT_VERSION}",
                setting=cls.FILE,
                seen=version,
                remedy="update sentilora",
            )
        record = super().load(folder)
        # A default must not stand in for a value that the adapter was trained with.
        for section, kind in (("prompt", PromptFormat), ("base", BaseReference)):
            for name in (part.name for part in fields(kind)):
                if name not in content[section] and name not in NOT_IN_OLDER_FILES:
                    raise cls.damaged(folder, f"it has no {name!r}")
        return record

    def content(self) -> dict[str, Any]:
        """The values to write, without what is unknown and without a neutral calibration."""
        content = {**super().content(), "prompt": self.prompt.to_dict()}
        if self.base.path_from_run is None:
            del content["base"]["path_from_run"]
        if self.runtime is None:
            del content["runtime"]
        if self.calibration == Calibration():
            del content["calibration"]
        return content


def _read_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a file, unchecked; empty if there is none."""
    try:
        content = json.loads(read_limited(path, max_bytes))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
