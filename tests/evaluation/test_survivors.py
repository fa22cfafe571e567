"""Wrong answers that survive a confidence: a table counted by hand, and what always holds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sentilora.evaluation.survivors import Survivors, survivors


def test_a_table_that_was_counted_by_hand():
    sure = np.array([0.99, 0.95, 0.93, 0.9, 0.85, 0.8, 0.7, 0.6])
    probabilities = np.column_stack([sure, 1 - sure])
    truth = [0, 1, 0, 1, 0, 1, 1, 0]  # wrong: 0.95, 0.9, 0.8, 0.7
    assert survivors(probabilities, truth) == [
        Survivors(0.8, 6, 6 / 8, 3, 3 / 6, 3 / 4),
        Survivors(0.9, 4, 4 / 8, 2, 2 / 4, 2 / 4),
        Survivors(0.95, 2, 2 / 8, 1, 1 / 2, 1 / 4),
    ]


def test_without_answers_or_errors_there_is_no_share():
    unsure, right = np.array([[0.6, 0.4]]), np.array([[0.97, 0.03]])
    assert survivors(unsure, [1])[0] == Survivors(0.8, 0, 0.0, 0, None, 0.0)
    assert survivors(right, [0])[2] == Survivors(0.95, 1, 1.0, 0, 0.0, None)


@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 1000))
def test_what_survives_a_higher_confidence_survives_a_lower_one(num_rows, num_labels, seed):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet([0.3] * num_labels, num_rows)
    truth = random.integers(0, num_labels, num_rows)
    num_wrong = int((probabilities.argmax(1) != truth).sum())
    everything, *table = survivors(probabilities, truth, (0.0, 0.8, 0.9, 0.95))
    assert (everything.num_answered, everything.num_wrong) == (num_rows, num_wrong)
    before = everything
    for row in table:
        assert row.num_wrong <= row.num_answered <= before.num_answered
        assert row.num_wrong <= before.num_wrong
        before = row
