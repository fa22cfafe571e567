"""When two texts are nearly the same: Jaccard similarity of their runs of words, found by MinHash.

MinHash (Broder 1997) over runs of five words, by datasketch, proposes pairs; the runs themselves
confirm them.
"""

from collections.abc import Callable, Sequence

NEAR = 0.7  # similarity of two texts' runs of words that makes them near-duplicates
RUN = 5  # words


def runs_of(normalized_text: str) -> set[str]:
    """Every run of five words; a shorter text is one run."""
    words = normalized_text.split()
    return {" ".join(words[i : i + RUN]) for i in range(max(1, len(words) - RUN + 1))}


def sketch_of(runs: set[str]):  # type: ignore[no-untyped-def]
    """The MinHash of a text's runs."""
    from datasketch import MinHash

    sketch = MinHash(num_perm=128, seed=1)
    sketch.update_batch([run.encode("utf-8", "surrogatepass") for run in runs])
    return sketch


def new_index():  # type: ignore[no-untyped-def]
    """An index of sketches that proposes near-duplicates of one."""
    from datasketch import MinHashLSH

    # Lower than `NEAR`: an estimate from 128 hashes is off by up to 0.1.
    return MinHashLSH(threshold=NEAR - 0.1, num_perm=128)


def similarity(runs: set[str], others: set[str]) -> float:
    """Jaccard similarity of two texts' runs."""
    return len(runs & others) / len(runs | others)


def groups_of(
    normalized_texts: Sequence[str], progress: Callable[[int], object] | None = None
) -> list[int]:
    """The group of each text, as the number of its first text; near-duplicates are in one group.

    progress: called with the number of texts looked up.
    """
    index, runs = new_index(), [runs_of(text) for text in normalized_texts]
    first: list[int] = []
    for number, own in enumerate(runs):
        sketch = sketch_of(own)
        twins = [i for i in sorted(index.query(sketch)) if similarity(own, runs[i]) >= NEAR]
        index.insert(number, sketch)
        first.append(number)
        for twin in twins:
            _join(first, number, twin)
        if progress is not None:
            progress(1)
    return [_root(first, number) for number in range(len(first))]


def _root(first: list[int], number: int) -> int:
    while first[number] != number:
        first[number] = first[first[number]]
        number = first[number]
    return number


def _join(first: list[int], one: int, other: int) -> None:
    roots = sorted((_root(first, one), _root(first, other)))
    first[roots[1]] = roots[0]
