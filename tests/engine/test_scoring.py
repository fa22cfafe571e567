"""Labels scored on the engine, as branches after shared prompts, against a forward per label."""

import pytest
import torch
from tiny_models import KINDS, add_lora, installed, make_base, make_model, make_rows, plain_logits

from sentilora.errors import SentiloraError
from sentilora.scoring.labels import MANY_PROMPTS, LabelScorer

EOS = 2
PROMPTS = make_rows([14, 9, 30, 9, 22], [1] * 5, shared=6)[0]


def make_labels(num):
    """Labels of one to four tokens and EOS; some begin alike, one is the beginning of another."""
    generator = torch.Generator().manual_seed(num)
    labels = []
    for i in range(num):
        tokens = torch.randint(3, 97, (1 + i % 4,), generator=generator).tolist()
        labels.append([*tokens, EOS])
    if num > 1:
        labels[1][0] = labels[0][0]
    return labels


def by_label(model, prompts, labels):
    """One forward per prompt and label, one row at a time."""
    scores = torch.empty(len(prompts), len(labels), dtype=torch.float64)
    num_forwards = 0
    with torch.no_grad():
        for p, prompt in enumerate(prompts):
            for c, ids in enumerate(labels):
                log_probs = plain_logits(model, prompt + ids[:-1]).double().log_softmax(-1)
                picked = log_probs[len(prompt) - 1 :].gather(1, torch.tensor(ids)[:, None])
                assert len(picked) == len(ids)
                scores[p, c] = picked.sum()
                num_forwards += 1
    assert num_forwards == len(prompts) * len(labels)
    return scores


def spied(monkeypatch, scorer):
    """The prompts of every pass that the engine takes."""
    passes, whole = [], scorer._packed
    monkeypatch.setattr(
        scorer, "_packed", lambda prompts: passes.append(len(prompts)) or whole(prompts)
    )
    return passes


@pytest.mark.parametrize("num_labels", range(1, 11))
def test_labels_as_branches(num_labels, monkeypatch):
    model = make_model("mistral", dropout=0.3).eval()
    labels = make_labels(num_labels)
    expected = by_label(model, PROMPTS, labels)
    scorer = LabelScorer(model, labels, 0, engine=installed(model))
    passes = spied(monkeypatch, scorer)
    got = scorer.log_probs(PROMPTS)
    assert passes == [5] and got.shape == (5, num_labels)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nf4", [False, True])
def test_every_kind_of_model(kind, nf4, monkeypatch):
    model = make_model(kind, nf4=nf4).eval()
    labels = make_labels(3)
    expected = by_label(model, PROMPTS, labels)
    scorer = LabelScorer(model, labels, 0, engine=installed(model))
    passes = spied(monkeypatch, scorer)
    torch.testing.assert_close(scorer.log_probs(PROMPTS), expected, rtol=1e-5, atol=1e-5)
    assert passes == [5]


@pytest.mark.parametrize(
    "prompts",
    [
        [[5]],
        [[5], [6]],
        [[5, 9, 8], [5, 9, 8], [5, 9, 8]],
        [[5, 9, 8], [5, 9], [5]],
        [[4, 9, 8], [5, 9], [6]],
        [],
    ],
    ids=["one token", "two of one token", "all alike", "one in another", "nothing shared", "none"],
)
def test_prompts_of_every_form(prompts):
    model = make_model("qwen2").eval()
    labels = make_labels(2)
    expected = by_label(model, prompts, labels)
    got = LabelScorer(model, labels, 0, engine=installed(model)).log_probs(prompts)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 40, 70, 500])
def test_every_plan_scores_alike(max_tokens, monkeypatch):
    model = make_model("mistral").eval()
    labels = make_labels(4)
    engine = installed(model)
    engine.limit_scoring(max_tokens)
    scorer = LabelScorer(model, labels, 0, engine=engine)
    passes, done = spied(monkeypatch, scorer), []
    got = scorer.log_probs(PROMPTS, done.append)
    assert passes == done and sum(passes) == 5
    assert len(passes) == {1: 5, 40: 4, 70: 3, 500: 1}[max_tokens]
    torch.testing.assert_close(got, by_label(model, PROMPTS, labels), rtol=1e-5, atol=1e-5)


