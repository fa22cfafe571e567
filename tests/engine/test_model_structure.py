"""Which models the engine does not fit: they stay as they were, and the log says why."""

import copy
import logging

import pytest
import torch
from peft import IA3Config, get_peft_model
from tiny_models import CASES, VOCABULARY, add_lora, make_base, plain_logits, state_of
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from sentilora.engine.layer import FastLayer
from sentilora.engine.swap import install

ROWS, _ = CASES["odd lengths"]
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12,
    "max_position_embeddings": 256,
}  # fmt: skip


def gemma():
    return GemmaForCausalLM(GemmaConfig(**SMALL))


def gemma2():
    return Gemma2ForCausalLM(Gemma2Config(**SMALL))


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=48, n_layer=3, n_head=4, n_positions=256)
    )


def another_activation():
    return make_base("llama", hidden_act="gelu")


def attention_dropout():
    return make_base("mistral", attention_dropout=0.1)


@pytest.mark.parametrize(
    "make, targets, reason",
    [
        (gemma, None, "its norm is GemmaRMSNorm"),
        (gemma2, None, "another structure"),
        (gpt2, ["c_attn"], "another structure"),
        (another_activation, None, "a layer's outputs differ by"),
        (attention_dropout, None, "it drops attention weights"),
    ],
)
@pytest.mark.parametrize("mode", ["as attached", "train", "eval"])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
def test_other_models_fall_back_and_say_why(make, targets, reason, mode, caplog):
    model = add_lora(make().requires_grad_(False).eval(), **({"target_modules": targets} if targets
                                                            else {}))  # fmt: skip
    if mode != "as attached":
        model.train(mode == "train")
    logits = plain_logits(copy.deepcopy(model).eval(), ROWS[0])
    before = state_of(model)
    with caplog.at_level(logging.WARNING, "sentilora.engine.swap"):
        assert install(model) is None
    records = [record for record in caplog.records if record.name == "sentilora.engine.swap"]
    assert [record.levelname for record in records] == ["WARNING"]
    assert reason in caplog.text and "the plain path runs" in caplog.text
    assert state_of(model) == before
    assert torch.equal(plain_logits(model.eval(), ROWS[0]), logits)
    assert not any(isinstance(module, FastLayer) for module in model.modules())


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"modules_to_save": ["input_layernorm"]},
    ],
)
def test_what_trains_more_than_lora_matrices_falls_back(options, caplog):
    """Otherwise their gradients would silently be missing; newly attached they change no output."""
    lora = {"target_modules": ["q_proj", "v_proj"], **options}
    model = add_lora(make_base("qwen2"), **lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    before = state_of(model)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(trained) > 3 * 2 * 2
    with caplog.at_level(logging.WARNING, "sentilora.engine.swap"):
        assert install(model) is None
    assert "the plain path runs" in caplog.text
    assert state_of(model) == before


def test_a_base_that_is_trained_itself_falls_back():
    base = make_base("mistral")
    assert install(base).remove() is None
    base.model.layers[1].mlp.up_proj.weight.requires_grad_()
    assert install(base) is None


def test_another_kind_of_adapter_falls_back():
    config = IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    )  # fmt: skip
    assert install(get_peft_model(make_base("mistral"), config)) is None
