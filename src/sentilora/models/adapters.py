"""A LoRA adapter: attached, loaded, saved, counted."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sentilora.errors import DataError, UsageError, first_line
from sentilora.folders.adapter_folder import AdapterFolder, PeftConfig
from sentilora.folders.classifier_file import ClassifierFile

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
    model: "PreTrainedModel", folder: AdapterFolder, *, is_trainable: bool = False
) -> "PeftModel":
    """An adapter from disk on a loaded base. `UsageError` when it belongs to another base."""
    from peft import PeftModel

    path = folder.path
    weights, config = path / folder.WEIGHTS_FILE, path / PeftConfig.FILE
    try:
        with _peft_warnings():
            return PeftModel.from_pretrained(model, str(path), is_trainable=is_trainable)
    except UserWarning as warning:
        raise DataError(
            f"{weights} lacks some of the adapter's weights "
            f"({str(warning).count('lora_')} tensors): it is damaged, or of another base"
        ) from warning
    except RuntimeError as error:
        if "size mismatch" not in str(error):
            raise
        raise UsageError(
            f"the adapter in {path} was trained for another base "
            f"({folder.peft.base_model_name_or_path}): its shapes do not fit"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"PEFT cannot use {config} ({type(error).__name__}: {first_line(error)})",
            remedy="it is damaged, or of another base",
        ) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise DataError(f"{weights} is damaged: {error}") from error


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
