"""Batch whitening and the probability that a channel is active: pure functions.

Source: Shao et al., "BWCP: Probabilistic Learning-to-Prune Channels for ConvNets via Batch Whitening", arXiv 2105.06423
(the ICLR 2022 submission's text was read). For a group of g channels with scales gamma and correlation rho:

    SN = (gamma gamma^T) o rho / ||gamma||^2                      trace 1
    S_0 = I,  S_k = (3 S_{k-1} - S_{k-1}^3 SN) / 2                -> SN^{-1/2}
    gamma^ = S gamma,  beta^ = S beta                             the equivalent norm
    P_c = (1 + erf((beta^_c - delta) / (sqrt(2) |gamma^_c|))) / 2
    m_c = sigmoid((logit P_c + logistic noise) / tau)

The eigenvalues of SN are in [0, 1], where the iteration rises towards its limit and never passes 1.5^k. With many steps
it is rounding that blows up where SN is singular, so there are few steps, and a little of I is added.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Smallest |gamma^| that is divided by; channels with smaller scales have died.
_LEAST = 1e-6
#: Standard deviations beyond which nobody can tell the difference, and log_ndtr has no slope in float32.
_FAR = 1e3


def shrunk(gamma: Tensor, rho: Tensor) -> Tensor:
    """SN of scales ``(..., g)`` and correlations ``(..., g, g)``."""
    return gamma.unsqueeze(-1) * gamma.unsqueeze(-2) * rho / gamma.square().sum(-1)[..., None, None]


def normalised(covariance: Tensor, identity: Tensor, eps: float) -> Tensor:
    """SN of channels with this covariance ``(..., g, g)``: trace 1, no eigenvalue much below ``eps / g``.

    The covariance of ``gamma * xbar + beta`` is ``(gamma gamma^T) o rho``. Channels that have died have I / g.

    Args:
        identity: 1 on the diagonal of channels that there are, 0 elsewhere.
    """
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    size = identity.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    dead = _LEAST**2  # not less: the gradient is divided by it
    little = eps * trace / size + dead
    return (covariance + little * identity) / (trace * (1 + eps) + dead * size)


def inverse_root(sn: Tensor, identity: Tensor, steps: int) -> Tensor:
    """``SN^{-1/2}`` by ``steps`` steps of Newton's iteration, ``(..., g, g)``."""
    root = identity
    for _ in range(steps):
        root = (3 * root - root @ root @ root @ sn) / 2
    return root


def white(size: int, steps: int) -> float:
    """What :func:`inverse_root` makes of I / size, a number on the diagonal; ``sqrt(size)`` after many steps."""
    root = 1.0
    for _ in range(steps):
        root = (3 * root - root**3 / size) / 2
    return root


def log_odds(shift: Tensor, scale: Tensor, delta: float) -> Tensor:
    """``logit P``: exact, with a gradient, where P itself is 0 or 1 in floating point."""
    z = ((shift - delta) / scale.abs().clamp_min(_LEAST)).clamp(-_FAR, _FAR)
    return torch.special.log_ndtr(z) - torch.special.log_ndtr(-z)


def active_probability(shift: Tensor, scale: Tensor, delta: float) -> Tensor:
    """P: how likely a normal value with this mean and this standard deviation is above ``delta``."""
    return torch.special.ndtr((shift - delta) / scale.abs().clamp_min(_LEAST))


def relaxed(odds: Tensor, uniform: Tensor, tau: float) -> Tensor:
    """Relaxed Bernoulli masks in (0, 1) of log odds and uniform noise in (0, 1), at temperature ``tau``."""
    return torch.sigmoid((odds + uniform.log() - torch.log1p(-uniform)) / tau)
