"""The base in NF4 and its adapter: load, attach, save, count.

    base = load_base("embedded", device="cpu", compute_dtype="float32")
    model = attach_adapter(base.model, r=16, lora_alpha=32, ...)     # a new one, or
    model = load_adapter(base.model, "./mistral-sentiment-ita")       # one from disk

Training, evaluation and prediction load through the same functions, so a reloaded classifier
computes what the trained one did.
"""

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sentilora.adapter_folder import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    ClassifierFile,
    adapter_base_name,
    adapter_config,
    check_adapter_folder,
)
from sentilora.base_cache import cache_folder, store
from sentilora.device import choose_device, choose_dtype, compute_capability, place_of_process
from sentilora.errors import DataError, SentiloraError, UsageError, first_line, is_out_of_memory
from sentilora.hub import looks_like_hub_id, require_hub
from sentilora.progress import is_main_process
from sentilora.shipped import EMBEDDED, embedded_base

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sentilora.engine.swap import Engine


def resolve_base(name: str) -> str:
    """What `from_pretrained` takes for a base's name: a folder, or a hub id that can be reached.

    Raises `DataError` for a folder that is not there or is no model, and for a hub out of reach.
    """
    if name == EMBEDDED:
        return embedded_base()
    if not name.strip():
        raise UsageError(
            "a base is asked for without its name; give a hub id, a folder or embedded"
        )
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise DataError(f"{name} is no model folder: it has no config.json")
        return str(path)
    if path.exists() or not looks_like_hub_id(name):
        raise DataError(f"there is no model folder {name}")
    require_hub(name, "a folder takes a base from disk: base.name=FOLDER (evaluate: --base FOLDER)")
    return name


# --- loading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """A loaded base model with its tokenizer and where it computes.

    cached_in: where it lies in NF4, if it does. from_cache: it was read there, not just put there.
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
        """What fills rows up: the pad token, or EOS where the tokenizer has none."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else self.tokenizer.eos_token_id)


def load_base(
    name: str,
    *,
    revision: str = "main",
    device: str = "auto",
    quantization: str = "nf4",
    double_quantization: bool = True,
    compute_dtype: str = "auto",
    attn_implementation: str = "sdpa",
    assume_capability: float = 0.0,
    cache_quantized: bool = False,
) -> Base:
    """Load a causal LM, its linear layers in NF4 unless `quantization` is "none".

    A base that is stored quantised keeps its own quantisation. cache_quantized: keep on disk what
    was quantised here; where it is kept it is read, whoever asks. Raises `DataError` when the base
    cannot be read, `UsageError` when device, dtype or quantisation cannot be had.
    """
    source = resolve_base(name)
    import_bitsandbytes()  # before transformers does
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    device = choose_device(device)
    dtype, reason = choose_dtype(compute_dtype, device, assume_capability)
    with _readable(name):
        config = AutoConfig.from_pretrained(source, revision=revision)
        stored = _stored_quantization(config, name, quantization)
    commit = getattr(config, "_commit_hash", None)
    cache = None
    if quantization == "nf4" and not stored:
        cache = cache_folder(source, commit, device, dtype, double_quantization)
    from_cache = cache is not None and cache.is_dir()
    quantize = {}
    if cache is not None and not from_cache:
        quantize["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double_quantization,
            bnb_4bit_compute_dtype=dtype,
        )
    with _readable(f"{cache} (remove that folder to read {name} again)" if from_cache else name):
        model = AutoModelForCausalLM.from_pretrained(
            str(cache) if from_cache else source,
            revision=revision,
            dtype=dtype,
            device_map={"": place_of_process(device)},
            attn_implementation=attn_implementation,
            **quantize,
        )
    to_keep = cache_quantized and bool(quantize) and is_main_process()
    if cache is not None and to_keep:
        store(model, cache)
    _compute_in(model, dtype)
    tokenizer = load_tokenizer(name, revision)
    cached_in = cache if from_cache or to_keep else None
    return Base(model, tokenizer, device, dtype, reason, commit or revision, cached_in, from_cache)


def _compute_in(model: "PreTrainedModel", dtype: "torch.dtype") -> None:
    """Let a frozen base compute in `dtype`, whatever it is stored in."""
    for module in linear_4bit_modules(model):
        module.compute_dtype = dtype
        module.compute_type_is_set = True
        # bitsandbytes 0.50.2 repacks the weight in the first forward in eval mode, for an op
        # without autograd: from then on most adapter gradients are silently zero.
        module.support_avx512bf16_for_cpu = False
    for parameter in model.parameters():
        # transformers leaves what a quantised base stores unquantised in its stored dtype.
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
    """The base's modules without their weights, unquantised on torch's meta device.

    Also returns whether the base is stored quantised. Raises what `load_base` raises.
    """
    source = resolve_base(name)
    import_bitsandbytes()  # before transformers does
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with _readable(name):
        config = AutoConfig.from_pretrained(source, revision=revision)
        stored = _stored_quantization(config, name, quantization)
        if stored:
            del config.quantization_config
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                config, attn_implementation=attn_implementation
            )
    return model.requires_grad_(False), stored


def beyond_positions(model: "PreTrainedModel", max_length: int) -> str | None:
    """What to warn of when prompts may be longer than what the base knows; None when not."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if known is None or max_length <= known:
        return None
    return (
        f"prompt.max_length is {max_length:,}, the base knows {known:,} positions: longer prompts "
        "are answered badly or not at all"
    )


