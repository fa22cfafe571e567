"""tools/pretrain_tiny.py: no test text trains, each token trains once per epoch, three verbs."""

import importlib.util
import json
import random
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

TOOL = Path(__file__).parents[2] / "tools" / "pretrain_tiny.py"
SIZE = ["--hidden", "128", "--layers", "1", "--mlp", "64", "--length", "32", "--batch", "4"]


@pytest.fixture(scope="session")
def tool():
    spec = importlib.util.spec_from_file_location("pretrain_tiny", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(st.lists(st.integers(1, 40), min_size=1, max_size=120), st.integers(1, 20), st.integers())
def test_an_epoch_has_every_token_once(tool, lengths, length, seed):
    documents = [[(number, at) for at in range(n)] for number, n in enumerate(lengths)]
    rows = tool.pack_epoch(documents, length, random.Random(seed))
    assert max(map(len, rows)) <= length
    tokens = [token for row in rows for token in row]
    assert sorted(tokens) == [token for document in documents for token in document]
    assert rows == tool.pack_epoch(documents, length, random.Random(seed))


def test_the_learning_rate_warms_up_and_falls_to_a_hundredth(tool):
    shares = [tool.schedule(step, 10_000) for step in range(10_000)]
    assert shares[0] == pytest.approx(1 / 200) and max(shares) == pytest.approx(1, abs=1e-3)
    assert shares[200:] == sorted(shares[200:], reverse=True)
    assert shares[-1] == pytest.approx(0.01, abs=1e-6)


def test_three_verbs_make_a_base_of_nf4(tool, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = {"train": [f"Film {i} is good." for i in range(40)],
             "unsup": ["film 3 IS good", "Film 41 is bad.", "FILM 90, is bad!"],
             "test": ["Film 90 is bad."]}  # fmt: skip
    for name, column in texts.items():
        pd.DataFrame({"text": column}).to_parquet(tmp_path / f"{name}.parquet")
    monkeypatch.setattr(tool, "NUM_VALIDATION", 5)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pretrain_tiny.py", *map(str, arguments)])
        tool.main()

    folder, base = tmp_path / "pretrain", tmp_path / "base"
    run("prepare", "--imdb", tmp_path, "--out", folder, "--vocab-size", 300)
    run("train", folder, *SIZE, "--epochs", 2, "--log-steps", 2)
    run("quantize", folder, base)
    record = json.loads((base / "record.json").read_text())
    assert record["data"]["num_dropped"] == {"in test": 1, "duplicate": 1}
    assert record["data"]["num_texts"] == 41 and record["data"]["num_texts_also_in_test"] == 0
    curve = record["training"]["curve"]["rows"]
    assert [step for step, *_ in curve][-1] == record["training"]["num_steps"] >= 4
    assert record["quantization"]["other_weights"] == "float32"
    model = AutoModelForCausalLM.from_pretrained(base)
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert AutoTokenizer.from_pretrained(base)("Film").input_ids[0] == tool.BOS
