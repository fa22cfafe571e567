"""JSON files of runs and adapters as checked records: clear errors, atomic writes."""

import json
import re
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from sentilora.disk import read_limited, write_atomically
from sentilora.errors import DataError
from sentilora.wording import quoted

STRICT = ConfigDict(strict=True, extra="ignore")


class Record(BaseModel):
    """The content of one JSON file. A subclass names the file, and the remedy for damage."""

    model_config = ConfigDict(**STRICT, frozen=True)
    FILE: ClassVar[str]
    REMEDY: ClassVar[str]
    MAX_BYTES: ClassVar[int] = 2**24  # a hundred times what any of them takes

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The record in a folder. Raises `DataError` when it is missing or damaged."""
        try:
            return cls.model_validate_json(read_limited(folder / cls.FILE, cls.MAX_BYTES))
        except FileNotFoundError as error:
            path = folder / cls.FILE
            raise DataError(
                f"{quoted(path)} is missing", setting=cls.FILE, seen=str(path), remedy=cls.REMEDY
            ) from error
        except (OSError, ValueError) as error:
            raise cls.damaged(folder, _reason(error, next(iter(cls.model_fields)))) from error

    @classmethod
    def damaged(cls, folder: Path, reason: str) -> DataError:
        """The error for a damaged file. reason: a sentence about "it"."""
        path = folder / cls.FILE
        return DataError(
            f"{quoted(path)} is damaged: {reason}",
            setting=cls.FILE,
            seen=str(path),
            remedy=cls.REMEDY,
        )

    def content(self) -> dict[str, Any]:
        """The values to write, as plain JSON types."""
        return self.model_dump(mode="json")

    def save(self, folder: Path) -> None:
        """Write the file. A reader sees the complete old file or the complete new one."""
        text = json.dumps(self.content(), indent=2, ensure_ascii=False)
        write_atomically(folder / self.FILE, text + "\n")


def _reason(error: Exception, first_field: str) -> str:
    """Why a JSON file is damaged, as a sentence about "it"."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, OSError):
        return f"it cannot be read ({error.strerror})"
    if not isinstance(error, ValidationError):
        return str(error)
    fault: Any = error.errors(include_url=False)[0]
    *_, last = fault["loc"] or (first_field,)
    match fault["type"]:
        case "json_invalid":
            line = re.search(r"line (\d+)", str(fault["ctx"]["error"]))
            return f"it is not JSON (line {line[1] if line else 1})"
        case "missing" | "model_type":  # "model_type": no object, so no fields
            return f"it has no {last!r}"
        case "value_error":
            return str(fault["ctx"]["error"])
    if isinstance(last, int):
        name = ".".join(str(part) for part in fault["loc"] if not isinstance(part, int))
        return f"its {name} holds {fault['input']!r:.60}"
    return f"its {last!r} is {fault['input']!r:.60}"
