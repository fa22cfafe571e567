"""Install the fast engine in a model, where it fits."""

from typing import TYPE_CHECKING

from sentilora.errors import UsageError
from sentilora.models.device import compute_capability
from sentilora.models.runtime import Runtime

if TYPE_CHECKING:
    import torch

    from sentilora.engine.swap import Engine


def install_engine(model: "torch.nn.Module", runtime: Runtime) -> "Engine | None":
    """The fast engine, installed in a model's layers; None if it is switched off or does not fit.

    Raises `UsageError` when 8-bit products are requested and unavailable here.
    """
    runtime.require_possible()
    if runtime.engine == "reference":
        return None
    from sentilora.engine.swap import install

    engine = install(model, compute_capability(runtime.assume_capability))
    if engine is not None and runtime.base_matmul == "fp8":
        fault = engine.use_8_bits()
        if fault:
            raise UsageError(
                f"base_matmul=fp8 is unavailable here: {fault}",
                setting="base_matmul",
                seen="fp8",
                remedy="leave it at exact",
            )
    return engine


def why_not_fast(model: "torch.nn.Module") -> str | None:
    """Why the fast engine does not support a model's structure; None if it does.

    Works on torch's meta device. `install_engine` also tries two layers once it has their weights.
    """
    from sentilora.engine.structure import why_not

    return why_not(model)
