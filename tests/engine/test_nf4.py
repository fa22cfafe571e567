"""Decoding NF4 against its definition; kept weights against those decoded at each use."""

import gc
import weakref

import pytest
import torch
from tiny_models import (
    CASES,
    add_lora,
    assert_equal,
    installed,
    make_base,
    make_model,
    packed_gradients,
)

from sentilora.engine.nf4 import FrozenLinears, Weights, decode

rounds = pytest.mark.filterwarnings("ignore:.*erge lora module to 4-bit linear:UserWarning")
# Dettmers et al. 2023, appendix E: the numbers of a 4-bit NormalFloat.
NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
]  # fmt: skip


def make_linear(num_in, num_out, *, nested=True, blocksize=64):
    from sentilora.models.four_bits import import_bitsandbytes

    bitsandbytes = import_bitsandbytes()
    torch.manual_seed(0)
    linear = bitsandbytes.nn.Linear4bit(num_in, num_out, bias=False, quant_type="nf4")
    linear.weight = bitsandbytes.nn.Params4bit(
        torch.randn(num_out, num_in),
        requires_grad=False,
        compress_statistics=nested,
        blocksize=blocksize,
        quant_type="nf4",
    )
    return linear.to("cpu")


def by_definition(linear):
    """Two weights in a byte, the first in its high half; a block's numbers times its magnitude."""
    state = linear.weight.quant_state
    packed = linear.weight.data.flatten().to(torch.int64)
    numbers = torch.tensor(NF4)[torch.stack([packed >> 4, packed & 15], 1).flatten()]
    numbers = numbers[: state.shape.numel()]
    magnitudes = state.absmax
    if state.nested:
        second = state.state2
        coarse = second.absmax.repeat_interleave(second.blocksize)[: len(magnitudes)]
        magnitudes = second.code[magnitudes.long()] * coarse + state.offset
    spread = magnitudes.repeat_interleave(state.blocksize)[: len(numbers)]
    return (numbers * spread).view(state.shape)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("shape, blocksize", [((64, 3), 64), ((192, 20), 64), ((128, 5), 128)])
def test_decoding_is_the_definition(shape, blocksize, nested):
    linear = make_linear(*shape, nested=nested, blocksize=blocksize)
    assert linear.weight.quant_state.nested == nested
    wide = torch.full((shape[1], shape[0] + 5), 7.0)
    decode(linear, wide[:, : shape[0]])
    assert torch.equal(wide[:, : shape[0]], by_definition(linear))
    assert (wide[:, shape[0] :] == 7).all()


@pytest.mark.parametrize("shape", [(48, 88), (40, 5), (10, 7)])
def test_decoding_other_widths_is_bitsandbytes(shape):
    """Blocks that cross rows: on CPUs bitsandbytes 0.50.2 reads a wrong magnitude for most of them,
    and so does the plain path; the engine must do the same."""
    from bitsandbytes.functional import dequantize_4bit

    linear = make_linear(*shape)
    out = torch.empty(shape[1], shape[0])
    decode(linear, out)
    assert torch.equal(out, dequantize_4bit(linear.weight.data, linear.weight.quant_state))


def test_other_weights_are_copied():
    linear = torch.nn.Linear(6, 4)
    out = torch.empty(4, 6, dtype=torch.bfloat16)
    decode(linear, out)
    assert torch.equal(out, linear.weight.detach().bfloat16())


def make_groups():
    layer = torch.nn.ModuleList([make_linear(64, 8), make_linear(64, 24), make_linear(64, 8)])
    return [FrozenLinears(layer, "01"), FrozenLinears(layer, "2")]


def whole(weights, frozen, dtype=torch.float32, room=0):
    """A group's weights, and whether they were decoded just now."""
    ((outputs, weight, decoded),) = weights.parts_of(frozen, dtype, room)
    assert outputs == slice(0, frozen.num_out)
    return weight, decoded


