"""Time of a text with many labels, as a multiple of the same text with two.

    python bench/labels.py --adapter banking77 --data banking77/test.parquet --rows 200

The adapter is a trained one with many labels, for example of BANKING77; the two labels are `yes`
and `no`. Each line is a bound on what is left out (`max_left_out`): 0 scores every label. Beside it
is how far probabilities are at most from those with nothing left out. Times are per text, after one
warm-up run over the same texts, without the tokenizer; on a CPU see the CPU time, which other work
on the machine changes less.
"""

import argparse
import time
from typing import Any

from training import describe_machine

from sentilora.models.device import spin_briefly

BOUNDS = (0.0, 1e-6, 1e-4, 1e-3, 1e-2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--data", required=True, help="table with a column `text`")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--engine", choices=("auto", "reference"))
    parser.add_argument("--batch-size", type=int)
    options = parser.parse_args()
    spin_briefly()
    print(describe_machine(), flush=True)
    from pyarrow import parquet

    from sentilora import Classifier

    runtime: dict[str, Any] = {"engine": options.engine, "batch_size": options.batch_size}
    classifier = Classifier.load(options.adapter, **runtime)
    texts = parquet.read_table(options.data)["text"].to_pylist()
    step = max(1, len(texts) // options.rows)
    prompts = [classifier.prompter.encode(text).input_ids for text in texts[::step][: options.rows]]
    compare(classifier, prompts)


def compare(classifier: Any, prompts: list[list[int]]) -> None:
    """Print what the adapter's labels cost, bound by bound."""
    from sentilora.scoring.labels import LabelScorer

    whole = classifier.scorer
    eos = whole.label_ids[0][-1]
    words = [classifier.base.tokenizer(w, add_special_tokens=False) for w in ("yes", "no")]
    two = LabelScorer(
        classifier.model,
        [[*word["input_ids"], eos] for word in words],
        classifier.base.pad_token_id,
        classifier.base.dtype,
        classifier.runtime,
        whole.engine,
    )
    on_gpu = classifier.base.device == "cuda"
    wall, cpu, _ = measure(two, prompts, None)
    least = wall if on_gpu else cpu
    mean = sum(map(len, prompts)) / len(prompts)
    num_tokens = sum(len(ids) - 1 for ids in whole.label_ids)
    print(f"{len(prompts)} prompts of {mean:.0f} tokens; {classifier.computed_on}")
    print(f"2 labels: {1e3 * wall:.2f} ms a text (CPU time {1e3 * cpu:.2f})", flush=True)
    shared = "" if whole.tree is None else f", {whole.tree.num_inner} in their tree"
    print(f"{len(whole.label_ids)} labels of {num_tokens} tokens{shared}", flush=True)
    exact = None
    for bound in BOUNDS:
        seconds, cpu, scores = measure(whole, prompts, bound)
        times = (seconds if on_gpu else cpu) / least
        probabilities = scores.log_probs.softmax(-1)
        exact = probabilities if exact is None else exact
        print(
            f"left out at most {bound:<6g}{1e3 * seconds:8.2f} ms a text (CPU time "
            f"{1e3 * cpu:.2f}), {times:5.1f} times two labels; up to "
            f"{scores.left_out.max():.1e} left out, probabilities differ by up to "
            f"{(probabilities - exact).abs().max():.1e}",
            flush=True,
        )


def measure(scorer: Any, prompts: list[list[int]], bound: float | None) -> tuple[float, float, Any]:
    """Wall-clock and CPU seconds per prompt, and the scores."""
    scorer.score(prompts, max_left_out=bound)
    started, cpu = time.perf_counter(), time.process_time()
    scores = scorer.score(prompts, max_left_out=bound)
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    return wall / len(prompts), cpu / len(prompts), scores


if __name__ == "__main__":
    main()
