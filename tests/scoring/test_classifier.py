"""Texts to scores through one door: in pieces of bounded size, in order, checked beforehand."""

import numpy as np
import pytest
import torch

from sentilora import Classifier
from sentilora.errors import DataError, UsageError
from sentilora.folders.classifier_file import Calibration
from sentilora.models.runtime import Runtime
from sentilora.prompt import PromptFormat
from sentilora.scoring import classifier as module
from sentilora.scoring.answers import at_temperature
from sentilora.scoring.explain import explain

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


def test_many_labels_are_scored_as_a_tree_and_what_is_left_out_is_recorded(toy_base):
    """By default within 2e-6 of scoring every label; `max_left_out=0` leaves nothing out."""
    words = ("card", "lost", "top up", "fee", "refund", "pin", "rate", "limit")
    labels = tuple(f"{first} {second}" for first in words for second in words)
    format = PromptFormat(labels=labels, instruction="Which is it?")
    classifier = Classifier.from_base(str(toy_base), format)
    every_label = Classifier.from_base(str(toy_base), format, max_left_out=0.0)
    assert classifier.scorer.tree is not None
    [piece], [exact] = classifier.score(TEXTS), every_label.score(TEXTS)
    assert piece.left_out.shape == (10,) and piece.left_out.max() <= 1e-6
    assert not exact.left_out.any()
    difference = classifier.predict_proba(TEXTS) - every_label.predict_proba(TEXTS)
    assert abs(difference).max() <= 2e-6
    explanation = explain(classifier.scorer, classifier.prompter, TEXTS[0])
    assert explanation.probability == pytest.approx(
        every_label.predict_proba(TEXTS[:1]).max(), rel=1e-4
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_bound_holds_at_the_classifiers_temperature(toy_base, temperature):
    labels = tuple(f"{first} {second}" for first in "abcdefgh" for second in "abcdefgh")
    format = PromptFormat(labels=labels, instruction="Which is it?")
    classifier = Classifier.from_base(str(toy_base), format)
    classifier.calibration = Calibration(temperature=temperature)
    head = classifier.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(40 * head.weight.detach())  # surer than a random model is
    bounded = classifier.predict_proba(TEXTS)
    exact = classifier.scorer.log_probs([classifier.prompter.encode(t).input_ids for t in TEXTS])
    # The bound, and what float32 makes of log-probabilities of −70 in other passes.
    assert abs(bounded - at_temperature(exact.numpy(), temperature)).max() <= 1e-6 + 5e-6
    [piece] = classifier.score(TEXTS)
    assert 0 < piece.left_out.max() <= 1e-6  # of scores as they are, whatever the temperature


@pytest.mark.parametrize("value", [-1e-9, 1.0, float("nan")])
def test_a_bound_is_a_share(value):
    with pytest.raises(UsageError, match="`max_left_out` is"):
        Runtime(max_left_out=value)
