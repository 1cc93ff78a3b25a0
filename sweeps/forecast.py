"""What a sweep would cost, without running it: points, baselines, epochs, and which targets are likely to be missed."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass

import torch

from gcp_core.config import TrialConfig
from gcp_core.errors import InfeasibleTarget
from gcp_core.groups import Groups, find_groups
from gcp_core.schedule import event_epochs
from gcp_core.selection import select_channels
from gcp_core.setup import budget_for, build_setup, check_config
from sweeps.config import SweepConfig
from sweeps.folder import check_unchanged
from sweeps.preflight import check_space, check_storage, check_tracking
from sweeps.space import Dimension, Point

_SAMPLE = 64
_MAX_COUNTED = 20_000


@dataclass(frozen=True)
class Forecast:
    """Numbers of ``gcp-sweep plan``.

    Attributes:
        points: distinct points of the space, None = no end to them.
        trials: trials that will be run besides the baselines.
        baselines: unpruned runs; an upper bound where the space is continuous.
        epochs: epochs of all trials and baselines together (a mean per trial where ``train.epochs`` is searched).
        short_share: estimated share (0..1) of the space whose trials end short of their target, from ``sampled``
            points whose events were played through with random scores.
        impossible_share: share of the sampled points that are refused even when the costliest units go first.
        mean_events: events until the target or the end of the schedule, mean of the sampled points.
    """

    name: str
    folder: str
    points: int | None
    trials: int
    baselines: int
    epochs: int
    sampled: int
    short_share: float
    impossible_share: float
    mean_events: float

    def text(self) -> str:
        """For people."""
        points = "no end (a range without a step)" if self.points is None else f"{self.points}"
        return "\n".join(
            [
                f"{self.name} -> {self.folder}",
                f"  distinct points   {points}",
                f"  trials            {self.trials}",
                f"  baselines         {self.baselines}",
                f"  epochs in all     {self.epochs}",
                f"  short of target   about {100 * self.short_share:.0f} % of the space"
                f" ({self.sampled} points played through with random scores)",
                f"  impossible        {100 * self.impossible_share:.0f} % (refused when their turn comes)",
                f"  events per trial  {self.mean_events:.1f}",
            ]
        )


@dataclass(frozen=True)
class _Played:
    impossible: bool
    short: bool
    events: int


def forecast(config: SweepConfig) -> Forecast:
    """Check everything ``run`` would check before it starts, then estimate; writes nothing."""
    check_unchanged(config)
    check_storage(config.folder)
    check_tracking(config.tracking.uri)
    check_space(config, check_config)
    points = sample_points(config, _SAMPLE)
    trials = [config.space.resolve(point) for point in points]
    groups_of = _GroupCache()
    played = [_play(trial, groups_of) for trial in trials]
    epochs = sum(trial.train.epochs for trial in trials) / len(trials)
    baselines = num_baselines(config)
    number = config.num_trials()
    return Forecast(
        name=config.name,
        folder=config.folder,
        points=config.space.size(),
        trials=number,
        baselines=baselines,
        epochs=round(epochs * (number + baselines)),
        sampled=len(points),
        short_share=sum(one.short for one in played) / len(played),
        impossible_share=sum(one.impossible for one in played) / len(played),
        mean_events=sum(one.events for one in played) / len(played),
    )


def num_baselines(config: SweepConfig) -> int:
    """Distinct combinations of everything but the pruning, at most one per trial."""
    outside = [d for d in config.space.dimensions if not d.path.startswith("prune.")]
    sizes = [dimension.size() for dimension in outside]
    if None in sizes:
        return config.num_trials()
    values = itertools.islice(itertools.product(*(d.values() for d in outside)), _MAX_COUNTED)
    inside = {d.path: d.extremes()[0] for d in config.space.dimensions if d.path.startswith("prune.")}
    names = [dimension.path for dimension in outside]
    keys = {
        config.space.resolve({**inside, **dict(zip(names, v, strict=True))}).baseline().key() for v in values
    }
    return min(len(keys), config.num_trials())


def sample_points(config: SweepConfig, number: int, seed: int = 0) -> list[Point]:
    """All points of a small space, else ``number`` random ones."""
    size = config.space.size()
    if size is not None and size <= number:
        return list(config.space.grid())
    rng = random.Random(seed)
    return [{d.path: _draw(d, rng) for d in config.space.dimensions} for _ in range(number)]


def _draw(dimension: Dimension, rng: random.Random) -> object:
    if dimension.size() is not None:
        return rng.choice(dimension.values())
    if dimension.log:
        return dimension.canonical(dimension.low * (dimension.high / dimension.low) ** rng.random())
    return dimension.canonical(rng.uniform(dimension.low, dimension.high))


class _GroupCache:
    """Tracing a model is the expensive part; most points share it."""

    def __init__(self) -> None:
        self._known: dict[str, Groups] = {}

    def __call__(self, trial: TrialConfig) -> Groups:
        prune = trial.prune
        described = trial.to_dict()
        key = json.dumps(
            [described["data"], described["model"], prune.residual, prune.exclude], sort_keys=True
        )
        if key not in self._known:
            setup = build_setup(trial.baseline())
            model = setup.new_model()
            groups = find_groups(model, setup.example, residual=prune.residual, exclude=prune.exclude)
            self._known[key] = groups
        return self._known[key]


def _play(trial: TrialConfig, groups_of: _GroupCache) -> _Played:
    """Let the trial's events happen with random scores: what a criterion without preference would remove."""
    prune = trial.prune
    groups = groups_of(trial)
    macs, params = groups.cost()
    limit = (1 - prune.target) * (macs if prune.of == "macs" else params)
    try:
        check_config(trial)
    except InfeasibleTarget:
        return _Played(True, True, 0)
    generator = torch.Generator().manual_seed(0)
    events = 0
    for _ in event_epochs(prune, trial.train.epochs):
        scores = {
            layer: torch.rand(number, generator=generator, dtype=torch.float64)
            for layer, number in groups.scored_layers().items()
        }
        groups = groups.after(select_channels(scores, groups, budget_for(prune, limit)))
        events += 1
        left = groups.cost()[0 if prune.of == "macs" else 1]
        if left <= limit:
            return _Played(False, False, events)
    return _Played(False, True, events)
