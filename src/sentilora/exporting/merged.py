"""Base and adapter as one model in 16 bits, for programs that do not load adapters.

transformers does not save what is merged into a 4-bit base, so the base is dequantized first: each
4-bit layer is replaced by a plain one with the values that training computed with. Everything is
added in float32, four bytes per parameter on the CPU, and rounded once.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sentilora.errors import UsageError
from sentilora.exporting.own_runtime import InTransformers
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.classifier_file import BaseReference
from sentilora.models.adapters import load_adapter
from sentilora.models.base_source import KEYWORDS, readable, without_loading_report
from sentilora.models.bases import load_base
from sentilora.models.device import place_of_process
from sentilora.models.four_bits import import_bitsandbytes, linear_4bit_modules
from sentilora.models.gguf_file import loadable_source
from sentilora.models.runtime import Runtime
from sentilora.wording import quoted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = ("float16", "bfloat16", "float32")
Weights = Literal["trained", "original"]


def require_mergeable(folder: AdapterFolder, reference: BaseReference, weights: Weights) -> None:
    """Raise `UsageError` unless an adapter can be merged into these weights of its base."""
    from transformers import AutoConfig

    source = loadable_source(reference.name, KEYWORDS)
    with readable(reference.name, KEYWORDS):
        config: Any = AutoConfig.from_pretrained(
            source, revision=reference.revision, trust_remote_code=False
        )
    is_quantized = getattr(config, "quantization_config", None) is not None
    if is_quantized and weights == "original":
        raise UsageError(
            f"the base {quoted(reference.name)} is stored quantized: it has no original weights",
            setting="weights",
            seen=weights,
            remedy="leave `weights` at trained",
        )
    if folder.peft.model_dump().get("modules_to_save"):
        raise UsageError(
            f"the adapter in {quoted(folder.path)} trained whole modules (modules_to_save)",
            setting="adapter",
            seen=str(folder.path),
            remedy="export it as adapter",
        )


def merged_model(
    folder: AdapterFolder, reference: BaseReference, weights: Weights, dtype: str
) -> "PreTrainedModel":
    """The base with the adapter added to its weights, in `dtype`, on the CPU."""
    import torch

    if weights == "original":
        reference = replace(reference, quantization="none")
    runtime = Runtime(device="cpu", compute_dtype="float32", engine="reference")
    base = load_base(reference, runtime, spelling=KEYWORDS)
    dequantize(base.model, reference.name)
    merged: Any = load_adapter(base.model, folder, spelling=KEYWORDS)
    model: PreTrainedModel = merged.merge_and_unload(safe_merge=True)
    return model.to(getattr(torch, dtype))


def dequantize(model: "PreTrainedModel", name: str) -> None:
    """Replace each 4-bit layer of a model by a plain one in float32.

    Raises `UsageError` when the model is quantized in another way.
    """
    import torch

    bitsandbytes = import_bitsandbytes()
    config: Any = getattr(model.config, "quantization_config", None)
    if config is None:
        return
    layers = {id(layer): layer for layer in linear_4bit_modules(model)}
    if not layers:
        method = getattr(config, "quant_method", None) or "another method"
        raise UsageError(
            f"the base {quoted(name)} is quantized with {getattr(method, 'value', method)}, and "
            "only the 4-bit layers of bitsandbytes can be dequantized here",
            setting="base",
            seen=name,
            remedy="export the adapter itself, or train on the unquantized base",
        )
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            layer = layers.get(id(child))
            if layer is None:
                continue
            weight = bitsandbytes.functional.dequantize_4bit(
                layer.weight.data, layer.weight.quant_state
            )
            plain = torch.nn.Linear(
                layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
            )
            plain.weight = torch.nn.Parameter(weight.float(), requires_grad=False)
            if layer.bias is not None:
                plain.bias = torch.nn.Parameter(layer.bias.data.float(), requires_grad=False)
            setattr(parent, child_name, plain)
    _forget_quantization(model)


def _forget_quantization(model: Any) -> None:
    """Remove what transformers keeps of a model's quantization, and would convert back to."""
    del model.config.quantization_config
    # Of the last, the first 4-bit conversion has no reverse, so that saving would fail.
    for name in ("hf_quantizer", "quantization_method", "is_loaded_in_4bit", "_weight_conversions"):
        if name in vars(model):
            delattr(model, name)
    model.is_quantized = False


def name_answers(model: "PreTrainedModel", labels: tuple[str, ...], eos_token_id: int) -> None:
    """Let a model's config name the labels, and its generation stop after one.

    eos_token_id: the token that ends an answer.
    """
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}
    generation: Any = model.generation_config
    if generation is not None:
        ends = generation.eos_token_id
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        if eos_token_id not in ends:
            generation.eos_token_id = [*ends, eos_token_id]


def in_stock_transformers(out: Path, device: str) -> InTransformers:
    """A merged model as a reader without sentilora loads it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with without_loading_report():
        model = AutoModelForCausalLM.from_pretrained(
            str(out),
            dtype="auto",
            device_map={"": place_of_process(device)},
            trust_remote_code=False,
        )
    return InTransformers(model, AutoTokenizer.from_pretrained(str(out), trust_remote_code=False))
