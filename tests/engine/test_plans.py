"""What a check decides before the weights are loaded is what training decides after.

The models are on torch's meta device and the GPU is a fake: only shapes and free bytes matter.
"""

import pytest
import torch
from fake_gpu import GIB, LENGTHS, LIMITS, OPTIMS, SHAPES, FakeGpu, engine_of, make_meta
from tiny_models import KINDS, VOCABULARY, add_lora, make_base

from sentilora.engine.memory import (
    Refusal,
    TrainingPlan,
    Workload,
    gpu_memory,
    least_bytes,
    plain_memory,
    plan_before_loading,
    plan_training,
)
from sentilora.engine.sizes import layer_sizes
from sentilora.engine.structure import find_layers, shape_of
from sentilora.engine.swap import Engine


@pytest.mark.parametrize("others", [500 * 2**20, 60 * GIB], ids=["empty card", "shared card"])
@pytest.mark.parametrize("name", SHAPES)
def test_check_and_train_decide_the_same(name, others, monkeypatch):
    model = make_meta(name)
    shape = shape_of(model)
    engine = engine_of(model, monkeypatch)
    element = engine.layers[0].input_layernorm.weight.element_size()
    plans, refusals = set(), 0
    for lengths in LENGTHS.values():
        for optim in OPTIMS:
            workload = Workload.of(lengths, 16, shape.num_trained, optim)
            for limit in (0.0, *LIMITS):
                gpu = FakeGpu(others)
                gpu.answer(monkeypatch)
                before = plan_before_loading(
                    gpu_memory("cuda"), shape, workload, element_size=element, nf4=True,
                    double_quantization=True, max_memory_gib=limit, has_kernels=True,
                )  # fmt: skip
                # Loading allocates the base in NF4 and the adapter with its gradients.
                gpu.allocated += shape.base_bytes(element, True, True) + 8 * shape.num_trained
                if isinstance(before, Refusal):
                    refusals += 1
                    with pytest.raises(MemoryError) as error:
                        engine.plan(workload, limit)
                    assert str(error.value) == str(before)
                    continue
                assert engine.plan(workload, limit) == str(before)
                after = TrainingPlan(
                    engine.max_tokens,
                    engine.max_score_tokens,
                    engine.checkpoint_layers,
                    engine.keep_layers,
                    len(engine.layers),
                    before.free_bytes,
                )
                assert after == before
                plans.add(after)
    assert len(plans) >= 3
    if name.startswith("7B"):
        assert refusals > 0 and {plan.checkpoint_layers for plan in plans} != {0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("double_quantization", [True, False])
def test_base_bytes_are_those_of_the_tensors(kind, double_quantization):
    """Counted over a quantized model's storages, and predicted from shapes alone."""
    model = make_base(kind, nf4=True, double_quantization=double_quantization)
    storages = {}
    for parameter in model.parameters():
        tensors = [parameter]
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            tensors += [state.absmax, state.code]
            if state.nested:
                tensors += [state.offset, state.state2.absmax, state.state2.code]
        for tensor in tensors:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    with torch.device("meta"):
        shape = shape_of(type(model)(model.config).requires_grad_(False))
    assert shape.base_bytes(4, True, double_quantization) == sum(storages.values())
    plain = sum(p.numel() for p in type(model)(model.config).parameters())
    assert shape.base_bytes(2, False, double_quantization) == 2 * plain


def test_a_shape_is_the_same_with_and_without_its_adapter():
    base = make_base("qwen3")
    alone = shape_of(base)
    model = add_lora(base)
    adapted = shape_of(model)
    assert adapted.linear_weights == alone.linear_weights and adapted.num_other == alone.num_other
    assert alone.num_trained == 0 and len(alone.linear_weights) == 3 * 7
    assert adapted.num_trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert {name: group.ranks for name, group in adapted.groups.items()} == {
        "qkv": (4, 4, 4), "o": (4,), "gate_up": (4, 4), "down": (4,),
    }  # fmt: skip
    engine = Engine(model, find_layers(model), 0.0)
    assert engine.sizes() == layer_sizes(adapted.groups, 4, has_kernels=False)


def test_a_model_without_fast_layers_has_a_shape_and_no_groups():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_embd=48, n_layer=3, n_head=4)
    with torch.device("meta"):
        shape = shape_of(GPT2LMHeadModel(config).requires_grad_(False))
    assert not shape.groups and (shape.num_layers, shape.hidden, shape.intermediate) == (3, 48, 192)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_plain_paths_estimate_adds_up(checkpointing):
    shape = shape_of(make_meta("tiny"))
    workload = Workload(1000.0, 200, shape.num_trained, "paged_adamw_8bit")
    estimate = plain_memory(
        shape, workload, pass_tokens=800, element_size=2, nf4=True, double_quantization=True,
        checkpointing=checkpointing,
    )  # fmt: skip
    assert estimate.trained == 10 * shape.num_trained
    assert estimate.weights == shape.base_bytes(2, True, True)
    layer = 800 * 2 * (8 * 256 + 4 * 512)
    assert estimate.activations == (6 * 800 * 2 * 256 + layer if checkpointing else 6 * layer)
    assert estimate.total == estimate.trained + estimate.weights + estimate.activations


def test_a_refusal_begins_one_byte_below_what_fits():
    shape = shape_of(make_meta("tiny"))
    workload = Workload(1000.0, 200, shape.num_trained, "adamw_torch")
    sizes = layer_sizes(shape.groups, 2, has_kernels=True)
    enough = least_bytes(200, shape.num_layers, sizes) + workload.state_bytes
    fits = plan_training(enough, sizes, shape.num_layers, workload)
    refused = plan_training(enough - 1, sizes, shape.num_layers, workload)
    assert isinstance(fits, TrainingPlan) and isinstance(refused, Refusal)
    assert refused.least_bytes == refused.free_bytes + 1
