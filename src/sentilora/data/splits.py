"""Which rows train and which evaluate: shuffled, sampled, balanced, taken out of one split.

    train, evaluation = carve(rows, num_train=2000, num_evaluation=400, seed=42)

No evaluation text is a training text; texts are the same if their `normalized` forms are.
"""

from collections import Counter
from collections.abc import Sequence

from sentilora.data.rows import Columns, Rows
from sentilora.data.sources import Source, load_rows
from sentilora.data.text import digest, normalized
from sentilora.errors import DataError
from sentilora.wording import counted


def load_splits(
    *,
    train: Source,
    evaluation: Source,
    test: Source,
    columns: Columns,
    num_train: int,
    num_evaluation: int,
    seed: int,
    balance: str,
    num_train_subset: int = 0,
) -> tuple[Rows, Rows]:
    """Training and evaluation rows. The arguments are the settings of the `data` section.

    Raises `DataError` if a source cannot be used or has too few rows, and if all training rows have
    the same label.
    """
    rows = load_rows(train, "train", columns)
    if evaluation == "train":
        train_rows, evaluation_rows = carve(rows, num_train, num_evaluation, seed, balance)
    else:
        if balance == "sample":
            train_rows = rows.take(_balanced(rows, shuffled(len(rows), seed), num_train))
        else:
            train_rows = sample(rows, num_train, seed, "data.num_train")
        source, split = (test, "test") if evaluation == "test" else (evaluation, "validation")
        other = load_rows(source, split, columns)
        evaluation_rows = sample(other, num_evaluation, seed, "data.num_evaluation")
    if num_train_subset:
        train_rows = stratified(train_rows, num_train_subset)
    require_every_label(train_rows, columns.labels)
    return train_rows, evaluation_rows


def load_test(test: Source, columns: Columns, num_test: int, seed: int) -> Rows:
    """The test rows: all in the source's order, or the first `num_test` of the shuffle."""
    rows = load_rows(test, "test", columns)
    return sample(rows, num_test, seed, "data.num_test") if num_test else rows


def shuffled(num_rows: int, seed: int) -> list[int]:
    """Row numbers in the order of `datasets.Dataset.shuffle(seed)` (NumPy's PCG64 permutation)."""
    import numpy as np

    return np.random.default_rng(seed).permutation(num_rows).tolist()


def sample(rows: Rows, num_rows: int, seed: int, setting: str) -> Rows:
    """The first `num_rows` rows of the shuffle; 0 takes all. setting: name of the setting."""
    if num_rows > len(rows):
        raise DataError(
            f"{setting} asks for {counted(num_rows, 'row')}, {rows.source} has {len(rows):,}",
            setting=setting,
            seen=num_rows,
            remedy=f"set {setting}={len(rows)} or less (0 takes all)",
        )
    return rows.take(shuffled(len(rows), seed)[: num_rows or len(rows)])


# --- one split that trains and evaluates ---------------------------------------------------------


