"""Trees of tokens after texts: their layout by definition, and the engine's numbers for them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_scoring import by_label
from tiny_models import KINDS, installed, make_model, make_rows

from sentilora.engine import trees
from sentilora.engine.memory import LEAST_TREE_TOKENS, TREE_BYTES, plan_trees
from sentilora.engine.segments import KeptRows
from sentilora.engine.sizes import LayerSizes
from sentilora.engine.trees import TextTrees, TokenTree, paths_of
from sentilora.scoring.label_tree import LabelTree
from sentilora.scoring.readers import PackedReader

EOS, VOCABULARY = 2, 97
PROMPTS = make_rows([14, 9, 30, 9, 22], [1] * 5, shared=6)[0]
SEQUENCES = st.lists(
    st.lists(st.integers(3, 5), min_size=1, max_size=5).map(tuple), min_size=1, max_size=9
)


def many_labels(num, seed=0):
    """Labels of one to nine tokens and EOS: beginnings of one another, and shared beginnings."""
    generator = np.random.default_rng(seed)
    labels = {(7,), (7, 7), (7, 7, 8)}
    while len(labels) < num:
        length = generator.integers(1, 10)
        start = list(labels)[generator.integers(len(labels))] if generator.random() < 0.6 else ()
        labels.add((*start, *generator.integers(3, 97, length))[:9])
    return [[*map(int, label), EOS] for label in sorted(labels)[:num]]


@given(SEQUENCES)
def test_a_tree_is_its_sequences(sequences):
    """Every beginning is one node, in preorder; a path of a sequence's last node spells it."""
    tree = TokenTree.of(sequences)
    spelled = [tuple(tree.tokens_N[tree.path(node)].tolist()) for node in range(tree.num_nodes)]
    beginnings = {s[:length] for s in sequences for length in range(len(s) + 1)}
    assert len(spelled) == len(beginnings) and set(spelled) == beginnings
    assert spelled == sorted(spelled)
    assert [spelled[node] for node in tree.sequences] == list(sequences)
    for node, text in enumerate(spelled):
        assert tree.depths_N[node] == len(text)
        assert node == 0 or spelled[tree.parents_N[node]] == text[:-1]
        inside = [i for i, other in enumerate(spelled) if other[: len(text)] == text]
        assert inside == list(range(node, tree.ends_N[node]))


@pytest.mark.parametrize("by_path", [True, False])
@pytest.mark.parametrize("cluster", [1, 3, 64])
def test_every_tree_token_sees_its_text_and_the_tokens_above_it(by_path, cluster, monkeypatch):
    """Several passes; each brings new nodes to some of the texts."""
    monkeypatch.setattr(trees, "CLUSTER", cluster)
    tree = TokenTree.of([[3, 4, 5], [3, 4, 6, 7], [3, 8], [9], [9, 9, 9]])
    lengths = [2, 1, 4]
    state = TextTrees(tree, 3, lengths)
    starts, spelled = [3, 5, 6], {}
    passes = [([0, 0, 2], [1, 2, 1]), ([0, 0, 0, 1, 2, 2], [3, 4, 6, 7, 2, 6]), ([1, 1], [8, 9])]
    row = 10
    for texts, nodes in passes:
        packed = state.lay_out(np.array(texts), np.array(nodes), "cpu", by_path)
        assert packed.input_ids.tolist() == [tree.tokens_N[nodes].tolist()]
        assert packed.answer_rows_A.tolist() == list(range(len(nodes)))
        for text, node in zip(texts, nodes, strict=True):
            spelled[text, node], row = row, row + 1
        expected, positions = [], []
        for text, node in zip(texts, nodes, strict=True):
            own = range(starts[text], starts[text] + lengths[text])
            above = [spelled[text, i] for i in tree.path(node).tolist()]
            expected.append([*range(3), *own, *above])
            positions.append(len(expected[-1]) - 1)
        assert packed.position_ids.tolist() == [positions]
        assert seen_by(packed.attention) == expected
        assert bool(packed.attention.masks) is not by_path
    assert row == state.num_rows


def seen_by(attention):
    """The rows that each query sees, as the attention functions read them."""
    rows, seen, k = attention.key_rows_K.tolist(), [], 0
    for number, (num_q, num_k) in enumerate(
        zip(attention.q_lengths, attention.k_lengths, strict=True)
    ):
        keys = rows[k : k + num_k]
        k += num_k
        for i in range(num_q):
            if attention.masks:
                mask = attention.masks[number][i].tolist()
                seen.append([key for key, visible in zip(keys, mask, strict=True) if visible])
            else:
                seen.append(keys[: num_k - (num_q - 1 - i)])
    assert k == len(rows)
    return seen


def test_paths_end_where_a_node_is_not_the_next_ones_parent():
    tree = TokenTree.of([[3, 4, 5], [3, 4, 6], [7]])
    starts, ends = paths_of(tree, np.array([0, 0, 0, 0, 1, 1]), np.array([1, 2, 3, 4, 1, 5]))
    assert list(zip(starts, ends, strict=True)) == [(0, 3), (3, 4), (4, 5), (5, 6)]


