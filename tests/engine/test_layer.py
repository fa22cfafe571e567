"""Packed passes against PEFT's own path, row by row: losses and every adapter gradient."""

import pytest
import torch
from tiny_models import (
    CASES,
    KINDS,
    assert_close,
    assert_equal,
    gradients,
    installed,
    make_model,
    make_rows,
    packed_gradients,
    plain_gradients,
    plain_logits,
    plain_losses,
    weights_of,
)

from sentilora.engine import lora
from sentilora.engine.dropout import drop
from sentilora.engine.segments import Segment, lay_out, share_prefix
from sentilora.engine.swap import packed_logits
from sentilora.scoring.batching import pack_answers, packed_answer_loss, plan_tokens

# Relative; float64 is no better than this, for norms and rotary embedding are float32 on both paths
# (3e-6 and 1e-6 were measured).
TOLERANCE = {torch.float32: 1e-5, torch.float64: 4e-6}
LAYERS, MATRICES = 3, 2 * 7


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["float32", "float64", "nf4"])
def test_packed_equals_plain(kind, weights):
    nf4, dtype = weights == "nf4", torch.float64 if weights == "float64" else torch.float32
    model = make_model(kind, dtype, nf4=nf4)
    expected = {name: plain_gradients(model, *case) for name, case in CASES.items()}
    installed(model)
    for name, case in CASES.items():
        got = packed_gradients(model, *case)
        assert_close(got, expected[name], TOLERANCE[dtype], num=LAYERS * MATRICES)
    assert len(expected) == 8


@pytest.mark.parametrize("kind", ["mistral", "qwen2"])
def test_widths_that_are_no_multiple_of_nf4_blocks(kind):
    """Hidden 48, so that blocks of 64 cross rows."""
    sizes = {"hidden_size": 48, "intermediate_size": 88, "head_dim": 12}
    model = make_model(kind, nf4=True, **sizes)
    expected = plain_gradients(model, *CASES["odd lengths"])
    installed(model)
    got = packed_gradients(model, *CASES["odd lengths"])
    assert_close(got, expected, 1e-5, num=LAYERS * MATRICES)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_few_layers(num_layers):
    model = make_model("mistral", num_layers=num_layers)
    expected = plain_gradients(model, *CASES["odd lengths"])
    installed(model)
    got = packed_gradients(model, *CASES["odd lengths"])
    assert_close(got, expected, 1e-5, num=num_layers * MATRICES)


@pytest.mark.parametrize(
    "targets",
    [["q_proj", "v_proj"], ["down_proj"], ["o_proj", "up_proj"], ["q_proj"], ["k_proj"],
     ["gate_proj"]],
)  # fmt: skip
def test_adapters_on_some_projections(targets):
    model = make_model("qwen2", lora={"target_modules": targets})
    expected = plain_gradients(model, *CASES["odd lengths"])
    installed(model)
    got = packed_gradients(model, *CASES["odd lengths"])
    assert_close(got, expected, 1e-5, num=LAYERS * 2 * len(targets))
    if len(targets) == 1:
        again = packed_gradients(model, *CASES["odd lengths"], checkpoint_layers=3)
        assert_equal(again, got, num=LAYERS * 2)


@pytest.mark.parametrize(
    "options",
    [
        {"rank_pattern": {"k_proj": 7, "up_proj": 2}, "alpha_pattern": {"v_proj": 20}},
        {"use_rslora": True},
        {"layers_to_transform": [1]},
        {"r": 16},
    ],
)
def test_ranks_scalings_and_layers_of_their_own(options):
    model = make_model("llama", lora=options)
    expected = plain_gradients(model, *CASES["odd lengths"])
    installed(model)
    num_layers = 1 if "layers_to_transform" in options else LAYERS
    got = packed_gradients(model, *CASES["odd lengths"])
    assert_close(got, expected, 1e-5, num=num_layers * MATRICES)


def test_a_row_of_one_token():
    """Its softmax is 1 for any query and key: their gradients are only rounding errors."""
    model = make_model("mistral")
    rows, labels = make_rows([2, 2, 9], [1, 1, 2], shared=1)
    with torch.no_grad():
        expected = plain_losses(model, rows, labels)
    installed(model)
    for row, label, loss in zip(rows, labels, expected, strict=True):
        answers = pack_answers([row], [label], [1.0], "cpu")
        with torch.no_grad():
            got = packed_answer_loss(model, answers.packed, answers.targets_A, answers.weights_A)
        assert abs(got - loss) <= 1e-5 * loss
    together = packed_gradients(model, rows, labels)
    assert_close(together, plain_gradients(model, rows, labels), 1e-5, num=LAYERS * MATRICES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["mistral", "qwen3"])
