"""Explain an answer by its words: leave each one out and score the text again.

    explanation = explain(classifier.scorer, classifier.prompter, "A lovely film.")
    explanation.words       # where each word is in the text, and what it contributes

Occlusion (Zeiler & Fergus 2014, "Visualizing and Understanding Convolutional Networks", section
4.2; for words Li, Monroe & Jurafsky 2016, "Understanding Neural Networks through Representation
Erasure"). A word's contribution is the drop in the answer's log-odds, log p − log (1 − p), when the
word is left out. A positive contribution speaks for the answer. No gradients are needed, so this
works with any model that scores labels, also in 4 bits and with the fast engine.

A text with more words than `NUM_VARIANTS` allows is scored in two rounds: first without each of
about twenty stretches of equal length, then without each single word of the stretches that changed
the answer most. In all other stretches, the words share the stretch's contribution equally. Words
that truncation cut off have no contribution.

`deletion_test` measures whether explanations are faithful to the model: comprehensiveness (DeYoung
et al. 2020, "ERASER", section 4.2), compared with words drawn at random.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy.special import expit, logsumexp

from sentilora.data.text import Item, blank_line_breaks, clean_text, text_of
from sentilora.progress import Progress
from sentilora.prompt import Prompter
from sentilora.wording import counted, signed

# With the embedded base on two CPU cores, a text of 512 tokens then takes 2.5 s (docs/results.md).
NUM_VARIANTS = 64
SHARE_TO_DELETE = 0.1
NUM_DRAWS = 5  # of random words; their mean is compared
# A drop in probability: a smaller one can be significant, yet the answer depends on other things.
SMALL_DROP = 0.1
MIN_TEXTS = 5  # a deletion test of fewer texts has no verdict
_WORD = re.compile(r"\S+")
# Scripts without spaces between words: Thai and Lao, Burmese, Khmer, kana, Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)
_PIECE = 2  # characters of these scripts that count as a word, not counting marks


class Scorer(Protocol):
    """What an explanation needs of a `LabelScorer`."""

    def log_probs(self, prompts: Sequence[list[int]]) -> "np.typing.ArrayLike":
        """Log-probabilities of the labels after each prompt: (prompts, labels)."""
        ...


class Word(NamedTuple):
    """A word of a text, with its contribution to the answer.

    start, end: position in the text, in characters. contribution: in log-odds; None if truncation
    cut the word off. alone: whether the word was left out by itself; if not, its contribution is
    its share of its stretch's.
    """

    start: int
    end: int
    contribution: float | None
    alone: bool


@dataclass(frozen=True)
class Explanation:
    """The contribution of each word of a text to an answer.

    label: the answer. probability: of that label, for the whole text.
    """

    label: str
    probability: float
    words: list[Word]


@dataclass(frozen=True)
class DeletionTest:
    """Mean drop in the answer's probability when words are deleted from texts.

    top: drop without the tenth of the words with the largest contributions. random: drop without as
    many random words. interval: 95 % interval of the difference (paired t). sentence: the result in
    words.
    """

    num_texts: int
    top: float
    random: float
    interval: tuple[float, float]
    sentence: str


class _TextWords:
    """The words of a text, and its prompts without some of them. Other columns stay whole.

    spans: position of each word. numbers: numbers of the words that are in the truncated prompt.
    """

    def __init__(self, prompter: Prompter, item: Item) -> None:
        self.prompter = prompter
        self._item = prompter.format.read(item)
        text = text_of(self._item)
        self.spans = list(words_of(blank_line_breaks(text)))
        self._clean = clean_text(text)
        # Both texts have the same words in the same order. Only the characters between them differ.
        clean_spans = list(words_of(self._clean))
        self._parts = prompter.encode(self._item).spans
        self.numbers = [
            number
            for number, (start, end) in enumerate(clean_spans)
            if any(max(start, first) < min(end, last) for first, last in self._parts)
        ]
        starts = [start for start, _ in clean_spans]
        # A word is deleted together with the space after it, so that no double space remains.
        self._units = list(zip(starts, [*starts[1:], len(self._clean)], strict=True))

    def without(self, numbers: Collection[int]) -> list[int]:
        """The prompt's tokens when the words with these numbers are left out of the text."""
        parts = []
        for first, last in self._parts:
            words = [
                self._clean[max(start, first) : min(end, last)]
                for number, (start, end) in enumerate(self._units)
                if number not in numbers and max(start, first) < min(end, last)
            ]
            parts.append("".join(words))
        return self.prompter.encode_parts(parts, self._item)


