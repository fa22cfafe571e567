"""`sentilora export`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sentilora.cli.options import Adapter, Device, name_shipped_adapter, quiet
from sentilora.wording import quoted

Kind = Annotated[
    Literal["adapter", "merged", "gguf", "onnx"],
    typer.Argument(
        help="adapter: a clean PEFT folder. merged: base and adapter as one model. gguf: the "
        "same for llama.cpp and Ollama. onnx: the same for ONNX Runtime."
    ),
]
Out = Annotated[Path, typer.Argument(help="New folder.")]
Base = Annotated[
    str | None,
    typer.Option(
        help="Where the adapter's base is now: a folder, a .gguf file, a hub id or a preset's name."
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Number format. merged: float16, bfloat16 or float32. gguf: f16, q8_0 or q4_K_M. "
        "onnx: float32 or float16.",
        show_default="float16; f16; float32",
    ),
]
Weights = Annotated[
    Literal["trained", "original"],
    typer.Option(
        help="Merge into the base's weights as they were in training (4 bits, dequantized), or "
        "into the unquantized ones."
    ),
]
BaseId = Annotated[
    str | None,
    typer.Option(
        help="Name of the base for other machines, such as its hub id.",
        show_default="as in training; of a path the last part",
    ),
]
Converter = Annotated[
    Path | None,
    typer.Option(
        help="gguf: source distribution of llama-cpp-python, which holds llama.cpp's converter.",
        show_default="downloaded with pip",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(
        help="Largest difference of a probability to accept.",
        show_default="what the number formats account for",
    ),
]
PushToHub = Annotated[
    str | None, typer.Option(metavar="REPO", help="Upload the folder to this hub repository.")
]


def export(
    kind: Kind,
    out: Out,
    adapter: Adapter = None,
    base: Base = None,
    dtype: Dtype = None,
    weights: Weights = "trained",
    base_id: BaseId = None,
    converter: Converter = None,
    tolerance: Tolerance = None,
    push_to_hub: PushToHub = None,
    device: Device = None,
) -> None:
    """Write an adapter for other programs, and check there that it answers as it was trained."""
    from sentilora.exporting.certificate import figures_of, in_words
    from sentilora.stages.export import export as run

    if adapter is None:
        name_shipped_adapter()
    quiet()
    certificate = run(
        kind,
        out,
        adapter=adapter,
        base=base,
        dtype=dtype,
        weights=weights,
        base_id=base_id,
        converter=converter,
        tolerance=tolerance,
        push_to_hub=push_to_hub,
        device=device,
    )
    print(f"{kind}, {certificate.form}: {quoted(out)}")
    print(f"{in_words(figures_of(certificate))}; up to {certificate.tolerance:g} is allowed")
