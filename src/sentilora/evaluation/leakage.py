"""Texts that stand in two splits: the same to spaces and case, or nearly.

Near-duplicates are found by MinHash (Broder 1997) over runs of five words, through datasketch, and
confirmed on the runs themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sentilora.data.text import digest, normalized

NEAR = 0.7  # Jaccard similarity of two texts' runs of words, from which on they are near-duplicates
RUN = 5  # words


@dataclass(frozen=True)
class Twin:
    """Text `number` of the later split and the most similar text `other` of an earlier one.

    In an `Evaluation` both are places in the rows' sources, as in `Rows.numbers`.
    similarity: Jaccard similarity of their runs of words; 1.0 when they are exact duplicates.
    """

    number: int
    split: str
    other: int
    similarity: float
    is_exact: bool


def find_twins(
    texts: Sequence[str],
    earlier: dict[str, Sequence[str]],
    near: bool = True,
    progress: Callable[[int], object] | None = None,
) -> list[Twin]:
    """Rows of `texts` that occur, or nearly occur, in the earlier splits: at most one twin a row.

    near: look for near-duplicates too. `progress` is called with the number of texts looked at.
    """
    index = TwinIndex(near, progress)
    for split, others in earlier.items():
        index.add(split, others)
    return index.twins_of(texts)


class TwinIndex:
    """Texts of earlier splits, by what they are normalized, and by MinHash: see `find_twins`."""

    def __init__(self, near: bool, progress: Callable[[int], object] | None = None) -> None:
        self._exact: dict[bytes, tuple[str, int]] = {}
        self._texts: dict[str, Sequence[str]] = {}
        self._progress = progress or (lambda count: None)
        self._lsh = None
        if near:
            from datasketch import MinHashLSH

            # Lower than what counts: an estimate of 128 hashes is off by up to 0.1.
            self._lsh = MinHashLSH(threshold=NEAR - 0.1, num_perm=128)

    def add(self, split: str, texts: Sequence[str]) -> None:
        """Put a split's texts in."""
        self._texts[split] = texts
        for number, text in enumerate(texts):
            key = normalized(text)
            self._exact.setdefault(digest(key), (split, number))
            if self._lsh is not None:
                self._lsh.insert((split, number), _sketch(_runs(key)))
            self._progress(1)

    def twins_of(self, texts: Sequence[str]) -> list[Twin]:
        """The texts that occur, or nearly occur, in the splits put in so far."""
        twins = []
        for number, text in enumerate(texts):
            if found := self._twin_of(text):
                twins.append(Twin(number, *found))
            self._progress(1)
        return twins

    def _twin_of(self, text: str) -> tuple[str, int, float, bool] | None:
        """Split, row, similarity, and whether it is the same text."""
        key = normalized(text)
        if same := self._exact.get(digest(key)):
            return (*same, 1.0, True)
        if self._lsh is None:
            return None
        runs = _runs(key)
        best: tuple[str, int, float, bool] | None = None
        for split, number in sorted(self._lsh.query(_sketch(runs))):
            others = _runs(normalized(self._texts[split][number]))
            similarity = len(runs & others) / len(runs | others)
            if similarity >= NEAR and (best is None or similarity > best[2]):
                best = split, number, similarity, False
        return best


def _runs(normalized_text: str) -> set[str]:
    """Every run of five words; a shorter text is one run."""
    words = normalized_text.split(" ")
    return {" ".join(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1))}


def _sketch(runs: set[str]):  # type: ignore[no-untyped-def]
    from datasketch import MinHash

    sketch = MinHash(num_perm=128, seed=1)
    sketch.update_batch([run.encode("utf-8", "surrogatepass") for run in runs])
    return sketch
