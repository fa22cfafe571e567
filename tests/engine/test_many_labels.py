"""Many labels through `LabelScorer`: every path against a forward per label, and which is taken."""

import logging
from functools import cache

import pytest
import torch
from test_scoring import by_label
from test_trees import PROMPTS, many_labels
from tiny_models import installed, make_model

from sentilora.errors import SentiloraError
from sentilora.models.runtime import Runtime
from sentilora.scoring import labels as module
from sentilora.scoring.labels import FEW_TOKENS, LabelScorer
from sentilora.scoring.readers import CachedReader, PackedReader, RowReader

PATHS = {"engine": PackedReader, "cache": CachedReader, "rows": RowReader}


def make_scorer(model, labels, path, **runtime):
    """A scorer that takes one of the `PATHS`."""
    engine = installed(model) if path == "engine" else None
    scorer = LabelScorer(model, labels, 0, runtime=Runtime(**runtime), engine=engine)
    assert scorer.tree is not None
    if path == "rows":
        scorer._branches_work = False
    return scorer


def readers_of(scorer, monkeypatch):
    """The kind of reader of each batch, and how many prompts it read."""
    made = []
    for kind in PATHS.values():

        def build(*args, kind=kind, **options):
            reader = kind(*args, **options)
            made.append((name_of[kind], len(reader.prompts)))
            return reader

        monkeypatch.setattr(module, kind.__name__, build)
    name_of = {kind: name for name, kind in PATHS.items()}
    return made


def surer_model():
    """A model that is surer than a random one is; its scores of -200 are rough in float32."""
    model = make_model("qwen2").double().eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(8)
    return model


@cache
def separate_rows(num_labels, is_surer=False):
    """The scores of a model of its own, without an engine: a forward per prompt and label."""
    model = surer_model() if is_surer else make_model("mistral").eval()
    return by_label(model, PROMPTS, many_labels(num_labels))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("num_labels", [30, 60, 200])
def test_every_path_has_the_scores_of_separate_rows(path, num_labels, monkeypatch):
    model = make_model("mistral").eval()
    labels = many_labels(num_labels)
    scorer = make_scorer(model, labels, path, batch_size=3)
    made = readers_of(scorer, monkeypatch)
    done = []
    scores = scorer.score(PROMPTS, done.append, max_left_out=0.0)
    expected = separate_rows(num_labels)
    torch.testing.assert_close(scores.log_probs, expected, rtol=1e-5, atol=2e-5)
    assert not scores.left_out.any() and sum(done) == 5
    if path == "cache":  # on the first short prompts both are tried
        assert [name for name, _ in made[:2]] == ["cache", "rows"]
        del made[:2]
    assert {name for name, _ in made} == {path} and sum(num for _, num in made) == 5


@pytest.mark.parametrize("path", PATHS)
def test_what_is_left_out_moves_no_probability(path):
    """By default: within 2e-6 of the scores of separate rows, and recorded for each row."""
    model = surer_model()
    labels = many_labels(60)
    scorer = make_scorer(model, labels, path)
    scores, exact = scorer.score(PROMPTS), scorer.log_probs(PROMPTS)
    assert Runtime().max_left_out == 1e-6
    assert 0 < scores.left_out.max() <= 1e-6
    assert (scores.log_probs - exact).abs().max() > 0.1  # far from what cannot matter
    expected = separate_rows(60, is_surer=True).softmax(-1)
    assert (scores.log_probs.softmax(-1) - expected).abs().max() <= 2e-6
    assert (exact.softmax(-1) - expected).abs().max() <= 2e-6
    scorer.runtime = Runtime(max_left_out=0.0)
    nothing = scorer.score(PROMPTS)
    assert torch.equal(nothing.log_probs, exact) and not nothing.left_out.any()


