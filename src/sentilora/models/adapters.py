"""LoRA adapters: attach, load, save, and count parameters."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sentilora.errors import DataError, UsageError, first_line, is_out_of_memory
from sentilora.folders.adapter_folder import AdapterFolder, PeftConfig
from sentilora.folders.classifier_file import ClassifierFile
from sentilora.models.base_source import SETTINGS, Spelling
from sentilora.progress import say
from sentilora.wording import counted, quoted

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_DAMAGED_OR_OTHER_BASE = "it is damaged or belongs to another base: restore it, or train again"


def checkpoint_activations(model: "PreTrainedModel") -> None:
    """Switch on gradient checkpointing: store each layer's input only, recompute the rest."""
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
    """A loaded base with a new LoRA adapter. Its A matrices are random: set the seed first.

    What a base has for images and sound gets none: texts do not pass there. Raises `UsageError`
    when the base has no module of a name in `target_modules`.
    """
    from peft import LoraConfig, get_peft_model

    # PEFT is satisfied if the base has one of them, and then trains less than requested.
    names = [name for name, _ in model.named_modules()]
    for target in target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UsageError(
                f"lora.target_modules names {target!r}, but no module of this base has that name",
                setting="lora.target_modules",
                seen=target,
                remedy=f"choose from its linear layers: {', '.join(_linear_names(model))}",
            )
    config = LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        bias=bias,
        target_modules=list(target_modules),
        exclude_modules=_beside_the_decoder(model),
        task_type="CAUSAL_LM",
    )
    try:
        with _peft_notices():
            return get_peft_model(model, config)
    except ValueError as error:
        raise UsageError(
            f"lora.target_modules does not fit this base: {first_line(error)}",
            setting="lora.target_modules",
            seen=list(target_modules),
            remedy=f"choose from its linear layers: {', '.join(_linear_names(model))}",
        ) from error


def _beside_the_decoder(model: "PreTrainedModel") -> str | None:
    """A pattern that matches the modules outside the text decoder; None without such modules."""
    if model.config.get_text_config() is model.config:
        return None
    decoder = model.get_decoder()
    around = (whole for whole in model.modules() if decoder in whole.children())
    names = [name for name, part in next(around).named_children() if part is not decoder]
    return rf"(.*\.)?({'|'.join(names)})\..*" if names else None


def _linear_names(model: "PreTrainedModel") -> list[str]:
    """The last parts of the linear layers' names, in the model's order (the head comes last)."""
    import torch

    names = {
        name.rpartition(".")[2]: None
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)  # includes 4-bit layers
    }
    return list(names)


@contextmanager
def _peft_notices() -> Iterator[None]:
    """Print each of PEFT's warnings as one line; hide those that concern no user."""
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always")
        # Missing weights are an error of ours, and only PEFT can change what is deprecated.
        warnings.filterwarnings("ignore", "Found missing adapter keys")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # `adapter_disabled` does what this says is not done.
        warnings.filterwarnings("ignore", "Careful, disabling adapter layers with bias")
        yield
    for text in dict.fromkeys(" ".join(str(warning.message).split()) for warning in notices):
        say(f"warning: {text}")


def load_adapter(
    model: "PreTrainedModel",
    folder: AdapterFolder,
    *,
    is_trainable: bool = False,
    spelling: Spelling = SETTINGS,
) -> "PeftModel":
    """A loaded base with the adapter in a folder: every weight in its file, and no other.

    Raises `UsageError` when the adapter belongs to another base, `DataError` when it is damaged or
    holds NaN or infinity.
    """
    from peft import PeftModel

    path = str(folder.path)
    load = partial(PeftModel.from_pretrained, model, path, is_trainable=is_trainable)
    return _loaded(load, model, folder, "default", spelling)


