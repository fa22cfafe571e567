"""A GPU's answers without a GPU, and models without weights: what plans are compared on."""

from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from tiny_models import PROJECTIONS
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from sentilora.engine import swap
from sentilora.engine.structure import find_layers
from sentilora.engine.swap import Engine

GIB = 2**30
# Layers, hidden, MLP, heads, heads with keys; with as many as heads there is no grouping.
SHAPES = {
    "7B": (MistralConfig, MistralForCausalLM, (32, 4096, 14336, 32, 8), 16),
    "7B without grouping": (LlamaConfig, LlamaForCausalLM, (32, 4096, 11008, 32, 32), 64),
    "135M": (LlamaConfig, LlamaForCausalLM, (30, 576, 1536, 9, 3), 16),
    "tiny": (MistralConfig, MistralForCausalLM, (6, 256, 512, 8, 2), 16),
    "one layer": (MistralConfig, MistralForCausalLM, (1, 256, 512, 4, 4), 8),
    "ranks without kernels": (LlamaConfig, LlamaForCausalLM, (16, 2048, 8192, 32, 8), 128),
}
LIMITS = [4.5, 6.0, 8.0, 16.0, 24.0, 40.0, 80.0]
LENGTHS = {"short": [60, 80, 110], "reviews": [300, 318, 512], "long": [900, 4000, 8192]}
OPTIMS = ["adamw_torch", "paged_adamw_32bit", "paged_adamw_8bit"]


def make_meta(name):
    """A model with LoRA on all projections, shapes only."""
    config_class, model_class, sizes, rank = SHAPES[name]
    layers, hidden, intermediate, heads, key_heads = sizes
    config = config_class(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=32000,
        tie_word_embeddings=name == "135M",
    )
    lora = LoraConfig(r=rank, target_modules=PROJECTIONS, task_type="CAUSAL_LM")
    with torch.device("meta"):
        return get_peft_model(model_class(config).bfloat16().requires_grad_(False), lora)


@dataclass
class FakeGpu:
    """The answers of `torch.cuda` for an 80 GiB card, of which other processes use some."""

    others: int = 500 * 2**20
    allocated: int = 0
    total: int = 80 * GIB
    fraction: float = 1.0

    @property
    def reserved(self):
        return self.allocated + self.allocated // 50  # the allocator holds more than it hands out

    def mem_get_info(self, device):
        return self.total - self.others - self.reserved, self.total

    def memory_reserved(self, device):
        return self.reserved

    def memory_allocated(self, device):
        return self.allocated

    def get_per_process_memory_fraction(self, device):
        return self.fraction

    def answer(self, monkeypatch):
        for name in ("mem_get_info", "memory_reserved", "memory_allocated",
                     "get_per_process_memory_fraction"):  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))


def engine_of(model, monkeypatch):
    """An engine that acts as on a GPU with Triton."""
    engine = Engine(model, find_layers(model), 9.0)
    monkeypatch.setattr(engine, "device", torch.device("cuda"))
    monkeypatch.setattr(swap, "use_triton", lambda x: True)
    return engine
