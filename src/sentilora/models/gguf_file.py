"""A base in a GGUF file, llama.cpp's format: converted once to a model folder, which is then read.

    source = loadable_source("SmolLM2-135M-Instruct.Q4_1.gguf")     # the converted folder

A GGUF file holds weights in blocks of a few bits, and the tokenizer as metadata. Adapters and NF4
need plain tensors, so transformers decodes the blocks. The folder has them in float16: the scales
of the blocks are stored in float16 too.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.errors import SentiloraError, write_failure
from sentilora.hub import is_gguf
from sentilora.models.base_cache import converted_folder, whole_folder
from sentilora.models.base_source import (
    SETTINGS,
    Spelling,
    readable,
    require_causal,
    require_complete,
    resolve_base,
    without_loading_report,
)
from sentilora.models.four_bits import import_bitsandbytes
from sentilora.progress import say
from sentilora.wording import quoted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# How a file says that texts are split into words: as GPT-2 does, or at each digit first. From
# llama.cpp's llama-vocab.cpp. transformers 5.24 has neither list, and splits as GPT-2 what it does
# not know.
AS_GPT2 = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4", "trillion", "granite-docling"}
DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}


def loadable_source(name: str, spelling: Spelling = SETTINGS) -> str:
    """The argument for `from_pretrained` that stands for a base's name: a folder or a hub id.

    A GGUF file is converted first, unless it was before. Raises the errors of `resolve_base`, and
    `SentiloraError` when the folder cannot be written.
    """
    source = resolve_base(name, spelling)
    if not is_gguf(source) or Path(source).is_dir():
        return source
    folder = converted_folder(Path(source))
    if not folder.is_dir():
        say(f"base {quoted(name)}: converted once, to the model folder {quoted(folder)}")
        _convert_once(Path(source), folder, name, spelling)
    return str(folder)


def _convert_once(file: Path, folder: Path, name: str, spelling: Spelling) -> None:
    """Convert a GGUF file into the cache; of several processes one does, and the others wait."""
    from huggingface_hub.utils import WeakFileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder.with_name(f"{folder.name}.lock")):
            if folder.is_dir():
                return
            model, tokenizer = read_gguf(file, name, spelling)
            with whole_folder(folder) as partial:
                model.save_pretrained(partial)
                tokenizer.save_pretrained(partial)
    except Exception as error:
        reason = error if isinstance(error, OSError) else write_failure(error)
        if reason is None:
            raise
        raise SentiloraError(
            f"cannot write {quoted(name)}, converted, to {quoted(folder)}: {reason}",
            setting="base.name",
            seen=name,
            remedy="set HF_HOME to a folder with room for it",
        ) from error


def read_gguf(
    file: Path, name: str, spelling: Spelling = SETTINGS
) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """The model in a GGUF file, decoded to float16, and its tokenizer.

    name: the base's name in messages. Raises `DataError` when the file is damaged, incomplete or of
    an architecture that transformers does not read, `UsageError` when it is no causal LM.
    """
    import_bitsandbytes()  # before transformers does
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {
        "pretrained_model_name_or_path": str(file.parent),
        "gguf_file": file.name,
        "trust_remote_code": False,
    }
    result: Any = None  # transformers declares the type without the information
    with readable(name, spelling), without_loading_report():
        require_causal(AutoConfig.from_pretrained(**where), name)
        result = AutoModelForCausalLM.from_pretrained(
            **where,
            dtype=torch.float16,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by their names
        )
        tokenizer = AutoTokenizer.from_pretrained(**where)
        _complete_from_metadata(tokenizer, file, name)
    model: PreTrainedModel = result[0]
    require_complete(model, result[1], name, spelling)
    return model, tokenizer


def _complete_from_metadata(tokenizer: Any, file: Path, name: str) -> None:
    """Split digits where the base's own tokenizer does; report what transformers leaves out."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    reader = GGUFReader(file)
    if any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        say(
            f"{quoted(name)} holds rope_freqs.weight, which is not used: long texts lose a little "
            "accuracy"
        )
    field = reader.get_field("tokenizer.ggml.pre")
    if field is None or not isinstance(
        tokenizer.backend_tokenizer.pre_tokenizer, pre_tokenizers.ByteLevel
    ):
        return
    words = field.contents()
    if words in DIGITS_APART:
        digits = pre_tokenizers.Digits(individual_digits=True)
        after = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, after])
    elif words not in AS_GPT2:
        say(
            f"{quoted(name)} splits texts into words in its own way ({quoted(words)}), which "
            "transformers does not know: some of its tokens can differ from those that the base "
            "was trained with"
        )
