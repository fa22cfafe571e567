"""A training pass as one launch: forward and backward captured in a CUDA graph per size of pass.

A step of Mistral-7B is some 2,000 kernels. Launching them one by one takes longer than running
them (H100: 0.35 s against 0.22 s). Captured once and replayed, they keep the GPU busy. Passes are
rounded up to few sizes for this (`lay_out(round_up=True)`), and all graphs share one memory pool.
"""

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sentilora.engine.segments import Pass, tensors_of, to_device

Loss = Callable[..., torch.Tensor]  # of a pass and the tensors of its answers


class FlatParameters:
    """Parameters of one dtype as views of one tensor, so that an optimizer step is one launch.

    whole: that tensor, itself a parameter. The parameters' gradients are views of its gradient,
    which is never reallocated; `zero_grad` fills it with zeros.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.sizes = [p.numel() for p in self.parameters]
        with torch.no_grad():
            self.whole = torch.nn.Parameter(torch.cat([p.flatten() for p in self.parameters]))
        self.whole.grad = torch.zeros_like(self.whole)
        views = self._views(self.whole.data), self._views(self.whole.grad)
        for parameter, values, gradient in zip(self.parameters, *views, strict=True):
            parameter.data = values
            parameter.grad = gradient

    def _views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        parts = flat.split(self.sizes)
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def zero_grad(self, set_to_none: bool = False) -> None:
        """Set every gradient to zero in one launch; a module's own method walks its modules."""
        if self.whole.grad is not None:
            self.whole.grad.zero_()

    def is_like_separate(self, block: int, least: int) -> bool:
        """Whether an optimizer with 8-bit states in blocks treats the whole as it would the parts.

        least: number of elements from which on a tensor's states have 8 bits.
        """
        return all(size % block == 0 and size >= least for size in self.sizes)


class Graphs:
    """Replays `loss_of(packed, *answers)` and its backward pass.

    Gradients are added to the parameters' `.grad`, which must not be reallocated.
    before_capture: called before a graph is captured; `Engine.refresh`.
    """

    def __init__(self, flat: FlatParameters, before_capture: Callable[[], None]) -> None:
        self.flat = flat
        self._before_capture = before_capture
        self._device = flat.whole.device
        self._scale = torch.ones((), device=self._device)
        self._stream = torch.cuda.Stream(self._device)
        self._pool: Any = None
        self._captured: dict[Any, tuple[Any, list[torch.Tensor], torch.Tensor]] = {}

    def scale_losses(self, scale: torch.Tensor) -> None:
        """Multiply losses by `scale` before their backward pass from here on."""
        self._scale.copy_(scale)

    def forget(self) -> None:
        """Drop all graphs and their memory."""
        self._captured.clear()
        self._pool = None

    def prepare(
        self, loss_of: Loss, packed: Pass, *answers: torch.Tensor
    ) -> tuple[Any, list[torch.Tensor], torch.Tensor]:
        """The graph for passes of this size; captured now if there is none.

        Capturing is the host's work alone: the GPU continues with earlier work.
        """
        inputs = [*tensors_of(packed), *answers]
        key = (
            packed.checkpoint_layers,
            packed.attention.max_q,
            packed.attention.max_k,
            packed.answers.max_q,
            packed.answers.max_k,
            *(tensor.shape for tensor in inputs),
        )
        if key not in self._captured:
            self._captured[key] = self._capture(loss_of, packed, *answers)
        return self._captured[key]

    def backward(self, loss_of: Loss, packed: Pass, *answers: torch.Tensor) -> torch.Tensor:
        """Loss of a pass whose tensors are on the CPU; its scaled gradients are added."""
        graph, inputs, loss = self.prepare(loss_of, packed, *answers)
        _copy([*tensors_of(packed), *answers], inputs)
        graph.replay()
        return loss.clone()

    def _capture(
        self, loss_of: Loss, packed: Pass, *answers: torch.Tensor
    ) -> tuple[Any, list[torch.Tensor], torch.Tensor]:
        device = self._device
        packed = packed.to(device)
        on_device = [to_device(tensor, device) for tensor in answers]
        inputs = [*tensors_of(packed), *on_device]
        self._before_capture()
        if not self._captured:
            # Compile kernels and set up libraries outside of a capture.
            (loss_of(packed, *on_device) * self._scale).backward()
            self.flat.zero_grad()  # this is a step's first pass: nothing else is lost
            self._before_capture()
            torch.cuda.synchronize()
            gc.collect()
            torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        # Not `torch.cuda.graph`, which would wait for the GPU.
        with torch.cuda.stream(self._stream):
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                loss = loss_of(packed, *on_device)
                (loss * self._scale).backward()
                loss = loss.detach()
            finally:
                graph.capture_end()
        self._pool = graph.pool()
        return graph, inputs, loss


def _copy(sources: Sequence[torch.Tensor], targets: Sequence[torch.Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source.pin_memory(), non_blocking=True)
