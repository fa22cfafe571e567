"""JSON files of a run or an adapter as checked records: plain errors if damaged, written whole."""

import json
import os
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
        path = folder / cls.FILE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} is damaged: {damage(error)}",
                setting=cls.FILE,
                seen=str(path),
                remedy=cls.REMEDY,
            ) from error

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


def damage(error: Exception) -> str:
    """Why a JSON file cannot be used, in plain words."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no UTF-8 text"
    if not isinstance(error, ValidationError):
        return str(error)
    fault: Any = error.errors(include_url=False)[0]
    *_, last = fault["loc"] or ("",)
    match fault["type"]:
        case "json_invalid":
            place = str(fault["ctx"]["error"]).rpartition("line ")[2].partition(" ")[0]
            return f"it is no JSON (line {place})"
        case "missing":
            return f"it has no {last!r}"
        case "model_type" if not fault["loc"]:
            return "it is no object"
        case "value_error":
            return str(fault["ctx"]["error"])
    if isinstance(last, int):
        name = ".".join(str(part) for part in fault["loc"] if not isinstance(part, int))
        return f"its {name} holds {fault['input']!r:.60}"
    return f"its {last!r} is {fault['input']!r:.60}"
