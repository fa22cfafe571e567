"""Training and scoring against plain transformers, PEFT and bitsandbytes on the same rows."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from small_runs import BRIEF
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    Trainer,
    TrainingArguments,
    set_seed,
)

from sentilora.config import load_config, read_config
from sentilora.errors import DataError, Interrupted, SentiloraError, UsageError
from sentilora.folders.classifier_file import BaseReference
from sentilora.models.bases import load_base
from sentilora.models.four_bits import linear_4bit_modules
from sentilora.models.runtime import Runtime
from sentilora.prompt import Prompter
from sentilora.scoring.classifier import Classifier
from sentilora.stages.from_config import load_rows_of, prompt_format_of
from sentilora.stages.train import train

STEPS = 12


def settings(base, folder, *overrides):
    quick = [
        "training.learning_rate=2e-4",
        "lora.lora_dropout=0.0",
        f"training.max_steps={STEPS}",
        "training.logging_steps=1",
        "training.eval_steps=4",
        "training.save_steps=4",
        "data.num_evaluation=16",
        *BRIEF,
    ]
    return load_config(
        "tiny",
        overrides=[*quick, *overrides],
        values={"base.name": str(base), "output_dir": str(folder)},
    )


def adapter_weights(folder):
    from safetensors.torch import load_file

    return load_file(Path(folder) / "adapter_model.safetensors")


def losses(folder):
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


def plain_base(path):
    """The base as a user without sentilora loads it, the CPU repacking switched off."""
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        path, quantization_config=nf4, dtype=torch.float32, device_map={"": "cpu"}
    )
    for module in linear_4bit_modules(model):
        module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def plain_run(toy_base, tmp_path_factory):
    """(losses, folder of the adapter) of `STEPS` steps of 4 × 4 padded rows in a plain Trainer."""
    folder = tmp_path_factory.mktemp("oracle") / "plain"
    config = settings(toy_base, folder, "training.optim=adamw_torch")
    tokenizer = AutoTokenizer.from_pretrained(toy_base)
    prompter = Prompter(tokenizer, prompt_format_of(config))
    rows, _ = load_rows_of(config)
    pairs = zip(rows.texts, rows.labels, strict=True)
    examples = [prompter.encode_example(text, label) for text, label in pairs]

    def pad(batch):
        width = max(len(e.input_ids) for e in batch)
        fill = [[0] * (width - len(e.input_ids)) for e in batch]
        pairs = list(zip(batch, fill, strict=True))
        return {
            "input_ids": torch.tensor([e.input_ids + zeros for e, zeros in pairs]),
            "attention_mask": torch.tensor([[1] * len(e.input_ids) + z for e, z in pairs]),
            "labels": torch.tensor([e.labels + [-100] * len(zeros) for e, zeros in pairs]),
        }

    set_seed(42)
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                      target_modules=list(config.lora.target_modules))  # fmt: skip
    model = get_peft_model(plain_base(toy_base), lora)
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, max_steps=STEPS, seed=42,
        per_device_train_batch_size=4, gradient_accumulation_steps=4, learning_rate=2e-4,
        lr_scheduler_type="linear", warmup_steps=2, optim="adamw_torch", weight_decay=0.0,
        max_grad_norm=1.0, logging_steps=1, save_strategy="no", report_to="none",
        remove_unused_columns=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=examples, data_collator=pad)
    trainer.train()
    model.save_pretrained(folder, save_embedding_layers=False)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], folder


@pytest.mark.parametrize("implementation", ["auto", "reference"])
def test_losses_and_adapter_equal_plain_trainer(toy_base, tmp_path, plain_run, implementation):
    """12 steps of 4 × 4 with adamw: ours packed, or in passes of sorted rows; theirs padded."""
    theirs, plain_folder = plain_run
    train(settings(
        toy_base, tmp_path / "ours", "training.optim=adamw_torch", f"engine={implementation}"
    ))  # fmt: skip
    assert len(theirs) == STEPS
    np.testing.assert_allclose(losses(tmp_path / "ours"), theirs, rtol=2e-6)
    ours = adapter_weights(tmp_path / f"ours/checkpoint-{STEPS}")
    plain = adapter_weights(plain_folder)
    assert ours.keys() == plain.keys() and len(ours) == 2 * 7 * 2
    for name, tensor in plain.items():
        assert torch.linalg.norm(ours[name] - tensor) <= 2e-5 * torch.linalg.norm(tensor), name


def weights_of_plan(base, folder, rows):
    """Adapter after 4 steps of 16 rows, `rows` of them in a pass."""
    train(settings(base, folder, "training.optim=adamw_torch", "training.max_steps=4",
                   f"training.per_device_train_batch_size={rows}",
                   f"training.gradient_accumulation_steps={16 // rows}"))  # fmt: skip
    return adapter_weights(folder / "checkpoint-4")


@pytest.fixture(scope="module")
def four_rows_per_pass(toy_base, tmp_path_factory):
    return weights_of_plan(toy_base, tmp_path_factory.mktemp("plan") / "4", 4)


@pytest.mark.parametrize("rows_per_pass", [1, 2, 16])
def test_every_plan_gives_the_same_adapter(toy_base, tmp_path, four_rows_per_pass, rows_per_pass):
    weights = weights_of_plan(toy_base, tmp_path / "run", rows_per_pass)
    for name, tensor in four_rows_per_pass.items():
        difference = torch.linalg.norm(weights[name] - tensor)
        assert difference <= 2e-5 * torch.linalg.norm(tensor), name


def test_training_with_evaluations_equals_training_without(toy_base, tmp_path):
    """bitsandbytes' repacking in eval mode would zero most adapter gradients afterwards.

    It repacks on CPUs with AVX512-BF16; on others the equality holds of itself.
    """
    four = "training.max_steps=4"  # evaluated three times on the way, or never
    train(settings(toy_base, tmp_path / "often", four, "training.eval_steps=1"))
    train(settings(toy_base, tmp_path / "never", four, "training.eval_steps=4"))
    ours = adapter_weights(tmp_path / "often/checkpoint-4")
    theirs = adapter_weights(tmp_path / "never/checkpoint-4")
    assert len(ours) == 28
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    moved = [name for name in ours if "lora_B" in name and ours[name].abs().max() > 0]
    assert len(moved) == 14


def test_reload_is_bit_equal_in_a_fresh_classifier(toy_run):
    classifier = Classifier.load(toy_run)
    config = load_config(file=Path(toy_run) / "sentilora.toml")
    _, rows = load_rows_of(config)
    probabilities = classifier.predict_proba(rows.texts)
    stored = json.loads((Path(toy_run) / "train_results.json").read_text())
    truth = [classifier.labels.index(label) for label in rows.labels]
    log_loss = -np.log(probabilities[range(len(truth)), truth]).mean()
    assert stored["reload_difference"] == 0.0
    assert log_loss == stored["metrics"]["log_loss"]


def test_adapter_reloads_in_stock_peft_with_identical_logits(toy_base, toy_run):
    ours = Classifier.load(toy_run)
    stock = PeftModel.from_pretrained(plain_base(toy_base), toy_run).eval()
    ids = torch.tensor([ours.prompter.encode("A lovely film, twice.").input_ids])
    with torch.inference_mode():
        assert torch.equal(ours.model.eval()(input_ids=ids).logits, stock(input_ids=ids).logits)


@pytest.mark.parametrize(
    "labels", [("positive", "negative"), tuple(map(str, range(1, 11))), ("bad", "bad film", "b")]
)
@pytest.mark.parametrize("path", ["plain", "fast"])
def test_label_scores_equal_a_naive_forward_per_label(toy_base, labels, path):
    from sentilora.prompt import PromptFormat

    classifier = Classifier.from_base(str(toy_base), PromptFormat(labels=labels, max_length=128))
    assert classifier.scorer.engine is not None
    if path == "plain":
        classifier.scorer.engine.remove()
        classifier.scorer.engine = None
    texts = [
        "short",
        "A film of " + "many words " * 20,
        "Ça alors 🎬",
        "one more, of middle length",
    ]
    prompts = [classifier.prompter.encode(text).input_ids for text in texts]
    scores = classifier.scorer.log_probs(prompts)
    assert classifier.scorer._branches_work is (True if path == "plain" else None)
    with torch.inference_mode():
        for prompt, row in zip(prompts, scores, strict=True):
            for ids, score in zip(classifier.prompter.label_ids, row, strict=True):
                logits = classifier.model(input_ids=torch.tensor([prompt + ids])).logits[0].double()
                at = range(len(prompt) - 1, len(prompt) + len(ids) - 1)
                naive = sum(
                    logits[i].log_softmax(-1)[token] for i, token in zip(at, ids, strict=True)
                )
                assert score == pytest.approx(naive.item(), abs=2e-5)
    total = classifier.predict_proba(texts).sum(-1)
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)


def test_batch_size_does_not_change_the_answer(toy_base):
    texts = ["word " * n for n in (3, 40, 1, 17, 90, 17, 8)]
    one, seven = (
        Classifier.from_base(str(toy_base), batch_size=size).predict_proba(texts) for size in (1, 7)
    )
    np.testing.assert_allclose(one, seven, atol=2e-6)


def test_interrupted_and_resumed_equals_uninterrupted(toy_base, tmp_path, monkeypatch):
    import signal

    from sentilora.training import callbacks

    overrides = ["lora.lora_dropout=0.05", "training.max_steps=8"]
    train(settings(toy_base, tmp_path / "whole", *overrides))

    class InterruptAtStep7(callbacks.StopOnInterrupt):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 7:
                signal.raise_signal(signal.SIGINT)
            super().on_step_end(args, state, control, **kwargs)

    config = settings(toy_base, tmp_path / "parts", *overrides)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "StopOnInterrupt", InterruptAtStep7)
        with pytest.raises(Interrupted, match="step 7"):
            train(config)
    assert (tmp_path / "parts/checkpoint-7/trainer_state.json").is_file()
    damaged = copied(tmp_path / "parts", tmp_path / "damaged")
    stored = (tmp_path / "damaged/checkpoint-7/trainer_state.json").read_text()
    (tmp_path / "damaged/checkpoint-7/trainer_state.json").write_text(stored[: len(stored) // 2])
    train(damaged, resume=True)  # from step 4
    train(config, resume=True)
    whole = adapter_weights(tmp_path / "whole/checkpoint-8")
    for folder in (tmp_path / "parts", tmp_path / "damaged"):
        parts = adapter_weights(folder / "checkpoint-8")
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        assert losses(tmp_path / "whole") == losses(folder)


def test_ctrl_c_at_an_evaluation_loses_nothing(toy_base, tmp_path, monkeypatch):
    """The interrupted step's evaluation happens, and the best of the whole run is found."""
    import signal

    from sentilora.training import callbacks

    class InterruptAtStep4(callbacks.StopOnInterrupt):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                signal.raise_signal(signal.SIGINT)
            super().on_step_end(args, state, control, **kwargs)

    config = settings(toy_base, tmp_path / "run", "training.max_steps=8",
                      "training.eval_steps=4", "training.save_steps=4")  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "StopOnInterrupt", InterruptAtStep4)
        with pytest.raises(Interrupted, match="step 4"):
            train(config)
    train(config, resume=True)
    entries = map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    assert [e["step"] for e in entries if "eval_log_loss" in e] == [4, 8]
    with pytest.raises(UsageError, match="is finished"):
        train(config, resume=True)


