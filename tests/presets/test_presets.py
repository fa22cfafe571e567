"""The presets that ship: every number of the recipe, and what `tiny` changes in it."""

import re
from importlib import resources

import pytest

from sentilora.config import Config, load_config
from sentilora.errors import UsageError
from sentilora.presets import LEAF_TABLES, PARENT, about, flatten, preset_names, preset_tree

# Every setting of the recipe, number for number. A change here is a new recipe.
RECIPE = {
    "output_dir": "mistral-sentiment-ita",
    "base.name": "mistralai/Mistral-7B-v0.1",
    "base.revision": "main",
    "base.device": "cuda",
    "base.quantization": "nf4",
    "base.double_quantization": True,
    "base.compute_dtype": "auto",
    "base.attn_implementation": "sdpa",
    "base.cache_quantized": False,
    "lora.r": 16,
    "lora.lora_alpha": 32,
    "lora.lora_dropout": 0.05,
    "lora.bias": "none",
    "lora.target_modules": [
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    ],
    "data.train": "stanfordnlp/imdb",
    "data.evaluation": "train",
    "data.test": "stanfordnlp/imdb",
    "data.text_column": "text",
    "data.label_column": "label",
    "data.label_map": {"neg": "negative", "pos": "positive"},
    "data.num_train": 2000,
    "data.num_train_subset": 0,
    "data.num_evaluation": 400,
    "data.num_test": 0,
    "data.shuffle_seed": 42,
    "data.balance": "none",
    "data.soft_labels": False,
    "prompt.template": (
        "### Instruction:\n{instruction}\n\n### Review:\n{text}\n\n### Sentiment:\n"
    ),
    "prompt.instruction": (
        "Analyze the sentiment of the following movie review and respond with only one word: "
        "{labels}."
    ),
    "prompt.labels": ["positive", "negative"],
    "prompt.max_length": 512,
    "prompt.truncation": "tail",
    "prompt.answer": "{label}",
    "prompt.ordered": False,
    "training.num_train_epochs": 3.0,
    "training.max_steps": 0,
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 4,
    "training.per_device_eval_batch_size": 16,
    "training.learning_rate": 2e-4,
    "training.lr_scheduler_type": "linear",
    "training.warmup_steps": 50,
    "training.warmup_ratio": 0.0,
    "training.optim": "paged_adamw_8bit",
    "training.weight_decay": 0.0,
    "training.max_grad_norm": 1.0,
    "training.gradient_checkpointing": True,
    "training.seed": 42,
    "training.logging_steps": 10,
    "training.eval_steps": 50,
    "training.save_steps": 100,
    "training.save_total_limit": 3,
    "training.early_stopping_patience": 0,
    "training.report_to": "none",
    "training.loss": "tokens",
    "engine.implementation": "auto",
    "engine.base_matmul": "exact",
    "engine.assume_capability": 0.0,
    "engine.max_memory_gib": 0.0,
}  # fmt: skip
TINY = {
    "output_dir": "sentilora-tiny",
    "base.name": "embedded",
    "base.device": "auto",
    "data.train": "embedded",
    "data.test": "embedded",
    "training.gradient_checkpointing": False,
}
FORCED_BY_300_REVIEWS = {
    "training.learning_rate": 1e-3,
    "data.num_train": 240,
    "data.num_evaluation": 60,
    "training.warmup_ratio": 0.13,
    "training.logging_steps": 5,
    "training.eval_steps": 15,
    "training.save_steps": 15,
}


def every_key():
    keys = set()
    for name, field in Config.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        keys |= {f"{name}.{key}" for key in inner} if inner else {name}
    return keys


def differences(one, other):
    return {key: value for key, value in other.flat().items() if one.flat()[key] != value}


def comments(name):
    """The comment of each setting in a preset's file: after it, or in the line above."""
    source = resources.files("sentilora").joinpath("presets", f"{name}.toml")
    section, above, explanations = "", "", {}
    for line in source.read_text(encoding="utf-8").splitlines():
        if heading := re.fullmatch(r"\[(\w+)\]", line):
            section = f"{heading[1]}."
        elif setting := re.fullmatch(r"(\w+) = (.*)", line):
            explanations[section + setting[1]] = setting[2].partition("  # ")[2] or above
        above = line.removeprefix("# ") if line.startswith("# ") else ""
    return explanations


def test_every_preset_has_every_key():
    assert len(preset_names()) == 13
    for name in preset_names():
        assert set(load_config(name).flat()) == every_key()
    assert len(every_key()) >= 45


def test_the_recipe_has_exactly_these_numbers():
    assert load_config("mistral-7b").flat() == RECIPE
    assert len(RECIPE) == 59


def test_the_parent_holds_every_setting_and_is_no_preset():
    assert PARENT not in preset_names()
    with pytest.raises(UsageError, match=f"there is no preset '{PARENT}'"):
        preset_tree(PARENT)
    for name in preset_names():
        keys = {key for key, _ in flatten(preset_tree(name))}
        assert keys == every_key() and keys >= LEAF_TABLES


def test_every_setting_is_explained_in_a_half_sentence():
    explanations = comments(PARENT)
    assert set(explanations) == every_key()
    for key, text in explanations.items():
        assert 15 <= len(text) <= 130 and not text.endswith("."), key


