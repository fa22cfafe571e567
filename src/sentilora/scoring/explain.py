"""Which words moved an answer: each is left out, and the model asked again.

explanation = explain(classifier.scorer, classifier.prompter, "A lovely film.")
explanation.words       # where each word stands, and what it contributes

Occlusion (Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section
4.2; for words Li, Monroe & Jurafsky 2016, "Understanding Neural Networks through Representation
Erasure"). A word's contribution is what the log-odds of the answer, log p − log (1 − p), lose when
it is left out: positive, it spoke for the answer. No gradients: it serves any model that a label
can be scored with, in 4 bits and under the engine too.

A text of more words than `NUM_VARIANTS` allows is asked about twice: first without each of some
twenty stretches of equally many words, then without single words of the stretches that moved the
answer most. The other words share their stretch's contribution equally. What truncation cut off
was not seen, and contributes nothing that could be known.

Whether that is true of the model is measured by `deletion_test`: comprehensiveness (DeYoung et al.
2020, "ERASER", section 4.2), against words drawn at random.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy.special import expit, logsumexp

from sentilora.data.text import blank_line_breaks, clean_text
from sentilora.progress import Progress
from sentilora.prompt import Prompter
from sentilora.wording import counted, signed

# On two CPU cores and the embedded base a text of 512 tokens then takes 2.5 s (docs/results.md).
NUM_VARIANTS = 64
SHARE_DELETED = 0.1
NUM_DRAWS = 5  # of random words, averaged
# Of the answer's probability: a point can be significant, and yet nearly all of it rests elsewhere.
LITTLE = 0.1
FEWEST_TEXTS = 5  # of which a deletion test says something
_WORD = re.compile(r"\S+")
# Scripts without spaces between words: Thai and Lao, Burmese, Khmer, kana, Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)
_PIECE = 2  # characters of them that count as a word, their marks aside


class Scorer(Protocol):
    """What is asked of `scoring.LabelScorer`."""

    def log_probs(self, prompts: Sequence[list[int]]) -> "np.typing.ArrayLike": ...


class Word(NamedTuple):
    """A word, where it stands in the text, in characters, and its contribution in log-odds.

    contribution: None when the word was cut off. alone: whether it was left out by itself; if not,
    it has its share of its stretch's contribution.
    """

    start: int
    end: int
    contribution: float | None
    alone: bool


@dataclass(frozen=True)
class Explanation:
    """label: the answer that is explained. probability: of that label, for the whole text."""

    label: str
    probability: float
    words: list[Word]


@dataclass(frozen=True)
class DeletionTest:
    """What the answer's probability loses, on average over texts, without some of their words.

    top: without the tenth that weighs most for it. random: without as many, drawn at random.
    interval: 95 %, of the difference (paired, t). sentence: what follows.
    """

    num_texts: int
    top: float
    random: float
    interval: tuple[float, float]
    sentence: str


class _Seen:
    """A text's words, those that the model sees, and the prompt without some of them."""

    def __init__(self, prompter: Prompter, text: str) -> None:
        self.prompter = prompter
        self.spans = list(words_of(blank_line_breaks(text)))
        self._clean = clean_text(text)
        # The words of both are the same, in the same order: only what separates them differs.
        clean_spans = list(words_of(self._clean))
        self._kept = prompter.encode(text).spans
        self.numbers = [
            number
            for number, (start, end) in enumerate(clean_spans)
            if any(max(start, first) < min(end, last) for first, last in self._kept)
        ]
        starts = [start for start, _ in clean_spans]
        # A word goes with the space behind it, so that no two spaces are left.
        self._units = list(zip(starts, [*starts[1:], len(self._clean)], strict=True))

    def without(self, numbers: Collection[int]) -> list[int]:
        """The prompt's tokens with these words left out of the text."""
        parts = []
        for first, last in self._kept:
            kept = [
                self._clean[max(start, first) : min(end, last)]
                for number, (start, end) in enumerate(self._units)
                if number not in numbers and max(start, first) < min(end, last)
            ]
            parts.append("".join(kept))
        return self.prompter.encode_parts(parts)


def words_of(text: str) -> Iterator[tuple[int, int]]:
    """Where the words of a text stand: what is between white space.

    Within it, scripts that put no spaces between words are taken two characters at a time.
    """
    for found in _WORD.finditer(text):
        start, end = found.span()
        for stretch in _UNSPACED.finditer(text, start, end):
            if start < stretch.start():
                yield start, stretch.start()
            start, num_characters = stretch.start(), 0
            for at in range(stretch.start(), stretch.end()):
                if unicodedata.category(text[at])[0] == "M":  # belongs to the character before it
                    continue
                if num_characters == _PIECE:
                    yield start, at
                    start, num_characters = at, 0
                num_characters += 1
            yield start, stretch.end()
            start = stretch.end()
        if start < end:
            yield start, end