def _stored_quantization(config: Any, name: str, quantization: str) -> bool:
    stored = getattr(config, "quantization_config", None) is not None
    if stored and quantization == "none":
        raise UsageError(
            f"{name} is stored quantised; base.quantization=none cannot be had, leave it at nf4"
        )
    return stored


def load_tokenizer(name: str, revision: str = "main") -> "PreTrainedTokenizerBase":
    """The tokenizer of a base."""
    source = resolve_base(name)
    import_bitsandbytes()  # before transformers does
    from transformers import AutoTokenizer

    with _readable(name):
        return AutoTokenizer.from_pretrained(source, revision=revision)


def import_bitsandbytes() -> Any:
    """bitsandbytes, without the compiled kernel it would fetch from the hub.

    On CPUs with AVX512-BF16 its import downloads one when the package `kernels` is installed, so
    this comes before what imports it by itself: parts of transformers do.
    """
    if "bitsandbytes" in sys.modules:
        return sys.modules["bitsandbytes"]
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    missing = object()
    kernels = sys.modules.get("kernels", missing)
    level = logger.level
    sys.modules["kernels"] = None  # type: ignore[assignment]  # "not installed", for this import
    logger.setLevel(logging.ERROR)
    try:
        import bitsandbytes
    finally:
        logger.setLevel(level)
        if kernels is missing:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = kernels  # type: ignore[assignment]
    return bitsandbytes


@contextmanager
def _readable(name: str) -> Any:
    """Turn what transformers raises for an unreadable base into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        if isinstance(error, UsageError | DataError):
            raise
        text = str(error).strip()
        if "attn_implementation" in text or "attention" in text.lower():
            raise UsageError(
                f"{name!r} has no such base.attn_implementation; set it to eager "
                f"({first_line(error)[:120]})"
            ) from error
        if "gated" in text.lower() or "401" in text or "403" in text:
            raise DataError(
                f"{name!r} is gated or private: accept its terms on the hub and set HF_TOKEN"
            ) from error
        raise DataError(f"cannot load {name!r}: {first_line(error)}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise SentiloraError(
                f"out of memory while loading {name!r}: close what else uses the device, keep "
                "base.quantization=nf4, or choose a smaller base or a larger device"
            ) from error
        # safetensors and tokenizers raise bare exceptions of their own for a damaged file.
        if type(error).__module__.split(".")[0] in {"safetensors", "builtins", "tokenizers"}:
            raise DataError(f"cannot load {name!r}: {first_line(error)}") from error
        raise


def linear_4bit_modules(model: "torch.nn.Module") -> list[Any]:
    """Every 4-bit linear layer of a model."""
    linear = import_bitsandbytes().nn.Linear4bit
    return [module for module in model.modules() if isinstance(module, linear)]


def checkpoint_activations(model: "PreTrainedModel") -> None:
    """Keep only each layer's input in the forward pass and recompute the rest in the backward."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # transformers 5.24
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})


# --- the adapter ---------------------------------------------------------------------------------


def attach_adapter(
    model: "PreTrainedModel",
    *,
    r: int,
    lora_alpha: int,
    lora_dropout: float,
    bias: Literal["none", "all", "lora_only"],
    target_modules: Sequence[str],
) -> "PeftModel":
    """A new LoRA adapter on a loaded base. Seed before: its A matrices are drawn here.

    Raises `UsageError` when one of `target_modules` is nowhere in the base.
    """
    from peft import LoraConfig, get_peft_model

    # PEFT is content when one of them is found, and trains less than was asked for.
    names = [name for name, _ in model.named_modules()]
    for target in target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UsageError(
                f"lora.target_modules holds {target!r}, and no module of this base is called so; "
                f"its linear layers are {', '.join(_linear_names(model))}"
            )
    config = LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        bias=bias,
        target_modules=list(target_modules),
        task_type="CAUSAL_LM",
    )
    try:
        with _peft_warnings():
            return get_peft_model(model, config)
    except ValueError as error:
        raise UsageError(
            f"lora.target_modules does not fit this base: {first_line(error)}"
        ) from error


