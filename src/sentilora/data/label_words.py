"""The label word that each stored label stands for, and never by assumption.

A stored label is a label of the prompt (spaces around it and, if no two labels differ only in it,
upper case do not count), or `data.label_map` leads to one (upper case counts only if two keys
differ in it), or the data name it: a column that the `datasets` library wrote as a `ClassLabel` has
the names of its numbers, and those are what the numbers mean.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from sentilora.data.columns import is_missing, more_rows
from sentilora.data.descriptions import stored_names
from sentilora.data.rows import Columns, row_place
from sentilora.data.tables import python_values
from sentilora.errors import DataError
from sentilora.wording import MAX_LISTED, counted, listed, quoted

if TYPE_CHECKING:
    import pyarrow as pa

IMDB_NUMBERS = {"0": "negative", "1": "positive"}  # on the hub, where the data name them


def labels_of(
    source: str, table: "pa.Table", columns: Columns
) -> tuple[list[str], dict[str, tuple[str, int]]]:
    """The label word of each row; and the word and number of rows of each label that is no word.

    Raises `DataError` for a label that is missing or unknown, and for names in the data that
    `data.label_map` contradicts.
    """
    values = python_values(table[columns.label])
    _require_values(source, values, columns)
    names = stored_names(table, columns.label)
    resolver = _Resolver(columns, names)
    if conflict := resolver.conflict():
        raise _contradiction(source, columns, *conflict)
    words: dict[Any, str] = {}
    unknown: dict[Any, int] = {}
    for value, row in _first_rows(source, values).items():
        word = resolver.word(value)
        if word is None:
            unknown[value] = row
        else:
            words[value] = word
    counts = Counter(values)
    if unknown:
        raise _unknown_label(source, columns, resolver, unknown, counts)
    meanings = {
        (quoted(value) if resolver.key(value) == word else resolver.shown(value)): (
            word,
            counts[value],
        )
        for value, word in words.items()
        if normalize("NFC", str(value)) != normalize("NFC", word)
    }
    return [words[value] for value in values], meanings


def word_for(name: str, columns: Columns) -> str | None:
    """The label word that a stored label stands for, by itself or by the map; None for none."""
    return _Resolver(columns, None).word(name)


class _Resolver:
    """Finds the label word of a stored value."""

    def __init__(self, columns: Columns, names: Sequence[str] | None) -> None:
        self.labels = {_composed(label): label for label in columns.labels}
        in_lower_case = Counter(label.lower() for label in self.labels)
        self.by_lower_case = {
            label.lower(): word
            for label, word in self.labels.items()
            if in_lower_case[label.lower()] == 1
        }
        self.label_map = {_composed(key): word for key, word in (columns.label_map or {}).items()}
        self.names = names

    def conflict(self) -> tuple[str, str, str] | None:
        """A number, its name in the data, and another label that `data.label_map` has for it."""
        for number, name in enumerate(self.names or ()):
            if str(number) in (self.names or ()):
                continue  # the map's key is then a name, not a number
            by_map = self._of_key(self.label_map.get(str(number), ""))
            by_name = self._of_keys([name]) or self._short_for(name)
            if by_map and by_name and by_map != by_name:
                return str(number), name, by_map
        return None

    def _short_for(self, name: str) -> str | None:
        """The only label that begins with a name, such as "negative" for "neg"."""
        words = [
            word for label, word in self.labels.items() if label.lower().startswith(name.lower())
        ]
        return words[0] if len(words) == 1 else None

    def word(self, value: Any) -> str | None:
        """The label word of a value; None if it is unknown."""
        name, keys = self._name(value), _keys_of(value, len(self.labels))
        if name is None:
            return self._of_keys(keys)
        return self._of_keys([name, *(key for key in keys if key not in (self.names or ()))])

    def shown(self, value: Any) -> str:
        """A value for messages: with its name, if the data have one."""
        name = self._name(value)
        return quoted(value) if name is None else f"{value} ({quoted(name)})"

    def key(self, value: Any) -> str:
        """The key under which `data.label_map` would have a value."""
        return self._name(value) or str(value)

    def _name(self, value: Any) -> str | None:
        """The name that the data have for a number, however it is stored; None for none."""
        if self.names is None or value in self.names:
            return None
        number = re.fullmatch(r"(\d+)(\.0+)?", str(value))
        return self.names[int(number[1])] if number and int(number[1]) < len(self.names) else None

    def _of_keys(self, keys: Sequence[str]) -> str | None:
        # The stored labels 0 … 9 can be the prompt's own labels although a map leads 0 and 1
        # elsewhere: what a map yields only counts if it is a label of the prompt.
        candidates = [self.label_map[k] for k in map(_composed, keys) if k in self.label_map]
        likely = [word for k in keys if (word := word_in_map(self.label_map, k))]
        return next(
            (word for key in [*candidates, *keys, *likely] if (word := self._of_key(key))), None
        )

    def _of_key(self, key: str) -> str | None:
        key = _composed(key)
        return self.labels.get(key) or self.by_lower_case.get(key.lower())


def word_in_map(label_map: Mapping[str, str], key: str) -> str | None:
    """What a label map has for a key, or else for the only key that differs in capitals only."""
    if key in label_map:
        return label_map[key]
    words = [word for other, word in label_map.items() if other.lower() == key.lower()]
    return words[0] if len(words) == 1 else None


def _composed(text: str) -> str:
    """The text in Unicode's form NFC, because a file from macOS may have é as two characters.

    Spaces around it are left out.
    """
    return normalize("NFC", text).strip()


def _keys_of(value: Any, num_labels: int) -> list[str]:
    """The names a stored label goes by. 1.0, which a column with gaps makes of 1, is also "1".

    True, which files spell in three ways, is also "true", and with two labels also "1".
    """
    keys = [str(value)]
    if (word := keys[0].lower()) in ("true", "false"):
        number = "1" if word == "true" else "0"
        return [*keys, word, number] if num_labels == 2 else [*keys, word]
    whole = re.fullmatch(r"([+-]?\d+)\.0+", keys[0])
    return [*keys, whole[1]] if whole else keys


def _require_values(source: str, values: Sequence[Any], columns: Columns) -> None:
    missing = [row for row, value in enumerate(values) if is_missing(value)]
    if missing:
        raise DataError(
            f"{quoted(source)}, {row_place(missing[0])}: {quoted(columns.label)} is missing"
            + more_rows(missing, "missing label"),
            setting="label_column",
            remedy="fill in the label or drop the row",
        )


def _first_rows(source: str, values: Sequence[Any]) -> dict[Any, int]:
    """Each distinct value with the number of the first row that holds it."""
    first: dict[Any, int] = {}
    for row, value in enumerate(values):
        try:
            first.setdefault(value, row)
        except TypeError as error:
            raise DataError(
                f"{quoted(source)}, {row_place(row)}: the label is {value!r}",
                setting="label_column",
                seen=value,
                remedy="a single value is expected",
            ) from error
    return first


def _unknown_label(
    source: str,
    columns: Columns,
    resolver: _Resolver,
    unknown: Mapping[Any, int],
    counts: Mapping[Any, int],
) -> DataError:
    """The error for labels without a label word.

    unknown: each with its first row. counts: the number of rows of each label.
    """
    value, row = next(iter(unknown.items()))
    label, num_rows = resolver.shown(value), sum(counts[value] for value in unknown)
    more = listed(map(resolver.key, list(unknown)[1:MAX_LISTED]))
    num_more = len(unknown) - 1
    are = "is" if num_more == 1 else "are"
    others = f"; so {are} {counted(num_more, 'other label')}: {more}" if more else ""
    # The default map leads to words that may be no labels here: those entries concern nobody.
    useful = {k: v for k, v in (columns.label_map or {}).items() if v in columns.labels}
    mapping = ", ".join(f"{quoted(k)} = {quoted(v)}" for k, v in useful.items())
    known = listed(columns.labels[:MAX_LISTED])
    known += ", …" if len(columns.labels) > MAX_LISTED else ""
    return DataError(
        f"{quoted(source)}, {row_place(row)}: {quoted(columns.label)} is {label!r:.60}, which is "
        f"not one of the labels ({known})"
        + (f" or in data.label_map ({mapping})" if mapping else "")
        + f": {counted(num_rows, 'row')} in all{others}",
        setting="data.label_map",
        seen=resolver.key(value),
        remedy=f"map it, e.g. {_example_map(resolver, unknown)}, remove these rows, or add it to "
        "prompt.labels",
    )


def _example_map(resolver: _Resolver, unknown: Iterable[Any]) -> str:
    """What to type to give unknown labels a word."""
    keys = [resolver.key(value) for value in unknown]
    words = dict.fromkeys(keys[:MAX_LISTED], "…")
    is_imdb = set(keys) == set(IMDB_NUMBERS) and set(resolver.labels) == set(IMDB_NUMBERS.values())
    if is_imdb:
        words = IMDB_NUMBERS
    entries = (
        f"{json.dumps(k, ensure_ascii=False)} = {json.dumps(words[k], ensure_ascii=False)}"
        for k in words
    )
    hint = " if the numbers are IMDB's" if is_imdb else ""
    return f"data.label_map='{{{', '.join(entries)}}}'{hint}"


def _contradiction(source: str, columns: Columns, number: str, name: str, by_map: str) -> DataError:
    return DataError(
        f"{quoted(source)} says that {quoted(columns.label)} {number} is {name!r}, data.label_map "
        f"that it is {by_map!r}",
        setting="data.label_map",
        seen=by_map,
        remedy="remove the numbers from data.label_map: the names in the data are used",
    )
