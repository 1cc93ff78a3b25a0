"""``batch_whitening``: every norm is followed by whitening over groups of channels and by random masks (BWCP).

While training, a channel is multiplied by a relaxed Bernoulli mask of the probability P that it is active; in eval mode,
by P, which is about the mask's mean, or as in the paper by 1 where P is above 1/2 and by 0 elsewhere. The paper removes
what it closes, after 160 epochs that have parted the P. A target or a path's level says itself how much goes, and what it
leaves is in use: closing channels of that as well would cost accuracy and save nothing.

Formulas and source: :mod:`gcp_core.rewrites.whitening`. Not in the text, and ours: P as a factor, the number of steps,
the momentum of the moving average, groups that are as equal as they can be, that a layer always keeps one open channel,
and that gates start, and go on after a cut, where the network is (the norm's scales are divided by what the whitening of
uncorrelated channels multiplies them by, which SN does not notice).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gcp_core.config.checks import integer, number, one_of
from gcp_core.errors import ConfigError, required
from gcp_core.rewrites.gates import Gate, NormGates
from gcp_core.rewrites.places import Place
from gcp_core.rewrites.whitening import active_probability, inverse_root, log_odds, normalised, relaxed, white

#: Larger groups and more steps let rounding grow where channels are nearly dependent.
MOST_CHANNELS, MOST_STEPS = 16, 10
#: What a channel is multiplied by in eval mode: P, or P rounded.
MEAN, ROUNDED = "mean", "rounded"


@dataclass(frozen=True)
class Settings:
    """See :func:`batch_whitening`."""

    steps: int = 5
    group: int = MOST_CHANNELS
    delta: float = 0.05
    tau: float = 0.5
    eps: float = 1e-5
    momentum: float = 0.1
    mask: str = MEAN


class Whitened(Gate):
    """A norm, whitening, and a mask.

    Attributes:
        whitener: ``(groups, g, g)`` moving average of SN^{-1/2}; of a smaller group the last rows and columns are 0.
        spread: ``(C,)`` moving average of the variances behind the whitening.
    """

    whitener: Tensor
    spread: Tensor
    index: Tensor
    valid: Tensor
    own: Tensor

    def __init__(self, place: Place, norm: _BatchNorm, settings: Settings) -> None:
        super().__init__(place, norm)
        self.settings = settings
        scale = norm.weight.detach()
        channels = torch.arange(len(scale)).tensor_split(math.ceil(len(scale) / settings.group))
        index = nn.utils.rnn.pad_sequence(list(channels), batch_first=True, padding_value=-1)
        valid = (index >= 0).to(scale)
        self.register_buffer("index", index.clamp_min(0).to(scale.device), persistent=False)
        self.register_buffer("valid", valid, persistent=False)
        # Where the channels are among all places. By numbers, not by a mask: for that a GPU would be waited for.
        self.register_buffer("own", valid.flatten().nonzero().flatten(), persistent=False)
        gain = torch.tensor([white(len(own), settings.steps) for own in channels]).to(scale)
        self.register_buffer("whitener", self._identity() * gain[:, None, None])
        each = gain.repeat_interleave(valid.sum(1).long())
        with torch.no_grad():
            norm.weight.div_(each)
            norm.bias.div_(each)
        self.register_buffer("spread", (each * scale).square())

    def act(self, y: Tensor) -> Tensor:
        """Whitened and masked."""
        with torch.autocast(y.device.type, enabled=False):
            rows = self._rows(y.to(self.whitener.dtype))
            if not self.training:
                return self._like(self.whitener @ rows, y, self.mask().to(self.whitener))
            mean = rows.mean(-1, keepdim=True)
            centred = rows - mean
            sn = normalised(centred @ centred.mT / centred.shape[-1], self._identity(), self.settings.eps)
            root = inverse_root(sn, self._identity(), self.settings.steps)
            out = root @ rows
            self._remember(root, root @ centred)
            scale, shift = self._equivalent(root)
            uniform = torch.rand(len(scale), device=scale.device).to(scale).clamp(1e-6, 1 - 1e-6)
            mask = relaxed(log_odds(shift, scale, self.settings.delta), uniform, self.settings.tau)
            return self._like(out, y, mask)

    def chance(self) -> Tensor:
        """P of the equivalent norm, with the moving average of the whitening."""
        scale, shift = self._equivalent(self.whitener)
        return active_probability(shift, scale, self.settings.delta).detach()

    def mask(self) -> Tensor:
        """``(C,)`` of this gate's ``mask`` setting."""
        return super().mask() if self.settings.mask == ROUNDED else self.chance()

    def fold_into(self, layer: nn.Module) -> list[nn.Parameter]:
        """Rows of the layer are mixed as the whitening mixes them, and keep their lengths; the norm's scale becomes the
        standard deviation of what comes out, so that batch statistics give in training what running ones give now.
        """
        norm, weight, bias = self.norm, _weight(layer), getattr(layer, "bias", None)
        running_mean = required(norm.running_mean, "the norm's running mean")
        running_var = required(norm.running_var, "the norm's running variance")
        root, scale = self._matrix(), norm.weight.double()
        mixing = root * (scale / (running_var.double() + norm.eps).sqrt())
        before = weight.double().flatten(1)
        rows = mixing @ before
        lengths, new = before.norm(dim=1), rows.norm(dim=1)
        stretch = torch.where((lengths > 0) & (new > 0), lengths / new.clamp_min(1e-30), 1.0)
        mean = running_mean.double() if bias is None else running_mean.double() - bias.double()
        variance = stretch.square() * self.spread.double()
        shift = root @ norm.bias.double()
        weight.copy_((stretch[:, None] * rows).reshape(weight.shape))
        if bias is not None:
            bias.zero_()
        running_mean.copy_(stretch * (mixing @ mean))
        running_var.copy_(variance)
        # Of the variance as it is stored.
        norm.weight.copy_((running_var.double() + norm.eps).sqrt() / stretch)
        norm.bias.copy_(shift)
        return [weight, norm.weight, norm.bias, *([] if bias is None else [bias])]

    def after(self, norm: _BatchNorm, kept: Tensor, gone: Tensor) -> Whitened:
        """What was learned is in the weights: whitening begins anew from there."""
        return Whitened(self.place, norm, self.settings)

    def macs(self, batch_size: int) -> float:
        """Covariance and whitening of every position; the iteration once a batch."""
        groups, size = self.index.shape
        return groups * size**2 * (2 * self.place.positions + 3 * self.settings.steps * size / batch_size)

    def _identity(self) -> Tensor:
        return torch.diag_embed(self.valid)

    def _equivalent(self, root: Tensor) -> tuple[Tensor, Tensor]:
        """(gamma^, beta^), each ``(C,)``."""
        both = [
            (root @ (v[self.index] * self.valid)[..., None]).flatten().index_select(0, self.own)
            for v in (self.norm.weight, self.norm.bias)
        ]
        return both[0], both[1]

    def _rows(self, y: Tensor) -> Tensor:
        """``(N, C, ...)`` -> ``(groups, g, N * positions)``; rows of channels that are not there are 0."""
        rows = y.flatten(2) if y.ndim > 2 else y[..., None]
        rows = rows.permute(1, 0, 2).reshape(y.shape[1], -1)
        if self.index.numel() == len(rows):
            return rows.reshape(*self.index.shape, -1)
        return rows[self.index] * self.valid[..., None]

    def _like(self, rows: Tensor, y: Tensor, factors: Tensor) -> Tensor:
        """Inverse of :meth:`_rows`, each channel times its factor, in the type and memory format of ``y``."""
        own = rows.flatten(0, 1)
        own = own if self.index.numel() == y.shape[1] else own.index_select(0, self.own)
        own = own * factors[:, None]
        out = own.reshape(y.shape[1], y.shape[0], *y.shape[2:]).transpose(0, 1).to(y.dtype)
        last = y.ndim == 4 and y.is_contiguous(memory_format=torch.channels_last) and not y.is_contiguous()
        return out.contiguous(memory_format=torch.channels_last) if last else out.contiguous()

    @torch.no_grad()
    def _remember(self, root: Tensor, centred: Tensor) -> None:
        """A batch that has no finite statistics ends the trial (``Diverged``): it is not remembered away here."""
        spread = centred.square().mean(-1).flatten().index_select(0, self.own)
        self.whitener.lerp_(root.to(self.whitener), self.settings.momentum)
        self.spread.lerp_(spread.to(self.spread), self.settings.momentum)

    def _matrix(self) -> Tensor:
        """``(C, C)`` float64: the moving average as one matrix."""
        number = self.norm.weight.numel()
        own = self.valid > 0
        sizes = own.sum(1).tolist()
        blocks = [self.whitener[i, :n, :n].double() for i, n in enumerate(sizes)]
        matrix = torch.block_diag(*blocks)
        assert len(matrix) == number
        return matrix