def test_branches_in_a_sliding_window():
    """Branches after a prompt see as far back as a separate row does."""
    model = make_model("mistral", sliding_window=7).eval()
    labels = make_labels(5)
    got = LabelScorer(model, labels, 0, engine=installed(model)).log_probs(PROMPTS)
    torch.testing.assert_close(got, by_label(model, PROMPTS, labels), rtol=1e-5, atol=1e-5)


def test_many_prompts_keep_the_weights_and_score_the_same_bits():
    model = make_model("mistral", nf4=True).eval()
    labels = make_labels(2)
    prompts = [PROMPTS[i % 5][: 5 + i % 4] for i in range(MANY_PROMPTS)]
    few = LabelScorer(model, labels, 0, engine=installed(model))
    expected = torch.cat([few.log_probs(prompts[:100]), few.log_probs(prompts[100:])])
    few.engine.remove()
    engine = installed(model)
    engine.limit_scoring(10**6)
    scorer = LabelScorer(model, labels, 0, engine=engine)
    assert not engine.weights._keep
    scores = scorer.log_probs(prompts)
    assert len(engine.weights._keep) == 4 + 4 + 5
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    decoded = {group: weight for group, (_, weight) in engine.weights._cache.items()}
    assert torch.equal(scorer.log_probs(prompts), scores)
    # Only once: `evaluate` scores part by part, with the adapter on and off.
    assert len(decoded) == 4 + 4 + 5
    assert all(engine.weights._cache[group][1] is weight for group, weight in decoded.items())


def test_the_adapter_in_use_is_the_one_scored(monkeypatch):
    """Between calls the adapter is disabled, or replaced, once by one that needs the plain path."""
    base = make_base("mistral")
    labels = make_labels(3)
    model = add_lora(base).eval()
    add_lora(model, name="dora", use_dora=True, seed=4)
    model.set_adapter("default")
    model.eval()
    scorer = LabelScorer(model, labels, 0, engine=installed(model))
    passes = spied(monkeypatch, scorer)
    seen = []

    def check():
        got = scorer.log_probs(PROMPTS)
        torch.testing.assert_close(got, by_label(model, PROMPTS, labels), rtol=1e-5, atol=1e-5)
        seen.append(got)

    check()
    with model.disable_adapter():
        check()
    assert len(passes) == 2
    model.set_adapter("dora")
    check()
    assert len(passes) == 2  # the plain path
    model.set_adapter("default")
    check()
    assert len(passes) == 3 and torch.equal(seen[0], seen[3])
    assert not torch.allclose(seen[0], seen[1]) and not torch.allclose(seen[0], seen[2])


@pytest.mark.parametrize("usable", [True, False])
def test_out_of_memory_scores_in_smaller_passes_or_ends(usable, monkeypatch):
    """The engine's passes shrink; the plain path's do not, and must not be retried forever."""
    model = make_model("mistral").eval()
    labels = make_labels(2)
    engine = installed(model)
    monkeypatch.setattr(engine, "is_usable", lambda: usable)
    scorer = LabelScorer(model, labels, 0, engine=engine)
    tried = []

    def tight(whole):
        def score(prompts):
            tried.append(len(prompts))
            if len(prompts) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return whole(prompts)

        return score

    for path in ("_packed", "_branches"):
        monkeypatch.setattr(scorer, path, tight(getattr(scorer, path)))
    if usable:
        got = scorer.log_probs(PROMPTS)
        torch.testing.assert_close(got, by_label(model, PROMPTS, labels), rtol=1e-5, atol=1e-5)
        assert tried[0] == 5 and len(tried) > 2 and sum(n for n in tried if n <= 2) == 5
    else:
        with pytest.raises(SentiloraError, match="out of GPU memory while scoring 5 texts"):
            scorer.log_probs(PROMPTS)
        assert tried == [2, 5]  # the first two try whether branches work
