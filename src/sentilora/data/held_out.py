"""Test and evaluation rows held out of data that come without splits.

    train, evaluation, test = hold_out(rows, num_evaluation=400, seed=42)

Rows are drawn from the shuffle, stratified by label; of a label with one row or two, training has
one. Near-duplicates of one text stay on one side, because a test row that resembles a training row
measures memory.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from sentilora.data.near_duplicates import groups_of
from sentilora.data.rows import Rows
from sentilora.data.splits import by_label, in_order, shuffled
from sentilora.data.text import digest, normalized
from sentilora.errors import DataError
from sentilora.progress import Progress
from sentilora.wording import counted, quoted

TEST_SHARE, MAX_TEST = 0.2, 2000
EVALUATION_SHARE = 0.1
MIN_ROWS = 10  # fewer cannot be split in three
# Of the rows; larger groups of near-duplicates stay in training. The second applies if too few rows
# are in smaller groups.
MAX_GROUP_SHARES = (0.1, 0.3)
MAX_ROWS_NEAR = 50_000  # beyond, only equal texts count as duplicates: 0.4 ms a text


def hold_out(
    rows: Rows, num_evaluation: int, seed: int, with_evaluation: bool = True
) -> tuple[Rows, Rows, Rows]:
    """Training, evaluation and test rows out of one source.

    The test rows depend on the source and the seed only: a fifth of the rows, `MAX_TEST` at most.
    Then come about `num_evaluation` evaluation rows, 0 for `evaluation_share`, none without
    `with_evaluation`. All others are training rows.

    Raises `DataError` for a source of too few rows.
    """
    if len(rows) < MIN_ROWS:
        raise DataError(
            f"{quoted(rows.source)} has {counted(len(rows), 'row')}, too few to hold out test and "
            "evaluation rows",
            setting="data.train",
            seen=rows.source,
            remedy=f"give {MIN_ROWS} rows or more, or name data.test and data.evaluation",
        )
    groups = _groups(rows)
    shuffle = shuffled(len(rows), seed)
    order = by_label(rows.labels, shuffle, every_label=False)
    test, rest = _draw(order, groups, num_held_out(len(rows)))
    num_evaluation = num_evaluation or evaluation_share(len(rows))
    if with_evaluation and num_evaluation >= len(rest):
        raise DataError(
            f"data.num_evaluation={num_evaluation} leaves no training rows: {quoted(rows.source)} "
            f"has {counted(len(rest), 'row')} that are not held out to test",
            setting="data.num_evaluation",
            seen=num_evaluation,
            remedy=f"try data.num_evaluation={evaluation_share(len(rows))}",
        )
    evaluation, rest = _draw(rest, groups, num_evaluation) if with_evaluation else ([], rest)
    train_rows, evaluation_rows = (
        rows.take(in_order(shuffle, part)) for part in (rest, evaluation)
    )
    notes = tuple(_notes(rows, groups, (rest, evaluation, test)))
    return train_rows, replace(evaluation_rows, notes=notes), rows.take(sorted(test))


def num_held_out(num_rows: int) -> int:
    """About how many of this many rows are held out as test rows."""
    return min(MAX_TEST, max(1, round(TEST_SHARE * num_rows)))


def evaluation_share(num_rows: int) -> int:
    """The number of evaluation rows to hold out of this many."""
    return max(1, round(EVALUATION_SHARE * num_rows))


def _groups(rows: Rows) -> Sequence[int]:
    """The group of each row: rows with the same or nearly the same text have the same number."""
    texts = [normalized(item) for item in rows.inputs]
    if len(rows) <= MAX_ROWS_NEAR:
        return _groups_of(tuple(texts))
    first: dict[bytes, int] = {}
    return [first.setdefault(digest(text), number) for number, text in enumerate(texts)]


@lru_cache(maxsize=1)  # test rows and the others are drawn one after the other
def _groups_of(texts: tuple[str, ...]) -> tuple[int, ...]:
    with Progress("searching for near-duplicates", len(texts)) as progress:
        return tuple(groups_of(texts, progress.advance))


def _draw(
    order: Sequence[int], groups: Sequence[int], num_rows: int
) -> tuple[list[int], list[int]]:
    """About `num_rows` rows from the beginning of `order`, whole groups each, and the others.

    A group too large to be held out stays with the others, unless nothing is left to hold out.
    """
    members = defaultdict(list)
    for i in order:
        members[groups[i]].append(i)
    held: dict[int, None] = {}
    enough = num_rows
    for share in MAX_GROUP_SHARES:
        limit = max(2, share * len(groups))
        for i in order:
            if len(held) >= enough:
                break
            if i not in held and len(members[groups[i]]) <= limit:
                held.update(dict.fromkeys(members[groups[i]]))
        enough = max(1, num_rows // 2)
    for i in order:  # texts that are all alike: rows of one group then stand on both sides
        if len(held) >= enough:
            break
        held.setdefault(i)
    return list(held), [i for i in order if i not in held]


def _notes(rows: Rows, groups: Sequence[int], parts: Sequence[Sequence[int]]) -> list[str]:
    """What to know about near-duplicates. parts: the numbers of the rows of each split."""
    sizes = Counter(groups)
    num_similar = sum(size for size in sizes.values() if size > 1)
    if not num_similar:
        return []
    sides = Counter(group for part in parts for group in {groups[i] for i in part})
    place = "each such group is on one side of the split"
    if num_torn := sum(size for group, size in sizes.items() if sides[group] > 1):
        place = (
            f"{num_torn:,} of them are so alike that they are on both sides of the split, where "
            "accuracy measures memory"
        )
    return [f"{num_similar:,} of {counted(len(rows), 'row')} nearly repeat another: {place}"]
