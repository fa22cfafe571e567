"""Base and adapter as one ONNX model: token ids and attention mask in, logits of every token out.

The names of the inputs and the output are those that Optimum gives a causal language model without
a cache, and its axes are free: any number of texts, of any length.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.errors import DataError, SentiloraError, UsageError, first_line
from sentilora.exporting.own_runtime import LABELS_AT_ONCE
from sentilora.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ONNX_FILE = "model.onnx"
ONNX_DTYPES = ("float32", "float16")
INPUTS = ("input_ids", "attention_mask")
INSTALL_ONNX = "pip install 'sentilora[onnx]'"
MAX_TEXTS, MAX_TOKENS = 4096, 131_072  # that the exporter may assume; nothing is allocated for them
MAX_PROTOBUF_BYTES = 2**31  # of one file: larger weights lie beside it


def import_onnx() -> None:
    """Import what exporting takes. Raises `UsageError` when something is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except (ImportError, OSError) as error:
        raise UsageError(
            f"ONNX files are written with onnxscript and scored with onnxruntime, which cannot be "
            f"imported ({first_line(error)})",
            setting="kind",
            seen="onnx",
            remedy=INSTALL_ONNX,
        ) from error


def write_onnx(model: "PreTrainedModel", out: Path) -> None:
    """Write a merged model as ONNX, with its configuration.

    Raises `SentiloraError` when torch's exporter cannot trace this architecture.
    """
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model: Any = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            output = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            return output.logits

    ids = torch.zeros(2, 8, dtype=torch.long)
    texts = torch.export.Dim("texts", min=1, max=MAX_TEXTS)
    tokens = torch.export.Dim("tokens", min=2, max=MAX_TOKENS)
    axes = {0: texts, 1: tokens}
    model.eval()
    try:
        program: Any = torch.onnx.export(
            Logits(),
            (ids, torch.ones_like(ids)),
            dynamo=True,
            verbose=False,
            dynamic_shapes=(axes, axes),
            input_names=list(INPUTS),
            output_names=["logits"],
        )
    except Exception as error:  # the exporter's errors have no common class
        raise SentiloraError(
            f"torch's ONNX exporter cannot trace {type(model).__name__} ({first_line(error)})",
            setting="kind",
            seen="onnx",
            remedy="export merged or gguf",
        ) from error
    num_bytes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    program.save(str(out / ONNX_FILE), external_data=num_bytes > MAX_PROTOBUF_BYTES // 2)
    model.config.save_pretrained(str(out))


class InOnnxRuntime:
    """An ONNX file in onnxruntime, on the CPU."""

    packages: tuple[str, ...] = ("onnxruntime", "transformers")
    in_bfloat16 = False

    def __init__(self, folder: Path) -> None:
        import_onnx()
        import onnxruntime
        from transformers import AutoTokenizer

        file = folder / ONNX_FILE
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common class
            raise DataError(
                f"onnxruntime cannot load {quoted(file)} ({first_line(error)})",
                setting="folder",
                seen=str(file),
                remedy="export the adapter again",
            ) from error
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False
        )

    def tokens(self, prompt: str, adds_bos: bool, has_special_tokens: bool) -> list[int]:
        """The tokens of a prompt. A special token in its string counts where the prompt has any."""
        tokenizer: Any = self.tokenizer
        ids = tokenizer(
            prompt, add_special_tokens=False, split_special_tokens=not has_special_tokens
        )["input_ids"]
        return [tokenizer.bos_token_id, *ids] if adds_bos else list(ids)

    def log_probs(self, input_ids: "Sequence[int]", label_ids: list[list[int]]) -> list[float]:
        """Per label, the log-probability of its tokens. Labels are padded on the right."""
        import numpy as np
        import torch

        sums: list[float] = []
        for start in range(0, len(label_ids), LABELS_AT_ONCE):
            labels = label_ids[start : start + LABELS_AT_ONCE]
            rows = [[*input_ids, *label[:-1]] for label in labels]
            width = max(map(len, rows))
            ids = np.array([row + [row[-1]] * (width - len(row)) for row in rows], dtype=np.int64)
            lengths = np.array(list(map(len, rows)))
            mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
            (logits,) = self._session.run(None, dict(zip(INPUTS, (ids, mask), strict=True)))
            ends = torch.from_numpy(logits[:, len(input_ids) - 1 :]).float().log_softmax(-1)
            for row, label in enumerate(labels):
                sums.append(
                    sum(float(ends[row, place, token]) for place, token in enumerate(label))
                )
        return sums


def in_onnx_runtime(folder: Path) -> InOnnxRuntime:
    """An ONNX export as a reader without sentilora loads it."""
    return InOnnxRuntime(folder)
