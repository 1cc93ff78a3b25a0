"""A step that is recorded once and then played back: a GPU is given all of its kernels with one call.

At the size of CIFAR a step is some hundred small kernels, and asking for them takes longer than computing them, however
narrow the layers have become. Between two events nothing about a step changes but the values, so it can be recorded (a
CUDA graph). What is played back are the same kernels in the same order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from gcp_core.errors import first_line
from gcp_core.steps.step import PlainStep

log = logging.getLogger(__name__)

#: Steps before one is recorded: optimisers and libraries set themselves up in the first ones.
WARM_UP = 3

_Work = Callable[[], None]


class Recorder(Protocol):
    """Records what a device is asked for."""

    def rehearse(self, work: _Work) -> None:
        """Do ``work`` where it will be recorded."""

    def record(self, work: _Work) -> _Work:
        """Record ``work`` without doing it; what comes back does it, again and again, on the same memory."""


@lru_cache(maxsize=16)
def _stream_on(device: torch.device) -> torch.cuda.Stream:
    # One for all recordings: cuBLAS keeps tens of MiB for every stream it has worked on, as long as the process lives.
    return torch.cuda.Stream(device)


class CudaGraphs:
    """Records CUDA graphs, on a stream that does nothing else."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, _stream_on(device)

    def rehearse(self, work: _Work) -> None:
        """See :class:`Recorder`. Autograd remembers the streams of its first pass: it has to be the one to record on."""
        with torch.cuda.device(self._device):
            here = torch.cuda.current_stream()
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                work()
            here.wait_stream(self._stream)

    def record(self, work: _Work) -> _Work:
        """See :class:`Recorder`."""
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self._device),
            # What other threads do meanwhile (a loader that locks pages, say) is their own matter.
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            work()
        return graph.replay


class CapturedStep:
    """``step``, recorded with the first full batch after :data:`WARM_UP` others, and played back with those after that.

    A batch of another size than ``train.batch_size`` (the last of an epoch) is trained with as it comes. Where recording
    fails, every batch is, and a warning says so once.

    Args:
        step: reads nothing that changes from step to step but tensors that stay where they are in memory.
    """

    def __init__(self, step: PlainStep, recorder: Recorder) -> None:
        self._step, self._recorder = step, recorder
        self._to_rehearse = WARM_UP
        self._batch: tuple[Tensor, Tensor] | None = None
        self._play: _Work | None = None
        self._gave_up = False

    @property
    def total(self) -> Tensor:
        """See :class:`gcp_core.steps.Step`."""
        return self._step.total

    @property
    def failed(self) -> frozenset[str]:
        """See :class:`gcp_core.steps.Step`."""
        return self._step.failed | ({"record"} if self._gave_up else set())

    def begin(self, rates: Sequence[Sequence[float]]) -> None:
        """See :class:`gcp_core.steps.Step`."""
        self._step.begin(rates)

    def end(self) -> None:
        """See :class:`gcp_core.steps.Step`."""
        self._step.end()

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        """See :class:`gcp_core.steps.Step`."""
        self._step.rates.next()
        if self._gave_up or len(labels) != self._step.config.batch_size:
            self._step.work(images, labels)
        elif self._play is None and self._to_rehearse:
            self._to_rehearse -= 1
            self._recorder.rehearse(lambda: self._step.work(images, labels))
        else:
            self._played(images, labels)

    def _played(self, images: Tensor, labels: Tensor) -> None:
        if self._batch is None:
            self._batch = torch.empty_like(images), torch.empty_like(labels)
        for own, given in zip(self._batch, (images, labels)):
            own.copy_(given)
        if self._play is None:
            self._play = self._recorded(*self._batch)
        if self._play is None:
            self._step.work(images, labels)
        else:
            self._play()

    def _recorded(self, images: Tensor, labels: Tensor) -> _Work | None:
        """What plays the step back with what these tensors hold then; None if it cannot be recorded."""
        # The gradients of the recorded step are to have memory of their own.
        self._step.optimizer.zero_grad(set_to_none=True)
        try:
            with _capturable(self._step.optimizer):
                return self._recorder.record(lambda: self._step.work(images, labels))
        # Torch, CUDA and the model's own code: whatever it is, the step works without.
        except Exception as exc:
            self._gave_up, self._batch = True, None
            log.warning("train.compile: this step cannot be recorded, it runs as it is: %s", first_line(exc))
            return None


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Adam wants to be told; for good, it would be in checkpoints, which a CPU can take up."""
    groups = [group for group in optimizer.param_groups if "capturable" in group]
    before = [group["capturable"] for group in groups]
    try:
        for group in groups:
            group["capturable"] = True
        yield
    finally:
        for group, was in zip(groups, before):
            group["capturable"] = was
