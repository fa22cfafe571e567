"""Labeled rows: texts, label words and ratings, with their places in the source."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sentilora.data.text import Item
from sentilora.errors import UsageError


@dataclass(frozen=True)
class Columns:
    """Names of the text and label columns, and the label word that each stored label stands for.

    others: columns that the prompt shows besides the text. is_soft: whether labels are shares: see
    `soft_labels`. Raises `UsageError` if the text or the label is one of `others`.
    """

    text: str = "text"
    label: str = "label"
    label_map: Mapping[str, str] | None = None
    labels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    is_soft: bool = False

    def __post_init__(self) -> None:
        for name, column, remedy in (
            ("text", self.text, "write {text} for it"),
            ("label", self.label, "leave it out: a prompt must not hold its own answer"),
        ):
            if column in self.others:
                raise UsageError(
                    f"the prompt names {{{column}}}, which is the {name} column",
                    setting="prompt.template",
                    seen=column,
                    remedy=remedy,
                )


@dataclass(frozen=True)
class Rows:
    """Labeled texts in the source's order. `labels` holds label words.

    ratings: the value of the source's `rating_column` for each row, None where it has none; empty
        if the source has no such column (see `RATING_COLUMNS`).
    numbers: each row's number in its source, counted from 0, also after rows were selected. The
        header of a file does not count; the .txt files of a folder count in reading order. The
        default is every row of the source.
    meanings: for each label of the source that is no label word, such as 0, its word and its
        number of rows in the whole source.
    fields: each row's other columns that the prompt shows, by name; empty if it shows none.
    notes: what a reader should know about how the rows were chosen.
    shares: with soft labels, each row's share of every label, in the order of `Columns.labels`; the
        row's label is the one with the largest share. Empty without them.
    shares_from: where the shares come from, as a clause.
    """

    source: str
    texts: list[str]
    labels: list[str]
    rating_column: str | None = None
    ratings: list[float | None] = field(default_factory=list)
    numbers: Sequence[int] = ()
    meanings: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    fields: list[Mapping[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    shares: list[tuple[float, ...]] = field(default_factory=list)
    shares_from: str = ""

    def __post_init__(self) -> None:
        if not self.numbers:
            object.__setattr__(self, "numbers", range(len(self.texts)))

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Iterable[int]) -> "Rows":
        """The rows at `indices`, in that order."""
        places = [int(i) for i in indices]
        return Rows(
            self.source,
            [self.texts[i] for i in places],
            [self.labels[i] for i in places],
            self.rating_column,
            [self.ratings[i] for i in places] if self.ratings else [],
            [self.numbers[i] for i in places],
            self.meanings,
            [self.fields[i] for i in places] if self.fields else [],
            self.notes,
            [self.shares[i] for i in places] if self.shares else [],
            self.shares_from,
        )

    @property
    def inputs(self) -> list[Item]:
        """What the prompt shows of each row: its text, or a record if it shows other columns."""
        if not self.fields:
            return list(self.texts)
        pairs = zip(self.texts, self.fields, strict=True)
        return [{"text": text, **fields} for text, fields in pairs]

    def hashes(self) -> Iterator[str]:
        """`row_hash` of each row."""
        return (row_hash(*pair) for pair in zip(self.inputs, self.labels, strict=True))


def row_hash(item: Item, label: str) -> str:
    """SHA-256 of a text, as the source has it, its label, and its other columns in the prompt."""
    if isinstance(item, str):
        return hashlib.sha256(f"{item}\0{label}".encode()).hexdigest()
    text, *fields = item.values()
    return hashlib.sha256("\0".join([text, label, *fields]).encode()).hexdigest()


def row_place(row: int) -> str:
    """A row's number as errors show it: counted from 0, as in `Rows`, in reports and in pandas."""
    return f"row {row} (counted from 0)"
