"""What the guide says of other servers: its Python runs, and gives the trained model's answers.

vLLM, SGLang, llama.cpp's server and Ollama do not run here; the guide marks their requests.
"""

import contextlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from llama_models import SDIST, needs_llama_cpp

import sentilora

GUIDE = Path(__file__).parents[2] / "docs/guide/serve-elsewhere.md"


def blocks(language):
    text = GUIDE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def execute(folder, *sources):
    """The names that blocks of the guide define, run in a folder."""
    names = {}
    with contextlib.chdir(folder):
        for source in sources:
            exec(compile(source, GUIDE.name, "exec"), names)
    return names


def test_sums_of_log_probabilities_give_the_trained_probabilities(merged_export, toy_run, tmp_path):
    """The requests of vLLM and SGLang hold PROMPT + LABEL, and their answers are such sums."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(merged_export, tmp_path / "merged")
    names = execute(tmp_path, blocks("python")[0])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    prompt, sums = names["ids"], []
    with torch.inference_mode():
        for tokens in names["requests"]:
            echoed = model(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1)
            label = range(len(prompt) - 1, len(tokens) - 1)
            sums.append(sum(float(echoed[place, tokens[place + 1]]) for place in label))
    trained = sentilora.Classifier.load(toy_run)
    expected = trained.predict_proba([names["prompt"]["example"]["item"]])[0]
    seen = names["probabilities"](sums)
    assert list(seen) == list(trained.labels)
    assert np.allclose(list(seen.values()), expected, atol=1e-5)


def test_every_request_says_that_it_was_not_run():
    text = GUIDE.read_text(encoding="utf-8")
    for server in ("vLLM", "SGLang", "llama.cpp's server", "Ollama"):
        assert f"<!-- not run: needs {server}" in text, server
    bodies = re.findall(r"-d '(\{.*?\})'$", text, re.MULTILINE | re.DOTALL)
    assert len(bodies) == 4
    for body in bodies:  # JSON, once the placeholders are numbers
        filled = body.replace("PROMPT + LABEL, …", "[1, 2]").replace("PROMPT", "[1]")
        assert isinstance(json.loads(filled.replace(", …]", "]")), dict)


def test_the_python_of_onnx_runtime_gives_the_trained_probabilities(
    merged_export, onnx_export, toy_run, tmp_path
):
    shutil.copytree(merged_export, tmp_path / "merged")
    shutil.copytree(onnx_export, tmp_path / "onnx")
    names = execute(tmp_path, blocks("python")[0], blocks("python")[2])
    trained = sentilora.Classifier.load(toy_run)
    expected = trained.predict_proba([names["prompt"]["example"]["item"]])[0]
    assert list(names["answer"]) == list(trained.labels)
    assert np.allclose(list(names["answer"].values()), expected, atol=1e-5)


@pytest.mark.slow
class TestWithLlamaCpp:
    pytestmark = needs_llama_cpp

    def test_the_python_of_llama_cpp_gives_the_trained_probabilities(self, llama_run, tmp_path):
        sentilora.export("merged", tmp_path / "merged", adapter=llama_run)
        sentilora.export(
            "gguf", tmp_path / "gguf", adapter=llama_run, dtype="q8_0", converter=SDIST
        )
        names = execute(tmp_path, blocks("python")[0], blocks("python")[1])
        trained = sentilora.Classifier.load(llama_run)
        expected = trained.predict_proba([names["prompt"]["example"]["item"]])[0]
        assert np.allclose(list(names["answer"].values()), expected, atol=0.05)
        names["model"].close()
