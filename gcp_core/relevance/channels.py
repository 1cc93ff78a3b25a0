"""Relevance of every channel for every image: one pass down from the true label."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcp_core.errors import RelevanceError, did_you_mean
from gcp_core.relevance.any_other import pass_own_functions
from gcp_core.relevance.marks import Mark, mark_of, marked
from gcp_core.relevance.mode import RelevanceMode
from gcp_core.relevance.stabiliser import stabiliser_by_name
from gcp_core.relevance.state import PassState, layer_names
from gcp_core.relevance.untouched import device_and_dtype, untouched

log = logging.getLogger(__name__)

READ_POINTS = ("sum", "branch")

#: On a CPU images go through in parts of this many pixels: half as many cost a tenth more in calls (ResNet-56), twice
#: as many gain nothing and hold twice the activations.
_PIXELS_AT_ONCE = 64 * 32 * 32


def channel_relevance(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    read: str = "sum",
    stabiliser: str = "signed",
    layers: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """Mean over positions of the relevance at each layer's output, ``{layer: (N, C)}`` in forward order.

    Layer-wise relevance propagation with alpha = 2, beta = 1 from the one-hot true label (paper, section III). The
    type is the model's. Layers that no relevance reaches (inside squeeze-excite gates) and the layer that makes the
    logits are left out. The model is left exactly as found, also after an error.

    Args:
        images: ``(N, channels, height, width)``, normalised, on the model's device.
        labels: ``(N,)`` true classes.
        read: where the last layer of a residual block is read: ``sum`` = at the whole residual sum before its split
            (published), ``branch`` = at its own output.
        stabiliser: ``signed`` or ``published`` (the clamps and denominators of the published program).
        layers: read only these; no relevance below the lowest of them is computed. None = all. What is read is the
            same whatever else is read.

    Raises:
        RelevanceError: a relevance that is not finite (names the layer), labels out of range, half precision, an
            operation without a rule.

    >>> from gcp_core.models import build_model
    >>> scores = channel_relevance(build_model("resnet20", 10), torch.randn(4, 3, 32, 32), torch.tensor([1, 2, 3, 4]))
    >>> scores["layer1.0.conv1"].shape
    torch.Size([4, 16])
    """
    with relevance_pass(model, read=read, stabiliser=stabiliser, layers=layers) as run:
        return run(images, labels)[0]


class RelevancePass:
    """Scores batch after batch of one unchanged model; weights are split once.

    A batch that does not fit into the memory of a GPU is halved, and so are those after it.
    """

    def __init__(self, model: nn.Module, state: PassState, dtype: torch.dtype) -> None:
        self._model, self._state, self._dtype = model, state, dtype
        self._at_once = 0  # 0 = as many as the device likes

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """``{layer: (N, C)}`` and the logits ``(N, classes)`` of one batch."""
        if images.shape[0] == 0 or labels.shape != images.shape[:1]:
            shapes = f"{tuple(images.shape)} images and {tuple(labels.shape)} labels"
            raise RelevanceError(f"{shapes} do not form a batch", "batches")
        parts = self._parts(images, labels.to(images.device))
        readings = {layer: torch.cat([part[layer] for part, _ in parts]) for layer in parts[0][0]}
        _check_finite(readings)
        return readings, torch.cat([logits for _, logits in parts])

    def _parts(self, images: Tensor, labels: Tensor) -> list[tuple[dict[str, Tensor], Tensor]]:
        """The batch in parts that fit into memory. Images do not depend on each other: only the last bits may differ."""
        while True:
            size = self._at_once or _images_at_once(images)
            try:
                return [self._run(x, y) for x, y in zip(images.split(size), labels.split(size))]
            except torch.OutOfMemoryError:
                if min(size, images.shape[0]) == 1:
                    raise
            # Here nothing holds what the pass has made so far.
            self._state.start_batch()
            if images.device.type == "cuda":
                torch.cuda.empty_cache()
            self._at_once = -(-min(size, images.shape[0]) // 2)
            log.info("out of memory: relevance is computed for %d images at a time", self._at_once)

    def _run(self, images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        state = self._state
        state.start_batch()
        # A copy: a model may change its input in place.
        layout = torch.channels_last if images.ndim == 4 else torch.contiguous_format
        images = images.detach().to(self._dtype, copy=True).contiguous(memory_format=layout)
        marked(images, Mark())
        with RelevanceMode(state):
            logits = self._model(images)
        _check_logits(logits, labels)
        pass_own_functions(logits)
        start = F.one_hot(labels.long(), logits.shape[1]).to(logits.dtype)
        torch.autograd.grad(logits, state.root, start, allow_unused=True)
        last = (mark_of(logits) or Mark()).layer
        order = [layer for layer in state.order if layer in state.readings and layer != last]
        return {layer: state.readings[layer] for layer in order}, logits.detach()


@contextmanager
def relevance_pass(
    model: nn.Module, *, read: str = "sum", stabiliser: str = "signed", layers: Collection[str] | None = None
) -> Iterator[RelevancePass]:
    """A :class:`RelevancePass` over ``model``, which must not change inside the ``with`` block.

    Arguments as in :func:`channel_relevance`.
    """
    if read not in READ_POINTS:
        raise RelevanceError(f"{read!r} is unknown", "read", did_you_mean(read, READ_POINTS))
    device, dtype = device_and_dtype(model)
    names = layer_names(model)
    wanted = set(names.values()) if layers is None else set(layers)
    if unknown := sorted(wanted - set(names.values())):
        raise RelevanceError(f"{unknown[0]!r} is not a convolution or linear layer", "layers")
    with untouched(model):
        root = torch.zeros((), dtype=dtype, device=device, requires_grad=True)
        state = PassState(stabiliser_by_name(stabiliser), read == "sum", names, wanted, root)
        yield RelevancePass(model, state, dtype)


def _images_at_once(images: Tensor) -> int:
    """On a CPU a batch goes through in cache-sized parts (samples are independent in evaluation mode)."""
    if images.device.type != "cpu" or images.ndim != 4:
        return images.shape[0]
    return max(1, _PIXELS_AT_ONCE // (images.shape[2] * images.shape[3]))


def _check_logits(logits: object, labels: Tensor) -> None:
    """Refuse what has no relevance."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != labels.shape[0]:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise RelevanceError(f"the model returned {found}, not logits (images, classes)", "model")
    if not logits.requires_grad:
        raise RelevanceError("none of the requested layers leads to the logits", "model")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= logits.shape[1]:
        raise RelevanceError(f"labels from {low} to {high} for {logits.shape[1]} classes", "labels")
    if not bool(torch.isfinite(logits).all()):
        raise RelevanceError("the logits are not finite", "model", "are weights and images finite?")


def _check_finite(readings: dict[str, Tensor]) -> None:
    """Name the layer nearest to the logits whose relevance is not finite: that is where it began."""
    if not readings:
        return
    finite = torch.stack([torch.isfinite(r).all() for r in readings.values()]).tolist()
    bad = [layer for layer, fine in zip(readings, finite) if not fine]
    if bad:
        raise RelevanceError(
            "relevance is not finite", bad[-1], "are the weights of this layer and the next finite?"
        )
