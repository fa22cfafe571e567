"""Whether and how the fast engine goes into a model."""

from typing import TYPE_CHECKING

from sentilora.errors import UsageError
from sentilora.models.device import compute_capability

if TYPE_CHECKING:
    import torch

    from sentilora.engine.swap import Engine


def require_engine(
    implementation: str,
    base_matmul: str,
    assume_capability: float = 0.0,
    device: str = "auto",
) -> None:
    """Raise `UsageError` when 8-bit products are asked for and cannot be had on this device."""
    if base_matmul == "exact":
        return
    if base_matmul != "fp8":
        raise UsageError(f"there is no base_matmul {base_matmul!r}; choose exact or fp8")
    if implementation == "reference":
        raise UsageError("base_matmul=fp8 belongs to the fast engine; leave out engine=reference")
    here = compute_capability()
    capability = min(here, assume_capability or here)
    if capability < 8.9 or device == "cpu":
        asked = "a CPU is asked for" if device == "cpu" else f"this one has {capability}"
        said = asked if here else "there is none here"
        raise UsageError(
            "base_matmul=fp8 needs a GPU of compute capability 8.9 or above (Ada, Hopper), and "
            f"{said}; leave it at exact"
        )


def install_engine(
    model: "torch.nn.Module",
    *,
    implementation: str = "auto",
    base_matmul: str = "exact",
    assume_capability: float = 0.0,
    max_memory_gib: float = 0.0,
) -> "Engine | None":
    """The fast engine in a model's layers; None where it is switched off or does not fit."""
    require_engine(
        implementation, base_matmul, assume_capability, next(model.parameters()).device.type
    )
    if implementation == "reference":
        return None
    from sentilora.engine.swap import install

    engine = install(model, compute_capability(assume_capability))
    if engine is not None and base_matmul == "fp8":
        fault = engine.use_8_bits()
        if fault:
            raise UsageError(f"base_matmul=fp8 cannot be had here: {fault}; leave it at exact")
    return engine
