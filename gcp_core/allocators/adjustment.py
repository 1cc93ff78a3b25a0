"""Network Adjustment: widths grow where a FLOP buys much loss and shrink where it buys little, at equal cost.

Accuracy is seen as a function of cost. A group's utilisation ratio is the rise of the loss per MAC dropped, probed by
channel dropout at rates ``p_i = p0 mean_j(u_j) / u_i``, ``u_i = c_i dF/dc_i`` (F = MACs as a polynomial in the widths c),
so that every probe drops the same expected cost. Then the top q groups get ``c + a_r c0``, the bottom q
``max(4, c - a_r c0)``, ``a_r = max(a - decay rank, 0)``, c0 = initial widths, and one factor on all widths brings the
cost back to within 1 %. Source: Chen et al., "Network Adjustment: Channel Search Guided by FLOPs Utilization Ratio",
arXiv 2004.02767, CVPR 2020, and its authors' code. Ours: rates are kept below :data:`MOST` (the code divides by 1 - p
without a guard), a rise that was probed at a cut rate is scaled to the cost it should have dropped, groups take the place
of layers, and where one factor cannot meet the cost (equal widths are rounded together), single units do the rest. The
source retrains from scratch at the new widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gcp_core.criteria.base import Batches
from gcp_core.criteria.feature_maps import first_image
from gcp_core.errors import ConfigError
from gcp_core.groups import Groups
from gcp_core.relevance import untouched
from gcp_core.scatter import Scattering

#: No channel is dropped more often than this: the survivors are divided by 1 - p.
MOST = 0.5

#: The smallest width of the source.
SMALLEST = 4

#: Scaled widths are near enough to a cost within this share of it, and how often their factor is halved.
_TOLERANCE, _HALVINGS = 0.01, 20


@dataclass(frozen=True)
class Steps:
    """How far widths go in one adjustment.

    Attributes:
        share: ``a``, of the initial width, for the first rank (0.1 in the source's defaults).
        decay: how much less each next rank gets.
        groups: ``q``, how many grow and how many shrink.
        smallest: no width falls below it.
    """

    share: float = 0.1
    decay: float = 0.0
    groups: int = 3
    smallest: int = SMALLEST

    def __post_init__(self) -> None:
        for name, value, fits in (
            ("share", self.share, 0 < self.share <= 1),
            ("decay", self.decay, 0 <= self.decay <= 1),
            ("groups", self.groups, self.groups >= 1),
            ("smallest", self.smallest, self.smallest >= 1),
        ):
            if not fits:
                raise ConfigError(f"{value!r} cannot be used", f"steps.{name}")

    def at(self, rank: int) -> float:
        """``a_r`` of rank 0, 1, ..."""
        return max(self.share - self.decay * rank, 0.0)


# --- cost as a function of widths ------------------------------------------------------------------------------------


def cost_of_widths(groups: Groups, widths: Mapping[str, float], of: str = "macs") -> float:
    """MACs (or ``params``) if each group had this many units (any number, also more than now): the polynomial F.

    Groups that are not named keep their width. At whole widths of a plan it is what the counter says of the cut model.
    """
    scale = _scales(groups, widths)
    if of == "params":
        return float(sum(np.prod(sizes) for sizes in _sizes(groups, scale).values()))
    macs = float(groups.layout.fixed_macs)
    for term in groups.layout.terms:
        macs += term.factor * float(scale[term.outs].sum()) * float(scale[term.ins].sum())
    return macs


def cost_slopes(groups: Groups, of: str = "macs") -> dict[str, float]:
    """Group -> dF/dc: MACs (or ``params``) per unit more, at the present widths."""
    owner = _owners(groups)
    slopes = np.zeros(len(groups.groups) + 1)
    sizes = np.array([group.size for group in groups.groups])

    def add(units: np.ndarray, each: float) -> None:
        # d(sum of a group's entries) / dc = how many entries a unit of it has, on average.
        entries = np.bincount(owner[units] + 1, minlength=len(groups.groups) + 1)[1:]
        slopes[:-1] += each * entries / sizes

    if of == "params":
        shapes = groups.layout.param_shapes
        for axis in groups.layout.axes:
            if axis.tensor in shapes:
                others = (*shapes[axis.tensor][: axis.dim], *shapes[axis.tensor][axis.dim + 1 :])
                add(axis.units, float(np.prod(others)))
    else:
        for term in groups.layout.terms:
            for here, there in ((term.outs, term.ins), (term.ins, term.outs)):
                add(here, term.factor * float(len(there)))
    return {group.name: float(slope) for group, slope in zip(groups.groups, slopes)}


def _sizes(groups: Groups, scale: np.ndarray) -> dict[str, list[float]]:
    """Trainable parameter -> its shape where each entry of a unit counts for ``scale``."""
    sizes: dict[str, list[float]] = {
        name: [float(n) for n in shape] for name, shape in groups.layout.param_shapes.items()
    }
    for axis in groups.layout.axes:
        if axis.tensor in sizes:
            sizes[axis.tensor][axis.dim] = float(scale[axis.units].sum())
    return sizes


def _scales(groups: Groups, widths: Mapping[str, float]) -> np.ndarray:
    """``(num_units + 1,)``: what each entry of a unit counts for (new width / present one); 1 for what never changes."""
    for name in widths:
        groups.group(name)
    scale = np.ones(groups.num_units + 1)
    for group in groups.groups:
        if group.name in widths:
            scale[group.first_unit : group.first_unit + group.size] = widths[group.name] / group.size
    return scale


def _owners(groups: Groups) -> np.ndarray:
    """``(num_units + 1,)`` index of each unit's group, -1 at the end."""
    owner = np.full(groups.num_units + 1, -1)
    for g, group in enumerate(groups.groups):
        owner[group.first_unit : group.first_unit + group.size] = g
    return owner


# --- probing ----------------------------------------------------------------------------------------------------------


def probe_rates(groups: Groups, share: float = 0.05, *, most: float = MOST) -> dict[str, float]:
    """Group -> dropout rate ``p_i = share * mean(u) / u_i``, ``u_i = c_i dF/dc_i``; at most ``most``.

    Below that bound ``p_i u_i`` is the same for all groups.

    Raises:
        ConfigError: a share that is not in (0, 1), or a bound that is not below 1.
    """
    if not 0 < share < 1:
        raise ConfigError(f"{share!r} is not in (0, 1)", "share")
    if not 0 < most < 1:
        raise ConfigError(f"{most!r} is not in (0, 1)", "most")
    slopes = cost_slopes(groups)
    dropped = {group.name: group.size * slopes[group.name] for group in groups.groups}
    mean = sum(dropped.values()) / len(dropped)
    return {name: min(most, share * mean / u) if u > 0 else most for name, u in dropped.items()}


@contextmanager
def dropped_units(
    model: nn.Module, groups: Groups, name: str, rate: float, generator: torch.Generator
) -> Iterator[None]:
    """Inside, each image loses each unit of a group with probability ``rate``; the others are divided by ``1 - rate``.

    A unit is dropped wherever removing it would gate it, the same units at all these places of one forward pass.
    """
    group = groups.group(name)
    mask: list[Tensor] = []

    def start(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        kept = torch.rand(len(args[0]), group.size + 1, generator=generator, dtype=torch.float64) >= rate
        factors = kept.double() / (1 - rate)
        factors[:, -1] = 1  # where the index -1 points: channels of other groups
        mask[:] = [factors]

    with ExitStack() as stack:
        stack.callback(model.register_forward_pre_hook(start).remove)
        for gate in groups.layout.gates:
            own = (gate.units >= group.first_unit) & (gate.units < group.first_unit + group.size)
            if own.any():
                places = torch.from_numpy(np.where(own, gate.units - group.first_unit, -1))
                hook = _dropping(places, gate.dim, mask)
                stack.callback(model.get_submodule(gate.module).register_forward_hook(hook).remove)
        yield


def _dropping(places: Tensor, dim: int, mask: list[Tensor]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        factors = mask[0][:, places]
        if isinstance(module, Scattering):
            whole = factors.new_ones(len(factors), module.full_channels)
            whole[:, module.scatter_index.cpu()] = factors
            factors = whole
        shape = [1] * output.ndim
        shape[0], shape[dim] = factors.shape
        return output * factors.to(output.device, output.dtype).reshape(shape)

    return hook


def utilisation(
    model: nn.Module,
    groups: Groups,
    batches: Batches,
    rates: Mapping[str, float],
    generator: torch.Generator,
    *,
    times: int = 5,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Group -> utilisation ratio: mean rise of the loss when it alone drops channels, for equal expected cost dropped.

    The rise over ``times`` passes, divided by the cost that the rate drops and multiplied by the largest one of all
    groups: where no rate was cut, simply the rise. Costs ``1 + times x groups`` forward passes over ``batches``;
    evaluation mode; the model is left as it was.

    Args:
        rates: see :func:`probe_rates`; groups without one are not probed.
        loss: ``(logits, labels)`` -> ``(N,)`` loss of each image; cross-entropy by default.
    """
    first_image(batches)
    slopes = cost_slopes(groups)
    dropped = {name: rate * groups.group(name).size * slopes[name] for name, rate in rates.items()}
    largest = max(dropped.values(), default=0.0)
    found = {}
    with untouched(model), torch.no_grad():
        plain = _mean_loss(model, batches, loss)
        for name, rate in rates.items():
            rises = []
            for _ in range(times):
                with dropped_units(model, groups, name, rate, generator):
                    rises.append(_mean_loss(model, batches, loss) - plain)
            rise = sum(rises) / len(rises)
            found[name] = rise * largest / dropped[name] if dropped[name] > 0 else rise
    return found


def _mean_loss(model: nn.Module, batches: Batches, loss: Callable[[Tensor, Tensor], Tensor] | None) -> float:
    total, count = 0.0, 0
    for images, labels in batches:
        outputs = model(images)
        each = (
            F.cross_entropy(outputs, labels.long(), reduction="none")
            if loss is None
            else loss(outputs, labels)
        )
        total += float(each.double().sum())
        count += len(images)
    return total / count


# --- new widths -------------------------------------------------------------------------------------------------------


def adjusted_widths(
    widths: Mapping[str, int],
    initial: Mapping[str, int],
    ratios: Mapping[str, float],
    cost: Callable[[Mapping[str, float]], float],
    budget: float,
    *,
    steps: Steps | None = None,
    ceilings: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """New widths: the best-used groups grow, the worst-used shrink, all are scaled to the budget.

    Args:
        widths, initial: units of each group now, and before any adjustment (c0).
        ratios: see :func:`utilisation`; groups without one are neither among the best nor the worst.
        cost: of widths, see :func:`cost_of_widths`.
        budget: what the widths shall cost; kept to within 1 % where whole widths allow it (20 halvings of one factor).
        ceilings: no group gets more units than this.
    """
    steps = steps or Steps()
    ranked = sorted(ratios, key=lambda name: (-ratios[name], list(widths).index(name)))
    # Every group is in one half at most, also where there are fewer than 2 q.
    number = min(steps.groups, len(ranked) // 2)
    new = {name: float(width) for name, width in widths.items()}
    for rank, name in enumerate(ranked[:number]):
        new[name] += steps.at(rank) * initial[name]
    for rank, name in enumerate(reversed(ranked[len(ranked) - number :])):
        new[name] = max(float(steps.smallest), new[name] - steps.at(rank) * initial[name])
    return scaled_widths(new, cost, budget, smallest=steps.smallest, ceilings=ceilings)


def shrunk_widths(
    widths: Mapping[str, int],
    initial: Mapping[str, int],
    ratios: Mapping[str, float],
    *,
    steps: Steps | None = None,
) -> dict[str, int]:
    """The worst-used groups shrink and nothing grows or is scaled: a different method from :func:`adjusted_widths`."""
    steps = steps or Steps()
    ranked = sorted(ratios, key=lambda name: (ratios[name], list(widths).index(name)))
    new = dict(widths)
    for rank, name in enumerate(ranked[: steps.groups]):
        smaller = _rounded(widths[name] - steps.at(rank) * initial[name])
        new[name] = min(widths[name], max(steps.smallest, smaller))
    return new


def scaled_widths(
    widths: Mapping[str, float],
    cost: Callable[[Mapping[str, float]], float],
    budget: float,
    *,
    smallest: int = SMALLEST,
    ceilings: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Whole widths in about these proportions that cost the budget: the nearest ones found.

    One factor is bisected; if that does not come within a hundredth, single units are added or taken, each time the one
    that comes nearest.

    Raises:
        ConfigError: the budget is not positive.
    """
    if not budget > 0:
        raise ConfigError(f"{budget!r} is not a cost > 0", "budget")

    def at(factor: float) -> dict[str, int]:
        new = {name: max(smallest, _rounded(width * factor)) for name, width in widths.items()}
        return new if ceilings is None else {n: min(w, ceilings.get(n, w)) for n, w in new.items()}

    low, high = 0.0, 1.0
    while cost(at(high)) < budget and high < 2**10:
        high *= 2
    best = at(1.0)
    for _ in range(_HALVINGS):
        if abs(cost(best) / budget - 1) <= _TOLERANCE:
            break
        factor = (low + high) / 2
        new = at(factor)
        if abs(cost(new) - budget) < abs(cost(best) - budget):
            best = new
        low, high = (factor, high) if cost(new) < budget else (low, factor)
    return _by_single_units(best, cost, budget, smallest, ceilings or {})


def _by_single_units(
    widths: dict[str, int],
    cost: Callable[[Mapping[str, float]], float],
    budget: float,
    smallest: int,
    ceilings: Mapping[str, int],
) -> dict[str, int]:
    """One unit more or less at a time while that comes nearer, until the cost is near enough."""
    while (off := abs(cost(widths) - budget)) > _TOLERANCE * budget:
        step = 1 if cost(widths) < budget else -1
        tried = [
            {**widths, name: width + step}
            for name, width in widths.items()
            if smallest <= width + step <= ceilings.get(name, width + step)
        ]
        if not tried:
            break
        nearest = min(tried, key=lambda new: abs(cost(new) - budget))
        if abs(cost(nearest) - budget) >= off:
            break
        widths = nearest
    return widths


def _rounded(width: float) -> int:
    return int(width + 0.5)


def growth(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """``(units to remove, units to add)`` by group, both positive; groups that stay are in neither."""
    removed = {name: before[name] - width for name, width in after.items() if width < before[name]}
    added = {name: width - before[name] for name, width in after.items() if width > before[name]}
    return removed, added
