"""Whether a model's structure fits the fast engine, before it has weights."""

import torch
from tiny_models import KINDS, VOCABULARY, add_lora, installed, make_model
from transformers import GPT2Config, GPT2LMHeadModel

from sentilora.models.fast_path import why_not_fast


def test_a_structure_fits_or_the_reason_is_named():
    for config_class, model_class, extra in KINDS.values():
        config = config_class(
            hidden_size=48, intermediate_size=88, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=12, vocab_size=VOCABULARY, **extra,
        )  # fmt: skip
        with torch.device("meta"):
            model = add_lora(model_class(config).requires_grad_(False))
        assert why_not_fast(model) is None
        del model.get_base_model().model.rotary_emb
        assert why_not_fast(model) == "it has no rotary embedding of its own"
    with torch.device("meta"):
        other = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=48, n_layer=2, n_head=4))
    assert why_not_fast(other) == "its layers are of another structure"


def test_a_model_with_the_engine_gets_no_second():
    model = make_model("mistral")
    installed(model)
    assert why_not_fast(model) == "it has fast layers already"
