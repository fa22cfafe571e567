"""Adapters that PEFT wrote: which kinds are used, exactly as PEFT would, and which are refused."""

import json
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
from commands import failed, predicted, run
from peft import (
    BOFTConfig,
    FourierFTConfig,
    HRAConfig,
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MistralForSequenceClassification,
    Qwen2Config,
)

from sentilora import Classifier
from sentilora.engine.sizes import nf4_bytes
from sentilora.engine.structure import shape_of
from sentilora.errors import DataError, UsageError
from sentilora.folders.peft_config import UNQUANTIZED_KINDS
from sentilora.models.adapters import attach_adapter
from sentilora.models.bases import load_structure

TEMPLATE = "### Review:\n{text}\n\n### Sentiment:\n"
LABELS = ["positive", "negative"]
PLAIN = ["--labels", ",".join(LABELS), "--template", TEMPLATE]
TEXTS = ["A lovely film.", "Dull and grey."]
ATTENTION = ["q_proj", "v_proj", "up_proj"]


def written(base, config, folder):
    """The folder of a plain PEFT adapter, its values random, and the model that it was saved of."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no CUDA here, and a norm that PEFT does not list
        torch.manual_seed(1)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder, model.eval()


def probabilities(model, base):
    """What PEFT's own model says of `TEXTS`, label by label."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    prompts = Classifier.from_base(base).prompter
    classifier_prompts = type(prompts)(tokenizer, _format())
    rows = []
    for text in TEXTS:
        prompt = classifier_prompts.encode(text).input_ids
        row = []
        for label in classifier_prompts.label_ids:
            ids = torch.tensor([prompt + label])
            with torch.no_grad():
                log_probs = model(input_ids=ids).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(ids[0]) - 1)
            row.append(sum(float(log_probs[i, ids[0, i + 1]]) for i in places))
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64).softmax(-1).numpy()


def _format():
    from sentilora.prompt import PromptFormat

    return PromptFormat(template=TEMPLATE, labels=tuple(LABELS))


CONFIGS = {
    "LORA": LoraConfig(task_type="CAUSAL_LM", target_modules=ATTENTION),
    "BOFT": BOFTConfig(task_type="CAUSAL_LM", target_modules=ATTENTION, boft_block_size=4),
    "FOURIERFT": FourierFTConfig(task_type="CAUSAL_LM", target_modules=ATTENTION, n_frequency=9),
    "HRA": HRAConfig(task_type="CAUSAL_LM", target_modules=ATTENTION),
    "IA3": IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "LN_TUNING": LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm"]),
    "LOHA": LoHaConfig(task_type="CAUSAL_LM", target_modules=ATTENTION),
    "LOKR": LoKrConfig(task_type="CAUSAL_LM", target_modules=ATTENTION),
    "OFT": OFTConfig(task_type="CAUSAL_LM", target_modules=ATTENTION, oft_block_size=4, r=0),
    "VERA": VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "o_proj"]),
}


