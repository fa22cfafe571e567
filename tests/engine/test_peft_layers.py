"""Which layers do nothing but a linear product and one plain LoRA."""

import torch
from peft import LoraConfig
from test_lora import make_group

from sentilora.engine.peft_layers import is_plain


def test_what_the_formula_does_not_cover_is_not_plain():
    cases = {
        "lora": ({}, True),
        "rslora": ({"use_rslora": True}, True),
        "dora": ({"use_dora": True}, False),
        "a bias of B": ({"lora_bias": True}, False),
    }
    for name, (options, expected) in cases.items():
        _, _, group = make_group(biases=(True, True, True), **options)
        assert [is_plain(module) for module in group.frozen.modules] == [expected] * 3, name
    assert is_plain(torch.nn.Linear(2, 2))
    assert not is_plain(torch.nn.Conv1d(2, 2, 1))


def test_two_active_adapters_are_not_plain():
    model, _, group = make_group()
    model.add_adapter("second", LoraConfig(target_modules=["one"]))
    assert all(map(is_plain, group.frozen.modules))
    model.base_model.set_adapter(["default", "second"])
    assert [is_plain(module) for module in group.frozen.modules] == [False, True, True]
