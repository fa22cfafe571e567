"""Check a run before it costs GPU time: data, labels, lengths, settings, memory, time, downloads.

sentilora check --preset mistral-7b

Each `look_at_…` yields its findings and returns what later ones need, None after a problem.
"""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sentilora.config import Config
from sentilora.data.memory import InMemory
from sentilora.data.overview import look_over
from sentilora.data.rows import Rows
from sentilora.data.sources import load_rows
from sentilora.errors import DataError, SentiloraError, first_line
from sentilora.folders.classifier_file import is_on_disk
from sentilora.folders.run_folder import require_unused
from sentilora.hub import hub_reachable
from sentilora.models.adapters import attach_adapter, count_parameters
from sentilora.models.base_source import resolve_base
from sentilora.models.bases import beyond_positions, load_structure, load_tokenizer
from sentilora.models.device import choose_device, choose_dtype, require_device
from sentilora.models.fast_path import why_not_fast
from sentilora.prompt import Prompter, PromptFormat
from sentilora.shipped import EMBEDDED
from sentilora.stages.automatic import fit_data, fit_schedule, lines_of
from sentilora.stages.check_data import look_at_evaluation, look_at_sources
from sentilora.stages.findings import Finding, Findings, Level, attempt, without_repetitions
from sentilora.stages.from_config import (
    check_steps,
    columns_of,
    count_steps,
    load_rows_of,
    load_test_of,
    prompt_format_of,
    require_prompt,
    rows_per_step,
    runtime_of,
    shipped_test_warning,
    tables_of,
    with_tables,
)
from sentilora.training.estimate import Run, training_memory, training_time
from sentilora.training.lengths import look_over_lengths, render_example
from sentilora.training.recipe import recipe_faults
from sentilora.wording import MAX_LISTED, counted, quoted

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

GIB = 2**30


def check(config: Config, *, data: object = None) -> list[Finding]:
    """Findings about everything `train` would choose or fail on; loads no weights.

    data: rows in memory, as in `train`. A problem (a source, a setting, a device, the hub) is a
    finding, and the check continues.
    """
    tables = tables_of(data, "train")
    return without_repetitions(look_at_run(with_tables(config, tables), tables))


def look_at_run(config: Config, tables: Mapping[str, InMemory]) -> Findings[None]:
    """The whole check, in the order in which `train` would meet each problem."""
    yield from attempt("prompt", lambda: require_prompt(config))
    requested = yield from attempt("device", lambda: requested_device(config))
    source = yield from attempt("base", lambda: resolve_base(config.base.name))
    yield from attempt("output", lambda: require_unused(Path(config.output_dir)))
    fitted = yield from attempt("data", lambda: fit_data(config, tables))
    config = yield from look_at_choices(fitted or (config, {}))
    format = yield from attempt("prompt", lambda: prompt_format_of(config))
    if fitted is None:
        yield from look_at_sources(config)
        splits = {}
    else:
        splits = yield from look_at_data(config, tables)
    if "train" in splits:
        config = yield from look_at_choices(fit_schedule(config, len(splits["train"])))
    yield from attempt("steps", lambda: check_steps(config))
    yield from look_at_evaluation(config, splits, tables)
    device = None
    if requested is not None:
        device = yield from attempt("device", lambda: choose_device(requested))
    yield from look_at_recipe(config, device)
    num_steps = count_steps(config, len(splits["train"])) if "train" in splits else 0
    yield from look_at_warmup(config, num_steps)
    dtype = yield from look_at_dtype(config, device)
    structure = (yield from look_at_structure(config)) if source else None
    if source is not None:
        yield look_at_download(config)
    prompter = (yield from attempt_prompter(config, format)) if source and format else None
    lengths: list[int] = []
    if prompter is not None and "train" in splits:  # the prompt is made for the data
        yield from look_at_prompt(prompter)
        lengths = yield from look_at_lengths(config, prompter, splits["train"])
    if structure is not None:
        yield from look_at_model(config, structure, lengths, num_steps, device, dtype)


