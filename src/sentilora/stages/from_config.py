"""Turns a configuration into the arguments of the packages below, which do not know it."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sentilora import template
from sentilora.data.layouts import SPLIT_NAMES
from sentilora.data.loading import HELD_OUT, load_splits, load_test
from sentilora.data.memory import InMemory, in_memory
from sentilora.data.rows import Columns, Rows
from sentilora.data.sources import has_column
from sentilora.errors import UsageError
from sentilora.folders.classifier_file import BaseReference, absolute_base
from sentilora.models.bases import Base, load_base
from sentilora.models.runtime import Runtime
from sentilora.presets import DEFAULT_PRESET, preset_tree
from sentilora.progress import detail, num_processes, say
from sentilora.prompt import PromptFormat
from sentilora.shipped import EMBEDDED
from sentilora.wording import listed

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from sentilora.config import Config


def prompt_format_of(config: "Config") -> PromptFormat:
    """The prompt format of a configuration."""
    return PromptFormat(**config.prompt.model_dump())


def prompt_settings_of(format: PromptFormat) -> dict[str, Any]:
    """Every setting of a prompt, {"prompt.template": …}: `prompt_format_of` makes it of them."""
    values = {**asdict(format), "labels": list(format.labels)}
    return {f"prompt.{name}": value for name, value in values.items()}


def require_prompt(config: "Config") -> None:
    """Raise `UsageError` for a prompt that cannot work, before its labels are taken from the data.

    An order is one of labels: without any of the user's own it is checked once there are some.
    """
    has_labels = "prompt.labels" in config.chosen
    prompt_format_of(config if has_labels else config.with_values({"prompt.ordered": False}))


def columns_of(config: "Config", labels: Sequence[str]) -> Columns:
    """Columns and label map of a configuration, for the labels of a prompt.

    Raises `UsageError` for a label map that leads to other words.
    """
    data = config.data
    _require_labels_in_map(data.label_map, labels)
    others = template.columns_of(
        template.parts_of(config.prompt.template, config.prompt.instruction, "")
    )
    return Columns(
        data.text_column,
        data.label_column,
        data.label_map,
        tuple(labels),
        others,
        data.soft_labels,
    )


def _require_labels_in_map(label_map: Mapping[str, str], labels: Sequence[str]) -> None:
    """Raise `UsageError` for an entry that leads to no label. Those of the default map may."""
    defaults = preset_tree(DEFAULT_PRESET)["data"]["label_map"]
    for key, word in label_map.items():
        if word in labels or defaults.get(key) == word:
            continue
        near = difflib.get_close_matches(word, labels, 1)
        remedy = f"did you mean {near[0]!r}?" if near else "correct it, or extend prompt.labels"
        raise UsageError(
            f"data.label_map leads {key!r} to {word!r}, which is not one of the labels "
            f"({listed(labels)})",
            setting="data.label_map",
            seen=word,
            remedy=remedy,
        )


def tables_of(data: object, split: str) -> dict[str, InMemory]:
    """Tables that a program passed, by the setting each one stands in for: "data.train" and so on.

    data: None for no table, one table for `split`, or a mapping from the names of splits to tables,
        such as a `datasets.DatasetDict`.

    Raises `UsageError` for another value or name.
    """
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        return {f"data.{split}": in_memory(data, "data")}
    settings = {
        name: f"data.{'evaluation' if split == 'validation' else split}"
        for split, names in SPLIT_NAMES.items()
        for name in names
    }
    if unknown := [name for name in data if name not in settings]:
        raise UsageError(
            f"`data` has a split {unknown[0]!r}",
            setting="data",
            seen=list(data),
            remedy="name the splits train, validation and test",
        )
    return {settings[name]: in_memory(table, "data") for name, table in data.items()}


def with_tables(config: "Config", tables: Mapping[str, InMemory]) -> "Config":
    """The configuration, which records that these rows were passed in memory."""
    return config.with_values({setting: str(table) for setting, table in tables.items()})


def load_rows_of(
    config: "Config", tables: Mapping[str, InMemory] = MappingProxyType({})
) -> tuple[Rows, Rows]:
    """Training and evaluation rows of a configuration. tables: see `tables_of`."""
    data = config.data
    return load_splits(
        train=tables.get("data.train", data.train),
        evaluation=tables.get("data.evaluation", data.evaluation),
        test=tables.get("data.test", data.test),
        columns=columns_of(config, config.prompt.labels),
        num_train=data.num_train,
        num_train_subset=data.num_train_subset,
        num_evaluation=data.num_evaluation,
        seed=data.shuffle_seed,
        balance=data.balance,
    )


def load_test_of(
    config: "Config",
    labels: Sequence[str],
    tables: Mapping[str, InMemory] = MappingProxyType({}),
    is_soft_set: bool = False,
) -> Rows:
    """The test rows of a configuration. labels: the adapter's, which may differ from its own.

    An adapter that was trained on soft labels is tested on either: a column of labels counts, but
    for rows held out of the training rows. is_soft_set: whether `data.soft_labels` is set for the
    test rows too.
    """
    data, columns = config.data, columns_of(config, labels)
    test = tables.get("data.test", data.test)
    train = tables.get("data.train", data.train)
    if columns.is_soft and test != HELD_OUT and not is_soft_set:
        columns = replace(columns, is_soft=not has_column(test, "test", columns.label))
    return load_test(test, train, columns, data.num_test, data.shuffle_seed)


def held_out_test_of(
    config: "Config", tables: Mapping[str, InMemory] = MappingProxyType({})
) -> Rows | None:
    """All test rows that are held out of the training source; None if they are another's."""
    if config.data.test != HELD_OUT or "data.test" in tables:
        return None
    every_row = config.with_values({"data.num_test": 0})
    return load_test_of(every_row, config.prompt.labels, tables)


