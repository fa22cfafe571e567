"""A merged model as one GGUF file for llama.cpp and Ollama, and Ollama's Modelfile.

f16 and q8_0 are written by llama.cpp's converter, q4_K_M by its quantizer from f16.
"""

import ctypes
import json
from collections.abc import Sequence
from pathlib import Path

from sentilora.errors import SentiloraError
from sentilora.exporting.converter import convert
from sentilora.exporting.own_runtime import InLlamaCpp, import_llama_cpp
from sentilora.exporting.prompt_file import PromptFile
from sentilora.template import TEXT

FORMS = ("f16", "q8_0", "q4_K_M")
MODELFILE = "Modelfile"
ROOM = 8  # tokens after the longest prompt


def gguf_name(form: str) -> str:
    """Name of the GGUF file in an export's folder."""
    return f"model-{form}.gguf"


def write_gguf(script: Path, merged: Path, file: Path, form: str, name: str) -> None:
    """Write a merged model as a GGUF file. script: llama.cpp's converter."""
    if form != "q4_K_M":
        convert(script, merged, file, form, name)
        return
    whole = file.with_name("unquantized.gguf")
    convert(script, merged, whole, "f16", name)
    _quantize(whole, file)
    whole.unlink()


def _quantize(source: Path, file: Path) -> None:
    """Write a GGUF file again, in q4_K_M."""
    llama_cpp = import_llama_cpp()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    failed = llama_cpp.llama_model_quantize(
        str(source).encode(), str(file).encode(), ctypes.byref(parameters)
    )
    if failed or not file.is_file():
        raise SentiloraError(
            f"llama.cpp cannot quantize this model to q4_K_M (it returned {failed})",
            setting="dtype",
            seen="q4_K_M",
            remedy="choose `dtype`=q8_0",
        )


def in_llama_cpp(file: Path, prompt: PromptFile) -> InLlamaCpp:
    """A GGUF file as llama-cpp-python loads it, with room for the longest prompt."""
    longest = max(map(len, prompt.label_ids))
    return InLlamaCpp(file, prompt.max_prompt_tokens + longest + ROOM)


def modelfile(file: str, prompt: PromptFile) -> str:
    """Ollama's Modelfile. A prompt that shows other columns must be sent whole, as `raw`."""
    lines = [f"FROM ./{file}"]
    others = [name for kind, name in prompt.parts if kind == "column" and name != TEXT]
    if others:
        lines += [f"# The prompt also shows {', '.join(others)}: build it as prompt.json says, and"]
        lines += ['# send it with "raw": true.', 'TEMPLATE """{{ .Prompt }}"""']
    else:
        lines.append(f'TEMPLATE """{_go_template(prompt.parts)}"""')
    num_tokens = max(map(len, prompt.label_ids))
    lines += [
        "PARAMETER temperature 0",
        f"PARAMETER num_predict {num_tokens}",
        f"PARAMETER num_ctx {prompt.max_prompt_tokens + num_tokens + ROOM}",
    ]
    return "\n".join(lines) + "\n"


def _go_template(parts: Sequence[tuple[str, str]]) -> str:
    """The prompt as a Go template. JSON's strings are valid in Go, and keep blanks and quotes."""
    return "".join(
        "{{ .Prompt }}"
        if kind == "column"
        else "{{ " + json.dumps(content, ensure_ascii=False) + " }}"
        for kind, content in parts
    )
