"""Pretrains the embedded base from scratch on unlabeled IMDB reviews. Three verbs, in this order:

    python tools/pretrain_tiny.py prepare --imdb ../shared/imdb --out pretrain  # CPU, 3 minutes
    python tools/pretrain_tiny.py train pretrain                                # one GPU, 8 minutes
    python tools/pretrain_tiny.py quantize pretrain src/sentilora/assets/tiny   # CPU, seconds

`prepare` takes the texts of train and unsup without labels, drops every text that also occurs in
test, and trains a byte-level BPE tokenizer. `train` trains a small Mistral to predict the next
token of these reviews. `quantize` stores its linear layers in NF4 with double quantization. Each
verb adds an entry to `record.json`, which ships with the base.
"""

import argparse
import bisect
import hashlib
import json
import lzma
import math
import random
import re
import time
from importlib.metadata import version
from pathlib import Path

from sentilora.data.text import clean_text

PAD, BOS, EOS = 0, 1, 2
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>"]
NUM_VALIDATION = 500


def read_record(folder):
    path = folder / "record.json"
    return json.loads(path.read_text()) if path.exists() else {}


def write_record(folder, **entries):
    (folder / "record.json").write_text(json.dumps(read_record(folder) | entries, indent=1) + "\n")


def normalized(text):
    """The form in which equal texts are equal: words of letters and digits, lower case."""
    return " ".join(re.findall(r"\w+", clean_text(text).lower()))


def prepare(imdb, out, vocab_size):
    """Writes the texts to train on and a tokenizer of `vocab_size` tokens into the folder `out`."""
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    files = {name: imdb / f"{name}.parquet" for name in ("train", "unsup", "test")}
    texts = {n: pq.read_table(f, columns=["text"])["text"].to_pylist() for n, f in files.items()}
    test = {normalized(text) for text in texts["test"]}
    corpus, keys, num_dropped = [], set(), {"in test": 0, "duplicate": 0}
    for text in texts["train"] + texts["unsup"]:
        key = normalized(text)
        if key in test or key in keys:
            num_dropped["in test" if key in test else "duplicate"] += 1
            continue
        keys.add(key)
        corpus.append(clean_text(text))
    overlap = len({normalized(text) for text in corpus} & test)
    if overlap:
        raise SystemExit(f"{overlap} texts of test are among the texts to train on")

    train_tokenizer(corpus, vocab_size).save_pretrained(out)
    with lzma.open(out / "texts.jsonl.xz", "wt", preset=6, encoding="utf-8") as file:
        file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in corpus)
    write_record(
        out,
        data={
            "source": "Large Movie Review Dataset (Maas et al., ACL 2011): train, unsup; no labels",
            "sha256": {n: hashlib.sha256(f.read_bytes()).hexdigest() for n, f in files.items()},
            "num_rows": {n: len(t) for n, t in texts.items()},
            "num_dropped": num_dropped,
            "num_texts": len(corpus),
            "num_texts_also_in_test": overlap,
        },
    )
    print(f"{len(corpus):,} texts, dropped {num_dropped}, overlap with test {overlap}, in {out}")


def train_tokenizer(texts, vocab_size):
    """A byte-level BPE tokenizer that puts one BOS before a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def pack_epoch(documents, length, rng):
    """One epoch as rows of at most `length` tokens: every document once, in a new order.

    Long documents are split into chunks. A chunk goes into the fullest of the open rows that has
    room for it, so that documents start at a BOS and little is padding."""
    rows, open_rows = [], []  # open rows as (free tokens, number, tokens), fullest first
    for index, document in enumerate(rng.sample(documents, len(documents))):
        for start in range(0, len(document), length):
            chunk = document[start : start + length]
            at = bisect.bisect_left(open_rows, (len(chunk),))
            row = open_rows.pop(at)[2] if at < len(open_rows) else []
            if not row:
                rows.append(row)
            row.extend(chunk)
            if len(row) < length:
                bisect.insort(open_rows, (length - len(row), len(rows) + index, row))
            if len(open_rows) > 64:
                del open_rows[0]
    rng.shuffle(rows)
    return rows


def read_documents(folder, tokenizer, num_texts, rng):
    """The token ids of the prepared texts in random order, each from BOS to EOS."""
    with lzma.open(folder / "texts.jsonl.xz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line) for line in file][: num_texts or None]
    rng.shuffle(texts)
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts)
    return [[*encoding.ids, EOS] for encoding in encodings]  # BOS is among the ids


def to_tensor(rows, length, device):
    """Rows of tokens, padded to `length`."""
    import numpy as np
    import torch

    array = np.full((len(rows), length), PAD, np.int64)
    for i, row in enumerate(rows):
        array[i, : len(row)] = row
    return torch.from_numpy(array).to(device)


def make_model(args, vocab_size):
    """A Mistral of the requested size with random weights and dropout after each block."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=vocab_size,
        hidden_size=args.hidden,
        intermediate_size=args.mlp,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        num_key_value_heads=args.hidden // 128,
        head_dim=64,
        max_position_embeddings=2048,
        sliding_window=None,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    model = MistralForCausalLM(config)
    with_dropout(model, args.dropout)
    return model


def hidden_states(model, ids):
    """The last hidden states of rows of tokens, of shape (rows, tokens, hidden size)."""
    import torch

    # MistralModel.forward without the mask that it builds when compiled: flash attention takes no
    # mask. Padding comes after every real token, so causality alone hides it.
    base = model.model
    hidden = base.embed_tokens(ids)
    rotary = base.rotary_emb(hidden, torch.arange(ids.shape[1], device=ids.device)[None])
    for layer in base.layers:
        hidden = layer(hidden, position_embeddings=rotary)
    return base.norm(hidden)