def test_going_on_from_an_adapter_keeps_its_shape(toy_base, toy_run, tmp_path):
    short = ["training.max_steps=2", "training.eval_steps=2", "training.save_steps=2"]
    config = settings(toy_base, tmp_path / "run", *short, "lora.lora_dropout=0.05")
    for key, value in (("lora.r", 4), ("lora.lora_dropout", 0.0)):
        with pytest.raises(UsageError, match=f"{key} is {value}, but the adapter in .* has "):
            train(config.with_values({key: value}), adapter=toy_run)
    train(config, adapter=toy_run)
    assert read_config(tmp_path / "run/sentilora.toml").lora.r == 16
    assert adapter_weights(tmp_path / "run").keys() == adapter_weights(toy_run).keys()


def test_an_adapter_of_nan_is_an_error_not_an_answer(toy_run, tmp_path):
    from safetensors.torch import save_file

    folder = shutil.copytree(toy_run, tmp_path / "nan")
    weights = adapter_weights(folder)
    save_file(
        {name: tensor * float("nan") for name, tensor in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "checksums.json").unlink()  # it would tell before
    with pytest.raises(SentiloraError, match="NaN"):
        Classifier.load(folder).predict(["a film"])


@pytest.mark.parametrize(
    "override",
    ["training.optim=foo", "training.lr_scheduler_type=foo", "prompt.max_length=10",
     'lora.target_modules=["nope"]', "base.attn_implementation=foo"],
)  # fmt: skip
def test_a_start_that_fails_leaves_the_folder_free(toy_base, tmp_path, override):
    folder = tmp_path / "run"
    with pytest.raises(UsageError):
        train(settings(toy_base, folder, override))
    assert not folder.exists() or not any(folder.iterdir())


def copied(run, folder):
    """The settings of a copy of a finished run."""
    shutil.copytree(run, folder)
    return read_config(folder / "sentilora.toml").with_values({"output_dir": str(folder)})


def test_a_damaged_checkpoint_is_named(toy_run, tmp_path):
    folder = tmp_path / "run"
    config = copied(toy_run, folder)
    (folder / "train_results.json").unlink()
    optimizer = folder / "checkpoint-2/optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:500])
    with pytest.raises(DataError, match=r"optimizer.pt is damaged"):
        train(config, resume=True)


def test_resume_refuses_another_recipe_and_names_the_key(toy_run, tmp_path):
    config = copied(toy_run, tmp_path / "run")
    with pytest.raises(UsageError, match=r"training\.learning_rate was 0\.001"):
        train(config.with_values({"training.learning_rate": 2e-3}), resume=True)


def test_best_is_kept_on_disk_and_its_numbers_are_reported(toy_base, tmp_path):
    """A learning rate that wrecks the model late: the best evaluation is the first."""
    config = settings(toy_base, tmp_path / "run", "training.learning_rate=1.0",
                      "training.lr_scheduler_type=constant", "training.eval_steps=2",
                      "training.save_steps=8", "training.optim=adamw_torch")  # fmt: skip
    result = train(config)
    entries = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    evaluations = {e["step"]: e["eval_log_loss"] for e in entries if "eval_log_loss" in e}
    best = min(evaluations, key=evaluations.get)
    assert best < STEPS and result.best_step == best
    assert result.metrics.log_loss == evaluations[best]
    checkpoint, final = (
        adapter_weights(tmp_path / f"run/checkpoint-{best}"),
        adapter_weights(tmp_path / "run"),
    )
    assert all(torch.equal(checkpoint[name], final[name]) for name in final)
    kept = sorted(int(p.name.split("-")[1]) for p in (tmp_path / "run").glob("checkpoint-*"))
    assert len(kept) == 3 and kept[-1] == STEPS and best in kept


STOPS_EARLY = [
    "training.learning_rate=1.0", "training.lr_scheduler_type=constant", "training.eval_steps=2",
    "training.save_steps=2", "training.optim=adamw_torch", "training.early_stopping_patience=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def stopped_run(toy_base, tmp_path_factory):
    """(result, folder) of a run that early stopping ended."""
    folder = tmp_path_factory.mktemp("stopped") / "whole"
    return train(settings(toy_base, folder, *STOPS_EARLY)), folder


def test_early_stopping_stops_and_loads_the_best(stopped_run):
    result, _ = stopped_run
    assert result.num_steps < STEPS
    assert result.num_steps == result.best_step + 4


@pytest.mark.parametrize("before_end", [1, 0])  # between evaluations in vain; at the last one
def test_interrupted_and_resumed_stops_early_where_uninterrupted_does(
    toy_base, stopped_run, tmp_path, monkeypatch, before_end
):
    import signal

    from sentilora.training import callbacks

    whole, whole_folder = stopped_run
    assert whole.num_steps == whole.best_step + 4 < STEPS
    stop_at = whole.num_steps - before_end

    class InterruptOnce(callbacks.StopOnInterrupt):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == stop_at:
                signal.raise_signal(signal.SIGINT)
            super().on_step_end(args, state, control, **kwargs)

    config = settings(toy_base, tmp_path / "parts", *STOPS_EARLY)
    with monkeypatch.context() as patch:
        patch.setattr(callbacks, "StopOnInterrupt", InterruptOnce)
        with pytest.raises(Interrupted, match=f"step {stop_at}"):
            train(config)
    parts = train(config, resume=True)
    assert (parts.best_step, parts.num_steps) == (whole.best_step, whole.num_steps)
    assert parts.metrics == whole.metrics
    assert losses(whole_folder) == losses(tmp_path / "parts")
    for folder in ("", f"checkpoint-{whole.num_steps}"):
        ours, theirs = (adapter_weights(run / folder) for run in (tmp_path / "parts", whole_folder))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def each_step(patch, change):
    """From now on `change(step, loss)` gives the loss of a training step, whatever computes it."""
    from sentilora.training.trainer import ClassifierTrainer

    whole, steps = ClassifierTrainer.training_step, []

    def training_step(self, *args, **kwargs):
        steps.append(len(steps) + 1)
        loss = change(steps[-1], whole(self, *args, **kwargs))
        self.all_finite &= torch.isfinite(loss)
        return loss

    patch.setattr(ClassifierTrainer, "training_step", training_step)


def test_nan_stops_and_keeps_the_last_good_checkpoint(toy_base, tmp_path, monkeypatch):
    each_step(monkeypatch, lambda step, loss: loss * float("nan") if step > 5 else loss)
    with pytest.raises(SentiloraError, match=r"NaN.*checkpoint-4"):
        train(settings(toy_base, tmp_path / "run", "engine=reference"))
    weights = adapter_weights(tmp_path / "run/checkpoint-4")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not (tmp_path / "run/checkpoint-8").exists()


def test_ctrl_c_saves_no_nan(toy_base, tmp_path, monkeypatch):
    """The loss is NaN since step 3, nobody has looked yet, and Ctrl-C asks for a checkpoint."""
    import signal

    def change(step, loss):
        if step == 4:
            signal.raise_signal(signal.SIGINT)
        return loss * float("nan") if step > 2 else loss

    each_step(monkeypatch, change)
    with pytest.raises(SentiloraError, match=r"NaN or infinite by step 4 \(no checkpoint"):
        train(settings(toy_base, tmp_path / "run", "training.logging_steps=8", "engine=reference"))
    assert not list((tmp_path / "run").glob("checkpoint-*"))


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: no"),
     MemoryError()],
)  # fmt: skip
def test_out_of_memory_names_the_setting(toy_base, tmp_path, monkeypatch, error):
    def refuse(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("transformers.AutoModelForCausalLM.from_pretrained", refuse)
        with pytest.raises(SentiloraError, match=r"out of memory while loading .* smaller base"):
            load_base(BaseReference(str(toy_base)), Runtime(device="cpu"))
    monkeypatch.setattr("sentilora.training.trainer.ClassifierTrainer.training_step", refuse)
    with pytest.raises(SentiloraError, match=r"lower training.per_device_train_batch_size") as end:
        train(settings(toy_base, tmp_path / "run"))
    assert end.value.exit_code == 1


def test_what_the_device_cannot_compute_is_an_error_of_usage(toy_base, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise NotImplementedError("no backward on CPU")

    monkeypatch.setattr("sentilora.training.trainer.ClassifierTrainer.training_step", refuse)
    with pytest.raises(
        UsageError, match=r"no backward on CPU\); try base.attn_implementation=sdpa"
    ):
        train(settings(toy_base, tmp_path / "run"))


def test_every_4bit_layer_has_the_repacking_off(toy_base):
    modules = linear_4bit_modules(
        load_base(BaseReference(str(toy_base)), Runtime(device="cpu")).model
    )
    assert len(modules) == 14
    assert not any(module.support_avx512bf16_for_cpu for module in modules)


@pytest.mark.slow  # three processes that import everything
@pytest.mark.parametrize("verb", ["train", "check", "predict"])
def test_no_kernel_is_fetched_from_the_hub(toy_base, toy_run, tmp_path, verb):
    import os
    import subprocess
    import sys

    asked = tmp_path / "asked"
    code = f"def get_kernel(*args, **kwargs):\n    open({str(asked)!r}, 'w')\n    raise OSError\n"
    (tmp_path / "kernels.py").write_text(code)
    arguments = ["x", "--adapter", str(toy_run)]
    if verb != "predict":  # ends once the base is loaded
        arguments = [f"base.name={toy_base}", 'lora.target_modules=["none"]']
    paths = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "sentilora", verb, *arguments],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths},
        check=False,
    )  # fmt: skip
    assert not asked.exists(), done.stderr
    assert "kernels-community" not in done.stderr, done.stderr
    assert done.returncode == (0 if verb == "predict" else 2), done.stderr


