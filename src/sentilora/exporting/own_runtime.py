"""Score labels with what an export is made for: transformers, PEFT, llama.cpp or ONNX Runtime.

Nothing here uses sentilora's own scoring, engine or tokenization, as nobody else has them.
"""

import atexit
import copy
import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sentilora.errors import DataError, SentiloraError, UsageError, first_line
from sentilora.scoring.batching import cache_parameter
from sentilora.wording import counted, quoted

if TYPE_CHECKING:
    import numpy as np
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABELS_AT_ONCE = 16  # share a pass after the prompt
ONNX_INPUTS = ("input_ids", "attention_mask")
# Of a pass, as an ONNX file returns those of every token: 256 MiB in float32.
MAX_ONNX_LOGITS = 2**26
INSTALL_LLAMA_CPP = (
    "pip install 'sentilora[llama-cpp]' (it compiles llama.cpp, which takes minutes)"
)
INSTALL_ONNX = "pip install 'sentilora[onnx]'"


class OwnRuntime(Protocol):
    """What an export is scored with.

    packages: those that compute, for the versions. in_bfloat16: whether some layers compute in
    bfloat16, whatever the export's own format is.
    """

    packages: tuple[str, ...]
    in_bfloat16: bool

    def tokens(self, prompt: str, adds_bos: bool, has_special_tokens: bool) -> list[int]:
        """The tokens of a prompt, as this program reads its string."""

    def log_probs(self, input_ids: Sequence[int], label_ids: list[list[int]]) -> list[float]:
        """Per label, the log-probability of its tokens after a prompt."""


class InTransformers:
    """A causal LM of transformers, with or without PEFT around it."""

    def __init__(
        self,
        model: "PreTrainedModel | PeftModel",
        tokenizer: "PreTrainedTokenizerBase",
        packages: tuple[str, ...] = ("torch", "transformers"),
    ) -> None:
        self.model = model.eval()
        self.tokenizer: Any = tokenizer
        self.packages = packages
        self._cache = cache_parameter(model) or ""
        if not self._cache:
            raise UsageError(
                f"{type(model).__name__} takes no cache of keys and values, which comparing needs",
                setting="base",
                remedy="use the adapter with sentilora alone",
            )
        # bitsandbytes scores 4-bit layers so on a CPU that can, without being asked.
        self.in_bfloat16 = model.device.type == "cpu" and any(
            getattr(module, "support_avx512bf16_for_cpu", False) for module in model.modules()
        )

    def tokens(self, prompt: str, adds_bos: bool, has_special_tokens: bool) -> list[int]:
        """The tokens of a prompt, by the tokenizer of transformers."""
        return tokens_of(self.tokenizer, prompt, adds_bos, has_special_tokens)

    def log_probs(self, input_ids: Sequence[int], label_ids: list[list[int]]) -> list[float]:
        """Per label, the log-probability of its tokens. The prompt is computed once."""
        import torch
        from transformers import DynamicCache

        with torch.inference_mode():
            ids = torch.tensor([list(input_ids)], device=self.model.device)
            cache = DynamicCache()
            more = {self._cache: cache}
            done = self.model(input_ids=ids, use_cache=True, logits_to_keep=1, **more)
            first = done.logits[0, -1].float().log_softmax(-1)
            sums = [float(first[label[0]]) for label in label_ids]
            for start in range(0, len(label_ids), LABELS_AT_ONCE):
                places = range(start, min(start + LABELS_AT_ONCE, len(label_ids)))
                rest = self._after(cache, [label_ids[place] for place in places])
                for place, log_prob in zip(places, rest, strict=True):
                    sums[place] += log_prob
        return sums

    def _after(self, cache: Any, labels: list[list[int]]) -> list[float]:
        """Per label, the log-probability of what follows its first token. cache: of the prompt."""
        import torch

        longest = max(map(len, labels))
        if longest == 1:
            return [0.0] * len(labels)
        rows = [[*label[:-1], *[label[-1]] * (longest - len(label))] for label in labels]
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(labels))
        ids = torch.tensor(rows, device=self.model.device)
        logits = self.model(input_ids=ids, use_cache=True, **{self._cache: cache}).logits
        return sums_of(logits.float().log_softmax(-1), [label[1:] for label in labels])


