"""Contextual calibration of a base without an adapter (Zhao et al. 2021)."""

import json

import numpy as np
from commands import failed, run

from sentilora import Classifier
from sentilora.prompt import PromptFormat
from sentilora.scoring.answers import at_temperature
from sentilora.scoring.content_free import TEXTS, label_prior

FEW = ["data.test=embedded", "data.num_test=12"]


def test_scores_are_relative_to_those_of_texts_without_content(toy_base):
    classifier = Classifier.from_base(toy_base, device="cpu")
    texts = ["A lovely film.", "N/A", "Dull."]
    before = classifier.predict_proba(texts)
    prior = label_prior(classifier.prompter, classifier.scorer)
    prompts = [classifier.prompter.encode_parts([text]) for text in TEXTS]
    each = at_temperature(classifier.scorer.log_probs(prompts).numpy(), 1.0)
    np.testing.assert_allclose(prior, each.mean(0))
    assert prior.shape == (2,) and abs(prior.sum() - 1) < 1e-15 and abs(prior[0] - 0.5) > 1e-3
    classifier.prior = prior
    expected = before / prior
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(classifier.predict_proba(texts), expected, rtol=1e-9)


def test_other_columns_say_nothing_either(toy_base):
    format = PromptFormat("{title}\n{text}\nA:\n", "", ("yes", "no"))
    classifier = Classifier.from_base(toy_base, format, device="cpu")
    assert label_prior(classifier.prompter, classifier.scorer).shape == (2,)


def test_evaluate_takes_it_for_a_base_alone_and_says_so(toy_base, toy_run):
    ask = ["evaluate", "--base", toy_base, *FEW, "--json"]
    plain, relative = (json.loads(run(*ask, *more)[1]) for more in ([], ["--content-free"]))
    (note,) = [note for note in relative["missing"] if "without content" in note]
    assert note.startswith("relative to the answers to texts without content: positive ")
    assert not any("without content" in note for note in plain["missing"])
    assert plain["base"]["log_loss"] != relative["base"]["log_loss"]
    error = "--content-free is for a base without an adapter"
    failed(2, error, "evaluate", "--adapter", toy_run, "--content-free", *FEW)
