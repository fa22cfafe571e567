"""The engine in a model and out of it: what it changes, what it follows, what it leaves alone."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from tiny_models import (
    CASES,
    KINDS,
    add_lora,
    assert_close,
    installed,
    make_base,
    make_model,
    packed_gradients,
    plain_gradients,
    plain_logits,
    randomize_B,
    state_of,
)

from sentilora.engine.layer import FastLayer
from sentilora.engine.segments import lay_out, share_prefix
from sentilora.engine.swap import install, packed_logits

rounds = pytest.mark.filterwarnings("ignore:.*erge lora module to 4-bit linear:UserWarning")
ROWS, LABELS = CASES["odd lengths"]
NUM = 3 * 2 * 7


def logits_of(model, rows=ROWS):
    """Logits at the last tokens: a pass of all rows, and each row by the model's own forward."""
    packed = lay_out(share_prefix(rows, [1] * len(rows)), "cpu")
    with torch.no_grad():
        ours = packed_logits(model, packed)
        theirs = torch.stack([plain_logits(model, row)[-1] for row in rows])
    assert len(ours) == len(rows)
    return ours, theirs


def assert_follows(model, engine):
    """The engine computes what the model's own forward does, as it is now; returns the logits."""
    assert engine.is_usable()
    engine.refresh()
    ours, theirs = logits_of(model)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    return theirs


# --- what it fits --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["as attached", "train", "eval"])
def test_only_the_layers_classes_change_and_come_back(kind, mode):
    model = make_model(kind)
    if mode != "as attached":
        model.train(mode == "train")
    other = copy.deepcopy(model)
    layers = model.base_model.model.model.layers
    kind_of_layer = type(layers[0])
    own = dict(vars(kind_of_layer))
    before, keys = state_of(model), list(get_peft_model_state_dict(model))
    logits = plain_logits(model, ROWS[2])
    engine = install(model)
    modules, parameters = state_of(model)
    assert parameters == before[1] and list(get_peft_model_state_dict(model)) == keys
    assert len(keys) == NUM
    changed = [
        (name, type_now, type_before)
        for (name, type_now, *rest), (_, type_before, *rest_before) in zip(
            modules, before[0], strict=True
        )
        if (type_now, *rest) != (type_before, *rest_before)
    ]
    assert [name.rpartition(".")[2] for name, *_ in changed] == ["0", "1", "2"]
    for _, now, then in changed:
        assert issubclass(now, FastLayer) and issubclass(now, then) and then is kind_of_layer
    # Called without a pass, a layer works as before; other models of the class are unchanged.
    assert torch.equal(plain_logits(model, ROWS[2]), logits)
    assert dict(vars(kind_of_layer)) == own
    assert type(other.base_model.model.model.layers[0]) is kind_of_layer
    engine.remove()
    assert state_of(model) == before
    assert torch.equal(plain_logits(model, ROWS[2]), logits)


def test_what_a_model_is_called_does_not_matter():
    model = make_base("mistral")
    model.config.model_type = "novelty"
    for module in model.modules():
        kind = type(module)
        if kind.__module__.startswith("transformers"):
            module.__class__ = type(kind.__name__.replace("Mistral", "Novel"), (kind,), {})
    assert type(model.model.layers[0]).__name__ == "NovelDecoderLayer"
    model = add_lora(model)
    engine = installed(model)
    expected = plain_gradients(model, ROWS, LABELS)
    assert_close(packed_gradients(model, ROWS, LABELS), expected, 1e-5, num=NUM)
    engine.remove()


def test_a_second_engine_is_refused_until_the_first_is_removed(caplog):
    model = make_model("mistral").eval()
    engine = installed(model)
    assert install(model) is None and "has fast layers already" in caplog.text
    assert_follows(model, engine)
    engine.remove()
    engine = installed(model)
    assert_follows(model, engine)


@pytest.mark.parametrize("nf4", [False, True])
def test_an_adapter_saved_with_the_engine_is_a_stock_one(nf4, tmp_path):
    model = make_model("mistral", nf4=nf4).eval()
    engine = installed(model)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    stock = PeftModel.from_pretrained(make_base("mistral", nf4=nf4), str(tmp_path)).eval()
    names = dict(stock.named_parameters())
    mine = dict(model.named_parameters())
    assert names.keys() == mine.keys() and len(names) >= NUM
    assert all(torch.equal(names[name], mine[name]) for name in names)
    ours, theirs = logits_of(model)
    stock_logits = torch.stack([plain_logits(stock, row)[-1] for row in ROWS])
    assert torch.equal(theirs, stock_logits)
    torch.testing.assert_close(ours, stock_logits, rtol=1e-4, atol=1e-5)
    # and the other way round: what stock PEFT saved, on the engine
    engine.remove()
    assert torch.equal(logits_of(installed_model(stock))[0], ours)


def installed_model(model):
    installed(model)
    return model


# --- what it follows -----------------------------------------------------------------------------


@pytest.mark.parametrize("nf4", [False, True])
def test_disabling_the_adapter(nf4):
    model = make_model("qwen2", nf4=nf4).eval()
    engine = installed(model)
    with_adapter = assert_follows(model, engine)
    with model.disable_adapter():
        without = assert_follows(model, engine)
    assert not torch.allclose(without, with_adapter, atol=1e-2)
    assert torch.equal(assert_follows(model, engine), with_adapter)


