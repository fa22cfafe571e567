"""Memory and time before weights are loaded: a check promises what training does, no more.

The models are on torch's meta device and the GPU is a fake: only shapes and free bytes matter.
"""

from dataclasses import replace
from functools import partial

import pytest
import torch
from fake_gpu import GIB, LENGTHS, SHAPES, FakeGpu, engine_of, make_meta
from tiny_models import installed, make_model
from transformers import TrainingArguments

from sentilora.engine import memory
from sentilora.errors import UsageError
from sentilora.training import estimate
from sentilora.training.estimate import FastMemory, PaddedMemory, Run, training_memory
from sentilora.training.estimate import training_time as time_of
from sentilora.training.fast_steps import plan_engine, prepare_fast_steps

RUN = Run(
    lengths=[300, 318, 512],
    num_steps=100,
    rows_per_step=16,
    rows_per_pass=4,
    optim="paged_adamw_8bit",
    device="cuda",
    dtype=torch.bfloat16,
    nf4=True,
    double_quantization=True,
    checkpointing=True,
    is_fast=True,
)


@pytest.fixture
def gpu(monkeypatch):
    """A fake GPU with kernels. `gpu.others` and `gpu.allocated` may be set."""
    fake = FakeGpu()
    fake.answer(monkeypatch)
    monkeypatch.setattr(estimate, "place_of_process", lambda device: f"{device}:0")
    monkeypatch.setattr(estimate, "_load_cublas", lambda dtype: None)
    before = partial(memory.plan_before_loading, has_kernels=True)
    monkeypatch.setattr(memory, "plan_before_loading", before)
    return fake


def train_plan(engine, model, run):
    """What training prints of its plan; the error that it raises if there is none."""
    try:
        return plan_engine(
            engine, run.lengths, run.rows_per_step, run.optim, run.max_memory_gib, model
        )
    except UsageError as error:
        return error


