"""Random models of every structure that the engine supports, small enough for a hundred tests.

The plain path here is PEFT's own forward, one row at a time, without padding, packing or sharing.
Biases, norm weights and lora_B are random: zeros and ones, the defaults, would hide errors.
"""

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sentilora.engine.swap import install
from sentilora.prompt import IGNORE_INDEX
from sentilora.scoring.batching import pack_answers, packed_answer_loss

VOCABULARY = 97
KINDS = {
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
    "llama": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def make_base(
    kind, dtype=torch.float32, *, nf4=False, double_quantization=True, num_layers=3, **options
):
    """A frozen base: 3 layers, hidden 48, 4 heads of 12, 2 of them with keys; every weight random.

    nf4: its linear layers in bitsandbytes' NF4, hidden 64 and heads of 16.
    """
    config_class, model_class, extra = KINDS[kind]
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64 if nf4 else 48,
        "intermediate_size": 128 if nf4 else 88,
        "num_hidden_layers": num_layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16 if nf4 else 12,
        "max_position_embeddings": 256,
        "tie_word_embeddings": False,
    }
    config = config_class(**{**sizes, **extra, **options})
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = model_class(config).to(dtype)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("norm.weight"):
                    parameter.uniform_(0.5, 1.5)
                elif name.endswith("bias"):
                    parameter.normal_(0.0, 0.3)
                else:
                    parameter.normal_(0.0, 0.12)
    model.requires_grad_(False)
    return _quantize(model, double_quantization) if nf4 else model.eval()


def _quantize(model, double_quantization):
    from sentilora.models.four_bits import import_bitsandbytes

    bitsandbytes = import_bitsandbytes()
    num = 0
    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        linear = bitsandbytes.nn.Linear4bit(
            module.in_features,
            module.out_features,
            bias=module.bias is not None,
            compute_dtype=module.weight.dtype,
            compress_statistics=double_quantization,
            quant_type="nf4",
        )
        linear.weight = bitsandbytes.nn.Params4bit(
            module.weight.data,
            requires_grad=False,
            compress_statistics=double_quantization,
            quant_type="nf4",
        )
        linear.bias = module.bias
        model.set_submodule(name, linear.to("cpu"))
        linear.compute_type_is_set = True
        linear.support_avx512bf16_for_cpu = False  # see sentilora.model.load_base
        num += 1
    assert num == 7 * model.config.num_hidden_layers
    model.is_loaded_in_4bit = True  # so PEFT takes its own 4-bit layers
    return model.requires_grad_(False).eval()