def load_another_adapter(
    model: "PeftModel", folder: AdapterFolder, name: str, *, spelling: Spelling = SETTINGS
) -> None:
    """Load one more adapter into a model that has one already; it is not in use yet.

    name: of the adapter within the model. Raises what `load_adapter` raises; then the model is as
    it was.
    """

    def load() -> "PeftModel":
        model.load_adapter(str(folder.path), adapter_name=name, is_trainable=False)
        return model

    try:
        _loaded(load, model, folder, name, spelling)
    except BaseException:
        if name in model.peft_config:
            model.delete_adapter(name)
        raise


def _loaded(
    load: Callable[[], "PeftModel"],
    model: "torch.nn.Module",
    folder: AdapterFolder,
    name: str,
    spelling: Spelling,
) -> "PeftModel":
    """What `load` returns, checked against the folder. name: of the adapter within the model."""
    path = folder.path
    config = path / PeftConfig.FILE
    reports: list[Any] = []
    # Each load of a model's weights lists the ones that it cannot place, and PEFT drops that list.
    hook = model.register_load_state_dict_post_hook(lambda _, keys: reports.append(keys))
    try:
        names = names_in_file(folder)
        _require_weights(folder)
        with _peft_notices():
            peft_model = load()
    except Exception as error:
        if isinstance(error, DataError) or is_out_of_memory(error):
            raise
        if isinstance(error, RuntimeError) and "size mismatch" in str(error):
            raise UsageError(
                f"the adapter in {quoted(path)} was trained for another base "
                f"({folder.peft.base_model_name_or_path}): its shapes do not fit",
                setting="adapter",
                seen=str(path),
                remedy=f"load it on that base: {spelling.name}=BASE",
            ) from error
        # What PEFT raises for values that it does not expect has no common class.
        raise DataError(
            f"PEFT cannot use {quoted(config)} ({type(error).__name__}: {first_line(error)})",
            setting="adapter",
            seen=str(path),
            remedy=_DAMAGED_OR_OTHER_BASE,
        ) from error
    finally:
        hook.remove()
    strays = {key for keys in reports for key in keys.unexpected_keys}
    _require_same_weights(peft_model, folder, name, names, strays)
    return peft_model


def _require_same_weights(
    model: "PeftModel", folder: AdapterFolder, name: str, names: set[str], strays: set[str]
) -> None:
    """Raise `DataError` unless an adapter's file has exactly the weights that its model has.

    name: of the adapter within the model. names: of the weights in the file. strays: those that
    the model has no place for.
    """
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a bias of LoRA's is no matrix
        weights = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    expected = set(weights)
    # Older PEFT named some weights otherwise: then as many are unknown as seem to be missing.
    num_missing = len(expected - names)
    if num_missing > len(names - expected):
        fault = f"lacks some of the adapter's weights ({counted(num_missing, 'tensor')})"
    elif strays:
        first = ", ".join(sorted(strays)[:3])
        fault = (
            f"has {counted(len(strays), 'tensor')} for which {PeftConfig.FILE} and the base have "
            f"no place ({first}{' …' if len(strays) > 3 else ''})"
        )
    else:
        return
    raise DataError(
        f"{folder.path / folder.WEIGHTS_FILE} {fault}",
        setting="adapter",
        seen=str(folder.path),
        remedy=_DAMAGED_OR_OTHER_BASE,
    )


def names_in_file(folder: AdapterFolder) -> set[str]:
    """The names of the weights in an adapter's file. Raises `DataError` when it is damaged."""
    from safetensors import SafetensorError, safe_open

    weights = folder.path / folder.WEIGHTS_FILE
    try:
        with safe_open(weights, "pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{quoted(weights)} is damaged: {first_line(error)}",
            setting="adapter",
            seen=str(folder.path),
            remedy="restore it, or train again",
        ) from error


