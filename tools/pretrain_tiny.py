"""Pre-trains the embedded base from scratch on unlabelled IMDB reviews. Three verbs, in order:

    python tools/pretrain_tiny.py prepare --imdb ../shared/imdb --out pretrain  # CPU, 3 minutes
    python tools/pretrain_tiny.py train pretrain                                # one GPU, 8 minutes
    python tools/pretrain_tiny.py quantise pretrain src/sentilora/assets/tiny   # CPU, seconds

`prepare` takes the texts of train and unsup (labels unused), drops every text that also occurs in
test, and trains a byte-level BPE tokenizer. `train` makes a small Mistral that predicts the next
token of these reviews. `quantise` stores its linear layers in NF4 with double quantisation. Each
verb adds what it did to `record.json`, which ships with the base.
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
    """What counts as the same text: letters and digits, lower case."""
    return " ".join(re.findall(r"\w+", clean_text(text).lower()))


def prepare(imdb, out, vocab_size):
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    out.mkdir(parents=True, exist_ok=True)
    files = {name: imdb / f"{name}.parquet" for name in ("train", "unsup", "test")}
    texts = {n: pq.read_table(f, columns=["text"])["text"].to_pylist() for n, f in files.items()}
    test = {normalized(text) for text in texts["test"]}
    kept, seen, dropped = [], set(), {"in test": 0, "duplicate": 0}
    for text in texts["train"] + texts["unsup"]:
        key = normalized(text)
        if key in test or key in seen:
            dropped["in test" if key in test else "duplicate"] += 1
            continue
        seen.add(key)
        kept.append(clean_text(text))
    overlap = len({normalized(text) for text in kept} & test)
    if overlap:
        raise SystemExit(f"{overlap} texts of test are among the texts to train on")

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        kept,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(out)
    with lzma.open(out / "texts.jsonl.xz", "wt", preset=6, encoding="utf-8") as file:
        file.writelines(json.dumps(text, ensure_ascii=False) + "\n" for text in kept)
    write_record(
        out,
        data={
            "source": "Large Movie Review Dataset (Maas et al., ACL 2011): train, unsup; no labels",
            "sha256": {n: hashlib.sha256(f.read_bytes()).hexdigest() for n, f in files.items()},
            "num_rows": {n: len(t) for n, t in texts.items()},
            "num_dropped": dropped,
            "num_texts": len(kept),
            "num_texts_also_in_test": overlap,
        },
    )
    print(f"{len(kept):,} texts, dropped {dropped}, overlap with test {overlap}, in {out}")


def pack_epoch(documents, length, rng):
    """One epoch as rows of at most `length` tokens, every document once, in a new order.

    Long documents are split into chunks. A document is put into the fullest of some open rows that
    still takes it, so that documents start at a BOS and few tokens are padding."""
    rows, open_rows = [], []  # open rows as (tokens still free, number, tokens), fullest first
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


def train(folder, args):
    import numpy as np
    import torch
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with lzma.open(folder / "texts.jsonl.xz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line) for line in file][: args.num_texts or None]
    rng.shuffle(texts)
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(texts)
    documents = [[*encoding.ids, EOS] for encoding in encodings]  # BOS is among the ids
    held_out = [document[: args.length] for document in documents[:NUM_VALIDATION]]
    documents = documents[NUM_VALIDATION:]
    num_tokens = sum(map(len, documents))
    print(f"{len(documents):,} texts, {num_tokens:,} tokens in an epoch", flush=True)

    config = MistralConfig(
        vocab_size=len(tokenizer),
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
    model = MistralForCausalLM(config).to(device)
    for layer in model.model.layers:
        for module in (layer.self_attn.o_proj, layer.mlp.down_proj):
            module.register_forward_hook(
                lambda module, _inputs, out: torch.nn.functional.dropout(
                    out, args.dropout, module.training
                )
            )
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=device == "cuda")

    def loss_of(ids):
        # MistralModel.forward, but without the mask it builds when compiled: flash attention takes
        # none. A padding token stands behind every real one, so causality alone keeps it out.
        base = model.model
        hidden = base.embed_tokens(ids)
        rotary = base.rotary_emb(hidden, torch.arange(ids.shape[1], device=device)[None])
        for layer in base.layers:
            hidden = layer(hidden, position_embeddings=rotary)
        logits = model.lm_head(base.norm(hidden)[:, :-1]).float()
        return torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), ignore_index=PAD
        )

    def autocast():
        return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")

    compiled = torch.compile(loss_of) if device == "cuda" else loss_of

    def to_tensor(rows):
        array = np.full((len(rows), args.length), PAD, np.int64)
        for i, row in enumerate(rows):
            array[i, : len(row)] = row
        return torch.from_numpy(array).to(device)

    epoch = to_tensor(pack_epoch(documents, args.length, rng))
    steps_per_epoch = len(epoch) // args.batch
    num_steps = args.max_steps or args.epochs * steps_per_epoch
    validation = to_tensor(held_out)
    curve, step, started = [], 0, time.perf_counter()
    while step < num_steps:
        if step:
            epoch = to_tensor(pack_epoch(documents, args.length, rng))
        for ids in epoch.split(args.batch):
            if step == num_steps or len(ids) < args.batch:
                break
            warmup = min(1.0, (step + 1) / 200)
            cosine = (1 + math.cos(math.pi * step / num_steps)) / 2
            for group in optimizer.param_groups:
                group["lr"] = args.lr * warmup * (0.01 + 0.99 * cosine)
            with autocast():
                loss = compiled(ids)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if step % args.log_steps == 0 or step == num_steps:
                model.eval()
                with torch.no_grad(), autocast():
                    parts = [loss_of(part).item() for part in validation.split(50)]
                model.train()
                seconds = time.perf_counter() - started
                curve.append([step, round(loss.item(), 4), round(sum(parts) / len(parts), 4)])
                print(
                    f"step {step}/{num_steps} loss {curve[-1][1]} validation {curve[-1][2]} "
                    f"{step * args.batch * args.length / seconds:,.0f} tokens/s {seconds:.0f} s",
                    flush=True,
                )
    seconds = time.perf_counter() - started
    out = folder / "model"
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    write_record(
        folder,
        training={
            **{k: v for k, v in vars(args).items() if v and isinstance(v, int | float)},
            "num_steps": num_steps,
            "num_texts_held_out": NUM_VALIDATION,
            "num_tokens_per_epoch": num_tokens,
            "num_parameters": sum(p.numel() for p in model.parameters()),
            "seconds": round(seconds),
            "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
            "torch": torch.__version__,
            "curve": {"columns": ["step", "training loss", "validation loss"], "rows": curve},
        },
    )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters in {seconds:.0f} s, in {out}")


def quantise(folder, out):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    # float32 also for what stays out of NF4: transformers 5.24 loads that in the type it is stored
    # in, whatever `dtype` asks for, and bfloat16 is very slow on many CPUs.
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", quantization_config=nf4, dtype=torch.float32, device_map={"": "cpu"}
    )
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(out)
    (out / "record.json").write_text((folder / "record.json").read_text())
    write_record(
        out,
        quantisation={
            "linear_layers": "NF4, double quantisation, computes in float32",
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
    verb = verbs.add_parser("quantise")
    verb.add_argument("folder", type=Path)
    verb.add_argument("out", type=Path)
    args = parser.parse_args()
    if args.verb == "prepare":
        prepare(args.imdb, args.out, args.vocab_size)
    elif args.verb == "train":
        train(args.folder, args)
    else:
        quantise(args.folder, args.out)


if __name__ == "__main__":
    main()
