"""How a step is split into passes, and how passes fit into memory: properties of any plan."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_models import KINDS, installed, make_model

from sentilora.engine.memory import (
    DECODE_TOKENS,
    LEAST_SCORE_TOKENS,
    PASS_TOKENS,
    RECOMPUTE,
    SCORE_TOKENS,
    GpuMemory,
    MemoryPlan,
    Refusal,
    TrainingPlan,
    Workload,
    least_bytes,
    plan_memory,
    plan_scoring,
    plan_training,
)
from sentilora.engine.sizes import LayerSizes
from sentilora.scoring.batching import plan_tokens

# Mistral-7B's in bfloat16, rank 16.
MISTRAL = LayerSizes(
    kept_per_token=2 * (2 * 4096 + 6144 + 2 * 4096 + 28672 + 7 * 16),
    input_per_token=2 * 4096,
    work_per_token=2 * (14336 + 6 * 4096),
    score_per_token=2 * (3 * 14336 + 6144 + 4 * 4096),
    keys_per_token=2 * 2 * 1024,
    weights=2 * 218_103_808,
    buffer=2 * 14336 * 4160,
)


@st.composite
def sizes(draw):
    small = draw(st.integers(1, 10_000))
    weights = draw(st.integers(1, 10**9))
    return LayerSizes(
        kept_per_token=small + draw(st.integers(0, 10**6)),
        input_per_token=small,
        work_per_token=draw(st.integers(1, 10**6)),
        score_per_token=1,
        keys_per_token=1,
        weights=weights,
        buffer=draw(st.integers(1, weights)),
    )


def bytes_of(plan: MemoryPlan, num_layers: int, sizes: LayerSizes) -> int:
    """What a plan takes, computed from the docstrings alone."""
    plain = num_layers - plan.checkpoint_layers
    per_token = plain * sizes.kept_per_token + plan.checkpoint_layers * sizes.input_per_token
    if plan.checkpoint_layers:  # one at a time is computed again
        per_token += sizes.kept_per_token
    total = plan.max_tokens * (per_token + sizes.work_per_token)
    total += plan.keep_layers * sizes.weights
    return total + (sizes.buffer if plan.keep_layers < num_layers else 0)


def cost_of(plan, step_tokens, longest, num_layers):
    """In tokens' worth of work, with as few passes as this plan's size allows."""
    num_passes = next(
        n
        for n in range(1, 10_000)
        if plan.max_tokens >= (step_tokens if n == 1 else 1.08 * step_tokens / n + longest / 8) - 1
    )
    again = plan.checkpoint_layers / num_layers
    decodes = (2 + again) * (1 - plan.keep_layers / num_layers)
    return step_tokens * (1 + RECOMPUTE * again) + num_passes * (
        decodes * DECODE_TOKENS + PASS_TOKENS
    )


LENGTHS = st.integers(16, 4096)
STEPS = st.integers(0, 100_000)
LAYERS = st.integers(1, 6)
FREE = st.integers(0, 10**11)


@given(FREE, STEPS, LENGTHS, LAYERS, sizes())
def test_a_plan_fits_by_its_own_formula(free, more, longest, num_layers, sizes):
    plan = plan_memory(free, longest + more, longest, num_layers, sizes)
    assume(plan is not None)
    assert bytes_of(plan, num_layers, sizes) <= free
    assert 0 < plan.pass_bytes <= bytes_of(plan, num_layers, sizes)
    assert plan.max_tokens >= longest
    assert 0 <= plan.checkpoint_layers <= num_layers and 0 <= plan.keep_layers <= num_layers
    assert all(isinstance(n, int) for n in (plan.max_tokens, plan.keep_layers))


@given(FREE, STEPS, LENGTHS, LAYERS, sizes())
def test_no_plan_only_where_not_one_row_fits(free, more, longest, num_layers, sizes):
    """The least that a row takes: everything computed twice, or with one layer, once."""
    least = min(
        bytes_of(MemoryPlan(longest, checkpointed, keep, 0), num_layers, sizes)
        for checkpointed in range(num_layers + 1)
        for keep in (0, num_layers)
    )
    assert least == least_bytes(longest, num_layers, sizes)
    plan = plan_memory(free, longest + more, longest, num_layers, sizes)
    assert (plan is not None) == (free >= least)


@given(FREE, st.integers(0, 10**10), STEPS, LENGTHS, LAYERS, sizes())
def test_more_memory_never_costs_more(free, extra, more, longest, num_layers, sizes):
    step = longest + more
    less = plan_memory(free, step, longest, num_layers, sizes)
    assume(less is not None)
    plan = plan_memory(free + extra, step, longest, num_layers, sizes)
    assert plan is not None
    assert cost_of(plan, step, longest, num_layers) <= cost_of(less, step, longest, num_layers)


def test_the_recipe_on_cards_of_every_size():
    """Steps of 16 × 318 tokens with up to 512: which savings come first, and which last."""
    plans = {
        gib: plan_memory(int(gib * 2**30), 6360, 512, 32, MISTRAL) for gib in (70, 40, 20, 10, 2, 1)
    }
    # All at once, nothing computed twice, every weight kept.
    assert (plans[70].max_tokens, plans[70].checkpoint_layers, plans[70].keep_layers) == (
        6360,
        0,
        32,
    )
    assert plans[40].checkpoint_layers == 0 and plans[40].max_tokens > 2000
    assert plans[2].checkpoint_layers > 0 and plans[2].max_tokens < 4000
    assert plans[1].keep_layers == 0
    costs = [cost_of(plan, 6360, 512, 32) for plan in plans.values()]
    assert costs == sorted(costs) and costs[0] == 6360 + PASS_TOKENS
    assert plan_memory(2**28, 6360, 512, 32, MISTRAL) is None


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_8bit", "paged_adamw_8bit"])
@given(FREE, STEPS, LENGTHS, LAYERS, sizes(), st.integers(0, 10**10))
def test_states_are_reserved_unless_they_page(
    optim, free, more, longest, num_layers, sizes, trained
):
    """States on the GPU leave less to plan with; paging ones go to the host before weights do."""
    workload = Workload((longest + more) / 1.25, longest, trained, optim)
    step = int(1.25 * workload.step_tokens)
    states = trained * (2 if "8bit" in optim else 8)
    plan = plan_training(free, sizes, num_layers, workload)
    on_gpu = plan_memory(free - states, step, longest, num_layers, sizes)
    expected, room = on_gpu, free - states
    if "paged" in optim:
        on_host = plan_memory(free, step, longest, num_layers, sizes)
        if on_host is None or not on_host.keep_layers or on_gpu is None:
            expected, room = on_host, free
    if expected is None:
        assert plan == Refusal(longest, least_bytes(longest, num_layers, sizes), room)
        assert plan.free_bytes < plan.least_bytes
        return
    assert isinstance(plan, TrainingPlan) and plan.free_bytes == room
    assert (plan.max_tokens, plan.checkpoint_layers, plan.keep_layers) == (
        expected.max_tokens,
        expected.checkpoint_layers,
        expected.keep_layers,
    )
    assert 0 < plan.max_score_tokens <= SCORE_TOKENS


@given(FREE, LAYERS, sizes())
def test_scoring_alone_keeps_what_a_pass_leaves(free, num_layers, sizes):
    plan = plan_scoring(free, sizes, num_layers)
    assert LEAST_SCORE_TOKENS <= plan.max_score_tokens <= SCORE_TOKENS
    used = sizes.buffer + plan.max_score_tokens * sizes.score_per_token
    assert 0 <= plan.keep_layers <= num_layers
    assert not plan.keep_layers or used + plan.keep_layers * sizes.weights <= free
    if plan.keep_layers < num_layers:
        assert used + (plan.keep_layers + 1) * sizes.weights > free


def test_usable_memory_honors_every_limit():
    gib = 2**30

    def usable(memory, limit=0.0):
        return (memory.usable(limit) + 100 * 2**20) / 0.97 / gib

    # 10 of 80 GiB are another process's; this one has allocated 20 and holds 2 more.
    memory = GpuMemory(80 * gib, 48 * gib, reserved=22 * gib, allocated=20 * gib)
    assert usable(memory) == pytest.approx(50)
    assert usable(memory, 40.0) == pytest.approx(20)
    assert usable(memory, 75.0) == pytest.approx(50)
    half = GpuMemory(80 * gib, 48 * gib, 22 * gib, 20 * gib, fraction=0.5)
    assert usable(half) == pytest.approx(20) and usable(half, 30.0) == pytest.approx(10)
    assert usable(memory.with_allocated(7 * gib)) == pytest.approx(43)
    assert memory.usable(10.0) < 0


# --- the sizes that plans are made of ------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_layers", [1, 3])
def test_sizes_are_those_of_the_tensors(kind, num_layers):
    """Hidden 48, 4 heads of 12 and 2 with keys, MLP 88, seven adapters of rank 4, float32."""
    engine = installed(make_model(kind, num_layers=num_layers))
    sizes = engine.sizes()
    qkv, gate_up = 48 + 2 * 24, 2 * 88
    assert sizes.kept_per_token == 4 * (2 * 48 + qkv + 2 * 48 + gate_up + 7 * 4)
    assert sizes.input_per_token == 4 * 48
    weights = [48 * 96, 48 * 48, 48 * 176, 88 * 48]
    assert sizes.weights == 4 * sum(weights) and sizes.buffer == 4 * max(weights)
    assert "passes of up to 2,048 tokens" in engine.plan(Workload(1000.0, 100, 10, "adamw_torch"))
    assert engine.keep_layers == num_layers


@pytest.mark.parametrize("kind", ["mistral", "qwen3"])
def test_what_is_kept_for_the_backward_pass_is_what_was_planned(kind):
    """Counts the bytes per token that autograd holds: for a layer computed twice, its input."""
    from tiny_models import make_rows

    from sentilora.scoring.batching import pack_answers, packed_answer_loss

    num_layers = 6
    model = make_model(kind, num_layers=num_layers)
    sizes = installed(model).sizes()
    rows, labels = make_rows([400], [2], shared=0)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def held(checkpoint_layers):
        storages = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage.nbytes(), tensor  # held, as autograd does
            return tensor

        answers = pack_answers(rows, labels, [1.0], "cpu", checkpoint_layers=checkpoint_layers)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            packed_answer_loss(model, answers.packed, answers.targets_A, answers.weights_A)
        return sum(num for num, _ in storages.values())

    tokens = 399
    # The last layer keeps less, and head, cos and sin are extra: so differences are compared.
    per_layer = (held(0) - held(3)) / 3 / tokens
    planned = sizes.kept_per_token - sizes.input_per_token
    assert 0.75 * planned <= per_layer <= (1.5 if kind == "qwen3" else 1.1) * planned


# --- passes by tokens ----------------------------------------------------------------------------


@given(st.lists(st.integers(1, 600), min_size=1, max_size=40), st.integers(1, 3000))
def test_every_row_is_in_one_pass_and_no_pass_too_long(lengths, max_tokens):
    passes = plan_tokens(lengths, max_tokens)
    assert sorted(row for rows in passes for row in rows) == list(range(len(lengths)))
    assert all(rows == sorted(rows) and rows for rows in passes)
    for rows in passes:
        assert sum(lengths[i] for i in rows) <= max_tokens or len(rows) == 1
    fewest = -(-sum(lengths) // max_tokens)
    assert len(passes) >= min(fewest, len(lengths)) and plan_tokens(lengths, max_tokens) == passes
    if fewest == 1:
        assert len(passes) == 1


@given(st.lists(st.integers(20, 600), min_size=1, max_size=40))
def test_passes_are_evenly_filled(lengths):
    """The fullest and the emptiest pass differ by at most one row."""
    filled = [sum(lengths[i] for i in rows) for rows in plan_tokens(lengths, 1024)]
    assert max(filled) - min(filled) <= max(lengths)
