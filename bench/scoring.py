"""Reviews scored per second: plain path, engine, and engine with 8-bit products.

    python bench/scoring.py --base BASE --data imdb

BASE and imdb are as for `bench/training.py`. The base has a new adapter. The time is that of
`LabelScorer.log_probs` over the prompts, from token ids to log-probabilities on the CPU, after one
warm-up run over the same prompts. It excludes the tokenizer.
"""

import argparse
import time
from typing import Any

from training import describe_machine, load_config_of, prepare

from sentilora.models.device import spin_briefly


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--stacks", default="reference,engine,fp8")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    options.steps = 1
    spin_briefly()
    print(describe_machine(), flush=True)
    config = load_config_of(options, f"data.num_evaluation={options.rows}")
    base, prompter, _, evaluation = prepare(config)
    prompts = [prompter.encode(item) for item in evaluation.inputs]
    from sentilora.stages.train import prepare_model

    model = prepare_model(config, base, None)
    for stack in options.stacks.split(","):
        measure(stack, config, base, model, prompter.label_ids, [p.input_ids for p in prompts])


def measure(
    stack: str, config: Any, base: Any, model: Any, label_ids: Any, prompts: list[list[int]]
) -> None:
    """Score the prompts with one stack and print its speed."""
    import torch

    from sentilora.models.fast_path import install_engine
    from sentilora.scoring.labels import LabelScorer
    from sentilora.stages.from_config import runtime_of

    runtime = runtime_of(config).override(batch_size=32)
    on_gpu = base.device == "cuda"
    if stack == "reference":
        engine, prompts = None, prompts[: len(prompts) // 8]
    else:
        base_matmul = "fp8" if stack == "fp8" else "exact"
        runtime = runtime.override(engine="auto", base_matmul=base_matmul)
        engine = install_engine(model, runtime)
    scorer = LabelScorer(model, label_ids, base.pad_token_id, base.dtype, runtime, engine)
    scorer.log_probs(prompts)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    scorer.log_probs(prompts)
    seconds = time.perf_counter() - started
    num_tokens = sum(map(len, prompts))
    peak = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if on_gpu else ""
    print(
        f"{stack:<10}{len(prompts) / seconds:7.1f} reviews/s, {num_tokens / seconds:9,.0f} "
        f"tokens/s, {len(prompts):,} rows in {seconds:.2f} s{peak}",
        flush=True,
    )
    if engine is not None:
        engine.remove()


if __name__ == "__main__":
    main()