@pytest.mark.parametrize("attached", ["before", "after"])
def test_a_second_adapter(attached):
    """Of other projections, ranks and scaling; also one that PEFT puts in after the engine."""
    model = make_model("llama", lora={"target_modules": ["q_proj", "v_proj"]})
    second = {"name": "second", "r": 3, "lora_alpha": 11, "seed": 5,
              "target_modules": ["q_proj", "k_proj", "down_proj"]}  # fmt: skip
    if attached == "before":
        add_lora(model, **second)
    engine = installed(model)
    first = assert_follows(model, engine)
    if attached == "after":
        add_lora(model, **second)
    model.set_adapter("second")
    assert not torch.allclose(assert_follows(model, engine), first, atol=1e-2)
    got = packed_gradients(model, ROWS, LABELS)
    assert_close(got, plain_gradients(model, ROWS, LABELS), 1e-5, num=3 * 2 * 3)
    model.set_adapter("default")
    assert torch.equal(assert_follows(model, engine), first)
    got = packed_gradients(model, ROWS, LABELS)
    assert_close(got, plain_gradients(model, ROWS, LABELS), 1e-5, num=3 * 2 * 2)
    model.base_model.set_adapter(["default", "second"])
    assert not engine.is_usable()
    model.set_adapter("default")
    model.delete_adapter("second")
    assert torch.equal(assert_follows(model, engine), first)


def test_an_adapter_attached_behind_the_engine():
    """Installed on a bare base, the engine sees the adapter that it gets later."""
    base = make_base("mistral")
    engine = installed(base)
    without = assert_follows(base, engine)
    model = add_lora(base)
    assert not torch.allclose(assert_follows(model, engine), without, atol=1e-2)
    got = packed_gradients(model, ROWS, LABELS)
    assert_close(got, plain_gradients(model, ROWS, LABELS), 1e-5, num=NUM)


def test_new_values_of_an_adapter():
    model = make_model("mistral").eval()
    engine = installed(model)
    before = assert_follows(model, engine)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        randomize_B(model)
    assert not torch.allclose(assert_follows(model, engine), before, atol=1e-2)


@rounds
@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_merging(nf4, keep):
    model = make_model("qwen2", nf4=nf4).eval()
    engine = installed(model)
    if keep:
        engine.keep_weights()
    before = assert_follows(model, engine)
    model.merge_adapter()
    merged = assert_follows(model, engine)
    # Merging into four bits rounds again, coarsely.
    assert torch.allclose(merged, before, atol=1e-3) != nf4
    with model.disable_adapter():
        # PEFT unmerges at the next forward of its own, which a pass does not call.
        assert not engine.is_usable()
        plain_logits(model, ROWS[0])
        assert_follows(model, engine)
    assert_follows(model, engine)
    model.merge_adapter()
    assert_follows(model, engine)
    model.unmerge_adapter()
    after = assert_follows(model, engine)
    assert torch.allclose(after, before, atol=1e-3) != nf4


@rounds
@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("merge", [False, True])
def test_unloading(nf4, merge):
    model = make_model("qwen2", nf4=nf4).eval()
    engine = installed(model)
    engine.keep_weights()
    before = assert_follows(model, engine)
    base = model.merge_and_unload() if merge else model.unload()
    after = assert_follows(base, engine)
    assert torch.allclose(after, before, atol=1e-3) == (merge and not nf4)
    assert not any("lora" in name for name, _ in base.named_parameters())
    # and another adapter on it
    model = add_lora(base, seed=9).eval()
    assert not torch.allclose(assert_follows(model, engine), after, atol=1e-2)
    engine.remove()


@pytest.mark.parametrize(
    "options, usable", [({"use_dora": True}, False), ({"use_rslora": True}, True)]
)
def test_variants_are_right_or_not_usable(options, usable):
    """Attached after the engine was installed, which would refuse them."""
    base = make_base("mistral")
    engine = installed(base)
    model = add_lora(base, **options).eval()
    assert engine.is_usable() == usable
    if usable:
        assert_follows(model, engine)
        got = packed_gradients(model, ROWS, LABELS)
        assert_close(got, plain_gradients(model, ROWS, LABELS), 1e-5, num=NUM)


def test_trained_biases_are_seen_when_scoring(tmp_path):
    """An adapter with biases, loaded after the engine was installed, and not trained."""
    lora = {"target_modules": ["q_proj", "v_proj"], "bias": "all"}
    model = add_lora(make_base("qwen2"), **lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter += 1.0
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    base = make_base("qwen2")
    engine = installed(base)
    assert_follows(base, engine)
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    theirs = assert_follows(loaded, engine)
    assert torch.equal(theirs, logits_of(installed_model(model.requires_grad_(False).eval()))[1])


def test_8_bits_are_used_only_where_they_are_available(monkeypatch):
    from sentilora.engine import fp8
    from sentilora.errors import UsageError
    from sentilora.models.fast_path import install_engine
    from sentilora.models.runtime import Runtime

    assert "no multiples of 16" in installed(make_model("mistral")).use_8_bits()  # 88 wide
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    for fault in (None, "torch refuses them"):
        monkeypatch.setattr(fp8, "fault", lambda like, fault=fault: fault)
        engine = installed(make_model("mistral", **sizes))
        assert engine.use_8_bits() == fault and engine.uses_8_bits == (fault is None)
    monkeypatch.setattr(Runtime, "require_possible", lambda runtime: None)
    with pytest.raises(UsageError, match="is unavailable here: torch refuses them; leave it"):
        install_engine(make_model("mistral", **sizes), Runtime(base_matmul="fp8"))
