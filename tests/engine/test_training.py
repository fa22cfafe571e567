"""Training runs on the engine: interrupted and resumed, in smaller passes, in other passes."""

import json
import signal

import pytest
import torch
from small_runs import BRIEF

from sentilora.config import load_config
from sentilora.engine.graph import FlatParameters
from sentilora.engine.swap import Engine
from sentilora.errors import Interrupted
from sentilora.stages.train import train
from sentilora.training import callbacks
from sentilora.training import losses as training_losses

STEPS = 6


def settings(base, folder, *overrides):
    quick = [f"training.max_steps={STEPS}", "training.logging_steps=1", "training.eval_steps=3",
             "training.save_steps=3", "training.optim=adamw_torch", "data.num_train=64",
             "data.num_evaluation=6", *BRIEF, "prompt.max_length=256"]  # fmt: skip
    values = {"base.name": str(base), "output_dir": str(folder)}
    return load_config("tiny", overrides=[*quick, *overrides], values=values)


def adapter_weights(folder):
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    assert len(weights) == 2 * 7 * 2
    return weights


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def count_passes(monkeypatch):
    """A list that grows by the tokens of every training pass of the engine."""
    tokens, whole = [], training_losses.packed_answer_loss

    def counted(model, packed, *rest):
        tokens.append(packed.num_tokens)
        return whole(model, packed, *rest)

    monkeypatch.setattr(training_losses, "packed_answer_loss", counted)
    return tokens


def train_counted(base, folder, *overrides):
    """(folder, tokens of every pass) of a run with these settings."""
    with pytest.MonkeyPatch.context() as patch:
        passes = count_passes(patch)
        train(settings(base, folder, *overrides))
    return folder, passes


@pytest.fixture(scope="module")
def run_with_dropout(toy_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "dropout"
    return train_counted(toy_base, folder, "lora.lora_dropout=0.3")


@pytest.fixture(scope="module")
def run_without_dropout(toy_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training") / "none"
    return train_counted(toy_base, folder, "lora.lora_dropout=0.0")


@pytest.mark.parametrize("stop_at", [2, 4])
def test_interrupted_and_resumed_equals_uninterrupted_with_dropout(
    toy_base, run_with_dropout, tmp_path, monkeypatch, stop_at
):
    whole_folder, whole_passes = run_with_dropout
    assert len(whole_passes) > STEPS  # it was the engine, in several passes a step
    passes = count_passes(monkeypatch)

    class Interrupt(callbacks.StopOnInterrupt):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == stop_at:
                signal.raise_signal(signal.SIGINT)
            super().on_step_end(args, state, control, **kwargs)

    config = settings(toy_base, tmp_path / "parts", "lora.lora_dropout=0.3")
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "StopOnInterrupt", Interrupt)
        with pytest.raises(Interrupted, match=f"step {stop_at}"):
            train(config)
    train(config, resume=True)
    assert len(passes) == len(whole_passes)
    for folder in ("", f"checkpoint-{STEPS}"):
        whole, parts = (adapter_weights(run / folder) for run in (whole_folder, tmp_path / "parts"))
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert losses(whole_folder) == losses(tmp_path / "parts")
    assert len(losses(whole_folder)) == STEPS


def test_dropout_masks_come_from_the_runs_seed(toy_base, tmp_path):
    """The same seed draws the same masks; a run without any differs."""
    short = ["training.max_steps=2", "training.eval_steps=2", "training.save_steps=2"]
    runs = {
        name: train(settings(toy_base, tmp_path / name, *short, f"lora.lora_dropout={dropout}"))
        for name, dropout in (("one", 0.3), ("again", 0.3), ("without", 0.0))
    }
    assert len(runs) == 3
    one, again, without = (adapter_weights(tmp_path / name) for name in runs)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], without[name]) for name in one)