class InOnnxRuntime:
    """An ONNX file in onnxruntime, on the CPU, with the tokenizer of transformers.

    file: as `write_onnx` writes it. Raises `UsageError` when onnxruntime is not installed,
    `DataError` when it cannot load the file, or the file is of another kind of model.
    """

    packages: tuple[str, ...] = ("onnxruntime", "transformers")
    in_bfloat16 = False

    def __init__(self, file: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
        import torch

        (onnxruntime,) = import_for_onnx("onnxruntime")
        self.tokenizer = tokenizer
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # no warnings; errors are raised
        options.intra_op_num_threads = torch.get_num_threads()
        # Threads that spin while they wait halve the speed where others work too: 60 reviews took
        # 9.4 s on two busy cores, and 4.3 s without.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
            self._num_logits = self._logits_per_token()
        except Exception as error:  # onnxruntime's errors have no common class
            raise DataError(
                f"onnxruntime cannot load {quoted(file)} ({first_line(error)})",
                setting="folder",
                seen=str(file),
                remedy="export the adapter again",
            ) from error

    def _logits_per_token(self) -> int:
        """The size of the vocabulary. Raises `ValueError` when inputs or output are others."""
        inputs = tuple(each.name for each in self._session.get_inputs())
        (output,) = self._session.get_outputs()
        if inputs != ONNX_INPUTS or len(output.shape) != 3 or not isinstance(output.shape[2], int):
            raise ValueError("its inputs and output are not those of an export")
        return output.shape[2]

    def tokens(self, prompt: str, adds_bos: bool, has_special_tokens: bool) -> list[int]:
        """The tokens of a prompt, by the tokenizer of transformers."""
        return tokens_of(self.tokenizer, prompt, adds_bos, has_special_tokens)

    def log_probs(self, input_ids: Sequence[int], label_ids: list[list[int]]) -> list[float]:
        """Per label, the log-probability of its tokens. Labels are padded on the right."""
        import numpy as np
        import torch

        width = len(input_ids) + max(map(len, label_ids)) - 1
        at_once = max(1, min(LABELS_AT_ONCE, MAX_ONNX_LOGITS // (width * self._num_logits)))
        sums: list[float] = []
        for start in range(0, len(label_ids), at_once):
            labels = label_ids[start : start + at_once]
            ids = np.zeros((len(labels), width), dtype=np.int64)
            mask = np.zeros_like(ids)
            for row, label in enumerate(labels):
                tokens = [*input_ids, *label[:-1]]
                ids[row, : len(tokens)] = tokens
                mask[row, : len(tokens)] = 1
            logits = self._run(ids, mask)
            after_prompt = torch.from_numpy(logits[:, len(input_ids) - 1 :])
            sums += sums_of(after_prompt.float().log_softmax(-1), labels)
        return sums

    def _run(self, input_ids: "np.ndarray", attention_mask: "np.ndarray") -> "np.ndarray":
        """The logits (texts, tokens, vocabulary) of every token."""
        inputs = dict(zip(ONNX_INPUTS, (input_ids, attention_mask), strict=True))
        try:
            (logits,) = self._session.run(None, inputs)
        except Exception as error:  # onnxruntime's errors have no common class
            raise SentiloraError(
                f"onnxruntime cannot compute {counted(input_ids.size, 'token')} of this model "
                f"({first_line(error)})",
                setting="kind",
                seen="onnx",
                remedy="export merged instead",
            ) from error
        return logits


class InLlamaCpp:
    """A GGUF file in llama.cpp. num_tokens: of the longest prompt with its label.

    Through the C interface, because the Python class cannot turn off the kernels for AMX, which end
    the process by a signal on some machines (llama.cpp #20824).
    """

    packages: tuple[str, ...] = ("llama-cpp-python",)
    in_bfloat16 = False

    def __init__(self, file: Path, num_tokens: int) -> None:
        self._llama = llama_cpp = import_llama_cpp()
        logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
        llama_cpp.llama_backend_init()
        of_model = llama_cpp.llama_model_default_params()
        of_model.use_extra_bufts = False
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), of_model)
        of_context = llama_cpp.llama_context_default_params()
        of_context.n_ctx = of_context.n_batch = num_tokens
        self._context = self._model and llama_cpp.llama_init_from_model(self._model, of_context)
        if not self._context:
            raise DataError(
                f"llama.cpp cannot load {quoted(file)}",
                setting="folder",
                seen=str(file),
                remedy="export the adapter again",
            )
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._memory = llama_cpp.llama_get_memory(self._context)

    def tokens(self, prompt: str, adds_bos: bool, has_special_tokens: bool) -> list[int]:
        """The tokens of a prompt, by llama.cpp's own tokenizer."""
        text = prompt.encode()
        room = len(text) + 1  # a token has a byte or more
        tokens = (self._llama.llama_token * room)()
        count = self._llama.llama_tokenize(
            self._vocabulary, text, len(text), tokens, room, adds_bos, has_special_tokens
        )
        return list(tokens[:count])

    def log_probs(self, input_ids: Sequence[int], label_ids: list[list[int]]) -> list[float]:
        """Per label, the log-probability of its tokens, one after the other as in generation."""
        self._llama.llama_memory_clear(self._memory, True)
        after: dict[tuple[int, ...], torch.Tensor] = {(): self._next(input_ids)}
        sums = []
        for label in label_ids:
            total = 0.0
            for place, token in enumerate(label):
                before = tuple(label[:place])
                if before not in after:
                    # Another label's tokens may be in the cache.
                    self._llama.llama_memory_seq_rm(self._memory, 0, len(input_ids), -1)
                    after[before] = self._next(before)
                total += float(after[before][token])
            sums.append(total)
        return sums

    def _next(self, tokens: Sequence[int]) -> "torch.Tensor":
        """Log-probabilities of the token after these, which follow those in the cache."""
        import numpy as np
        import torch

        llama_cpp = self._llama
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        if llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(array, len(tokens))):
            raise SentiloraError(
                f"llama.cpp cannot compute {counted(len(tokens), 'token')} of this model",
                setting="kind",
                seen="gguf",
                remedy="export merged instead",
            )
        pointer = llama_cpp.llama_get_logits_ith(self._context, -1)
        size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        logits = np.ctypeslib.as_array(pointer, shape=(size,))
        return torch.from_numpy(logits.astype(np.float32)).log_softmax(-1)

    def __del__(self) -> None:
        if getattr(self, "_context", None):
            self._llama.llama_free(self._context)
        if getattr(self, "_model", None):
            self._llama.llama_model_free(self._model)


