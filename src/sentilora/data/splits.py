"""Which rows train and which measure: shuffled, sampled, balanced, carved out of one split.

    train, evaluation = carve(rows, num_train=2000, num_evaluation=400, seed=42)

No evaluation text is a training text: what counts as the same text is `normalized`.
"""

from collections import Counter
from collections.abc import Sequence

from sentilora.data.rows import Columns, Rows
from sentilora.data.sources import load_rows
from sentilora.data.text import digest, normalized
from sentilora.errors import DataError
from sentilora.wording import counted


def load_splits(
    *,
    train: str,
    evaluation: str,
    test: str,
    columns: Columns,
    num_train: int,
    num_evaluation: int,
    seed: int,
    balance: str,
    num_train_subset: int = 0,
) -> tuple[Rows, Rows]:
    """Training and evaluation rows as the configuration's `data` section asks for them."""
    rows = load_rows(train, "train", columns)
    if evaluation == "train":
        chosen, held_out = carve(rows, num_train, num_evaluation, seed, balance)
    else:
        if balance == "sample":
            chosen = rows.take(_balanced(rows, shuffled(len(rows), seed), num_train))
        else:
            chosen = sample(rows, num_train, seed, "data.num_train")
        source, split = (test, "test") if evaluation == "test" else (evaluation, "validation")
        other = load_rows(source, split, columns)
        held_out = sample(other, num_evaluation, seed, "data.num_evaluation")
    if num_train_subset:
        chosen = stratified(chosen, num_train_subset)
    require_every_label(chosen, columns.labels)
    return chosen, held_out


def load_test(test: str, columns: Columns, num_test: int, seed: int) -> Rows:
    """The test rows: all in the source's order, or the first `num_test` of the shuffle."""
    rows = load_rows(test, "test", columns)
    return sample(rows, num_test, seed, "data.num_test") if num_test else rows


def shuffled(num_rows: int, seed: int) -> list[int]:
    """Row numbers in the order of `datasets.Dataset.shuffle(seed)` (NumPy's PCG64 permutation)."""
    import numpy as np

    return np.random.default_rng(seed).permutation(num_rows).tolist()


def sample(rows: Rows, num_rows: int, seed: int, setting: str) -> Rows:
    """The first `num_rows` rows of the shuffle; 0 takes all. `setting`: the count's name."""
    if num_rows > len(rows):
        raise DataError(
            f"{setting} asks for {counted(num_rows, 'row')}, {rows.source} has {len(rows):,}; "
            f"set {setting}={len(rows)} or less (0 takes all)"
        )
    return rows.take(shuffled(len(rows), seed)[: num_rows or len(rows)])


def carve(
    rows: Rows, num_train: int, num_evaluation: int, seed: int, balance: str = "none"
) -> tuple[Rows, Rows]:
    """Training and evaluation rows out of one split: the first rows of the shuffle, then the next.

    An evaluation row whose normalized text is among the training texts is skipped. With
    `balance="sample"` the training rows hold as many of each label. Raises `DataError` when the
    split has too few rows.
    """
    order = shuffled(len(rows), seed)
    chosen = order[: num_train or max(0, len(rows) - (num_evaluation or len(rows) // 5))]
    if balance == "sample":
        chosen = _balanced(rows, order if num_train else chosen, num_train)
    taken = set(chosen)
    train_texts = {digest(normalized(rows.texts[i])) for i in chosen}
    left = [
        i for i in order if i not in taken and digest(normalized(rows.texts[i])) not in train_texts
    ]
    if (
        chosen
        and len(chosen) < len(rows)
        and (num_evaluation or 1) > len(left)
        and (num_train + num_evaluation <= len(rows))
    ):
        raise DataError(
            f"{rows.source} has {len(rows):,} rows, but only {len(left):,} of them are neither "
            f"among the {len(chosen):,} training rows nor the same text as one; remove the "
            f"duplicates, or lower data.num_train or data.num_evaluation"
        )
    if num_train > len(rows) or num_evaluation > len(left) or not left or not chosen:
        raise DataError(
            f"data.num_train={num_train} and data.num_evaluation={num_evaluation} need more rows "
            f"than {rows.source} has ({len(rows):,}); try data.num_train={len(rows) * 4 // 5} "
            f"data.num_evaluation={len(rows) // 5}"
        )
    return rows.take(chosen), rows.take(left[: num_evaluation or len(left)])


def stratified(rows: Rows, num_rows: int) -> Rows:
    """`num_rows` of the rows with the labels' shares kept, in their order; of two the larger holds
    the smaller.

    The j-th row of a label with n rows stands at (j − ½) / n, and the first in that order are
    taken: Webster's apportionment, which never takes a row back when the total grows, as rounding
    the shares would (Balinski & Young 1982, Fair Representation). Raises `DataError` when there are
    too few rows.
    """
    if num_rows > len(rows):
        raise DataError(
            f"data.num_train_subset asks for {counted(num_rows, 'row')}, there are "
            f"{counted(len(rows), 'training row')} of {rows.source}; set "
            f"data.num_train_subset={len(rows)} or less"
        )
    there, seen = Counter(rows.labels), Counter[str]()
    places = []
    for i, label in enumerate(rows.labels):
        places.append(((seen[label] + 0.5) / there[label], i))
        seen[label] += 1
    return rows.take(sorted(i for _, i in sorted(places)[:num_rows]))


def _balanced(rows: Rows, order: list[int], num_rows: int) -> list[int]:
    """The first rows of `order` with as many of each label; 0: as many as the rarest has there."""
    there = Counter(rows.labels[i] for i in order)
    per_label = num_rows // len(there) if num_rows else min(there.values(), default=0)
    counts: Counter[str] = Counter()
    chosen = []
    for i in order:
        if counts[rows.labels[i]] < per_label:
            counts[rows.labels[i]] += 1
            chosen.append(i)
    rarest = min(there, key=there.__getitem__, default="")
    if there[rarest] < per_label:
        raise DataError(
            f"data.balance=sample needs {per_label:,} rows of each label, {rows.source} has "
            f"{there[rarest]:,} of {rarest!r}; lower data.num_train to "
            f"{there[rarest] * len(there)} or use data.balance=weights"
        )
    return chosen


def require_every_label(rows: Rows, labels: Sequence[str]) -> None:
    """Training needs two labels at least; raise `DataError` when the rows hold only one."""
    found = set(rows.labels)
    if len(found) < 2:
        raise DataError(
            f"{counted(len(rows), 'training row')} of {rows.source}, all of them "
            f"{next(iter(found))!r}; training needs rows of at least two of {', '.join(labels)}"
        )


def label_weights(labels: Sequence[str]) -> dict[str, float]:
    """Per label n / (k · count): every label weighs the same in sum, the mean weight is 1."""
    counts = Counter(labels)
    return {label: len(labels) / (len(counts) * count) for label, count in counts.items()}
