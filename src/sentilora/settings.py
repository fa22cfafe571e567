"""Sections of the configuration: which settings exist, and which values each one takes.

The defaults are in `presets/defaults.toml`, with a comment on each setting.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

NUMBER = "number"  # as a part of pydantic's errors: a setting's value where it can also be a word


def _without_mark(value: Any) -> Any:
    """A string without the byte-order mark that some editors begin a file with."""
    return value.removeprefix("\ufeff") if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    """The words of a string, which commas separate; anything else as it is."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


Words = Annotated[str, BeforeValidator(_without_mark)]
WordList = Annotated[tuple[Words, ...], BeforeValidator(_listed)]


Rate = Annotated[float, Field(gt=0, lt=1e37)]  # torch multiplies it in float32


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BaseSection(Section):
    name: str = Field(min_length=1)
    revision: str
    device: Literal["auto", "cuda", "cpu"]
    quantization: Literal["nf4", "none"]
    double_quantization: bool
    compute_dtype: Literal["auto", "float16", "bfloat16", "float32"]
    attn_implementation: str
    cache_quantized: bool = False  # older recipes lack it


class LoraSection(Section):
    r: int = Field(ge=1)
    lora_alpha: int = Field(ge=1)
    lora_dropout: float = Field(ge=0, lt=1)
    bias: Literal["none", "all", "lora_only"]
    target_modules: WordList = Field(min_length=1)


class DataSection(Section):
    train: str = Field(min_length=1)
    evaluation: str = Field(min_length=1)
    test: str = Field(min_length=1)
    text_column: str
    label_column: str
    label_map: dict[str, str]
    num_train: int = Field(ge=0)
    num_train_subset: int = Field(0, ge=0)  # older recipes lack it
    num_evaluation: int = Field(ge=0)
    num_test: int = Field(ge=0)
    shuffle_seed: int = Field(ge=0)
    balance: Literal["none", "weights", "sample"]
    soft_labels: bool = False  # older recipes lack it


class PromptSection(Section):
    template: Words
    instruction: Words
    labels: WordList
    max_length: int = Field(ge=1)
    truncation: Literal["head", "tail", "head+tail"]
    ordered: bool = False  # older recipes lack it
    answer: Words = "{label}"  # older recipes lack it


class TrainingSection(Section):
    num_train_epochs: float = Field(gt=0)
    max_steps: int = Field(ge=0)
    per_device_train_batch_size: int = Field(ge=1)
    gradient_accumulation_steps: int = Field(ge=1)
    per_device_eval_batch_size: int = Field(ge=1)
    learning_rate: Annotated[
        Annotated[Rate, Tag(NUMBER)] | Annotated[Literal["search"], Tag("search")],
        Discriminator(lambda value: "search" if value == "search" else NUMBER),
    ]
    lr_scheduler_type: str
    warmup_steps: int = Field(ge=0)
    warmup_ratio: float = Field(ge=0, lt=1)
    loss: Literal["tokens", "labels"] = "tokens"  # older recipes lack it
    optim: str
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(ge=0)
    gradient_checkpointing: bool
    seed: int = Field(ge=0, lt=2**32)  # the range of NumPy's seeds
    logging_steps: int = Field(ge=1)
    eval_steps: int = Field(ge=1)
    save_steps: int = Field(ge=1)
    save_total_limit: int = Field(ge=2)
    early_stopping_patience: int = Field(ge=0)
    report_to: str


class EngineSection(Section):
    implementation: Literal["auto", "reference"]
    base_matmul: Literal["exact", "fp8"]
    assume_capability: float = Field(ge=0)
    max_memory_gib: float = Field(ge=0)
