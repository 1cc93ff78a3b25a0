"""From scores and a budget to a plan: exact count, floors, deterministic ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from gcp_core.errors import ConfigError, InfeasibleTarget, PlanError, did_you_mean
from gcp_core.groups import Group, Groups, Member
from gcp_core.plan import Plan

_NORMS: dict[str, Callable[[np.ndarray], float]] = {
    "none": lambda s: 1.0,
    "unit_l2": lambda s: float(np.sqrt((s * s).sum())),
    "mean": lambda s: float(np.abs(s).mean()),
    "max": lambda s: float(np.abs(s).max()),
}


@dataclass(frozen=True)
class Ranking:
    """How scores of different layers are made comparable, and how the count is spread over groups.

    Attributes:
        normalise: divide each layer's scores by ``none`` (1), ``unit_l2`` (their L2 norm, the paper's), ``mean``
            (mean magnitude) or ``max``.
        cost_power: divide a unit's score by (its marginal cost / the mean marginal cost) ** this; 1 = score per
            MAC (or per parameter, see ``Budget.of``), 0 = off. Meant for scores that are not negative.
        allocator: ``global`` = one ranking over all groups; ``uniform`` = every group loses the same share, its
            lowest units first.
    """

    normalise: str = "none"
    cost_power: float = 0.0
    allocator: str = "global"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("normalise", self.normalise, tuple(_NORMS)),
            ("allocator", self.allocator, ("global", "uniform")),
        ):
            if value not in allowed:
                raise ConfigError(
                    f"{value!r} is unknown", f"ranking.{name}", did_you_mean(str(value), allowed)
                )
        if not math.isfinite(self.cost_power) or self.cost_power < 0:
            raise ConfigError(f"{self.cost_power!r} is not a number >= 0", "ranking.cost_power")


@dataclass(frozen=True)
class Budget:
    """How much one event removes.

    Attributes:
        count: units to remove; or ``ratio``: share of the living units, rounded half up, at least one.
        hidden_count: hidden linear layers are ranked on their own and lose this many units; ``count`` and ``ratio``
            then mean the other units. None = one ranking for all.
        min_channels, min_share: a group keeps at least this many units, and this share of its original ones.
        of: ``macs`` or ``params``: what ``limit`` and cost weighting mean.
        limit: absolute cost to reach: the event is trimmed to the fewest units that bring the cost down to it.
        round_to: living channels of every layer that is cut stay a multiple of this; the count is met as closely as
            that allows (see ``plan.meta``).
        ranking: normalisation, cost weighting and allocator.
    """

    count: int | None = None
    ratio: float | None = None
    hidden_count: int | None = None
    min_channels: int = 2
    min_share: float = 0.1
    of: str = "macs"
    limit: float | None = None
    round_to: int = 1
    ranking: Ranking = field(default_factory=Ranking)

    def __post_init__(self) -> None:
        if (self.count is None) == (self.ratio is None):
            raise ConfigError(f"give either count or ratio, not {self.count!r} and {self.ratio!r}", "budget")
        if self.count is not None and self.count < 0:
            raise ConfigError(f"{self.count!r} is negative", "budget.count")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ConfigError(f"{self.ratio!r} is not in (0, 1]", "budget.ratio")
        if self.hidden_count is not None and self.hidden_count < 0:
            raise ConfigError(f"{self.hidden_count!r} is negative", "budget.hidden_count")
        if self.min_channels < 1 or not 0 <= self.min_share <= 1:
            given = f"min_channels={self.min_channels!r}, min_share={self.min_share!r}"
            raise ConfigError(f"{given}: allowed are >= 1 and 0..1", "budget")
        if self.of not in ("macs", "params"):
            raise ConfigError(
                f"{self.of!r} is unknown", "budget.of", did_you_mean(self.of, ("macs", "params"))
            )
        if self.round_to < 1:
            raise ConfigError(f"{self.round_to!r} is not >= 1", "budget.round_to")

    def units(self, alive: int) -> int:
        """Units this event asks for when ``alive`` are left."""
        if self.count is not None:
            return self.count
        return max(1, math.floor(float(self.ratio or 0) * alive + 0.5))

    def floor(self, group: Group) -> int:
        """Units that must stay in ``group`` (never more than it has)."""
        # The share is rounded first: 0.1 * 30 is a hair above 3.
        share = math.ceil(round(self.min_share * group.original_size, 9))
        return min(group.size, max(self.min_channels, share))


def select_channels(scores: Mapping[str, Tensor], groups: Groups, budget: Budget) -> Plan:
    """The plan that removes the lowest-scored units: pure, exact and deterministic.

    A unit's score is the mean over its scored members (over their channels where one has several); a unit without any
    score is never picked. Ties: lowest channel first, then the group that comes last in the forward. Where hidden
    linear layers have a ranking of their own, an event that a limit cuts short takes the same share of both rankings.

    Args:
        scores: layer -> ``(C,)``, higher = keep. Layers may be missing; frozen layers are ignored.

    Returns:
        A plan whose ``meta`` says ``asked`` and ``removed`` (units); with ``round_to`` also that.

    Raises:
        PlanError: a score is not finite, of the wrong length, or for a layer that does not exist.
        InfeasibleTarget: ``budget.limit`` is below what is left when every group is at its floor.
    """
    keys = _unit_keys(_checked(scores, groups), groups, budget)
    parts = _parts(groups, budget)
    queues = [_Queue(_removal_order(keys, groups, own, budget), asked) for own, asked in parts]
    _check_limit(groups, budget)
    turns = _turns(queues)
    picked = _pick(queues, turns, groups, budget)
    if budget.limit is not None and _cost(groups, picked, budget) < budget.limit:
        picked = _trim(queues, turns, groups, budget)
    removed: dict[str, list[int]] = {}
    for group, unit in ((groups.groups[g], u) for g, u in picked):
        removed.setdefault(group.name, []).append(unit)
    meta = {"asked": sum(asked for _, asked in parts), "removed": len(picked)}
    if budget.hidden_count is not None:
        meta["hidden_count"] = budget.hidden_count
    if budget.round_to > 1:
        meta["round_to"] = budget.round_to
    return groups.plan(removed, meta=meta)


def reachable_share(groups: Groups, budgets: Sequence[Budget]) -> float:
    """Largest share (0..1) of ``budgets[0].of`` that these events remove if the costliest units always go first."""
    if not budgets:
        return 0.0
    of = budgets[0].of
    index = ("macs", "params").index(of)
    dense = groups.cost()[index]
    now = groups
    for budget in budgets:
        now = now.after(_costliest(now, budget, of))
    return 1.0 - now.cost()[index] / dense if dense else 0.0


def _checked(scores: Mapping[str, Tensor], groups: Groups) -> dict[str, np.ndarray]:
    layers = groups.layout.layers
    arrays = {}
    for layer, given in scores.items():
        if layer not in layers:
            raise PlanError("scores for a layer the model does not have", layer, did_you_mean(layer, layers))
        values = (
            given.detach().to("cpu").double().numpy()
            if isinstance(given, Tensor)
            else np.asarray(given, float)
        )
        if values.shape != (len(layers[layer]),):
            raise PlanError(
                f"scores of shape {values.shape}, but the layer has {len(layers[layer])} channels", layer
            )
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise PlanError(
                f"the score of channel {bad[0]} is {values[bad[0]]}", layer, "scores must be finite"
            )
        arrays[layer] = values
    return arrays


def _unit_keys(scores: dict[str, np.ndarray], groups: Groups, budget: Budget) -> np.ndarray:
    """``(num_units,)`` score of each unit; NaN where there is none."""
    normed = {}
    for layer, values in scores.items():
        size = _NORMS[budget.ranking.normalise](values) if len(values) else 1.0
        normed[layer] = values / size if size > 0 else values
    keys = np.full(groups.num_units, np.nan)
    for group in groups.groups:
        parts = [_member_means(m, normed[m.layer]) for m in group.members if m.scored and m.layer in normed]
        if parts:
            keys[group.first_unit : group.first_unit + group.size] = sum(parts) / len(parts)
    if budget.ranking.cost_power:
        cost = groups.marginal_cost(budget.of)
        keys = keys / np.maximum(cost / max(cost.mean(), 1e-30), 1e-12) ** budget.ranking.cost_power
    return keys


def _member_means(member: Member, values: np.ndarray) -> np.ndarray:
    """``(units,)`` mean score over the channels of each unit in one layer."""
    counts = [len(channels) for channels in member.channels]
    flat = values[[channel for channels in member.channels for channel in channels]]
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return np.add.reduceat(flat, starts) / counts


def hidden_groups(groups: Groups) -> list[int]:
    """Indices of the groups that hold hidden linear layers and nothing else."""
    linear = groups.linear_layers()
    return [g for g, group in enumerate(groups.groups) if all(m.layer in linear for m in group.members)]


def _parts(groups: Groups, budget: Budget) -> list[tuple[list[int], int]]:
    """The rankings: indices of the groups that compete in each, and the units asked of it."""
    every = list(range(len(groups.groups)))
    if budget.hidden_count is None:
        return [(every, budget.units(groups.num_units))]
    hidden = hidden_groups(groups)
    others = [g for g in every if g not in hidden]
    return [
        (others, budget.units(sum(groups.groups[g].size for g in others))),
        (hidden, budget.hidden_count),
    ]


def _removal_order(
    keys: np.ndarray, groups: Groups, competing: list[int], budget: Budget
) -> list[tuple[int, int]]:
    """(group index, unit) of all units that may go, first to go first. Each prefix keeps every floor."""
    order: list[tuple[float, float, int, int, int]] = []
    for g in competing:
        group = groups.groups[g]
        first = group.first_channels()
        own = keys[group.first_unit : group.first_unit + group.size].tolist()
        ranked = sorted((key, first[unit], unit) for unit, key in enumerate(own) if not math.isnan(key))
        for rank, (key, channel, unit) in enumerate(ranked[: max(0, group.size - budget.floor(group))]):
            # Uniform: the unit that takes a group to the lowest share removed goes first.
            lead = (rank + 1) / group.size if budget.ranking.allocator == "uniform" else 0.0
            order.append((lead, key, channel, -g, unit))
    return [(-minus_g, unit) for _, _, _, minus_g, unit in sorted(order)]


class _Queue(NamedTuple):
    """One ranking: (group index, unit), first to go first, and how many are asked for."""

    order: list[tuple[int, int]]
    asked: int


def _turns(queues: list[_Queue]) -> np.ndarray:
    """Which queue the first, second, ... unit comes from: every prefix takes about the same share of each."""
    counts = [min(queue.asked, len(queue.order)) for queue in queues]
    shares = [((rank + 1) / n, q) for q, n in enumerate(counts) for rank in range(n)]
    return np.array([q for _, q in sorted(shares)], dtype=np.int64)


def _pick(queues: list[_Queue], turns: np.ndarray, groups: Groups, budget: Budget) -> list[tuple[int, int]]:
    """As many units of each queue as it has turns."""
    picked: list[tuple[int, int]] = []
    for queue, count in zip(queues, np.bincount(turns, minlength=len(queues)).tolist(), strict=True):
        if budget.round_to == 1:
            picked += queue.order[:count]
        else:
            picked += _rounded(queue.order, count, groups, budget)
    return picked


def _rounded(
    order: list[tuple[int, int]], count: int, groups: Groups, budget: Budget
) -> list[tuple[int, int]]:
    """Per group the nearest number below the exact pick that leaves a multiple, then whole steps while they help."""
    allowed = [_allowed_removals(group, budget) for group in groups.groups]
    exact = np.bincount([g for g, _ in order[:count]], minlength=len(allowed))
    chosen = [max(n for n in options if n <= exact[g]) for g, options in enumerate(allowed)]
    ranked: list[list[int]] = [[] for _ in allowed]
    place: list[list[int]] = [[] for _ in allowed]
    for position, (g, unit) in enumerate(order):
        ranked[g].append(unit)
        place[g].append(position)
    while True:
        missing = count - sum(chosen)
        steps = []
        for g, options in enumerate(allowed):
            larger = [n for n in options if chosen[g] < n <= len(ranked[g])]
            # A step is worth taking if it brings the total nearer to the count.
            if larger and abs(missing - (larger[0] - chosen[g])) < abs(missing):
                block = place[g][chosen[g] : larger[0]]
                steps.append((sum(block) / len(block), g, larger[0]))
        if not steps:
            break
        _, g, target = min(steps)
        chosen[g] = target
    return [(g, unit) for g, number in enumerate(chosen) for unit in ranked[g][:number]]


def _allowed_removals(group: Group, budget: Budget) -> list[int]:
    """Numbers of units whose removal leaves a multiple of ``round_to`` channels in every member (0 always)."""
    per_unit = {len(channels) for member in group.members for channels in member.channels}
    step = max(budget.round_to // math.gcd(budget.round_to, n) for n in per_unit)
    low = budget.floor(group)
    return [n for n in range(group.size - low + 1) if n == 0 or (group.size - n) % step == 0]


def _trim(queues: list[_Queue], turns: np.ndarray, groups: Groups, budget: Budget) -> list[tuple[int, int]]:
    """The shortest pick whose cost is at or below the limit (the cost falls with every unit)."""
    low, high = 0, len(turns)
    while low < high:
        middle = (low + high) // 2
        if _cost(groups, _pick(queues, turns[:middle], groups, budget), budget) <= float(budget.limit or 0):
            high = middle
        else:
            low = middle + 1
    return _pick(queues, turns[:low], groups, budget)


def _cost(groups: Groups, picked: list[tuple[int, int]], budget: Budget) -> int:
    alive = np.ones(groups.num_units, dtype=bool)
    alive[[groups.groups[g].first_unit + unit for g, unit in picked]] = False
    return groups.cost_of_mask(alive)[budget.of == "params"]


def _check_limit(groups: Groups, budget: Budget) -> None:
    if budget.limit is None:
        return
    alive = np.zeros(groups.num_units, dtype=bool)
    for group in groups.groups:
        alive[group.first_unit : group.first_unit + budget.floor(group)] = True
    least = groups.cost_of_mask(alive)[budget.of == "params"]
    if budget.limit < least:
        hint = "raise the limit, or lower min_channels and min_share"
        raise InfeasibleTarget(
            f"{budget.limit:.0f} {budget.of} cannot be reached: {least} are left at the floors",
            "budget.limit",
            hint,
        )


def _costliest(groups: Groups, budget: Budget, of: str) -> Plan:
    """The plan of one event that always takes the unit with the largest marginal cost next."""
    slopes = _Slopes(groups, of)
    room = np.array([group.size - budget.floor(group) for group in groups.groups], dtype=int)
    taken = np.zeros(len(room), dtype=int)
    parts = _parts(groups, budget)
    part_of = np.zeros(len(room), dtype=int)
    for part, (own, _) in enumerate(parts):
        part_of[own] = part
    left = np.array([asked for _, asked in parts])
    while (free := (taken < room) & (left[part_of] > 0)).any():
        g = int(np.argmax(np.where(free, slopes.per_unit(), -1.0)))
        taken[g] += 1
        left[part_of[g]] -= 1
        slopes.remove(g)
    return groups.plan(
        {group.name: range(int(n)) for group, n in zip(groups.groups, taken, strict=True) if n}
    )


class _Slopes:
    """Cost saved by the next unit of each group, from products of living channel counts."""

    def __init__(self, groups: Groups, of: str) -> None:
        self._group_of = np.full(groups.num_units + 1, -1)
        for g, group in enumerate(groups.groups):
            self._group_of[group.first_unit : group.first_unit + group.size] = g
        self._sizes = np.array([group.size for group in groups.groups], dtype=float)
        self._factor: list[float] = []
        self._left: list[np.ndarray] = []
        self._right: list[np.ndarray] = []
        if of == "macs":
            for term in groups.layout.terms:
                self._add(float(term.factor), term.outs, term.ins)
        else:
            self._add_params(groups)
        self.factor = np.array(self._factor)
        self.left, self.right = np.array(self._left), np.array(self._right)
        # Last column: channels that never go.
        self.alive = np.append(self._sizes, 1.0)

    def _add_params(self, groups: Groups) -> None:
        axes: dict[str, dict[int, np.ndarray]] = {}
        for axis in groups.layout.axes:
            axes.setdefault(axis.tensor, {})[axis.dim] = axis.units
        for tensor, dims in axes.items():
            shape = groups.layout.param_shapes.get(tensor)
            if shape is not None:
                rest = float(np.prod([size for d, size in enumerate(shape) if d not in dims]))
                one = np.array([-1])
                self._add(rest, *[*dims.values(), one][:2])

    def _add(self, factor: float, left: np.ndarray, right: np.ndarray) -> None:
        self._factor.append(factor)
        self._left.append(self._per_unit(left))
        self._right.append(self._per_unit(right))

    def _per_unit(self, units: np.ndarray) -> np.ndarray:
        """``(groups + 1,)`` channels per unit of each group; the last entry counts those that never go."""
        counts = np.bincount(self._group_of[units] + 1, minlength=len(self._sizes) + 1).astype(float)
        return np.append(counts[1:] / self._sizes, counts[0])

    def per_unit(self) -> np.ndarray:
        """``(groups,)`` cost that one unit of each group takes along now."""
        left, right = self.left @ self.alive, self.right @ self.alive
        return ((self.factor * right) @ self.left + (self.factor * left) @ self.right)[:-1]

    def remove(self, g: int) -> None:
        """One unit of group ``g`` is gone."""
        self.alive[g] -= 1