@pytest.mark.parametrize("capacity", [0, 7, 30])
def test_kept_rows_are_those_chosen_of_every_pass(capacity):
    parts = [torch.randn(n, 4, 2) for n in (5, 1, 7, 2, 2)]
    chosen = [[0, 1, 2, 3, 4], [], [1, 2, 6], [0, 1], [1]]
    kept, earlier = KeptRows(capacity), torch.empty(0, 4, 2)
    for part, rows in zip(parts, chosen, strict=True):
        for layer in (0, 3):
            seen = kept.extend(layer, part + layer, torch.tensor(rows, dtype=torch.int64))
            assert torch.equal(seen, torch.cat([earlier, part]) + layer)
        earlier = torch.cat([earlier, part[rows]])


def test_a_pass_ends_before_a_node_that_is_not_kept_only_if_it_is_no_longer_needed():
    tree = TokenTree.of([[3, 4, 5, 6], [3, 8], [9, 9, 9]])
    shared = np.isin(np.arange(tree.num_nodes), [0, 1])
    state = TextTrees(tree, 0, [1, 1], shared)
    texts, nodes = np.repeat([0, 1], 8), np.tile(np.arange(1, 9), 2)
    paths = [1, 4, 5, 8, 9, 12, 13, 16]
    for most in (1, 2, 3, 4, 7, 100):
        ends = state.ends_of_pass(texts, nodes, most)
        assert ends[-1] == 16 and set(ends) <= set(paths) and ends == sorted(set(ends))
        sizes = np.diff([0, *ends])
        assert max(sizes) <= max(most, 3) and (most < 100 or len(ends) == 1)


def scored(model, labels, prompts, left_out=0.0, by_path=None, room=None):
    engine = installed(model)
    tree = LabelTree(labels)
    with torch.inference_mode():
        room = room or engine.tree_room(VOCABULARY)
        reader = PackedReader(model, engine, tree, prompts, room)
        if by_path is not None:
            reader.by_path = by_path
        scores = tree.score(len(prompts), reader, left_out)
    engine.remove()
    return scores


@pytest.mark.parametrize("num_labels", [2, 3, 5, 17, 60])
@pytest.mark.parametrize("by_path", [True, False])
def test_trees_have_the_scores_of_separate_rows(num_labels, by_path):
    """On the engine, as on a CPU and as on a GPU; nothing is left out."""
    model = make_model("mistral", dropout=0.3).eval()
    labels = many_labels(num_labels)
    log_probs, left_out = scored(model, labels, PROMPTS, by_path=by_path)
    expected = by_label(model, PROMPTS, labels)
    torch.testing.assert_close(torch.from_numpy(log_probs), expected, rtol=1e-5, atol=1e-5)
    assert not left_out.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nf4", [False, True])
def test_trees_in_every_kind_of_model(kind, nf4):
    model = make_model(kind, nf4=nf4).eval()
    labels = many_labels(12, seed=1)
    log_probs, _ = scored(model, labels, PROMPTS)
    expected = by_label(model, PROMPTS, labels)
    torch.testing.assert_close(torch.from_numpy(log_probs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prompts", [[[5]], [[5], [6]], [[5, 9, 8]] * 3, [[5, 9, 8], [5, 9], [5]]])
def test_trees_after_prompts_of_every_form(prompts):
    model = make_model("qwen2").eval()
    labels = many_labels(9)
    log_probs, _ = scored(model, labels, prompts)
    expected = by_label(model, prompts, labels)
    torch.testing.assert_close(torch.from_numpy(log_probs), expected, rtol=1e-5, atol=1e-5)


def test_trees_in_a_sliding_window():
    """Masks know no window: paths are read instead, also on a CPU."""
    model = make_model("mistral", sliding_window=7).eval()
    labels = many_labels(15)
    log_probs, _ = scored(model, labels, PROMPTS)
    expected = by_label(model, PROMPTS, labels)
    torch.testing.assert_close(torch.from_numpy(log_probs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("by_path", [True, False])
def test_trees_in_passes_of_every_size(by_path, monkeypatch):
    """A pass may end within a path or a cluster."""
    model = make_model("llama").eval()
    labels = many_labels(20)
    expected, _ = scored(model, labels, PROMPTS, by_path=by_path)
    for least in (1, 2, 7, 50):
        monkeypatch.setattr("sentilora.engine.memory.LEAST_TREE_TOKENS", least)
        room = plan_trees(64, 0, SIZES, 2, VOCABULARY, 4, copies_keys=True, most=least)
        got, _ = scored(model, labels, PROMPTS, by_path=by_path, room=room)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


SIZES = LayerSizes(
    kept_per_token=1,
    input_per_token=1,
    work_per_token=1,
    score_per_token=1000,
    keys_per_token=200,
    weights=1,
    buffer=1,
)


def test_texts_and_their_trees_fit_the_memory_of_a_scoring_pass():
    """Rows that are kept, and logits, count: both are more than the rest with many labels."""
    for num_layers, vocabulary in ((2, 100), (32, 100), (32, 150_000)):
        for copies_keys in (False, True):
            options = SIZES, num_layers, vocabulary, 2, copies_keys, 16384
            room = plan_trees(16384, 0, *options)
            assert room.total == 16384 * 1000
            assert plan_trees(16384, 200 * 2**20, *options).total == 100 * 2**20
            assert plan_trees(16384, None, *options).total == 16384 * TREE_BYTES
            kept = room.text_tokens
            assert kept * (1000 + num_layers * 200) <= 16384 * 1000
            num = room.tree_tokens(kept, longest=80)
            each = 1000 + num_layers * 200 + vocabulary * 10 + (80 * 400 if copies_keys else 0)
            used = kept * num_layers * 200 + num * each
            assert used <= 16384 * 1000 or num == LEAST_TREE_TOKENS
