"""What `datasets` writes of a data set besides its rows: the names of its labels above all."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.errors import DataError, first_line
from sentilora.progress import say_once
from sentilora.wording import quoted

if TYPE_CHECKING:
    import pyarrow as pa


def stored_names(table: "pa.Table", column: str) -> tuple[str, ...] | None:
    """The names that a table's own metadata, as `datasets` writes it, has for a column's numbers.

    Raises no error: metadata of another form say nothing about the column.
    """
    try:
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        feature = features[column]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    return tuple(map(str, feature.get("names") or ())) or None


def features_beside(folder: Path) -> dict[str, Any] | None:
    """The features that `dataset_info.json` or a hub's README.md in a folder describe, if any.

    Raises `DataError` for a damaged dataset_info.json that names labels.
    """
    info, card = folder / "dataset_info.json", folder / "README.md"
    if _mentions(info, "ClassLabel"):
        try:
            features = json.loads(info.read_text(encoding="utf-8-sig"))["features"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{quoted(info)} is damaged: {first_line(error)}",
                seen=str(info),
                remedy="restore it, or remove it",
            ) from error
        return features if isinstance(features, dict) else None
    return _features_of_card(card) if _mentions(card, "class_label") else None


def _features_of_card(card: Path) -> dict[str, Any] | None:
    from datasets.info import DatasetInfosDict

    try:
        infos = DatasetInfosDict.from_directory(str(card.parent)).values()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        say_once(f"{quoted(card)} describes no data: {first_line(error)}")
        return None
    features = [info.features.to_dict() for info in infos if info.features is not None]
    if any(other != features[0] for other in features):
        say_once(
            f"{quoted(card)} describes {len(features)} configurations: its labels are not used"
        )
        return None
    return features[0] if features else None


def _mentions(path: Path, word: str) -> bool:
    return path.is_file() and word in path.read_text(encoding="utf-8", errors="replace")