def test_few_labels_take_one_pass_as_before(monkeypatch):
    """Up to `FEW_TOKENS` tokens the scores are the same bits as without any tree."""
    model = make_model("mistral").eval()
    few = [[3, 4, 2], [5, 2], [5, 6, 2]]
    scorer = LabelScorer(model, few, 0, engine=installed(model))
    made = readers_of(scorer, monkeypatch)
    scores = scorer.score(PROMPTS)
    assert scorer.tree is None and not made and not scores.left_out.any()
    with torch.inference_mode():
        order = sorted(range(5), key=lambda i: (-len(PROMPTS[i]), i))
        packed = scorer._packed([PROMPTS[i] for i in order]).double()
    assert torch.equal(scores.log_probs[order], packed)
    most = [[3 + i, 3, 2] for i in range(FEW_TOKENS // 2)]
    assert LabelScorer(model, most, 0).tree is None
    assert LabelScorer(model, [*most, [90, 2]], 0).tree is not None


def test_one_text_scores_as_it_does_among_others():
    model = make_model("llama").eval()
    labels = many_labels(30)
    scorer = make_scorer(model, labels, "engine")
    together = scorer.score(PROMPTS).log_probs
    alone = torch.cat([scorer.score([prompt]).log_probs for prompt in PROMPTS])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    assert scorer.score([]).log_probs.shape == (0, 30)


def test_a_model_without_such_a_cache_reads_rows(monkeypatch, caplog):
    model = make_model("mistral").eval()
    labels = many_labels(40)
    scorer = make_scorer(model, labels, "cache")
    monkeypatch.setattr(
        CachedReader, "_forward", lambda *_: (_ for _ in ()).throw(TypeError("no such cache"))
    )
    with caplog.at_level(logging.WARNING):
        got = scorer.log_probs(PROMPTS)
    assert "one row each" in caplog.text and scorer._branches_work is False
    torch.testing.assert_close(got, separate_rows(40), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("path", ["engine", "cache"])
def test_out_of_memory_reads_fewer_texts_at_once_or_ends(path, monkeypatch):
    model = make_model("mistral").eval()
    labels = many_labels(40)
    scorer = make_scorer(model, labels, path)
    scorer._branches_work = True
    read, tried = PATHS[path].__call__, []

    def tight(reader, texts, nodes):
        if not nodes[0]:
            tried.append(len(texts))
            if len(texts) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return read(reader, texts, nodes)

    monkeypatch.setattr(PATHS[path], "__call__", tight)
    if path == "engine":
        got = scorer.log_probs(PROMPTS)
        torch.testing.assert_close(got, separate_rows(40), rtol=1e-5, atol=1e-5)
        assert tried[0] == 5 and sum(n for n in tried if n <= 2) == 5
    else:
        with pytest.raises(SentiloraError, match="out of GPU memory while scoring 5 texts"):
            scorer.log_probs(PROMPTS)
        assert tried == [5]


def test_a_narrow_window_reads_rows_without_the_engine():
    model = make_model("mistral", sliding_window=7).eval()
    labels = many_labels(40)
    scorer = make_scorer(model, labels, "cache")
    assert scorer.tree is not None
    got = scorer.log_probs(PROMPTS)
    with torch.inference_mode():
        assert not scorer._supports_branches(PROMPTS)
    torch.testing.assert_close(got, by_label(model, PROMPTS, labels), rtol=1e-5, atol=2e-5)


def test_a_window_wider_than_every_path_is_none():
    """All columns of a cache together may be wider than the window; no path is."""
    model = make_model("mistral", sliding_window=45).eval()
    labels = many_labels(60)
    scorer = make_scorer(model, labels, "cache")
    assert scorer.tree is not None
    got = scorer.log_probs(PROMPTS)
    with torch.inference_mode():
        assert scorer._supports_branches(PROMPTS) and scorer.tree.num_inner > 100
    torch.testing.assert_close(got, by_label(model, PROMPTS, labels), rtol=1e-5, atol=2e-5)
