"""ONNX: one file, scored by ONNX Runtime, that somebody without sentilora can run."""

import json
import logging
import shutil
import sys

import numpy as np
import pytest
import torch
from commands import failed, run
from preset_bases import write_small
from small_runs import train_on

import sentilora
from sentilora.exporting.certificate import digests_of
from sentilora.exporting.onnx_file import write_onnx

ROWS = [{"text": f"text {i}", "label": ("good", "poor")[i % 2]} for i in range(60)]


@pytest.fixture
def onnx_copy(onnx_export, tmp_path):
    return shutil.copytree(onnx_export, tmp_path / "copy")


def certify_again(folder):
    """Write the digests that the files of an export have now, as a stranger can."""
    record = json.loads((folder / "parity.json").read_text())
    record["sha256"] = digests_of(folder)
    (folder / "parity.json").write_text(json.dumps(record))


def session_of(file):
    import onnxruntime

    return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def logits_of(session, texts):
    """The logits of several texts' tokens, padded on the right with anything."""
    ids = np.full((len(texts), max(map(len, texts))), 7, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    (logits,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    return [logits[row, : len(text)] for row, text in enumerate(texts)]


def test_a_file_answers_as_the_trained_model(onnx_export):
    code, stdout, stderr = run("verify", onnx_export)
    assert code == 0 and "onnx, float32" in stdout, stderr
    certificate = json.loads((onnx_export / "parity.json").read_text())
    assert certificate["rows"] == 216 and certificate["rows_with_other_tokens"] == 0
    assert (certificate["tolerance"], certificate["label_flips"]) == (1e-4, 0)
    assert certificate["max_probability_difference"] < 1e-5
    assert certificate["versions"]["onnxruntime"]
    assert {"model.onnx", "prompt.json", "config.json"} <= set(certificate["sha256"])
    assert {path.name for path in onnx_export.iterdir()} == {
        "README.md", "chat_template.jinja", "config.json", "model.onnx", "parity.json",
        "parity_rows.jsonl", "prompt.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    config = json.loads((onnx_export / "config.json").read_text())
    assert config["id2label"] == {"0": "positive", "1": "negative"}
    assert "in one ONNX model, in float32" in (onnx_export / "README.md").read_text()


def test_no_file_names_a_path_of_this_machine(onnx_export, toy_run, toy_base):
    """The exporter keeps a stack trace with every node: the paths of all modules it ran through."""
    files = {path.name: path.read_bytes() for path in onnx_export.iterdir()}
    assert len(files) == 9
    for name, content in files.items():
        for path in (toy_run, toy_base, onnx_export, *sys.path[1:], "site-packages", ", line "):
            assert str(path).encode() not in content or name == "parity_rows.jsonl", (name, path)


@pytest.mark.slow
def test_the_exporter_prints_nothing_of_its_own(toy_run, tmp_path, recwarn, caplog):
    """Four lines were of torchvision, which is not needed, and the others of deprecations."""
    code, _, stderr = run("export", "onnx", tmp_path / "out", "--adapter", toy_run)
    assert code == 0, stderr
    assert [str(warning.message) for warning in recwarn] == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_any_number_of_texts_of_any_length(onnx_export, merged_export):
    """The axes are free, and what is padded is not seen."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(merged_export)
    session = session_of(onnx_export / "model.onnx")
    assert [one.name for one in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert [one.name for one in session.get_outputs()] == ["logits"]
    texts = [list(range(3, 3 + length)) for length in (1, 2, 700, 8)]
    with torch.inference_mode():
        expected = [model(torch.tensor([text])).logits[0].numpy() for text in texts]
    alone = [logits_of(session, [text])[0] for text in texts]
    for seen in (alone, logits_of(session, texts)):
        for one, other in zip(seen, expected, strict=True):
            assert one.shape == other.shape and np.allclose(one, other, atol=1e-5)


def test_a_pass_has_only_as_many_labels_as_fit(onnx_export, monkeypatch):
    """The logits of every token come back: of a large vocabulary those of a few labels at once."""
    from sentilora.exporting import own_runtime
    from sentilora.exporting.onnx_file import in_onnx_runtime

    runtime = in_onnx_runtime(onnx_export)
    prompt, labels = list(range(3, 40)), [[5, 2], [5, 6, 7, 2], [8], [9, 10, 2]]
    together = runtime.log_probs(prompt, labels)
    monkeypatch.setattr(own_runtime, "MAX_ONNX_LOGITS", 1)
    assert np.allclose(runtime.log_probs(prompt, labels), together, atol=1e-5)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_nothing_is_begun(package, toy_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    failed(2, "pip install 'sentilora[onnx]'", "export", "onnx", tmp_path / "out",
           "--adapter", toy_run)  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_verify_needs_onnxruntime_alone(onnx_export, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert run("verify", onnx_export)[0] == 0
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    failed(2, "pip install 'sentilora[onnx]'", "verify", onnx_export)


def test_a_damaged_file_is_one_line(onnx_copy):
    file = onnx_copy / "model.onnx"
    file.write_bytes(file.read_bytes()[:1000])
    failed(3, f"{file} is not what was certified", "verify", onnx_copy)
    certify_again(onnx_copy)
    failed(3, f"onnxruntime cannot load {file} (", "verify", onnx_copy)


@pytest.mark.parametrize("place", ["../secret", "{folder}/secret", "link"])
def test_a_file_reads_no_weights_outside_its_folder(place, onnx_copy, tmp_path):
    """Exports come from strangers too, and weights may lie in a file that the model names."""
    import onnx

    (tmp_path / "secret").write_bytes(b"x" * 2**24)
    (onnx_copy / "link").symlink_to(tmp_path / "secret")
    file = onnx_copy / "model.onnx"
    model = onnx.load(file)
    weight = max(model.graph.initializer, key=lambda one: len(one.raw_data))
    entries = {
        "location": place.format(folder=tmp_path),
        "offset": "0",
        "length": str(len(weight.raw_data)),
    }
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    file.write_bytes(model.SerializeToString())
    certify_again(onnx_copy)
    line = failed(3, f"onnxruntime cannot load {file} (", "verify", onnx_copy)
    assert "xternal data" in line


@pytest.mark.parametrize(
    ("names", "shape", "said"),
    [
        (["a", "b"], [1, 1, 3], "its inputs and output are not those of an export"),
        (["input_ids", "attention_mask"], [1, 3], "its inputs and output are not those of"),
        (["input_ids", "attention_mask"], [1, 1, 3], "onnxruntime cannot compute "),
    ],
)
def test_another_model_in_its_place_is_one_line(names, shape, said, onnx_copy):
    from onnx import TensorProto, helper

    *inputs, output = (
        helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in [*names, "logits"]
    )
    graph = helper.make_graph([helper.make_node("Add", names, ["logits"])], "x", inputs, [output])
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    (onnx_copy / "model.onnx").write_bytes(model.SerializeToString())
    certify_again(onnx_copy)
    failed(1 if "compute" in said else 3, said, "verify", onnx_copy)


@pytest.mark.slow
def test_large_weights_are_in_a_file_beside_it(toy_run, tmp_path, monkeypatch):
    """A protobuf ends at 2 GiB. The folder can be moved, and its second file is certified too."""
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1000)
    sentilora.export("onnx", tmp_path / "out", adapter=toy_run)
    moved = (tmp_path / "out").rename(tmp_path / "moved")
    model, data = moved / "model.onnx", moved / "model.onnx.data"
    assert data.stat().st_size > 2 * model.stat().st_size
    assert run("verify", moved)[0] == 0
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    failed(3, f"{data} is not what was certified", "verify", moved)


# --- what an ONNX file does not carry -------------------------------------------------------------


def run_on(config, toy_tokenizer, folder):
    """A run on a random base of this configuration, with LoRA in its attention."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder / "base")
    toy_tokenizer.save_pretrained(folder / "base")
    layers = ["q_proj", "v_proj"]
    return train_on(ROWS, folder / "base", folder, **{"lora.target_modules": layers})


SMALL = {
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.slow
def test_an_architecture_that_the_exporter_cannot_carry(toy_tokenizer, tmp_path):
    """Experts are computed by an operator that has no translation to ONNX."""
    from transformers import MixtralConfig

    adapter = run_on(MixtralConfig(num_local_experts=2, **SMALL), toy_tokenizer, tmp_path)
    before = sorted(tmp_path.iterdir())
    line = failed(2, "torch's ONNX exporter cannot carry this base (MixtralForCausalLM: ", "export",
                  "onnx", tmp_path / "out", "--adapter", adapter)  # fmt: skip
    assert "grouped_mm" in line and line.endswith("export it as merged")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("kind", "more"), [
    ("longrope", {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
                  "original_max_position_embeddings": 1024}),
    ("dynamic", {"factor": 2.0}),
])  # fmt: skip
def test_positions_that_depend_on_the_length_of_a_text(kind, more, toy_tokenizer, tmp_path):
    """Tracing keeps those of a short text, and long ones got other answers without a word."""
    from transformers import LlamaConfig

    rope = {"rope_type": kind, "rope_theta": 10000.0, **more}
    adapter = run_on(LlamaConfig(rope_parameters=rope, **SMALL), toy_tokenizer, tmp_path)
    failed(2, f"the rotary positions of this base (LlamaForCausalLM, {kind}) depend on the length "
           "of a text", "export", "onnx", tmp_path / "out", "--adapter", adapter)  # fmt: skip
    assert not (tmp_path / "out").exists()


# --- slow -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_adapter_that_ships(tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = run("export", "onnx", out)
    assert code == 0 and f"onnx, float32: {out}" in stdout, stderr
    assert (out / "model.onnx").stat().st_size == pytest.approx(27.3e6, rel=0.05)
    code, stdout, stderr = run("verify", out)
    assert code == 0 and "0 labels of 200 rows changed; up to 0.0001" in stdout, stderr


@pytest.mark.slow
def test_float16_halves_the_file(onnx_export, toy_run, tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = run("export", "onnx", out, "--adapter", toy_run, "--dtype", "float16")
    assert code == 0 and "up to 0.02 is allowed" in stdout, stderr
    sizes = [(folder / "model.onnx").stat().st_size for folder in (onnx_export, out)]
    assert 0.4 < sizes[1] / sizes[0] < 0.7


@pytest.mark.slow
@pytest.mark.parametrize(  # one of each kind: the others differ in size
    "preset", ["smollm2-135m", "qwen3-0.6b", "gemma-3-1b", "gemma-3-4b", "ministral-8b"]
)
def test_the_architectures_of_the_presets(preset, tmp_path):
    """Windows, tied embeddings, norms of heads, the text part of a base that reads images."""
    from transformers import AutoModelForCausalLM

    write_small(preset, tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    write_onnx(model, tmp_path)
    session = session_of(tmp_path / "model.onnx")
    texts = [[3 + number % 400 for number in range(length)] for length in (60, 3, 31)]
    with torch.inference_mode():
        expected = [model(torch.tensor([text])).logits[0].numpy() for text in texts]
    for one, other in zip(logits_of(session, texts), expected, strict=True):
        assert np.allclose(one, other, atol=1e-5)
