"""Load a base model in 4 bits, its tokenizer, or its structure without weights.

    base = load_base(BaseReference("embedded"), Runtime(device="cpu"))

Training, evaluation and prediction load bases with the same function, so a reloaded classifier
computes what it computed in training.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.folders.classifier_file import BaseReference
from sentilora.models.base_cache import cache_folder, store
from sentilora.models.base_source import (
    SETTINGS,
    Spelling,
    is_stored_quantized,
    readable,
    require_causal,
    require_complete,
    without_loading_report,
)
from sentilora.models.device import choose_device, choose_dtype, place_of_process
from sentilora.models.four_bits import import_bitsandbytes, linear_4bit_modules
from sentilora.models.gguf_file import loadable_source
from sentilora.models.runtime import Runtime
from sentilora.progress import detail, is_main_process
from sentilora.wording import quoted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Base:
    """A loaded base model with its tokenizer, device and dtype.

    revision: commit of the hub if there is one, else the revision in the reference. cached_in:
    folder of the cached copy in NF4; None if there is none. from_cache: whether the base was read
    from that folder rather than just written to it. is_stored_quantized: whether its own
    files are quantized.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    device: str
    dtype: "torch.dtype"
    dtype_reason: str
    revision: str
    cached_in: Path | None = None
    from_cache: bool = False
    is_stored_quantized: bool = False

    @property
    def pad_token_id(self) -> int:
        """The token that pads rows: the pad token, or EOS if the tokenizer has none."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id)


def load_base(
    reference: BaseReference,
    runtime: Runtime,
    *,
    cache_quantized: bool = False,
    spelling: Spelling = SETTINGS,
) -> Base:
    """A causal LM, its linear layers in NF4 unless the reference's quantization is "none".

    A base that is stored quantized keeps its own quantization. cache_quantized: keep the quantized
    base on disk; later loads use it, with or without this flag. Raises `DataError` when the base
    cannot be read or lacks weights, `UsageError` when it is not a causal LM, or when the device,
    dtype or quantization is unavailable.
    """
    name, revision = reference.name, reference.revision
    source = loadable_source(name, spelling)
    import_bitsandbytes()  # before transformers does
    from transformers import AutoConfig

    device = choose_device(runtime.device)
    dtype, reason = choose_dtype(runtime.compute_dtype, device, runtime.assume_capability)
    detail(f"base {quoted(name)} on {device}, computing in {str(dtype)[6:]} ({reason})")
    with readable(name, spelling):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        require_causal(config, name)
        is_quantized = is_stored_quantized(config, name, reference.quantization, spelling)
    commit = getattr(config, "_commit_hash", None)
    cache = None
    if reference.quantization == "nf4" and not is_quantized:
        double = reference.double_quantization
        cache = cache_folder(source, commit, device, dtype, double)
    from_cache = cache is not None and cache.is_dir()
    if from_cache:
        detail(f"NF4 base loaded from {quoted(cache)}")
        origin = f"{cache} (remove that folder to read {quoted(name)} again)"
        model = _load_weights(
            origin, str(cache), reference, runtime, device, dtype, False, spelling
        )
    else:
        to_quantize = cache is not None
        model = _load_weights(
            name, source, reference, runtime, device, dtype, to_quantize, spelling
        )
    keep = cache is not None and not from_cache and cache_quantized and is_main_process()
    if cache is not None and keep:
        store(model, cache)
    _compute_in(model, dtype)
    tokenizer = load_tokenizer(name, revision, spelling)
    cached_in = cache if from_cache or keep else None
    return Base(
        model=model,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
        dtype_reason=reason,
        revision=commit or revision,
        cached_in=cached_in,
        from_cache=from_cache,
        is_stored_quantized=is_quantized,
    )


def _load_weights(
    name: str,
    source: str,
    reference: BaseReference,
    runtime: Runtime,
    device: str,
    dtype: "torch.dtype",
    to_quantize: bool,
    spelling: Spelling,
) -> "PreTrainedModel":
    """The model in `source`, quantized while it is read if `to_quantize`.

    name: the base's name in messages. Raises `DataError` when weights are missing.
    """
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options = {}
    if to_quantize:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=reference.double_quantization,
            bnb_4bit_compute_dtype=dtype,
        )
    result: Any = None  # transformers declares the type without the information
    with readable(name, spelling), without_loading_report():
        result = AutoModelForCausalLM.from_pretrained(
            source,
            revision=reference.revision,
            trust_remote_code=False,
            dtype=dtype,
            device_map={"": place_of_process(device)},
            attn_implementation=runtime.attn_implementation,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by their names
            **options,
        )
    model: PreTrainedModel = result[0]
    require_complete(model, result[1], name, spelling)
    return model


def _compute_in(model: "PreTrainedModel", dtype: "torch.dtype") -> None:
    """Freeze a base and make it compute in `dtype`, whatever dtype it is stored in."""
    for module in linear_4bit_modules(model):
        module.compute_dtype = dtype
        module.compute_type_is_set = True
        # In eval mode, the first forward of bitsandbytes 0.50.2 repacks the weight for an op that
        # has no autograd. From then on, most gradients of the adapter are zero, without any error.
        module.support_avx512bf16_for_cpu = False
    for parameter in model.parameters():
        # transformers keeps the unquantized tensors of a quantized base in their stored dtype.
        if parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
    model.requires_grad_(False)


def load_structure(
    name: str,
    *,
    revision: str = "main",
    quantization: str = "nf4",
    attn_implementation: str = "sdpa",
) -> tuple["PreTrainedModel", bool]:
    """The base's modules without weights, unquantized on torch's meta device.

    Also returns whether the base is stored quantized. Raises the errors of `load_base`.
    """
    source = loadable_source(name)
    import_bitsandbytes()  # before transformers does
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with readable(name, SETTINGS):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        require_causal(config, name)
        is_quantized = is_stored_quantized(config, name, quantization, SETTINGS)
        if is_quantized:
            del config.quantization_config
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=attn_implementation
            )
    return model.requires_grad_(False), is_quantized


def beyond_positions(model: "PreTrainedModel", max_length: int) -> str | None:
    """A warning if prompts may have more tokens than the base has positions, else None."""
    num_positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if num_positions is None or max_length <= num_positions:
        return None
    return (
        f"prompt.max_length is {max_length:,}, but the base has {num_positions:,} positions: "
        "longer prompts get poor answers or fail"
    )


def load_tokenizer(
    name: str, revision: str = "main", spelling: Spelling = SETTINGS
) -> "PreTrainedTokenizerBase":
    """The tokenizer of a base. Does not import bitsandbytes, which takes 190 MB."""
    source = loadable_source(name, spelling)
    from transformers import AutoTokenizer

    with readable(name, spelling):
        return AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
