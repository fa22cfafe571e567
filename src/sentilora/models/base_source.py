"""Where a base is read from, and why it cannot be: each reason in one line.

resolve_base("mistralai/Mistral-7B-v0.1")     # a hub id, a folder or a GGUF file
"""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.disk import is_plain_name, read_limited
from sentilora.errors import DataError, SentiloraError, UsageError, first_line, is_out_of_memory
from sentilora.hub import is_gguf, looks_like_hub_id, require_hub
from sentilora.models.base_cache import converted_folder
from sentilora.progress import say
from sentilora.shipped import EMBEDDED, embedded_base
from sentilora.wording import counted, quoted

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MAX_INDEX_BYTES = 2**26  # a name and a file for each weight; a million weights have more
_READERS = {"builtins", "safetensors", "struct", "tokenizers"}


@dataclass(frozen=True)
class Spelling:
    """How a caller names a base and the way it is loaded, for the remedies in messages."""

    name: str
    quantization: str
    attn_implementation: str


SETTINGS = Spelling("base.name", "base.quantization", "base.attn_implementation")  # train, check
KEYWORDS = Spelling("`base`", "`quantization`", "`attn_implementation`")  # predict, evaluate


def resolve_base(name: str, spelling: Spelling = SETTINGS) -> str:
    """What a base's name stands for: the path of a folder or of a GGUF file, or a hub id.

    Raises `DataError` when a folder or file is missing or holds no model, or when the hub is
    unreachable.
    """
    if name == EMBEDDED:
        return embedded_base()
    if not name.strip():
        raise UsageError(
            "the name of the base is empty",
            setting="base.name",
            seen=name,
            remedy=f"set {spelling.name} to a hub id, a folder, a .gguf file or embedded",
        )
    path = Path(name).expanduser()
    if is_gguf(name) and not path.is_dir():
        _require_gguf(path, name, spelling)
        return str(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise DataError(
                f"{quoted(name)} is not a model folder: it has no config.json",
                setting="base.name",
                seen=name,
                remedy=f"set {spelling.name} to a folder written by save_pretrained",
            )
        _require_own_shards(path, name)
        return str(path)
    if path.exists() or not looks_like_hub_id(name):
        raise DataError(
            f"there is no model folder {quoted(name)}",
            setting="base.name",
            seen=name,
            remedy=f"set {spelling.name} to a hub id, an existing folder or embedded",
        )
    require_hub(name, f"load the base from a folder: {spelling.name}=FOLDER")
    return name


def _require_own_shards(path: Path, name: str) -> None:
    """Raise `DataError` if the index of a model folder names files elsewhere."""
    for index in path.glob("*.index.json"):
        try:
            shards = json.loads(read_limited(index, MAX_INDEX_BYTES))["weight_map"].values()
            strays = [shard for shard in shards if not is_plain_name(shard)]
            fault = f"names {strays[0]!r:.60}, which is not in its folder" if strays else ""
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            fault = f"is damaged: {first_line(error)}"
        if fault:
            raise DataError(
                f"{quoted(index)} {fault}",
                setting="base.name",
                seen=name,
                remedy="restore it, or choose another base",
            )


def _require_gguf(path: Path, name: str, spelling: Spelling) -> None:
    """Raise `DataError` unless this is a GGUF file that is converted, or can be."""
    fault = ""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                fault = f"{quoted(name)} is not a GGUF file"
    except FileNotFoundError:
        fault = f"there is no GGUF file {quoted(name)}"
    except OSError as error:
        fault = f"cannot read {quoted(name)}: {error.strerror}"
    if fault:
        raise DataError(
            fault,
            setting="base.name",
            seen=name,
            remedy=f"set {spelling.name} to a hub id, a folder or another .gguf file",
        )
    if not converted_folder(path).is_dir():
        require_gguf_package(name)


def require_gguf_package(name: str) -> None:
    """Raise `DataError` about the GGUF file `name` unless the packages that read it are here."""
    from importlib.metadata import PackageNotFoundError, version

    fault, remedy = "", ""
    try:
        version("gguf")  # transformers asks for it, so a copy without metadata is not enough
    except PackageNotFoundError:
        fault, remedy = "the package that reads them, gguf, is not installed", "pip install gguf"
    transformers = version("transformers")
    if not fault and tuple(map(int, transformers.split(".")[:2])) < (5, 23):
        # Up to 5.22 it forgets the BOS token that belongs before each text, without an error.
        fault = f"transformers {transformers} reads their tokenizers wrongly"
        remedy = 'pip install -U "transformers>=5.23"'
    if fault:
        raise DataError(
            f"{name} is a GGUF file, and {fault}", setting="base.name", seen=name, remedy=remedy
        )


def is_stored_quantized(config: Any, name: str, quantization: str, spelling: Spelling) -> bool:
    """Whether a base is stored quantized. Raises `UsageError` when it should not be."""
    is_quantized = getattr(config, "quantization_config", None) is not None
    if is_quantized and quantization == "none":
        raise UsageError(
            f"{quoted(name)} is stored quantized, so {spelling.quantization}=none is impossible",
            setting="base.quantization",
            seen=quantization,
            remedy=f"leave it at nf4, or set {spelling.name} to an unquantized base",
        )
    return is_quantized


def require_causal(config: Any, name: str) -> None:
    """Raise `UsageError` for an encoder, which transformers loads as a causal LM all the same.

    Its tokens see those after them, so a label would be scored with itself in view.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    kind = config.model_type
    is_masked = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind == "bert-generation"
    if getattr(config, "is_encoder_decoder", False):
        what = "an encoder-decoder"
    elif is_masked and not (getattr(config, "is_decoder", False) or getattr(config, "causal", 0)):
        what = "an encoder"
    else:
        return
    raise UsageError(
        f"{quoted(name)} is {what} ({kind}), not a causal language model",
        setting="base.name",
        seen=name,
        remedy="choose a base of the kind of Mistral, Llama or Qwen",
    )


def require_complete(
    model: "PreTrainedModel", loaded: dict[str, Any], name: str, spelling: Spelling
) -> None:
    """Raise `DataError` unless every weight of a base was read; report those it does not use.

    loaded: what transformers says of the loading. It draws what is missing at random, with other
    values at each start. Tied weights are not missing.
    """
    kind = type(model).__name__
    other_shapes = {key for key, *_ in loaded["mismatched_keys"]}
    other_shapes |= {  # transformers compares no shapes of what it quantizes
        f"{quoted(path)}.weight"
        for path, module in model.named_modules()
        if (state := getattr(getattr(module, "weight", None), "quant_state", None)) is not None
        and tuple(state.shape) != (module.out_features, module.in_features)
    }
    for names, fault in ((loaded["missing_keys"], "lacks"), (other_shapes, "has other shapes of")):
        if names:
            raise DataError(
                f"{quoted(name)} {fault} weights of {kind}: {_listed(names)}",
                setting="base.name",
                seen=name,
                remedy=f"set {spelling.name} to a complete causal language model",
            )
    if loaded["unexpected_keys"]:
        say(
            f"{quoted(name)} holds weights that {kind} does not use: "
            f"{_listed(loaded['unexpected_keys'])}"
        )


def _listed(names: Iterable[str]) -> str:
    """The first three of these weights, and how many there are if there are more."""
    ordered = sorted(names)
    more = f" … ({counted(len(ordered), 'tensor')})" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more


@contextmanager
def without_loading_report() -> Iterator[None]:
    """Keep transformers' bar, and its table of missing and unused weights, from the terminal."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as bars

    logger = logging.getLogger("transformers.modeling_utils")
    has_bar = bars.is_progress_bar_enabled()

    def is_other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in str(record.msg)

    logger.addFilter(is_other)
    if has_bar:
        bars.disable_progress_bar()
        enable_progress_bars()  # a download may take minutes
    try:
        yield
    finally:
        logger.removeFilter(is_other)
        if has_bar:
            bars.enable_progress_bar()


@contextmanager
def readable(name: str, spelling: Spelling) -> Iterator[None]:
    """Turn other packages' errors about an unreadable base into sentilora's, one line each."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        if isinstance(error, UsageError | DataError):
            raise
        text = str(error).strip()
        if "trust_remote_code" in text:
            raise DataError(
                f"{quoted(name)} needs code of its own, which is never run",
                setting="base.name",
                seen=name,
                remedy="choose a base of an architecture that is part of transformers",
            ) from error
        if "attn_implementation" in text or "attention" in text.lower():
            raise UsageError(
                f"{quoted(name)} does not support this attention ({first_line(error)})",
                setting="base.attn_implementation",
                remedy=f"set {spelling.attn_implementation}=eager",
            ) from error
        if "gated" in text.lower() or "401" in text or "403" in text:
            raise DataError(
                f"{quoted(name)} is gated or private",
                setting="base.name",
                seen=name,
                remedy="accept its terms on the hub and set HF_TOKEN",
            ) from error
        raise _unreadable(name, error) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise SentiloraError(
                f"out of memory while loading {quoted(name)}",
                setting="base.name",
                seen=name,
                remedy="stop other programs that use the device, keep "
                f"{spelling.quantization}=nf4, or choose a smaller base or a larger device",
            ) from error
        # For a damaged file, the packages that read it raise exceptions without a common class.
        if type(error).__module__.split(".")[0] in _READERS:
            raise _unreadable(name, error) from error
        raise


def _unreadable(name: str, error: Exception) -> DataError:
    return DataError(
        f"cannot load {quoted(name)}: {first_line(error)}", setting="base.name", seen=name
    )