def tokens_of(tokenizer: Any, prompt: str, adds_bos: bool, has_special_tokens: bool) -> list[int]:
    """The tokens of a prompt. A special token in its string counts where the prompt has any."""
    ids = tokenizer(prompt, add_special_tokens=False, split_special_tokens=not has_special_tokens)
    return [tokenizer.bos_token_id] * adds_bos + list(ids["input_ids"])


def sums_of(log_probs: "torch.Tensor", labels: Sequence[Sequence[int]]) -> list[float]:
    """Per label, the sum of its tokens' log-probabilities (labels, places, vocabulary)."""
    return [
        sum(float(log_probs[row, place, token]) for place, token in enumerate(label))
        for row, label in enumerate(labels)
    ]


def import_for_onnx(*names: str) -> list[Any]:
    """Packages that ONNX files need. Raises `UsageError` when one is not installed."""
    try:
        return [import_module(name) for name in names]
    except (ImportError, OSError) as error:
        raise UsageError(
            "ONNX files need onnx, onnxscript and onnxruntime, and one of them cannot be imported "
            f"({first_line(error)})",
            setting="kind",
            seen="onnx",
            remedy=INSTALL_ONNX,
        ) from error


def import_llama_cpp() -> Any:
    """The module llama_cpp. Raises `UsageError` when it is not installed."""
    try:
        import llama_cpp
    except (ImportError, OSError) as error:
        raise UsageError(
            f"GGUF files are scored with llama-cpp-python, which cannot be imported "
            f"({first_line(error)})",
            setting="kind",
            seen="gguf",
            remedy=INSTALL_LLAMA_CPP,
        ) from error
    # It opens os.devnull twice for good, which Python reports at exit, after the result.
    for name in ("outnull_file", "errnull_file"):
        if file := getattr(llama_cpp._utils, name, None):
            atexit.register(file.close)
    return llama_cpp
