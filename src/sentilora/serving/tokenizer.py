"""The tokenizer of a base for the HTTP process, which imports neither transformers nor torch.

transformers loads a tokenizer only together with torch, which takes 230 MB. So the model's process
loads it before the model, and sends what the package `tokenizers` needs to do the same work.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from tokenizers import AddedToken, Tokenizer

from sentilora.errors import SentiloraError
from sentilora.models.base_source import KEYWORDS
from sentilora.models.bases import load_tokenizer
from sentilora.scoring.probe_texts import PROBE_TEXTS
from sentilora.wording import quoted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Compared before a tokenizer is handed over, besides the probes' texts.
ODD_TEXTS = (
    "",
    " a",
    "a\n\nb ",
    "\t</s><s>[INST]<|im_start|>",
    "é漢字🎬\u200b\u0301",
    "\x00\ufeff",
)


class BareTokenizer:
    """What `Prompter` uses of a tokenizer.

    Threads may share it: nothing of it changes, while transformers' switches between reading
    special tokens in a text and reading their characters.
    """

    is_fast = True

    def __init__(self, backend: str, bos_token_id: int | None, eos_token_id: int | None) -> None:
        self.bos_token_id = bos_token_id
        self.eos_token_id = eos_token_id
        self.backend_tokenizer = _without_limits(backend)
        self.backend_tokenizer.encode_special_tokens = True

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by number."""
        tokens: dict[int, AddedToken] = self.backend_tokenizer.get_added_tokens_decoder()
        return tokens

    def __call__(
        self,
        text: str,
        add_special_tokens: bool = True,
        split_special_tokens: bool = False,
        return_offsets_mapping: bool = False,
    ) -> dict[str, Any]:
        """`input_ids` and `offset_mapping` of a text, as from transformers."""
        if split_special_tokens:
            # `encode` would hold up all other threads: seconds for a text of megabytes.
            [encoding] = self.backend_tokenizer.encode_batch(
                [text], add_special_tokens=add_special_tokens
            )
        else:
            encoding = self._reader.encode(text, add_special_tokens=add_special_tokens)
        result: dict[str, Any] = {"input_ids": encoding.ids}
        if return_offsets_mapping:
            result["offset_mapping"] = encoding.offsets
        return result

    @cached_property
    def _reader(self) -> Tokenizer:
        """For the few texts that may hold special tokens; made when there is one."""
        return _without_limits(self.backend_tokenizer.to_str())


def _without_limits(backend: str) -> Tokenizer:
    tokenizer = Tokenizer.from_str(backend)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def as_data(tokenizer: "PreTrainedTokenizerBase", name: str) -> dict[str, Any]:
    """The arguments of `BareTokenizer`. Raises `SentiloraError` if it would read otherwise."""
    data = {
        "backend": cast(Any, tokenizer).backend_tokenizer.to_str(),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    bare = BareTokenizer(**data)
    for text in (*ODD_TEXTS, *PROBE_TEXTS):
        plain = {"add_special_tokens": False, "split_special_tokens": True}
        options: list[dict[str, Any]] = [{}, plain, {**plain, "return_offsets_mapping": True}]
        for one in options:
            expected, own = tokenizer(text, **one), bare(text, **one)
            if any(own[key] != expected[key] for key in own if key in expected):
                raise SentiloraError(
                    f"the tokenizer of {quoted(name)} does more than its tokenizer.json says, "
                    "which the server cannot do",
                    setting="base.name",
                    seen=name,
                )
    return data


def load_as_data(name: str, revision: str) -> dict[str, Any]:
    """The arguments of `BareTokenizer` for a base's tokenizer.

    Raises what `load_tokenizer` raises, and `SentiloraError` if it cannot be a `BareTokenizer`.
    """
    tokenizer = load_tokenizer(name, revision, KEYWORDS)
    if not tokenizer.is_fast:
        raise SentiloraError(f"the tokenizer of {quoted(name)} has no tokenizer.json")
    return as_data(tokenizer, name)