def test_half_precision_errs_at_most_twice_as_much_as_plain(kind, dtype):
    """Both against float32 with the same rounded weights; adapters are float32 throughout."""
    rows, labels = CASES["odd lengths"]
    model = make_model(kind)
    adapters = [p for p in model.parameters() if p.requires_grad]
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype).float()
    _, exact = plain_gradients(model, rows, labels)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)
    assert {p.dtype for p in adapters} == {torch.float32} and len(adapters) == LAYERS * MATRICES
    weights = torch.tensor(weights_of(rows))
    with torch.autocast("cpu", dtype=dtype):
        loss = (plain_losses(model, rows, labels).float() * weights).sum()
    _, plain = gradients(model, loss)
    installed(model)
    answers = pack_answers(rows, labels, weights_of(rows), "cpu")
    with torch.autocast("cpu", dtype=dtype):
        loss = packed_answer_loss(model, answers.packed, answers.targets_A, answers.weights_A)
    _, ours = gradients(model, loss)

    def error(ours):
        return sum((ours[n] - g).square().sum() / g.square().sum() for n, g in exact.items())

    assert 0 < error(ours) <= 4 * error(plain) < 0.2 * len(exact)  # squares


# --- every plan ----------------------------------------------------------------------------------

ROWS = make_rows([17, 8, 31, 13, 11, 40, 9, 9, 22], [2, 3, 2, 4, 1, 2, 2, 2, 3])


@pytest.mark.parametrize("max_tokens", [1, 20, 45, 90])
@pytest.mark.parametrize("options", [{}, {"round_up": True}, {"checkpoint_layers": 2}])
def test_every_plan_equals_one_pass(max_tokens, options):
    rows, labels = ROWS
    model = make_model("mistral")
    installed(model)
    expected = packed_gradients(model, rows, labels)
    plan = plan_tokens([len(row) for row in rows], max_tokens)
    assert len(plan) >= {1: 9, 20: 6, 45: 4, 90: 2}[max_tokens]
    loss, weights, total = 0.0, weights_of(rows), {}
    for chosen in plan:
        answers = pack_answers(
            *([column[i] for i in chosen] for column in (rows, labels, weights)), "cpu", **options
        )
        part, named = gradients(
            model,
            packed_answer_loss(model, answers.packed, answers.targets_A, answers.weights_A),
        )
        loss += part
        total = {n: total.get(n, 0) + g for n, g in named.items()}
    assert_close((loss, total), expected, 1e-5, num=LAYERS * MATRICES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shared_beginning_equals_rows_of_their_own(kind):
    rows, _ = ROWS
    num_answers = [3, 3, 5, 1, 1, 2, 2, 2, 3]
    model = make_model(kind)
    installed(model)
    shared = lay_out(share_prefix(rows, num_answers), "cpu")
    separate = lay_out(
        [Segment(row, None, num) for row, num in zip(rows, num_answers, strict=True)], "cpu"
    )
    assert shared.num_tokens == separate.num_tokens - 8 * 5
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(sum(num_answers), 97, generator=generator)
    results = [
        gradients(model, (packed_logits(model, packed) * weights).sum())
        for packed in (shared, separate)
    ]
    assert_close(*results, 1e-4, num=LAYERS * MATRICES)


@pytest.mark.parametrize("kind", KINDS)
def test_answer_rows_only_equal_the_whole_last_layer(kind):
    rows, _ = ROWS
    model = make_model(kind)
    installed(model)
    num_answers = [1, 3, 2, 1, 1, 2, 7, 2, 3]
    some = lay_out([Segment(r, None, n) for r, n in zip(rows, num_answers, strict=True)], "cpu")
    every = lay_out([Segment(row, None, len(row)) for row in rows], "cpu")
    assert len(every.answer_rows_A) == every.num_tokens == some.num_tokens
    weights = torch.randn(len(some.answer_rows_A), 97, generator=torch.Generator().manual_seed(0))
    got = gradients(model, (packed_logits(model, some) * weights).sum())
    logits = packed_logits(model, every)[some.answer_rows_A]
    assert_close(got, gradients(model, (logits * weights).sum()), 1e-4, num=LAYERS * MATRICES)


@pytest.mark.parametrize("name", CASES)
def test_rounded_up_equals_exact(name):
    model = make_model("llama")
    installed(model)
    got = packed_gradients(model, *CASES[name], round_up=True)
    assert_close(got, packed_gradients(model, *CASES[name]), 1e-5, num=LAYERS * MATRICES)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("nf4", [False, True])
def test_layers_computed_twice_give_the_same_bits(kind, dropout, nf4):
    model = make_model(kind, dropout=dropout, nf4=nf4)
    installed(model)
    rows, labels = CASES["odd lengths"]
    expected = packed_gradients(model, rows, labels, dropout_seed=9)
    for num in range(1, LAYERS + 2):
        got = packed_gradients(model, rows, labels, dropout_seed=9, checkpoint_layers=num)
        assert_equal(got, expected, num=LAYERS * MATRICES)
    other = packed_gradients(model, rows, labels, dropout_seed=10)
    assert torch.equal(other[0], expected[0]) == (dropout == 0.0)


# --- sliding windows -----------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 4, 9, 16, 500])
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_a_sliding_window_is_honoured(window, attn_implementation):
    options = {"sliding_window": window, "attn_implementation": attn_implementation}
    model = make_model("mistral", **options)
    engine = installed(model)
    assert [layer.fast.window for layer in engine.layers] == [window] * LAYERS
    logits_without = make_model("mistral")(input_ids=torch.tensor([ROWS[0][2]])).logits[0]
    logits = plain_logits(model, ROWS[0][2])
    assert torch.allclose(logits, logits_without, atol=1e-4) == (window == 500)
    if window == 1:  # a softmax over one key: no gradients for queries and keys
        packed = lay_out(share_prefix(ROWS[0], [1] * 9), "cpu")
        with torch.no_grad():
            expected = torch.stack([plain_logits(model, row)[-1] for row in ROWS[0]])
            torch.testing.assert_close(packed_logits(model, packed), expected)
        return
    expected = plain_gradients(model, *ROWS)
    for options in ({}, {"round_up": True}):
        got = packed_gradients(model, *ROWS, **options)
        assert_close(got, expected, 1e-5, num=LAYERS * MATRICES)


def test_windows_of_some_layers():
    """Qwen2's way: full attention below, a window above."""
    options = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}
    model = make_model("qwen2", **options)
    engine = installed(model)
    assert [layer.fast.window for layer in engine.layers] == [None, None, 5]
    expected = plain_gradients(model, *ROWS)
    assert_close(packed_gradients(model, *ROWS), expected, 1e-5, num=LAYERS * MATRICES)


