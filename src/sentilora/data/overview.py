"""Counts of the rows of each split before they are used, with warnings, ready to print."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sentilora.data.rows import Rows
from sentilora.data.text import digest, normalized
from sentilora.wording import MAX_LISTED, alternatives, counted, quoted

IMBALANCE_LIMIT = 4  # warn if the largest label has more than 4 times the rows of the smallest


@dataclass(frozen=True)
class Overview:
    """The rows of each split: counts, balance, exact duplicates, and warnings."""

    sources: dict[str, str]
    num_rows: dict[str, int]
    balance: dict[str, dict[str, int]]
    duplicates: dict[str, int]  # within a split: rows beyond the first with the same text
    shared: dict[str, int]  # between splits: rows of the second whose text is in the first
    conflicts: int  # texts that occur with more than one label
    warnings: list[str]
    meanings: list[str]  # per split of a source, what its labels that are no label words stand for

    def describe(self, name: str) -> str:
        """A split in one line: "9 rows of a.csv: 5 negative, 4 positive; 0 exact duplicates"."""
        counts = self.balance[name]
        num_more = len(counts) - MAX_LISTED
        shown = list(counts)
        if num_more > 0:
            shown.sort(key=counts.__getitem__, reverse=True)
        balance = ", ".join(f"{counts[x]:,} {quoted(x)}" for x in shown[:MAX_LISTED])
        if num_more > 0:
            most = counts[shown[MAX_LISTED]]
            balance += f", and {counted(num_more, 'more label')} with {most:,} or fewer"
        rows = f"{counted(self.num_rows[name], 'row')} of {quoted(self.sources[name])}"
        return f"{rows}: {balance}; {counted(self.duplicates[name], 'exact duplicate')}"


def look_over(splits: Mapping[str, Rows], labels: Sequence[str] = ()) -> Overview:
    """Counts, class balance, exact duplicates within and across splits, and label conflicts.

    labels: the prompt's; a warning names those that a split lacks.
    """
    keys = {
        name: [digest(normalized(item)) for item in rows.inputs] for name, rows in splits.items()
    }
    distinct = {name: set(values) for name, values in keys.items()}
    names = list(splits)
    shared = {
        f"{first} / {second}": sum(key in distinct[first] for key in keys[second])
        for i, first in enumerate(names)
        for second in names[i + 1 :]
    }
    first_rows: dict[bytes, dict[str, str]] = defaultdict(dict)  # of each text, by label
    for name, rows in splits.items():
        for key, label, row in zip(keys[name], rows.labels, rows.numbers, strict=True):
            first_rows[key].setdefault(label, f"row {row} of {name} is {quoted(label)}")
    conflicts = [list(places.values()) for places in first_rows.values() if len(places) > 1]
    balance = {name: dict(sorted(Counter(rows.labels).items())) for name, rows in splits.items()}
    return Overview(
        sources={name: rows.source for name, rows in splits.items()},
        num_rows={name: len(rows) for name, rows in splits.items()},
        balance=balance,
        duplicates={name: len(keys[name]) - len(distinct[name]) for name in names},
        shared=shared,
        conflicts=len(conflicts),
        meanings=meanings_of(splits),
        warnings=[
            *dict.fromkeys(
                warning for name in names for warning in label_warnings(name, splits[name], labels)
            ),
            *_warnings(balance, shared, conflicts, any(rows.shares for rows in splits.values())),
        ],
    )


def meanings_of(splits: Mapping[str, Rows]) -> list[str]:
    """What the stored labels of each split stand for: "test: 0 → negative (29 rows)"."""
    lines: dict[tuple[str, str], str] = {}
    for name, rows in splits.items():
        pairs = sorted(rows.meanings.items())
        words = ", ".join(
            f"{stored} → {quoted(word)} ({counted(number, 'row')})"
            for stored, (word, number) in pairs[:MAX_LISTED]
        )
        if len(pairs) > MAX_LISTED:
            words += f", and {len(pairs) - MAX_LISTED:,} more"
        if rows.shares:
            lines.setdefault((rows.source, rows.shares_from), f"{name}: soft, {rows.shares_from}")
        if words:  # evaluation rows can be of the training rows' split
            lines.setdefault((rows.source, words), f"{name}: {words}")
    return list(lines.values())


def label_warnings(name: str, rows: Rows, labels: Sequence[str]) -> list[str]:
    """Warnings about labels that no row of a split has, or had before it was stratified.

    name: "train", "evaluation" or "test". labels: the prompt's.
    """
    distinct = set(rows.labels)
    absent = [label for label in labels if label not in distinct]
    if name == "train" and rows.shares:  # a label is also learned from rows with a share of it
        places = [place for place, label in enumerate(labels) if label in absent]
        absent = [labels[x] for x in places if not any(shares[x] for shares in rows.shares)]
    if not absent:
        return list(rows.notes)
    if name == "train":
        them = "it" if len(absent) == 1 else "them"
        consequence = f"the adapter does not learn {them}"
    elif len(distinct) == 1:
        consequence = "there is no macro-F1 for rows of a single label"
    else:
        consequence = "macro-F1 is the mean over the labels that occur in rows or answers"
    noun = "training" if name == "train" else name
    them = alternatives(absent)
    has = f"is labeled {them}"
    if rows.shares:
        has = f"has a share of {them}" if name == "train" else f"is likeliest to be {them}"
    return [*rows.notes, f"no {noun} row {has}: {consequence}"]


def _warnings(
    balance: Mapping[str, Mapping[str, int]],
    shared: Mapping[str, int],
    conflicts: Sequence[list[str]],
    are_soft: bool,
) -> list[str]:
    """conflicts: for each text with several labels, its first row with each label.

    are_soft: whether the labels are shares already.
    """
    warnings = []
    for name, counts in balance.items():
        largest, smallest = max(counts.values()), min(counts.values())
        if largest > IMBALANCE_LIMIT * smallest:
            remedy = "; data.balance=weights or sample evens it out" if name == "train" else ""
            warnings.append(
                f"{name}: {largest} to {smallest} rows per label, more uneven than "
                f"{IMBALANCE_LIMIT}:1{remedy}"
            )
    for pair, count in shared.items():
        first, _, second = pair.partition(" / ")
        if count:
            warnings.append(f"rows of {second} that also occur in {first}: {count:,}")
    if conflicts:
        splits = " and ".join(balance)
        shares = "" if are_soft else "; data.soft_labels=true takes them as shares of one row"
        warnings.append(
            f"texts that occur with different labels in {splits}: {len(conflicts):,}, such as "
            f"{conflicts[0][0]}, {conflicts[0][1]} (counted from 0): correct the labels, or remove "
            f"these rows{shares}"
        )
    return warnings
