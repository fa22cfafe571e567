"""Labels as a tree: what is read, what is left out, and that probabilities hardly notice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentilora.scoring.answers import at_temperature
from sentilora.scoring.label_tree import LabelTree

EOS = 2


class FakeModel:
    """Next-token log-probabilities drawn from each text and the tokens so far.

    sharpness: how unequal they are; 0 gives every token the same.
    """

    def __init__(self, labels, num_texts, sharpness, seed=0):
        self.labels, self.num_texts, self.sharpness, self.seed = labels, num_texts, sharpness, seed
        self.tree = LabelTree(labels)
        self.num_read = np.zeros((num_texts, self.tree.tokens.num_nodes), dtype=int)

    def step(self, text, beginning):
        """Log-probabilities of 50 tokens."""
        generator = np.random.default_rng([self.seed, text, *beginning])
        logits = self.sharpness * generator.standard_normal(50)
        return logits - np.log(np.exp(logits).sum())

    def __call__(self, texts, nodes):
        tree = self.tree.tokens
        assert (np.diff(texts) >= 0).all()
        for text, node in zip(texts, nodes, strict=True):
            above = tree.path(node)[:-1].tolist()
            assert all(self.num_read[text, [0, *above]]) or not node, "a parent comes first"
            self.num_read[text, node] += 1
        row, _, _, tokens = self.tree.below(texts, nodes)
        beginnings = [tree.tokens_N[tree.path(node)].tolist() for node in nodes]
        steps = [self.step(t, b) for t, b in zip(texts, beginnings, strict=True)]
        return np.array([steps[i][token] for i, token in zip(row, tokens, strict=True)])

    def exact(self):
        """Log-probabilities (texts, labels), label by label."""
        return np.array(
            [
                [sum(self.step(t, ids[:i])[ids[i]] for i in range(len(ids))) for ids in self.labels]
                for t in range(self.num_texts)
            ]
        )


@st.composite
def label_sets(draw):
    """2 to 30 labels: one token to five, some the beginning of others."""
    words = st.lists(st.integers(3, 7), min_size=1, max_size=5).map(tuple)
    return [[*w, EOS] for w in draw(st.lists(words, min_size=2, max_size=30, unique=True))]


@given(label_sets(), st.floats(0, 12), st.integers(0, 99))
@settings(max_examples=40)
def test_exact_reads_every_token_once_and_leaves_nothing_out(labels, sharpness, seed):
    model = FakeModel(labels, 3, sharpness, seed)
    log_probs, left_out = model.tree.score(3, model, 0.0)
    np.testing.assert_allclose(log_probs, model.exact(), rtol=1e-9)
    assert left_out.tolist() == [0, 0, 0]
    beginnings = {tuple(ids[:n]) for ids in labels for n in range(len(ids))}
    assert model.num_read.sum() == 3 * len(beginnings) == 3 * (model.tree.num_inner + 1)
    assert model.num_read.max() == 1


@given(
    label_sets(),
    st.floats(0, 12),
    st.integers(0, 99),
    st.sampled_from([1e-6, 1e-3, 0.1]),
    st.sampled_from([0.4, 1.0, 1.7, 5.0]),
)
@settings(max_examples=150)
def test_no_probability_is_off_by_more_than_the_bound(labels, sharpness, seed, bound, temperature):
    """At the temperature that is asked for; and what may be left out is recorded."""
    model = FakeModel(labels, 3, sharpness, seed)
    log_probs, left_out = model.tree.score(3, model, bound, temperature)
    assert model.num_read.max() == 1
    exact = model.exact()
    got, expected = (at_temperature(scores, temperature) for scores in (log_probs, exact))
    assert abs(got - expected).max() <= bound * (1 + 1e-9) + 1e-12
    np.testing.assert_allclose(got.sum(1), 1)
    if temperature == 1:
        assert (left_out <= bound * (1 + 1e-9)).all()
    # What was not scored holds at most what is recorded, and is never scored too low in sum.
    is_off = abs(log_probs - exact) > 1e-9
    missing = np.where(is_off, at_temperature(log_probs, 1.0), 0).sum(1)
    assert (missing <= left_out + 1e-12).all()


def test_a_sure_answer_costs_less_than_half_and_an_unsure_one_no_more_than_all():
    labels = [[a, b, c, EOS] for a in range(3, 13) for b in range(13, 17) for c in (20, 21)]
    model = FakeModel(labels, 20, 30.0, seed=3)
    _, left_out = model.tree.score(20, model, 1e-6)
    assert model.tree.num_inner == 10 + 40 + 80
    assert 20 < model.num_read[:, 1:].sum() < 20 * 130 / 2
    assert 0 < left_out.max() <= 1e-6
    flat = FakeModel(labels, 20, 0.0)
    log_probs, left_out = flat.tree.score(20, flat, 1e-6)
    np.testing.assert_allclose(log_probs, flat.exact())
    assert flat.num_read.sum() == 20 * 131 and not left_out.any()


def test_a_label_that_is_left_out_shares_its_branch():
    """Two labels under a hopeless first token get half of that token's probability each."""
    labels = [[3, EOS], [4, 5, EOS], [4, 6, EOS]]
    tree = LabelTree(labels)
    first = np.log([1 - 1e-7, 1e-7])
    reads = []

    def read(texts, nodes):
        reads.append(nodes.tolist())
        return first if not nodes[0] else np.zeros(len(tree.below(texts, nodes)[2]))

    log_probs, left_out = tree.score(1, read, 1e-6)
    np.testing.assert_allclose(np.exp(log_probs), [[1 - 1e-7, 5e-8, 5e-8]])
    np.testing.assert_allclose(left_out, 1e-7)
    assert reads == [[0], [1]]


def test_scores_that_are_no_numbers_stay_so():
    """`LabelScorer` reports them; the search must end."""
    labels = [[3, 4, EOS], [5, 6, EOS], [5, 7, EOS]]
    tree = LabelTree(labels)
    log_probs, _ = tree.score(
        2, lambda texts, nodes: np.full(len(tree.below(texts, nodes)[2]), np.nan), 1e-6
    )
    assert np.isnan(log_probs).all()


@pytest.mark.parametrize("num_labels", [2, 77, 1000])
def test_labels_of_every_number(num_labels):
    labels = [[3 + i % 9, 3 + i // 9 % 13, 3 + i // 117, EOS] for i in range(num_labels)]
    model = FakeModel(labels, 2, 4.0)
    log_probs, left_out = model.tree.score(2, model, 1e-6)
    difference = at_temperature(log_probs, 1.0) - at_temperature(model.exact(), 1.0)
    assert log_probs.shape == (2, num_labels) and abs(difference).max() <= 1e-6
    assert left_out.max() <= 1e-6
