"""Teaches the pre-trained base what larger models say of film reviews. Two verbs, in this order:

    python tools/distill_pool.py --imdb imdb --out pool.parquet
    sentilora predict --adapter TEACHER --input pool.parquet --output scored-1/  # for each teacher
    python tools/teach_tiny.py mean scored-1 scored-2 --out imdb-taught          # seconds
    python tools/teach_tiny.py train imdb-taught --base pretrained               # one GPU, minutes
    python tools/pretrain_tiny.py quantize imdb-taught src/sentilora/assets/tiny

`pretrained` is what `pretrain_tiny.py quantize` wrote before. `mean` averages the teachers'
probabilities, and adds short texts with misspelled words, which mean what the right ones do.
`train` trains all weights of the base on them, in the form of the recipe's prompt, and at the same
time on the next token, so that it stays a language model. Rows with a true label have that as their
target; those of the recipe's evaluation rows only measure. A base can be taught again, by what was
trained on it: the one that ships was (docs/results.md, "Taught"). `sentilora train
data.train=imdb-taught data.evaluation=imdb-taught` teaches an adapter the same.
"""

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pretrain_tiny import (
    PAD,
    hidden_states,
    make_optimizer,
    read_record,
    schedule,
    with_dropout,
    write_record,
)

from sentilora import metrics
from sentilora.data.rows import Columns
from sentilora.data.soft_labels import PREFIX
from sentilora.data.sources import load_rows
from sentilora.prompt import IGNORE_INDEX, LABELS, Prompter, PromptFormat
from sentilora.shipped import EMBEDDED

EVALUATION = "evaluation"  # kind of the rows that only measure
SORTED_TOGETHER = 100  # batches whose rows are sorted by length
SHORT = ("sentence", "pair", "negation", "contrast")  # kinds of texts that are misspelled


@dataclass(frozen=True)
class Row:
    """A prompt with the likelier label as its answer.

    num_prompt: tokens of the prompt. share: of `LABELS[0]`.
    """

    input_ids: Sequence[int]
    num_prompt: int
    share: float


def mean(folders: Sequence[Path], out: Path, num_misspelled: int, seed: int) -> None:
    """Writes the texts with the mean of their teachers' probabilities into the folder `out`.

    num_misspelled: copies of short texts with misspelled words, among the training rows.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    tables = [
        pa.concat_tables(map(pq.read_table, sorted(folder.glob("part-*.parquet"))))
        for folder in folders
    ]
    first = tables[0]
    if any(table["text"] != first["text"] for table in tables[1:]):
        raise SystemExit("the teachers scored different texts")
    names = [PREFIX + label for label in LABELS]
    shares = np.mean([[table[name].to_numpy() for name in names] for table in tables], axis=0).T
    for row, label in enumerate(first["label"].to_pylist()):
        if label:
            shares[row] = [label == other for other in LABELS]
    columns = {name: shares[:, number] for number, name in enumerate(names)}
    table = pa.table({"text": first["text"], "kind": first["kind"], **columns})
    measures = pc.equal(table["kind"], EVALUATION)
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.filter(measures), out / "validation.parquet")
    rows = table.filter(pc.invert(measures)).to_pylist()
    rows += misspelled(rows, num_misspelled, random.Random(seed))
    pq.write_table(pa.Table.from_pylist(rows), out / "train.parquet")
    print(f"{len(table):,} texts in {out}, scored by {len(tables)}; {len(rows):,} rows to train on")


def misspelled(
    rows: Sequence[dict[str, Any]], num: int, draw: random.Random
) -> list[dict[str, Any]]:
    """Copies of this many short texts with misspelled words and the same probabilities."""
    short = [row for row in rows if row["kind"] in SHORT]
    return [
        {**row, "text": with_typos(row["text"], draw), "kind": "misspelled"}
        for row in draw.sample(short, min(num, len(short)))
    ]


def with_typos(text: str, draw: random.Random) -> str:
    """The text with up to three words misspelled: two letters swapped, or one left out.

    Not by `evaluation.suite.misspell`: what makes the behavior tests should not make their lessons.
    """
    words = text.split(" ")
    long = [number for number, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    for number in draw.sample(long, min(len(long), draw.randint(1, 3))):
        word = words[number]
        place = draw.randrange(1, len(word) - 1)
        rest = word[place + 1 :]
        middle = rest[0] + word[place] + rest[1:] if draw.random() < 0.5 else rest
        words[number] = word[:place] + middle
    return " ".join(words)


def train(folder: Path, args: argparse.Namespace) -> None:
    """Trains a base on the rows in `folder` and saves it to `folder`/model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sentilora.exporting.merged import dequantize

    record = read_record(args.base)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    rows = read_rows(folder / "train.parquet", args.base)
    measured = {
        "evaluation": read_rows(folder / "validation.parquet", args.base),
        "embedded": embedded_rows(args.base),
    }
    model = AutoModelForCausalLM.from_pretrained(args.base, device_map={"": "cpu"})
    dequantize(model, str(args.base))
    model.requires_grad_(True).to(device)
    with_dropout(model, args.dropout)
    start = time.perf_counter()
    prompter = Prompter(tokenizer, PromptFormat())
    labels = [ids[0] for ids in prompter.label_ids]
    curve = run_steps(model, labels, rows, measured, args, device)
    seconds = time.perf_counter() - start
    lesson = {
        **{k: v for k, v in vars(args).items() if isinstance(v, int | float)},
        "num_texts": len(rows),
        "num_tokens_per_epoch": sum(len(row.input_ids) for row in rows),
        "seconds": round(seconds),
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
        "torch": torch.__version__,
        "curve": curve,
    }
    out = args.out or folder
    model.to("cpu").save_pretrained(out / "model")
    tokenizer.save_pretrained(out / "model")
    write_record(out, **record | {"teaching": [*record.get("teaching", []), lesson]})
    print(f"{seconds:.0f} s, in {out}")