# --- data ----------------------------------------------------------------------------------------


def look_at_choices(fitted: tuple[Config, Mapping[str, str]]) -> Findings[Config]:
    """What is chosen to fit the data, each with its reason; returns that configuration."""
    config, notes = fitted
    for line in lines_of(config, notes):
        yield Finding("ok", "chosen", line)
    return config


def look_at_data(config: Config, tables: Mapping[str, InMemory]) -> Findings[dict[str, Rows]]:
    """Counts, balance and duplicates; returns the splits that can be loaded."""
    splits: dict[str, Rows] = {}
    if rows := (yield from attempt("data", lambda: load_rows_of(config, tables))):
        splits["train"], splits["evaluation"] = rows
    evaluation = config.data.evaluation
    if not splits and evaluation not in ("train", "test"):

        def load_evaluation() -> Rows:
            return load_rows(evaluation, "validation", columns_of(config, config.prompt.labels))

        yield from attempt("evaluation data", load_evaluation)
    # `train` reads test rows only to evaluate on them, so otherwise nothing fails for want of them.
    level: Level = "problem" if evaluation == "test" else "note"
    test_rows = yield from attempt(
        "test data", lambda: load_test_of(config, config.prompt.labels, tables), level
    )
    if test_rows is not None:
        splits["test"] = test_rows
    if splits:
        overview = look_over(splits, config.prompt.labels)
        for name in splits:
            yield Finding("ok", name, overview.describe(name))
        for line in overview.meanings:
            yield Finding("ok", "labels", line)
        if overview.shared:
            shared = ", ".join(f"{pair}: {count}" for pair, count in overview.shared.items())
            yield Finding("ok", "leakage", f"exact duplicates between splits: {shared}")
        for warning in overview.warnings:
            yield Finding("note", "data", warning)
    if shipped := shipped_test_warning(config):
        yield Finding("note", "test data", shipped)
    return splits


# --- prompt --------------------------------------------------------------------------------------


def attempt_prompter(config: Config, format: PromptFormat) -> Findings[Prompter | None]:
    """The prompter; None if the base has no tokenizer, or no prompt fits."""
    base = config.base
    tokenizer = yield from attempt("base", lambda: load_tokenizer(base.name, base.revision))
    if tokenizer is None:
        return None
    return (yield from attempt("prompt", lambda: Prompter(tokenizer, format)))


def look_at_prompt(prompter: Prompter) -> Findings[None]:
    """The tokens of each label, and the template's special tokens."""
    labels = prompter.format.labels
    for label, ids in [*zip(labels, prompter.label_ids, strict=True)][:MAX_LISTED]:
        pieces = " ".join(prompter.tokenizer.convert_ids_to_tokens(ids))
        yield Finding("ok", f"label {label!r}", f"tokens {ids} {pieces}")
    if len(labels) > MAX_LISTED:
        longest = max(map(len, prompter.label_ids))
        more = f"{len(labels) - MAX_LISTED:,} more; the longest of all has {longest:,} tokens"
        yield Finding("ok", "labels", more)
    if counts := Counter(prompter.special_tokens):
        names = ", ".join(f"{name} × {n}" if n > 1 else name for name, n in counts.items())
        yield Finding("ok", "special tokens", f"in the template: {names}")
    for warning in prompter.warnings:
        yield Finding("note", "special tokens", warning)


