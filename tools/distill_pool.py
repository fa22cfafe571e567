"""Texts for a teacher to label, cut from unlabeled IMDB reviews, and the recipe's labeled rows.

    python tools/distill_pool.py --imdb imdb --out pool.parquet
    sentilora distill --teacher smollm2-imdb --texts pool.parquet --base embedded

A student that sees whole reviews only is unsure of a sentence, so there are single sentences too,
pairs of neighbors, many of both that negate ("not", "never") or contrast ("but", "although"), and
passages of three to six sentences, half of them from the end of a review. Each review gives at most
one text of each kind. What also occurs in the test split is left out. The 2,400 rows that
`sentilora train data.train=imdb` trains and evaluates on have their true label; their kind tells
which they are.
"""

import argparse
import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pretrain_tiny import normalized

from sentilora.config import Config, load_config
from sentilora.data.text import clean_text
from sentilora.stages.from_config import load_rows_of

SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z])")
NEGATION = re.compile(r"\b(?:not|never|no|nothing|hardly|\w+n['’]t)\b", re.IGNORECASE)
CONTRAST = re.compile(r"\b(?:but|although|though|yet|however|despite|unlike)\b", re.IGNORECASE)
WORDS = (4, 60)  # of a short text
PASSAGE = (3, 6)  # sentences
# Kind of text: how many of them.
SIZES = {
    "review": 49_000,
    "passage": 40_000,
    "sentence": 30_000,
    "pair": 30_000,
    "negation": 30_000,
    "contrast": 30_000,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--imdb", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="of the texts of each kind")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    import pyarrow as pa
    import pyarrow.parquet as pq

    def texts_of(name: str) -> list[str]:
        table = pq.read_table(options.imdb / f"{name}.parquet", columns=["text"])
        return [clean_text(text) for text in table["text"].to_pylist()]

    test = {normalized(text) for text in texts_of("test")}
    rows = [
        {"text": clean_text(text), "kind": kind, "label": label}
        for kind, split in zip(
            ("training", "evaluation"), load_rows_of(config_of(options.imdb)), strict=True
        )
        for text, label in zip(split.texts, split.labels, strict=True)
    ]
    rows = [row for row in rows if normalized(row["text"]) not in test]
    known = test | {normalized(row["text"]) for row in rows}
    seen = set(known)
    draw = random.Random(options.seed)
    reviews = texts_of("unsup")
    draw.shuffle(reviews)
    room = {kind: round(size * options.share) for kind, size in SIZES.items()}
    for review in (text for text in reviews if normalized(text) not in known):
        for kind, text in cuts_of(review, draw):
            key = normalized(text)
            if room[kind] and key not in seen:
                seen.add(key)
                room[kind] -= 1
                rows.append({"text": text, "kind": kind, "label": None})
    draw.shuffle(rows)
    pq.write_table(pa.Table.from_pylist(rows), options.out)
    counts = dict(Counter(row["kind"] for row in rows))
    print(f"{len(rows):,} texts in {options.out}: {counts}")


def config_of(imdb: Path) -> Config:
    """The recipe on these reviews."""
    label_map = 'data.label_map={0="negative", 1="positive"}'
    return load_config("tiny", overrides=[f"data.train={imdb}", f"data.test={imdb}", label_map])


def cuts_of(review: str, draw: random.Random) -> Iterator[tuple[str, str]]:
    """(kind, text): the review, and at most one short text of each kind from it."""
    yield "review", review
    sentences = [s for line in review.split("\n") for s in SENTENCE_END.split(line) if s]
    pairs = [" ".join(two) for two in itertools.pairwise(sentences)]
    short = [text for text in sentences + pairs if WORDS[0] <= len(text.split()) <= WORDS[1]]
    for kind, choice in (
        ("sentence", [text for text in sentences if text in short]),
        ("pair", [text for text in pairs if text in short]),
        ("negation", [text for text in short if NEGATION.search(text)]),
        ("contrast", [text for text in short if CONTRAST.search(text)]),
    ):
        if choice:
            yield kind, draw.choice(choice)
    length = draw.randint(*PASSAGE)
    if len(sentences) > length:
        last = len(sentences) - length
        start = draw.choice((last, draw.randint(0, last)))
        yield "passage", " ".join(sentences[start : start + length])


if __name__ == "__main__":
    main()
