"""Seconds per optimizer step of the recipe: other stacks and sentilora's engine, on the same rows.

    python bench/training.py --base BASE --data imdb                  # a GPU: every stack below
    python bench/training.py --base embedded --data imdb              # a CPU: plain and engine

BASE is a folder (`tools/random_base.py` writes one with Mistral-7B's shape), "embedded" or a hub
id. imdb is a folder as `sentilora train data.train=` takes it. The stacks run one after the other,
each in a process of its own. The times are of steps 6 to 30 in the order of seed 42, from the
loader's batch until the device is idle; they exclude loader and tokenizer. "matmul" is the step's
useful arithmetic, four operations per frozen weight and token (one forward and one backward pass
without padding; a prefix that rows share counts once per row), as a share of this GPU's speed on a
large matrix product.

    notebook    Trainer + PEFT + bitsandbytes with the published recipe: padded to 512, 4 × 4,
                activation checkpointing, float16
    tuned       the same libraries: bfloat16, padded to the longest row of a batch, 4 × 4, no
                checkpointing
    tuned16     tuned, 16 × 1 (only on request)
    liger       tuned, with Liger's kernels, 16 × 1
    unsloth     Unsloth, 16 × 1 without checkpointing (only on request, and if it is installed)
    engine      sentilora train
    fp8         sentilora train engine.base_matmul=fp8
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import cache

from sentilora.models.device import spin_briefly

GPU_STACKS = ["notebook", "tuned", "liger", "engine"]
CPU_STACKS = ["tuned", "engine"]
FIRST_TIMED = 5  # earlier steps compile and capture
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--stacks", help="names separated by commas; default: all for this device")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--memory-gib", type=float, help="limit GPU memory to this much")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    spin_briefly()
    if options.run:
        print(json.dumps(run_stack(options.run, options)))
        return
    import torch

    on_gpu = torch.cuda.is_available()
    stacks = options.stacks.split(",") if options.stacks else GPU_STACKS if on_gpu else CPU_STACKS
    print(describe_machine(), flush=True)
    results: dict[str, dict] = {}
    for stack in stacks:
        command = [sys.executable, __file__, *sys.argv[1:], "--run", stack]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            print(f"{stack:<10}failed: {process.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        results[stack] = json.loads(process.stdout.strip().splitlines()[-1])
        show(stack, results)


def describe_machine() -> str:
    """The GPU with its clocks and matrix-product speed, or the CPU; versions of the libraries."""
    import platform
    from importlib.metadata import version

    import torch

    names = ("torch", "transformers", "peft", "bitsandbytes")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    if not torch.cuda.is_available():
        return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {versions}"
    query = ["nvidia-smi", "--query-gpu=name,clocks.max.sm,clocks.max.mem", "--format=csv,noheader"]
    card = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    return f"{card}; {matmul_rate():.0f} TFLOP/s bfloat16 8192³; {versions}"


@cache
def matmul_rate() -> float:
    """TFLOP/s of an 8192³ matrix product in bfloat16."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in "ab")
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        a @ b
    torch.cuda.synchronize()
    return 10 * 2 * 8192**3 / (time.perf_counter() - started) / 1e12


def show(stack: str, results: dict[str, dict]) -> None:
    """Print a line of the table, and before the first one its header."""
    row = results[stack]
    if len(results) == 1:
        print(
            f"{'':<10}{'s/step':>8}{'min':>8}{'max':>8}{'tokens/s':>10}{'matmul':>8}{'GiB':>7}"
            f"{'reserved':>9}{'loss 1':>8}{'last':>7}"
        )
    first = next(iter(results.values()))
    share = "–"
    if row["peak_gib"] is not None:
        flops = row["flop_per_token"] * row["tokens_per_second"]
        share = f"{flops / (1e12 * matmul_rate()):.0%}"
    memory = "".join(
        f"{value:>{width}.2f}" if value is not None else f"{'–':>{width}}"
        for value, width in ((row["peak_gib"], 7), (row["reserved_gib"], 9))
    )
    print(
        f"{stack:<10}{row['median']:>8.3f}{row['min']:>8.3f}{row['max']:>8.3f}"
        f"{row['tokens_per_second']:>10,.0f}{share:>8}{memory}{row['losses'][0]:>8.3f}{row['losses'][-1]:>7.3f}"
        f"   {first['median'] / row['median']:.2f}× {row['note']}",
        flush=True,
    )