def test_tiny_is_the_recipe_with_only_what_its_size_forces():
    assert load_config("tiny").flat() == RECIPE | TINY | FORCED_BY_300_REVIEWS


def test_smollm2_is_the_recipe_on_another_base():
    """91.9 % on IMDB with the recipe as it is: 135 million parameters need no other."""
    assert load_config("smollm2-135m").flat() == RECIPE | {
        "output_dir": "smollm2-135m-sentiment",
        "base.name": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base.device": "auto",
    }


ZOO = {
    "gemma-3-1b": "google/gemma-3-1b-it",
    "gemma-3-4b": "google/gemma-3-4b-it",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B-Instruct",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B-Instruct",
    "ministral-8b": "mistralai/Ministral-8B-Instruct-2410",
    "mistral-7b-v0.3": "mistralai/Mistral-7B-Instruct-v0.3",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-1.7b": "Qwen/Qwen3-1.7B",
    "qwen3-4b": "Qwen/Qwen3-4B-Instruct-2507",
    "qwen3-8b": "Qwen/Qwen3-8B",
}


def test_the_zoo_is_the_recipe_on_other_bases_in_their_own_chat_format():
    """Presets for the bases that people use today."""
    assert set(ZOO) == set(preset_names()) - {"tiny", "mistral-7b", "smollm2-135m"}
    for name, base in ZOO.items():
        config = load_config(name)
        small = about(name).parameters < 1.5e9  # a CPU can train it, slowly
        assert config.flat() == RECIPE | {
            "output_dir": f"{name}-sentiment",
            "base.name": base,
            "base.device": "auto" if small else "cuda",
            "prompt.template": "chat",
        }


def test_every_preset_says_what_its_base_is():
    for name in preset_names():
        known = about(name)
        assert known.parameters > 1e6 and 0 < known.training_memory_gib < 16
        assert type(known.gated) is bool and known.license
    assert about("smollm2-135m").license == "Apache-2.0"
    assert {name for name in preset_names() if about(name).gated} == {
        "gemma-3-1b", "gemma-3-4b", "llama-3.2-1b", "llama-3.2-3b", "ministral-8b"
    }  # fmt: skip


def test_what_a_preset_says_of_its_base_is_no_setting(tmp_path):
    (tmp_path / "mine.toml").write_text("[about]\ngated = true\n")
    with pytest.raises(UsageError, match=r"there is no setting 'about\.gated'"):
        load_config("tiny", tmp_path / "mine.toml")


def test_on_other_data_the_recipes_counts_hold_again(tmp_path):
    recipe = load_config("mistral-7b")
    other = load_config("tiny", overrides=["data.train=reviews.csv"])
    own = {"data.train": "reviews.csv", "training.learning_rate": 1e-3}
    assert differences(recipe, other) == TINY | own
    same = load_config("tiny", overrides=["data.train=embedded", "data.test=x.csv"])
    assert differences(recipe, same) == TINY | FORCED_BY_300_REVIEWS | {"data.test": "x.csv"}
    (tmp_path / "mine.toml").write_text('[data]\ntrain = "reviews.csv"\n')
    from_file = load_config("tiny", tmp_path / "mine.toml")
    assert from_file == other
    assert load_config("tiny", values={"data.train": "reviews.csv"}) == other


def test_own_data_have_the_learning_rate_that_their_base_needs(tmp_path):
    rates = {
        ("tiny", "mine.csv"): 1e-3,
        ("tiny", "stanfordnlp/imdb"): 2e-4,
        ("smollm2-135m", "mine.csv"): 1e-3,
        ("smollm2-135m", "stanfordnlp/imdb"): 2e-4,
        ("mistral-7b", "mine.csv"): 2e-4,
    }
    for (preset, source), rate in rates.items():
        config = load_config(preset, values={"data.train": source})
        assert config.training.learning_rate == rate
    other_base = load_config("tiny", values={"data.train": "mine.csv", "base.name": "folder"})
    assert other_base.training.learning_rate == 2e-4  # what the preset has is for its own base
    (tmp_path / "smollm2").mkdir()  # a copy of the preset's base, as without the hub
    copy = {"data.train": "mine.csv", "base.name": str(tmp_path / "smollm2")}
    assert load_config("smollm2-135m", values=copy).training.learning_rate == 1e-3
    assert load_config("tiny", values=copy).training.learning_rate == 2e-4
    explicit = load_config("tiny", values={"data.train": "x", "training.learning_rate": 5e-5})
    assert explicit.with_values({"data.train": "y"}).training.learning_rate == 5e-5


def test_rows_in_memory_are_own_data():
    """The counts and the rate for 400 reviews would otherwise hold for any table."""
    config = load_config("tiny").with_values({"data.train": "a table in memory"})
    assert (config.data.num_train, config.data.num_evaluation) == (2000, 400)
    assert config.training.learning_rate == 1e-3


def test_an_unknown_preset_is_refused_with_the_nearest_known():
    with pytest.raises(UsageError, match="no preset 'mistral'; did you mean 'mistral-7b'") as error:
        load_config("mistral")
    assert (error.value.setting, error.value.seen) == ("preset", "mistral")