@dataclass(frozen=True)
class BatchWhitening(NormGates):
    """See :func:`batch_whitening`."""

    settings: Settings

    def gate(self, place: Place, norm: _BatchNorm) -> Whitened:
        """Whitening and masks behind a norm."""
        return Whitened(place, norm, self.settings)

    def refuses(self, layer: nn.Module) -> str:
        """Rows of a grouped convolution read other inputs, so they cannot be mixed."""
        return (
            "is a grouped convolution, into which whitening cannot be folded"
            if getattr(layer, "groups", 1) > 1
            else ""
        )


def batch_whitening(
    steps: int = 5,
    group: int = MOST_CHANNELS,
    delta: float = 0.05,
    tau: float = 0.5,
    eps: float = 1e-5,
    momentum: float = 0.1,
    mask: str = MEAN,
) -> BatchWhitening:
    """Whitening over groups of channels behind every norm, and masks by the probability that a channel is active (BWCP).

    Args:
        steps: of Newton's iteration, 1..10.
        group: at most this many channels are whitened together, 1..16. Where that does not divide a layer's width, there
            are as few groups as are needed, of sizes that differ by one at most (20 channels: 10 and 10).
        delta: a channel counts as active above this.
        tau: temperature of the masks; the lower, the closer to 0 and 1.
        eps: how much of I is added to the covariance, as a share of its mean diagonal.
        momentum: of the moving averages.
        mask: what a channel is multiplied by in use: ``mean`` (P), or ``rounded`` as in the paper (1 above 1/2, else 0),
            for trials that remove what is closed.

    Raises:
        ConfigError: an option is out of range.
    """
    where = "train.rewrite_options"
    for name, value, most in (("steps", steps, MOST_STEPS), ("group", group, MOST_CHANNELS)):
        integer(f"{where}.{name}", value, 1)
        if value > most:
            hint = "rounding errors grow with both where channels are nearly dependent"
            raise ConfigError(f"{value!r} is more than {most}", f"{where}.{name}", hint)
    number(f"{where}.delta", delta, -math.inf, math.inf)
    number(f"{where}.tau", tau, 0.0, math.inf, open_low=True)
    number(f"{where}.eps", eps, 0.0, 1.0, open_low=True)
    number(f"{where}.momentum", momentum, 0.0, 1.0, open_low=True)
    one_of(f"{where}.mask", mask, (MEAN, ROUNDED))
    return BatchWhitening(Settings(steps, group, float(delta), float(tau), float(eps), float(momentum), mask))


def _weight(layer: nn.Module) -> nn.Parameter:
    weight = layer.weight
    if not isinstance(weight, nn.Parameter):
        raise TypeError(f"a {type(layer).__name__} has no weight")
    return weight
