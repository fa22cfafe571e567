"""Load a base model in 4 bits, its tokenizer, or its structure without weights.

    base = load_base(BaseReference("embedded"), Runtime(device="cpu"))

Training, evaluation and prediction load bases with the same function, so a reloaded classifier
computes what it computed in training.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.errors import DataError, SentiloraError, UsageError, first_line, is_out_of_memory
from sentilora.folders.classifier_file import BaseReference
from sentilora.hub import looks_like_hub_id, require_hub
from sentilora.models.base_cache import cache_folder, store
from sentilora.models.device import choose_device, choose_dtype, place_of_process
from sentilora.models.four_bits import import_bitsandbytes, linear_4bit_modules
from sentilora.models.runtime import Runtime
from sentilora.progress import is_main_process
from sentilora.shipped import EMBEDDED, embedded_base
from sentilora.wording import quoted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def resolve_base(name: str) -> str:
    """The argument for `from_pretrained` that stands for a base's name: a folder or a hub id.

    Raises `DataError` when a folder is missing or holds no model, or when the hub is unreachable.
    """
    if name == EMBEDDED:
        return embedded_base()
    if not name.strip():
        raise UsageError(
            "the name of the base is empty",
            setting="base.name",
            seen=name,
            remedy="use a hub id, a folder or embedded",
        )
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise DataError(
                f"{quoted(name)} is not a model folder: it has no config.json",
                setting="base.name",
                seen=name,
                remedy="choose a folder written by save_pretrained",
            )
        return str(path)
    if path.exists() or not looks_like_hub_id(name):
        raise DataError(
            f"there is no model folder {quoted(name)}",
            setting="base.name",
            seen=name,
            remedy="use a hub id, an existing folder or embedded",
        )
    require_hub(name, "load the base from a folder: base.name=FOLDER (evaluate: `base`=FOLDER)")
    return name


# --- loading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """A loaded base model with its tokenizer, device and dtype.

    revision: commit of the hub if there is one, else the revision in the reference. cached_in:
    folder of the cached copy in NF4; None if there is none. from_cache: whether the base was read
    from that folder rather than just written to it.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    device: str
    dtype: "torch.dtype"
    dtype_reason: str
    revision: str
    cached_in: Path | None = None
    from_cache: bool = False

    @property
    def pad_token_id(self) -> int:
        """The token that pads rows: the pad token, or EOS if the tokenizer has none."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id)


def load_base(reference: BaseReference, runtime: Runtime, *, cache_quantized: bool = False) -> Base:
    """A causal LM, its linear layers in NF4 unless the reference's quantization is "none".

    A base that is stored quantized keeps its own quantization. cache_quantized: keep the quantized
    base on disk; later loads use it, with or without this flag. Raises `DataError` when the base
    cannot be read, `UsageError` when the device, dtype or quantization is unavailable.
    """
    name, revision = reference.name, reference.revision
    source = resolve_base(name)
    import_bitsandbytes()  # before transformers does
    from transformers import AutoConfig

    device = choose_device(runtime.device)
    dtype, reason = choose_dtype(runtime.compute_dtype, device, runtime.assume_capability)
    with _readable(name):
        config = AutoConfig.from_pretrained(source, revision=revision)
        is_quantized = _is_stored_quantized(config, name, reference.quantization)
    commit = getattr(config, "_commit_hash", None)
    cache = None
    if reference.quantization == "nf4" and not is_quantized:
        double = reference.double_quantization
        cache = cache_folder(source, commit, device, dtype, double)
    from_cache = cache is not None and cache.is_dir()
    if from_cache:
        origin = f"{cache} (remove that folder to read {name} again)"
        model = _load_weights(origin, str(cache), reference, runtime, device, dtype, False)
    else:
        to_quantize = cache is not None
        model = _load_weights(name, source, reference, runtime, device, dtype, to_quantize)
    keep = cache is not None and not from_cache and cache_quantized and is_main_process()
    if cache is not None and keep:
        store(model, cache)
    _compute_in(model, dtype)
    tokenizer = load_tokenizer(name, revision)
    cached_in = cache if from_cache or keep else None
    return Base(model, tokenizer, device, dtype, reason, commit or revision, cached_in, from_cache)


def _load_weights(
    name: str,
    source: str,
    reference: BaseReference,
    runtime: Runtime,
    device: str,
    dtype: "torch.dtype",
    to_quantize: bool,
) -> "PreTrainedModel":
    """The model in `source`, quantized while it is read if `to_quantize`.

    name: the base's name in error messages.
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
    with _readable(name):
        return AutoModelForCausalLM.from_pretrained(
            source,
            revision=reference.revision,
            dtype=dtype,
            device_map={"": place_of_process(device)},
            attn_implementation=runtime.attn_implementation,
            **options,
        )


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
    source = resolve_base(name)
    import_bitsandbytes()  # before transformers does
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with _readable(name):
        config = AutoConfig.from_pretrained(source, revision=revision)
        is_quantized = _is_stored_quantized(config, name, quantization)
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


def _is_stored_quantized(config: Any, name: str, quantization: str) -> bool:
    """Whether a base is stored quantized. Raises `UsageError` when it should not be."""
    is_quantized = getattr(config, "quantization_config", None) is not None
    if is_quantized and quantization == "none":
        raise UsageError(
            f"{quoted(name)} is stored quantized, so base.quantization=none is impossible",
            setting="base.quantization",
            seen=quantization,
            remedy="leave it at nf4",
        )
    return is_quantized


def load_tokenizer(name: str, revision: str = "main") -> "PreTrainedTokenizerBase":
    """The tokenizer of a base."""
    source = resolve_base(name)
    import_bitsandbytes()  # before transformers does
    from transformers import AutoTokenizer

    with _readable(name):
        return AutoTokenizer.from_pretrained(source, revision=revision)


@contextmanager
def _readable(name: str) -> Any:
    """Turn other packages' errors about an unreadable base into sentilora's, one line each."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        if isinstance(error, UsageError | DataError):
            raise
        text = str(error).strip()
        if "attn_implementation" in text or "attention" in text.lower():
            raise UsageError(
                f"{name!r} does not support this attention ({first_line(error)[:120]})",
                setting="base.attn_implementation",
                remedy="set base.attn_implementation=eager (predict and evaluate: "
                "`attn_implementation`=eager)",
            ) from error
        if "gated" in text.lower() or "401" in text or "403" in text:
            raise DataError(
                f"{name!r} is gated or private",
                setting="base.name",
                seen=name,
                remedy="accept its terms on the hub and set HF_TOKEN",
            ) from error
        raise _unreadable(name, error) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise SentiloraError(
                f"out of memory while loading {name!r}",
                setting="base.name",
                seen=name,
                remedy="stop other programs that use the device, keep base.quantization=nf4, or "
                "choose a smaller base or a larger device",
            ) from error
        # For a damaged file, safetensors and tokenizers raise exceptions without a common class.
        if type(error).__module__.split(".")[0] in {"safetensors", "builtins", "tokenizers"}:
            raise _unreadable(name, error) from error
        raise


def _unreadable(name: str, error: Exception) -> DataError:
    return DataError(f"cannot load {name!r}: {first_line(error)}", setting="base.name", seen=name)
