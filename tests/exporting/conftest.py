"""Exports of adapters that are made in seconds: the toy run's, and one with odd labels."""

import pytest
from llama_models import write_llama
from small_runs import train_on

import sentilora

# Of equal length: a random base prefers the shorter label by far, which training takes for
# divergence.
ODD_LABELS = tuple(f'it\'s "{letter}", {{x}}: \\ `ça`' for letter in "ab")


@pytest.fixture(scope="session")
def odd_run(toy_base, tmp_path_factory):
    """A run whose labels hold quotes, braces, commas, backslashes and backticks."""
    rows = [{"text": f"text {i}", "label": ODD_LABELS[i % 2]} for i in range(60)]
    folder = tmp_path_factory.mktemp("odd")
    return train_on(rows, toy_base, folder, **{"prompt.labels": list(ODD_LABELS)})


@pytest.fixture(scope="session")
def columns_run(toy_base, tmp_path_factory):
    """A run whose prompt writes a special token and shows a title."""
    labels = ("positive", "negative")
    rows = [
        {"text": f"text {i}", "title": f"</s> title {i}", "label": labels[i % 2]} for i in range(60)
    ]
    template = "<s>{instruction}\n{title}\n\n{text}\n\n### Sentiment:\n"
    folder = tmp_path_factory.mktemp("columns")
    return train_on(rows, toy_base, folder, **{"prompt.template": template})


@pytest.fixture(scope="session")
def adapter_export(toy_run, tmp_path_factory):
    """The toy run's adapter as a folder to publish."""
    out = tmp_path_factory.mktemp("exports") / "adapter"
    sentilora.export("adapter", out, adapter=toy_run)
    return out


@pytest.fixture(scope="session")
def merged_export(toy_run, tmp_path_factory):
    """The toy run's base and adapter as one model, in float32."""
    out = tmp_path_factory.mktemp("exports") / "merged"
    sentilora.export("merged", out, adapter=toy_run, dtype="float32")
    return out


@pytest.fixture(scope="session")
def onnx_export(toy_run, tmp_path_factory):
    """The toy run's base and adapter as an ONNX file, in float32."""
    out = tmp_path_factory.mktemp("exports") / "onnx"
    sentilora.export("onnx", out, adapter=toy_run)
    return out


@pytest.fixture(scope="session")
def llama_run(tmp_path_factory):
    """A finished run on a random base whose tokenizer llama.cpp knows."""
    folder = tmp_path_factory.mktemp("llama")
    write_llama(folder / "base")
    rows = [{"text": f"text {i}", "label": ("good", "poor")[i % 2]} for i in range(60)]
    return train_on(rows, folder / "base", folder)
