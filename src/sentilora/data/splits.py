"""Which rows train and which evaluate: shuffled, sampled, balanced, taken out of one split.

    train, evaluation = carve(rows, num_train=2000, num_evaluation=400, seed=42)

No evaluation text is a training text; texts are the same if their `normalized` forms are. Every
label of a source is in each sample of it, if it can be: a sample of the plain shuffle that lacks
one is replaced by a stratified one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sentilora.data.rows import Rows
from sentilora.data.text import digest, normalized
from sentilora.errors import DataError
from sentilora.wording import counted, listed, quoted


def shuffled(num_rows: int, seed: int) -> list[int]:
    """Row numbers in the order of `datasets.Dataset.shuffle(seed)` (NumPy's PCG64 permutation)."""
    import numpy as np

    return np.random.default_rng(seed).permutation(num_rows).tolist()


def sample(rows: Rows, num_rows: int, seed: int, setting: str) -> Rows:
    """The first `num_rows` rows of the shuffle; 0 takes all. setting: name of the setting.

    If they lack a label of the source, they are stratified by label.
    """
    if num_rows > len(rows):
        raise DataError(
            f"{setting} asks for {counted(num_rows, 'row')}, {quoted(rows.source)} has "
            f"{len(rows):,}",
            setting=setting,
            seen=num_rows,
            remedy=f"set {setting}={len(rows)} or less (0 takes all)",
        )
    order = shuffled(len(rows), seed)
    first = order[: num_rows or len(rows)]
    if not _absent(rows, first):
        return rows.take(first)
    chosen = in_order(order, by_label(rows.labels, order)[: len(first)])
    name = {"data.num_train": "training", "data.num_evaluation": "evaluation"}.get(setting, "test")
    return replace(rows.take(chosen), notes=(_stratified_note(name, _absent(rows, first)),))


# --- one split that trains and evaluates ---------------------------------------------------------


def carve(
    rows: Rows, num_train: int, num_evaluation: int, seed: int, balance: str = "none"
) -> tuple[Rows, Rows]:
    """Training and evaluation rows out of one split: the first rows of the shuffle, then the next.

    num_train: 0 takes all that the evaluation leaves. num_evaluation: 0 takes all that training
    leaves, and a fifth of the split if both are 0. A row whose text is a training text is never an
    evaluation row. With `balance="sample"` every label has the same number of training rows.

    If a label would be missing, the evaluation rows are stratified by label, or if that does not
    help, both are.

    Raises `DataError` if the split has too few rows.
    """
    order = shuffled(len(rows), seed)
    keys = [digest(normalized(item)) for item in rows.inputs]
    request = (num_train, num_evaluation, balance)
    train, remaining = _split_off(rows, keys, order, *request)
    if num_train > len(rows) or not train or num_evaluation > len(remaining) or not remaining:
        raise _too_few_rows(rows, num_train, num_evaluation, len(train), len(remaining))
    evaluation = remaining[: num_evaluation or len(remaining)]
    absent = [*_absent(rows, train), *_absent(rows, evaluation)]
    if not absent:
        return rows.take(train), rows.take(evaluation)
    draws = [
        (train, evaluation, ""),
        (train, by_label(rows.labels, remaining)[: len(evaluation)], "evaluation"),
    ]
    train, remaining = _split_off(rows, keys, _held_back(rows, keys, order), *request)
    if train and len(remaining) >= max(num_evaluation, 1):
        evaluation = by_label(rows.labels, remaining)[: num_evaluation or len(remaining)]
        draws.append((train, evaluation, "training and evaluation"))
    # The first of the best: as near to the plain shuffle as possible.
    train, evaluation, name = min(
        draws, key=lambda draw: len(_absent(rows, draw[0])) + len(_absent(rows, draw[1]))
    )
    notes = (_stratified_note(name, absent),) if name else ()
    train_rows, evaluation_rows = (
        rows.take(in_order(order, indices)) for indices in (train, evaluation)
    )
    return train_rows, replace(evaluation_rows, notes=notes)


def _split_off(
    rows: Rows,
    keys: Sequence[bytes],
    order: list[int],
    num_train: int,
    num_evaluation: int,
    balance: str,
) -> tuple[list[int], list[int]]:
    """The training rows, the first of `order`, and after them those that can be evaluation rows.

    keys: of each row, the same if the texts are the same.
    """
    num_kept = len(rows) - (num_evaluation or len(rows) // 5)
    while True:
        indices = order[: num_train or max(0, num_kept)]
        if balance == "sample":
            indices = balanced(rows, order if num_train else indices, num_train)
        in_training = set(indices)
        train_keys = {keys[i] for i in indices}
        remaining = [i for i in order if i not in in_training and keys[i] not in train_keys]
        missing = num_evaluation - len(remaining)  # duplicates of training rows do not evaluate
        if num_train or missing <= 0 or num_kept - missing <= 0:
            return indices, remaining
        num_kept -= missing


def _held_back(rows: Rows, keys: Sequence[bytes], order: list[int]) -> list[int]:
    """`order` by label, with a text of each label that has two or more at the end: to evaluate."""
    spread = by_label(rows.labels, order)
    keys_by_label: dict[str, dict[bytes, None]] = {}
    for i in spread:
        keys_by_label.setdefault(rows.labels[i], {})[keys[i]] = None
    held_back: set[bytes] = set()
    for own in sorted(keys_by_label.values(), key=len):
        if len(own) > 1 and held_back.isdisjoint(own):
            held_back.add(list(own)[-1])
    return sorted(spread, key=lambda i: keys[i] in held_back)  # stable


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
            f"{quoted(rows.source)} has {len(rows):,} rows, but only {num_remaining:,} of them are "
            f"neither among the {num_chosen:,} training rows nor duplicates of one",
            setting="data.num_evaluation",
            seen=num_evaluation,
            remedy="remove the duplicates, or lower data.num_train or data.num_evaluation",
        )
    return DataError(
        f"data.num_train={num_train} and data.num_evaluation={num_evaluation} need more rows than "
        f"{quoted(rows.source)} has ({len(rows):,})",
        setting="data.num_train",
        seen=num_train,
        remedy=f"try data.num_train={len(rows) * 4 // 5} data.num_evaluation={len(rows) // 5}",
    )


# --- labels --------------------------------------------------------------------------------------


def _absent(rows: Rows, indices: Iterable[int]) -> list[str]:
    """The labels that are among the rows, but not among the rows at `indices`."""
    present = {rows.labels[i] for i in indices}
    return [label for label in dict.fromkeys(rows.labels) if label not in present]


def by_label(labels: Sequence[str], order: Sequence[int], every_label: bool = True) -> list[int]:
    """`order` rearranged: any number of rows from its beginning has about the labels' shares.

    The j-th row of a label with n rows has the position (j − ½) / n, and the rows with the lowest
    positions come first. This is Webster's apportionment, which never drops a row when the number
    grows, as rounding the shares would (Balinski & Young 1982, Fair Representation).

    every_label: whether the first row of each label comes before all others, so that no label is
        too rare for a beginning that has room for all.
    """
    totals, counts = Counter(labels[i] for i in order), Counter[str]()
    places = []
    for rank, i in enumerate(order):
        label = labels[i]
        is_first = every_label and not counts[label]
        places.append((not is_first, (counts[label] + 0.5) / totals[label], rank, i))
        counts[label] += 1
    return [i for *_, i in sorted(places)]


def in_order(order: Sequence[int], indices: Sequence[int]) -> list[int]:
    """The indices as they follow each other in `order`."""
    chosen = set(indices)
    return [i for i in order if i in chosen]


def _stratified_note(name: str, absent: Iterable[str]) -> str:
    labels = listed(dict.fromkeys(absent))
    return f"{name} rows are stratified by label: those of the plain shuffle have no {labels}"


def stratified(rows: Rows, num_rows: int) -> Rows:
    """`num_rows` of the rows, in their order, with the labels' shares. Subsets are nested.

    Each label has a row, if there is room for all; see `_by_label`.

    Raises `DataError` if there are fewer rows than that.
    """
    if num_rows > len(rows):
        raise DataError(
            f"data.num_train_subset asks for {counted(num_rows, 'row')}, there are "
            f"{counted(len(rows), 'training row')} of {quoted(rows.source)}",
            setting="data.num_train_subset",
            seen=num_rows,
            remedy=f"set data.num_train_subset={len(rows)} or less",
        )
    every_row = range(len(rows))
    chosen = rows.take(sorted(by_label(rows.labels, every_row)[:num_rows]))
    by_share = by_label(rows.labels, every_row, every_label=False)[:num_rows]
    rare = [label for label in _absent(rows, by_share) if label in chosen.labels]
    if not rare:
        return chosen
    note = (
        f"the subset of {counted(num_rows, 'training row')} has a row of each rare label "
        f"({listed(rare)}), more than its share"
    )
    return replace(chosen, notes=(*chosen.notes, note))


def balanced(rows: Rows, order: list[int], num_rows: int) -> list[int]:
    """The first rows of `order`, about `num_rows`, with the same number of each label.

    With `num_rows` 0 that number is the rarest label's count.
    """
    totals = Counter(rows.labels[i] for i in order)
    per_label = num_rows // len(totals) if num_rows else min(totals.values(), default=0)
    if num_rows and not per_label:
        raise DataError(
            f"data.num_train={num_rows} is too few rows for {counted(len(totals), 'label')} with "
            "data.balance=sample",
            setting="data.num_train",
            seen=num_rows,
            remedy=f"set data.num_train={len(totals)} or more",
        )
    counts: Counter[str] = Counter()
    indices = []
    for i in order:
        if counts[rows.labels[i]] < per_label:
            counts[rows.labels[i]] += 1
            indices.append(i)
    rarest = min(totals, key=totals.__getitem__, default="")
    if totals[rarest] < per_label:
        raise DataError(
            f"data.balance=sample needs {per_label:,} rows of each label, {quoted(rows.source)} "
            f"has {totals[rarest]:,} of {rarest!r}",
            setting="data.balance",
            seen="sample",
            remedy=f"lower data.num_train to {totals[rarest] * len(totals)} or use "
            "data.balance=weights",
        )
    return indices


def require_every_label(rows: Rows, labels: Sequence[str]) -> None:
    """Raise `DataError` if all training rows have the same label, or the same shares of labels.

    labels: the prompt's.
    """
    distinct = set(rows.labels)
    if len(distinct) < 2 and len(set(rows.shares)) < 2:
        raise DataError(
            f"{counted(len(rows), 'training row')} of {quoted(rows.source)}, all of them "
            f"{next(iter(distinct))!r}",
            setting="data.train",
            seen=rows.source,
            remedy=f"training needs rows of at least two of {listed(labels)}",
        )


def label_weights(labels: Sequence[str]) -> dict[str, float]:
    """A weight per label, n / (k · count): the labels' sums are equal and the mean weight is 1."""
    counts = Counter(labels)
    return {label: len(labels) / (len(counts) * count) for label, count in counts.items()}