def test_scoring_continues_in_smaller_passes_when_memory_runs_out(toy_base, monkeypatch, caplog):
    classifier = Classifier.from_base(str(toy_base))
    texts = ["word " * n for n in (3, 40, 1, 17, 90, 17, 8)]
    expected = classifier.predict_proba(texts)
    packed, sizes = classifier.scorer._packed, []

    def limited(prompts):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return packed(prompts)

    monkeypatch.setattr(classifier.scorer, "_packed", limited)
    seen = []
    np.testing.assert_allclose(classifier.predict_proba(texts, seen.append), expected, atol=2e-6)
    assert sum(seen) == 7 and sizes[0] == 7 and "smaller passes" in caplog.text
    monkeypatch.setattr(classifier.scorer, "_packed", lambda prompts: limited([1, 2, 3]))
    with pytest.raises(SentiloraError, match="out of GPU memory while scoring 1 text at once"):
        classifier.predict_proba(texts[:1])


def test_training_goes_on_in_smaller_passes_when_memory_runs_out(toy_base, tmp_path, monkeypatch):
    from sentilora.training import losses as training_losses

    whole, calls = training_losses.packed_answer_loss, []

    def limited(model, packed, *answers):
        calls.append(packed.num_tokens)
        if packed.num_tokens > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(model, packed, *answers)

    steps = ("training.max_steps=3", "training.optim=adamw_torch")
    train(settings(toy_base, tmp_path / "roomy", *steps))
    monkeypatch.setattr(training_losses, "packed_answer_loss", limited)
    train(settings(toy_base, tmp_path / "tight", *steps))
    assert calls[0] > 1000 and max(calls[-4:]) <= 1000
    np.testing.assert_allclose(losses(tmp_path / "tight"), losses(tmp_path / "roomy"), rtol=2e-6)
