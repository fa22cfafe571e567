"""What there is to know of rows and of encoded examples before they are used, ready to be said."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sentilora.data import Rows
from sentilora.progress import counted, percent
from sentilora.splits import digest, normalised

if TYPE_CHECKING:
    from sentilora.prompt import Example

IMBALANCE_LIMIT = 4  # warn when the largest label has more than 4 times the rows of the smallest
HISTOGRAM_EDGES = (64, 128, 256, 512, 1024, 2048)


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
    keys = {name: [digest(normalised(t)) for t in rows.texts] for name, rows in splits.items()}
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


@dataclass(frozen=True)
class Lengths:
    """Token lengths of examples (prompt, label and EOS), and how many texts were cut to fit."""

    num_examples: int
    num_truncated: int
    mean_tokens: float
    histogram: str

    @property
    def tokens(self) -> str:
        """The lengths as a line: "≤64: 3, 65–128: 20; mean 80"."""
        return f"{self.histogram}; mean {self.mean_tokens:.0f}"

    @property
    def truncated(self) -> str:
        """What was cut as a line: "12 of 320 (3.8%)"."""
        share = self.num_truncated / self.num_examples
        return f"{self.num_truncated:,} of {self.num_examples:,} ({percent(share)})"


def look_over_lengths(examples: "Sequence[Example]") -> Lengths:
    """The lengths of at least one example."""
    lengths = [len(example.input_ids) for example in examples]
    return Lengths(
        num_examples=len(lengths),
        num_truncated=sum(example.truncated for example in examples),
        mean_tokens=sum(lengths) / len(lengths),
        histogram=length_histogram(lengths),
    )


def length_histogram(lengths: Sequence[int]) -> str:
    """Token lengths as counts per range: "≤64: 3, 65–128: 20, …" (empty ranges left out)."""
    parts, low = [], 0
    for high in (*HISTOGRAM_EDGES, max([*lengths, HISTOGRAM_EDGES[-1]]) + 1):
        count = sum(low < length <= high for length in lengths)
        if count:
            name = f"≤{high}" if low == 0 else f"{low + 1}–{high}"
            parts.append(f"{name if high in HISTOGRAM_EDGES else f'>{low}'}: {count:,}")
        low = high
    return ", ".join(parts)
