"""For tests with llama.cpp: when they run, and a base whose tokenizer llama.cpp knows."""

import os
from importlib.util import find_spec

import pytest

SDIST = os.environ.get("LLAMA_CPP_SDIST", "")
needs_llama_cpp = [
    pytest.mark.llama_cpp,
    pytest.mark.skipif(
        find_spec("llama_cpp") is None or not SDIST,
        reason="no llama-cpp-python here, or LLAMA_CPP_SDIST does not name its source distribution",
    ),
]


def write_llama(folder):
    """A random Llama whose tokenizer is of the kind of Llama 2's: pieces, and bytes for the rest.

    Its pieces are single characters: llama.cpp does not get the order of longer ones.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", *map(chr, range(33, 127))]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        add_prefix_space=False,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(pieces), hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
