"""Base and adapter as one model: the weights that were trained, in plain transformers."""

import json

import numpy as np
import torch
from commands import failed, run
from safetensors.torch import load_file

import sentilora
from sentilora.exporting.merged import dequantize
from sentilora.folders.classifier_file import BaseReference
from sentilora.models.bases import load_base
from sentilora.models.four_bits import linear_4bit_modules
from sentilora.models.runtime import Runtime

TEXTS = ["A lovely film.", "Two hours that I want back.", "?"]
LAYER = "model.layers.0.self_attn.q_proj"
CPU = Runtime(device="cpu", compute_dtype="float32")


def delta_of(run, layer):
    """What an adapter adds to a layer's weight, by LoRA's definition."""
    weights = load_file(run / "adapter_model.safetensors")
    config = json.loads((run / "adapter_config.json").read_text())
    a, b = (weights[f"base_model.model.{layer}.lora_{name}.weight"] for name in "AB")
    return config["lora_alpha"] / config["r"] * (b @ a)


def test_the_weights_are_the_dequantized_ones_plus_the_adapter(merged_export, toy_run, toy_base):
    """transformers #26492, peft #2321: merges into 4-bit weights that are not those of training."""
    merged = load_file(merged_export / "model.safetensors")
    base = load_base(BaseReference(str(toy_base)), CPU)
    assert len(linear_4bit_modules(base.model)) == 14
    dequantize(base.model, "toy")
    assert not linear_4bit_modules(base.model)
    trained = base.model.state_dict()
    expected = trained[f"{LAYER}.weight"] + delta_of(toy_run, LAYER)
    assert torch.allclose(merged[f"{LAYER}.weight"], expected, atol=1e-7)
    original = load_file(toy_base / "model.safetensors")[f"{LAYER}.weight"]
    assert (original - trained[f"{LAYER}.weight"]).abs().max() > 1e-4  # 4 bits are not exact


def test_dequantized_layers_compute_what_4_bit_ones_do(toy_base):
    base = load_base(BaseReference(str(toy_base)), CPU)
    ids = torch.tensor([base.tokenizer("A lovely film.")["input_ids"]])
    with torch.inference_mode():
        expected = base.model.eval()(ids).logits
        dequantize(base.model, "toy")
        seen = base.model(ids).logits
    assert (seen - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_original_weights_are_the_base_as_stored_plus_the_adapter(toy_run, toy_base, tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = run("export", "merged", out, "--adapter", toy_run, "--dtype", "float32",
                               "--weights", "original")  # fmt: skip
    assert code == 0, stderr
    merged = load_file(out / "model.safetensors")[f"{LAYER}.weight"]
    original = load_file(toy_base / "model.safetensors")[f"{LAYER}.weight"]
    assert torch.allclose(merged, original + delta_of(toy_run, LAYER), atol=1e-7)
    certificate = json.loads((out / "parity.json").read_text())
    assert certificate["weights"] == "original" and certificate["tolerance"] == 0.25
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "merged into the unquantized weights of the base" in card
    assert "up to 0.25 is allowed" in stdout


def test_it_names_its_labels_and_has_no_trace_of_quantization(merged_export):
    config = json.loads((merged_export / "config.json").read_text())
    assert config["id2label"] == {"0": "positive", "1": "negative"}
    assert config["label2id"] == {"positive": 0, "negative": 1}
    assert config["architectures"] == ["MistralForCausalLM"]
    assert "quantization_config" not in config
    generation = json.loads((merged_export / "generation_config.json").read_text())
    assert generation["eos_token_id"] in (2, [2])  # generation ends with the answer


def test_sentilora_reads_it_as_a_base_without_an_adapter(merged_export, toy_run):
    trained = sentilora.Classifier.load(toy_run)
    merged = sentilora.Classifier.from_base(
        merged_export, trained.prompter.format, quantization="none"
    )
    difference = abs(trained.predict_proba(TEXTS) - merged.predict_proba(TEXTS)).max()
    assert difference < 1e-5


def test_a_16_bit_export_computes_in_16_bits(toy_run, tmp_path):
    for dtype, tolerance in (("float16", 0.02), ("bfloat16", 0.15)):
        certificate = sentilora.export("merged", tmp_path / dtype, adapter=toy_run, dtype=dtype)
        weights = load_file(tmp_path / dtype / "model.safetensors")
        assert {str(tensor.dtype) for tensor in weights.values()} == {f"torch.{dtype}"}
        assert (certificate.form, certificate.tolerance) == (dtype, tolerance)
        assert 0 < certificate.max_probability_difference < tolerance


def test_a_tolerance_is_what_the_user_accepts(toy_run, tmp_path):
    """A 4-bit file of a small model is far off, and may still be what somebody wants."""
    out = tmp_path / "out"
    command = ["export", "merged", out, "--adapter", toy_run, "--dtype", "bfloat16"]
    for nonsense in ("0", "2", "nan"):
        failed(2, "give a difference of probabilities", *command, "--tolerance", nonsense)
    failed(1, "at most 1e-09 is allowed; choose a finer --dtype (float32 or float16), or accept "
           "this difference with --tolerance", *command, "--tolerance", "1e-9")  # fmt: skip
    assert not out.exists()
    certificate = sentilora.export("merged", out, adapter=toy_run, tolerance=0.5)
    assert (certificate.tolerance, certificate.has_own_tolerance) == (0.5, True)
    again = sentilora.verify(out)
    assert (again.tolerance, again.has_own_tolerance) == (0.5, True)


def test_the_base_that_ships_has_no_original_weights(tmp_path):
    failed(2, "the base embedded is stored quantized: it has no original weights; leave --weights "
           "at trained", "export", "merged", tmp_path / "out", "--weights", "original")  # fmt: skip


def test_a_base_in_another_quantization_is_refused(toy_base):
    """Only the 4-bit layers of bitsandbytes are known here; a GPTQ base would be merged wrongly."""
    base = load_base(BaseReference(str(toy_base), quantization="none"), CPU)
    base.model.config.quantization_config = {"quant_method": "gptq"}
    try:
        dequantize(base.model, "toy")
    except sentilora.errors.UsageError as error:
        assert "only the 4-bit layers of bitsandbytes" in str(error)
    else:
        raise AssertionError("was not refused")


def test_one_model_for_every_label_at_once(merged_export):
    """The comparison reads the prompt once, and gives each label its own continuation."""
    from sentilora.exporting.merged import in_stock_transformers

    runtime = in_stock_transformers(merged_export, "cpu")
    prompt, labels = list(range(3, 40)), [[5, 2], [5, 6, 7, 2], [8], [9, 10, 2]]
    seen = runtime.log_probs(prompt, labels)
    with torch.inference_mode():
        for label, log_prob in zip(labels, seen, strict=True):
            logits = runtime.model(torch.tensor([prompt + label])).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(label) - 1)
            whole = sum(
                float(logits[place, token]) for place, token in zip(places, label, strict=True)
            )
            assert np.isclose(log_prob, whole, atol=1e-4)
