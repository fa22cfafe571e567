"""The notebook as published against sentilora: same base, same 2,000 rows, same test rows.

    python bench/published_recipe.py --base BASE --data imdb --output recipe
    python bench/published_recipe.py --base embedded --data imdb --output small \
        --rows 48 --evaluation-rows 16 --test-rows 24 --seeds 1

BASE is a folder, "embedded" or a hub id; imdb is a folder with train.parquet and test.parquet.
Both contenders have the recipe's NF4, LoRA, batch, learning rate, schedule and optimizer. What the
notebook does otherwise (docs/guide/notebook.md):

    prompt      indented as in a function body, with the review as it is stored, `<br />` included
    length      prompt, label and EOS are cut at 512 tokens from the right: a long review loses its
                label, in training and in answering, and all rows are padded to 512
    loss        on what follows "### Sentiment:", found by masking the prompt's tokens; a row that
                lost its label has none
    training    plain Trainer in float16, 4 rows at once, with activation checkpointing
    best        the checkpoint with the lowest loss on 400 test rows, among those saved
    answers     generated greedily, a few tokens; "positive" or "negative" if the answer begins with
                it in any case, else no label, which counts as wrong

Where the notebook leaves something open, the choice is the one that costs it least: prompts end
after the marker, so that training and answering split into the same tokens, and answers are
generated 32 at a time (--answers-at-once; the notebook generates one).

Reported per seed and as means over the seeds: accuracy with the Wilson interval (of a mean, from
resampling the test rows), the share of answers that are no label, seconds of the training loop with
its evaluations and checkpoints, seconds of answering without loading, peak GPU memory of both, and
exact McNemar of the two. "on its 400" is the notebook's accuracy on the test rows that chose its
checkpoint. `--jobs` runs share the machine, so their seconds say little.
"""

import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contenders import (
    TRAINING,
    WARM_UP,
    Answers,
    Sentilora,
    Task,
    best_checkpoint,
    forget_peak,
    peak_memory,
    run_step,
)
from contest import compared, line_of, machine_of, parser_of, right_answers, run_all, write_results
from own_data import interval_of, line
from training import padded_batch, stock_arguments

LENGTH = 512
NEW_TOKENS = 10  # a newline, the indentation and a label are at most five
INDENTATION = "    "
MARKER = "### Sentiment:"
COSTS = (("training", "loop_seconds"), ("answering", "seconds"),
         ("training", "peak_memory_gib"), ("answering", "peak_memory_gib"))  # fmt: skip
HEADER = ("", "seed", "accuracy", "95 %", "no label", "on its 400", "training s", "answering s",
          "GiB training", "GiB answering", "rows without label", "note")  # fmt: skip


def main() -> None:
    parser = parser_of(__doc__.split("\n")[0], minutes=None)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--contenders", default="notebook,sentilora", help="separated by commas")
    parser.add_argument("--answers-at-once", type=int, default=32, help="of the notebook")
    options = parser.parse_args()
    contenders = {"notebook": Notebook(options.answers_at_once), "sentilora": Sentilora()}
    if options.run:
        return run_step(options, contenders[options.run])
    names = options.contenders.split(",")
    if unknown := set(names) - set(contenders):
        parser.error(f"there is no contender {', '.join(sorted(unknown))}")
    options.output.mkdir(parents=True, exist_ok=True)
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    jobs = [(name, seed) for name in names for seed in seeds]
    runs = run_all(options, jobs, machine_of(options))
    answered = {(run["contender"], run["seed"]) for run in runs if run["metrics"]}
    pairs = [(("sentilora", seed), ("notebook", seed)) for seed in seeds]
    comparisons = [compared(options.output, *pair) for pair in pairs if answered.issuperset(pair)]
    write_results(options, runs, comparisons, text_of(options.output, names, runs, comparisons))
    if len(runs) < len(jobs):
        raise SystemExit("some runs failed; their logs say why")


# --- the notebook --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """Tokens of a prompt with its answer; labels are -100 where there is no loss."""

    input_ids: Sequence[int]
    labels: Sequence[int]