# --- one stack -----------------------------------------------------------------------------------


def run_stack(stack: str, options: argparse.Namespace) -> dict:
    """Train with one stack; its times, memory and losses."""
    import torch

    on_gpu = torch.cuda.is_available()
    if on_gpu and options.memory_gib:
        total = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction(options.memory_gib * 2**30 / total)
    build = build_sentilora if stack in ("engine", "fp8") else build_stock
    trainer, num_tokens, note = build(stack, options)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = step_seconds(trainer)
    timed = seconds[FIRST_TIMED:]
    return {
        "median": statistics.median(timed),
        "min": min(timed),
        "max": max(timed),
        "seconds": seconds,
        "flop_per_token": 4 * num_frozen(trainer.model),
        "tokens_per_second": num_tokens / statistics.median(timed),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if on_gpu else None,
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "note": note,
    }


def step_seconds(trainer) -> list[float]:  # type: ignore[no-untyped-def]
    """Train; the seconds of each optimizer step, until the device is idle."""
    import torch
    from transformers import TrainerCallback

    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
            wait()
            self.started = time.perf_counter()

        def on_step_end(self, *args, **kwargs) -> None:  # type: ignore[no-untyped-def]
            wait()
            self.seconds.append(time.perf_counter() - self.started)

    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    return clock.seconds


def load_config_of(options: argparse.Namespace, *more: str):  # type: ignore[no-untyped-def]
    """The configuration of a benchmark. more: overrides beyond those of the command line."""
    from tempfile import mkdtemp

    from sentilora.config import load_config

    return load_config(
        "tiny" if options.base == "embedded" else "mistral-7b",
        overrides=[
            f"base.name={options.base}",
            f"data.train={options.data}",
            'data.label_map={ 0 = "negative", 1 = "positive" }',  # of IMDB as plain Parquet
            f"data.test={options.data}",
            "data.num_evaluation=8",
            f"training.max_steps={options.steps}",
            "training.logging_steps=1",
            "training.eval_steps=100000",
            "training.save_steps=100000",
            f"output_dir={mkdtemp()}",
            *more,
            *options.set,
        ],
    )


def prepare(config):  # type: ignore[no-untyped-def]
    """Base, prompter, training examples and evaluation rows, as `sentilora train` builds them."""
    from sentilora.prompt import Prompter
    from sentilora.stages.from_config import load_base_of, load_rows_of, prompt_format_of
    from sentilora.stages.train import encode_training

    rows, evaluation = load_rows_of(config)
    base = load_base_of(config)
    prompter = Prompter(base.tokenizer, prompt_format_of(config))
    examples = encode_training(prompter, rows, config)
    return base, prompter, examples, evaluation


