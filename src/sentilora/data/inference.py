"""The columns of a table, and the labels of a task, found in the data.

columns = infer_columns(table.column_names, "text", "label")   # {"text": "message"}
labels = infer_labels("tickets.csv", table, "queue")   # ("billing", "delivery", "other")
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from sentilora.data.columns import is_missing
from sentilora.data.descriptions import stored_names
from sentilora.data.label_words import word_in_map
from sentilora.data.soft_labels import is_probability
from sentilora.data.tables import python_values
from sentilora.errors import DataError
from sentilora.wording import counted, quoted

if TYPE_CHECKING:
    import pyarrow as pa


# Names of columns, in small letters, as public data sets and exports have them.
TEXT_NAMES = (
    *("text", "texts", "sentence", "review", "message", "content", "body", "comment", "question"),
    *("query", "utterance", "tweet", "post", "description", "document", "input", "ticket"),
)
LABEL_NAMES = (
    *("label", "labels", "category", "class", "sentiment", "intent", "target", "topic", "tag"),
    *("label_text", "coarse_label", "queue", "type"),
)
MAX_LABELS = 300
MAX_LABEL_CHARACTERS = 100
MAX_DISTINCT_SHARE = 0.5  # of the rows; a column with more distinct values is an id or a text
# One word of ASCII, a language that writes spaces, or digits: "TCK-10042", "2024-05-01 12:00".
ID = r"[!-~]+|[\d\s.,:/+-]+"
ID_SHARE = 0.9  # of the texts
NUM_LOOKED_AT = 200  # rows
WORDS_OF_TEXT = 3  # on average
FEW_ROWS = 12  # whose labels may all differ


def infer_columns(names: Sequence[str], text: str, label: str) -> dict[str, str]:
    """The columns that stand for `text` and `label` where a table has no such column, by role.

    A column is recognized by its name. Of two columns, one recognized leaves the other.
    """
    roles = {"text": text, "label": label}
    columns: dict[str, str] = {}
    for role, column in roles.items():
        candidates = [name for name in names if has_usual_name(role, name)]
        if column in names:
            columns[role] = column
        elif len(candidates) == 1:
            columns[role] = candidates[0]
    if len(names) == 2 and len(columns) == 1:
        missing = next(role for role in roles if role not in columns)
        other = next(name for name in names if name not in columns.values())
        if not is_probability(other):  # of one label, with the column of another missing
            columns[missing] = other
    return {role: name for role, name in columns.items() if name != roles[role]}


def has_usual_name(role: str, column: str) -> bool:
    """Whether a column is named as those of its role often are. role: "text" or "label"."""
    return column.strip().lower() in (TEXT_NAMES if role == "text" else LABEL_NAMES)


def infer_labels(
    source: str, table: "pa.Table", column: str, label_map: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """The labels of a column, as words: those in the data, numbers in order, words by the alphabet.

    Words that differ in capitals or outer spaces only are one label, in its most frequent spelling.
    label_map: words for some of the values. Names that the data store for their numbers are the
    labels, in the numbers' order.

    Raises `DataError` for a column that holds ids or texts instead of labels, or a single label.
    """
    values = [value for value in python_values(table[column]) if not is_missing(value)]
    names = stored_names(table, column)
    if names is not None and not set(map(str, values)) <= set(names):
        labels, counts = list(names), Counter(names)
    else:
        spellings: dict[str, Counter[str]] = defaultdict(Counter)
        for value in values:
            word = _word(value)
            spellings[word.lower()][word] += 1
        counts = Counter({c.most_common(1)[0][0]: c.total() for c in spellings.values()})
        labels = sorted(counts, key=_order)
    words = tuple(dict.fromkeys(word_in_map(label_map, label) or label for label in labels))
    fault = _fault(labels, counts, len(values))
    if not fault and len(words) < 2:
        fault = f"data.label_map leads all its values to {words[0]!r}"
    if fault:
        raise DataError(
            f"column {quoted(column)} of {quoted(source)} cannot hold the labels: {fault}",
            setting="label_column",
            seen=column,
            remedy="name another column with `label_column`"
            + (
                ", or the labels with `labels`"
                if len(words) > 1
                else ", or add rows of other labels"
            ),
        )
    return words


def look_like_ids(texts: Sequence[str]) -> bool:
    """Whether nearly all texts are ids or numbers, and most of them differ."""
    num_ids = sum(re.fullmatch(ID, text.strip()) is not None for text in texts)
    return num_ids > ID_SHARE * len(texts) and len(set(texts)) > MAX_DISTINCT_SHARE * len(texts)


def columns_of_words(table: "pa.Table") -> list[str]:
    """The columns whose values have several words each, as texts have."""
    names = []
    for name in table.column_names:
        values = python_values(table.slice(0, NUM_LOOKED_AT)[name])
        words = [len(value.split()) for value in values if isinstance(value, str)]
        if words and sum(words) >= WORDS_OF_TEXT * len(words):
            names.append(name)
    return names


def are_numbers(labels: tuple[str, ...]) -> bool:
    """Whether labels are numbers, which tell a model nothing."""
    return all(re.fullmatch(r"[+-]?\d+", label) for label in labels)


def _word(value: Any) -> str:
    """A stored label as a word, in NFC: 1.0, which a column with gaps makes of 1, is "1"."""
    word = normalize("NFC", str(value)).strip()
    whole = re.fullmatch(r"([+-]?\d+)\.0+", word)
    return whole[1] if whole else word


def _order(label: str) -> tuple[int, float, str, str]:
    """Numbers by their value, then words by the alphabet."""
    is_number = re.fullmatch(r"[+-]?\d+", label) is not None
    return (0, float(label), "", label) if is_number else (1, 0.0, label.casefold(), label)


def _fault(labels: list[str], counts: Counter[str], num_rows: int) -> str:
    """Why the values of a column are no labels; "" if they can be."""
    longest = max(labels, key=len, default="")
    if len(labels) < 2:
        if not labels:
            return "it is empty"
        if num_rows == 1:
            return f"it has a single value, {longest!r}"
        return f"all its {num_rows:,} values are {longest!r}"
    if len(longest) > MAX_LABEL_CHARACTERS:
        return f"it has {counted(len(labels), 'text')}, such as {longest[:40]!r}…"
    if num_rows > FEW_ROWS and len(labels) > MAX_DISTINCT_SHARE * num_rows:
        return f"it has {len(labels):,} values in {counted(num_rows, 'row')}, as ids or texts have"
    if len(labels) > MAX_LABELS:
        return f"it has {len(labels):,} values, and {MAX_LABELS} are the most"
    return ""
