"""JSON files of a run or an adapter as checked records: plain errors if damaged, written whole."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from sentilora.errors import DataError

STRICT = ConfigDict(strict=True, extra="ignore")


class Record(BaseModel):
    """What one JSON file holds. A subclass names the file and what to do when it is damaged."""

    model_config = ConfigDict(**STRICT, frozen=True)
    FILE: ClassVar[str]
    REMEDY: ClassVar[str]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The record in a folder. Raises `DataError` when it is missing or damaged."""
        try:
            return cls.model_validate_json((folder / cls.FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise cls.damaged(folder, _reason(error, next(iter(cls.model_fields)))) from error

    @classmethod
    def damaged(cls, folder: Path, reason: str) -> DataError:
        """The error to raise for a file that cannot be used. reason: a sentence about "it"."""
        path = folder / cls.FILE
        return DataError(
            f"{path} is damaged: {reason}", setting=cls.FILE, seen=str(path), remedy=cls.REMEDY
        )

    def content(self) -> dict[str, Any]:
        """What is written, as plain JSON values."""
        return self.model_dump(mode="json")

    def save(self, folder: Path) -> None:
        """Write the file; readers see the old one or the new one, never a part."""
        text = json.dumps(self.content(), indent=2, ensure_ascii=False)
        write_atomically(folder / self.FILE, text + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Put a text file in place whole, in the permissions that a plain write would give it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        unfinished.chmod(0o666 & ~umask)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _reason(error: Exception, first_field: str) -> str:
    """Why a JSON file cannot be used, in plain words."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if not isinstance(error, ValidationError):
        return str(error)
    fault: Any = error.errors(include_url=False)[0]
    *_, last = fault["loc"] or (first_field,)
    match fault["type"]:
        case "json_invalid":
            line = re.search(r"line (\d+)", str(fault["ctx"]["error"]))
            return f"it is not JSON (line {line[1] if line else 1})"
        case "missing" | "model_type":  # no object at all has no field either
            return f"it has no {last!r}"
        case "value_error":
            return str(fault["ctx"]["error"])
    if isinstance(last, int):
        name = ".".join(str(part) for part in fault["loc"] if not isinstance(part, int))
        return f"its {name} holds {fault['input']!r:.60}"
    return f"its {last!r} is {fault['input']!r:.60}"