def carve(
    rows: Rows, num_train: int, num_evaluation: int, seed: int, balance: str = "none"
) -> tuple[Rows, Rows]:
    """Training and evaluation rows out of one split: the first rows of the shuffle, then the next.

    num_train: 0 takes all that the evaluation leaves. num_evaluation: 0 takes all that training
    leaves, and a fifth of the split if both are 0. A row whose text is a training text is never an
    evaluation row. With `balance="sample"` every label has the same number of training rows.

    Raises `DataError` if the split has too few rows.
    """
    order = shuffled(len(rows), seed)
    indices = order[: num_train or max(0, len(rows) - (num_evaluation or len(rows) // 5))]
    if balance == "sample":
        indices = _balanced(rows, order if num_train else indices, num_train)
    in_training = set(indices)
    keys = [digest(normalized(item)) for item in rows.inputs]
    train_texts = {keys[i] for i in indices}
    remaining = [i for i in order if i not in in_training and keys[i] not in train_texts]
    if num_train > len(rows) or not indices or num_evaluation > len(remaining) or not remaining:
        raise _too_few_rows(rows, num_train, num_evaluation, len(indices), len(remaining))
    return rows.take(indices), rows.take(remaining[: num_evaluation or len(remaining)])


def _too_few_rows(
    rows: Rows, num_train: int, num_evaluation: int, num_chosen: int, num_remaining: int
) -> DataError:
    """The error for a split that cannot give both: too few rows, or too many duplicates.

    num_chosen: rows that would train. num_remaining: rows that are neither among them nor have the
    text of one.
    """
    enough_without_duplicates = 0 < num_chosen < len(rows) and num_train + num_evaluation <= len(
        rows
    )
    if enough_without_duplicates:
        return DataError(
            f"{rows.source} has {len(rows):,} rows, but only {num_remaining:,} of them are neither "
            f"among the {num_chosen:,} training rows nor duplicates of one",
            setting="data.num_evaluation",
            seen=num_evaluation,
            remedy="remove the duplicates, or lower data.num_train or data.num_evaluation",
        )
    return DataError(
        f"data.num_train={num_train} and data.num_evaluation={num_evaluation} need more rows than "
        f"{rows.source} has ({len(rows):,})",
        setting="data.num_train",
        seen=num_train,
        remedy=f"try data.num_train={len(rows) * 4 // 5} data.num_evaluation={len(rows) // 5}",
    )


# --- labels --------------------------------------------------------------------------------------


def stratified(rows: Rows, num_rows: int) -> Rows:
    """`num_rows` of the rows, in their order, with the labels' shares. Subsets are nested.

    The j-th row of a label with n rows has the position (j − ½) / n, and the rows with the lowest
    positions are taken. This is Webster's apportionment, which never drops a row when `num_rows`
    grows, as rounding the shares would (Balinski & Young 1982, Fair Representation).

    Raises `DataError` if there are fewer rows than that.
    """
    if num_rows > len(rows):
        raise DataError(
            f"data.num_train_subset asks for {counted(num_rows, 'row')}, there are "
            f"{counted(len(rows), 'training row')} of {rows.source}",
            setting="data.num_train_subset",
            seen=num_rows,
            remedy=f"set data.num_train_subset={len(rows)} or less",
        )
    totals, counts = Counter(rows.labels), Counter[str]()
    positions = []
    for i, label in enumerate(rows.labels):
        positions.append(((counts[label] + 0.5) / totals[label], i))
        counts[label] += 1
    return rows.take(sorted(i for _, i in sorted(positions)[:num_rows]))


def _balanced(rows: Rows, order: list[int], num_rows: int) -> list[int]:
    """The first rows of `order`, about `num_rows`, with the same number of each label.

    With `num_rows` 0 that number is the rarest label's count.
    """
    totals = Counter(rows.labels[i] for i in order)
    per_label = num_rows // len(totals) if num_rows else min(totals.values(), default=0)
    counts: Counter[str] = Counter()
    indices = []
    for i in order:
        if counts[rows.labels[i]] < per_label:
            counts[rows.labels[i]] += 1
            indices.append(i)
    rarest = min(totals, key=totals.__getitem__, default="")
    if totals[rarest] < per_label:
        raise DataError(
            f"data.balance=sample needs {per_label:,} rows of each label, {rows.source} has "
            f"{totals[rarest]:,} of {rarest!r}",
            setting="data.balance",
            seen="sample",
            remedy=f"lower data.num_train to {totals[rarest] * len(totals)} or use "
            "data.balance=weights",
        )
    return indices


def require_every_label(rows: Rows, labels: Sequence[str]) -> None:
    """Raise `DataError` if all training rows have the same label. labels: the prompt's."""
    distinct = set(rows.labels)
    if len(distinct) < 2:
        raise DataError(
            f"{counted(len(rows), 'training row')} of {rows.source}, all of them "
            f"{next(iter(distinct))!r}",
            setting="data.train",
            seen=rows.source,
            remedy=f"training needs rows of at least two of {', '.join(labels)}",
        )


def label_weights(labels: Sequence[str]) -> dict[str, float]:
    """A weight per label, n / (k · count): the labels' sums are equal and the mean weight is 1."""
    counts = Counter(labels)
    return {label: len(labels) / (len(counts) * count) for label, count in counts.items()}