def test_kept_weights_are_decoded_once_and_others_share_a_buffer():
    weights = Weights()
    lasting, passing = make_groups()
    weights.keep(lasting)
    for frozen in (lasting, passing):
        expected = torch.cat([by_definition(linear) for linear in frozen.linears])
        first, decoded = whole(weights, frozen)
        assert decoded and torch.equal(first, expected)
        second, decoded = whole(weights, frozen)
        assert torch.equal(second, expected)
        # Each uses its memory again, and only the kept weights were not decoded again.
        assert second.data_ptr() == first.data_ptr() and decoded == (frozen is passing)
    assert whole(weights, lasting)[0].shape == (32, 64)
    assert whole(weights, lasting, torch.bfloat16)[0].dtype == torch.bfloat16
    assert whole(weights, lasting, torch.bfloat16, 64)[0].shape == (32, 128)
    weights.forget()
    assert whole(weights, lasting)[1] and whole(weights, lasting)[1]


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
@pytest.mark.parametrize("nf4", [True, False])
def test_kept_weights_give_the_bits_of_weights_decoded_at_each_use(kind, nf4):
    model = make_model(kind, nf4=nf4, dropout=0.2)
    engine = installed(model)
    rows, labels = CASES["odd lengths"]
    expected = packed_gradients(model, rows, labels, dropout_seed=5)
    num_groups = 0
    for layer in engine.layers:
        for group in layer.fast.groups.values():
            group.keep()
            num_groups += 1
        for _ in range(2):  # decoded now, and used again
            got = packed_gradients(model, rows, labels, dropout_seed=5)
            assert_equal(got, expected, num=42)
    assert num_groups == 4 + 4 + 5


@rounds
@pytest.mark.parametrize("nf4", [True, False])
@pytest.mark.parametrize("safe", [True, False])
def test_kept_weights_follow_merging(nf4, safe):
    """Merging replaces a 4-bit weight and writes into any other; versions do not show either."""
    model = make_model("mistral", nf4=nf4)
    model.eval()
    engine = installed(model)
    group = engine.layers[0].fast.groups["qkv"]
    group.keep()
    seen = []

    def kept_is_true():
        engine.refresh()
        weight = whole(engine.weights, group.frozen)[0].clone()
        true = torch.empty_like(weight)
        for linear, outputs in zip(group.frozen.linears, group.outputs, strict=True):
            decode(linear, true[outputs])
        assert torch.equal(weight, true)
        seen.append(weight)

    kept_is_true()
    model.merge_adapter(safe_merge=safe)
    kept_is_true()
    model.unmerge_adapter()
    kept_is_true()
    assert len(seen) == 3 and not torch.allclose(seen[0], seen[1])


@rounds
def test_a_kept_weight_is_not_mistaken_for_a_later_one_at_its_address():
    """After merging and unmerging, the weight is another object. If the first one had been freed,
    the new one could have its address."""
    model = add_lora(make_base("mistral", nf4=True)).eval()
    engine = installed(model)
    group = engine.layers[0].fast.groups["o"]
    group.keep()
    whole(engine.weights, group.frozen)
    first = weakref.ref(group.frozen.linears[0].weight)
    model.merge_adapter()
    model.unmerge_adapter()
    engine.refresh()
    assert first() is not None and first() is not group.frozen.linears[0].weight
    got, decoded = whole(engine.weights, group.frozen)
    true = torch.empty_like(got)
    decode(group.frozen.linears[0], true)
    assert decoded and torch.equal(got, true)
    gc.collect()
    assert first() is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_new_dtype_is_seen(dtype):
    """`model.double()` puts new data into the same parameters and leaves their versions."""
    model = make_model("qwen2").eval()
    engine = installed(model)
    engine.keep_weights()
    group = engine.layers[0].fast.groups["qkv"]
    before = whole(engine.weights, group.frozen)[0].clone()
    model.to(dtype)
    for linear in group.frozen.linears:
        linear.weight.data = linear.weight.data + 1
    engine.refresh()
    assert group.bias.dtype == dtype
    assert torch.allclose(whole(engine.weights, group.frozen, dtype)[0].float(), before + 1)