def test_every_supported_kind_is_compared():
    assert set(CONFIGS) == {"LORA", *UNQUANTIZED_KINDS}


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_of_peft_answers_as_peft_does_on_an_unquantized_base(kind, toy_base, tmp_path):
    """LoHa was said to belong to another base, and BOFT was put on NF4's packed weights."""
    folder, model = written(toy_base, CONFIGS[kind], tmp_path / kind)
    classifier = Classifier.load(folder, quantization="none", labels=LABELS, template=TEMPLATE)
    np.testing.assert_allclose(
        classifier.predict_proba(TEXTS), probabilities(model, toy_base), atol=2e-6
    )
    stdout, _ = predicted(*TEXTS, "--adapter", folder, "--quantization", "none", *PLAIN)
    assert [line.split()[0] for line in stdout.splitlines()] == classifier.predict(TEXTS)
    if kind == "LORA":
        _, stderr = predicted(*TEXTS, "--adapter", folder, *PLAIN)
        assert "a plain PEFT adapter does not record it; its base is loaded in NF4" in stderr
        _, stderr = predicted(*TEXTS, "--adapter", folder, "--quantization", "nf4", *PLAIN)
        assert "quantization" not in stderr
    else:
        ask = ["predict", *TEXTS, "--adapter", folder, *PLAIN]
        message = f"is of PEFT's kind {kind}, which needs an unquantized base; load it with "
        failed(2, message + "--quantization=none", *ask)


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
        PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    ],
)
def test_prompt_learning_is_named_as_unsupported(config, toy_base, tmp_path):
    """It ended in a traceback: "Tensors must have same number of dimensions"."""
    folder, _ = written(toy_base, config, tmp_path / "prompt")
    message = f"has peft_type '{config.peft_type.value}', which is not supported; choose an adapter"
    line = failed(3, message, "predict", "x", "--adapter", folder, *PLAIN)
    assert re.search("of type LORA; on an unquantized base BOFT, .*, VERA work too", line)
    failed(3, message, "train", "--adapter", folder, f"base.name={toy_base}",
           "--output-dir", tmp_path / "run")  # fmt: skip


def test_an_adapter_with_a_classification_head_is_refused(toy_base, tmp_path):
    """peft #577, #876, #2367: the head was dropped, and the base's own one answered."""
    base = AutoModelForCausalLM.from_pretrained(toy_base)
    model = MistralForSequenceClassification(base.config)
    config = LoraConfig(task_type="SEQ_CLS", target_modules=ATTENTION)
    folder = tmp_path / "head"
    get_peft_model(model, config).save_pretrained(folder)
    with_config(folder, base_model_name_or_path=str(toy_base))
    ask = ["predict", "x", "--adapter", folder, *PLAIN]
    message = "has a head of its own (classifier, score) (task_type SEQ_CLS), but labels are "
    failed(2, message, *ask)
    failed(2, message, "train", "--adapter", folder, f"base.name={toy_base}")
    for task in ("SEQ_CLS", "TOKEN_CLS", "FEATURE_EXTRACTION", "SEQ_2_SEQ_LM"):
        with_config(folder, task_type=task, modules_to_save=None)
        failed(2, f"has another task (task_type {task}), but labels are scored with", *ask)
    for task in ("CAUSAL_LM", None):
        with_config(folder, task_type=task, modules_to_save=["score"])
        failed(2, "has a head of its own (score)", *ask)
        with_config(folder, modules_to_save=None)  # the head is in the weights alone
        failed(3, "adapter_config.json and the base have no place (base_model.model.score", *ask)


# --- what the file holds is what the model has ----------------------------------------------------


@pytest.fixture
def adapter(toy_run, tmp_path):
    return shutil.copytree(toy_run, tmp_path / "a", ignore=shutil.ignore_patterns("checkpoint*"))


def with_config(adapter, **values):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # PEFT then takes what it deems usual, two of seven modules, and drops the other weights.
        ({"target_modules": None}, "adapter_model.safetensors has 20 tensors for which "),
        ({"target_modules": ["q_proj"]}, "adapter_model.safetensors has 24 tensors for which "),
        ({"layers_to_transform": [0]}, "adapter_model.safetensors has 14 tensors for which "),
        ({"modules_to_save": ["lm_head"]}, "(KeyError: 'base_model.model.lm_head.weight')"),
        ({"use_dora": True}, "lacks some of the adapter's weights (14 tensors)"),
        ({"lora_bias": True}, "lacks some of the adapter's weights (14 tensors)"),
    ],
)
def test_weights_that_the_configuration_has_no_place_for_are_refused(adapter, values, message):
    with_config(adapter, **values)
    message = failed(3, message, "predict", "x", "--adapter", adapter)
    assert message.endswith("belongs to another base: restore it, or train again")


