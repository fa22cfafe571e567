"""An export as somebody without sentilora loads it."""

from pathlib import Path

from sentilora.exporting.adapter import in_stock_peft
from sentilora.exporting.certificate import Kind
from sentilora.exporting.gguf import gguf_name, in_llama_cpp
from sentilora.exporting.merged import in_stock_transformers
from sentilora.exporting.onnx_file import in_onnx_runtime
from sentilora.exporting.own_runtime import OwnRuntime
from sentilora.exporting.prompt_file import PromptFile
from sentilora.folders.classifier_file import BaseReference


def load_export(
    folder: Path, kind: Kind, form: str, reference: BaseReference | None, device: str
) -> OwnRuntime:
    """An export in the program that it is made for.

    form: its number format. reference: the base of an adapter, None for the other kinds. device:
    "cpu" or "cuda"; GGUF files run on the device that llama-cpp-python was built for, ONNX files
    on the CPU.
    """
    if kind == "gguf":
        return in_llama_cpp(folder / gguf_name(form), PromptFile.load(folder))
    if kind == "onnx":
        return in_onnx_runtime(folder)
    if kind == "merged" or reference is None:
        return in_stock_transformers(folder, device)
    import torch

    return in_stock_peft(folder, reference, device, getattr(torch, form))
