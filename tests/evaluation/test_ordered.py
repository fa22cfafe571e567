"""Labels in an order: values, figures by hand, and kappa by its formula."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.data.label_order import values_of
from sentilora.errors import UsageError
from sentilora.evaluation.ordered import measure_ordered
from sentilora.folders.classifier_file import BaseReference, ClassifierFile
from sentilora.prompt import PromptFormat

FIVE = ("very negative", "negative", "neutral", "positive", "very positive")


def test_labels_have_their_own_values_or_their_places():
    assert values_of(FIVE) == (1, 2, 3, 4, 5)
    assert values_of(("1", "2", "3", "4", "5")) == (1, 2, 3, 4, 5)
    assert values_of(("0", "0.5", "2")) == (0, 0.5, 2)
    assert values_of(("5", "4", "1")) == (5, 4, 1)  # the best first
    assert values_of(("1 star", "2 stars", "3 stars")) == (1, 2, 3)
    assert values_of(("1", "2", "nan")) == (1, 2, 3)  # a word
    for labels in (("1", "10", "2"), ("1", "1.0", "2")):
        with pytest.raises(UsageError, match="neither rise nor fall; write"):
            values_of(labels)


def test_two_labels_have_no_order():
    with pytest.raises(UsageError, match="is set, but there are only 2 labels"):
        PromptFormat(ordered=True)
    assert PromptFormat(labels=FIVE, ordered=True).ordered


def test_the_order_is_stored_only_where_there_is_one(tmp_path):
    """Adapters from before have no `ordered`, and their files and probes stay as they are."""
    for format in (PromptFormat(labels=FIVE), PromptFormat(labels=FIVE, ordered=True)):
        assert ("ordered" in format.to_dict()) == format.ordered
        record = ClassifierFile(
            format_version=1, prompt=format, base=BaseReference("embedded"), label_ids=[[1]]
        )
        record.save(tmp_path)
        assert ('"ordered"' in (tmp_path / "classifier.json").read_text()) == format.ordered
        assert ClassifierFile.load(tmp_path).prompt == format


def test_figures_that_were_computed_by_hand():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3], [0.5, 0.5, 0.0]])
    found = measure_ordered(probabilities, [0, 1, 1, 2], values_of(("bad", "so so", "good")))
    assert found.mean_absolute_error == (0 + 1 + 0 + 2) / 4
    # Expected values 1.5, 2.6, 2.1, 1.5; true values 1, 2, 2, 3.
    assert found.mean_expected_value == pytest.approx((1.5 + 2.6 + 2.1 + 1.5) / 4)
    assert found.expected_value_error == pytest.approx((0.5 + 0.6 + 0.1 + 1.5) / 4)
    assert found.mean_value == 2.0
    # Squared distances 0, 1, 0, 4; by chance, over all pairs of answers (0, 2, 1, 0) and truths.
    chance = sum((a - t) ** 2 for a in (0, 2, 1, 0) for t in (0, 1, 1, 2)) / 16
    assert found.quadratic_kappa == pytest.approx(1 - (5 / 4) / chance)


def test_kappa_is_undefined_where_all_is_the_same():
    found = measure_ordered(np.array([[0.8, 0.1, 0.1]] * 3), [0, 0, 0], (1, 2, 3))
    assert found.quadratic_kappa is None and found.mean_absolute_error == 0


@given(st.integers(2, 40), st.integers(3, 6), st.integers(0, 1000))
def test_figures_agree_with_their_formulas(num_rows, num_labels, seed):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([0.5] * num_labels, num_rows)
    truth = random.integers(0, num_labels, num_rows)
    values = np.sort(random.normal(size=num_labels))
    found = measure_ordered(probabilities, truth, values)
    answers = probabilities.argmax(1)
    assert found.mean_absolute_error == pytest.approx(abs(values[answers] - values[truth]).mean())
    expected = (probabilities * values).sum(1)
    assert found.expected_value_error == pytest.approx(abs(expected - values[truth]).mean())
    chance = ((answers[:, None] - truth[None, :]) ** 2).mean()
    if chance:
        kappa = 1 - ((answers - truth) ** 2).mean() / chance
        assert found.quadratic_kappa == pytest.approx(kappa)
    turned = measure_ordered(probabilities[:, ::-1], num_labels - 1 - truth, -values[::-1])
    assert turned.mean_absolute_error == pytest.approx(found.mean_absolute_error)
    assert turned.mean_expected_value == pytest.approx(-found.mean_expected_value)
