"""What pausing paths saves and what it costs, replayed on recorded paths (``benchmarks/data/cifar10_quick_paths.jsonl``).

    python -m benchmarks.search.path_replay --out benchmarks/results/path_replay.json

A replay starts the recorded paths in a random order, on one or two workers, and lets
``sweeps.strategy.paths.choice`` decide after every model, as the driver does; time is training cost. Beside it, on the
same order: every path to its end (first come, first served), and as many cycles left out by lot. Saved is the share of
the training cost after the dense phases, against running all paths to their ends. A member of the front of all recorded
models is lost if no model that was trained, for at most a twentieth more MACs, comes within its 95 % interval (binomial,
5,000 validation images).

The sampler's choice: ``sweeps.strategy.sampling.Proposer``, which learns from every snapshot and may only propose
recorded points, against a random order; both under the rule, compared at equal cost.

The constants were chosen on these paths with other orders than the ones reported. So the paths are not unseen, the
orders are.
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.front.anchors import USABLE
from analysis.front.pareto import dominated_volume, nondominated
from benchmarks.evidence.path_curves import TABLE, Curve, read_curves
from benchmarks.record import add_out, write
from sweeps.config.search import SearchConfig
from sweeps.config.space import Dimension, Space
from sweeps.strategy.paths.choice import Choice
from sweeps.strategy.sampling import Proposer

OBJECTIVES = {"val_accuracy": "max", "macs": "min"}
VAL_IMAGES = 5000
#: Events cut whole units, so that models of one level differ by this share of their MACs.
NEAR = 0.05
ORDERS, FIRST_SEED = 100, 1000


@dataclass
class Replay:
    """What one replay trained: ``depth`` = models per path, ``course`` = (cost so far, path, level) in their order."""

    depth: dict[str, int] = field(default_factory=dict)
    course: list[tuple[float, str, int]] = field(default_factory=list)
    paused: int = 0


@dataclass(frozen=True)
class World:
    """The recorded paths, and the scale on which models are compared."""

    curves: dict[str, Curve]
    worst: dict[str, float]
    best: dict[str, float]

    @classmethod
    def of(cls, curves: list[Curve], top: float, below: float) -> World:
        dense = max(curve.snapshots[0]["macs"] for curve in curves)
        return cls(
            {curve.name: curve for curve in curves},
            {"val_accuracy": top - below, "macs": dense},
            {"val_accuracy": top, "macs": 0.0},
        )

    def step_cost(self, name: str, level: int) -> float:
        taken = self.curves[name].snapshots
        return taken[level]["train_cost"] - (taken[level - 1]["train_cost"] if level else 0.0)

    def losses(self, trained: Iterator[tuple[str, int]]) -> np.ndarray:
        rows = [[self.curves[n].snapshots[k][name] for name in OBJECTIVES] for n, k in trained]
        worst, best = (np.array([side[name] for name in OBJECTIVES]) for side in (self.worst, self.best))
        return (np.array(rows).reshape(-1, 2) - best) / (worst - best)

    def hypervolume(self, replay: Replay, cost: float = math.inf) -> float:
        """Of the models that a replay had finished by that cost."""
        return dominated_volume(self.losses((name, k) for at, name, k in replay.course if at <= cost))


# --- replay -------------------------------------------------------------------------------------------------------------


def with_rule(
    world: World, order: Callable[[Replay], str | None], min_gain: float | None, workers: int
) -> Replay:
    """``order`` says which path is started next, None = there is none left."""
    choice = Choice(OBJECTIVES, min_gain)
    choice.scale(world.worst, world.best)
    replay, running, spent = Replay(), [], 0.0
    coming = order(replay)
    idle = workers
    clock = 0.0
    while True:
        while idle:
            verdict = choice.next(coming is not None)
            if verdict.action == "nothing":
                break
            name = verdict.trial_id
            if verdict.action == "start":
                name, coming = coming, order(replay)
            choice.started(name, world.curves[name].config)
            heapq.heappush(running, (clock + world.step_cost(name, replay.depth.get(name, 0)), name))
            idle -= 1
        if not running:
            return replay
        clock, name = heapq.heappop(running)
        level = replay.depth.get(name, 0)
        taken = world.curves[name].snapshots
        spent += world.step_cost(name, level)
        replay.depth[name] = level + 1
        replay.course.append((spent, name, level))
        choice.snapshot(name, level, int(taken[level]["epoch"]), taken[level], True, {})
        if level + 1 == len(taken):
            choice.ended(name)
            idle += 1
            continue
        verdict = choice.goes_on(name, coming is not None)
        if verdict.action == "go_on":
            heapq.heappush(running, (clock + world.step_cost(name, level + 1), name))
        else:
            choice.paused(name)
            replay.paused += 1
            idle += 1


def to_the_end(world: World, names: list[str], workers: int = 1) -> Replay:
    """First come, first served."""
    return _trained(world, {name: len(world.curves[name].snapshots) for name in names}, workers)


def by_lot(world: World, names: list[str], left_out: int, rng: random.Random) -> Replay:
    """As many cycles left out, always a path's last one that is left."""
    depth = {name: len(world.curves[name].snapshots) for name in names}
    for _ in range(left_out):
        name = rng.choice([name for name in names if depth[name] > 1] or [n for n in names if depth[n]])
        depth[name] -= 1
    return _trained(world, depth)