# --- dropout -------------------------------------------------------------------------------------


class FixedMask(torch.nn.Module):
    """Replaces PEFT's dropout by a mask that was drawn elsewhere, at some rows of the input."""

    def __init__(self, mask_TD, p, rows=slice(None)):
        super().__init__()
        self.mask_TD, self.p, self.rows = mask_TD, p, rows

    def forward(self, x):
        mask = torch.ones_like(x)
        mask[0, self.rows] = self.mask_TD
        return x * mask / (1 - self.p)


@pytest.mark.parametrize("kind", KINDS)
def test_with_dropout_packed_equals_plain_with_the_same_masks(kind, monkeypatch):
    """PEFT's own forward gets the masks that the engine drew: every gradient agrees."""
    p = 0.4
    model = make_model(kind, dropout=p)
    engine = installed(model)
    row, label = make_rows([23], [4])
    drawn, order = {}, []

    def spy(x, probability, seed, in_place=False):
        mask = drop(torch.ones_like(x), probability, seed)
        assert seed not in drawn or torch.equal(drawn[seed], mask)
        drawn[seed] = mask
        order.append(seed)
        return drop(x, probability, seed, in_place)

    monkeypatch.setattr(lora, "drop", spy)
    got = packed_gradients(model, row, label, dropout_seed=77)
    monkeypatch.undo()
    # Once per adapter forward; backward once for A, and once for the input of every group except
    # the first, whose input is the embedding.
    assert len(drawn) == 7 * LAYERS and len(order) == 3 * 7 * LAYERS - 3
    answers = torch.arange(22)[-4:]
    num_replaced = 0
    for layer in engine.layers:
        for name, group in layer.fast.groups.items():
            rows = answers if layer.fast.is_last and name != "kv" else slice(None)
            for number, module in enumerate(group.frozen.modules):
                mask = drawn[77 + group.mask_number + number]
                module.lora_dropout["default"] = FixedMask(mask, p, rows)
                num_replaced += 1
    assert num_replaced == 7 * LAYERS
    engine.remove()
    assert_close(got, plain_gradients(model, row, label), 1e-5, num=LAYERS * MATRICES)