class Notebook:
    """The published notebook. answers_at_once: prompts in a batch of generation."""

    def __init__(self, answers_at_once: int) -> None:
        self.answers_at_once = answers_at_once

    def train(self, task: Task, seed: int, folder: Path) -> Mapping[str, Any]:
        import torch
        from transformers import Trainer, set_seed

        from sentilora.models.adapters import attach_adapter
        from sentilora.stages.from_config import load_base_of

        config, rows, selection = self._config(task, seed, folder), task.rows[0], selected(task)
        base = load_base_of(config)
        examples = [example_of(base.tokenizer, config, *pair) for pair in pairs_of(rows)]
        chosen_on = [example_of(base.tokenizer, config, *pair) for pair in pairs_of(selection)]
        recipe = config.training
        arguments = stock_arguments(
            config,
            base,
            rows_at_once=recipe.per_device_train_batch_size,
            checkpointing=torch.cuda.is_available(),
            num_train_epochs=recipe.num_train_epochs,
            max_steps=recipe.max_steps or -1,
            per_device_eval_batch_size=recipe.per_device_eval_batch_size,
            eval_strategy="steps",
            eval_steps=recipe.eval_steps,
            save_strategy="steps",
            save_steps=recipe.save_steps,
            save_total_limit=recipe.save_total_limit,
            load_best_model_at_end=True,
        )
        set_seed(seed)
        trainer = Trainer(
            model=attach_adapter(base.model, **config.lora.model_dump()),
            args=arguments,
            train_dataset=examples,
            eval_dataset=chosen_on,
            data_collator=lambda batch: padded_batch(batch, base.pad_token_id, LENGTH),
        )
        forget_peak()
        started = time.perf_counter()
        trainer.train()
        facts = {
            "loop_seconds": time.perf_counter() - started,
            "num_steps": trainer.state.global_step,
            "best_step": trainer.state.best_global_step,
            "peak_memory_gib": peak_memory(),
            "rows_without_label": sum(set(example.labels) == {-100} for example in examples),
        }
        trainer.model.save_pretrained(folder / "best")
        return facts

    def answer(self, task: Task, seed: int, folder: Path) -> Answers:
        import torch
        from peft import PeftModel

        from sentilora.stages.from_config import load_base_of

        config = self._config(task, seed, folder)
        trained = (folder / TRAINING).exists()
        adapter = folder / "best" if trained else best_checkpoint(folder / "run")
        base = load_base_of(config)
        model = PeftModel.from_pretrained(base.model, adapter).eval()
        prompts = [prompt_ids_of(base.tokenizer, config, text) for text in task.test.texts]

        def generate(numbers: Sequence[int]) -> list[str]:
            """The texts that follow the prompts with these numbers."""
            ids, mask = padded_on_the_left([prompts[i] for i in numbers], base.pad_token_id)
            with torch.inference_mode():
                output = model.generate(
                    input_ids=ids.to(base.device),
                    attention_mask=mask.to(base.device),
                    max_new_tokens=NEW_TOKENS,
                    do_sample=False,
                    use_cache=True,
                    pad_token_id=base.pad_token_id,
                )
            new = output[:, ids.shape[1] :]
            return list(base.tokenizer.batch_decode(new, skip_special_tokens=True))

        generate(range(min(WARM_UP, len(prompts))))
        forget_peak()
        texts = [""] * len(prompts)
        started = time.perf_counter()
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        for start in range(0, len(order), self.answers_at_once):
            numbers = order[start : start + self.answers_at_once]
            for number, text in zip(numbers, generate(numbers), strict=True):
                texts[number] = text
        seconds = time.perf_counter() - started
        labels = [label_in(text, task.labels) for text in texts]
        chosen_on = set(selected(task).numbers)
        triples = zip(task.test.numbers, task.test.labels, labels, strict=True)
        on_selection = [label == answer for row, label, answer in triples if row in chosen_on]
        facts = {
            "peak_memory_gib": peak_memory(),
            "accuracy_on_selection_rows": float(np.mean(on_selection)) if on_selection else None,
            "prompts_cut": sum(len(prompt) == LENGTH for prompt in prompts),
        }
        return Answers(labels, None, seconds, facts)

    def _config(self, task: Task, seed: int, folder: Path) -> Any:
        import torch

        dtype = "float16" if torch.cuda.is_available() else "auto"
        return task.config(seed, folder / "run", f"base.compute_dtype={dtype}")


def selected(task: Task) -> Any:
    """The test rows that choose the checkpoint."""
    from sentilora.stages.from_config import load_rows_of

    return load_rows_of(task.any_config.with_values({"data.evaluation": "test"}))[1]


def pairs_of(rows: Any) -> list[tuple[str, str]]:
    """Text and label of each row."""
    return list(zip(rows.texts, rows.labels, strict=True))