# --- rows ----------------------------------------------------------------------------------------


def read_rows(path: Path, base: Path) -> list[Row]:
    """The rows of a table with texts and shares, as prompts."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    return rows_of(table["text"].to_pylist(), table[PREFIX + LABELS[0]].to_pylist(), base)


def embedded_rows(base: Path) -> list[Row]:
    """The training reviews that ship: they measure how the base does on short and hard ones."""
    reviews = load_rows(EMBEDDED, "train", Columns(labels=LABELS))
    return rows_of(reviews.texts, [float(label == LABELS[0]) for label in reviews.labels], base)


def rows_of(texts: Sequence[str], shares: Sequence[float], base: Path) -> list[Row]:
    """Prompts of texts in the tokens of a base, encoded on all cores."""
    slices = [slice(i, i + 2000) for i in range(0, len(texts), 2000)]
    with ProcessPoolExecutor() as pool:
        parts = pool.map(
            partial(part_of, base), (texts[s] for s in slices), (shares[s] for s in slices)
        )
        return [row for part in parts for row in part]


def part_of(base: Path, texts: Sequence[str], shares: Sequence[float]) -> list[Row]:
    """Prompts of some texts."""
    from transformers import AutoTokenizer

    prompter = Prompter(AutoTokenizer.from_pretrained(base), PromptFormat())
    rows = []
    for text, share in zip(texts, shares, strict=True):
        example = prompter.encode_example(text, LABELS[int(share < 0.5)])
        num_prompt = example.labels.count(IGNORE_INDEX)
        rows.append(Row(example.input_ids, num_prompt, share))
    return rows


def batches(rows: Sequence[Row], num_tokens: int, draw: random.Random) -> Iterator[list[Row]]:
    """One epoch in batches of rows of similar length, `num_tokens` each with their padding."""
    order = draw.sample(rows, len(rows))
    epoch: list[list[Row]] = []
    size = SORTED_TOGETHER * num_tokens // 200  # of about 200 tokens
    for start in range(0, len(order), size):
        batch: list[Row] = []
        for row in sorted(order[start : start + size], key=lambda row: len(row.input_ids)):
            if batch and (len(batch) + 1) * len(row.input_ids) > num_tokens:
                epoch.append(batch)
                batch = []
            batch.append(row)
        epoch.append(batch)
    return iter(draw.sample(epoch, len(epoch)))


# --- training ------------------------------------------------------------------------------------


def losses(
    model: Any, ids: torch.Tensor, first: torch.Tensor, share: torch.Tensor, labels: Sequence[int]
) -> tuple[torch.Tensor, ...]:
    """Of rows: the answers' loss, the loss of the tokens before them, and the model's shares.

    ids: (rows, tokens). first: the place of each row's label, (rows, 1). share: of `LABELS[0]`,
    (rows,). labels: the first token of each label, which tells them apart: its target there is the
    share of the label.
    """
    log_probs = model.lm_head(hidden_states(model, ids)[:, :-1]).float().log_softmax(-1)
    nll = -log_probs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    place = torch.arange(1, ids.shape[1], device=ids.device)[None]
    real = ids[:, 1:] != PAD
    both = log_probs[torch.arange(len(ids), device=ids.device), first[:, 0] - 1][:, labels]
    weights = torch.stack([share, 1 - share], -1)
    answers = -(weights * both).sum(-1) + (nll * (real & (place > first))).sum(-1)
    in_text = real & (place < first)
    text = (nll * in_text).sum() / in_text.sum()
    return answers.mean(), text, both.detach().softmax(-1)[:, 0]


def tensors_of(batch: Sequence[Row], device: str) -> tuple[torch.Tensor, ...]:
    """Padded tokens, places of the labels and shares of a batch, as `losses` takes them."""
    longest = max(len(row.input_ids) for row in batch)
    ids = torch.full((len(batch), longest), PAD)
    for number, row in enumerate(batch):
        ids[number, : len(row.input_ids)] = torch.tensor(row.input_ids)
    first = torch.tensor([row.num_prompt for row in batch])[:, None]
    share = torch.tensor([row.share for row in batch])
    return ids.to(device), first.to(device), share.to(device)


def run_steps(
    model: Any,
    labels: Sequence[int],
    rows: Sequence[Row],
    measured: dict[str, list[Row]],
    args: argparse.Namespace,
    device: str,
) -> dict[str, Any]:
    """Trains the model. Returns the curve: accuracy and log-loss of rows that only measure."""
    draw = random.Random(args.seed)
    optimizer = make_optimizer(model, args.lr, fused=device == "cuda")
    num_steps = args.epochs * sum(1 for _ in batches(rows, args.tokens, random.Random(0)))
    autocast = partial(torch.autocast, device, dtype=torch.bfloat16, enabled=device == "cuda")
    columns = ["epoch", "step", *(f"{name} {figure}" for name in measured
                                  for figure in ("accuracy", "log-loss"))]  # fmt: skip
    curve: list[list[float]] = []
    step, start = 0, time.perf_counter()
    for epoch in range(args.epochs + 1):
        if epoch:
            model.train()
            for batch in batches(rows, args.tokens, draw):
                for group in optimizer.param_groups:
                    group["lr"] = args.lr * schedule(min(step, num_steps), num_steps)
                with autocast():
                    answers, text, _ = losses(model, *tensors_of(batch, device), labels)
                (answers + args.language_weight * text).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
        model.eval()
        figures = [
            round(x, 4) for part in measured.values() for x in measure(model, labels, part, device)
        ]
        curve.append([epoch, step, *figures])
        shown = ", ".join(
            f"{name} {value:g}" for name, value in zip(columns, curve[-1], strict=True)
        )
        print(f"{shown}, {time.perf_counter() - start:.0f} s", flush=True)
    return {"columns": columns, "rows": curve}


@torch.no_grad()
def measure(
    model: Any, labels: Sequence[int], rows: Sequence[Row], device: str
) -> tuple[float, float]:
    """Accuracy and log-loss on rows with true labels."""
    parts = [tensors_of(rows[i : i + 50], device) for i in range(0, len(rows), 50)]
    shares = torch.cat([losses(model, *part, labels)[2] for part in parts]).double().cpu().numpy()
    truth = [int(row.share < 0.5) for row in rows]
    result = metrics.measure(np.stack([shares, 1 - shares], -1), truth)
    return result.accuracy, result.log_loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("mean")
    verb.add_argument("folders", type=Path, nargs="+")
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--num-misspelled", type=int, default=60_000)
    verb.add_argument("--seed", type=int, default=42)
    verb = verbs.add_parser("train")
    verb.add_argument("folder", type=Path)
    verb.add_argument("--base", type=Path, required=True, help="pre-trained, or taught before")
    verb.add_argument("--out", type=Path, help="default: the folder")
    for name, default in {
        "epochs": 5,
        "tokens": 32_768,
        "lr": 4e-4,
        "language-weight": 0.2,
        "dropout": 0.1,
        "seed": 42,
    }.items():
        verb.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()
    if args.verb == "mean":
        mean(args.folders, args.out, args.num_misspelled, args.seed)
    else:
        train(args.folder, args)


if __name__ == "__main__":
    main()