def look_at_lengths(config: Config, prompter: Prompter, rows: Rows) -> Findings[list[int]]:
    """Lengths, truncation and an example of the training rows; returns their lengths in tokens."""
    pairs = zip(rows.inputs, rows.labels, strict=True)
    examples = yield from attempt("tokens", lambda: [prompter.encode_example(*p) for p in pairs])
    if examples is None:
        return []
    lengths = look_over_lengths(examples)
    yield Finding("ok", "tokens", lengths.tokens)
    cut = f"{lengths.truncated}, keeping the {config.prompt.truncation} of the text"
    if lengths.num_truncated > lengths.num_examples / 2:
        hint = "most texts are cut: raise prompt.max_length"
        yield Finding("note", "truncated", f"{cut}; {hint}")
    else:
        yield Finding("ok", "truncated", cut)
    shares = rows.shares[0] if rows.shares else None
    yield Finding("ok", "example", render_example(prompter, examples[0], shares))
    return [len(example.input_ids) for example in examples]


# --- settings ------------------------------------------------------------------------------------


def requested_device(config: Config) -> str:
    """The device as configured. Raises `UsageError` when this machine cannot have it."""
    require_device(config.base.device)
    return config.base.device


def look_at_dtype(config: Config, device: str | None) -> Findings["torch.dtype | None"]:
    """Where training would compute and in which dtype; returns the dtype."""
    yield from attempt("engine", lambda: runtime_of(config).require_possible())
    capability = config.engine.assume_capability
    if device == "cpu" and (capability or config.engine.max_memory_gib):
        text = "engine.assume_capability and engine.max_memory_gib concern GPUs only"
        yield Finding("note", "engine", text)
    # If the device is unavailable, the dtype is checked for a CPU.
    choice = yield from attempt(
        "dtype", lambda: choose_dtype(config.base.compute_dtype, device or "cpu", capability)
    )
    if choice is None:
        return None
    dtype, reason = choice
    if device is not None:
        yield Finding("ok", "device", f"{device}, computing in {str(dtype)[6:]} ({reason})")
    return dtype


def look_at_recipe(config: Config, device: str | None) -> Findings[None]:
    """Whether optimizer, schedule and tracker are available."""
    recipe = config.training
    faults = recipe_faults(
        optim=recipe.optim,
        lr_scheduler_type=recipe.lr_scheduler_type,
        report_to=recipe.report_to,
        device=device or "cpu",
    )
    for setting, fault in faults.items():
        yield Finding("problem", setting.rpartition(".")[2], str(fault), fault.exit_code)


def look_at_warmup(config: Config, num_steps: int) -> Findings[None]:
    """Whether the warm-up ends before the run does. num_steps: 0 if unknown."""
    recipe = config.training
    if num_steps and not recipe.warmup_ratio and recipe.warmup_steps >= num_steps:
        text = (
            f"training.warmup_steps={recipe.warmup_steps} of {counted(num_steps, 'step')}: the "
            "learning rate never reaches its peak; lower it"
        )
        yield Finding("note", "warm-up", text)


# --- the base ------------------------------------------------------------------------------------


def look_at_structure(config: Config) -> Findings["tuple[PreTrainedModel, bool] | None"]:
    """The base without its weights, and whether it is stored quantized."""
    base = config.base
    which = {"revision": base.revision, "quantization": base.quantization}
    structure = yield from attempt("base", lambda: load_structure(base.name, **which))
    if structure is not None:
        attention = base.attn_implementation
        yield from attempt(
            "attention", lambda: load_structure(base.name, attn_implementation=attention, **which)
        )
    return structure


def look_at_model(
    config: Config,
    structure: "tuple[PreTrainedModel, bool]",
    lengths: list[int],
    num_steps: int,
    device: str | None,
    dtype: "torch.dtype | None",
) -> Findings[None]:
    """What training this base takes. lengths: empty if unknown."""
    plain, stored_quantized = structure
    if beyond := beyond_positions(plain, config.prompt.max_length):
        yield Finding("note", "max_length", beyond)
    num_parameters = plain.num_parameters()
    model = yield from attempt("lora", lambda: attach_adapter(plain, **config.lora.model_dump()))
    if model is not None:
        is_fast = yield from look_at_engine(config, model)
        num_trained = count_parameters(model).num_trainable
        text = f"{num_parameters:,}, and {num_trained:,} in the adapter"
        yield Finding("ok", "parameters", text)
        if device is not None and dtype is not None:
            run = run_of(config, lengths, num_steps, device, dtype, is_fast, stored_quantized)
            yield look_at_memory(model, run)
            if lengths:
                yield Finding("ok", "time", str(training_time(model, run)))


