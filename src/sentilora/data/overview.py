"""What there is to know of rows and of encoded examples before they are used, ready to be said."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from sentilora.data.rows import Rows
from sentilora.data.text import digest, normalized
from sentilora.wording import counted

IMBALANCE_LIMIT = 4  # warn when the largest label has more than 4 times the rows of the smallest


@dataclass(frozen=True)
class Overview:
    """The rows of each split: counts, balance, exact duplicates, and what to warn of."""

    sources: dict[str, str]
    num_rows: dict[str, int]
    balance: dict[str, dict[str, int]]
    duplicates: dict[str, int]  # within a split: rows beyond the first of the same text
    shared: dict[str, int]  # between splits: rows of the second whose text is in the first
    conflicts: int  # texts that occur with more than one label
    warnings: list[str]

    def describe(self, name: str) -> str:
        """A split as a line: "9 rows of a.csv: 5 negative, 4 positive; 0 exact duplicates"."""
        balance = ", ".join(f"{count:,} {label}" for label, count in self.balance[name].items())
        rows = f"{counted(self.num_rows[name], 'row')} of {self.sources[name]}"
        return f"{rows}: {balance}; {counted(self.duplicates[name], 'exact duplicate')}"


def look_over(splits: Mapping[str, Rows]) -> Overview:
    """Counts, class balance, exact duplicates inside and across splits, and label conflicts."""
    keys = {name: [digest(normalized(t)) for t in rows.texts] for name, rows in splits.items()}
    distinct = {name: set(values) for name, values in keys.items()}
    names = list(splits)
    shared = {
        f"{first} / {second}": sum(key in distinct[first] for key in keys[second])
        for i, first in enumerate(names)
        for second in names[i + 1 :]
    }
    seen_labels: dict[bytes, set[str]] = defaultdict(set)
    for name, rows in splits.items():
        for key, label in zip(keys[name], rows.labels, strict=True):
            seen_labels[key].add(label)
    balance = {name: dict(sorted(Counter(rows.labels).items())) for name, rows in splits.items()}
    warnings = []
    for name, counts in balance.items():
        if max(counts.values()) > IMBALANCE_LIMIT * min(counts.values()):
            warnings.append(
                f"{name}: {max(counts.values())} to {min(counts.values())} rows per label, beyond "
                f"1:{IMBALANCE_LIMIT}; data.balance=weights or sample evens it out"
            )
    warnings += [f"rows of {pair.split(' / ')[1]} that also occur in {pair.split(' / ')[0]}: {n:,}"
                 for pair, n in shared.items() if n]  # fmt: skip
    conflicts = sum(len(found) > 1 for found in seen_labels.values())
    if conflicts:
        warnings.append(f"texts that occur with different labels: {conflicts:,}")
    return Overview(
        sources={name: rows.source for name, rows in splits.items()},
        num_rows={name: len(rows) for name, rows in splits.items()},
        balance=balance,
        duplicates={name: len(keys[name]) - len(distinct[name]) for name in names},
        shared=shared,
        conflicts=conflicts,
        warnings=warnings,
    )
