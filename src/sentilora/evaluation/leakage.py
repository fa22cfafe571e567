"""Leakage: texts of one split that another has too, exactly (but for spaces and case) or nearly.

index = TwinIndex(near=True)
index.add("train", train_texts)
index.twins_of(test_texts)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sentilora.data.near_duplicates import NEAR, new_index, runs_of, similarity, sketch_of
from sentilora.data.rows import Rows
from sentilora.data.text import Item, digest, normalized
from sentilora.metrics import FullMetrics, measure_fully
from sentilora.progress import Progress, say

# Beyond this many rows, near-duplicates are searched for on request only: a text of 230 words takes
# 0.36 ms and, if it is a training text, 6.2 KiB (CPU, 10,000 texts, 2026-11-25).
MAX_ROWS_NEAR = 200_000


@dataclass(frozen=True)
class Twin:
    """Text `number` of the later split and the most similar text `other` of an earlier one.

    In an `Evaluation` both are positions in the rows' sources, as in `Rows.numbers`.
    similarity: Jaccard similarity of their runs of words; 1.0 for exact duplicates.
    """

    number: int
    split: str
    other: int
    similarity: float
    is_exact: bool


@dataclass(frozen=True)
class Leakage:
    """Test rows that are exact or near-duplicates of training or evaluation rows.

    near_looked_for: whether near-duplicates were searched for. without: the adapter's metrics on
    the other test rows; None when none are left. num_evaluation_twins: evaluation rows that
    duplicate training rows; num_evaluation_exact of them are exact duplicates.
    """

    twins: list[Twin]
    num_exact: int
    num_near: int
    near_looked_for: bool
    without: FullMetrics | None
    num_evaluation_twins: int
    num_evaluation_exact: int


class TwinIndex:
    """Texts of earlier splits, by their normalized form and by MinHash.

    near: find near-duplicates too. progress: called with the number of texts added or looked up.
    """

    def __init__(self, near: bool, progress: Callable[[int], object] | None = None) -> None:
        self._exact: dict[bytes, tuple[str, int]] = {}
        self._texts: dict[str, Sequence[Item]] = {}
        self._progress = progress or (lambda count: None)
        self._lsh = None
        if near:
            self._lsh = new_index()

    def add(self, split: str, texts: Sequence[Item]) -> None:
        """Add the texts of a split."""
        self._texts[split] = texts
        for number, text in enumerate(texts):
            key = normalized(text)
            self._exact.setdefault(digest(key), (split, number))
            if self._lsh is not None:
                self._lsh.insert((split, number), sketch_of(runs_of(key)))
            self._progress(1)

    def twins_of(self, texts: Sequence[Item]) -> list[Twin]:
        """The twin, at most one, that each text has in the splits added so far."""
        twins = []
        for number, text in enumerate(texts):
            if match := self._match(text):
                twins.append(Twin(number, *match))
            self._progress(1)
        return twins

    def _match(self, text: Item) -> tuple[str, int, float, bool] | None:
        """Split, number, similarity, and whether it is an exact duplicate, of the best match."""
        key = normalized(text)
        if same := self._exact.get(digest(key)):
            return (*same, 1.0, True)
        if self._lsh is None:
            return None
        runs = runs_of(key)
        best: tuple[str, int, float, bool] | None = None
        for split, number in sorted(self._lsh.query(sketch_of(runs))):
            others = runs_of(normalized(self._texts[split][number]))
            likeness = similarity(runs, others)
            if likeness >= NEAR and (best is None or likeness > best[2]):
                best = split, number, likeness, False
        return best


def look_for_leakage(
    rows: Rows,
    known: tuple[Rows, Rows],
    probabilities: np.ndarray,
    truth: np.ndarray,
    near_duplicates: bool,
) -> Leakage:
    """Test rows that duplicate training or evaluation rows, and the metrics without them.

    known: training and evaluation rows. probabilities: of the test rows, (rows, labels). truth:
    their label numbers. near_duplicates: search for near-duplicates however many rows there are.
    """
    train, evaluation = known
    total = len(train) + len(evaluation) + len(rows)
    is_near = near_duplicates or total <= MAX_ROWS_NEAR
    if not is_near:
        say(
            f"near-duplicates are not searched for among more than {MAX_ROWS_NEAR:,} rows (here "
            f"{total:,}) unless requested: it takes minutes, and 6 KiB of memory per training row"
        )
    with Progress("searching for duplicates", total + len(evaluation)) as progress:
        index = TwinIndex(is_near, progress.advance)
        index.add("train", train.inputs)
        of_evaluation = index.twins_of(evaluation.inputs)
        index.add("evaluation", evaluation.inputs)
        twins = index.twins_of(rows.inputs)
    rest = np.ones(len(rows), bool)
    rest[[twin.number for twin in twins]] = False
    num_exact = sum(twin.is_exact for twin in twins)
    numbers = {"train": train.numbers, "evaluation": evaluation.numbers}
    return Leakage(
        twins=[
            replace(t, number=rows.numbers[t.number], other=numbers[t.split][t.other])
            for t in twins
        ],
        num_exact=num_exact,
        num_near=len(twins) - num_exact,
        near_looked_for=is_near,
        without=measure_fully(probabilities[rest], truth[rest]) if rest.any() else None,
        num_evaluation_twins=len(of_evaluation),
        num_evaluation_exact=sum(twin.is_exact for twin in of_evaluation),
    )