def _trained(world: World, depth: dict[str, int], workers: int = 1) -> Replay:
    replay, spent, clock = Replay(depth), 0.0, 0.0
    waiting = [name for name, models in depth.items() if models]
    running: list[tuple[float, str, int]] = []
    while waiting or running:
        while waiting and len(running) < workers:
            name = waiting.pop(0)
            heapq.heappush(running, (clock + world.step_cost(name, 0), name, 0))
        clock, name, level = heapq.heappop(running)
        spent += world.step_cost(name, level)
        replay.course.append((spent, name, level))
        if level + 1 < depth[name]:
            heapq.heappush(running, (clock + world.step_cost(name, level + 1), name, level + 1))
    return replay


class Given:
    """Paths in a given order."""

    def __init__(self, names: list[str]) -> None:
        self._left = list(names)

    def __call__(self, replay: Replay) -> str | None:
        return self._left.pop(0) if self._left else None


class Sampled:
    """Recorded paths in the order in which the sampler asks for them; it learns from every model."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._told = world, 0
        self._names = {_key(_point(curve)): name for name, curve in world.curves.items()}
        self._points = {name: _point(curve) for name, curve in world.curves.items()}
        dimensions = []
        for path in next(iter(self._points.values())):
            values = sorted({point[path] for point in self._points.values()}, key=str)
            dimensions.append(Dimension(path, choices=tuple(values)))
        search = SearchConfig(sampler="tpe", trials=len(world.curves))
        space = Space(dimensions=tuple(dimensions), base={})
        known = lambda point: _key(point) if _key(point) in self._names else None  # noqa: E731
        self._proposer = Proposer(space, search, len(world.curves), seed, known, paths=True)
        self._numbers: dict[str, int] = {}

    def __call__(self, replay: Replay) -> str | None:
        for _, name, level in replay.course[self._told :]:
            taken = self._world.curves[name].snapshots[level]
            values = tuple(taken[objective] for objective in OBJECTIVES)
            self._proposer.observe(self._numbers[name], values, {})
        self._told = len(replay.course)
        number = len(self._numbers)
        point = self._proposer.propose(number)
        if point is None:
            return None
        name = self._names[_key(point)]
        self._numbers[name] = number
        return name


def _point(curve: Curve) -> dict[str, Any]:
    settings = {**curve.point, "levels": tuple(curve.point["levels"])}
    return {name: settings[name] for name in ("start", "interval", "restart", "levels", "criterion")}


def _key(point: dict[str, Any]) -> str:
    return str([point[name] for name in ("start", "interval", "restart", "levels", "criterion")])


# --- what came of it ----------------------------------------------------------------------------------------------------


def saved(world: World, replay: Replay) -> float:
    """Share of the cost after the dense phases of all paths that was not spent."""
    total = sum(curve.cost - curve.dense_cost for curve in world.curves.values())
    spent = sum(world.step_cost(name, level) for _, name, level in replay.course if level)
    return 1 - spent / total


def members(world: World) -> list[tuple[str, int]]:
    """The front of all recorded models."""
    every = [(name, k) for name, curve in world.curves.items() for k in range(len(curve.snapshots))]
    return [one for one, best in zip(every, nondominated(world.losses(iter(every))), strict=True) if best]


def lost(world: World, replay: Replay) -> list[tuple[str, int, float]]:
    """Members of the full front that the replay has no match for, and by how many points the best one is behind."""
    have = [world.curves[name].snapshots[k] for _, name, k in replay.course]
    missing = []
    for name, k in members(world):
        member = world.curves[name].snapshots[k]
        share = member["val_accuracy"] / 100
        half = 196 * math.sqrt(share * (1 - share) / VAL_IMAGES)
        near = [one["val_accuracy"] for one in have if one["macs"] <= (1 + NEAR) * member["macs"]]
        behind = member["val_accuracy"] - max(near, default=0.0)
        if behind > half:
            missing.append((name, k, behind))
    return missing


def summary(values: list[float]) -> dict[str, float]:
    """Median, and the range of the middle 80 %."""
    low, high = np.quantile(values, (0.1, 0.9))
    return {
        "median": round(statistics.median(values), 4),
        "from": round(float(low), 4),
        "to": round(float(high), 4),
    }


def compare(world: World, min_gain: float | None, workers: int, seeds: range) -> dict[str, Any]:
    """The rule, lots, and first come first served over many orders."""
    total = sum(curve.cost for curve in world.curves.values())
    shares, losses, lots, paused, fronts, lot_fronts = [], [], [], [], [], []
    over_cost: dict[str, list[list[float]]] = {"rule": [], "first_come": []}
    at = [share * total for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)]
    full = world.hypervolume(to_the_end(world, list(world.curves)))
    for seed in seeds:
        rng = random.Random(seed)
        names = sorted(world.curves)
        rng.shuffle(names)
        replay = with_rule(world, Given(names), min_gain, workers)
        cycles = sum(len(curve.snapshots) for curve in world.curves.values()) - len(replay.course)
        lot = by_lot(world, names, cycles, rng)
        shares.append(saved(world, replay))
        losses.append(lost(world, replay))
        lots.append(lost(world, lot))
        paused.append(replay.paused)
        fronts.append(world.hypervolume(replay) / full)
        lot_fronts.append(world.hypervolume(lot) / full)
        for kind, one in (("rule", replay), ("first_come", to_the_end(world, names, workers))):
            over_cost[kind].append([world.hypervolume(one, cost) / full for cost in at])
    return {
        "saved": summary(shares),
        "lost": {
            "mean": statistics.mean(map(len, losses)),
            "worst": max(map(len, losses)),
            "orders_without": sum(not one for one in losses),
        },
        "lost_by_lot": {
            "mean": statistics.mean(map(len, lots)),
            "worst": max(map(len, lots)),
            "orders_without": sum(not one for one in lots),
        },
        "points_behind_at_worst": round(max((one[2] for many in losses for one in many), default=0.0), 2),
        "hypervolume_kept": summary(fronts),
        "hypervolume_kept_by_lot": summary(lot_fronts),
        "pauses": summary([float(number) for number in paused]),
        "orders": len(seeds),
        "share_of_hypervolume_over_share_of_cost": {
            kind: {
                f"{cost / total:.1f}": round(float(np.mean(column)), 4)
                for cost, column in zip(at, zip(*rows, strict=True), strict=True)
            }
            for kind, rows in over_cost.items()
        },
    }


def sampler(world: World, min_gain: float | None, seeds: range) -> dict[str, Any]:
    """The sampler's order against a random one under the rule: hypervolume at equal cost, as a share of the full one."""
    total = sum(curve.cost for curve in world.curves.values())
    full = world.hypervolume(to_the_end(world, list(world.curves)))
    at = [share * total for share in (0.2, 0.3, 0.4, 0.5)]
    rows: dict[str, list[list[float]]] = {"sampler": [], "random": []}
    for seed in seeds:
        names = sorted(world.curves)
        random.Random(seed).shuffle(names)
        for kind, order in (("sampler", Sampled(world, seed)), ("random", Given(names))):
            replay = with_rule(world, order, min_gain, 1)
            rows[kind].append([world.hypervolume(replay, cost) / full for cost in at])
    return {
        kind: {
            f"{cost / total:.1f}": {
                "median": round(statistics.median(column), 4),
                "mean": round(statistics.mean(column), 4),
            }
            for cost, column in zip(at, zip(*many, strict=True), strict=True)
        }
        for kind, many in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--seed", type=int, default=0, help="paths and baselines of this seed of the table")
    parser.add_argument("--orders", type=int, default=ORDERS)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--min-gain", type=float, nargs="+", default=[0.01])
    parser.add_argument(
        "--below", type=float, nargs="+", default=[USABLE], help="usable points below the top"
    )
    parser.add_argument(
        "--top", type=float, help="accuracy at the top of the scale; default: the best baseline's"
    )
    parser.add_argument("--no-sampler", action="store_true")
    add_out(parser)
    args = parser.parse_args()
    paths, baselines = ([c for c in kind if c.point["seed"] == args.seed] for kind in read_curves(args.table))
    top = args.top or max(curve.snapshots[-1]["val_accuracy"] for curve in baselines)
    seeds = range(args.first_seed, args.first_seed + args.orders)
    results: dict[str, Any] = {"paths": len(paths), "top": top}
    for below in args.below:
        world = World.of(paths, top, below)
        results["members_of_the_full_front"] = len(members(world))
        for min_gain in args.min_gain:
            here = {f"{n} workers": compare(world, min_gain, n, seeds) for n in (1, 2)}
            if not args.no_sampler:
                here["sampler"] = sampler(world, min_gain, seeds)
            results[f"min_gain {min_gain:g}, scale {below:g} points"] = here
    write(args.out, results)


if __name__ == "__main__":
    main()
