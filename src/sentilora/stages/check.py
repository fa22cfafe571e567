"""Look before GPU time is spent: labels, lengths, leakage, one example, memory, time, downloads.

sentilora check --preset mistral-7b
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.config import Config
from sentilora.data import EMBEDDED
from sentilora.device import choose_device, choose_dtype
from sentilora.errors import SentiloraError, first_line
from sentilora.hub import hub_reachable
from sentilora.model import load_tokenizer, resolve_base
from sentilora.overview import look_over, look_over_lengths
from sentilora.prompt import IGNORE_INDEX, Prompter
from sentilora.stages import (
    count_steps,
    load_rows_of,
    load_test_of,
    prompt_format_of,
    rows_per_step,
)

if TYPE_CHECKING:
    import torch

# Bits per weight with its scales, double-quantised or not (QLoRA, section 3).
NF4_BITS = {True: 4.127, False: 4.5}
# Share of the large-matmul rate that the arithmetic of a step reaches, and what a layer costs
# beside it in a pass (kernel launches); measured, see docs/results.md.
EFFICIENCY = {"cpu": 0.33, "cuda": 0.6}
LAYER_SECONDS = {"cpu": 0.0, "cuda": 0.025}


@dataclass(frozen=True)
class Finding:
    """A line of the check. level: "ok", "note" or "problem"."""

    level: str
    name: str
    text: str


def check(config: Config) -> list[Finding]:
    """Everything `train` would trip over or choose, without loading weights or training.

    What cannot be had (a device, the hub, a source) becomes a finding of level "problem".
    """
    findings: list[Finding] = []
    train_rows = None
    try:
        train_rows, eval_rows = load_rows_of(config)
        splits = {"train": train_rows, "evaluation": eval_rows}
        try:
            splits["test"] = load_test_of(config, config.prompt.labels)
        except SentiloraError as error:
            findings.append(Finding("problem", "test data", str(error)))
        findings += _data(splits)
    except SentiloraError as error:
        findings.append(Finding("problem", "data", str(error)))
    try:
        prompter = Prompter(load_tokenizer(config.base.name, config.base.revision),
                            prompt_format_of(config))  # fmt: skip
    except SentiloraError as error:
        findings.append(Finding("problem", "base", str(error)))
        return findings + _device(config)[0]
    for label, ids in zip(prompter.format.labels, prompter.label_ids, strict=True):
        pieces = prompter.tokenizer.convert_ids_to_tokens(ids)
        findings.append(Finding("ok", f"label {label!r}", f"tokens {ids} {' '.join(pieces)}"))
    mean_length = 0.0
    if train_rows is not None:
        pairs = zip(train_rows.texts, train_rows.labels, strict=True)
        examples = [prompter.encode_example(text, label) for text, label in pairs]
        lengths = look_over_lengths(examples)
        mean_length = lengths.mean_tokens
        cut = f"{lengths.truncated}, keeping the {config.prompt.truncation} of the text"
        findings.append(Finding("ok", "tokens", lengths.tokens))
        findings.append(Finding("ok", "truncated", cut))
        findings.append(Finding("ok", "example", render_example(prompter, examples[0])))
    device_findings, device, dtype = _device(config)
    findings += device_findings
    if device is not None and dtype is not None:
        findings += _cost(config, device, dtype, len(train_rows or ()), mean_length)
    return findings + _downloads(config)


def render_example(prompter: Prompter, example: Any) -> str:
    """An example as the model sees it, the tokens the loss covers in ⟦…⟧."""

    def decode(ids: list[int]) -> str:
        return str(prompter.tokenizer.decode(ids))

    answer = [i for i in example.labels if i != IGNORE_INDEX]
    prompt = decode(example.input_ids[: -len(answer)])
    if len(prompt) > 700:
        prompt = prompt[:350] + " [… in full for the model …] " + prompt[-350:]
    masked = len(example.input_ids) - len(answer)
    return f"{prompt}⟦{decode(answer)}⟧\n({masked} tokens masked, {len(answer)} in the loss)"


def _data(splits: dict[str, Any]) -> list[Finding]:
    overview = look_over(splits)
    findings = [Finding("ok", name, overview.describe(name)) for name in splits]
    shared = ", ".join(f"{pair}: {count}" for pair, count in overview.shared.items())
    findings.append(Finding("ok", "leakage", f"exact duplicates between splits: {shared}"))
    return findings + [Finding("note", "data", warning) for warning in overview.warnings]


def _device(config: Config) -> tuple[list[Finding], str | None, "torch.dtype | None"]:
    try:
        device = choose_device(config.base.device)
        dtype, reason = choose_dtype(config.base.compute_dtype, device)
    except SentiloraError as error:
        return [Finding("problem", "device", str(error))], None, None
    text = f"{device}, computing in {str(dtype)[6:]} ({reason})"
    return [Finding("ok", "device", text)], device, dtype


def _cost(
    config: Config, device: str, dtype: "torch.dtype", num_rows: int, mean_length: float
) -> list[Finding]:
    """Memory and time, estimated from the base's shapes and a matmul timed here."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    base, recipe = config.base, config.training
    shape = AutoConfig.from_pretrained(resolve_base(base.name), revision=base.revision)
    stored = getattr(shape, "quantization_config", None) is not None
    if stored:
        del shape.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    total = model.num_parameters()
    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    quantised = sum(module.weight.numel() for module in linear.values())
    targets = tuple(config.lora.target_modules)
    adapter = config.lora.r * sum(
        sum(m.weight.shape) for name, m in linear.items() if name.endswith(targets)
    )
    bits = (
        NF4_BITS[base.double_quantization]
        if stored or base.quantization == "nf4"
        else 8 * dtype.itemsize
    )
    weights = quantised * bits / 8 + (total - quantised) * dtype.itemsize
    # float32 weights and gradients, two 8-bit moments
    trained = adapter * (4 + 4 + 2)
    tokens = recipe.per_device_train_batch_size * config.prompt.max_length
    layers, hidden = shape.num_hidden_layers, shape.hidden_size
    inner = getattr(shape, "intermediate_size", None) or 4 * hidden
    layer = (8 * hidden + 4 * inner) * max(dtype.itemsize, 2) * tokens
    checkpointing = recipe.gradient_checkpointing and device == "cuda"
    kept = layers * hidden * dtype.itemsize * tokens + layer if checkpointing else layers * layer
    gib = 2**30
    memory = (
        f"about {(weights + trained + kept) / gib:.1f} GiB: weights {weights / gib:.2f}, adapter "
        f"and optimizer {trained / gib:.2f}, activations of {tokens:,} tokens {kept / gib:.2f}"
    )
    findings = [
        Finding("ok", "parameters", f"{total:,}, of them {adapter:,} in the adapter's shapes")
    ]
    level = "ok"
    if device == "cuda":
        available = torch.cuda.mem_get_info()[0]
        memory += f"; {available / gib:.1f} GiB are free"
        level = "problem" if weights + trained + kept > available else "ok"
    findings.append(Finding(level, "memory", memory))
    if num_rows:
        num_steps = count_steps(config, num_rows)
        flop_per_token = (6 if checkpointing else 4) * (quantised + adapter)
        flop = flop_per_token * mean_length * rows_per_step(config) * num_steps
        rate = _matmul_rate(device, dtype)
        passes = num_steps * recipe.gradient_accumulation_steps
        seconds = flop / (rate * EFFICIENCY[device]) + passes * layers * LAYER_SECONDS[device]
        text = (
            f"{num_steps:,} steps in the order of {seconds / 60:.0f} min, without evaluations "
            f"({flop:.2g} FLOP, matmul here {rate / 1e12:.2f} TFLOP/s)"
        )
        findings.append(Finding("ok", "time", text))
    return findings


def _matmul_rate(device: str, dtype: "torch.dtype") -> float:
    """FLOP/s of a matrix product of the size of a layer."""
    import torch

    size = 4096 if device == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for repeats in (2, 10):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return 2 * size**3 * repeats / seconds


def _downloads(config: Config) -> list[Finding]:
    name = config.base.name
    home = Path.cwd()
    free = f"{shutil.disk_usage(home).free / 2**30:.0f} GiB free here"
    if name == EMBEDDED or Path(name).expanduser().is_dir():
        return [Finding("ok", "download", f"none, the base is local; {free}")]
    if not hub_reachable():
        return [
            Finding("note", "download", f"the hub is not reachable: only what is cached; {free}")
        ]
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import HfHubHTTPError

    token = "a token is set" if get_token() else "no token is set"
    try:
        info = HfApi().model_info(name, revision=config.base.revision, files_metadata=True)
    except HfHubHTTPError as error:
        return [Finding("problem", "download", f"{name}: {first_line(error)}; {token}")]
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
    problem = size > room or (bool(info.gated) and not get_token())
    return [Finding("problem" if problem else "ok", "download", text)]