def _require_weights(folder: AdapterFolder) -> None:
    """Raise `DataError` when a weight in an adapter's file is NaN, infinite or no floating point.

    PEFT would turn integers into weights, and allocates the rank that the configuration names.
    """
    from safetensors import safe_open

    weights = folder.path / folder.WEIGHTS_FILE
    fault = ""
    rank = 0
    with safe_open(weights, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            tensor = file.get_tensor(name)
            rank = max(rank, *tensor.shape, 0)
            if not tensor.is_floating_point():
                fault = f"holds weights in {str(tensor.dtype)[6:]} ({name}); it is damaged"
            elif not tensor.float().isfinite().all():
                fault = f"holds NaN or infinite weights ({name}): the run that saved it diverged, "
                fault += "or the file is damaged"
            if fault:
                break
    asked = max(folder.peft.ranks(), default=0)
    if not fault and asked > rank:
        fault = f"has no weight of rank {asked:,}, for which {PeftConfig.FILE} asks"
    if fault:
        raise DataError(
            f"{quoted(weights)} {fault}",
            setting="adapter",
            seen=str(folder.path),
            remedy="use another adapter, or train again with a lower training.learning_rate",
        )


# --- the base under an adapter -------------------------------------------------------------------

Values = list[tuple["torch.nn.Parameter", "torch.Tensor"]]


def base_values(model: "PreTrainedModel", folder: AdapterFolder) -> Values:
    """The base's own parameters that an adapter brings other values of, with what they are now.

    These are the biases of an adapter that trained them. Call it before the adapter is loaded.
    """
    own = dict(model.named_parameters())
    names = [
        name.removeprefix("base_model.model.").replace(".base_layer", "")
        for name in names_in_file(folder)
    ]
    return [(own[name], own[name].detach().clone()) for name in names if name in own]


@contextmanager
def adapter_disabled(model: "PeftModel", values: Values) -> Iterator[None]:
    """Make a model its untouched base within a `with` block. values: from `base_values`."""
    with ExitStack() as stack:
        with _peft_notices():
            stack.enter_context(model.disable_adapter())
        stack.callback(_set, [(parameter, parameter.detach().clone()) for parameter, _ in values])
        _set(values)
        yield


def _set(values: Values) -> None:
    import torch

    with torch.no_grad():
        for parameter, value in values:
            parameter.copy_(value)


def save_classifier(
    model: "PeftModel",
    tokenizer: "PreTrainedTokenizerBase",
    classifier: ClassifierFile,
    folder: str | Path,
    state_dict: dict[str, Any] | None = None,
) -> None:
    """Write a plain PEFT folder with adapter and tokenizer, and `classifier.json` in addition."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The base's name as the user wrote it: "embedded" or a hub id is valid on every machine.
    for config in model.peft_config.values():
        config.base_model_name_or_path = classifier.base.name
    # The vocabulary is never resized here. To check that, PEFT would contact the hub.
    model.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False)
    tokenizer.save_pretrained(str(folder))
    classifier.save(folder)


# --- parameter counts ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ParameterCount:
    """Number of trainable parameters, of all parameters, and of stored elements.

    A stored element of a 4-bit weight holds two parameters.
    """

    num_trainable: int
    num_total: int
    num_stored: int

    def __str__(self) -> str:
        packed = ""
        if self.num_stored != self.num_total:
            packed = (
                f"; {self.num_trainable / self.num_stored:.1%} of the {self.num_stored:,} elements "
                "of the packed 4-bit storage"
            )
        return (
            f"{self.num_trainable:,} of {self.num_total:,} parameters are trainable "
            f"({self.num_trainable / self.num_total:.3%}{packed})"
        )


def count_parameters(model: "torch.nn.Module") -> ParameterCount:
    """The parameter counts of a model, with 4-bit weights counted unpacked and as stored."""
    num_trainable = num_total = num_stored = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        num_stored += parameter.numel()
        num_total += state.shape.numel() if state is not None else parameter.numel()
        num_trainable += parameter.numel() if parameter.requires_grad else 0
    return ParameterCount(num_trainable, num_total, num_stored)