def look_at_engine(config: Config, model: "PeftModel") -> Findings[bool]:
    """Which way training will take; returns whether it is the fast engine."""
    if config.engine.implementation == "reference":
        yield Finding("ok", "engine", "plain path, as engine=reference asks")
        return False
    if reason := why_not_fast(model):
        yield Finding("note", "engine", f"plain path, several times slower: {reason}")
        return False
    num_layers = counted(model.config.get_text_config().num_hidden_layers, "layer")
    yield Finding("ok", "engine", f"fast engine, {num_layers}")
    return True


def run_of(
    config: Config,
    lengths: list[int],
    num_steps: int,
    device: str,
    dtype: "torch.dtype",
    is_fast: bool,
    stored_quantized: bool,
) -> Run:
    """The run in plain numbers. lengths: if empty, every example has the most tokens allowed."""
    base, recipe = config.base, config.training
    return Run(
        lengths=lengths or [config.prompt.max_length],
        num_steps=num_steps,
        rows_per_step=rows_per_step(config),
        rows_per_pass=recipe.per_device_train_batch_size,
        optim=recipe.optim,
        device=device,
        dtype=dtype,
        nf4=stored_quantized or base.quantization == "nf4",
        # How a base was quantized before is unknown here: assume the kind that takes more memory.
        double_quantization=base.double_quantization and not stored_quantized,
        checkpointing=recipe.gradient_checkpointing,
        is_fast=is_fast,
        max_memory_gib=config.engine.max_memory_gib,
    )


def look_at_memory(model: "PeftModel", run: Run) -> Finding:
    """Whether the run fits, by the plan that training would make."""
    memory = training_memory(model, run)
    if (fault := memory.fault) is None:
        return Finding("ok", "memory", str(memory))
    return Finding("problem", "memory", f"{memory}; {fault.remedy}", fault.exit_code)


# --- disk ----------------------------------------------------------------------------------------


def look_at_download(config: Config) -> Finding:
    """What would be downloaded, and whether it fits on the disk and is allowed."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    name = config.base.name
    free = f"{shutil.disk_usage(Path.cwd()).free / GIB:.0f} GiB free here"
    if name == EMBEDDED or is_on_disk(name):
        return Finding("ok", "download", f"none, the base is local; {free}")
    if HF_HUB_OFFLINE or not hub_reachable():
        reason = "HF_HUB_OFFLINE is set" if HF_HUB_OFFLINE else "the hub is not reachable"
        return Finding("note", "download", f"{reason}: only what is cached; {free}")
    token = "a token is set" if get_token() else "no token is set"
    try:
        info = HfApi().model_info(name, revision=config.base.revision, files_metadata=True)
    except Exception as error:
        # Not found, gated, an impossible name, a broken connection: unrelated types.
        text = f"{quoted(name)}: {first_line(error)}; {token}"
        return Finding("problem", "download", text, DataError.exit_code)
    files = [f for f in info.siblings or [] if f.rfilename.endswith(".safetensors")]
    size = sum(f.size or 0 for f in files)
    cache = Path(HF_HUB_CACHE)
    while not cache.exists():
        cache = cache.parent
    room = shutil.disk_usage(cache).free
    text = (
        f"{size / GIB:.1f} GiB (unless cached); {room / GIB:.0f} GiB free in "
        f"{quoted(HF_HUB_CACHE)}; "
        f"{'gated: accept its terms on the hub' if info.gated else 'not gated'}; {token}"
    )
    if info.gated and not get_token():
        return Finding("problem", "download", text, DataError.exit_code)
    if size > room:
        return Finding("problem", "download", text, SentiloraError.exit_code)
    return Finding("ok", "download", text)