def words_of(text: str) -> Iterator[tuple[int, int]]:
    """The positions (start, end) of a text's words, which white space separates.

    In scripts without spaces between words, two characters count as a word.
    """
    for match in _WORD.finditer(text):
        start, end = match.span()
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
    text: Item,
    *,
    label: int | None = None,
    temperature: float = 1.0,
    num_variants: int = NUM_VARIANTS,
) -> Explanation:
    """The contribution of each word of a text to a label.

    text: as `Prompter.encode` takes it; only its words are explained, not those of other columns.
    label: number of the label; None explains the most probable one. temperature: the classifier's.
    num_variants: largest number of prompts to score, the whole text included; at least 4. Raises
    `DataError` for a text that cannot be encoded.
    """
    source = _TextWords(prompter, text)
    size = 1
    if len(source.numbers) > num_variants - 1:
        size = -(-len(source.numbers) // (num_variants // 3))
    stretches = [source.numbers[at : at + size] for at in range(0, len(source.numbers), size)]
    prompts = [source.without(stretch) for stretch in ([], *stretches)]
    scores = _scores(scorer, prompts, temperature)
    if label is None:
        label = int(scores[0].argmax())
    whole, *rest = _log_odds(scores, label)
    drops = whole - np.array(rest)
    contribution = {
        number: float(drop / len(stretch))
        for stretch, drop in zip(stretches, drops, strict=True)
        for number in stretch
    }
    alone = {stretch[0] for stretch in stretches if len(stretch) == 1}
    singles: list[int] = []
    for at in np.argsort(-np.abs(drops), kind="stable"):
        stretch = stretches[at]
        if len(stretch) > 1 and 1 + len(stretches) + len(singles) + len(stretch) <= num_variants:
            singles += stretch
    if singles:
        scores = _scores(scorer, [source.without([number]) for number in singles], temperature)
        drops = whole - _log_odds(scores, label)
        contribution |= dict(zip(singles, map(float, drops), strict=True))
        alone |= set(singles)
    words = [
        Word(start, end, contribution.get(number), number in alone)
        for number, (start, end) in enumerate(source.spans)
    ]
    return Explanation(prompter.format.labels[label], float(expit(whole)), words)


def explain_each(
    scorer: Scorer,
    prompter: Prompter,
    texts: Sequence[Item],
    labels: Sequence[int | None],
    description: str,
    temperature: float = 1.0,
) -> list[Explanation]:
    """The explanation of each text's label, with progress on stderr. See `explain`."""
    explanations = []
    with Progress(description, len(texts)) as progress:
        for text, label in zip(texts, labels, strict=True):
            explanation = explain(scorer, prompter, text, label=label, temperature=temperature)
            explanations.append(explanation)
            progress.advance()
    return explanations


def deletion_test(
    scorer: Scorer,
    prompter: Prompter,
    texts: Sequence[Item],
    explanations: Sequence[Explanation],
    *,
    temperature: float = 1.0,
    seed: int = 0,
) -> DeletionTest | None:
    """The result of deleting each text's most important words, compared with random ones.

    explanations: one per text, for the same model. Texts of fewer than two words in the prompt are
    left out; None if none is left.
    """
    generator = np.random.default_rng(seed)
    top, random = [], []
    for text, explanation in zip(texts, explanations, strict=True):
        source = _TextWords(prompter, text)
        if len(source.numbers) < 2:
            continue
        num_deleted = max(1, round(SHARE_TO_DELETE * len(source.numbers)))
        weights = [explanation.words[number].contribution or 0.0 for number in source.numbers]
        largest = np.argsort(-np.array(weights), kind="stable")[:num_deleted]
        deletions = [[source.numbers[at] for at in largest]]
        for _ in range(NUM_DRAWS):
            deletions.append(generator.choice(source.numbers, num_deleted, replace=False).tolist())
        prompts = [source.without(set(numbers)) for numbers in deletions]
        scores = _scores(scorer, prompts, temperature)
        probabilities = expit(_log_odds(scores, prompter.format.labels.index(explanation.label)))
        top.append(explanation.probability - float(probabilities[0]))
        random.append(explanation.probability - float(probabilities[1:].mean()))
    if not top:
        return None
    interval = _interval(np.array(top) - np.array(random))
    means = float(np.mean(top)), float(np.mean(random))
    return DeletionTest(len(top), *means, interval, _sentence(len(top), *means, interval))


def _scores(scorer: Scorer, prompts: Sequence[list[int]], temperature: float) -> np.ndarray:
    """Scores (prompts, labels), divided by a temperature."""
    return np.asarray(scorer.log_probs(prompts), dtype=np.float64) / temperature


def _log_odds(scores: np.ndarray, label: int) -> np.ndarray:
    """log p − log (1 − p) of a label, from scores (texts, labels); exact even if p rounds to 1."""
    return scores[:, label] - logsumexp(np.delete(scores, label, axis=1), axis=1)


def _interval(differences: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean (Student's t); the full range for a single value."""
    from scipy.stats import ttest_1samp

    if len(differences) < 2:
        return -1.0, 1.0
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    low, high = ttest_1samp(differences, 0).confidence_interval()
    return float(low), float(high)


def _sentence(num_texts: int, top: float, random: float, interval: tuple[float, float]) -> str:
    """The result of a deletion test in words: its figures, then a verdict."""
    low, high = (signed(100 * bound) for bound in interval)
    drops = [signed(100 * mean).removeprefix("+") for mean in (top, random)]
    difference = top - random
    is_few = num_texts < MIN_TEXTS
    figures = (
        f"deletion test on {counted(num_texts, 'text')}: "
        f"deleting the {100 * SHARE_TO_DELETE:.0f} % of words with the largest weight lowers the "
        f"answer's probability by {drops[0]} points, deleting as many random words by {drops[1]}; "
        f"the difference is {signed(100 * difference)} points"
        + ("" if is_few else f" (95 % interval {low} to {high})")
        + ": "
    )
    if is_few:
        return figures + "too few texts to tell whether the explanations are reliable"
    if interval[1] < 0:
        return figures + "the explanations point away from what the model uses; do not rely on them"
    if interval[0] <= 0:
        return figures + "not distinguishable from chance; do not rely on the explanations"
    if difference < SMALL_DROP:
        return figures + "better than chance, but the answers depend little on these words"
    return figures + "the explanations point to what the model uses"