def with_dropout(model, rate):
    """Adds dropout after each block of a model in training."""
    import torch

    def dropped(module, _inputs, out):
        return torch.nn.functional.dropout(out, rate, module.training)

    for layer in model.model.layers:
        for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
            module.register_forward_hook(dropped)


def loss_of(model, ids):
    """Mean cross-entropy of the next token, of shape (rows, tokens)."""
    import torch

    logits = model.lm_head(hidden_states(model, ids)[:, :-1]).float()
    return torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), ignore_index=PAD
    )


def make_optimizer(model, learning_rate, fused):
    """AdamW that decays matrices only."""
    import torch

    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95), fused=fused)


def schedule(step, num_steps):
    """The share of the peak learning rate at a step: 200 steps of warmup, then a cosine to 1 %."""
    warmup = min(1.0, (step + 1) / 200)
    cosine = (1 + math.cos(math.pi * step / num_steps)) / 2
    return warmup * (0.01 + 0.99 * cosine)


def run_steps(model, documents, validation, args, rng, device):
    """Trains the model. Returns the number of steps and the curve: step, loss, validation loss."""
    import torch

    def loss(ids):
        return loss_of(model, ids)

    def pack():
        return to_tensor(pack_epoch(documents, args.length, rng), args.length, device)

    def autocast():
        return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")

    compiled = torch.compile(loss) if device == "cuda" else loss
    optimizer = make_optimizer(model, args.lr, fused=device == "cuda")
    epoch = pack()
    num_steps = args.max_steps or args.epochs * (len(epoch) // args.batch)
    curve, step, start = [], 0, time.perf_counter()
    while step < num_steps:
        epoch = pack() if step else epoch
        for ids in epoch.split(args.batch):
            if step == num_steps or len(ids) < args.batch:
                break
            for group in optimizer.param_groups:
                group["lr"] = args.lr * schedule(step, num_steps)
            with autocast():
                batch_loss = compiled(ids)
            batch_loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % args.log_steps == 0 or step == num_steps:
                model.eval()
                with torch.no_grad(), autocast():
                    parts = [loss(part).item() for part in validation.split(50)]
                model.train()
                seconds = time.perf_counter() - start
                curve.append([step, round(batch_loss.item(), 4), round(sum(parts) / len(parts), 4)])
                print(
                    f"step {step}/{num_steps} loss {curve[-1][1]} validation {curve[-1][2]} "
                    f"{step * args.batch * args.length / seconds:,.0f} tokens/s {seconds:.0f} s",
                    flush=True,
                )
    return num_steps, curve


def train(folder, args):
    """Trains the model on the prepared texts and saves it in bfloat16 to `folder`/model."""
    import torch
    from transformers import AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    documents = read_documents(folder, tokenizer, args.num_texts, rng)
    held_out = [document[: args.length] for document in documents[:NUM_VALIDATION]]
    documents = documents[NUM_VALIDATION:]
    num_tokens = sum(map(len, documents))
    print(f"{len(documents):,} texts, {num_tokens:,} tokens in an epoch", flush=True)

    model = make_model(args, len(tokenizer)).to(device)
    validation = to_tensor(held_out, args.length, device)
    start = time.perf_counter()
    num_steps, curve = run_steps(model, documents, validation, args, rng, device)
    seconds = time.perf_counter() - start
    out = folder / "model"
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    num_parameters = sum(p.numel() for p in model.parameters())
    write_record(
        folder,
        training={
            **{k: v for k, v in vars(args).items() if v and isinstance(v, int | float)},
            "num_steps": num_steps,
            "num_texts_held_out": NUM_VALIDATION,
            "num_tokens_per_epoch": num_tokens,
            "num_parameters": num_parameters,
            "seconds": round(seconds),
            "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
            "torch": torch.__version__,
            "curve": {"columns": ["step", "training loss", "validation loss"], "rows": curve},
        },
    )
    print(f"{num_parameters:,} parameters in {seconds:.0f} s, in {out}")


def quantize(folder, out):
    """Writes the trained model with NF4 linear layers into the folder `out`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    # float32 for the other weights too: transformers 5.24 later loads them in the type they are
    # stored in, regardless of `dtype`, and bfloat16 is very slow on many CPUs.
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", quantization_config=nf4, dtype=torch.float32, device_map={"": "cpu"}
    )
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(out)
    (out / "record.json").write_text((folder / "record.json").read_text())
    write_record(
        out,
        quantization={
            "linear_layers": "NF4, double quantization, computes in float32",
            "other_weights": "float32",
            **{name: version(name) for name in ("bitsandbytes", "transformers")},
        },
    )
    size = sum(f.stat().st_size for f in out.iterdir())
    print(f"{size / 2**20:.1f} MiB in {out}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("prepare")
    verb.add_argument("--imdb", type=Path, required=True)
    verb.add_argument("--out", type=Path, required=True)
    verb.add_argument("--vocab-size", type=int, default=8192)
    verb = verbs.add_parser("train")
    verb.add_argument("folder", type=Path)
    for name, default in {
        "hidden": 256,
        "layers": 6,
        "mlp": 768,
        "length": 512,
        "batch": 128,
        "epochs": 40,
        "max-steps": 0,
        "lr": 2e-3,
        "dropout": 0.1,
        "seed": 42,
        "log-steps": 500,
        "num-texts": 0,
    }.items():
        verb.add_argument(f"--{name}", type=type(default), default=default)
    verb = verbs.add_parser("quantize")
    verb.add_argument("folder", type=Path)
    verb.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.verb == "prepare":
        prepare(args.imdb, args.out, args.vocab_size)
    elif args.verb == "train":
        train(args.folder, args)
    else:
        quantize(args.folder, args.out)


if __name__ == "__main__":
    main()
