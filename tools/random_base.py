"""Makes a base with the shape of Mistral-7B-v0.1, its real tokenizer, and random weights.

For measuring memory and speed and for testing file formats where the real weights are unavailable.
The output is an ordinary Hugging Face model folder. The answers of such a model mean nothing.

    python tools/random_base.py base                                # 14.5 GB; on a GPU in seconds
    python tools/random_base.py base --tiny                         # hidden size 64, for tests
    python tools/random_base.py tokenizer --tokenizer-only          # with mistral-common installed
    python tools/random_base.py base --tokenizer tokenizer          # without mistral-common

The tokenizer comes from the package mistral-common, which ships Mistral's SentencePiece model;
`pip install mistral-common sentencepiece` installs what reads it. The same seed gives the same
weights on the same kind of device.
"""

import argparse
import hashlib
import json
import shutil
from importlib.resources import files
from pathlib import Path

MISTRAL_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TINY = MISTRAL_7B | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
NUM_PARAMETERS = 7_241_732_096  # of MISTRAL_7B

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SENTENCEPIECE_MODEL = "tokenizer.model.v1"
SENTENCEPIECE_SHA256 = "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"


def read_sentencepiece():
    """The SentencePiece model of Mistral-7B-v0.1, verified by its hash."""
    try:
        from sentencepiece import SentencePieceProcessor

        path = files("mistral_common") / "data" / SENTENCEPIECE_MODEL
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"{error.name} is not installed; pip install mistral-common sentencepiece, or pass a "
            "folder made with --tokenizer-only to --tokenizer"
        ) from None
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != SENTENCEPIECE_SHA256:
        raise SystemExit(
            f"mistral-common has no {SENTENCEPIECE_MODEL} or another one; install version 1.13.1"
        )
    return SentencePieceProcessor(model_proto=content)


def list_merges(sp, vocab):
    """Every merge of two pieces into a third, best first: SentencePiece's scores as BPE merges.

    Control tokens and bytes take no part, so that "</s>" in a text does not become EOS."""
    special = {p for p, i in vocab.items() if sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i)}
    joinable = vocab.keys() - special
    merges = []
    for piece in sorted(joinable, key=lambda p: (-sp.get_score(vocab[p]), vocab[p])):
        pairs = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        pairs = [pair for pair in pairs if joinable.issuperset(pair)]
        merges += sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    return merges


def convert_tokenizer(out):
    """Writes the fast tokenizer: it encodes every text as SentencePiece does, after one BOS."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    sp = read_sentencepiece()
    vocab = {sp.id_to_piece(i): i for i in range(sp.get_piece_size())}
    tokenizer = Tokenizer(
        models.BPE(vocab, list_merges(sp, vocab), unk_token=UNK, fuse_unk=True, byte_fallback=True)
    )
    # Every text gets a "▁" in front, even one that starts with a space. The Metaspace pre-tokenizer
    # does not add it there.
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", left=1)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in (UNK, BOS, EOS)])
    # Not LlamaTokenizer: when loaded, that class rebuilds itself and drops the normalizer.
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        add_bos_token=True,
        add_eos_token=False,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.save_pretrained(out)
    # transformers 5 no longer writes this file itself.
    specials = json.dumps(fast.special_tokens_map, indent=2)
    (out / "special_tokens_map.json").write_text(specials + "\n")


def copy_tokenizer(folder, out):
    """Copies the tokenizer that `convert_tokenizer` wrote."""
    missing = [name for name in TOKENIZER_FILES if not (folder / name).is_file()]
    if missing:
        raise SystemExit(f"{folder} has no {missing[0]}; make it with --tokenizer-only")
    for name in TOKENIZER_FILES:
        shutil.copy(folder / name, out / name)


def make_model(out, shape, seed):
    """Writes random weights in bfloat16, drawn on the GPU if there is one. Returns their number."""
    import torch
    from transformers import AutoModelForCausalLM, MistralConfig

    torch.manual_seed(seed)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(MistralConfig(**shape), dtype=torch.bfloat16)
    count = model.num_parameters()
    assert shape is TINY or count == NUM_PARAMETERS, f"{count:,} parameters"
    model.save_pretrained(out, max_shard_size="5GB")
    return count


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder to make; must be new or empty")
    parser.add_argument("--tiny", action="store_true", help="hidden size 64, 2 layers")
    parser.add_argument("--seed", type=int, default=42)
    tokenizer = parser.add_mutually_exclusive_group()
    tokenizer.add_argument("--tokenizer-only", action="store_true", help="write no weights")
    tokenizer.add_argument("--tokenizer", type=Path, metavar="DIR", help="copy this tokenizer")
    args = parser.parse_args(argv)
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise SystemExit(f"{args.out} exists and is not empty; choose another folder or delete it")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"cannot make the folder {args.out}: {error.strerror}") from None
    if args.tokenizer:
        copy_tokenizer(args.tokenizer, args.out)
    else:
        convert_tokenizer(args.out)
    if args.tokenizer_only:
        print(f"the tokenizer of Mistral-7B-v0.1, in {args.out}")
    else:
        count = make_model(args.out, TINY if args.tiny else MISTRAL_7B, args.seed)
        print(f"{count:,} random parameters, in {args.out}")


if __name__ == "__main__":
    main()
