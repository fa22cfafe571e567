"""Base and adapter as one ONNX model: token ids and attention mask in, logits of every token out.

Its axes are free: any number of texts, padded on the right to any length. There is no cache.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentilora.errors import UsageError, is_out_of_memory
from sentilora.exporting.own_runtime import ONNX_INPUTS, InOnnxRuntime, import_for_onnx

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ONNX_FILE = "model.onnx"
ONNX_DTYPES = ("float32", "float16")
REMEDY = "export it as merged"


def require_onnx() -> None:
    """Raise `UsageError` unless everything is installed that writes and scores ONNX files."""
    import_for_onnx("onnx", "onnxscript", "onnxruntime")


def write_onnx(model: "PreTrainedModel", out: Path) -> None:
    """Write a merged model as ONNX, with its configuration.

    Weights of more than 1.5 GiB are in a file beside it, model.onnx.data: a protobuf ends at 2 GiB.
    Raises `UsageError` for an architecture that torch's exporter cannot carry.
    """
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model: Any = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            output = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            return output.logits

    _require_fixed_positions(model)
    ids = torch.zeros(2, 8, dtype=torch.long)  # an axis of size 1 would be taken for a fixed one
    axes = {0: "texts", 1: "tokens"}
    try:
        with _without_notices():
            program: Any = torch.onnx.export(
                Logits().eval(),
                (ids, torch.ones_like(ids)),
                dynamo=True,
                verbose=False,
                dynamic_shapes=(axes, axes),
                input_names=ONNX_INPUTS,
                output_names=["logits"],
            )
    except torch.onnx.OnnxExporterError as error:
        cause = _innermost(error)
        if is_out_of_memory(cause):
            raise cause from None
        reason = " ".join(str(cause).split()).replace("`", "'")[:200]
        raise UsageError(
            f"torch's ONNX exporter cannot carry this base ({type(model).__name__}: {reason})",
            setting="kind",
            seen="onnx",
            remedy=REMEDY,
        ) from error
    for graph in (program.model.graph, *program.model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()  # a stack trace, with paths of this machine
    program.save(str(out / ONNX_FILE))
    model.config.save_pretrained(str(out))


def _require_fixed_positions(model: "PreTrainedModel") -> None:
    """Raise `UsageError` when rotary positions depend on the length of a text.

    The exporter keeps those of the text that it traces, a short one; answers to long
    texts would silently be wrong.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", "")
        for kind in kinds.values() if isinstance(kinds, dict) else [kinds]:
            if kind == "longrope" or "dynamic" in kind:
                raise UsageError(
                    f"the rotary positions of this base ({type(model).__name__}, {kind}) depend on "
                    "the length of a text, which an ONNX file does not carry",
                    setting="kind",
                    seen="onnx",
                    remedy=REMEDY,
                )


def _innermost(error: BaseException) -> BaseException:
    """The error that an error was raised from, over however many steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def _without_notices() -> Iterator[None]:
    """Silence what the exporter tells its developers: deprecations, torchvision missing."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def in_onnx_runtime(folder: Path) -> InOnnxRuntime:
    """An ONNX export as a reader without sentilora loads it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    return InOnnxRuntime(folder / ONNX_FILE, tokenizer)
