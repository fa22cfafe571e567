"""Where and how a model computes: one record, passed as a whole.

    runtime = Runtime(device="cuda", engine="reference")
    runtime = Runtime.from_record(classifier_file.runtime).override(batch_size=64)

The adapter's folder records what training used. Scoring uses the same unless it is overridden.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral, Real
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
    """Keywords of `evaluate`, `predict` and `Classifier.load` that override the recorded values.

    None, or a missing keyword: the recorded value, or else the default of `Runtime`.
    """

    device: str | None
    compute_dtype: str | None
    attn_implementation: str | None
    engine: Literal["auto", "reference"] | None
    base_matmul: str | None
    batch_size: int | None
    max_memory_gib: float | None
    max_left_out: float | None


@dataclass(frozen=True)
class Runtime:
    """Where and how a model computes.

    device: "auto", "cuda" or "cpu". compute_dtype: "auto", "float16", "bfloat16" or "float32".
    attn_implementation: attention's name in transformers. engine: "auto" uses the fast engine where
    it fits the base, "reference" always uses plain PEFT and bitsandbytes. base_matmul: "exact", or
    "fp8" for 8-bit products with the base's weights. batch_size: number of texts scored at once
    without the fast engine. max_memory_gib: GPU memory to plan for; 0 means all that is free.
    assume_capability: compute capability to assume for the GPU (7.5 for a T4); 0 uses the real one.
    max_left_out: with many labels, the most of a text's probability that may be in labels which are
    not scored because they cannot matter; 0 scores every label.
    """

    device: str = "auto"
    compute_dtype: str = "auto"
    attn_implementation: str = "sdpa"
    engine: Literal["auto", "reference"] = "auto"
    base_matmul: str = "exact"
    batch_size: int = 16
    max_memory_gib: float = 0.0
    assume_capability: float = 0.0
    max_left_out: float = 1e-6

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
                    f"there is no `{name}` {value!r}",
                    setting=name,
                    seen=value,
                    remedy=f"choose {', '.join(choices[:-1])} or {choices[-1]}",
                )
        checks: dict[str, tuple[type, Callable[[Any], bool], str]] = {
            "batch_size": (Integral, lambda n: n >= 1, "use a positive whole number"),
            "max_memory_gib": (Real, lambda n: n >= 0, "use a positive number"),
            "attn_implementation": (str, bool, "use a name such as sdpa or eager"),
        }
        for name, (kind, is_valid, remedy) in checks.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not is_valid(value):
                raise UsageError(
                    f"`{name}` is {value!r:.60}", setting=name, seen=value, remedy=remedy
                )

        if not 0 <= self.max_left_out < 1:
            raise UsageError(
                f"`max_left_out` is {self.max_left_out}",
                setting="max_left_out",
                seen=self.max_left_out,
                remedy="use a share from 0 to below 1, such as 1e-6",
            )

    @classmethod
    def from_record(cls, record: RecordedRuntime | None) -> Self:
        """The runtime that training recorded; the default one if there is no record."""
        if record is None:
            return cls()
        return cls(
            compute_dtype=record.compute_dtype,
            attn_implementation=record.attn_implementation,
            engine=record.engine,
            batch_size=record.batch_size,
        )

    def record(self, compute_dtype: "torch.dtype") -> RecordedRuntime:
        """The record to write into an adapter's folder. compute_dtype: the dtype in use."""
        name: Any = str(compute_dtype).removeprefix("torch.")
        return RecordedRuntime(name, self.attn_implementation, self.engine, self.batch_size)

    def override(self, **values: Unpack[RuntimeOverrides]) -> Self:
        """A copy in which the values that are not None replace the present ones."""
        changes: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
        return replace(self, **changes)

    @classmethod
    def for_scoring(cls, record: RecordedRuntime | None, overrides: RuntimeOverrides) -> Self:
        """The runtime that training recorded, with the overrides that are not None.

        If this machine lacks a recorded dtype or attention, the nearest one replaces it; a notice
        says so.
        """
        runtime = cls.from_record(record).override(**overrides)
        device = choose_device(runtime.device)
        place = "GPU" if device == "cuda" else "CPU"
        dtype, attention = runtime.compute_dtype, runtime.attn_implementation
        if device == "cpu":
            nearest_dtype = "float32" if dtype == "float16" else dtype
            nearest_attention = "sdpa" if _needs_gpu(attention) else attention
        else:
            native = compute_capability(runtime.assume_capability) >= 8
            nearest_dtype = dtype if native or dtype != "bfloat16" else "float16"
            nearest_attention = attention
        nearest: dict[str, Any] = {
            "compute_dtype": nearest_dtype,
            "attn_implementation": nearest_attention,
        }
        for name, value in nearest.items():
            in_training = getattr(runtime, name)
            if value != in_training and overrides.get(name) is None:
                say(
                    f"{name}: trained with {in_training}, which is unavailable on this {place}; "
                    f"scoring with {value}, the nearest alternative"
                )
                runtime = replace(runtime, **{name: value})
        return runtime

    def require_possible(self) -> None:
        """Raise `UsageError` when this machine cannot compute as requested.

        Imports torch only for attention or products that need a GPU.
        """
        require_device(self.device)
        if _needs_gpu(self.attn_implementation) and choose_device(self.device) == "cpu":
            raise UsageError(
                f"attn_implementation={self.attn_implementation} needs a GPU, and this run is on "
                "the CPU",
                setting="attn_implementation",
                seen=self.attn_implementation,
                remedy="choose sdpa or eager",
            )
        if self.base_matmul == "exact":
            return
        if self.engine == "reference":
            raise UsageError(
                "base_matmul=fp8 is a feature of the fast engine, which is switched off",
                setting="base_matmul",
                seen="fp8",
                remedy="leave the engine at auto",
            )
        here = compute_capability()
        capability = min(here, self.assume_capability or here)
        if capability < 8.9 or self.device == "cpu":
            if not here:
                reason = "this machine has none"
            elif self.device == "cpu":
                reason = "the CPU was requested"
            else:
                reason = f"this one has {capability}"
            raise UsageError(
                "base_matmul=fp8 needs a GPU of compute capability 8.9 or above (Ada, Hopper), but "
                + reason,
                setting="base_matmul",
                seen="fp8",
                remedy="leave it at exact",
            )


def _needs_gpu(attn_implementation: str) -> bool:
    """Whether an attention implementation has no CPU path; flex_attention crashes there."""
    return any(name in attn_implementation for name in ("flash", "flex"))