def shipped_test_warning(config: "Config") -> str | None:
    """A warning when training uses other rows but the test rows are the reviews that ship."""
    if config.data.train == EMBEDDED or config.data.test != EMBEDDED:
        return None
    return "data.test names the reviews that ship, so evaluate will measure on those"


def runtime_of(config: "Config") -> Runtime:
    """The runtime of training, and of scoring during training."""
    base, engine = config.base, config.engine
    return Runtime(
        device=base.device,
        compute_dtype=base.compute_dtype,
        attn_implementation=base.attn_implementation,
        engine=engine.implementation,
        base_matmul=engine.base_matmul,
        batch_size=config.training.per_device_eval_batch_size,
        max_memory_gib=engine.max_memory_gib,
        assume_capability=engine.assume_capability,
    )


def with_absolute_base(config: "Config") -> "Config":
    """The configuration, a base on disk as an absolute path: found from any directory."""
    name = absolute_base(config.base.name)
    return config if name == config.base.name else config.with_values({"base.name": name})


def load_base_of(config: "Config") -> Base:
    """Load the base of a configuration."""
    base = config.base
    reference = BaseReference(base.name, base.revision, base.quantization, base.double_quantization)
    return load_base(reference, runtime_of(config), cache_quantized=base.cache_quantized)


def rows_per_step(config: "Config") -> int:
    """Examples per optimizer step in each process."""
    recipe = config.training
    return recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps


def count_steps(config: "Config", num_rows: int) -> int:
    """Optimizer steps of a complete run over `num_rows` training rows."""
    recipe = config.training
    steps_per_epoch = math.ceil(num_rows / (rows_per_step(config) * num_processes()))
    return recipe.max_steps or math.ceil(steps_per_epoch * recipe.num_train_epochs)


def check_steps(config: "Config") -> None:
    """Raise `UsageError` unless every checkpoint coincides with an evaluation."""
    training = config.training
    if training.save_steps % training.eval_steps:
        raise UsageError(
            f"training.save_steps={training.save_steps} is not a multiple of "
            f"training.eval_steps={training.eval_steps}: the best evaluation might have no "
            "checkpoint",
            setting="training.save_steps",
            seen=training.save_steps,
            remedy=f"use a multiple, e.g. training.save_steps={training.eval_steps}",
        )


def training_arguments_of(config: "Config", base: Base, num_rows: int) -> "TrainingArguments":
    """The recipe as `TrainingArguments`. num_rows: number of training rows."""
    import torch
    from transformers import TrainingArguments

    recipe = config.training
    num_steps = count_steps(config, num_rows)
    optim = recipe.optim
    if base.device == "cpu" and optim.startswith("paged_"):
        optim = optim.removeprefix("paged_")
        detail(f"training.optim: {recipe.optim} pages GPU memory to the host; a CPU uses {optim}")
    arguments = TrainingArguments(
        output_dir=config.output_dir,
        use_cpu=base.device == "cpu",
        bf16=base.dtype == torch.bfloat16 and base.device == "cuda",
        fp16=base.dtype == torch.float16,
        num_train_epochs=recipe.num_train_epochs,
        max_steps=recipe.max_steps or -1,
        # A batch holds a whole optimizer step; see ClassifierTrainer.training_step.
        per_device_train_batch_size=rows_per_step(config),
        gradient_accumulation_steps=1,
        per_device_eval_batch_size=recipe.per_device_eval_batch_size,
        learning_rate=float(recipe.learning_rate),
        lr_scheduler_type=recipe.lr_scheduler_type,
        warmup_steps=math.ceil(recipe.warmup_ratio * num_steps) or recipe.warmup_steps,
        optim=optim,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed,
        logging_strategy="steps",
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=recipe.eval_steps,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=recipe.save_total_limit,
        load_best_model_at_end=True,
        metric_for_best_model="log_loss",
        greater_is_better=False,
        report_to=recipe.report_to,
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=base.device == "cuda",
        restore_callback_states_from_checkpoint=True,  # early stopping counts evaluations
    )
    if arguments.n_gpu > 1:
        say(
            f"one of {arguments.n_gpu} GPUs is used; to use all: `accelerate launch "
            f"--num_processes {arguments.n_gpu} -m sentilora train …`"
        )
        arguments._n_gpu = 1
    return arguments