def test_a_weight_that_is_in_the_file_alone_is_refused(adapter):
    (adapter / "checksums.json").unlink()  # as in an adapter of plain PEFT
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    other = {"base_model.model.score.weight": torch.ones(2, 64)}
    save_file({**tensors, **other}, weights, metadata={"format": "pt"})
    message = "has 1 tensor for which adapter_config.json and the base have no place ("
    failed(3, f"{message}base_model.model.score.weight)", "predict", "x", "--adapter", adapter)


@pytest.mark.parametrize(
    "values",
    [
        {"bias": "zz"},
        {"bias": 3},
        {"r": 0},
        {"r": -1},
        {"r": 2.5},
        {"r": [1]},
        {"lora_alpha": "x"},
        {"lora_alpha": None},
        {"lora_dropout": 7},
        {"lora_dropout": "x"},
        {"rank_pattern": {"q_proj": "x"}},
        {"rank_pattern": 3},
        {"alpha_pattern": {"q_proj": "x"}},
        {"layers_to_transform": [99]},
        {"layer_replication": [[0, 99]]},
        {"modules_to_save": "score"},
        {"modules_to_save": ["nothing"]},
        {"exclude_modules": 3},
        {"init_lora_weights": "zz"},
        {"target_modules": 3},
        {"target_modules": ["nothing"]},
        {"target_modules": "("},
        {"target_parameters": ["nothing"]},
        {"trainable_token_indices": "x"},
        {"megatron_config": {"a": 1}},
        {"loftq_config": 3},
        {"task_type": "zz"},
        {"peft_type": "zz"},
        {"peft_type": None},
        {"base_model_name_or_path": None},
    ],
    ids=str,
)
def test_nonsense_in_adapter_config_is_one_line(adapter, values):
    with_config(adapter, **values)
    code, stdout, stderr = run("predict", "x", "--adapter", adapter)
    if code == 0:  # PEFT makes nothing of the value
        assert len(stdout.splitlines()) == 1 and "rror" not in stderr
        return
    assert code in (2, 3)
    assert [line.startswith("error: ") for line in stderr.splitlines()].count(True) == 1


def test_a_warning_of_peft_is_one_line(adapter, capfd):
    with_config(adapter, future_option=1)
    code, _, stderr = run("predict", "x", "--adapter", adapter)
    assert code == 0
    [line] = [line for line in stderr.splitlines() if "future_option" in line]
    assert line.startswith("warning: ")
    assert "UserWarning" not in stderr + capfd.readouterr().err


# --- the base under an adapter -------------------------------------------------------------------


@pytest.fixture(scope="module")
def biased_base(toy_base, tmp_path_factory):
    """A Qwen of one layer, whose attention has biases."""
    folder = tmp_path_factory.mktemp("biased") / "base"
    tokenizer = AutoTokenizer.from_pretrained(toy_base)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.data.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_the_base_of_an_adapter_with_biases_is_the_untouched_base(
    bias, engine, biased_base, tmp_path
):
    """PEFT warns of this, and `evaluate` showed its row as "base": 3.7613 for a loss of 3.7624."""
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], bias=bias)
    folder, _ = written(biased_base, config, tmp_path / "biased")
    assert any(name.endswith(".bias") for name in load_file(folder / "adapter_model.safetensors"))
    options = {"engine": engine}
    classifier = Classifier.load(folder, labels=LABELS, template=TEMPLATE, **options)
    adapted = classifier.predict_proba(TEXTS)
    alone = Classifier.from_base(biased_base, _format(), **options)
    with classifier.adapter_disabled():
        disabled = classifier.predict_proba(TEXTS)
    # With trained biases PEFT's layers take the plain path, and the base alone the engine's.
    tolerance = 0 if engine == "reference" else 1e-7
    np.testing.assert_allclose(disabled, alone.predict_proba(TEXTS), rtol=0, atol=tolerance)
    np.testing.assert_array_equal(classifier.predict_proba(TEXTS), adapted)
    assert abs(adapted - disabled).max() > 1e-6