def add_lora(base, *, dropout=0.0, r=4, name="default", seed=1, **options):
    """PEFT's LoRA on a base (or on a PEFT model, as one adapter more), lora_B random."""
    config = LoraConfig(
        **{
            "r": r,
            "lora_alpha": 7,
            "lora_dropout": dropout,
            "target_modules": PROJECTIONS,
            "task_type": "CAUSAL_LM",
            **options,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if hasattr(base, "peft_config"):
            base.add_adapter(name, config)
            model = base
        else:
            model = get_peft_model(base, config, adapter_name=name)
        randomize_B(model, name)
    return model


def randomize_B(model, name="default"):
    """Fill lora_B of one adapter; PEFT begins with zeros, and half of all gradients would be 0."""
    num = 0
    for parameter_name, parameter in model.named_parameters():
        if f".lora_B.{name}." in parameter_name:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
            num += 1
    assert num


def make_model(kind, dtype=torch.float32, *, nf4=False, dropout=0.0, lora=None, **options):
    """A base with one adapter on all seven projections, in training mode."""
    return add_lora(make_base(kind, dtype, nf4=nf4, **options), dropout=dropout, **(lora or {}))


def installed(model):
    """The engine of a model that it must fit."""
    engine = install(model)
    assert engine is not None
    engine.refresh()
    return engine


def make_rows(lengths, num_answers, *, shared=5, seed=3):
    """Random rows (`shared` first tokens alike) and labels: the last `num_answers[i]` tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(num):
        return torch.randint(3, VOCABULARY, (num,), generator=generator).tolist()

    beginning = draw(shared)
    rows = [beginning[:length] + draw(max(0, length - shared)) for length in lengths]
    labels = [
        [IGNORE_INDEX] * (len(row) - num) + row[-num:]
        for row, num in zip(rows, num_answers, strict=True)
    ]
    return rows, labels


# Rows of odd lengths, of unequal answers; of one token's review (shared + 1 + 2); one alone; some
# that begin differently at once; the same one twice; one beside many short ones.
CASES = {
    "odd lengths": make_rows([17, 8, 31, 13, 11], [2, 3, 2, 4, 1]),
    "a one-token review": make_rows([8, 23, 19], [2, 2, 3]),
    "one example": make_rows([29], [3]),
    "one short example": make_rows([3], [1]),
    "nothing shared": make_rows([9, 14, 5], [2, 1, 3], shared=0),
    "the same row twice": make_rows([12, 12], [2, 2], shared=12),
    "the longest beside short ones": make_rows([120, 9, 10, 8, 9], [2, 2, 3, 2, 2], shared=4),
    "a beginning longer than what follows": make_rows([43, 47, 45], [2, 2, 3], shared=40),
}


def weights_of(rows):
    return [1.0 + 0.25 * i for i in range(len(rows))]


def plain_logits(model, row):
    """Logits (tokens, vocabulary) of one row by the model's own forward."""
    return model(input_ids=torch.tensor([row]), use_cache=False).logits[0]


def plain_losses(model, rows, labels):
    """Cross-entropy per row, summed over its answer: PEFT's own path, a row at a time."""
    losses = []
    for row, label in zip(rows, labels, strict=True):
        logits = plain_logits(model, row[:-1])
        losses.append(
            torch.nn.functional.cross_entropy(logits, torch.tensor(label[1:]), reduction="sum")
        )
    return torch.stack(losses)


def gradients(model, loss):
    """Loss, and every trained parameter's gradient by name."""
    model.zero_grad()
    loss.backward()
    named = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return loss.detach(), named


def plain_gradients(model, rows, labels):
    weights = torch.tensor(weights_of(rows), dtype=next(model.parameters()).dtype)
    return gradients(model, (plain_losses(model, rows, labels) * weights).sum())


def packed_gradients(model, rows, labels, **options):
    answers = pack_answers(rows, labels, weights_of(rows), "cpu", **options)
    loss = packed_answer_loss(model, answers.packed, answers.targets_A, answers.weights_A)
    return gradients(model, loss)


def assert_close(got, expected, tolerance, num):
    """Losses and gradients: every one of `num` parameters, none of them zero; errors relative."""
    (loss, ours), (their_loss, theirs) = got, expected
    assert abs(loss - their_loss) <= tolerance * abs(their_loss)
    assert ours.keys() == theirs.keys() and len(ours) == num
    for name, gradient in theirs.items():
        size = gradient.norm()
        assert size > 0, f"{name} has no gradient in the plain path"
        error = (ours[name] - gradient).norm() / size
        assert error <= tolerance, f"{name}: {error:.2g}"


def assert_equal(got, expected, num):
    """Losses and gradients are the same bits."""
    assert torch.equal(got[0], expected[0])
    assert got[1].keys() == expected[1].keys() and len(got[1]) == num
    for name, gradient in expected[1].items():
        assert gradient.any() and torch.equal(got[1][name], gradient), name


def state_of(model):
    """What installing must not change: modules, their classes and modes, attributes, parameters."""
    modules = [
        (name, type(module), module.training, sorted(vars(module)))
        for name, module in model.named_modules()
    ]
    parameters = [(n, id(p), p.requires_grad, p._version) for n, p in model.named_parameters()]
    assert len(modules) > 30 and len(parameters) > 20
    return modules, parameters