def test_out_of_memory_means_smaller_passes_and_the_same_adapter(
    toy_base, run_without_dropout, tmp_path, monkeypatch, caplog
):
    whole_folder, whole = run_without_dropout
    tokens, num = count_passes(monkeypatch), 0
    counted = training_losses.packed_answer_loss

    def full(model, packed, *rest):
        nonlocal num
        num += 1
        if num in (4, 6):  # in the middle of a step, gradients half done
            raise torch.OutOfMemoryError("CUDA out of memory")
        return counted(model, packed, *rest)

    monkeypatch.setattr(training_losses, "packed_answer_loss", full)
    train(settings(toy_base, tmp_path / "tight", "lora.lora_dropout=0.0"))
    assert caplog.text.count("out of GPU memory: continuing with passes of up to") == 2
    assert len(tokens) > len(whole) and max(tokens[6:]) < 0.8 * max(whole)
    ours, theirs = adapter_weights(tmp_path / "tight"), adapter_weights(whole_folder)
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).norm() <= 2e-5 * tensor.norm(), name


def test_one_text_that_does_not_fit_ends_the_run_in_words(toy_base, tmp_path, monkeypatch):
    from sentilora.errors import SentiloraError

    tokens = []

    def never(model, packed, *rest):
        tokens.append(packed.num_tokens)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training_losses, "packed_answer_loss", never)
    with pytest.raises(SentiloraError, match="memory"):
        train(settings(toy_base, tmp_path / "run"))
    assert 3 <= len(tokens) <= 20 and tokens == sorted(tokens, reverse=True)


@pytest.mark.parametrize("max_tokens", [600, 100_000])
def test_passes_of_any_size_train_the_same_adapter(
    toy_base, run_without_dropout, tmp_path, monkeypatch, max_tokens
):
    usual_folder, usual = run_without_dropout
    tokens, plan = count_passes(monkeypatch), Engine.plan

    def planned(engine, *args):
        text = plan(engine, *args)
        engine.limit_passes(max_tokens)
        return text

    monkeypatch.setattr(Engine, "plan", planned)
    train(settings(toy_base, tmp_path / "other", "lora.lora_dropout=0.0"))
    assert (len(tokens) > 2 * len(usual)) if max_tokens == 600 else (len(tokens) == STEPS)
    ours, theirs = adapter_weights(tmp_path / "other"), adapter_weights(usual_folder)
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).norm() <= 2e-5 * tensor.norm(), name


# --- all parameters as one tensor ----------------------------------------------------------------


def test_one_flat_parameter_is_stepped_like_its_parts():
    torch.manual_seed(0)
    shapes = [(4, 6), (3,), (5, 2)]
    parts = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    apart = [torch.nn.Parameter(part.detach().clone()) for part in parts]
    flat = FlatParameters(parts)
    assert all(torch.equal(a, b) for a, b in zip(parts, apart, strict=True))
    optimizers = [
        torch.optim.AdamW(group, lr=0.1, weight_decay=0.01, foreach=False)
        for group in ([flat.whole], apart)
    ]
    for _ in range(5):
        assert not flat.whole.grad.any()
        for group in (parts, apart):
            for number, parameter in enumerate(group):
                for _ in range(2):  # two passes add up
                    (parameter.square().sum() * (number + 1)).backward()
        for optimizer in optimizers:
            optimizer.step()
        flat.zero_grad()
        optimizers[1].zero_grad()
    num = 0
    for ours, theirs in zip(parts, apart, strict=True):
        assert torch.equal(ours, theirs)
        assert ours.untyped_storage().data_ptr() == flat.whole.untyped_storage().data_ptr()
        num += ours.numel()
    assert num == flat.whole.numel() == 37


def test_a_flat_parameter_is_like_its_parts_where_blocks_do_not_cross_them():
    def flat(*sizes):
        return FlatParameters([torch.nn.Parameter(torch.zeros(size)) for size in sizes])

    assert flat(256, 512).is_like_separate(256, 256)
    assert not flat(256, 500).is_like_separate(256, 256)
    assert not flat(256, 512).is_like_separate(256, 4096)  # the small one would have 32 bits
