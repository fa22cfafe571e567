"""Examples before they train: their lengths, how many texts were truncated, and how one looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sentilora.prompt import IGNORE_INDEX
from sentilora.wording import as_probability, counted, percent

if TYPE_CHECKING:
    from sentilora.prompt import Example, Prompter
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


def render_example(
    prompter: "Prompter", example: "Example", shares: Sequence[float] | None = None
) -> str:
    """An example as the model sees it, with the tokens that the loss covers in ⟦…⟧.

    shares: with soft labels, the share of each label, which stand there instead.
    """

    def decode(ids: list[int]) -> str:
        return str(prompter.tokenizer.decode(ids))

    answer = [i for i in example.labels if i != IGNORE_INDEX]
    prompt = decode(example.input_ids[: -len(answer)])
    if len(prompt) > 700:
        prompt = prompt[:350] + " [… shortened here, complete for the model …] " + prompt[-350:]
    masked = len(example.input_ids) - len(answer)
    if shares is None:
        tokens = f"{counted(masked, 'token')} masked, {len(answer)} in the loss"
        return f"{prompt}⟦{decode(answer)}⟧\n({tokens})"
    pairs = sorted(zip(shares, prompter.format.labels, strict=True), reverse=True)
    words = ", ".join(f"{label} {as_probability(share)}" for share, label in pairs if share)
    return f"{prompt}⟦{words}⟧\n({counted(masked, 'token')} before the labels, all of them scored)"
