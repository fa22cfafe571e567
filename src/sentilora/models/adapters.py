"""LoRA adapters: attach, load, save, and count parameters."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sentilora.errors import DataError, UsageError, first_line
from sentilora.folders.adapter_folder import AdapterFolder, PeftConfig
from sentilora.folders.classifier_file import ClassifierFile
from sentilora.wording import quoted

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

    Raises `UsageError` when the base has no module of a name in `target_modules`.
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
        task_type="CAUSAL_LM",
    )
    try:
        with _peft_warnings():
            return get_peft_model(model, config)
    except ValueError as error:
        raise UsageError(
            f"lora.target_modules does not fit this base: {first_line(error)}",
            setting="lora.target_modules",
            seen=list(target_modules),
            remedy=f"choose from its linear layers: {', '.join(_linear_names(model))}",
        ) from error


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
def _peft_warnings() -> Iterator[None]:
    """Turn PEFT's warning about missing weights into an error; hide a deprecation notice."""
    with warnings.catch_warnings():
        # PEFT would go on with untrained values for the missing weights.
        warnings.filterwarnings("error", "Found missing adapter keys")
        # PEFT uses a deprecated attribute of transformers; only PEFT can change that.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def load_adapter(
    model: "PreTrainedModel", folder: AdapterFolder, *, is_trainable: bool = False
) -> "PeftModel":
    """A loaded base with the adapter in a folder.

    Raises `UsageError` when the adapter belongs to another base, `DataError` when it is damaged.
    """
    from peft import PeftModel

    path = folder.path
    weights, config = path / folder.WEIGHTS_FILE, path / PeftConfig.FILE
    try:
        with _peft_warnings():
            return PeftModel.from_pretrained(model, str(path), is_trainable=is_trainable)
    except UserWarning as warning:
        raise DataError(
            f"{quoted(weights)} lacks some of the adapter's weights "
            f"({str(warning).count('lora_')} tensors)",
            setting="adapter",
            seen=str(path),
            remedy=_DAMAGED_OR_OTHER_BASE,
        ) from warning
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise UsageError(
            f"the adapter in {quoted(path)} was trained for another base "
            f"({quoted(folder.peft.base_model_name_or_path)}): its shapes do not fit",
            setting="adapter",
            seen=str(path),
            remedy="load it on that base",
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"PEFT cannot use {quoted(config)} ({type(error).__name__}: {first_line(error)})",
            setting="adapter",
            seen=str(path),
            remedy=_DAMAGED_OR_OTHER_BASE,
        ) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise DataError(
            f"{quoted(weights)} is damaged: {first_line(error)}",
            setting="adapter",
            seen=str(path),
            remedy="restore it, or train again",
        ) from error


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