def test_evaluate_measures_the_untouched_base_after_training_biases(biased_base, tmp_path):
    folder = tmp_path / "run"
    settings = ["data.num_train=24", "data.num_evaluation=8", "training.max_steps=4",
                "training.eval_steps=2", "training.save_steps=2",
                "training.learning_rate=0.01"]  # fmt: skip
    code, _, stderr = run("train", f"base.name={biased_base}", "lora.bias=all", *settings,
                          "--output-dir", folder)  # fmt: skip
    assert code == 0, stderr
    rows = ["data.num_test=16", "--json"]
    code, stdout, stderr = run("evaluate", "--adapter", folder, *rows)
    assert code == 0 and "Careful" not in stderr, stderr
    alone = json.loads(run("evaluate", "--base", biased_base, *rows)[1])
    loss = alone["base"]["log_loss"]
    assert json.loads(stdout)["base"]["log_loss"] == pytest.approx(loss, abs=1e-6)
    assert abs(json.loads(stdout)["adapter"]["log_loss"] - loss) > 1e-4


def test_a_head_with_an_adapter_is_counted_in_16_bits(toy_base):
    """bitsandbytes leaves `lm_head` as it is, and the memory estimate counted it as NF4."""

    def bytes_of(targets):
        model, _ = load_structure(str(toy_base))
        shape = shape_of(
            attach_adapter(model, r=4, lora_alpha=8, lora_dropout=0.0, bias="none",
                           target_modules=targets)
        )  # fmt: skip
        return shape.base_bytes(2, True, False)

    assert bytes_of(["q_proj", "lm_head"]) == bytes_of(["q_proj"]) > nf4_bytes(64 * 64, False)


# --- keywords of the wrong type ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keywords", "setting"),
    [
        ({"batch_size": "x"}, "batch_size"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"max_memory_gib": "x"}, "max_memory_gib"),
        ({"max_memory_gib": float("nan")}, "max_memory_gib"),
        ({"attn_implementation": 5}, "attn_implementation"),
        ({"device": 5}, "device"),
        ({"compute_dtype": torch.float32}, "compute_dtype"),
        ({"engine": False}, "engine"),
        ({"quantization": "int8"}, "quantization"),
        ({"quantization": 4}, "quantization"),
        ({"base": 5}, "base"),
    ],
)
def test_a_keyword_of_the_wrong_type_is_named(keywords, setting, toy_run):
    import sentilora

    for call in (
        lambda: Classifier.load(toy_run, **keywords),
        lambda: sentilora.predict(["x"], adapter=toy_run, **keywords),
        lambda: sentilora.evaluate(toy_run, **keywords),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.setting == setting


def test_arguments_of_the_wrong_type_are_named(toy_run):
    import sentilora

    config = sentilora.load_config()
    for call, setting in (
        (lambda: Classifier.load(5), "adapter"),
        (lambda: Classifier.load(toy_run, labels="positive,negative"), "labels"),
        (lambda: sentilora.evaluate(toy_run, overrides=["data.num_test=4"]), "overrides"),
        (lambda: sentilora.evaluate(toy_run, target_accuracy="x"), "target_accuracy"),
        (lambda: sentilora.load_config(overrides="training.seed=1"), "overrides"),
        (lambda: sentilora.load_config(overrides=5), "overrides"),
        (lambda: sentilora.load_config(overrides=[5]), None),
        (lambda: sentilora.load_config(values=["training.seed"]), "values"),
        (lambda: sentilora.train_seeds(config, "5"), "seeds"),
        (lambda: sentilora.train_seeds(config, 2.0), "seeds"),
        (lambda: sentilora.train_sizes(config, "10,20"), "sizes"),
        (lambda: sentilora.train_sizes(config, 10), "sizes"),
        (lambda: sentilora.train_sizes(config, ["10", "20"]), "sizes"),
    ):
        with pytest.raises((UsageError, DataError)) as caught:
            call()
        assert caught.value.setting == setting
