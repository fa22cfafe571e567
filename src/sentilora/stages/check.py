"""Look before GPU time is spent: labels, lengths, leakage, one example, memory, time, downloads.

sentilora check --preset mistral-7b
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sentilora.config import Config
from sentilora.data.overview import look_over
from sentilora.data.rows import Rows
from sentilora.data.sources import load_rows
from sentilora.errors import DataError, SentiloraError, UsageError, first_line
from sentilora.folders.run_folder import require_unused
from sentilora.hub import hub_reachable
from sentilora.models.adapters import attach_adapter, count_parameters
from sentilora.models.bases import beyond_positions, load_structure, load_tokenizer
from sentilora.models.device import choose_device, choose_dtype
from sentilora.prompt import IGNORE_INDEX, Prompter, PromptFormat
from sentilora.shipped import EMBEDDED
from sentilora.stages.from_config import (
    check_steps,
    columns_of,
    count_steps,
    load_rows_of,
    load_test_of,
    others_test,
    prompt_format_of,
    runtime_of,
)
from sentilora.training.estimate import flop_per_token, memory_finding, shapes_of, time_finding
from sentilora.training.lengths import look_over_lengths
from sentilora.training.recipe import recipe_faults
from sentilora.wording import counted

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Finding:
    """A line of the check. level: "ok", "note" or "problem".

    exit_code: that of the error which a problem would become; 0 otherwise.
    """

    level: str
    name: str
    text: str
    exit_code: int = 0


def check(config: Config) -> list[Finding]:
    """Everything `train` would trip over or choose, without loading weights or training.

    Goes on behind a problem (a source, a setting, a device, the hub): every one becomes a finding.
    """
    findings: list[Finding] = []
    splits = _load_splits(config, findings)
    with _Problem(findings, "steps"):
        check_steps(config)
    prompter = _prompter(config, findings)
    mean_length = 0.0
    if prompter is not None and "train" in splits:
        with _Problem(findings, "tokens"):
            mean_length = _tokens(config, prompter, splits["train"], findings)
    device, dtype = None, None
    with _Problem(findings, "device"):
        device = choose_device(config.base.device)
    with _Problem(findings, "engine"):
        engine = config.engine
        runtime_of(config).require_possible()
        if device == "cpu" and (engine.assume_capability or engine.max_memory_gib):
            text = "engine.assume_capability and engine.max_memory_gib concern GPUs only"
            findings.append(Finding("note", "engine", text))
    with _Problem(findings, "dtype"):
        # Of a device that is not there, what can be said is said for a CPU.
        dtype, reason = choose_dtype(
            config.base.compute_dtype, device or "cpu", config.engine.assume_capability
        )
        if device is not None:
            text = f"{device}, computing in {str(dtype)[6:]} ({reason})"
            findings.append(Finding("ok", "device", text))
    recipe = config.training
    faults = recipe_faults(
        optim=recipe.optim,
        lr_scheduler_type=recipe.lr_scheduler_type,
        report_to=recipe.report_to,
        device=device or "cpu",
    )
    findings += [
        Finding("problem", key.rpartition(".")[2], text, UsageError.exit_code)
        for key, text in faults.items()
    ]
    if "train" in splits and not recipe.warmup_ratio:
        num_steps = count_steps(config, len(splits["train"]))
        if recipe.warmup_steps >= num_steps:
            text = (
                f"training.warmup_steps={recipe.warmup_steps} of {counted(num_steps, 'step')}: the "
                "learning rate never gets to its height; lower it"
            )
            findings.append(Finding("note", "warm-up", text))
    if warning := others_test(config):
        findings.append(Finding("note", "test data", warning))
    with _Problem(findings, "base"):
        base, stored = load_structure(
            config.base.name,
            revision=config.base.revision,
            quantization=config.base.quantization,
        )
        shapes = shapes_of(base)
        if beyond := beyond_positions(base, config.prompt.max_length):
            findings.append(Finding("note", "max_length", beyond))
        with _Problem(findings, "lora"):
            model = attach_adapter(base, **config.lora.model_dump())
            findings.append(_engine(config, model))
            num_trained = count_parameters(model).num_trainable
            text = f"{shapes.num_parameters:,}, and {num_trained:,} in the adapter"
            findings.append(Finding("ok", "parameters", text))
            if device is not None and dtype is not None:
                findings.append(memory_finding(config, shapes, num_trained, stored, device, dtype))
                if mean_length:
                    num_steps = count_steps(config, len(splits["train"]))
                    flop = flop_per_token(config, shapes, num_trained, device) * mean_length
                    findings.append(time_finding(config, shapes, flop, num_steps, device, dtype))
        with _Problem(findings, "attention"):
            load_structure(
                config.base.name,
                revision=config.base.revision,
                quantization=config.base.quantization,
                attn_implementation=config.base.attn_implementation,
            )
    findings.append(_downloads(config))
    findings += _output(Path(config.output_dir))
    # A file that is wrong, is wrong once, however many settings name it.
    distinct: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        distinct.setdefault((finding.level, finding.text), finding)
    return list(distinct.values())


class _Problem:
    """Makes an error within it a finding, and goes on."""

    def __init__(self, findings: list[Finding], name: str) -> None:
        self.findings = findings
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if not isinstance(error, SentiloraError):
            return False
        text = " ".join(str(error).split())
        self.findings.append(Finding("problem", self.name, text, error.exit_code))
        return True


def _load_splits(config: Config, findings: list[Finding]) -> dict[str, Rows]:
    """The splits that can be had, and what there is to say of them."""
    splits: dict[str, Rows] = {}
    with _Problem(findings, "data"):
        splits["train"], splits["evaluation"] = load_rows_of(config)
    evaluation = config.data.evaluation
    if not splits and evaluation not in ("train", "test"):
        with _Problem(findings, "evaluation data"):
            load_rows(evaluation, "validation", columns_of(config, config.prompt.labels))
    with _Problem(findings, "test data"):
        splits["test"] = load_test_of(config, config.prompt.labels)
    if splits:
        overview = look_over(splits)
        findings += [Finding("ok", name, overview.describe(name)) for name in splits]
        if overview.shared:
            shared = ", ".join(f"{pair}: {count}" for pair, count in overview.shared.items())
            findings.append(Finding("ok", "leakage", f"exact duplicates between splits: {shared}"))
        findings += [Finding("note", "data", warning) for warning in overview.warnings]
    return splits


def _prompter(config: Config, findings: list[Finding]) -> Prompter | None:
    """The prompter, if there is one, and the labels' tokens."""
    tokenizer: PreTrainedTokenizerBase | None = None
    format: PromptFormat | None = None
    with _Problem(findings, "base"):
        tokenizer = load_tokenizer(config.base.name, config.base.revision)
    with _Problem(findings, "prompt"):
        format = prompt_format_of(config)
    if tokenizer is None or format is None:
        return None
    with _Problem(findings, "prompt"):
        prompter = Prompter(tokenizer, format)
        for label, ids in zip(format.labels, prompter.label_ids, strict=True):
            pieces = " ".join(tokenizer.convert_ids_to_tokens(ids))
            findings.append(Finding("ok", f"label {label!r}", f"tokens {ids} {pieces}"))
        return prompter
    return None