def _linear_names(model: "PreTrainedModel") -> list[str]:
    """Last parts of the linear layers' names, in the model's order, the head's last."""
    import torch

    found = {
        name.rpartition(".")[2]: None
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)  # a 4-bit one is one
    }
    return list(found)


@contextmanager
def _peft_warnings() -> Iterator[None]:
    """What PEFT warns of, as it is meant here."""
    with warnings.catch_warnings():
        # PEFT is content with a part of the weights, and would answer with untrained ones.
        warnings.filterwarnings("error", "Found missing adapter keys")
        # It asks transformers by an old name; nobody else can change that.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def load_adapter(
    model: "PreTrainedModel", folder: str | Path, *, is_trainable: bool = False
) -> "PeftModel":
    """An adapter from disk on a loaded base. `UsageError` when it belongs to another base."""
    from peft import PeftModel

    folder = Path(folder)
    check_adapter_folder(folder)
    adapter_config(folder)  # in plain words, which PEFT has not
    try:
        with _peft_warnings():
            return PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable)
    except UserWarning as warning:
        raise DataError(
            f"{folder / ADAPTER_WEIGHTS_FILE} lacks some of the adapter's weights "
            f"({str(warning).count('lora_')} tensors): it is damaged, or of another base"
        ) from warning
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise UsageError(
            f"the adapter in {folder} was trained for another base ({adapter_base_name(folder)}): "
            "its shapes do not fit"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"PEFT cannot use {folder / ADAPTER_CONFIG_FILE} ({type(error).__name__}: "
            f"{first_line(error)}); it is damaged, or of another base"
        ) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise DataError(f"{folder / ADAPTER_WEIGHTS_FILE} is damaged: {error}") from error


def save_classifier(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    classifier: ClassifierFile,
    folder: str | Path,
    state_dict: dict[str, Any] | None = None,
) -> None:
    """Write adapter, tokenizer and `classifier.json`: a plain PEFT folder with one file more."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The base's name as the user gave it: "embedded" and a hub id mean the same on every machine.
    for config in model.peft_config.values():
        config.base_model_name_or_path = classifier.base.name
    # The vocabulary is never resized here; asking PEFT to find out would ask the hub.
    model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False)
    tokenizer.save_pretrained(str(folder))
    classifier.save(folder)


def require_engine(
    implementation: str,
    base_matmul: str,
    assume_capability: float = 0.0,
    device: str = "auto",
) -> None:
    """Raise `UsageError` when 8-bit products are asked for and cannot be had on this device."""
    if base_matmul == "exact":
        return
    if base_matmul != "fp8":
        raise UsageError(f"there is no base_matmul {base_matmul!r}; choose exact or fp8")
    if implementation == "reference":
        raise UsageError("base_matmul=fp8 belongs to the fast engine; leave out engine=reference")
    here = compute_capability()
    capability = min(here, assume_capability or here)
    if capability < 8.9 or device == "cpu":
        asked = "a CPU is asked for" if device == "cpu" else f"this one has {capability}"
        said = asked if here else "there is none here"
        raise UsageError(
            "base_matmul=fp8 needs a GPU of compute capability 8.9 or above (Ada, Hopper), and "
            f"{said}; leave it at exact"
        )


def install_engine(
    model: "torch.nn.Module",
    *,
    implementation: str = "auto",
    base_matmul: str = "exact",
    assume_capability: float = 0.0,
    max_memory_gib: float = 0.0,
) -> "Engine | None":
    """The fast engine in a model's layers; None where it is switched off or does not fit."""
    require_engine(
        implementation, base_matmul, assume_capability, next(model.parameters()).device.type
    )
    if implementation == "reference":
        return None
    from sentilora.engine.swap import install

    engine = install(model, compute_capability(assume_capability))
    if engine is not None and base_matmul == "fp8":
        fault = engine.use_8_bits()
        if fault:
            raise UsageError(f"base_matmul=fp8 cannot be had here: {fault}; leave it at exact")
    return engine


# --- counting ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParameterCount:
    """Parameters trained, all there are, and elements as stored (two 4-bit weights in each)."""

    num_trainable: int
    num_total: int
    num_stored: int

    def __str__(self) -> str:
        packed = ""
        if self.num_stored != self.num_total:
            packed = (
                f"; counted over the packed 4-bit storage, {self.num_stored:,} elements, it reads "
                f"{self.num_trainable / self.num_stored:.1%}"
            )
        return (
            f"{self.num_trainable:,} of {self.num_total:,} parameters are trained "
            f"({self.num_trainable / self.num_total:.3%}{packed})"
        )


def count_parameters(model: "torch.nn.Module") -> ParameterCount:
    """Count with 4-bit weights unpacked, and as stored."""
    trainable = total = stored = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        stored += parameter.numel()
        total += state.shape.numel() if state is not None else parameter.numel()
        trainable += parameter.numel() if parameter.requires_grad else 0
    return ParameterCount(trainable, total, stored)
