"""Token lengths of examples: their distribution, and how many texts were truncated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sentilora.wording import percent

if TYPE_CHECKING:
    from sentilora.prompt import Example
    from sentilora.scoring.label_loss import SoftExample


HISTOGRAM_EDGES = (64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Lengths:
    """Token lengths of examples (prompt, label and EOS), and how many texts were truncated."""

    num_examples: int
    num_truncated: int
    mean_tokens: float
    histogram: str

    @property
    def tokens(self) -> str:
        """The distribution in one line: "≤64: 3, 65–128: 20; mean 80"."""
        return f"{self.histogram}; mean {self.mean_tokens:.0f}"

    @property
    def truncated(self) -> str:
        """How many texts were truncated: "12 of 320 (3.8%)"."""
        share = self.num_truncated / self.num_examples
        return f"{self.num_truncated:,} of {self.num_examples:,} ({percent(share)})"


def look_over_lengths(examples: "Sequence[Example | SoftExample]") -> Lengths:
    """Summarize the token lengths of at least one example."""
    lengths = [len(example.input_ids) for example in examples]
    return Lengths(
        num_examples=len(lengths),
        num_truncated=sum(example.truncated for example in examples),
        mean_tokens=sum(lengths) / len(lengths),
        histogram=length_histogram(lengths),
    )


def length_histogram(lengths: Sequence[int]) -> str:
    """Counts per range of lengths: "≤64: 3, 65–128: 20, …". Empty ranges are omitted."""
    parts, low = [], 0
    for high in (*HISTOGRAM_EDGES, max([*lengths, HISTOGRAM_EDGES[-1]]) + 1):
        count = sum(low < length <= high for length in lengths)
        if count:
            name = f"≤{high}" if low == 0 else f"{low + 1}–{high}"
            parts.append(f"{name if high in HISTOGRAM_EDGES else f'>{low}'}: {count:,}")
        low = high
    return ", ".join(parts)