def prompt_of(config: Any, text: str) -> str:
    """The prompt up to its marker, its lines indented but the first, the review as it is stored."""
    *others, last = config.prompt.labels
    instruction = config.prompt.instruction.format(labels=f"{', '.join(others)} or {last}")
    template = textwrap.indent(config.prompt.template.strip(), INDENTATION).strip()
    return str(template.format(instruction=instruction, text=text))


def prompt_ids_of(tokenizer: Any, config: Any, text: str) -> list[int]:
    """The tokens of a prompt, cut from the right."""
    ids = tokenizer(prompt_of(config, text), truncation=True, max_length=LENGTH)
    return list(ids["input_ids"])


def example_of(tokenizer: Any, config: Any, text: str, label: str) -> Example:
    """A training example: prompt, label and EOS, cut from the right, with the prompt masked."""
    prompt = prompt_of(config, text)
    whole = f"{prompt}\n{INDENTATION}{label}{tokenizer.eos_token}"
    ids = list(tokenizer(whole, truncation=True, max_length=LENGTH)["input_ids"])
    num_masked = 0
    for own, of_prompt in zip(ids, prompt_ids_of(tokenizer, config, text), strict=False):
        if own != of_prompt:
            break
        num_masked += 1
    return Example(ids, [-100] * num_masked + ids[num_masked:])


def padded_on_the_left(prompts: Sequence[Sequence[int]], pad: int) -> Any:
    """Token ids and mask of a batch, so that all prompts end at the same place."""
    import torch

    width = max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def label_in(answer: str, labels: Sequence[str]) -> str | None:
    """The label that an answer begins with."""
    begins = answer.strip().lower()
    return next((label for label in labels if begins.startswith(label.lower())), None)


# --- the table -----------------------------------------------------------------------------------


def text_of(
    output: Path,
    names: Sequence[str],
    runs: Sequence[Mapping[str, Any]],
    comparisons: Sequence[Mapping[str, Any]],
) -> str:
    """The table, and a line for each comparison."""
    lines = [line(HEADER), line("---" for _ in HEADER)]
    for name in names:
        own = [run for run in runs if run["contender"] == name]
        lines += [line_of(run, len(HEADER), figure_cells) for run in own]
        if len(answered := [run for run in own if run["metrics"]]) > 1:
            lines.append(mean_row(output, name, answered))
    tests = [
        f"seed {c['first'][1]}: sentilora {100 * c['difference']:+.2f} points "
        f"({100 * c['interval'][0]:+.2f} to {100 * c['interval'][1]:+.2f}), alone right on "
        f"{c['num_only_first']:,}, the notebook alone on {c['num_only_second']:,}, "
        f"exact McNemar p = {c['p']:.2g}"
        for c in comparisons
    ]
    return "\n".join(["\n".join(lines), "", *tests]).rstrip()


def figure_cells(run: Mapping[str, Any]) -> list[str]:
    """The cells of a run's figures."""
    answering, training = run["answering"] or {}, run["training"] or {}
    return [
        f"{100 * run['metrics']['no_label']:.2f}",
        percent(answering.get("accuracy_on_selection_rows")),
        *cells_of([run]),
        str(training.get("rows_without_label", "–")),
    ]


def mean_row(output: Path, name: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """The line of the means; the interval comes from resampling the test rows."""
    right = np.mean([right_answers(output, name, run["seed"]) for run in runs], axis=0)
    low, high = (100 * bound for bound in interval_of(right))
    chosen = [run["answering"].get("accuracy_on_selection_rows") for run in runs]
    return line(
        [
            name,
            "mean",
            f"{100 * right.mean():.2f}",
            f"{low:.2f}–{high:.2f}",
            f"{100 * np.mean([run['metrics']['no_label'] for run in runs]):.2f}",
            percent(None if None in chosen else float(np.mean(chosen))),
            *cells_of(runs),
            "",
            "",
        ]
    )


def cells_of(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Means of seconds and memory, training before answering; a dash where a run has none."""
    cells = []
    for step, key in COSTS:
        values = [(run[step] or {}).get(key) for run in runs]
        if any(value is None for value in values):
            cells.append("–")
        else:
            cells.append(f"{np.mean(values):.1f}")
    return cells


def percent(share: float | None) -> str:
    """A share in percent; a dash without one."""
    return "–" if share is None else f"{100 * share:.2f}"


if __name__ == "__main__":
    main()
