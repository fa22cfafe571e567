"""GGUF files that a test writes itself, with the package gguf, from a base shaped as Llama is."""

import json

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}</s>{% endfor %}"
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Q8_0, Q4_1 = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_1


def gguf_name(name):
    """A weight's name as llama.cpp has it."""
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name.replace("model.layers.", "blk.")


def in_pairs(weight, num_heads):
    """The rows of a query or key projection in llama.cpp's order: rotary pairs side by side."""
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def decoded(weight, kind):
    """A weight after it was stored in blocks, as float16."""
    blocks = quantize(weight.float().numpy(), kind)
    return torch.from_numpy(dequantize(blocks, kind)).to(torch.float16)


def write_gguf(path, base, *, kind=None, words="gpt-2", architecture="llama", without=()):
    """Write a base to a GGUF file; returns the path.

    kind: of the blocks in which matrices are stored; None stores float32. words: the name of the
    way in which texts are split into words. without: weights to leave out, in llama.cpp's names.
    """
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_name("Toy")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    write_tokenizer(writer, tokenizer, words)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        name, weight = gguf_name(name), tensor.float().numpy()
        if name in without:
            continue
        if num_heads := heads.get(name.split(".")[-2]):
            weight = in_pairs(weight, num_heads)
        if kind is not None and weight.ndim == 2:
            writer.add_tensor(name, quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_tokenizer(writer, tokenizer, words):
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = set(tokenizer.all_special_tokens)
    state = tokenizer.backend_tokenizer.model.__getstate__()
    merges = json.loads(state)["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list(vocabulary)
    writer.add_token_types(
        [TokenType.CONTROL if token in special else TokenType.NORMAL for token in vocabulary]
    )
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)