def explain(
    scorer: Scorer,
    prompter: Prompter,
    text: str,
    *,
    label: int | None = None,
    temperature: float = 1.0,
    num_variants: int = NUM_VARIANTS,
) -> Explanation:
    """What each word of a text contributes to a label: its number; None takes the likeliest.

    temperature: the classifier's, by which scores are divided. num_variants: so many prompts are
    scored at most, the whole text among them; 4 or more. Raises `DataError` for a text that cannot
    be encoded.
    """
    seen = _Seen(prompter, text)
    size = 1
    if len(seen.numbers) > num_variants - 1:
        size = -(-len(seen.numbers) // (num_variants // 3))
    stretches = [seen.numbers[at : at + size] for at in range(0, len(seen.numbers), size)]
    scores = _scores(scorer, [seen.without(left_out) for left_out in ([], *stretches)], temperature)
    if label is None:
        label = int(scores[0].argmax())
    whole, *rest = _log_odds(scores, label)
    moved = whole - np.array(rest)
    contribution = {
        number: float(change / len(stretch))
        for stretch, change in zip(stretches, moved, strict=True)
        for number in stretch
    }
    alone = {stretch[0] for stretch in stretches if len(stretch) == 1}
    singles: list[int] = []
    for at in np.argsort(-np.abs(moved), kind="stable"):
        stretch = stretches[at]
        if len(stretch) > 1 and 1 + len(stretches) + len(singles) + len(stretch) <= num_variants:
            singles += stretch
    if singles:
        scores = _scores(scorer, [seen.without([number]) for number in singles], temperature)
        changes = whole - _log_odds(scores, label)
        contribution |= dict(zip(singles, map(float, changes), strict=True))
        alone |= set(singles)
    words = [
        Word(start, end, contribution.get(number), number in alone)
        for number, (start, end) in enumerate(seen.spans)
    ]
    return Explanation(prompter.format.labels[label], float(expit(whole)), words)


def explain_each(
    scorer: Scorer,
    prompter: Prompter,
    texts: Sequence[str],
    labels: Sequence[int | None],
    description: str,
    temperature: float = 1.0,
) -> list[Explanation]:
    """`explain` text by text, with progress on stderr."""
    found = []
    with Progress(description, len(texts)) as progress:
        for text, label in zip(texts, labels, strict=True):
            found.append(explain(scorer, prompter, text, label=label, temperature=temperature))
            progress.advance()
    return found


def deletion_test(
    scorer: Scorer,
    prompter: Prompter,
    texts: Sequence[str],
    explanations: Sequence[Explanation],
    *,
    temperature: float = 1.0,
    seed: int = 0,
) -> DeletionTest | None:
    """Whether the words that are said to weigh most do; None without a text of two seen words."""
    drawn = np.random.default_rng(seed)
    top, random = [], []
    for text, explanation in zip(texts, explanations, strict=True):
        seen = _Seen(prompter, text)
        if len(seen.numbers) < 2:
            continue
        num_deleted = max(1, round(SHARE_DELETED * len(seen.numbers)))
        weighs = [explanation.words[number].contribution or 0.0 for number in seen.numbers]
        heaviest = np.argsort(-np.array(weighs), kind="stable")[:num_deleted]
        chosen = [[seen.numbers[at] for at in heaviest]]
        for _ in range(NUM_DRAWS):
            chosen.append(drawn.choice(seen.numbers, num_deleted, replace=False).tolist())
        scores = _scores(scorer, [seen.without(set(numbers)) for numbers in chosen], temperature)
        left = expit(_log_odds(scores, prompter.format.labels.index(explanation.label)))
        top.append(explanation.probability - float(left[0]))
        random.append(explanation.probability - float(left[1:].mean()))
    if not top:
        return None
    interval = _interval(np.array(top) - np.array(random))
    means = float(np.mean(top)), float(np.mean(random))
    return DeletionTest(len(top), *means, interval, _sentence(len(top), *means, interval))


def _scores(scorer: Scorer, prompts: Sequence[list[int]], temperature: float) -> np.ndarray:
    return np.asarray(scorer.log_probs(prompts), dtype=np.float64) / temperature


def _log_odds(scores: np.ndarray, label: int) -> np.ndarray:
    """log p − log (1 − p) of a label, from scores (texts, labels): exact where p rounds to 1."""
    return scores[:, label] - logsumexp(np.delete(scores, label, axis=1), axis=1)


def _interval(differences: np.ndarray) -> tuple[float, float]:
    """95 % of a mean (Student's t); of one text anything is possible."""
    from scipy.stats import ttest_1samp

    if len(differences) < 2:
        return -1.0, 1.0
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    low, high = ttest_1samp(differences, 0).confidence_interval()
    return float(low), float(high)


def _sentence(num_texts: int, top: float, random: float, interval: tuple[float, float]) -> str:
    low, high = (signed(100 * bound) for bound in interval)
    lost = [signed(100 * mean).removeprefix("+") for mean in (top, random)]
    difference = top - random
    is_few = num_texts < FEWEST_TEXTS
    said = (
        f"deletion test on {counted(num_texts, 'text')}: the {100 * SHARE_DELETED:.0f} % of words "
        f"that weigh most take {lost[0]} points of the answer's probability with them, as many "
        f"random words {lost[1]}; the difference is {signed(100 * difference)} points"
        + ("" if is_few else f" (95 % interval {low} to {high})")
        + ": "
    )
    if is_few:
        return said + "too few texts to tell how far the explanations can be relied on"
    if interval[1] < 0:
        return said + "the explanations point away from what the model uses; do not rely on them"
    if interval[0] <= 0:
        return said + "that cannot be told from chance; do not rely on the explanations"
    if difference < LITTLE:
        return said + "better than chance, but little of the answers rests on these words"
    return said + "the explanations point at what the model uses"
