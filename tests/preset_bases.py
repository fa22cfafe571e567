"""The bases of the presets: their true shapes, and models small enough for a test in their image.

Where a shape is from: the `config.json` of each base on the hub.
"""

import json

import torch
from tokenizers import AddedToken
from toy_tokenizers import make_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from sentilora.shipped import reviews_path


def shape(hidden, intermediate, layers, heads, key_heads, head, vocabulary, tied, **others):
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        **others,
    }


GEMMA = {"rope_theta": 1_000_000.0, "query_pre_attn_scalar": 256}
# transformers' configuration, and its values; of Gemma 3 4B those of the part that reads text.
SHAPES = {
    "smollm2-135m": (LlamaConfig, shape(576, 1536, 30, 9, 3, 64, 49152, True)),
    "llama-3.2-1b": (LlamaConfig, shape(2048, 8192, 16, 32, 8, 64, 128256, True)),
    "llama-3.2-3b": (LlamaConfig, shape(3072, 8192, 28, 24, 8, 128, 128256, True)),
    "qwen3-0.6b": (Qwen3Config, shape(1024, 3072, 28, 16, 8, 128, 151936, True)),
    "qwen3-1.7b": (Qwen3Config, shape(2048, 6144, 28, 16, 8, 128, 151936, True)),
    "qwen3-4b": (Qwen3Config, shape(2560, 9728, 36, 32, 8, 128, 151936, True)),
    "qwen3-8b": (Qwen3Config, shape(4096, 12288, 36, 32, 8, 128, 151936, False)),
    "gemma-3-1b": (
        Gemma3TextConfig,
        shape(1152, 6912, 26, 4, 1, 256, 262144, True, sliding_window=512, **GEMMA),
    ),
    "gemma-3-4b": (
        Gemma3Config,
        shape(2560, 10240, 34, 8, 4, 256, 262208, True, sliding_window=1024, **GEMMA),
    ),
    "mistral-7b": (
        MistralConfig,
        shape(4096, 14336, 32, 32, 8, 128, 32000, False, sliding_window=4096),
    ),
    "mistral-7b-v0.3": (
        MistralConfig,
        shape(4096, 14336, 32, 32, 8, 128, 32768, False, sliding_window=None),
    ),
    "ministral-8b": (
        MistralConfig,
        shape(4096, 12288, 36, 32, 8, 128, 131072, False, sliding_window=32768),
    ),
}
VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 896,
    "patch_size": 14,
    "vision_use_head": False,
}
SMALL_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "THOUGHTS{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}THOUGHTS{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + "
    "'<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == "
    "'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]BLANK' + m.content "
    "+ '[/INST]' }}{% else %}{{ 'BLANK' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# What each family's tokenizer has: special tokens, EOS, whether it puts BOS first, chat template.
TOKENIZERS = {
    "smollm2": (
        ["<|im_start|>", "<|im_end|>"], "<|im_end|>", False, CHATML.replace("THOUGHTS", "")
    ),
    "llama": (
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<|eot_id|>", True, HEADERS
    ),
    "qwen3": (
        ["<|im_start|>", "<|im_end|>"],
        "<|im_end|>",
        False,
        CHATML.replace("THOUGHTS", "{{ '<think>\n\n</think>\n\n' }}"),
    ),
    "gemma": (["<start_of_turn>", "<end_of_turn>"], "</s>", True, TURNS),
    "mistral": (["[INST]", "[/INST]"], "</s>", True, BRACKETS.replace("BLANK", " ")),
    "ministral": (["[INST]", "[/INST]"], "</s>", True, BRACKETS.replace("BLANK", "")),
}  # fmt: skip


def config_of(name):
    """The configuration of a preset's base, at its true size."""
    kind, values = SHAPES[name]
    if kind is Gemma3Config:
        return Gemma3Config(text_config=values, vision_config=VISION)
    return kind(**values)


def small_config(name, vocabulary, window=24):
    """The same architecture: as many query heads to a key head, wide heads, windows, ties."""
    kind, values = SHAPES[name]
    group = values["num_attention_heads"] // values["num_key_value_heads"]
    is_wide = values["head_dim"] * values["num_attention_heads"] > values["hidden_size"]
    small = {
        **values,
        "hidden_size": 32 * (group if group > 2 else 2),
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": group if group > 2 else 2 * group,
        "num_key_value_heads": 1 if group > 2 else 2,
        "head_dim": 64 if is_wide else 32,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if values.get("sliding_window"):
        small["sliding_window"] = window  # shorter than the prompts
    if name.startswith("gemma"):
        types = ["sliding_attention", "full_attention", "sliding_attention"]
        small |= {"layer_types": types, "query_pre_attn_scalar": 64}
    if kind is Gemma3Config:
        return Gemma3Config(text_config=small, vision_config=SMALL_VISION, mm_tokens_per_image=1)
    return kind(**small)


def small_tokenizer(name):
    """A tokenizer with the habits of the family's: BOS, special tokens, EOS, chat template."""
    family = next(family for family in TOKENIZERS if name.startswith(family))
    names, eos, adds_bos, template = TOKENIZERS[family]
    lines = reviews_path("train").read_text(encoding="utf-8").splitlines()
    tokenizer = make_tokenizer([json.loads(line)["text"] for line in lines[:80]], 500)
    tokens = [AddedToken(name, special=True, normalized=False) for name in names]
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    tokenizer.eos_token = eos
    if not adds_bos:
        from tokenizers import processors

        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.chat_template = template
    return tokenizer


def write_small(name, folder):
    """Write a random model of a preset's architecture, with its tokenizer."""
    tokenizer = small_tokenizer(name)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = small_config(name, len(tokenizer))
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.dim() == 2:  # random weights answer alike; larger ones do not
                torch.nn.init.normal_(parameter, 0.0, 0.06)
        model.save_pretrained(folder)
