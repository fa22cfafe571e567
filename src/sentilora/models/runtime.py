"""Where and how a model computes, as one record that is passed whole.

    runtime = Runtime(device="cuda", engine="reference")
    runtime = Runtime.recorded(classifier_file.runtime).override(batch_size=64)

What training used is recorded beside the adapter; scoring uses that unless asked otherwise.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

from sentilora.errors import UsageError
from sentilora.folders.classifier_file import RecordedRuntime
from sentilora.models.device import (
    choose_device,
    compute_capability,
    require_device,
)
from sentilora.progress import say

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float16", "bfloat16", "float32")


class RuntimeOverrides(TypedDict, total=False):
    """The keywords by which `evaluate`, `predict` and `Classifier.load` override what was recorded.

    None, or left out: as recorded, else as `Runtime` has it.
    """

    device: str | None
    compute_dtype: str | None
    attn_implementation: str | None
    engine: Literal["auto", "reference"] | None
    base_matmul: str | None
    batch_size: int | None
    max_memory_gib: float | None


@dataclass(frozen=True)
class Runtime:
    """Where and how a model computes.

    device: "auto", "cuda" or "cpu". compute_dtype: "auto", "float16", "bfloat16" or "float32".
    attn_implementation: as transformers names it. engine: "auto" uses the fast engine where it fits
    the base, "reference" plain PEFT and bitsandbytes. base_matmul: "exact", or "fp8" for 8-bit
    products with the base's weights. batch_size: texts scored at once on the plain path.
    max_memory_gib: GPU memory to plan for; 0 plans for what is free. assume_capability: act as on a
    GPU of this compute capability (7.5 for a T4); 0 acts on the real one.
    """

    device: str = "auto"
    compute_dtype: str = "auto"
    attn_implementation: str = "sdpa"
    engine: Literal["auto", "reference"] = "auto"
    base_matmul: str = "exact"
    batch_size: int = 16
    max_memory_gib: float = 0.0
    assume_capability: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in (
            ("device", ("auto", "cuda", "cpu")),
            ("compute_dtype", DTYPES),
            ("engine", ("auto", "reference")),
            ("base_matmul", ("exact", "fp8")),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise UsageError(
                    f"there is no {name} {value!r}",
                    setting=name,
                    seen=value,
                    remedy=f"choose {', '.join(choices[:-1])} or {choices[-1]}",
                )
        if self.batch_size < 1 or self.max_memory_gib < 0:
            name = "batch_size" if self.batch_size < 1 else "max_memory_gib"
            value = getattr(self, name)
            raise UsageError(
                f"{name} is {value}", setting=name, seen=value, remedy="give a positive number"
            )

    @classmethod
    def recorded(cls, record: RecordedRuntime | None) -> Self:
        """What training recorded; the defaults where nothing is recorded."""
        if record is None:
            return cls()
        return cls(
            compute_dtype=record.compute_dtype,
            attn_implementation=record.attn_implementation,
            engine=record.engine,
            batch_size=record.batch_size,
        )

    def record(self, compute_dtype: "torch.dtype") -> RecordedRuntime:
        """What to record beside an adapter. compute_dtype: the one that was chosen."""
        name: Any = str(compute_dtype).removeprefix("torch.")
        return RecordedRuntime(name, self.attn_implementation, self.engine, self.batch_size)

    def override(self, **values: Unpack[RuntimeOverrides]) -> Self:
        """With the values that are not None in place of its own."""
        chosen: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
        return replace(self, **chosen)

    @classmethod
    def for_scoring(cls, record: RecordedRuntime | None, overrides: RuntimeOverrides) -> Self:
        """What training recorded, with the overrides that are not None.

        What was recorded and this machine cannot do becomes the nearest that it can; that is said.
        """
        runtime = cls.recorded(record).override(**overrides)
        device = choose_device(runtime.device)
        dtype, attention = runtime.compute_dtype, runtime.attn_implementation
        if device == "cpu":
            nearest_dtype = "float32" if dtype == "float16" else dtype
            nearest_attention = "sdpa" if "flash" in attention else attention
        else:
            native = compute_capability(runtime.assume_capability) >= 8
            nearest_dtype = dtype if native or dtype != "bfloat16" else "float16"
            nearest_attention = attention
        nearest: dict[str, Any] = {
            "compute_dtype": nearest_dtype,
            "attn_implementation": nearest_attention,
        }
        for name, value in nearest.items():
            recorded = getattr(runtime, name)
            if value != recorded and overrides.get(name) is None:
                say(
                    f"{name}: trained with {recorded}, which is unavailable on this {device}; "
                    f"scoring with {value}, the nearest to it"
                )
                runtime = replace(runtime, **{name: value})
        return runtime

    def require_possible(self) -> None:
        """Raise `UsageError` when this machine cannot do what is asked for.

        torch is imported only to look for 8-bit products.
        """
        require_device(self.device)
        if self.base_matmul == "exact":
            return
        if self.engine == "reference":
            raise UsageError(
                "base_matmul=fp8 belongs to the fast engine",
                setting="base_matmul",
                seen="fp8",
                remedy="leave out engine=reference",
            )
        here = compute_capability()
        capability = min(here, self.assume_capability or here)
        if capability < 8.9 or self.device == "cpu":
            seen = "a CPU is asked for" if self.device == "cpu" else f"this one has {capability}"
            raise UsageError(
                "base_matmul=fp8 needs a GPU of compute capability 8.9 or above (Ada, Hopper), and "
                f"{seen if here else 'there is none here'}",
                setting="base_matmul",
                seen="fp8",
                remedy="leave it at exact",
            )