def build_sentilora(stack: str, options: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Trainer, tokens per step and a note on the plan, as `sentilora train` builds them."""
    import io
    from contextlib import redirect_stderr

    from sentilora.progress import show_details
    from sentilora.stages.train import build_trainer, prepare_model

    show_details(True)  # the plan is one of them
    config = load_config_of(options, *(["engine.base_matmul=fp8"] if stack == "fp8" else []))
    base, prompter, examples, evaluation = prepare(config)
    model = prepare_model(config, base, None)
    notices = io.StringIO()
    with redirect_stderr(notices):
        trainer = build_trainer(config, base, model, prompter, examples, evaluation)
    assert trainer.engine is not None, "the engine does not support this base"
    return trainer, mean_tokens(examples), notices.getvalue().strip().splitlines()[-1]


def num_frozen(model) -> int:  # type: ignore[no-untyped-def]
    """Number of 4-bit weights. PEFT's wrappers refer to those of their base layers."""
    sizes = {
        id(module.weight): module.in_features * module.out_features
        for module in model.modules()
        if hasattr(getattr(module, "weight", None), "quant_state")
    }
    return sum(sizes.values())


def mean_tokens(examples) -> float:  # type: ignore[no-untyped-def]
    """Mean number of tokens in a step of 16 examples."""
    return 16 * sum(len(example.input_ids) for example in examples) / len(examples)


def build_stock(stack: str, options: argparse.Namespace):  # type: ignore[no-untyped-def]
    """Trainer, tokens per step and a note, without a line of sentilora in the step."""
    import torch
    from transformers import Trainer

    if stack == "liger":
        from liger_kernel.transformers import apply_liger_kernel_to_mistral

        apply_liger_kernel_to_mistral()
    dtype = "float16" if stack == "notebook" else "auto"
    config = load_config_of(options, f"base.compute_dtype={dtype}")
    base, _, examples, _ = prepare(config)
    rows_at_once = 16 if stack in ("tuned16", "liger", "unsloth") else 4
    if stack == "unsloth":
        model = unsloth_model(options.base)
    else:
        from sentilora.models.adapters import attach_adapter

        torch.manual_seed(42)
        model = attach_adapter(base.model, **config.lora.model_dump())
    arguments = stock_arguments(
        config,
        base,
        rows_at_once,
        checkpointing=stack == "notebook",
        max_steps=options.steps,
        save_strategy="no",
    )
    width = 512 if stack == "notebook" else None

    def collate(batch):  # type: ignore[no-untyped-def]
        return padded_batch(batch, base.pad_token_id, width)

    trainer = Trainer(
        model=model, args=arguments, train_dataset=list(examples), data_collator=collate
    )
    return trainer, mean_tokens(examples), f"{rows_at_once} × {16 // rows_at_once}"


def stock_arguments(config, base, rows_at_once: int, checkpointing: bool, **others):  # type: ignore[no-untyped-def]
    """The recipe for the plain Trainer. others: its length, evaluations and checkpoints."""
    import torch
    from transformers import TrainingArguments

    recipe, on_gpu = config.training, torch.cuda.is_available()
    return TrainingArguments(
        output_dir=config.output_dir,
        use_cpu=not on_gpu,
        bf16=on_gpu and base.dtype == torch.bfloat16,
        fp16=base.dtype == torch.float16,
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=16 // rows_at_once,
        gradient_checkpointing=checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup_steps,
        optim=recipe.optim if on_gpu else recipe.optim.removeprefix("paged_"),
        seed=recipe.seed,
        logging_steps=recipe.logging_steps,
        report_to="none",
        remove_unused_columns=False,
        disable_tqdm=True,
        **others,
    )


def padded_batch(batch, pad: int, width: int | None = None):  # type: ignore[no-untyped-def]
    """Examples as tensors, padded on the right to `width` tokens or to the longest of them."""
    import torch

    lengths = [len(example.input_ids) for example in batch]
    width = width or max(lengths)

    def rows(name: str, value: int) -> torch.Tensor:
        columns = [list(getattr(example, name)) for example in batch]
        return torch.tensor([row + [value] * (width - len(row)) for row in columns])

    mask = torch.tensor([[int(i < length) for i in range(width)] for length in lengths])
    return {"input_ids": rows("input_ids", pad), "attention_mask": mask,
            "labels": rows("labels", -100)}  # fmt: skip


def unsloth_model(name: str):  # type: ignore[no-untyped-def]
    """A base with a new adapter, from Unsloth."""
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(name, max_seq_length=512, load_in_4bit=True)
    return FastLanguageModel.get_peft_model(
        model,
        r=16,
        lora_alpha=32,
        lora_dropout=0.05,
        target_modules=TARGETS,
        use_gradient_checkpointing=False,
        random_state=42,
    )


if __name__ == "__main__":
    main()
