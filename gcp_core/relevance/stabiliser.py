"""What keeps denominators away from zero: the two modes of the method (``published`` and ``signed``)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcp_core.errors import RelevanceError, did_you_mean

#: The method's e.
EPSILON = 1e-9


@dataclass(frozen=True)
class Stabiliser:
    """How weights are split and how denominators are moved away from zero.

    Attributes:
        sign_aware: ``z + e * sign(z)``; otherwise ``z + e`` whatever the sign, as in the published program.
        conv_floor: parts of a convolution's weights are ``max(W, floor)`` and ``min(W, -floor)``.
    """

    sign_aware: bool
    conv_floor: float

    def __call__(self, z: Tensor) -> Tensor:
        """``z`` moved away from zero; a new tensor that holds no zero."""
        if self.sign_aware:
            return torch.copysign(z.new_full((), EPSILON), z).add_(z)
        moved = z + EPSILON
        # z = -e happens where an input is zero under a clamped weight of exactly -e.
        return moved.masked_fill_(moved == 0, EPSILON)


_MODES = {
    "signed": Stabiliser(sign_aware=True, conv_floor=0.0),
    "published": Stabiliser(sign_aware=False, conv_floor=EPSILON),
}
STABILISERS = tuple(_MODES)


def stabiliser_by_name(name: str) -> Stabiliser:
    """``signed`` (parts clamped at 0, sign-aware) or ``published`` (the rule behind the check numbers)."""
    if name not in _MODES:
        raise RelevanceError(f"{name!r} is unknown", "stabiliser", did_you_mean(name, _MODES))
    return _MODES[name]
