"""Texts to scores through one door: in pieces of bounded size, in order, checked beforehand."""

import numpy as np
import pytest

from sentilora import Classifier
from sentilora.errors import DataError
from sentilora.scoring import classifier as module

TEXTS = [f"A film with {n} good scenes." for n in range(10)]


@pytest.fixture(scope="module")
def classifier(toy_run):
    return Classifier.load(toy_run)


@pytest.fixture
def small_pieces(classifier, monkeypatch):
    """Pieces of four texts; the sizes that the scorer was asked for."""
    sizes, score = [], classifier.scorer.score

    def recorded(prompts, progress=None, **options):
        sizes.append(len(prompts))
        return score(prompts, progress, **options)

    monkeypatch.setattr(module, "TEXTS_AT_ONCE", 4)
    monkeypatch.setattr(classifier.scorer, "score", recorded)
    return sizes


def test_no_more_prompts_exist_at_once_than_a_piece_has(classifier, small_pieces):
    pieces = classifier.score(TEXTS)
    first = next(pieces)
    assert small_pieces == [4]  # the others are not even encoded yet
    rest = list(pieces)
    assert small_pieces == [4, 4, 2]
    assert [len(piece.log_probs) for piece in (first, *rest)] == [4, 4, 2]
    assert all(piece.base_log_probs is None for piece in rest)


def test_pieces_come_in_the_order_of_the_texts(classifier, small_pieces, monkeypatch):
    in_pieces = classifier.predict_proba(TEXTS)
    predictions = classifier.classify(TEXTS)
    monkeypatch.undo()
    np.testing.assert_allclose(in_pieces, classifier.predict_proba(TEXTS), atol=2e-6)
    assert [prediction.text for prediction in predictions] == TEXTS
    for prediction, row in zip(predictions, in_pieces, strict=True):
        assert list(prediction.probabilities.values()) == row.tolist()


def test_the_base_is_scored_on_the_same_prompts(classifier, small_pieces):
    pieces = list(classifier.score(TEXTS, with_base=True))
    assert small_pieces == [4, 4, 4, 4, 2, 2]
    with classifier.adapter_disabled():
        alone = np.concatenate([piece.log_probs for piece in classifier.score(TEXTS)])
    of_base = np.concatenate([piece.base_log_probs for piece in pieces])
    assert np.array_equal(of_base, alone)
    assert not np.array_equal(np.concatenate([piece.log_probs for piece in pieces]), of_base)


def test_a_bad_text_is_refused_before_any_is_scored(classifier, small_pieces):
    with pytest.raises(DataError, match=r"texts\[9\] is empty"):
        classifier.score([*TEXTS[:9], " "])
    assert small_pieces == []


def test_texts_may_come_from_a_generator(classifier):
    assert classifier.predict(text for text in TEXTS[:2]) == classifier.predict(TEXTS[:2])
    assert classifier.predict([]) == [] and classifier.predict_proba([]).shape == (0, 2)