def _tokens(config: Config, prompter: Prompter, rows: Rows, findings: list[Finding]) -> float:
    """Lengths, truncation and an example of the training rows; returns their mean length."""
    pairs = zip(rows.texts, rows.labels, strict=True)
    examples = [prompter.encode_example(text, label) for text, label in pairs]
    lengths = look_over_lengths(examples)
    cut = f"{lengths.truncated}, keeping the {config.prompt.truncation} of the text"
    findings.append(Finding("ok", "tokens", lengths.tokens))
    many = lengths.num_truncated > lengths.num_examples / 2
    hint = "; most texts are cut: raise prompt.max_length" if many else ""
    findings.append(Finding("note" if many else "ok", "truncated", cut + hint))
    findings.append(Finding("ok", "example", render_example(prompter, examples[0])))
    return lengths.mean_tokens


def render_example(prompter: Prompter, example: Any) -> str:
    """An example as the model sees it, the tokens the loss covers in ⟦…⟧."""

    def decode(ids: list[int]) -> str:
        return str(prompter.tokenizer.decode(ids))

    answer = [i for i in example.labels if i != IGNORE_INDEX]
    prompt = decode(example.input_ids[: -len(answer)])
    if len(prompt) > 700:
        prompt = prompt[:350] + " [… in full for the model …] " + prompt[-350:]
    masked = len(example.input_ids) - len(answer)
    tokens = f"{counted(masked, 'token')} masked, {len(answer)} in the loss"
    return f"{prompt}⟦{decode(answer)}⟧\n({tokens})"


def _engine(config: Config, model: "torch.nn.Module") -> Finding:
    """Which way training will take. The engine also tries two layers when it has their weights."""
    from sentilora.engine.swap import find_layers, why_not

    if config.engine.implementation == "reference":
        return Finding("ok", "engine", "plain path, as engine=reference asks")
    layers = find_layers(model)
    reason = why_not(layers) if layers else "its layers are of another structure"
    if reason:
        return Finding("note", "engine", f"plain path, several times slower: {reason}")
    return Finding("ok", "engine", f"fast engine, {len(layers)} layers")


def _downloads(config: Config) -> Finding:
    """What is to be downloaded, whether it fits, and whether it may be."""
    name = config.base.name
    free = f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB free here"
    if name == EMBEDDED or Path(name).expanduser().is_dir():
        return Finding("ok", "download", f"none, the base is local; {free}")
    if not hub_reachable():
        return Finding("note", "download", f"the hub is not reachable: only what is cached; {free}")
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.constants import HF_HUB_CACHE

    token = "a token is set" if get_token() else "no token is set"
    try:
        info = HfApi().model_info(name, revision=config.base.revision, files_metadata=True)
    except Exception as error:
        # Not found, gated, a name that none can have, a broken line: unrelated types.
        text = f"{name}: {first_line(error)}; {token}"
        return Finding("problem", "download", text, DataError.exit_code)
    files = [f for f in info.siblings or [] if f.rfilename.endswith(".safetensors")]
    size = sum(f.size or 0 for f in files)
    cache = Path(HF_HUB_CACHE)
    while not cache.exists():
        cache = cache.parent
    room = shutil.disk_usage(cache).free
    text = (
        f"{size / 2**30:.1f} GiB (unless cached); {room / 2**30:.0f} GiB free in {HF_HUB_CACHE}; "
        f"{'gated: accept its terms on the hub' if info.gated else 'not gated'}; {token}"
    )
    if info.gated and not get_token():
        return Finding("problem", "download", text, DataError.exit_code)
    if size > room:
        return Finding("problem", "download", text, SentiloraError.exit_code)
    return Finding("ok", "download", text)


def _output(folder: Path) -> list[Finding]:
    try:
        require_unused(folder)
    except UsageError as error:  # no problem yet: `train` takes another name
        return [Finding("note", "output", str(error))]
    return []