@pytest.mark.parametrize("name", SHAPES)
def test_a_check_promises_what_training_does(name, gpu, monkeypatch):
    model = make_meta(name)
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    runs = [
        replace(RUN, lengths=lengths, optim=optim, max_memory_gib=limit, nf4=limit != 24.0)
        for lengths in LENGTHS.values()
        for optim in ("adamw_torch", "paged_adamw_8bit")
        for limit in (4.5, 6.0, 24.0, 0.0, 0.0)
    ]
    # GiB of other processes: the last of each five runs has a nearly full card.
    others = [GIB // 2, GIB // 2, GIB // 2, GIB // 2, 72 * GIB] * 6
    checks = []
    for run, gpu.others in zip(runs, others, strict=True):
        checks.append(training_memory(model, run))

    engine = engine_of(model, monkeypatch)
    plans, refusals = set(), 0
    for run, check, gpu.others in zip(runs, checks, others, strict=True):
        assert isinstance(check, FastMemory)
        # By now base and adapter are on the GPU, with gradients and without the optimizer's states.
        gpu.allocated = check.weights + 8 * num_trained
        outcome = train_plan(engine, model, run)
        if check.fault is None:
            assert outcome == str(check.plan) and str(check).endswith(f"; {outcome}")
            plans.add(outcome)
        else:
            assert isinstance(outcome, UsageError)
            assert vars(outcome) == vars(check.fault) and str(outcome) == str(check.fault)
            assert outcome.seen == max(run.lengths) and outcome.remedy
            refusals += 1
    assert len(plans) >= 3 and len(plans) + refusals >= 15
    assert refusals >= 3 or not name.startswith("7B")


def test_training_plans_with_the_optimizer_of_its_arguments(monkeypatch):
    """transformers keeps the name as an enum, whose `str` is another."""
    model = make_model("mistral")
    engine = installed(model)
    workloads = []
    monkeypatch.setattr(engine, "plan", lambda workload, limit: workloads.append(workload))
    for optim in ("paged_adamw_8bit", "adamw_torch"):
        arguments = TrainingArguments("unused", optim=optim, use_cpu=True, report_to="none")
        assert prepare_fast_steps(model, engine, [30, 40], 4, 0.0, arguments) == (None, None)
    paged, plain = workloads
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert paged.pages_states and paged.state_bytes == 2 * num_trained
    assert not plain.pages_states and plain.state_bytes == 8 * num_trained
    assert (plain.step_tokens, plain.longest) == (140, 40)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_padded_passes_are_refused_one_byte_above_what_is_free(checkpointing, gpu):
    model = make_meta("tiny")
    run = replace(RUN, is_fast=False, checkpointing=checkpointing)
    fits = training_memory(model, run)
    assert isinstance(fits, PaddedMemory) and fits.fault is None
    assert fits.pass_tokens == 4 * 512
    needed = fits.estimate.total
    assert replace(fits, free_bytes=needed).fault is None
    fault = replace(fits, free_bytes=needed - 1).fault
    assert isinstance(fault, UsageError)
    assert fault.setting == "training.per_device_train_batch_size"
    assert "gradient_accumulation_steps" in fault.remedy and "max_length" in fault.remedy
    gpu.others = gpu.total  # nothing is free
    assert training_memory(model, run).fault is not None
    plain = training_memory(model, replace(run, checkpointing=False)).estimate
    assert (fits.estimate.activations < plain.activations) == checkpointing


@pytest.mark.parametrize("is_fast", [True, False])
def test_on_a_cpu_nothing_is_refused(is_fast):
    run = replace(RUN, device="cpu", dtype=torch.float32, is_fast=is_fast)
    figures = training_memory(make_meta("7B"), run)
    assert isinstance(figures, PaddedMemory) and figures.free_bytes is None
    assert figures.fault is None and "free" not in str(figures)
    # Activations are computed once, whatever checkpointing says.
    assert figures == training_memory(make_meta("7B"), replace(run, checkpointing=False))


def test_weights_of_a_7b_base_are_those_of_nf4(gpu):
    model = make_meta("7B")
    figures = {
        (nf4, double): training_memory(
            model, replace(RUN, nf4=nf4, double_quantization=double)
        ).weights
        for nf4, double in [(True, True), (True, False), (False, False)]
    }
    linears, others = 32 * 218_103_808, 2 * 32000 * 4096 + 65 * 4096
    # Bits per weight with its scales (QLoRA, section 3).
    for (nf4, double), bits in zip(figures, (4.127, 4.5, 16), strict=True):
        expected = linears * bits / 8 + 2 * others
        assert figures[nf4, double] == pytest.approx(expected, rel=1e-4)


def test_time_is_the_arithmetic_at_the_measured_rate(monkeypatch):
    monkeypatch.setattr(estimate, "_matmul_rate", lambda device, dtype: 1e14)
    model = make_meta("7B")
    weights = 32 * 218_103_808 + sum(p.numel() for p in model.parameters() if p.requires_grad)
    tokens = (300 + 318 + 512) / 3 * 16 * 100

    fast = time_of(model, RUN)
    assert fast.flop == pytest.approx(4 * weights * tokens)
    assert fast.seconds == pytest.approx(fast.flop / 0.6e14)
    plain = time_of(model, replace(RUN, is_fast=False))
    assert plain.flop == pytest.approx(6 * weights * tokens)
    launches = 100 * 4 * 32 * estimate.LAYER_SECONDS["cuda"]
    assert plain.seconds == pytest.approx(plain.flop / 0.6e14 + launches)
    on_cpu = time_of(model, replace(RUN, is_fast=False, device="cpu"))
    assert on_cpu.flop == fast.flop and on_cpu.seconds == pytest.approx(on_cpu.flop / 0.33e14)
    assert str(fast).startswith(f"100 steps take about {fast.seconds / 60:,.0f} min")
    assert str(replace(fast, num_steps=6, seconds=20.0)).startswith("6 steps take less than a min")


def test_the_rate_of_this_machine_is_measured():
    assert 1e8 < estimate._matmul_rate("cpu", torch.float32) < 1e15
