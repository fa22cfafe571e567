"""Texts that differ in a few words only, such as rows filled into templates by a program.

    templates = look_for_templates(train.inputs, evaluation.inputs)

"Where is my order 12345?" and "Where is my order 99817?" are no near-duplicates: too few runs of
five words are equal. A model that has seen the one knows the other by heart.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from sentilora.data.text import Item, whole_text

# Of the words of two texts, the share in the same order that makes them one template. With all
# training rows, 40 % of 400 test rows of BANKING77 have such a twin, 26 of CLINC150, 16 of TREC,
# 0.5 at most of SST-5 and IMDB; of sentences with names and numbers filled in, 92 to 100 %.
ALIKE = 0.75
SUSPICIOUS_SHARE = 0.5  # of the evaluation rows
MIN_WORDS = 3  # shorter texts are alike by chance
MAX_WORDS = 100  # of a text that are compared
MAX_TRAINING, MAX_EVALUATION = 10_000, 400  # rows that are compared: a second or two
NUM_CANDIDATES = 3  # training texts nearest by TF-IDF, which are compared word by word


@dataclass(frozen=True)
class SharedTemplates:
    """How many of the evaluation texts looked at have a training text like them, and a pair.

    pair: positions of an evaluation text and of a training text; None without any.
    """

    num_looked_at: int
    num_alike: int
    pair: tuple[int, int] | None

    @property
    def is_suspicious(self) -> bool:
        """Whether there are more than data written by people have."""
        return self.num_alike > SUSPICIOUS_SHARE * self.num_looked_at


def look_for_templates(train: Sequence[Item], evaluation: Sequence[Item]) -> SharedTemplates:
    """Evaluation texts that are a training text but for a few words. Equal texts count too."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    known = [words_of(item) for item in train[:MAX_TRAINING]]
    new = [words_of(item) for item in evaluation[:MAX_EVALUATION]]
    if not any(known) or not new:
        return SharedTemplates(len(new), 0, None)
    vectorizer = TfidfVectorizer(analyzer=list, sublinear_tf=True)
    known_vectors = vectorizer.fit_transform(known)
    likeness = (vectorizer.transform(new) @ known_vectors.T).toarray()
    nearest = likeness.argsort(axis=1)[:, -NUM_CANDIDATES:].tolist()
    twins: dict[int, int] = {}
    for i, candidates in enumerate(nearest):
        for j in candidates:
            if are_alike(new[i], known[j]):
                twins[i] = j
    # A pair that differs shows more than one that does not.
    pairs = sorted(twins.items(), key=lambda pair: new[pair[0]] == known[pair[1]])
    return SharedTemplates(len(new), len(pairs), pairs[0] if pairs else None)


def words_of(item: Item) -> list[str]:
    """The first words of a text in lower case; a word with a digit is "0"."""
    words = re.findall(r"\w+", whole_text(item).lower())[:MAX_WORDS]
    return ["0" if any(map(str.isdigit, word)) else word for word in words]


def are_alike(words: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two texts are the same but for a few words."""
    if min(len(words), len(others)) < MIN_WORDS:
        return False
    return SequenceMatcher(None, words, others, autojunk=False).ratio() >= ALIKE
