"""`classifier.json`: the prompt, the base and the label tokens that belong to an adapter."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sentilora.errors import DataError
from sentilora.prompt import PromptFormat
from sentilora.version import __version__

CLASSIFIER_FILE = "classifier.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class BaseReference:
    """Which base an adapter belongs to, as `classifier.json` records it."""

    name: str
    revision: str = "main"
    quantization: str = "nf4"
    double_quantization: bool = True


@dataclass(frozen=True)
class Calibration:
    """What `evaluate` found on evaluation rows. Label scores are divided by `temperature`.

    abstain_below: no answer is given with a lower probability; 0 always answers.
    """

    temperature: float = 1.0
    abstain_below: float = 0.0


@dataclass(frozen=True)
class ClassifierFile:
    """What `classifier.json` holds beside the adapter: prompt format, base and label tokens."""

    prompt: PromptFormat
    base: BaseReference
    label_ids: list[list[int]]
    calibration: Calibration = Calibration()

    def save(self, folder: Path) -> None:
        content = {
            "format_version": FORMAT_VERSION,
            "sentilora_version": __version__,
            "prompt": self.prompt.to_dict(),
            "base": asdict(self.base),
            "label_ids": self.label_ids,
        }
        if self.calibration != Calibration():
            content["calibration"] = asdict(self.calibration)
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / CLASSIFIER_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "ClassifierFile":
        path = folder / CLASSIFIER_FILE
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            version = require_field(content, "format_version", int)
            if version > FORMAT_VERSION:
                raise DataError(
                    f"{path} has format {version}, this sentilora reads up to {FORMAT_VERSION}; "
                    "update sentilora"
                )
            prompt, base = (
                require_field(content, "prompt", dict),
                require_field(content, "base", dict),
            )
            if base.get("quantization") not in ("nf4", "none"):
                raise ValueError(f"its 'quantization' is {base.get('quantization')!r:.60}")
            calibration = content.get("calibration") or {}
            if not 0 < _number(calibration, "temperature", 1.0) < float("inf"):
                raise ValueError("its 'temperature' is not above 0")
            return cls(
                PromptFormat(
                    **{key: require_field(prompt, key, kind) for key, kind in _PROMPT.items()}
                ),
                BaseReference(
                    **{key: require_field(base, key, kind) for key, kind in _BASE.items()}
                ),
                require_field(content, "label_ids", list),
                Calibration(
                    _number(calibration, "temperature", 1.0),
                    _number(calibration, "abstain_below", 0.0),
                ),
            )
        except (OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path} is damaged: {reason_of(error)}; restore it (a checkpoint-N folder beside "
                "it has the same), or remove it and give --labels and --template"
            ) from error


# The fields of `classifier.json` and what they hold.
_PROMPT = {
    "template": str,
    "instruction": str,
    "labels": list,
    "max_length": int,
    "truncation": str,
}
_BASE = {"name": str, "revision": str, "quantization": str, "double_quantization": bool}


def _number(content: Any, name: str, default: float) -> float:
    value = content.get(name, default) if isinstance(content, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"its {name!r} is {value!r:.60}, not a number")
    return float(value)


def require_field(content: Any, name: str, kind: type) -> Any:
    if not isinstance(content, dict) or name not in content:
        raise ValueError(f"it has no {name!r}")
    if not isinstance(content[name], kind):
        raise ValueError(f"its {name!r} is {content[name]!r:.60}")
    return content[name]


def reason_of(error: Exception) -> str:
    """Why a JSON file cannot be used, in plain words."""
    if isinstance(error, json.JSONDecodeError):
        return f"it is no JSON (line {error.lineno})"
    return "it is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
